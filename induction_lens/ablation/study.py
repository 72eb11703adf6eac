"""What knocking heads out does to in-context learning.

1. The loss of every token is measured clean, and so are the losses of short cuts of the text.
2. Both are measured again with the heads knocked out together (see `methods`).
3. The effect is the ICL score ablated minus clean, paired by sequence, with an interval over
   documents where they are known: positive where in-context learning is weaker without the heads.
4. The same is done to control sets: random sets with as many heads in each layer, disjoint from the
   tested set. The tested set's rank among them says whether the effect is special to it.

Scores are by matched targets, whose variance is several times smaller than that of the paper's
estimator; the losses give that one too (`AblationStudy.at`). See `metrics` and `estimators`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.controls import checked_n_controls, control_sets
from induction_lens.ablation.drawing import icl_figure
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import (
    METHODS,
    AblationMethod,
    Method,
    Methods,
    as_method,
    as_methods,
)
from induction_lens.ablation.sweep import Job
from induction_lens.estimates import Estimate, bootstrap_mean, ratio_of_means
from induction_lens.estimators import (
    MATCHED_TARGET,
    Estimator,
    ICLEstimator,
    Losses,
    as_estimator,
)
from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.metrics import Positions, check_positions
from induction_lens.models import Mask, Model, Tokens, provenance_of, shape, units_of
from induction_lens.packing import packable
from induction_lens.results import Provenance, Result, with_model
from induction_lens.style import Theme, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@packable
@dataclass(frozen=True)
class Control:
    """A random set of heads, knocked out for comparison."""

    heads: tuple[Head, ...]
    """The heads."""
    effect: Estimate
    """Its effect on the ICL score, in nats, on the sequences that it was measured on: all of them,
    unless its rank was known after fewer."""


@dataclass(frozen=True, eq=False)
class AblationStudy(Result):
    """In-context learning with and without a set of heads, and with and without control sets."""

    heads: tuple[Head, ...]
    """The heads that were knocked out together."""
    method: str
    """The name of the method."""
    early: int
    """Position of the early token of the ICL score."""
    late: int
    """Position of the late token."""
    window: int
    """Positions averaged on each side of both; 0 is the paper's definition."""
    estimator: Estimator
    """How the ICL score is estimated: `matched-target`, or `paper`."""
    clean: Estimate
    """ICL score of the whole model, in nats."""
    ablated: Estimate
    """ICL score without the heads, in nats."""
    effect: Estimate
    """`ablated - clean`, paired by sequence, in nats: positive where ICL is weaker without them."""
    controls: tuple[Control, ...]
    """Control sets, largest effect first."""
    rank: int | None
    """Where the tested set falls among itself and its controls: 1 weakens ICL most. None where
    there are no controls."""
    clean_losses: Float[Tensor, "batch pos"]
    """Loss of every token of the whole model, in nats."""
    ablated_losses: Float[Tensor, "batch pos"]
    """Loss of every token without the heads, in nats."""
    control_heads: tuple[tuple[Head, ...], ...]
    """The control sets, in the order of `control_losses`."""
    control_losses: Float[Tensor, "control batch pos"]
    """Loss of every token without each control set, in nats: at positions within `window` or 15 of
    `early` and `late`, whichever is more; NaN elsewhere."""
    short_losses: Float[Tensor, "run batch short_pos"] | None
    """Losses of short cuts in nats: of the whole model, without the heads, and without each control
    set. None where only the paper's estimator was asked for."""
    documents: Int[Tensor, "batch pos"] | None
    """The document of each token, where that is known: intervals are over documents."""
    provenance: Provenance | None = dataclasses.field(default=None, repr=False, compare=False)
    """Which model and tokens it is of, where that is known."""

    @property
    def p_value(self) -> float | None:
        """How likely a set drawn like the controls has a rank as good as the tested one's.

        That is the permutation test's `rank / (1 + controls)`: with 3 controls never below 0.25,
        and with 19 or more it can be 0.05. None where there are no controls.
        """
        return None if self.rank is None else self.rank / (1 + len(self.controls))

    @property
    def share(self) -> Estimate:
        """Which part of the ICL score is gone: the effect over minus the clean score, a ratio.

        The interval is Fieller's, and has infinite ends where the clean score is not told from 0.
        """
        before, after = self.scores
        units = units_of(self.documents, self.late)
        return ratio_of_means(after - before, -before, documents=units)

    @property
    def scores(self) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The ICL score of each sequence in nats: of the whole model, and without the heads."""
        losses, estimator = self._losses, as_estimator(self.estimator)
        at = Positions(self.early, self.late, self.window)
        return estimator.per_sequence(losses[0], at), estimator.per_sequence(losses[1], at)

    def __repr__(self) -> str:
        """In a few lines: the heads, the method, and what that did to the ICL score."""
        named, n = " ".join(map(str, self.heads)), len(self.controls)
        where = f"positions {self.early} and {self.late}" + f" ±{self.window}" * (self.window > 0)
        where += f", {self.estimator}"
        rank = f"rank {self.rank} of {1 + n}" if n else "no controls"
        return (
            f"AblationStudy({named}, {self.method}, {where})\n"
            f"  ICL score {self.clean}, without {self.ablated} nats\n  effect {self.effect}, {rank}"
        )

    def at(
        self,
        *,
        early: int | None = None,
        late: int | None = None,
        window: int | None = None,
        estimator: Estimator | str | None = None,
    ) -> AblationStudy:
        """The same study with another ICL score of the same losses; the model is not run again.

        Raises:
            ValueError: If the positions lie outside the sequences, or outside of those where the
                controls were measured; or the other estimator needs other losses.
        """
        at = check_positions(
            self.clean_losses,
            self.early if early is None else early,
            self.late if late is None else late,
            window=self.window if window is None else window,
        )
        chosen = as_estimator(self.estimator if estimator is None else estimator)
        if chosen is MATCHED_TARGET and at.late - at.early != self.late - self.early:
            raise ValueError(
                f"expected positions {self.late - self.early} tokens apart, as the short cuts are, "
                f"got early={at.early}, late={at.late}; run ablate again with these"
            )
        study = study_of_losses(
            self.heads,
            self.method,
            self._losses,
            self.control_heads,
            documents=self.documents,
            at=at,
            estimator=chosen,
        )
        return dataclasses.replace(study, provenance=self.provenance)

    @property
    def _losses(self) -> Losses:
        """Losses of all runs: clean, without the heads, and without each control set."""
        first = torch.stack([self.clean_losses, self.ablated_losses])
        return Losses(torch.cat([first, self.control_losses]), self.short_losses)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The ICL score with and without the heads, with intervals; ticks are control sets.

        Raises:
            ValueError: If there is no such theme.
        """
        return themed(icl_figure({self.method: self}), theme)

    def to_frame(self) -> pd.DataFrame:
        """One row for `clean`, `ablated` and `effect`, and one for each control's effect, with the
        `model` where it is known."""
        import pandas as pd

        named = " ".join(map(str, self.heads))
        rows = [("clean", "", self.clean), ("ablated", named, self.ablated)]
        rows += [("effect", named, self.effect)]
        rows += [("control", " ".join(map(str, c.heads)), c.effect) for c in self.controls]
        frame = pd.DataFrame(
            [
                {"what": what, "heads": heads, **dataclasses.asdict(estimate)}
                for what, heads, estimate in rows
            ]
        )
        return with_model(frame, self.provenance)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


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
        >>> study = il.ablate(model, "1.6", tokens, early=20, late=60, window=5, n_controls=2)
        >>> f"{study.effect.value:.1f} nats [{study.effect.low:.1f}, {study.effect.high:.1f}]"
        '2.4 nats [0.8, 4.0]'
        >>> [round(control.effect.value, 1) for control in study.controls]
        [0.8, 0.4]
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
        {'zero': 2.9, 'mean': 2.9}
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
        self, measured_on: MeasuredText, clean: Losses, losses: Losses
    ) -> dict[str, AblationStudy]:
        """The studies that are made of the losses of these jobs, by method."""
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
            )
            first = last
        return studies


