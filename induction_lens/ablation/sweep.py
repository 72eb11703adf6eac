"""Losses under many ablations of one model, sharing what they share.

1. What `mean` and `resample` write is kept once for all ablations.
2. For each batch, one clean pass gives the clean losses and keeps, for every layer, what a
   ablation there starts from (`layerwise`). It ends at the last position that is read, and takes
   over what the first step already knows of the same sequences.
3. An ablation changes the output of attention at its first layer, and runs from there; its last
   layer is computed only where it is read, and so are the logits.
4. After the last layer no attention can change: there pattern-preserving ablation is zero
   ablation, and equal ablations are run once.
5. A model whose layers cannot be run one by one is run whole, with hooks (`whole`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation import layerwise, whole  # noqa: F401 - the two kinds of passes
from induction_lens.ablation.allocation import Allocation, Everything
from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.methods import AblationMethod
from induction_lens.ablation.outputs import NO_OUTPUTS, Outputs, by_layer, keep_outputs
from induction_lens.ablation.precision import mixed_passes
from induction_lens.estimators import Losses
from induction_lens.heads import Head
from induction_lens.metrics import batches, not_finite
from induction_lens.models import (
    Model,
    Sequences,
    Tokens,
    check_zero_removes,
    device_of,
    prove_writes_land,
    run,
    sequences_of,
    shape,
)
from induction_lens.progress import progress_bar


@dataclass(frozen=True)
class Job:
    """One ablation to measure."""

    heads: tuple[Head, ...]
    """The heads to knock out together."""
    method: AblationMethod
    """How."""
    positions: tuple[int, ...] | None = None
    """Positions whose losses are wanted; None for all."""
    short_positions: tuple[int, ...] | None = None
    """The same for short cuts."""
    rough: bool = False
    """Whether bfloat16 will do (see `precision`)."""


def ablation_losses(
    model: Model,
    jobs: Sequence[Job],
    tokens: Tokens | Sequences,
    *,
    short: Sequences | None = None,
    allocation: Allocation | None = None,
    prepared: Callable[[Sequence[Ablation]], object] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Losses, Losses]:
    """The loss of every token, clean [batch pos] and after each ablation [job batch pos], in nats.

    Losses are NaN where no job wants them: those of a job at its other positions, and on sequences
    that `allocation` leaves out; the clean ones at positions that no job reads. Positions are those
    of the sequences, whatever padding they come in (see `models.sequences`); losses after the end
    of a sequence are NaN.

    Args:
        model: A hooked model.
        jobs: The ablations.
        tokens: Sequences, BOS at position 0.
        short: A short cut of each, whose losses are wanted too. What `mean` and `resample` write
            there is taken from the sequences, at the positions of the cuts.
        allocation: Which jobs are measured on which sequences; None: all on all.
        prepared: Called with the ablations, in the order of the jobs, once they have what they
            write and before anything is measured.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Show progress bars on stderr for what takes over two seconds.

    Raises:
        ValueError: If the tokens or the reference do not fit.
        InterventionError: If the model drops the writes.
    """
    sequences = sequences_of(model, tokens)
    touched = by_layer({head for job in jobs for head in job.heads})
    prove_writes_land(model, list(touched), vocabulary=shape(model).d_vocab)
    by_zero = {head for job in jobs for head in job.heads if job.method.removes}
    check_zero_removes(model, list(by_layer(by_zero)))
    asked, last_layer = jobs, shape(model).n_layers - 1
    jobs = list(dict.fromkeys(_simplest(job, last_layer) for job in asked))
    ablations, known = _prepared(
        model,
        jobs,
        sequences,
        batch_size=batch_size,
        progress="head outputs" if progress else None,
    )
    places = [jobs.index(_simplest(job, last_layer)) for job in asked]
    if prepared is not None:
        prepared([ablations[place] for place in places])
    of_asked = [0, *(1 + place for place in places)]
    allocation, active = allocation or Everything(), list(range(len(asked)))
    losses = Losses(
        _unmeasured(1 + len(jobs), len(sequences), sequences.longest),
        None if short is None else _unmeasured(1 + len(jobs), len(short), short.longest),
    )
    n_runs = (1 + len(jobs)) * (len(sequences) + (0 if short is None else len(short)))
    with progress_bar(f"{len(jobs)} ablations" if progress else None, n_runs) as done:
        measure = partial(_measured, model, ablations, jobs, batch_size=batch_size, done=done)
        n_measured = 0
        while (part := allocation.next_part(n_measured, len(sequences))) is not None:
            now = {"chosen": sorted({places[index] for index in active}), "part": part}
            try:
                measure(sequences=sequences, known=known, into=losses.long, **now)
                if short is not None and losses.short is not None:
                    # what is known of the sequences is not known of their cuts
                    measure(sequences=short, known={}, into=losses.short, short=True, **now)
            except KeyboardInterrupt:
                if not allocation.keeps_what_is_measured(n_measured):
                    raise
                losses.forget(part)
                break
            n_measured = part.stop
            so_far = losses.of_sequences(slice(0, n_measured))
            active = allocation.going_on(so_far[of_asked], active)
    return losses[0], losses[of_asked[1:]]


def _measured(
    model: Model,
    ablations: Sequence[Ablation],
    jobs: Sequence[Job],
    *,
    chosen: Sequence[int],
    sequences: Sequences,
    part: slice,
    known: Mapping[int, Tensor],
    batch_size: int | None,
    done: Callable[[int], object],
    into: Float[Tensor, "run batch pos"],
    short: bool = False,
) -> None:
    """Write the losses that the chosen jobs want on a part of the sequences: clean at 0, of
    ablation `i` at `i + 1`."""
    everywhere = tuple(range(1, sequences.longest))
    wanted = [jobs[i].short_positions if short else jobs[i].positions for i in chosen]
    wanted = [everywhere if some is None else some for some in wanted]
    for of_part, group in sequences[part].groups():
        n_pos, rows = group.shape[1], of_part + part.start
        read = [sorted(p for p in some if p < n_pos) for some in wanted]
        measured = [i for i, some in enumerate(read) if some]
        if measured:
            places = [0, *(1 + chosen[i] for i in measured)]
            into[torch.tensor(places, device="cpu")[:, None], rows, :n_pos] = _losses(
                model,
                [ablations[chosen[i]] for i in measured],
                [read[i] for i in measured],
                group,
                rows=rows,
                rough=[jobs[chosen[i]].rough for i in measured],
                known=known,
                batch_size=batch_size,
                done=done,
            )


def _losses(
    model: Model,
    ablations: Sequence[Ablation],
    wanted: Sequence[list[int]],
    tokens: Int[Tensor, "row pos"],
    *,
    rows: Int[Tensor, " row"],
    rough: Sequence[bool],
    known: Mapping[int, Tensor],
    batch_size: int | None,
    done: Callable[[int], object],
) -> Float[Tensor, "run row pos"]:
    """Losses of sequences of one length, clean at 0 and after ablation `i` at `i + 1`.

    Args:
        model: A hooked model.
        ablations: The ablations.
        wanted: For each, the positions that are read, of which there is one at least.
        tokens: The sequences.
        rows: Which rows of the whole set they are.
        rough: For each ablation, whether bfloat16 will do.
        known: By layer, the outputs of all heads on the whole set, where they are known.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        done: Told how many ablations times sequences have been measured.
    """
    losses = _unmeasured(1 + len(ablations), *tokens.shape)
    union = sorted({position for read in wanted for position in read})
    read_by = [union, *wanted]
    device = device_of(model)
    failed: list[Tensor] = []
    reads = any(ablation.reads for ablation in ablations)
    mixing = next((a.method.label for a in ablations if not a.by_layers), None)
    why_whole = f"{mixing} ablation may look at several positions" if mixing else ""
    example = tokens[:1, : union[-1]].to(device)
    with run(model, example, unembeds=True, why_whole=why_whole) as road:
        size = batch_size or road.batch_size(tokens.shape[1], patterns=reads)
        for part in batches(len(tokens), size):
            batch = tokens[part].to(device)
            here = {"known": known, "rough": rough}
            for indices, loss in mixed_passes(road, ablations, wanted, batch, rows[part], **here):
                for index, of_one in zip(indices, loss.cpu(), strict=True):
                    losses[index, part, read_by[index]] = of_one
                if not torch.isfinite(loss).all():
                    failed.append(batch)
                done(len(indices) * len(batch))
    for batch in failed:  # the model cannot be called inside the block
        raise not_finite(model, batch)
    return losses


def _unmeasured(*sizes: int) -> Tensor:
    return torch.full(sizes, math.nan, dtype=torch.float32, device="cpu")


def _simplest(job: Job, last_layer: int) -> Job:
    """The same ablation by the simplest method that is the same there."""
    late = all(head.layer == last_layer for head in job.heads)
    return replace(job, method=job.method.at_last_layer) if late else job


def _prepared(
    model: Model,
    jobs: Sequence[Job],
    sequences: Sequences,
    *,
    batch_size: int | None,
    progress: str | None,
) -> tuple[list[Ablation], Mapping[int, Tensor]]:
    """The ablations, with what they take from their references; and by layer the outputs of all
    heads on the tokens, where they are known from that."""
    borrowers = [job for job in jobs if job.method.needs != "nothing"]
    by_reference: dict[int, list[Job]] = {}  # by identity: references are large tensors
    for job in borrowers:
        by_reference.setdefault(id(job.method.reference), []).append(job)
    kept: dict[int, Outputs] = {}
    for key, sharing in by_reference.items():
        reference = sharing[0].method.reference
        kept[key] = keep_outputs(
            model,
            by_layer({head for job in sharing for head in job.heads}),
            sequences if reference is None else reference,
            each=any(job.method.needs == "each sequence" for job in sharing),
            whole=reference is None,
            batch_size=batch_size,
            progress=progress,
        )
    ablations = []
    for job in jobs:
        outputs = kept.get(id(job.method.reference)) if job in borrowers else None
        taken = NO_OUTPUTS
        if outputs is not None:
            taken = outputs.of(by_layer(job.heads), each=job.method.needs == "each sequence")
        ablations.append(Ablation(model, job.heads, job.method, outputs=taken))
    own = kept.get(id(None))
    return ablations, {} if own is None else own.whole
