"""A tiny Hugging Face model, trained by a plain loop on text that repeats, and kept at many steps.

The loop is torch and transformers alone; what it hands over at a step is the model as it is then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from tests.hf_folders import tiny_tokenizer

CONFIG = transformers.GPTNeoXConfig(
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_size=24,
    intermediate_size=32,
    vocab_size=311,
    max_position_embeddings=67,
)
BATCH, LENGTH = 4, 33
TOKENS_PER_STEP = BATCH * LENGTH


def text(n: int, seed: int) -> torch.Tensor:
    """Sequences that repeat after 8 tokens, id 0 first."""
    generator = torch.Generator().manual_seed(seed)
    copies = torch.randint(1, 60, (n, 8), generator=generator).repeat(1, 4)
    return torch.cat([torch.zeros(n, 1, dtype=torch.long), copies], dim=1)


def training(steps: tuple[int, ...], *, seed: int = 0, config: Any = CONFIG) -> Iterator[Any]:
    """(step, Hugging Face model) at each of these steps; the model goes on being trained."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, model
        tokens = text(BATCH, 1000 * seed + step)
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def write_folders(folder: Path, steps: tuple[int, ...], **options: Any) -> Path:
    """The model at each step as the folder `step<n>`, as `save_pretrained` writes it."""
    shards = options.pop("max_shard_size", "5GB")
    for step, model in training(steps, **options):
        model.save_pretrained(folder / f"step{step}", max_shard_size=shards)
        tiny_tokenizer().save_pretrained(folder / f"step{step}")
    return folder


def hooked(model: Any) -> Any:
    """A copy of a Hugging Face model with hooks, wrapped here and not by `load`."""
    taken = copy.deepcopy(model).eval()
    # the adapter is chosen by this
    taken.config.architectures = [type(model).__name__]
    bridge = TransformerBridge.boot_transformers(
        "tests/trained", hf_model=taken, tokenizer=_named_tokenizer(), device="cpu"
    )
    # processed as `load` does: what is read from weights alone depends on a centred unembedding
    bridge.enable_compatibility_mode(disable_warnings=True, fold_value_biases=False)
    bridge.cfg.n_ctx = model.config.max_position_embeddings
    return bridge


def _named_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer,
        bos_token="<s>",
        eos_token="<s>",
        pad_token="<s>",
        name_or_path="none",
        add_bos_token=True,
    )