def study_of_losses(
    heads: tuple[Head, ...],
    method: str,
    losses: Losses,
    control_heads: tuple[tuple[Head, ...], ...],
    *,
    documents: Tensor | None,
    at: Positions,
    estimator: ICLEstimator,
) -> AblationStudy:
    """The study that is made of losses: clean, without the heads, and without each control set.

    Raises:
        ValueError: Something was not measured at these positions.
    """
    units = units_of(documents, at.late)
    before, after = (estimator.per_sequence(losses[run], at) for run in (0, 1))

    def effect(scores: Tensor, rows: Tensor) -> Estimate:
        if scores[rows].isnan().any():
            raise ValueError(
                f"expected positions where everything was measured, got early={at.early}, "
                f"late={at.late}, window={at.window}; run ablate again with these"
            )
        # Of the rows, documents may be too few to be units
        of_rows = None if documents is None else units_of(documents[rows], at.late)
        return bootstrap_mean((scores - before)[rows], documents=of_rows)

    everywhere = torch.ones(len(before), dtype=torch.bool, device="cpu")
    tested = effect(after, everywhere)
    controls, stronger = [], 0
    for index, chosen in enumerate(control_heads):
        scores = estimator.per_sequence(losses[2 + index], at)
        rows = ~losses.long[2 + index].isnan().all(1).cpu()
        controls.append(Control(chosen, effect(scores, rows)))
        # paired: the tested set on the same sequences
        stronger += int(scores[rows].mean() >= after[rows].mean())
    controls.sort(key=lambda control: control.effect.value, reverse=True)
    return AblationStudy(
        heads=heads,
        method=method,
        early=at.early,
        late=at.late,
        window=at.window,
        estimator=estimator.name,
        clean=bootstrap_mean(before, documents=units),
        ablated=bootstrap_mean(after, documents=units),
        effect=tested,
        controls=tuple(controls),
        rank=1 + stronger if controls else None,
        clean_losses=losses.long[0],
        ablated_losses=losses.long[1],
        control_heads=control_heads,
        control_losses=losses.long[2:],
        short_losses=losses.short,
        documents=documents,
    )
