"""Knock-outs on a model that is taken apart layer by layer (`models.streaming`).

1. The clean pass keeps, for every layer, the heads' outputs `z` and the residual stream around
   attention; its last layer is computed only at the positions that are read.
2. A knock-out adds the change of the chosen heads' outputs, through `W_O`, to the residual stream
   after the attention of its first layer, and goes on from there.
3. Knock-outs that start at the same layer and are read at the same positions go through the rest
   together, as many at a time as the memory budget allows (`positions_for`).

Positions are those of the logits here, one before the token that is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.knockout import Knockout
from induction_lens.models import AttentionInputs, Stream, unembedded_losses


@dataclass(frozen=True)
class CleanPass:
    """One batch through the whole model, and what knock-outs start from."""

    stream: Stream
    """The model."""
    tokens: Int[Tensor, "batch pos"]
    """The batch, whole."""
    rows: slice
    """Which rows of the whole set it is."""
    read: list[int]
    """Positions whose logits are read by anybody, in order."""
    n_pos: int
    """Positions that are run: up to the last that is read."""
    inputs: dict[int, AttentionInputs] = field(default_factory=dict)
    """By layer, where patterns are frozen: what its attention is computed from."""
    outputs: dict[int, Float[Tensor, "batch _ head d_head"]] = field(default_factory=dict)
    """By layer: `z`; of the last layer at `read` only."""
    before: dict[int, Float[Tensor, "batch _ d_model"]] = field(default_factory=dict)
    """By layer: the residual stream before its attention; of the last layer at `read` only."""
    middle: dict[int, Float[Tensor, "batch _ d_model"]] = field(default_factory=dict)
    """By layer: the residual stream after its attention; of the last layer at `read` only."""

    @property
    def last(self) -> int:
        """The last layer."""
        return self.stream.n_layers - 1

    def at(self, layer: int, read: list[int]) -> list[int] | None:
        """Where a layer is computed when these positions are read; None: everywhere."""
        return read if layer == self.last and len(read) < self.n_pos else None

    def losses(
        self, residual: Float[Tensor, "stacked _ d_model"], read: list[int]
    ) -> Float[Tensor, "stacked read_pos"]:
        """Losses from the residual stream that leaves the last layer, in nats."""
        predicted = self.tokens[:, [position + 1 for position in read]]
        predicted = predicted.repeat(len(residual) // len(predicted), 1)
        final = self.stream.final_norm(residual)
        return unembedded_losses(self.stream.unembed, final, predicted)


def clean_pass(
    stream: Stream,
    tokens: Int[Tensor, "batch pos"],
    rows: slice,
    read: list[int],
    *,
    known: Mapping[int, Float[Tensor, "batch pos head d_head"]],
    freezes: bool,
) -> tuple[CleanPass, Float[Tensor, "batch read_pos"]]:
    """Run a batch; what knock-outs need of it, and its losses in nats.

    Args:
        stream: the model.
        tokens: the batch, whole.
        rows: which rows of the whole set it is.
        read: positions whose logits are read, in order.
        known: by layer, the outputs `z` of the batch, where they need not be computed.
        freezes: keep what attention is computed from.
    """
    clean = CleanPass(stream, tokens, rows, read, n_pos=read[-1] + 1)
    residual = stream.enter(tokens[:, : clean.n_pos])
    for layer in range(stream.n_layers):
        at = clean.at(layer, read)
        if freezes or layer not in known:
            inputs = stream.attention_inputs(layer, residual)
            z = stream.attend(layer, inputs, at)
            if freezes:
                clean.inputs[layer] = inputs
        else:
            z = known[layer][:, : clean.n_pos] if at is None else known[layer][:, at]
        before = residual if at is None else residual[:, at]
        middle = before + stream.attention_out(layer, z)
        residual = stream.after_attention(layer, before, middle)
        clean.outputs[layer], clean.before[layer], clean.middle[layer] = z, before, middle
    return clean, clean.losses(residual, read)


def knockout_passes(
    clean: CleanPass, knockouts: Sequence[Knockout], wanted: Sequence[list[int]], n_positions: int
) -> Iterator[tuple[list[int], list[int], Float[Tensor, "knockout batch read_pos"]]]:
    """Losses of knock-outs, some at a time.

    Args:
        clean: the clean pass over the same batch.
        knockouts: the knock-outs.
        wanted: for each, the positions of the logits that are read.
        n_positions: how many positions may go through a layer together.

    Yields:
        The knock-outs' indices, the positions, and their losses in nats.
    """
    groups: dict[tuple[int, bool, tuple[int, ...]], list[int]] = {}
    for index, (knockout, read) in enumerate(zip(knockouts, wanted, strict=True)):
        key = (knockout.first_layer, knockout.freezes, tuple(read))
        groups.setdefault(key, []).append(index)
    n_sequences = len(clean.tokens)
    for (first, _, read), members in groups.items():
        n_run = len(read) if first == clean.last else clean.n_pos
        stack = max(1, n_positions // (n_run * n_sequences)) if clean.stream.stacks else 1
        for start in range(0, len(members), stack):
            some = members[start : start + stack]
            losses = _losses(clean, [knockouts[index] for index in some], list(read))
            yield some, list(read), losses


def _losses(clean: CleanPass, knockouts: list[Knockout], read: list[int]) -> Tensor:
    """Losses [knockout batch read_pos] of knock-outs that start at the same layer."""
    residual = _from_first_layer(clean, knockouts, read)
    for layer in range(knockouts[0].first_layer + 1, clean.stream.n_layers):
        residual = _through(clean, layer, residual, knockouts, read)
    return clean.losses(residual, read).unflatten(0, (len(knockouts), -1))


def _from_first_layer(clean: CleanPass, knockouts: list[Knockout], read: list[int]) -> Tensor:
    """The residual stream [knockout * batch, …] that leaves the first layer that is written to."""
    layer = knockouts[0].first_layer
    z, before, middle = clean.outputs[layer], clean.before[layer], clean.middle[layer]
    positions = range(clean.n_pos)
    if layer == clean.last:  # what was kept is at clean.read
        positions = read
    if layer == clean.last and read != clean.read:
        place = {position: index for index, position in enumerate(clean.read)}
        kept = [place[position] for position in read]
        z, before, middle = z[:, kept], before[:, kept], middle[:, kept]
    changed = []
    for knockout in knockouts:
        heads = knockout.heads.get(layer, [])
        old = z[:, :, heads]
        new = knockout.replaced(layer, old, clean.rows, positions)
        changed.append(middle + clean.stream.change(layer, new - old, heads))
    before = before.repeat(len(knockouts), 1, 1)
    return clean.stream.after_attention(layer, before, torch.cat(changed))


def _through(
    clean: CleanPass, layer: int, residual: Tensor, knockouts: list[Knockout], read: list[int]
) -> Tensor:
    """The residual stream that leaves a layer after the first."""
    stream, at = clean.stream, clean.at(layer, read)
    inputs = stream.attention_inputs(layer, residual, at)
    if knockouts[0].freezes:
        frozen, n = clean.inputs[layer], len(knockouts)
        query, key = (x.repeat(n, 1, 1, 1) for x in (frozen.query, frozen.key))
        inputs = AttentionInputs(query, key, inputs.value)
    z = stream.attend(layer, inputs, at)
    positions = range(clean.n_pos) if at is None else at
    for knockout, own in zip(knockouts, z.unflatten(0, (len(knockouts), -1)), strict=True):
        heads = knockout.heads.get(layer, [])
        if heads:  # `own` is a view: this writes to z
            own[:, :, heads] = knockout.replaced(layer, own[:, :, heads], clean.rows, positions)
    before = residual if at is None else residual[:, at]
    return stream.leave(layer, before, z)
