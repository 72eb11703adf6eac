"""What a dissociation is: kinds of heads, knocked out, and what two kinds of in-context learning
lose.

- The ICL score: how much more context lowers the loss of a token (nats).
- Few-shot accuracy: how often tasks are done rightly after worked examples.

Both losses are positive where in-context learning is weaker without the heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.estimates import (
    Estimate,
    bootstrap_mean,
    bounded_mean,
    columns,
    ratio_of_means,
)
from induction_lens.heads import Head, ScoreTable, names_of
from induction_lens.packing import Comparable
from induction_lens.results import Provenance, Result, with_model
from induction_lens.style import CATEGORICAL, CONTROL, Theme, new_figure, themed
from induction_lens.tasks.few_shot import FewShot

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Lost(Comparable):
    """What is lost without a set of heads, paired by sequence and by item."""

    heads: tuple[Head, ...]
    """The heads."""
    method: str
    """By which method they were knocked out, at all positions."""
    icl_lost: Float[Tensor, " batch"] = field(repr=False)
    """What the ICL score loses in each sequence, in nats."""
    icl_whole: Float[Tensor, " batch"] = field(repr=False)
    """What there is to lose: minus the clean score."""
    documents: Int[Tensor, " batch"] | None = field(repr=False)
    """What intervals are over, where that is not the sequences."""
    right_lost: Float[Tensor, " item"] = field(repr=False)
    """What the score of each answer loses, over all tasks."""
    above_chance: Float[Tensor, " item"] = field(repr=False)
    """What there is to lose: the clean score minus the task's chance."""

    @cached_property
    def icl(self) -> Estimate:
        """What the ICL score loses, in nats."""
        return bootstrap_mean(self.icl_lost, documents=self.documents)

    @cached_property
    def icl_share(self) -> Estimate:
        """Which part of the ICL score that is."""
        return ratio_of_means(self.icl_lost, self.icl_whole, documents=self.documents)

    @cached_property
    def few_shot(self) -> Estimate:
        """What few-shot accuracy loses."""
        return bounded_mean(self.right_lost, least=-1.0)

    @cached_property
    def few_shot_share(self) -> Estimate:
        """Which part that is of what accuracy exceeds chance by; its ends are infinite where
        accuracy is not told from chance, and it is NaN where it is not above."""
        if float(self.above_chance.mean()) <= 0:
            return Estimate(float("nan"), float("-inf"), float("inf"), unit="ratio")
        return ratio_of_means(self.right_lost, self.above_chance)


