"""The weights of tiny Hugging Face models, read from their state dictionaries by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.hf_folders import CONFIGS, random_model

CENTRES = {"gpt2": True, "llama": False, "neox": True}


def centred(x: Tensor, dim: int) -> Tensor:
    """Without its mean along an axis."""
    return x - x.mean(dim=dim, keepdim=True)


def plain_model(name: str) -> tuple[dict[str, Tensor], Any]:
    """The state dictionary of `hf_folders`'s model, and its configuration."""
    model = random_model(CONFIGS[name])
    return {key: value.detach().double() for key, value in model.state_dict().items()}, model


def plain_heads(name: str) -> list[list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """For each layer and head: `W_Q`, `W_K`, `W_V` [d_model d_head] and `W_O` [d_head d_model].

    The norm's weight multiplies the rows of what reads; where norms centre, what reads and what is
    written are centred.
    """
    state, _ = plain_model(name)
    read = {"gpt2": _gpt2, "llama": _llama, "neox": _neox}[name]
    layers = []
    for layer in range(2):
        heads = []
        norm, found = read(state, layer)
        for W_Q, W_K, W_V, W_O in found:
            reading = [norm[:, None] * W for W in (W_Q, W_K, W_V)]
            if CENTRES[name]:
                reading = [centred(W, 0) for W in reading]
            heads.append((*reading, centred(W_O, 1) if CENTRES[name] else W_O))
        layers.append(heads)
    return layers


def _gpt2(state: dict[str, Tensor], layer: int):
    at = f"transformer.h.{layer}"
    joint, output = state[f"{at}.attn.c_attn.weight"], state[f"{at}.attn.c_proj.weight"]
    heads = []
    for head in range(3):
        columns = [slice(33 * part + 11 * head, 33 * part + 11 * head + 11) for part in range(3)]
        heads.append((*(joint[:, c] for c in columns), output[11 * head : 11 * head + 11]))
    return state[f"{at}.ln_1.weight"], heads


def _llama(state: dict[str, Tensor], layer: int):
    at = f"model.layers.{layer}"
    Q, K, V, W = (state[f"{at}.self_attn.{name}_proj.weight"] for name in "qkvo")
    heads = []
    for head in range(6):
        own, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 3), 8 * (head // 3) + 8)
        heads.append((Q[own].T, K[shared].T, V[shared].T, W[:, own].T))
    return state[f"{at}.input_layernorm.weight"], heads


def _neox(state: dict[str, Tensor], layer: int):
    at = f"gpt_neox.layers.{layer}"
    joint = state[f"{at}.attention.query_key_value.weight"]
    output = state[f"{at}.attention.dense.weight"]
    heads = []
    for head in range(3):
        rows = [slice(48 * head + 16 * part, 48 * head + 16 * part + 16) for part in range(3)]
        heads.append((*(joint[r].T for r in rows), output[:, 16 * head : 16 * head + 16].T))
    return state[f"{at}.input_layernorm.weight"], heads


def random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A rotation or reflection drawn from all of them alike."""
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(drawn)
    return Q * R.diagonal().sign()
