"""Queries, keys and values from the residual stream, by products with a layer's weights.

Where nothing but the token is in the residual stream, as on entering the first layer of a model
whose positions are in its attention, equal tokens have equal queries, keys and values before
their positions go in. `Repeats` finds that out, and each distinct token is projected once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weights = list[tuple[Float[Tensor, "d_model heads_d_head"], Float[Tensor, " heads_d_head"]]]


@dataclass(frozen=True)
class AttentionInputs:
    """What a layer's attention is computed from; positions are already in queries and keys."""

    query: Float[Tensor, "batch read_pos head d_head"]
    """Queries, of all positions or of those that are read."""
    key: Float[Tensor, "batch pos kv_head d_head"]
    """Keys."""
    value: Float[Tensor, "batch pos kv_head d_head"] | None
    """Values; None if they were not asked for."""

    def for_each_head(self) -> AttentionInputs:
        """The same, with keys and values for each query head: consecutive ones share a key head."""
        groups = self.query.shape[2] // self.key.shape[2]
        if groups == 1:
            return self
        value = None if self.value is None else self.value.repeat_interleave(groups, dim=2)
        return AttentionInputs(self.query, self.key.repeat_interleave(groups, dim=2), value)

    def of_rows(self, rows: slice) -> AttentionInputs:
        """Those of some sequences."""
        value = None if self.value is None else self.value[rows]
        return AttentionInputs(self.query[rows], self.key[rows], value)

    def of_heads(self, heads: Sequence[int]) -> AttentionInputs:
        """The inputs of some query heads, with keys and values of their own."""
        each, chosen = self.for_each_head(), list(heads)
        value = None if each.value is None else each.value[:, :, chosen]
        return AttentionInputs(each.query[:, :, chosen], each.key[:, :, chosen], value)


def projections(attention: Any) -> Weights:
    """The weights and biases of queries, keys and values; zeros where a bridge has no bias."""
    made: Weights = []
    for name in "QKV":
        weight = getattr(attention, f"W_{name}").detach().transpose(0, 1).flatten(1)
        bias = getattr(attention, f"b_{name}")
        none = weight.new_zeros(weight.shape[1])
        made.append((weight, none if bias is None else bias.detach().flatten()))
    return made


@dataclass(frozen=True)
class Repeats:
    """A residual stream as its distinct rows, and where each of them stands."""

    rows: Float[Tensor, "1 distinct d_model"]
    """The rows that differ."""
    place: Int[Tensor, "batch pos"]
    """For every position, its row."""

    def spread(
        self, x: Float[Tensor, "1 distinct width"], positions: Sequence[int] | None
    ) -> Float[Tensor, "batch read_pos width"]:
        """What was computed of the rows, at all positions or at some."""
        place = self.place if positions is None else self.place[:, positions]
        return x[0].index_select(0, place.flatten()).unflatten(0, place.shape)


def repeats(
    residual: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch pos"]
) -> Repeats | None:
    """The residual stream by distinct tokens; None where it depends on more than the token, or
    where less than half of the work would be saved."""
    distinct, place = tokens.unique(return_inverse=True)
    if 2 * len(distinct) > tokens.numel():
        return None
    flat, place = residual.flatten(0, 1), place.flatten()
    any_of_them = place.new_zeros(len(distinct))
    any_of_them[place] = torch.arange(len(place), device=place.device)
    rows = flat[any_of_them]
    if not torch.equal(rows.index_select(0, place), flat):
        return None
    return Repeats(rows[None], place.view_as(tokens))


def projected(
    source: Float[Tensor, "rows row_pos d_model"],
    weights: tuple[Tensor, Tensor],
    *,
    added: Float[Tensor, "1 pos d_model"] | None,
    positions: Sequence[int] | None,
    repeated: Repeats | None,
) -> Float[Tensor, "batch read_pos heads_d_head"]:
    """What one of a layer's projections gives.

    Args:
        source: The normed residual stream; its distinct rows where `repeated` is given.
        weights: Weight and bias of the projection.
        added: Positions that are added to `source`.
        positions: Where it is read; None: everywhere.
        repeated: Where the distinct rows stand.
    """
    weight, bias = weights
    if added is not None and positions is not None:
        added = added[:, positions]
    if repeated is not None:
        made = repeated.spread(_affine(source, weight, bias), positions)
        return made if added is None else made.add_(added @ weight)
    read = source if positions is None else source[:, positions]
    return _affine(read if added is None else read + added, weight, bias)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
