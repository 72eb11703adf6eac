"""Losses under many knock-outs of one model, sharing what they share.

1. What `mean` and `resample` write is kept once for all knock-outs.
2. For each batch, one clean pass gives the clean losses, the attention patterns that
   pattern-preserving ablation freezes, and the residual stream that enters each layer.
3. Each knock-out is a pass of its own, which starts at the first layer that it
   touches where the class can (`can_resume`), and unembeds only the positions that are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.knockout import Knockout, Method, by_layer, keep_outputs
from induction_lens.metrics import batch_loss, batches, progress_bar
from induction_lens.models import (
    Model,
    Resume,
    batch_size_for,
    can_resume,
    check_tokens,
    device_of,
    installed,
    keep,
    prove_writes_land,
    running,
    shape,
)


@dataclass(frozen=True)
class Job:
    """One knock-out to measure."""

    heads: tuple[Head, ...]
    """The heads to knock out together."""
    method: Method
    """How."""
    positions: tuple[int, ...] | None = None
    """Positions whose losses are wanted; None for all."""


def knockout_losses(
    model: Model,
    jobs: Sequence[Job],
    tokens: Int[Tensor, "batch pos"],
    *,
    reference: Int[Tensor, "reference_batch reference_pos"] | None = None,
    per_position: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "job batch pos"]]:
    """The loss of every token, clean and after each knock-out, in nats.

    Losses are NaN where no job wants them: those of a job at its other positions, the clean ones at
    positions that no job reads.

    Args:
        model: a hooked model.
        jobs: the knock-outs.
        tokens: sequences, BOS at position 0.
        reference: what `mean` and `resample` take outputs from; None takes `tokens`.
        per_position: for `mean`, a mean for each position.
        seed: seed of `resample`.
        batch_size: sequences per forward pass; None chooses by a memory budget.
        progress: show progress bars on stderr for what takes over two seconds.

    Raises:
        ValueError: if the tokens or the reference do not fit.
        InterventionError: if the model drops the writes.
    """
    check_tokens(model, tokens)
    touched = by_layer({head for job in jobs for head in job.heads})
    prove_writes_land(model, list(touched), vocabulary=shape(model).d_vocab)
    borrowers = [job for job in jobs if job.method in ("mean", "resample")]
    lent = by_layer({head for job in borrowers for head in job.heads})
    source = tokens if reference is None else reference
    title = "head outputs" if progress else None
    outputs: dict[int, Tensor] = {}
    if lent:
        outputs = keep_outputs(model, lent, source, batch_size=batch_size, progress=title)
    knockouts = [
        Knockout(
            model,
            job.heads,
            job.method,
            outputs=_of_heads(outputs, lent, by_layer(job.heads)) if job in borrowers else None,
            per_position=per_position,
            seed=seed,
        )
        for job in jobs
    ]
    clean = torch.full(tokens.shape, math.nan)
    losses = torch.full((len(jobs), *tokens.shape), math.nan)
    size = batch_size or batch_size_for(model, tokens.shape[1])
    title = f"{len(jobs)} knock-outs" if progress else None
    with running(model), progress_bar(title, len(tokens) * (1 + len(jobs))) as advance:
        for rows in batches(len(tokens), size):
            batch = tokens[rows].to(device_of(model))
            for index, (read, loss) in enumerate(_passes(model, jobs, knockouts, batch, rows)):
                (losses[index - 1] if index else clean)[rows, read] = loss
                advance(len(batch))
    return clean, losses


def _passes(
    model: Model, jobs: Sequence[Job], knockouts: Sequence[Knockout], batch: Tensor, rows: slice
) -> Iterator[tuple[list[int], Tensor]]:
    """Positions and their losses in one batch: clean, then after every knock-out."""
    patterns: dict[int, Tensor] = {}
    residuals: dict[int, Tensor] = {}
    hooks = []
    if any(knockout.freezes for knockout in knockouts):
        hooks += keep("pattern", range(shape(model).n_layers), into=patterns)
    if can_resume(model):
        hooks += keep("resid_pre", {k.first_layer for k in knockouts}, into=residuals)
    everywhere = list(range(1, batch.shape[1]))
    wanted = [everywhere if job.positions is None else list(job.positions) for job in jobs]
    union = sorted({position for positions in wanted for position in positions})

    def losses(read: list[int], resume: Resume | None = None) -> Tensor:
        # all positions in one piece is how the model unembeds anyway
        positions = None if read == everywhere else read
        return batch_loss(model, batch, positions, resume=resume).cpu()

    with installed(model, hooks):
        clean = losses(union)
    yield union, clean
    for knockout, read in zip(knockouts, wanted, strict=True):
        knockout.freeze(patterns)
        first = knockout.first_layer
        with installed(model, knockout.hooks(rows)):
            after = losses(read, (first, residuals[first]) if first in residuals else None)
        yield read, after


def _of_heads(
    outputs: Mapping[int, Tensor], kept: Mapping[int, list[int]], heads: Mapping[int, list[int]]
) -> dict[int, Tensor]:
    """The outputs of some of the heads that were kept."""
    return {
        layer: outputs[layer][:, :, [kept[layer].index(head) for head in chosen]]
        for layer, chosen in heads.items()
        if layer in outputs
    }
