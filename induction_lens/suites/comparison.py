"""Models beside each other: one row a model, and how much they differ.

What two models lose or gain is paired by sequence where both were measured on the same tokens of
the same documents, and its interval is over documents where these are known. Otherwise the two are
taken as independent, which is said. All pairs of models hold at once, in each quantity: intervals
are corrected for their number (Bonferroni), so that the best of many may be named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.study import AblationStudy
from induction_lens.estimates import Estimate, bootstrap_mean, columns, difference_of
from induction_lens.heads import Head, HeadScores, names_of
from induction_lens.models import units_of
from induction_lens.packing import Comparable, packable, same
from induction_lens.results import Provenance, Result
from induction_lens.style import Theme, themed
from induction_lens.suites.drawing import comparison_figure

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

QUANTITIES: Mapping[str, str] = {
    "loss": "loss",
    "icl": "ICL score",
    "effect": "change without its heads",
}
"""What is compared, in nats, in words: the mean loss of a token; the ICL score, lower where context
helps more; and what knocking a model's heads out does to it."""


@dataclass(frozen=True, eq=False)
class Compared(Comparable):
    """One model of a comparison, and what is known of it."""

    name: str
    """What it is called here: the last part of its path, or all of it where two end alike."""
    given: str
    """What it is: a `model` that was measured now, or the kind of result that it was read from."""
    induction: HeadScores | None
    """Prefix-matching score of every head, where it is known."""
    found: tuple[Head, ...]
    """Heads above the threshold and above chance, strongest first."""
    study: AblationStudy | None
    """What knocking heads out does, where that is known."""

    @property
    def provenance(self) -> Provenance | None:
        """Where its numbers come from."""
        known = (one.provenance for one in (self.study, self.induction) if one is not None)
        return next((one for one in known if one is not None), None)

    def per_sequence(self, quantity: str) -> Float[Tensor, " batch"] | None:
        """A quantity of each sequence; None where it was not measured."""
        if self.study is None:
            return None
        if quantity == "loss":
            return self.study.clean_losses[:, 1:].double().nanmean(1)
        before, after = self.study.scores
        return before if quantity == "icl" else after - before

    def estimate(self, quantity: str, *, confidence: float = 0.95) -> Estimate | None:
        """A quantity with its interval; None where it was not measured."""
        values = self.per_sequence(quantity)
        if values is None:
            return None
        return bootstrap_mean(values, documents=self._units, confidence=confidence)

    @property
    def _units(self) -> Tensor | None:
        assert self.study is not None
        return units_of(self.study.documents, self.study.late)

    def is_comparable(self, other: Compared, quantity: str) -> bool:
        """Whether a quantity means the same in both: taken at the same positions, by the same
        estimator, and of heads that were knocked out by the same method."""
        if self.study is None or other.study is None:
            return False
        asked = {"loss": (), "icl": _WHERE, "effect": (*_WHERE, "method")}[quantity]
        return all(getattr(self.study, name) == getattr(other.study, name) for name in asked)

    def shares_text(self, other: Compared) -> bool:
        """Whether both were measured on the same tokens of the same documents."""
        mine, theirs = self.study, other.study
        if mine is None or theirs is None or mine.provenance is None or theirs.provenance is None:
            return False
        text = mine.provenance.text
        return (
            text is not None
            and text == theirs.provenance.text
            and same(mine.documents, theirs.documents)
        )

    def minus(self, other: Compared, quantity: str, *, confidence: float = 0.95) -> Estimate:
        """How much larger a quantity is here than there: paired where both share the text.

        Raises:
            ValueError: It was not measured of one of them.
        """
        values, others = self.per_sequence(quantity), other.per_sequence(quantity)
        if values is None or others is None:
            raise ValueError(
                f"expected {quantity} of both models, got one without; compare models or studies"
            )
        if self.shares_text(other):
            return bootstrap_mean(values - others, documents=self._units, confidence=confidence)
        mine, theirs = (one.estimate(quantity, confidence=confidence) for one in (self, other))
        assert mine is not None
        assert theirs is not None
        return difference_of(mine, theirs)

    def to_row(self) -> dict[str, Any]:
        """The model as a row of `Comparison.to_frame`."""
        of, study = self.provenance, self.study
        shape = (None, None) if self.induction is None else tuple(self.induction.values.shape)
        strongest = None if self.induction is None else self.induction.top(1)[0]
        return {
            "model": self.name,
            "given": self.given,
            "layers": shape[0],
            "heads": shape[1],
            **columns("loss", self.estimate("loss")),
            **columns("icl", self.estimate("icl")),
            "above": None if self.induction is None else len(self.found),
            "strongest": None if strongest is None else str(strongest[0]),
            "strongest_score": math.nan if strongest is None else strongest[1],
            "knocked_out": None if study is None else names_of(study.heads, between=" "),
            "method": None if study is None else study.method,
            **columns("effect", self.estimate("effect")),
            **columns("removed", None if study is None else study.share),
            "p_value": math.nan if study is None or study.p_value is None else study.p_value,
            "weights": None if of is None else of.weights,
            "text": None if of is None else of.text,
        }


_WHERE = ("early", "late", "window", "estimator")


