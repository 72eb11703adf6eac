"""The models that are measured, with random weights, and the tokens that they read.

`HookedTransformer` where TransformerLens has it. With TransformerLens 4, models with MLPs are
bridges of Hugging Face models from a local folder, and the attention-only ones native bridges.
"""

from __future__ import annotations

import tempfile
from typing import Any, Literal

import torch
import transformers
from torch import Tensor

import induction_lens as il
from induction_lens.models import HAS_HOOKED_TRANSFORMER

ShapeName = Literal["gpt2-small", "attn-only-2l", "toy-2l", "llama-gqa-6l"]


def build(name: ShapeName | str, *, quick: bool) -> Any:
    """A model of this shape on the CPU, warmed up; with `quick` a small one of the same kind."""
    torch.manual_seed(0)
    makers = {
        "gpt2-small": _gpt2,
        "attn-only-2l": _attn_only,
        "toy-2l": _toy,
        "llama-gqa-6l": _llama,
    }
    model = makers[name](quick)
    with torch.no_grad():
        model(tokens_for(model, 1, 8))  # what is done once, on the first pass, is nobody's cost
    return model


def tokens_for(model: Any, n_sequences: int, length: int) -> Tensor:
    """Random tokens, repeated after a fifth of the sequence, with 0 as BOS: [batch pos]."""
    generator = torch.Generator().manual_seed(0)
    copy = torch.randint(1, model.cfg.d_vocab, (n_sequences, length // 5 + 1), generator=generator)
    bos = torch.zeros(n_sequences, 1, dtype=torch.long)
    return torch.cat([bos, copy.repeat(1, 5)[:, : length - 1]], dim=1)


def _toy(quick: bool) -> Any:
    config = il.toys.ToyConfig(d_vocab=211, d_model=64) if quick else il.toys.ToyConfig()
    return il.toys.build_toy(config, device="cpu")


def _attn_only(quick: bool) -> Any:
    # the published model of this name has shortformer positions, which bridges lack
    positions = "shortformer" if HAS_HOOKED_TRANSFORMER else "standard"
    d_model, d_vocab = (128, 3001) if quick else (512, 48262)
    config = il.toys.ToyConfig(
        d_model=d_model, n_heads=8, d_vocab=d_vocab, n_ctx=1024, positions=positions
    )
    return il.toys.build_toy(config, device="cpu")


def _gpt2(quick: bool) -> Any:
    layers, heads, d_model, d_vocab = (2, 3, 96, 3001) if quick else (12, 12, 768, 50257)
    if not HAS_HOOKED_TRANSFORMER:
        return _from_folder(
            transformers.GPT2Config(
                n_layer=layers,
                n_head=heads,
                n_embd=d_model,
                vocab_size=d_vocab,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return _hooked(
        n_layers=layers,
        n_heads=heads,
        d_model=d_model,
        d_head=d_model // heads,
        d_mlp=4 * d_model,
        d_vocab=d_vocab,
        n_ctx=1024,
        act_fn="gelu_new",
        normalization_type="LNPre",
        positional_embedding_type="standard",
    )


def _llama(quick: bool) -> Any:
    layers, heads, d_model, d_mlp, d_vocab = (
        (2, 4, 64, 172, 997) if quick else (6, 8, 512, 1376, 32000)
    )
    if not HAS_HOOKED_TRANSFORMER:
        return _from_folder(
            transformers.LlamaConfig(
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=2,
                hidden_size=d_model,
                intermediate_size=d_mlp,
                vocab_size=d_vocab,
                max_position_embeddings=1024,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return _hooked(
        n_layers=layers,
        n_heads=heads,
        n_key_value_heads=2,
        d_model=d_model,
        d_head=d_model // heads,
        d_mlp=d_mlp,
        gated_mlp=True,
        d_vocab=d_vocab,
        n_ctx=1024,
        act_fn="silu",
        normalization_type="RMSPre",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=d_model // heads,
        rotary_adjacent_pairs=False,
    )


def _hooked(*, d_model: int, **shape: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    # spread so that heads matter: at the usual 0.02 a knock-out changes hardly anything
    spread = 0.8 / d_model**0.5
    config = HookedTransformerConfig(
        d_model=d_model, **shape, initializer_range=spread, device="cpu", seed=0
    )
    return HookedTransformer(config)


def _from_folder(config: transformers.PretrainedConfig) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return il.load(folder, device="cpu")
