"""What ablations do to the ICL score to first order: all of them from one backward pass.

The score is a sum of losses with weights, so one backward pass gives its slope in what every head
of every layer puts out. What an ablation changes there, times the slope, is its effect to first
order: exact for small changes, and wrong by whatever attention, norms and MLPs bend. It is never
reported by itself. Measured on many sequences, it takes part of the chance out of exact effects
that were measured on few of them (see `control_variates.control_variate_mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.estimators import Losses
from induction_lens.metrics import batches
from induction_lens.models import (
    LayerByLayer,
    Model,
    device_of,
    positions_for,
    rounded,
    run,
    unembedded_losses,
)
from induction_lens.progress import progress_bar

FEWEST_EXACT = 8
"""Sequences that each head is knocked out on, where the first order is known of more."""
MOST = 64
"""Sequences that the first order is taken on, at most: it costs about three passes each."""


def pays(n_heads: int, n_sequences: int) -> bool:
    """Whether the first order costs less than half of the exact passes that it may spare.

    It costs three passes of each sequence; a head alone half a pass, on as many sequences fewer.
    """
    spared = n_heads * min(n_sequences - FEWEST_EXACT, FEWEST_EXACT) * 0.5
    return 3 * min(n_sequences, MOST) < spared / 2


def has_first_order(ablation: Ablation) -> bool:
    """Whether what an ablation writes is known without a pass: attention is not read or frozen."""
    return ablation.method.position_wise and not (
        ablation.freezes or ablation.method.reads_attention
    )


def first_order_effects(
    model: Model,
    ablations: Sequence[Ablation],
    measured_on: MeasuredText,
    *,
    rough: bool,
    progress: bool,
) -> Float[Tensor, "ablation batch"] | None:
    """The effect of each ablation on the ICL score of each of the first `MOST` sequences, in nats.

    None where it is not known: of a model that is run whole, and where one of them has none (see
    `has_first_order`).

    Args:
        model: A hooked model.
        ablations: The ablations.
        measured_on: The text and the ICL score.
        rough: Run in bfloat16.
        progress: Show a progress bar on stderr.
    """
    if not ablations or not all(map(has_first_order, ablations)):
        return None
    measured_on = measured_on.first(min(MOST, len(measured_on.sequences)))
    of_long, of_short = _weights(measured_on)
    passes = [(measured_on.sequences, of_long)]
    if measured_on.short is not None and of_short is not None:
        passes.append((measured_on.short, of_short))
    effects = torch.zeros(
        len(ablations), len(measured_on.sequences), dtype=torch.float32, device="cpu"
    )
    n_runs = sum(len(sequences) for sequences, _ in passes)
    with progress_bar("first order" if progress else None, n_runs) as done:
        for sequences, weights in passes:
            for rows, group in sequences.groups():
                of_group = weights[rows, : group.shape[1]]
                where = {"rows": rows, "weights": of_group, "rough": rough}
                changes = _changes(model, ablations, group, done=done, **where)
                if changes is None:
                    return None
                effects[:, rows] += changes
    return effects


def _weights(measured_on: MeasuredText) -> tuple[Tensor, Tensor | None]:
    """What the losses of sequences, and of their short cuts, count in the score: it is linear."""
    of = {"dtype": torch.float32, "device": "cpu", "requires_grad": True}
    sequences, short = measured_on.sequences, measured_on.short
    with torch.enable_grad():
        long = torch.zeros(len(sequences), sequences.longest, **of)
        cut = None if short is None else torch.zeros(len(short), short.longest, **of)
        score = measured_on.scores(Losses(long, cut)).sum()
        slopes = torch.autograd.grad(score, [x for x in (long, cut) if x is not None])
    return slopes[0], slopes[1] if short is not None else None


def _changes(
    model: Model,
    ablations: Sequence[Ablation],
    tokens: Int[Tensor, "row pos"],
    *,
    rows: Int[Tensor, " row"],
    weights: Float[Tensor, "row pos"],
    rough: bool,
    done: Callable[[int], object],
) -> Float[Tensor, "ablation row"] | None:
    """The change of the weighted sum of losses of sequences of one length."""
    read = torch.where((weights != 0).any(0))[0].tolist()
    changes = torch.zeros(len(ablations), len(tokens), dtype=torch.float32, device="cpu")
    device, n_pos = device_of(model), read[-1]
    with run(model, tokens[:1, :n_pos].to(device), unembeds=True) as road:
        if not isinstance(road, LayerByLayer):
            return None
        size = max(1, positions_for(model) // n_pos)
        for part in batches(len(tokens), size):
            batch, of_batch = tokens[part].to(device), weights[part].to(device)
            with rounded(model) if rough else nullcontext():
                outputs = _slopes(road, batch, read, of_batch)
            for layer, (z, slope) in enumerate(outputs):
                # the last layer is run where it is read
                positions = range(n_pos) if z.shape[1] == n_pos else [p - 1 for p in read]
                for index, ablation in enumerate(ablations):
                    heads = ablation.heads.get(layer, [])
                    if heads:
                        old = z[:, :, heads]
                        new = ablation.replaced(layer, old, rows[part], positions)
                        change = ((new - old).float() * slope[:, :, heads].float()).sum((1, 2, 3))
                        changes[index, part] += change.cpu()
            done(len(batch))
    return changes


def _slopes(
    road: LayerByLayer, batch: Tensor, read: list[int], weights: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """By layer: what its heads put out, and the slope in it of the weighted losses."""
    before = [position - 1 for position in read]
    entering = road.enter(batch[:, : read[-1]]).detach()
    with torch.enable_grad():
        entering.requires_grad_()
        outputs, residual = [], entering
        for layer in road.layers_from(0, entering, read=before):
            outputs.append(layer.z)
            residual = layer.leaving
        losses = unembedded_losses(road.unembed, road.final_norm(residual), batch[:, read])
        slopes = torch.autograd.grad((losses * weights[:, read]).sum(), outputs)
    return [(z.detach(), slope) for z, slope in zip(outputs, slopes, strict=True)]