@packable
@dataclass(frozen=True)
class Difference:
    """How much two models differ in one quantity."""

    quantity: str
    """A name in `QUANTITIES`."""
    first: str
    """One model."""
    second: str
    """The other."""
    difference: Estimate
    """The first minus the second, in nats; its interval holds with those of all other pairs."""
    paired: bool
    """Whether both were measured on the same tokens, and are compared sequence by sequence."""


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Models beside each other."""

    models: tuple[Compared, ...]
    """The models, in the order in which they were given."""
    threshold: float
    """Induction score above which a head counts."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """None: each of `models` has its own."""

    def __getitem__(self, name: str) -> Compared:
        """A model by its name.

        Raises:
            KeyError: There is none of that name.
        """
        for one in self.models:
            if one.name == name:
                return one
        names = [one.name for one in self.models]
        near = checks.closest(name, names) or f"there are {', '.join(names)}"
        raise KeyError(f"no model {checks.shown(name)} here; {near}")

    def __iter__(self) -> Iterator[Compared]:
        """The models."""
        return iter(self.models)

    def __len__(self) -> int:
        """How many models there are."""
        return len(self.models)

    def differences(self, quantity: str | None = None) -> tuple[Difference, ...]:
        """How much every two models differ in a quantity, or in each.

        Two models are left out where the quantity was not measured of both, or not at the same
        positions, by the same estimator and method.

        Args:
            quantity: A name in `QUANTITIES`; None: all of them.

        Raises:
            ValueError: There is no such quantity.
        """
        if quantity is None:
            return tuple(one for name in QUANTITIES for one in self.differences(name))
        checks.one_of("quantity", quantity, QUANTITIES)
        pairs = [(a, b) for a, b in combinations(self.models, 2) if a.is_comparable(b, quantity)]
        level = 1 - 0.05 / max(1, len(pairs))
        return tuple(
            Difference(
                quantity,
                a.name,
                b.name,
                a.minus(b, quantity, confidence=level),
                a.shares_text(b),
            )
            for a, b in pairs
        )

    def lowest(self, quantity: str) -> str | None:
        """The model whose quantity is below that of every other, with intervals that hold for all
        pairs at once; None where no model is told from all others.

        Raises:
            ValueError: There is no such quantity.
        """
        told = self.differences(quantity)
        for one in self.models:
            below = [d for d in told if d.first == one.name and d.difference.high < 0]
            below += [d for d in told if d.second == one.name and d.difference.low > 0]
            if len(below) == len(self.models) - 1 > 0:
                return one.name
        return None

    def to_frame(self) -> pd.DataFrame:
        """One row for each model: `model`, `given`, `layers`, `heads`; `loss` and `icl` in nats;
        `above`, how many heads score above the threshold, the `strongest` and its
        `strongest_score`; the heads that were `knocked_out`, by which `method`, the `effect` on the
        ICL score in nats, which part of it is `removed`, and the `p_value` among control sets; and
        SHA-256 of `weights` and `text`. Estimates have `_low` and `_high` columns, of 95%."""
        import pandas as pd

        return pd.DataFrame([one.to_row() for one in self.models])

    def differences_frame(self) -> pd.DataFrame:
        """One row for every two models and quantity: `quantity`, `first`, `second`, `difference`
        with `difference_low` and `difference_high` (corrected for the number of pairs), `paired`,
        and the number of sequences, `n`, where it is paired."""
        import pandas as pd

        rows = [
            {
                "quantity": one.quantity,
                "first": one.first,
                "second": one.second,
                **columns("difference", one.difference),
                "paired": one.paired,
                "n": one.difference.n,
            }
            for one in self.differences()
        ]
        names = ["quantity", "first", "second", *columns("difference", None), "paired", "n"]
        return pd.DataFrame(rows, columns=names).astype({"n": "Int64"})

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Loss, ICL score, what goes without the heads, and the strongest induction score of every
        model, with 95% intervals: one row a model.

        Raises:
            ValueError: There is no such theme.
        """
        figure = comparison_figure(
            [one.name for one in self.models],
            {
                words: [one.estimate(quantity) for one in self.models]
                for quantity, words in QUANTITIES.items()
            },
            [None if one.induction is None else one.induction.top(1)[0] for one in self.models],
            threshold=self.threshold,
        )
        return themed(figure, theme)

    def __repr__(self) -> str:
        """A line for each model."""
        lines = [f"Comparison({len(self.models)} models)"]
        for one in self.models:
            icl, above = one.estimate("icl"), len(one.found)
            said = [] if icl is None else [f"ICL score {icl} nats"]
            said += (
                []
                if one.induction is None
                else [f"{above} head{'s' * (above != 1)} above {self.threshold:g}"]
            )
            lines.append(f"  {one.name}: {', '.join(said)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def distinct_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or all of it where the last parts of two are the same; a number
    beside it where the whole is."""
    short = [_last(name) for name in names]
    chosen = [
        last if short.count(last) == 1 else name for last, name in zip(short, names, strict=True)
    ]
    seen: Counter[str] = Counter()

    def numbered(name: str) -> str:
        seen[name] += 1
        return name if seen[name] == 1 else f"{name} ({seen[name]})"

    return [numbered(name) for name in chosen]


def _last(name: str) -> str:
    return PurePath(name).name or name
