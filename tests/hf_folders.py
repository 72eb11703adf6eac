"""Tiny Hugging Face models in local folders: what users have who download by hand."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from induction_lens.models import load_pretrained

D_VOCAB = 311
CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(
        n_layer=2, n_head=3, n_embd=33, vocab_size=D_VOCAB, n_positions=67
    ),
    "llama": transformers.LlamaConfig(  # grouped-query: three query heads share a key head
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        hidden_size=48,
        intermediate_size=50,
        vocab_size=D_VOCAB,
        max_position_embeddings=67,
    ),
    "neox": transformers.GPTNeoXConfig(
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_size=48,
        intermediate_size=50,
        vocab_size=D_VOCAB,
        max_position_embeddings=67,
    ),
}


def write_folder(name: str, folder: Path, *, tokenizer: bool) -> Path:
    """A randomly initialised model of this architecture, as `save_pretrained` writes it."""
    return write_model(random_model(CONFIGS[name]), folder, tokenizer=tokenizer)


def random_model(config: transformers.PretrainedConfig) -> Any:
    """A model all of whose weights are random: zero biases and norms of one would hide faults."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def write_model(model: Any, folder: Path, *, tokenizer: bool = False) -> Path:
    """Save a Hugging Face model, with or without a tokenizer beside it."""
    model.save_pretrained(folder)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> Any:
    """Byte-level BPE, with `<s>` as its special token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["def function(argument): return argument + 1\n"], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )


@functools.cache
def hugging_face_model(name: str) -> Any:
    """The model of `write_folder`, loaded; shared between tests, which must leave it as it is."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(name, Path(folder), tokenizer=True)
        return load_pretrained(folder, device="cpu")


def loaded_from_config(config: Any, *, seed: int = 0) -> Any:
    """A model of this configuration with random weights, biases and norms, written and loaded."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            else:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_pretrained(folder, device="cpu")
