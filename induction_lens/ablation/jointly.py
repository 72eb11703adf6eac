"""A set of heads by several methods, its controls, and each head alone, measured together.

They share what the clean passes keep, and each is measured on as many sequences as it takes to
decide what it is for (see `allocation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from induction_lens.ablation.each_head import (
    first_order_into,
    nothing_known,
    single_head_effects,
    single_head_jobs,
    until_decided,
)
from induction_lens.ablation.first_order import pays
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import AblationMethod
from induction_lens.ablation.sets import StudiedSets
from induction_lens.ablation.stopping import Stopping, UntilStopped
from induction_lens.ablation.study import AblationStudy
from induction_lens.estimates import bootstrap_mean
from induction_lens.estimators import Losses
from induction_lens.heads import HeadScores
from induction_lens.models import Model


def studies_and_single_heads(
    model: Model,
    sets: StudiedSets,
    methods: Sequence[AblationMethod],
    measured_on: MeasuredText,
    *,
    alone_by: AblationMethod,
    rough: bool,
    stopping: Stopping,
    progress: bool,
) -> tuple[dict[str, AblationStudy], HeadScores]:
    """The study of a set by each method, and the effect of each head alone.

    Args:
        model: A hooked model.
        sets: The tested set, and its control sets.
        methods: What the studies knock out by.
        measured_on: The text and the ICL score.
        alone_by: What each head alone is knocked out by.
        rough: Run control sets, single heads, and methods other than the main one in bfloat16 (see
            `precision`).
        stopping: When to end before all sequences are measured; is told why it did.
        progress: Show progress bars on stderr.
    """
    jobs = sets.jobs(methods, measured_on, rough=rough)
    tested: dict[int, int] = {}
    first = 0
    for controls in sets.controls.values():
        tested |= dict.fromkeys(range(first + 1, first + 1 + len(controls)), first)
        first += 1 + len(controls)
    jobs += single_head_jobs(model, alone_by, measured_on, rough=rough)
    estimates = nothing_known(measured_on)
    by_first_order = pays(len(jobs) - first, len(measured_on.sequences))
    heads = range(first, len(jobs))
    allocation = until_decided(
        measured_on, estimates, heads=heads, tested=tested, by_first_order=by_first_order
    )
    compared = sorted({*tested, *tested.values(), *heads})
    take_first_order = first_order_into(
        estimates, model, measured_on, of=compared, rough=rough, progress=progress
    )
    tested_sets = [index for index in range(first) if index not in tested]
    widest = partial(_half_width, measured_on, tested_sets)
    clean, losses = measured_on.losses(
        model,
        jobs,
        allocation=UntilStopped(allocation, stopping, widest),
        prepared=take_first_order if by_first_order else None,
        batch_size=None,
        progress=progress,
    )
    if stopping.reason is not None:
        measured_on, clean, losses = _measured(measured_on, clean, losses)
    studies = sets.studies(measured_on, clean, losses[:first], estimates)
    of_heads = (clean, losses[first:])
    return studies, single_head_effects(
        model, alone_by, measured_on, of_heads, estimates, first=first
    )


def _half_width(measured_on: MeasuredText, tested: Sequence[int], losses: Losses) -> float:
    """Half the width, in nats, of the widest interval of the tested sets' effects so far."""
    clean = measured_on.scores(losses[0])
    so_far = measured_on.sequences[: len(clean)]
    units = so_far.units(measured_on.at.late)
    effects = [measured_on.scores(losses[index + 1]) - clean for index in tested]
    estimates = [bootstrap_mean(effect, documents=units) for effect in effects]
    return max((estimate.high - estimate.low) / 2 for estimate in estimates)


def _measured(
    measured_on: MeasuredText, clean: Losses, losses: Losses
) -> tuple[MeasuredText, Losses, Losses]:
    """The sequences that anything was measured on, which are the first ones."""
    rows = slice(0, int((~clean.long.isnan()).any(1).sum()))
    return measured_on.first(rows.stop), clean.of_sequences(rows), losses.of_sequences(rows)
