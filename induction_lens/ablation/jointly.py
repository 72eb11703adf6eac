"""A set of heads by several methods, its controls, and each head alone, measured together.

They share what the clean passes keep, and each is measured on as many sequences as it takes to
decide what it is for (see `allocation`).
"""

from __future__ import annotations

from collections.abc import Sequence

from induction_lens.ablation.allocation import UntilDecided
from induction_lens.ablation.each_head import single_head_effects, single_head_jobs
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import AblationMethod
from induction_lens.ablation.study import AblationStudy, StudiedSets
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
    progress: bool,
) -> tuple[dict[str, AblationStudy], HeadScores]:
    """The study of a set by each method, and the effect of each head alone.

    Args:
        model: A hooked model.
        sets: The tested set, and its control sets.
        methods: What the studies knock out by.
        measured_on: The text and the ICL score.
        alone_by: What each head alone is knocked out by.
        rough: Run control sets and single heads in bfloat16 (see `precision`).
        progress: Show progress bars on stderr.
    """
    jobs = sets.jobs(methods, measured_on, rough_controls=rough)
    tested, first = {}, 0
    for controls in sets.controls.values():
        tested |= dict.fromkeys(range(first + 1, first + 1 + len(controls)), first)
        first += 1 + len(controls)
    jobs += single_head_jobs(model, alone_by, measured_on, rough=rough)
    allocation = UntilDecided(
        measured_on.scores,
        measured_on.sequences.documents,
        measured_on.at.late,
        tested=tested,
        heads=range(first, len(jobs)),
    )
    clean, losses = measured_on.losses(
        model, jobs, allocation=allocation, batch_size=None, progress=progress
    )
    studies = sets.studies(measured_on, clean, losses[:first])
    return studies, single_head_effects(model, alone_by, measured_on, clean, losses[first:])
