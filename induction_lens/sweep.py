"""Losses under many knock-outs of one model, sharing what they share.

1. What `mean` and `resample` write is kept once for all knock-outs.
2. For each batch, one clean pass gives the clean losses and keeps, for every layer, what a
   knock-out there starts from (`streamed`). It ends at the last position that is read, and takes
   over what the first step already knows of the same sequences.
3. A knock-out changes the output of attention at its first layer, and runs from there; its last
   layer is computed only where it is read, and so are the logits.
4. After the last layer no attention can change: there pattern-preserving ablation is zero
   ablation, and equal knock-outs are run once.
5. A model that cannot be taken apart (`models.streaming`) is run in whole, with hooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.knockout import Knockout, Method, Outputs, by_layer, keep_outputs
from induction_lens.metrics import batch_loss, batches, not_finite, progress_bar
from induction_lens.models import (
    Model,
    Stream,
    batch_size_for,
    checked_tokens,
    device_of,
    installed,
    keep,
    positions_for,
    prove_writes_land,
    running,
    shape,
    streaming,
)
from induction_lens.streamed import clean_pass, knockout_passes


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
    tokens = checked_tokens(model, tokens)
    touched = by_layer({head for job in jobs for head in job.heads})
    prove_writes_land(model, list(touched), vocabulary=shape(model).d_vocab)
    asked, last_layer = jobs, shape(model).n_layers - 1
    jobs = list(dict.fromkeys(_simplest(job, last_layer) for job in asked))
    knockouts, known = _prepared(
        model,
        jobs,
        tokens,
        reference,
        per_position=per_position,
        seed=seed,
        batch_size=batch_size,
        progress="head outputs" if progress else None,
    )
    everywhere = list(range(1, tokens.shape[1]))
    wanted = [everywhere if job.positions is None else sorted(job.positions) for job in jobs]
    losses = torch.full((1 + len(jobs), *tokens.shape), math.nan)
    title = f"{len(jobs)} knock-outs" if progress else None
    example = tokens[:1, : max(read[-1] for read in wanted)].to(device_of(model))
    failed: list[Tensor] = []
    with (
        streaming(model, example, unembeds=True) as stream,
        progress_bar(title, losses[..., 0].numel()) as done,
    ):
        fitting = batch_size_for(model, tokens.shape[1], fused=stream is not None)
        for rows in batches(len(tokens), batch_size or fitting):
            batch = tokens[rows].to(device_of(model))
            work = (knockouts, wanted, batch, rows)
            passes = (
                _hooked(model, *work) if stream is None else _streamed(stream, *work, known=known)
            )
            for indices, read, loss in passes:
                for index, of_one in zip(indices, loss.cpu(), strict=True):
                    losses[index, rows, read] = of_one
                if not torch.isfinite(loss).all():
                    failed.append(batch)
                done(len(indices) * len(batch))
    for batch in failed:  # the model cannot be run while it is taken apart
        raise not_finite(model, batch)
    return losses[0], losses[[1 + jobs.index(_simplest(job, last_layer)) for job in asked]]


def _simplest(job: Job, last_layer: int) -> Job:
    """The same knock-out by zero ablation, where there is no later attention to preserve."""
    late = all(head.layer == last_layer for head in job.heads)
    if job.method == "pattern-preserving" and late:
        return Job(job.heads, "zero", job.positions)
    return job


def _prepared(
    model: Model,
    jobs: Sequence[Job],
    tokens: Int[Tensor, "batch pos"],
    reference: Int[Tensor, "reference_batch reference_pos"] | None,
    *,
    per_position: bool,
    seed: int,
    batch_size: int | None,
    progress: str | None,
) -> tuple[list[Knockout], Mapping[int, Tensor]]:
    """The knock-outs, with what they take from the reference; and by layer the outputs of all heads
    on the tokens, where they are known from that."""
    borrowers = [job for job in jobs if job.method in ("mean", "resample")]
    outputs = Outputs({}, {}, {}, {})
    if borrowers:
        outputs = keep_outputs(
            model,
            by_layer({head for job in borrowers for head in job.heads}),
            tokens if reference is None else reference,
            each=any(job.method == "resample" for job in jobs),
            whole=reference is None,
            batch_size=batch_size,
            progress=progress,
        )
    knockouts = [
        Knockout(
            model,
            job.heads,
            job.method,
            outputs=outputs.of(by_layer(job.heads)) if job in borrowers else None,
            per_position=per_position,
            seed=seed,
        )
        for job in jobs
    ]
    return knockouts, outputs.whole


# indices into the losses (0 is clean, job i is at i + 1), positions, and losses in nats
Passes = Iterator[tuple[list[int], list[int], Float[Tensor, "job batch read_pos"]]]


def _streamed(
    stream: Stream,
    knockouts: Sequence[Knockout],
    wanted: Sequence[list[int]],
    batch: Tensor,
    rows: slice,
    *,
    known: Mapping[int, Tensor],
) -> Passes:
    """The passes of one batch on a model that is taken apart."""
    # logits at one position predict the token at the next
    logits_read = [[position - 1 for position in read] for read in wanted]
    union = sorted({position for read in logits_read for position in read})
    freezes = any(knockout.freezes for knockout in knockouts)
    of_batch = {layer: z[rows] for layer, z in known.items()}
    clean, losses = clean_pass(stream, batch, rows, union, known=of_batch, freezes=freezes)
    yield [0], [position + 1 for position in union], losses[None]
    n_positions = positions_for(knockouts[0].model)
    for members, read, after in knockout_passes(clean, knockouts, logits_read, n_positions):
        yield [index + 1 for index in members], [position + 1 for position in read], after


def _hooked(
    model: Model,
    knockouts: Sequence[Knockout],
    wanted: Sequence[list[int]],
    batch: Tensor,
    rows: slice,
) -> Passes:
    """The passes of one batch on a model that is run in whole, with hooks."""
    patterns: dict[int, Tensor] = {}
    freezes = any(knockout.freezes for knockout in knockouts)
    layers = range(shape(model).n_layers) if freezes else ()
    union = sorted({position for read in wanted for position in read})
    with running(model), installed(model, keep("pattern", layers, into=patterns)):
        clean = batch_loss(model, batch, union)
    yield [0], union, clean[None]
    for index, (knockout, read) in enumerate(zip(knockouts, wanted, strict=True)):
        knockout.freeze(patterns)
        with running(model), installed(model, knockout.hooks(rows)):
            after = batch_loss(model, batch, read)
        yield [index + 1], read, after[None]