@dataclass(frozen=True, eq=False)
class KnockedOut(Comparable):
    """A set of heads of one kind, knocked out, beside control sets."""

    kind: str
    """The kind of heads."""
    without_overlap: bool
    """Whether heads that are of another kind too are left in."""
    lost: Lost
    """What is lost without them."""
    controls: tuple[Lost, ...] = ()
    """The same for random sets with as many heads in each layer, disjoint from them."""

    def rank(self, quantity: str) -> int | None:
        """Where the set falls among itself and its controls: 1 loses most of `icl` or `few_shot`.

        None where there are no controls.
        """
        if not self.controls:
            return None
        ours = getattr(self.lost, quantity).value
        return 1 + sum(getattr(one, quantity).value >= ours for one in self.controls)

    def exceeds_controls(self, quantity: str) -> bool:
        """Whether what is lost is told from zero, and more than in any control set."""
        return getattr(self.lost, quantity).low > 0 and self.rank(quantity) == 1


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two kinds of heads against each other, paired by sequence and by item."""

    first: str
    """One kind."""
    second: str
    """The other."""
    icl: Estimate
    """How much more of the ICL score is lost without the first, in nats."""
    few_shot: Estimate
    """How much more few-shot accuracy is lost without the first."""

    @property
    def is_double(self) -> bool:
        """Whether each kind carries more of one kind of in-context learning than the other kind
        does: a double dissociation. Intervals are wide enough for all contrasts to hold at once."""
        signs = [(one.low > 0) - (one.high < 0) for one in (self.icl, self.few_shot)]
        return signs[0] * signs[1] < 0


@dataclass(frozen=True, eq=False)
class Dissociation(Result):
    """Which heads carry which kind of in-context learning."""

    model: str
    """The model's name."""
    scores: ScoreTable
    """The score of every head, by kind."""
    heads: Mapping[str, tuple[Head, ...]]
    """The heads of each kind: the highest that exceed what chance explains; there may be none."""
    few_shot: tuple[FewShot, ...]
    """The whole model on each task."""
    icl: Estimate
    """The ICL score of the whole model, in nats."""
    knocked_out: tuple[KnockedOut, ...]
    """Every set by every method; controls are beside `main_method`."""
    main_method: str
    """The method whose numbers are quoted."""
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens it is of, where that is known."""

    @property
    def overlap(self) -> dict[tuple[str, str], tuple[Head, ...]]:
        """The heads that two kinds share, by pair of kinds."""
        return {
            (a, b): tuple(head for head in self.heads[a] if head in self.heads[b])
            for a, b in combinations(self.heads, 2)
        }

    @property
    def tasks_done(self) -> tuple[FewShot, ...]:
        """The tasks on which the model is told from chance, by intervals that are wide enough for
        all tasks to hold at once."""
        confidence = 1 - 0.05 / len(self.few_shot)
        return tuple(
            one
            for one in self.few_shot
            if bounded_mean(one.clean, confidence=confidence).low > one.chance
        )

    def of(self, kind: str, *, without_overlap: bool = False) -> KnockedOut | None:
        """A kind's heads knocked out by the main method; None where it has none."""
        for one in self.knocked_out:
            named = (one.kind, one.without_overlap, one.lost.method)
            if named == (kind, without_overlap, self.main_method):
                return one
        return None

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Every two kinds that have heads, as far as possible without those they share, by the main
        method."""
        sets = {}
        for kind in self.heads:
            one = self.of(kind, without_overlap=True) or self.of(kind)
            if one is not None:
                sets[kind] = one.lost
        pairs = list(combinations(sets, 2))
        confidence = 1 - 0.05 / max(1, 2 * len(pairs))
        found = []
        for a, b in pairs:
            if sets[a].heads == sets[b].heads:
                continue
            documents = sets[a].documents
            icl = bootstrap_mean(
                sets[a].icl_lost - sets[b].icl_lost, documents=documents, confidence=confidence
            )
            right = bounded_mean(
                (sets[a].right_lost - sets[b].right_lost) / 2, least=-1.0, confidence=confidence
            )
            twice = Estimate(
                2 * right.value, 2 * right.low, 2 * right.high, right.n, confidence, "ratio"
            )
            found.append(Contrast(a, b, icl, twice))
        return tuple(found)

    def __repr__(self) -> str:
        """In a few lines: the heads of each kind, and what is lost without them."""
        lines = [f"Dissociation({self.model}, {self.main_method})"]
        for kind, heads in self.heads.items():
            one = self.of(kind)
            said = (
                "none"
                if one is None
                else (
                    f"{names_of(heads)}: ICL score loses {one.lost.icl} nats, few-shot accuracy "
                    f"{one.lost.few_shot}"
                )
            )
            lines.append(f"  {kind}: {said}")
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row for each set by each method, and for each control: `kind`, `without_overlap`,
        `is_control`, `heads`, `method`, with the ends of their intervals (`_low`, `_high`) `icl`
        (lost, in nats), `icl_share`, `few_shot` (accuracy lost) and `few_shot_share`, and the ranks
        `icl_rank` and `few_shot_rank` among `n_controls` controls and itself."""
        import pandas as pd

        rows = []
        for one in self.knocked_out:
            ranks = {f"{name}_rank": one.rank(name) for name in ("icl", "few_shot")}
            for is_control, lost in [(False, one.lost), *((True, c) for c in one.controls)]:
                row: dict[str, object] = {
                    "kind": one.kind,
                    "without_overlap": one.without_overlap,
                    "is_control": is_control,
                    "heads": names_of(lost.heads, between=" "),
                    "method": lost.method,
                }
                for name in ("icl", "icl_share", "few_shot", "few_shot_share"):
                    row |= columns(name, getattr(lost, name))
                row |= dict.fromkeys(ranks) if is_control else ranks
                row["n_controls"] = None if is_control else len(one.controls)
                rows.append(row)
        names = ["kind", "without_overlap", "is_control", "heads", "method"]
        frame = pd.DataFrame(rows, columns=None if rows else names)
        return with_model(frame, self.provenance)

    def tasks_frame(self) -> pd.DataFrame:
        """One row for each task: as `FewShot.to_frame`, of the whole model."""
        import pandas as pd

        return pd.concat([one.to_frame() for one in self.few_shot], ignore_index=True)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """What the ICL score loses (across) and what few-shot accuracy loses (up), of every set by
        the main method; controls are grey.

        Raises:
            ValueError: If there is no such theme.
        """
        import plotly.graph_objects as go

        shown = [one for one in self.knocked_out if one.lost.method == self.main_method]
        controls = [lost for one in shown for lost in one.controls]
        figure = new_figure([], height=420)
        if controls:
            dots = {"color": CONTROL, "size": 7}
            figure.add_trace(go.Scatter(name="random sets", marker=dots, **_places(controls)))
        for number, one in enumerate(shown):
            color = CATEGORICAL[number % len(CATEGORICAL)]
            bars = {"color": color, "thickness": 1.5, "width": 0, "type": "data"}
            dot = go.Scatter(
                name=_label(one),
                marker={"color": color, "size": 11},
                error_x={**bars, **_sides(one.lost.icl)},
                error_y={**bars, **_sides(one.lost.few_shot)},
                **_places([one.lost]),
            )
            figure.add_trace(dot)
        figure.update_xaxes(title_text="lost of the ICL score (nats)", zeroline=True)
        figure.update_yaxes(title_text="lost of few-shot accuracy", zeroline=True)
        return themed(figure, theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def _label(one: KnockedOut) -> str:
    return f"{one.kind.replace('_', ' ')}{', without shared heads' * one.without_overlap}"


def _places(losses: Sequence[Lost]) -> dict[str, Any]:
    """Where the dots of some sets lie, and what they say when pointed at."""
    return {
        "x": [lost.icl.value for lost in losses],
        "y": [lost.few_shot.value for lost in losses],
        "mode": "markers",
        "text": [names_of(lost.heads) for lost in losses],
        "hovertemplate": "%{text}<br>ICL %{x:.3f} nats, few-shot %{y:.3f}<extra></extra>",
    }


def _sides(estimate: Estimate) -> dict[str, object]:
    """How far an interval reaches to both sides."""
    above = [estimate.high - estimate.value]
    return {"symmetric": False, "array": above, "arrayminus": [estimate.value - estimate.low]}
