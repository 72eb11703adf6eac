"""Sets of heads knocked out together, by one method or several, beside control sets.

They are measured together: the clean passes are shared, and one study is made for each method (see
`study`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from induction_lens import checks
from induction_lens.ablation.controls import checked_n_controls, control_sets
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import (
    METHODS,
    AblationMethod,
    Method,
    Methods,
    as_method,
    as_methods,
)
from induction_lens.ablation.study import AblationStudy, study_of_losses
from induction_lens.ablation.sweep import Job
from induction_lens.estimators import Estimator, Losses
from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.metrics import Positions
from induction_lens.models import Mask, Model, Tokens, provenance_of, shape


def ablate(
    model: Model,
    heads: Iterable[HeadLike] | HeadLike,
    tokens: Tokens,
    *,
    method: AblationMethod | Method | str = "mean",
    mask: Mask | None = None,
    n_controls: int = 20,
    seed: int = 0,
    early: int = 50,
    late: int = 500,
    window: int = 0,
    estimator: Estimator | str | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> AblationStudy:
    """Knock a set of heads out together, and compare with random sets of the same shape.

    Args:
        model: A hooked model.
        heads: The heads to knock out.
        tokens: Sequences to measure on, BOS at position 0; what `sample_text` returns, for
            intervals over documents.
        method: `zero`, `mean`, `resample`, `pattern-preserving`, or an `AblationMethod`, such as
            `Mean(reference=text, per_position=True)`; by their names, `mean` and `resample` take
            outputs from `tokens`.
        mask: 1 for a token, 0 for padding, on either side; tokens and reference may also be what a
            tokenizer returns. Padding is left out, and positions are counted from the first token
            of each sequence.
        n_controls: Control sets: this many, or all there are where a small model has fewer; there
            are none where the heads are more than half of a layer.
        seed: Seed of the controls and of `resample`.
        early: Position of the early token of the ICL score.
        late: Position of the late token.
        window: Positions averaged on each side of both; 0 is the paper's definition.
        estimator: `matched-target`, which also runs a short cut of each sequence, or `paper`, which
            does not (see `icl_score`). None: matched targets, unless sequences are beginnings of
            documents. A study by matched targets has the other as `study.at(estimator="paper")`.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Show progress bars on stderr for what takes over two seconds.

    Raises:
        ValueError: For an unknown method or head, positions outside the sequences, or an option
            that is out of range.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> heads, at = ["1.4", "1.6", "1.7"], {"early": 20, "late": 60, "window": 5}
        >>> study = il.ablate(model, heads, tokens, n_controls=2, **at)
        >>> f"{study.effect.value:.1f} nats [{study.effect.low:.1f}, {study.effect.high:.1f}]"
        '4.1 nats [2.9, 5.3]'
        >>> [round(control.effect.value, 1) for control in study.controls]
        [-0.1, -0.3]
    """
    checks.model(model)
    chosen = as_method(method, seed=checks.seed(seed))
    studies = ablate_by_methods(
        model,
        heads,
        tokens,
        methods=[chosen],
        mask=mask,
        n_controls=n_controls,
        seed=seed,
        early=early,
        late=late,
        window=window,
        estimator=estimator,
        batch_size=batch_size,
        progress=progress,
    )
    return studies[chosen.label]


def ablate_by_methods(
    model: Model,
    heads: Iterable[HeadLike] | HeadLike,
    tokens: Tokens,
    *,
    methods: Methods = METHODS,
    controlled: Methods | None = None,
    mask: Mask | None = None,
    n_controls: int = 20,
    seed: int = 0,
    early: int = 50,
    late: int = 500,
    window: int = 0,
    estimator: Estimator | str | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> dict[str, AblationStudy]:
    """Make the study of `ablate` by each of several methods, which share the clean run.

    The arguments are those of `ablate`, and two more.

    Args:
        model: A hooked model.
        heads: The heads to knock out.
        tokens: Sequences to measure on.
        methods: Names of methods, or objects.
        controlled: Which of these to run control sets with; None: all.
        mask: As in `ablate`, like what follows.
        n_controls: Control sets for each of `controlled`.
        seed: Seed of the controls and of `resample`.
        early: Position of the early token.
        late: Position of the late token.
        window: Positions averaged on each side of both.
        estimator: `matched-target`, `paper`, or None.
        batch_size: Sequences per forward pass.
        progress: Show progress bars.

    Raises:
        ValueError: As in `ablate`.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> studies = il.ablation.ablate_by_methods(
        ...     model, "1.6", tokens, methods=["zero", "mean"], early=20, late=60, n_controls=2
        ... )
        >>> {method: round(study.effect.value, 1) for method, study in studies.items()}
        {'zero': 1.4, 'mean': 1.4}
    """
    checks.model(model)
    n_controls = checked_n_controls(n_controls)
    seed = checks.seed(seed)
    chosen = as_methods(methods, seed=seed)
    with_controls = chosen if controlled is None else as_methods(controlled, seed=seed)
    sizes = shape(model)
    parsed = tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))
    measured_on = MeasuredText.of(
        model, tokens, mask, where=Positions(early, late, window), estimator=estimator
    )
    controls = tuple(control_sets(model, parsed, n=n_controls, seed=seed))
    sets = StudiedSets(parsed, {m.label: controls if m in with_controls else () for m in chosen})
    jobs = sets.jobs(chosen, measured_on)
    clean, losses = measured_on.losses(model, jobs, batch_size=batch_size, progress=progress)
    of = provenance_of(model, measured_on.sequences)
    found = sets.studies(measured_on, clean, losses)
    return {name: dataclasses.replace(study, provenance=of) for name, study in found.items()}


@dataclass(frozen=True)
class StudiedSets:
    """The sets of heads that studies by several methods knock out."""

    heads: tuple[Head, ...]
    """The tested set."""
    controls: Mapping[str, tuple[tuple[Head, ...], ...]]
    """Of each method, by its name: its control sets."""
    main: str | None = None
    """The method by which the tested set is measured at every position and in float32 also where
    bfloat16 may do; None: every method."""

    def jobs(
        self, methods: Iterable[AblationMethod], measured_on: MeasuredText, *, rough: bool = False
    ) -> list[Job]:
        """What to measure: for each method the tested set, and then its control sets.

        Args:
            methods: The methods.
            measured_on: The text and the ICL score.
            rough: Whether bfloat16 will do for control sets and methods other than the main one.
        """
        jobs = []
        for method in methods:
            spared = Job(self.heads, method, *measured_on.around, rough)
            in_full = not rough or self.main in (None, method.label)
            jobs.append(Job(self.heads, method) if in_full else spared)
            jobs += [replace(spared, heads=control) for control in self.controls[method.label]]
        return jobs

    def studies(
        self,
        measured_on: MeasuredText,
        clean: Losses,
        losses: Losses,
        estimates: EffectEstimates | None = None,
    ) -> dict[str, AblationStudy]:
        """The studies that are made of the losses of these jobs, by method.

        Args:
            measured_on: The text and the ICL score.
            clean: Losses of the whole model.
            losses: Losses of each job, in the order of `jobs`.
            estimates: What is known of the jobs besides, by their places.
        """
        studies, first = {}, 0
        for label, controls in self.controls.items():
            last = first + 1 + len(controls)
            studies[label] = study_of_losses(
                self.heads,
                label,
                clean.before(losses[first:last]),
                controls,
                documents=measured_on.sequences.documents,
                at=measured_on.at,
                estimator=measured_on.estimator,
                first_order=estimates and estimates.first_orders(range(first, last)),
            )
            first = last
        return studies
