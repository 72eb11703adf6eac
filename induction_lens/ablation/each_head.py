"""What knocking out each head alone does to in-context learning."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from induction_lens import checks
from induction_lens.ablation.allocation import FIRST_PART, UntilDecided
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.ablation.first_order import FEWEST_EXACT, first_order_effects, has_first_order
from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.ablation.sweep import Job
from induction_lens.estimators import Estimator, Losses
from induction_lens.heads import Head, HeadScores
from induction_lens.metrics import Positions
from induction_lens.models import Mask, Model, Tokens, provenance_of, shape


def ablate_each_head(
    model: Model,
    tokens: Tokens,
    *,
    method: AblationMethod | Method | str = "mean",
    mask: Mask | None = None,
    seed: int = 0,
    early: int = 50,
    late: int = 500,
    window: int = 0,
    estimator: Estimator | str | None = None,
    exact: bool = True,
    batch_size: int | None = None,
    progress: bool = True,
) -> HeadScores:
    """The effect of knocking out each head alone on the ICL score, in nats, paired by sequence.

    Positive where in-context learning is weaker without the head. `sem` is the standard error over
    documents, or over sequences where documents are not known. The arguments are those of `ablate`,
    and `exact`: with `exact=False` each head is knocked out on the first 8 or 16 sequences, and the
    effects of all heads on the first 64, to first order, come from one backward pass over each. The
    two together are unbiased (see `control_variates`), and a fraction of the work where there are
    many heads. A head is knocked out on 16 where the first order does not halve the variance, or
    where it may be the strongest; on more where it still may be. `n_units` says on how many.

    Raises:
        ValueError: For an unknown method, positions outside the sequences, or an option that is out
            of range.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> effects = il.ablate_each_head(model, tokens, early=20, late=60, window=5)
        >>> [(str(head), round(effect, 1)) for head, effect in effects.top(3)]
        [('0.2', 3.6), ('0.0', 3.5), ('1.7', 1.8)]
    """
    checks.model(model)
    chosen = as_method(method, seed=checks.seed(seed))
    measured_on = MeasuredText.of(
        model, tokens, mask, where=Positions(early, late, window), estimator=estimator
    )
    jobs = single_head_jobs(model, chosen, measured_on)
    estimates = nothing_known(measured_on)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if not checks.flag("exact", exact):
        options["allocation"] = until_decided(
            measured_on, estimates, heads=range(len(jobs)), by_first_order=True
        )
        options["prepared"] = first_order_into(
            estimates, model, measured_on, of=range(len(jobs)), progress=progress
        )
    losses = measured_on.losses(model, jobs, **options)
    effects = single_head_effects(model, chosen, measured_on, losses, estimates)
    return replace(effects, provenance=provenance_of(model, measured_on.sequences))


def nothing_known(measured_on: MeasuredText) -> EffectEstimates:
    """What is known of effects on a text before anything is measured."""
    sequences = measured_on.sequences
    return EffectEstimates(sequences.documents, measured_on.at.late, len(sequences))


def until_decided(
    measured_on: MeasuredText,
    estimates: EffectEstimates,
    *,
    heads: range,
    tested: Mapping[int, int] | None = None,
    by_first_order: bool,
) -> UntilDecided:
    """How many sequences jobs are measured on that include each head alone.

    Args:
        measured_on: The text and the ICL score.
        estimates: What is known of each head.
        heads: The jobs of one head each.
        tested: For each job of a control set, that of the tested set.
        by_first_order: Whether effects to first order are added to what is known of heads, so that
            fewer sequences are enough to begin with.
    """
    return UntilDecided(
        measured_on.scores,
        estimates,
        tested=tested or {},
        heads=heads,
        first=FEWEST_EXACT if by_first_order else FIRST_PART,
        least=FIRST_PART,
    )


def first_order_into(
    estimates: EffectEstimates,
    model: Model,
    measured_on: MeasuredText,
    *,
    of: Collection[int],
    rough: bool = False,
    progress: bool,
) -> Callable[[Sequence[Ablation]], None]:
    """What takes the prepared ablations, and adds the effects to first order of some of them to
    what is known, where they have any."""

    def take(ablations: Sequence[Ablation]) -> None:
        fit = [index for index in of if has_first_order(ablations[index])]
        chosen = [ablations[index] for index in fit]
        effects = first_order_effects(model, chosen, measured_on, rough=rough, progress=progress)
        if effects is not None:
            estimates.first_order = dict(zip(fit, effects, strict=True))

    return take


def single_head_jobs(
    model: Model, method: AblationMethod, measured_on: MeasuredText, *, rough: bool = False
) -> list[Job]:
    """What to measure: each head of the model knocked out alone, in order; `rough`: in bfloat16."""
    sizes = shape(model)
    positions, short_positions = map(tuple, measured_on.estimator.reads(measured_on.at))
    heads = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    return [Job((head,), method, positions, short_positions, rough) for head in heads]


def single_head_effects(
    model: Model,
    method: AblationMethod,
    measured_on: MeasuredText,
    losses: tuple[Losses, Losses],
    estimates: EffectEstimates,
    *,
    first: int = 0,
) -> HeadScores:
    """The effects that are made of losses, clean and of these jobs, each on its own sequences.

    `first` is the place of the first of these jobs among all that `estimates` knows.
    """
    sizes = shape(model)
    clean, ablated = losses
    before = measured_on.scores(clean)
    known = []
    for head in range(sizes.n_layers * sizes.n_heads):
        effects = measured_on.scores(ablated[head]) - before
        known.append(estimates.of(first + head, effects[~effects.isnan()]))
    numbers = torch.tensor(known, dtype=torch.float64, device="cpu")
    means, errors, n_units = numbers.view(sizes.n_layers, sizes.n_heads, 3).unbind(2)
    return HeadScores(
        name=f"effect of {method.label} ablation on the ICL score",
        values=means.float(),
        unit="nats",
        sem=errors.float(),
        n_units=n_units.long(),
    )
