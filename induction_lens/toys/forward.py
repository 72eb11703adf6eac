"""The forward pass of a toy model without hooks, with fused attention: what training runs.

The same function of the weights as the model's own forward pass, both classes; and the same with
something left out, for ablations that last for a part of training (`clamp`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.toys.canon import convolved
from induction_lens.toys.model import ToyConfig, smear


@dataclass(frozen=True)
class Cut:
    """What a forward pass of a toy model leaves out."""

    heads: tuple[Head, ...] = ()
    """Heads whose output `z` is zero."""
    k_composition: bool = False
    """Whether layer 1's keys are computed without what layer 0's attention wrote, its output bias
    included, to the residual stream; queries and values are computed with it."""


def toy_logits(
    weights: dict[str, Tensor],
    config: ToyConfig,
    tokens: Int[Tensor, "batch pos"],
    *,
    cut: Cut = Cut(),
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a toy model, computed only from its weights, without hooks.

    The same function of the weights as the model's own forward pass (logits and gradients agree
    within 1e-5 in float32), with fused attention: no pattern is ever in memory. Gradients go to
    the model's parameters when `weights` is `toy_weights(model)`.

    Args:
        weights: `toy_weights(model)`.
        config: The model's configuration.
        tokens: Token ids.
        cut: What to leave out.
    """
    residual = F.embedding(tokens, weights["embed.W_E"])
    n_pos, rotation = tokens.shape[1], None
    added = weights["pos_embed.W_pos"][:n_pos] if config.positions == "shortformer" else None
    if config.positions == "standard":
        residual = residual + weights["pos_embed.W_pos"][:n_pos]
    if config.positions == "rotary":
        rotation = _rotation(n_pos, config.head_width, tokens.device)
    written = torch.zeros_like(residual)
    for layer in range(config.n_layers):
        block = _block(weights, layer)
        if "canon" in block:
            residual, written = (_mixed(block, part) for part in (residual, written))
        keyed = residual - written if cut.k_composition and layer == 1 else None
        silent = [head.head for head in cut.heads if head.layer == layer]
        written = _attention(
            block, residual, keyed=keyed, added=added, rotation=rotation, silent=silent
        )
        residual = residual + written
        if not config.attn_only:
            hidden = _normalise(residual) @ block["mlp.W_in"] + block["mlp.b_in"]
            hidden = F.gelu(hidden, approximate="tanh")
            residual = residual + hidden @ block["mlp.W_out"] + block["mlp.b_out"]
    return _normalise(residual) @ weights["unembed.W_U"]


def keys_of(
    weights: dict[str, Tensor],
    config: ToyConfig,
    residual: Float[Tensor, "batch pos d_model"],
    *,
    layer: int,
) -> Float[Tensor, "batch pos head d_head"]:
    """Keys of a layer, smeared or mixed but not yet rotated, computed from a residual stream, which
    went through the layer's canon layer, if that is where it has one."""
    n_pos = residual.shape[1]
    added = weights["pos_embed.W_pos"][:n_pos] if config.positions == "shortformer" else None
    return _keys(_block(weights, layer), _located(residual, added))


def mixed_residual(
    weights: dict[str, Tensor], residual: Float[Tensor, "batch pos d_model"], *, layer: int
) -> Float[Tensor, "batch pos d_model"]:
    """What a layer's canon layer makes of a residual stream; the same where there is none."""
    return _mixed(_block(weights, layer), residual)


def _mixed(block: dict[str, Tensor], residual: Tensor) -> Tensor:
    return convolved(residual, block["canon"]) if "canon" in block else residual


def _block(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"blocks.{layer}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _normalise(residual: Tensor) -> Tensor:
    return F.layer_norm(residual, residual.shape[-1:], eps=1e-5)


def _located(residual: Tensor, added: Tensor | None) -> Tensor:
    """What queries and keys read: shortformer's positions reach them, but never the values."""
    normal = _normalise(residual)
    return normal if added is None else normal + added


def _attention(
    block: dict[str, Tensor],
    residual: Tensor,
    *,
    keyed: Tensor | None,
    added: Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
    silent: list[int],
) -> Tensor:
    """The output [batch pos d_model], keys reading `keyed` if given, `silent` heads being zero."""
    located = _located(residual, added)
    normal = located if added is None else _normalise(residual)
    query = _project(located, block["attn.W_Q"], block["attn.b_Q"])
    key = _keys(block, located if keyed is None else _located(keyed, added))
    value = _project(normal, block["attn.W_V"], block["attn.b_V"])
    if rotation is not None:
        query, key = _rotate(query, rotation), _rotate(key, rotation)
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
    )
    if silent:
        mixed = mixed.index_fill(1, torch.tensor(silent, device=mixed.device), 0.0)
    flat = mixed.transpose(1, 2).flatten(2)
    return flat @ block["attn.W_O"].flatten(0, 1) + block["attn.b_O"]


def _keys(block: dict[str, Tensor], located: Tensor) -> Tensor:
    """Keys [batch pos head d_head] before any rotation."""
    key = _project(located, block["attn.W_K"], block["attn.b_K"])
    if "attn.canon" in block:
        return convolved(key, block["attn.canon"])
    return smear(key, block["attn.smear"]) if "attn.smear" in block else key


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[batch pos d_model] times [head d_model d_head], to [batch pos head d_head]."""
    flat = weight.transpose(0, 1).flatten(1)
    return (x @ flat + bias.flatten()).unflatten(-1, bias.shape)


def _rotation(n_pos: int, d_head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [pos 1 d_head] of the rotary angles, base 10000."""
    rates = 1.0 / 10000 ** (torch.arange(0, d_head, 2, device=device).float() / d_head)
    angles = torch.outer(torch.arange(n_pos, device=device).float(), rates)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each adjacent pair of a head's coordinates by its position's angle."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin
