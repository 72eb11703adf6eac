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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.drawing import icl_figure
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.estimates import Estimate, bootstrap_mean, ratio_of_means
from induction_lens.estimators import (
    MATCHED_TARGET,
    Estimator,
    ICLEstimator,
    Losses,
    as_estimator,
)
from induction_lens.heads import Head
from induction_lens.metrics import Positions, check_positions
from induction_lens.models import units_of
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
    first_order: Float[Tensor, "run batch"] | None = None
    """Effects to first order in nats, without the heads and without each control set, of the first
    sequences and more of them than some control sets were measured on: they take part of the chance
    out of what is compared (see `control_variates`). None where they are not known."""
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
        same = at == Positions(self.early, self.late, self.window)
        same = same and chosen.name == self.estimator
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
            first_order=self.first_order if same else None,
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


def study_of_losses(
    heads: tuple[Head, ...],
    method: str,
    losses: Losses,
    control_heads: tuple[tuple[Head, ...], ...],
    *,
    documents: Tensor | None,
    at: Positions,
    estimator: ICLEstimator,
    first_order: Float[Tensor, "run batch"] | None = None,
) -> AblationStudy:
    """The study that is made of losses: clean, without the heads, and without each control set.

    `first_order` has the effects to first order of these runs but the clean one.

    Raises:
        ValueError: Something was not measured at these positions.
    """
    units = units_of(documents, at.late)
    before, after = (estimator.per_sequence(losses[run], at) for run in (0, 1))

    known = EffectEstimates(documents, at.late)
    if first_order is not None:
        known.first_order = dict(enumerate(first_order[:, : len(before)]))

    def effect(scores: Tensor, rows: Tensor, run: int) -> Estimate:
        if scores[rows].isnan().any():
            raise ValueError(
                f"expected positions where everything was measured, got early={at.early}, "
                f"late={at.late}, window={at.window}; run ablate again with these"
            )
        # Of the rows, documents may be too few to be units
        of_rows = None if documents is None else units_of(documents[rows], at.late)
        effects = (scores - before)[rows]
        plain = bootstrap_mean(effects, documents=of_rows)
        return plain if rows.all() else known.corrected(run, effects, plain)

    everywhere = torch.ones(len(before), dtype=torch.bool, device="cpu")
    tested = effect(after, everywhere, 0)
    controls, stronger = [], 0
    for index, chosen in enumerate(control_heads):
        scores = estimator.per_sequence(losses[2 + index], at)
        rows = ~losses.long[2 + index].isnan().all(1).cpu()
        controls.append(Control(chosen, effect(scores, rows, 1 + index)))
        # paired: the tested set on the same sequences
        difference, _, _ = known.of(1 + index, (scores - after)[rows], less=0)
        stronger += int(difference >= 0)
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
        first_order=first_order,
    )
