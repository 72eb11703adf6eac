"""Rotary positions as matrices: how the score of a query and a key depends on their distance.

With `q` and `k` before their positions go in, the score of a query `Δ` positions after its key is
`q R(Δ) kᵀ`. `rotations` reads `R` off the model's own rotation, and checks it against the queries
that the model computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.models.hooks import Model, device_of, untyped
from induction_lens.models.layerwise import LayerByLayer
from induction_lens.models.passes import tolerance
from induction_lens.models.properties import ordinary_ids, query_weights, residual_scale, shape
from induction_lens.models.roads import run

_NO_ROTATION = ("standard", "shortformer", "none", "alibi")


def rotations(
    model: Model, distances: Sequence[int]
) -> Float[Tensor, "distance d_head d_head"] | None:
    """`R(Δ)` at some distances, for rows from the left; None where queries are not rotated.

    Raises:
        ValueError: If they are rotated in a way that cannot be read off the model, or not in every
            layer alike.
    """
    kind = getattr(model.cfg, "positional_embedding_type", None)
    if kind in _NO_ROTATION or set(distances) == {0}:  # equal positions are rotated alike
        return None
    n_tokens = max(*distances, 7) + 1
    ids = ordinary_ids(model)
    chosen = torch.linspace(0, len(ids) - 1, n_tokens).long()
    tokens = ids[chosen][None].to(device_of(model))
    with run(model, tokens) as road:
        if not isinstance(road, LayerByLayer):
            raise _unreadable(f"it is not run layer by layer: {road.why_whole}")
        residual = road.enter(tokens)
        found = _matrices(road, range(n_tokens))
        _check(road, residual, found)
    return found[list(distances)]


def _matrices(
    road: LayerByLayer, positions: Sequence[int]
) -> Float[Tensor, "position d_head d_head"]:
    """What the model's rotation does to each coordinate of a head, at each position."""
    d_head = shape(road.model).d_head
    device = device_of(road.model)
    basis = torch.eye(d_head, device=device, dtype=torch.float32)
    each = basis[None, None].expand(1, len(positions), -1, -1)
    attention = untyped(road.model).blocks[0].attn
    located = road._located(each)
    own: Any = getattr(attention, "apply_rotary", None)
    if own is not None and torch.equal(located, each):  # TransformerLens's own
        located = own(each)
    return located[0].float()


def _check(
    road: LayerByLayer,
    residual: Float[Tensor, "1 pos d_model"],
    found: Float[Tensor, "pos d_head d_head"],
) -> None:
    """Check that every layer's queries are those of its weights, rotated so."""
    model = road.model
    bound = 10 * tolerance(next(untyped(model).parameters()).dtype)
    for layer in road.layers_from(0, residual):
        x = layer.entering[0].float()
        plain = torch.einsum(
            "pd,hde->phe",
            x / residual_scale(model, x),
            query_weights(model, layer.index).float(),
        )
        rotated = layer.inputs.query[0].float()
        back = torch.linalg.solve(found.mT, rotated.mT).mT  # rotated = plain @ found
        bias = back - plain
        size = max(1.0, float(rotated.abs().max()))
        if not torch.allclose(bias, bias[:1].expand_as(bias), atol=bound * size):
            raise _unreadable(f"queries of layer {layer.index} are not rotated so")


def _unreadable(why: str) -> ValueError:
    return ValueError(
        "expected rotary positions that can be read off the model, got a model where they cannot: "
        f"{why}; pass distances=[0], where they cancel"
    )
