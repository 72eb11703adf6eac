"""Ablations on a model that is run layer by layer (`models.LayerByLayer`).

1. The clean pass keeps, for every layer, the heads' outputs `z` and the residual stream around
   attention; its last layer is computed only at the positions that are read.
2. An ablation adds the change of the chosen heads' outputs, through `W_O`, to the residual stream
   after the attention of its first layer, and runs from there.
3. Ablations that start at the same layer and are read at the same positions go through the rest
   together, as many at a time as the memory budget allows (`positions_for`).

Positions are those of the logits here, one before the token that is predicted: `passes` converts
them, and nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.outputs import Rows
from induction_lens.ablation.passes import Batch, Passes, passes
from induction_lens.ablation.seen import attention_of
from induction_lens.models import (
    AttentionInputs,
    Layer,
    LayerByLayer,
    positions_for,
    unembedded_losses,
)


@passes.register
def _(run: LayerByLayer, batch: Batch) -> Passes:
    before = [[position - 1 for position in positions] for positions in batch.wanted]
    clean, losses = clean_pass(run, batch)
    yield [0], losses[None]
    for members, after in ablation_passes(clean, batch.ablations, before, positions_for(run.model)):
        yield [index + 1 for index in members], after


@dataclass(frozen=True)
class CleanPass:
    """One batch through the whole model, and what ablations start from."""

    run: LayerByLayer
    """The model."""
    tokens: Int[Tensor, "batch pos"]
    """The batch, whole."""
    rows: Rows
    """Which rows of the whole set it is."""
    read: list[int]
    """Positions whose logits are read by anybody, in order."""
    n_pos: int
    """Positions that are run: up to the last that is read; all, where a method reads attention."""
    inputs: dict[int, AttentionInputs] = field(default_factory=dict)
    """By layer, where patterns are frozen or read: what its attention is computed from."""
    entering: dict[int, Float[Tensor, "batch pos d_model"]] = field(default_factory=dict)
    """By layer, where patterns are read: the residual stream before its attention, everywhere."""
    outputs: dict[int, Float[Tensor, "batch _ head d_head"]] = field(default_factory=dict)
    """By layer: `z`; of the last layer at `read` only."""
    before: dict[int, Float[Tensor, "batch _ d_model"]] = field(default_factory=dict)
    """By layer: the residual stream before its attention; of the last layer at `read` only."""
    middle: dict[int, Float[Tensor, "batch _ d_model"]] = field(default_factory=dict)
    """By layer: the residual stream after its attention; of the last layer at `read` only."""

    @property
    def last(self) -> int:
        """The last layer."""
        return self.run.n_layers - 1

    def at(self, layer: int, read: list[int]) -> list[int] | None:
        """Where a layer is computed when these positions are read; None: everywhere."""
        return read if layer == self.last and len(read) < self.n_pos else None

    def losses(
        self, residual: Float[Tensor, "stacked _ d_model"], read: list[int]
    ) -> Float[Tensor, "stacked read_pos"]:
        """Losses from the residual stream that leaves the last layer, in nats."""
        predicted = self.tokens[:, [position + 1 for position in read]]
        predicted = predicted.repeat(len(residual) // len(predicted), 1)
        final = self.run.final_norm(residual)
        return unembedded_losses(self.run.unembed, final, predicted)


def clean_pass(
    run: LayerByLayer, batch: Batch
) -> tuple[CleanPass, Float[Tensor, "batch read_pos"]]:
    """Run a batch; what ablations need of it, and its losses in nats."""
    freezes = any(ablation.freezes for ablation in batch.ablations)
    reading = {ablation.first_layer for ablation in batch.ablations if ablation.reads}
    read = [position - 1 for position in batch.read]
    n_pos = batch.tokens.shape[1] if reading else read[-1] + 1
    clean = CleanPass(run, batch.tokens, batch.rows, read, n_pos)
    residual = batch.tokens  # there is a layer at least
    for layer in run.layers(batch.tokens[:, :n_pos], read=clean.at(clean.last, read)):
        if layer.index in reading:
            clean.entering[layer.index] = layer.entering
        if freezes or layer.index in reading:
            clean.inputs[layer.index] = layer.inputs
        elif layer.index in batch.known:
            z = batch.known[layer.index][batch.rows]
            layer.z = z[:, :n_pos] if layer.read is None else z[:, layer.read]
        clean.outputs[layer.index] = layer.z
        clean.before[layer.index] = layer.before
        clean.middle[layer.index] = layer.middle
        residual = layer.leaving
    return clean, clean.losses(residual, read)


def ablation_passes(
    clean: CleanPass, ablations: Sequence[Ablation], wanted: Sequence[list[int]], n_positions: int
) -> Passes:
    """Losses of ablations, some at a time.

    Args:
        clean: The clean pass over the same batch.
        ablations: The ablations.
        wanted: For each, the positions of the logits that are read.
        n_positions: How many positions may go through a layer together.

    Yields:
        The ablations' indices, and their losses in nats at the positions that they want.
    """
    groups: dict[tuple[int, bool, bool, tuple[int, ...]], list[int]] = {}
    for index, (ablation, read) in enumerate(zip(ablations, wanted, strict=True)):
        key = (ablation.first_layer, ablation.freezes, ablation.reads, tuple(read))
        groups.setdefault(key, []).append(index)
    n_sequences = len(clean.tokens)
    for (first, _, _, read), members in groups.items():
        n_run = len(read) if first == clean.last else clean.n_pos
        stack = max(1, n_positions // (n_run * n_sequences)) if clean.run.stacks else 1
        for start in range(0, len(members), stack):
            together = members[start : start + stack]
            yield together, _losses(clean, [ablations[index] for index in together], list(read))


def _losses(clean: CleanPass, ablations: list[Ablation], read: list[int]) -> Tensor:
    """Losses [ablation batch read_pos] of ablations that start at the same layer."""
    sent: list[dict[int, Tensor]] = [dict(clean.outputs) for _ in ablations]
    residual = _from_first_layer(clean, ablations, read, sent)
    first = ablations[0].first_layer + 1
    for layer in clean.run.layers_from(first, residual, read=clean.at(clean.last, read)):
        _write(clean, layer, ablations, sent)
        residual = layer.leaving
    return clean.losses(residual, read).unflatten(0, (len(ablations), -1))


def _from_first_layer(
    clean: CleanPass, ablations: list[Ablation], read: list[int], sent: list[dict[int, Tensor]]
) -> Tensor:
    """The residual stream [ablation * batch, …] that leaves the first layer that is written to.

    What heads put out there is noted in `sent`, for methods that leave it out of what is read.
    """
    layer = ablations[0].first_layer
    z, before, middle = clean.outputs[layer], clean.before[layer], clean.middle[layer]
    at = clean.at(layer, read)
    positions = range(clean.n_pos) if at is None else at
    if layer == clean.last and read != clean.read:  # what was kept is at clean.read
        place = {position: index for index, position in enumerate(clean.read)}
        kept = [place[position] for position in read]
        z, before, middle = z[:, kept], before[:, kept], middle[:, kept]
    changed = []
    for ablation, outputs in zip(ablations, sent, strict=True):
        heads = ablation.heads.get(layer, [])
        old = z[:, :, heads]
        if ablation.reads:
            whole = clean.inputs[layer], clean.entering[layer]
            new = _by_attention(clean, layer, ablation, *whole, sent=outputs, at=at)
        else:
            new = ablation.replaced(layer, old, clean.rows, positions)
        changed.append(middle + clean.run.change(layer, new - old, heads))
        if layer in ablation.sending:
            outputs[layer] = z.clone()
            outputs[layer][:, :, heads] = new
    before = before.repeat(len(ablations), 1, 1)
    return clean.run.after_attention(layer, before, torch.cat(changed))


def _write(
    clean: CleanPass, layer: Layer, ablations: list[Ablation], sent: list[dict[int, Tensor]]
) -> None:
    """Write to what the heads of a layer after the first put out."""
    reads = any(ablation.reads and layer.index in ablation.heads for ablation in ablations)
    queries = None if reads else layer.read
    inputs = clean.run.attention_inputs(layer.index, layer.entering, queries)
    if ablations[0].freezes:
        frozen, n = clean.inputs[layer.index], len(ablations)
        query, key = (x.repeat(n, 1, 1, 1) for x in (frozen.query, frozen.key))
        inputs = AttentionInputs(query, key, inputs.value)
    layer.inputs = inputs
    positions = range(clean.n_pos) if layer.read is None else layer.read
    by_ablation = layer.z.unflatten(0, (len(ablations), -1))  # views: what is written goes to z
    n_rows = by_ablation.shape[1]
    for index, (ablation, z) in enumerate(zip(ablations, by_ablation, strict=True)):
        heads = ablation.heads.get(layer.index, [])
        if heads and ablation.reads:
            rows = slice(index * n_rows, (index + 1) * n_rows)
            whole = inputs.of_rows(rows), layer.entering[rows]
            z[:, :, heads] = _by_attention(
                clean, layer.index, ablation, *whole, sent=sent[index], at=layer.read
            )
        elif heads:
            written = ablation.replaced(layer.index, z[:, :, heads], clean.rows, positions)
            z[:, :, heads] = written
        if layer.index in ablation.sending:
            sent[index][layer.index] = z


def _by_attention(
    clean: CleanPass,
    layer: int,
    ablation: Ablation,
    inputs: AttentionInputs,
    entering: Tensor,
    *,
    sent: Mapping[int, Tensor],
    at: list[int] | None,
) -> Tensor:
    """What is written at some positions by a method that reads attention, and sees them all."""
    heads = ablation.heads[layer]
    seen = attention_of(
        clean.run,
        clean.tokens,
        layer=layer,
        heads=heads,
        inputs=inputs,
        entering=entering,
        sent=sent,
        senders=ablation.method.leaves_out,
    )
    whole = clean.run.attend(layer, inputs.of_heads(heads))
    written = ablation.replaced(layer, whole, clean.rows, range(clean.n_pos), seen)
    return written if at is None else written[:, at]
