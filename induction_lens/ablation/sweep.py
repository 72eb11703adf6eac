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

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.ablation import layerwise, whole  # noqa: F401 - the two kinds of passes
from induction_lens.ablation.allocation import Allocation, Everything
from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.methods import AblationMethod
from induction_lens.ablation.outputs import NO_OUTPUTS, Outputs, by_layer, keep_outputs
from induction_lens.ablation.passes import Batch
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
        sweep = Sweep(model, jobs, ablations, batch_size, done)
        n_measured = 0
        while (part := allocation.next_part(n_measured, len(sequences))) is not None:
            chosen = sorted({places[index] for index in active})
            try:
                sweep.measure(chosen, sequences, part, known=known, into=losses.long)
                if short is not None and losses.short is not None:
                    # what is known of the sequences is not known of their cuts
                    sweep.measure(chosen, short, part, known={}, into=losses.short, short=True)
            except KeyboardInterrupt:
                if not allocation.keeps_what_is_measured(n_measured):
                    raise
                losses.forget(part)
                break
            n_measured = part.stop
            so_far = losses.of_sequences(slice(0, n_measured))
            active = allocation.going_on(so_far[of_asked], active)
    return losses[0], losses[of_asked[1:]]


@dataclass(frozen=True)
class Sweep:
    """A model, and what is measured of it."""

    model: Model
    jobs: Sequence[Job]
    ablations: Sequence[Ablation]
    """Of each job."""
    batch_size: int | None
    done: Callable[[int], object]
    """Told how many ablations times sequences have been measured."""

    def measure(
        self,
        chosen: Sequence[int],
        sequences: Sequences,
        part: slice,
        *,
        known: Mapping[int, Tensor],
        into: Float[Tensor, "run batch pos"],
        short: bool = False,
    ) -> None:
        """Write the losses that the chosen jobs want on a part of the sequences: clean at 0, of
        job `i` at `i + 1`."""
        jobs = [self.jobs[index] for index in chosen]
        wanted = [job.short_positions if short else job.positions for job in jobs]
        wanted = [range(1, sequences.longest) if some is None else sorted(some) for some in wanted]
        for of_part, tokens in sequences[part].groups():
            n_pos = tokens.shape[1]
            read = [[position for position in some if position < n_pos] for some in wanted]
            there = [i for i, some in enumerate(read) if some]
            if not there:
                continue
            batch = Batch(
                tokens=tokens,
                rows=of_part + part.start,
                ablations=[self.ablations[chosen[i]] for i in there],
                wanted=[read[i] for i in there],
                read=sorted({position for some in read for position in some}),
                known=known,
            )
            places = torch.tensor([0, *(1 + chosen[i] for i in there)], device="cpu")
            losses = self._losses(batch, rough=[jobs[i].rough for i in there])
            into[places[:, None], batch.rows, :n_pos] = losses

    def _losses(self, group: Batch, *, rough: Sequence[bool]) -> Float[Tensor, "run row pos"]:
        """Losses of sequences of one length, as many at a time as fit the memory."""
        losses = _unmeasured(1 + len(group.ablations), *group.tokens.shape)
        read_by = [group.read, *group.wanted]
        device = device_of(self.model)
        failed: list[Tensor] = []
        reads = any(ablation.reads for ablation in group.ablations)
        mixing = next((a.method.label for a in group.ablations if not a.by_layers), None)
        why_whole = f"{mixing} ablation may look at several positions" if mixing else ""
        example = group.tokens[:1, : group.read[-1]].to(device)
        with run(self.model, example, unembeds=True, why_whole=why_whole) as road:
            size = self.batch_size or road.batch_size(group.tokens.shape[1], patterns=reads)
            for some in batches(len(group.tokens), size):
                batch = group.part(some, device)
                for indices, loss in mixed_passes(road, batch, rough=rough):
                    for index, of_one in zip(indices, loss.cpu(), strict=True):
                        losses[index, some, read_by[index]] = of_one
                    if not torch.isfinite(loss).all():
                        failed.append(batch.tokens)
                    self.done(len(indices) * len(batch.tokens))
        for tokens in failed:  # the model cannot be called inside the block
            raise not_finite(self.model, tokens)
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
