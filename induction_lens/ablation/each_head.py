"""What knocking out each head alone does to in-context learning."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.ablation.sweep import Job
from induction_lens.estimates import standard_error
from induction_lens.estimators import Estimator, Losses
from induction_lens.heads import Head, HeadScores
from induction_lens.metrics import Positions
from induction_lens.models import Model, Tokens, shape, units_of


def ablate_each_head(
    model: Model,
    tokens: Tokens,
    *,
    method: AblationMethod | Method | str = "mean",
    mask: Int[Tensor, "_ _"] | Bool[Tensor, "_ _"] | None = None,
    seed: int = 0,
    early: int = 50,
    late: int = 500,
    window: int = 0,
    estimator: Estimator | str | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> HeadScores:
    """The effect of knocking out each head alone on the ICL score, in nats, paired by sequence.

    Positive where in-context learning is weaker without the head. `sem` is the standard error over
    documents, or over sequences where documents are not known. The arguments are those of `ablate`.

    Raises:
        ValueError: For an unknown method, positions outside the sequences, or an option that is out
            of range.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> effects = il.ablate_each_head(model, tokens, early=20, late=60, window=5)
        >>> [(str(head), round(effect, 1)) for head, effect in effects.top(3)]
        [('0.2', 3.6), ('0.0', 3.5), ('1.6', 2.4)]
    """
    checks.model(model)
    chosen = as_method(method, seed=checks.seed(seed))
    measured_on = MeasuredText.of(
        model, tokens, mask, where=Positions(early, late, window), estimator=estimator
    )
    jobs = single_head_jobs(model, chosen, measured_on)
    clean, losses = measured_on.losses(model, jobs, batch_size=batch_size, progress=progress)
    return single_head_effects(model, chosen, measured_on, clean, losses)


def single_head_jobs(
    model: Model, method: AblationMethod, measured_on: MeasuredText, *, rough: bool = False
) -> list[Job]:
    """What to measure: each head of the model knocked out alone, in order; `rough`: in bfloat16."""
    sizes = shape(model)
    positions, short_positions = map(tuple, measured_on.estimator.reads(measured_on.at))
    heads = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    return [Job((head,), method, positions, short_positions, rough) for head in heads]


def single_head_effects(
    model: Model, method: AblationMethod, measured_on: MeasuredText, clean: Losses, losses: Losses
) -> HeadScores:
    """The effects that are made of the losses of these jobs, each on its own sequences."""
    sizes = shape(model)
    before = measured_on.scores(clean)
    means, errors, n_units = [], [], []
    for index in range(sizes.n_layers * sizes.n_heads):
        effects = measured_on.scores(losses[index]) - before
        rows = ~effects.isnan()
        measured = measured_on.sequences.documents
        units = units_of(None if measured is None else measured[rows], measured_on.at.late)
        means.append(effects[rows].mean())
        errors.append(standard_error(effects[rows], units).float())
        n_units.append(int(rows.sum()) if units is None else len(units.unique()))
    table = (sizes.n_layers, sizes.n_heads)
    return HeadScores(
        name=f"effect of {method.label} ablation on the ICL score",
        values=torch.stack(means).view(table),
        unit="nats",
        sem=torch.stack(errors).view(table),
        n_units=torch.tensor(n_units, device="cpu").view(table),
    )
