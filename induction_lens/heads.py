"""Attention heads, and the scores that detectors and ablations give them.

A `Head` is a layer and a head index. `HeadScores` holds one number per head with what is needed to
read it: the best possible value, what chance looks like, and how sure the number is. `ScoreTable`
holds the scores of several detectors over the same model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, Union, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.estimates import simultaneous_quantile
from induction_lens.packing import packable_by, parts_of
from induction_lens.results import Provenance, Result, with_model
from induction_lens.style import HeadMap, Theme, head_maps, largest, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HeadLike = Union["Head", str, tuple[int, int], tuple["Head", float]]
Unit = Literal["attention", "copying", "nats"]
THRESHOLD = 0.3
"""The score above which a head is called one of its kind; a convention, no measurement."""
FALSE_POSITIVES = 0.025
"""How often chance may lift one head or more of a model over what `HeadScores.chance` allows it."""


@dataclass(frozen=True, order=True)
class Head:
    """One attention head (query head, where keys and values are shared between heads).

    Examples:
        >>> il.Head.parse("1.6") == il.Head(1, 6)
        True
        >>> print(il.Head(layer=1, head=6))
        1.6
    """

    layer: int
    """Layer, from 0."""
    head: int
    """Head index in its layer, from 0."""

    def __post_init__(self) -> None:
        """Check both, because an index below 0 would mean another head, counted from the end.

        Raises:
            ValueError: If one is not a whole number, or below 0.
        """
        remedy = "layers and heads are counted from 0"
        for name in ("layer", "head"):
            index = checks.whole_number(name, getattr(self, name), least=0, remedy=remedy)
            object.__setattr__(self, name, index)

    def __str__(self) -> str:
        """Write the head as the literature does: `1.6` is head 6 of layer 1."""
        return f"{self.layer}.{self.head}"

    @classmethod
    def parse(cls, head: HeadLike) -> Head:
        """Read a head from `"1.6"`, `(1, 6)`, a `Head`, or a head with its score, as `top` gives.

        Raises:
            ValueError: If the text is not two non-negative integers joined by a dot.
        """
        if _is_scored(head):
            return head[0]
        if isinstance(head, Head):
            return head
        if isinstance(head, str):
            found = re.fullmatch(r"\s*(\d{1,9})\.(\d{1,9})\s*", head)
            if found is not None:
                return cls(int(found[1]), int(found[2]))
        elif _is_pair(head) and min(head) >= 0:
            return cls(*head)
        raise ValueError(
            f"expected a head such as '1.6' or (1, 6), got {checks.shown(head)}; "
            "write layer and head index, both counted from 0"
        )


def _is_pair(head: Any) -> TypeGuard[tuple[int, int]]:
    """Whether these are two whole numbers, NumPy's included."""
    pair = isinstance(head, Sequence) and len(head) == 2
    return pair and all(isinstance(i, Integral) and not isinstance(i, bool) for i in head)


def _is_scored(head: Any) -> TypeGuard[tuple[Head, float]]:
    """Whether this is a head with its score."""
    scored = isinstance(head, tuple) and len(head) == 2 and isinstance(head[0], Head)
    return scored and isinstance(head[1], float)


def parse_heads(heads: Iterable[HeadLike] | HeadLike, *, n_layers: int, n_heads: int) -> list[Head]:
    """Read a set of heads and check it against a model's shape.

    Raises:
        ValueError: If a head is not in the model, or is named twice, or there is none.
    """
    given: Any = heads
    if isinstance(heads, (HeadScores, ScoreTable)):
        raise checks.refuse(
            "heads", "heads such as '1.6' or (1, 6)", heads, "choose some with above() or top()"
        )
    alone = isinstance(heads, (Head, str)) or (
        isinstance(heads, tuple) and (_is_pair(heads) or _is_scored(heads))
    )
    if alone or not isinstance(heads, Iterable):  # parsing says how heads are written
        given = [heads]
    parsed = [Head.parse(head) for head in checks.several("heads", given)]
    if not parsed:
        raise ValueError(
            "expected at least one head, got none; "
            "lower the threshold of above() or name the heads yourself"
        )
    for head in parsed:
        if head.layer >= n_layers or head.head >= n_heads:
            raise ValueError(
                f"expected heads from 0.0 to {n_layers - 1}.{n_heads - 1}, got {head}; "
                f"the model has {n_layers} layers of {n_heads} heads"
            )
    twice = sorted({head for head in parsed if parsed.count(head) > 1})
    if twice:
        raise ValueError(
            f"expected each head once, got {names_of(twice)} more than once; remove the duplicates"
        )
    return sorted(parsed)


def names_of(heads: Iterable[HeadLike], *, between: str = ", ") -> str:
    """Heads in one line: `1.2, 1.5`."""
    return between.join(str(Head.parse(head)) for head in heads)


packable_by(Head, parts_of, Head, said=str)


@dataclass(frozen=True, eq=False)
class HeadScores(Result):
    """One score for every head of a model.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"))["induction"]
        >>> scores.above(0.3)
        [Head(layer=1, head=6), Head(layer=1, head=7), Head(layer=1, head=4)]
        >>> [(str(head), round(score, 2)) for head, score in scores.top(1)]
        [('1.6', 0.53)]
    """

    name: str
    """What was measured."""
    values: Float[Tensor, "layer head"]
    """The score of each head."""
    unit: Unit = "attention"
    """`attention`: a share of attention in [0, 1]; `copying`: a ratio in [-1, 1]; or `nats`."""
    ceiling: float | None = None
    """The score of a perfect head, where there is one."""
    uniform: float | None = None
    """The score of uniform causal attention on the same tokens, where it means something."""
    null: Float[Tensor, "layer head"] | None = None
    """The same head's score on shuffled tokens, where it means something."""
    sem: Float[Tensor, "layer head"] | None = None
    """Standard error of the score over sequences; infinite for a single one."""
    note: str | None = None
    """Why nothing was measured, where nothing was: all scores are NaN then."""
    over_null_sem: Float[Tensor, "layer head"] | None = None
    """Standard error of `over_null`, where each sequence is paired with its own shuffle; infinite
    for a single sequence."""
    n_sequences: int | None = None
    """Sequences that the score is over, where that is known."""
    n_units: Int[Tensor, "layer head"] | None = None
    """Units, sequences or documents, that the standard error of each head is over, where these
    differ by head."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens they are of, where that is known."""

    def __post_init__(self) -> None:
        """Check that all tables are of the same heads, and that the unit is one.

        Raises:
            ValueError: If they are not.
        """
        checks.text("name", self.name)
        checks.one_of("unit", self.unit, get_args(Unit))
        checks.text("note", self.note, optional=True)
        _check_provenance(self.provenance)
        for name in ("ceiling", "uniform"):
            checks.real_number(name, getattr(self, name), optional=True)
        remedy = "give one number for each head"
        values = checks.tensor("values", self.values, axes=("layer", "head"), remedy=remedy)
        checks.whole_number("n_sequences", self.n_sequences, least=1, optional=True)
        for name in ("null", "sem", "over_null_sem", "n_units"):
            table = getattr(self, name)
            if table is None:
                continue
            whole = name == "n_units"
            checks.tensor(name, table, axes=("layer", "head"), whole=whole, remedy=remedy)
            if table.shape != values.shape:
                condition = f"of the shape of values, {list(values.shape)}"
                raise checks.refuse(name, condition, table, remedy)

    def __repr__(self) -> str:
        """In one line: what was measured, of how many heads, and the highest."""
        n_layers, n_heads = self.values.shape
        sizes = f"{n_layers} layers of {n_heads} heads"
        if self.note is not None:
            return f"HeadScores({self.name}: {sizes}, not measured: {self.note})"
        [(head, score)] = self.top(1)
        if math.isnan(score):
            return f"HeadScores({self.name}: {sizes}, all NaN)"
        return f"HeadScores({self.name}: {sizes}, highest {head} with {score:.3f})"

    def __getitem__(self, head: HeadLike) -> float:
        """The score of one head; NaN where nothing was measured."""
        parsed = self._parsed(head)
        return float(self.values[parsed.layer, parsed.head])

    def _parsed(self, head: HeadLike) -> Head:
        n_layers, n_heads = self.values.shape
        [parsed] = parse_heads([head], n_layers=n_layers, n_heads=n_heads)
        return parsed

    @property
    def over_null(self) -> Float[Tensor, "layer head"] | None:
        """Score minus null of each head: what the tokens' content adds to position alone."""
        return None if self.null is None else self.values - self.null

    def chance(self, head: HeadLike) -> float:
        """The largest score that chance explains: of uniform attention or of shuffled tokens.

        Of shuffled tokens: `null`, and on top of it as many standard errors of score minus null as
        one head or more out of all the model's heads exceed by chance in 2.5% of models (a
        one-sided t test of `n_sequences`, by Šidák's correction). Where errors are not known, it is
        `null` itself.
        """
        parsed = self._parsed(head)
        floor = -math.inf if self.uniform is None else self.uniform
        if self.null is None:
            return floor
        return max(floor, float(self._explained_by_null()[parsed.layer, parsed.head]))

    def _explained_by_null(self) -> Float[Tensor, "layer head"]:
        """The score of each head that is significantly more than its null."""
        assert self.null is not None
        if self.over_null_sem is None:
            return self.null
        n_errors = simultaneous_quantile(
            self.values.numel(),
            # of a single sequence the error itself is infinite
            None if self.n_sequences is None else max(2, self.n_sequences),
            confidence=1 - FALSE_POSITIVES,
            one_sided=True,
        )
        return self.null + n_errors * self.over_null_sem

    def top(self, k: int = 10) -> list[tuple[Head, float]]:
        """The `k` highest scores with their heads, highest first; NaN comes last.

        Raises:
            ValueError: If `k` is not a whole number, or below 1.
        """
        k = checks.whole_number("k", k, least=1, remedy="for instance 10")
        n_heads = self.values.shape[1]
        # torch puts NaN before every number
        known = self.values.flatten().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        order = torch.argsort(known, descending=True, stable=True)[:k].tolist()
        heads = [Head(*divmod(index, n_heads)) for index in order]
        return [(head, self[head]) for head in heads]

    def above(self, threshold: float = THRESHOLD) -> list[Head]:
        """Heads whose score exceeds the threshold *and* what chance explains, highest first.

        What chance explains (`chance`) has the errors of score and null in it, and is corrected for
        the number of heads. By how much a head exceeds its null is in `over_null`. A single
        sequence has no errors, so chance explains everything: pass several.

        Raises:
            ValueError: If the threshold is not a finite number.
        """
        threshold = checks.real_number(
            "threshold", threshold, remedy=f"{THRESHOLD} is the usual one"
        )
        ranked = self.top(self.values.numel())
        return [head for head, score in ranked if score > max(threshold, self.chance(head))]

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `model`, `layer`, `head`, `score` (`effect` for effects of ablations),
        and where they are known `sem`, `n_units`, `null`, `over_null` (score minus null) and
        `over_null_sem`; and the `note`, where nothing was measured."""
        import pandas as pd

        columns: dict[str, object] = _head_columns(self.values)
        columns["effect" if self.unit == "nats" else "score"] = self.values.flatten().tolist()
        for name in ("sem", "n_units", "null", "over_null", "over_null_sem"):
            table = getattr(self, name)
            if table is not None:
                columns[name] = table.flatten().tolist()
        if self.note is not None:
            columns["note"] = self.note
        return with_model(pd.DataFrame(columns), self.provenance)

    def plot(
        self, *, marked: Iterable[HeadLike] | None = None, theme: Theme | None = None
    ) -> go.Figure:
        """Heat map of the scores, layers down and heads across.

        Args:
            marked: Heads to outline; None: of induction scores, the induction heads (`above`).
            theme: `light` or `dark`; None: legible on both, with a transparent background.

        Raises:
            ValueError: If there is no such head or theme.
        """
        return ScoreTable({self.name: self}).plot(marked=marked, theme=theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def unmeasured(scores: HeadScores, note: str) -> HeadScores:
    """The same scores where nothing was measured: NaN for every head, and why."""
    nothing = torch.full_like(scores.values, math.nan)
    return replace(
        scores,
        values=nothing,
        null=None if scores.null is None else nothing,
        sem=nothing,
        over_null_sem=None,
        n_sequences=None,
        uniform=None,
        note=note,
    )


@dataclass(frozen=True, eq=False)
class ScoreTable(Result, Mapping[str, HeadScores]):
    """The scores of several detectors over one model, by detector name."""

    scores: Mapping[str, HeadScores]
    """Scores by detector name."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens they are of, where that is known."""

    def __post_init__(self) -> None:
        """Check that there are scores, and all of the same heads.

        Raises:
            ValueError: If not.
        """
        remedy = "pass a dictionary of HeadScores by name"
        checks.instance("scores", self.scores, Mapping, remedy)
        _check_provenance(self.provenance)
        if not self.scores:
            raise checks.refuse("scores", "those of at least one detector", self.scores, remedy)
        for name, scores in self.scores.items():
            checks.text("each name of scores", name)
            checks.instance(f"scores[{name!r}]", scores, HeadScores, remedy)
        shapes = {tuple(scores.values.shape) for scores in self.scores.values()}
        if len(shapes) > 1:
            condition = "of one model, with as many layers and heads each"
            raise checks.refuse("scores", condition, sorted(shapes), "make a table for each model")

    def __repr__(self) -> str:
        """A line for each detector."""
        return "\n".join(["ScoreTable", *(f"  {scores!r}" for scores in self.scores.values())])

    def __getitem__(self, name: str) -> HeadScores:
        """The scores of one detector."""
        if not isinstance(name, str) or name not in self.scores:
            near = checks.closest(name, self.scores)
            listed = ", ".join(self.scores)
            known = f"no scores of {checks.shown(name)} here; there are {listed}"
            raise KeyError(known if near is None else f"{known}; {near}")
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        """Detector names, in the order they were asked for."""
        return iter(self.scores)

    def __len__(self) -> int:
        """How many detectors there are."""
        return len(self.scores)

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `model`, `layer`, `head`, and one column per detector; with
        `_over_null` after its name, the score minus that on shuffled tokens, where there is one.

        Where a detector had nothing to measure, its column is NaN, and `frame.attrs["notes"]` says
        why.
        """
        import pandas as pd

        first = next(iter(self.scores.values()))
        columns: dict[str, object] = _head_columns(first.values)
        for name, scores in self.scores.items():
            columns[name] = scores.values.flatten().tolist()
            if scores.over_null is not None:
                columns[f"{name}_over_null"] = scores.over_null.flatten().tolist()
        frame = with_model(pd.DataFrame(columns), self.provenance)
        notes = {name: scores.note for name, scores in self.scores.items() if scores.note}
        if notes:
            frame.attrs["notes"] = notes
        return frame

    def plot(
        self, *, marked: Iterable[HeadLike] | None = None, theme: Theme | None = None
    ) -> go.Figure:
        """Heat maps side by side, one per detector, layers down and heads across.

        Args:
            marked: Heads to outline in every map; None: the induction heads, in that of
                `induction`, as on the page of a report.
            theme: `light` or `dark`; None: legible on both, with a transparent background.

        Raises:
            ValueError: If there is no such head or theme.
        """
        outlined = self._outlined(marked)
        maps = [
            head_map_of(scores, title=name, marked=outlined.get(name, []))
            for name, scores in self.scores.items()
        ]
        return themed(head_maps(maps), theme)

    def _outlined(self, marked: Iterable[HeadLike] | None) -> dict[str, list[Head]]:
        """The heads to outline in each map."""
        if marked is None:
            induction = self.scores.get("induction")
            return {} if induction is None else {"induction": induction.above()}
        n_layers, n_heads = next(iter(self.scores.values())).values.shape
        named = checks.several("marked", marked)
        heads = parse_heads(named, n_layers=n_layers, n_heads=n_heads) if named else []
        return dict.fromkeys(self.scores, heads)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def _check_provenance(provenance: Any) -> None:
    if provenance is not None:
        remedy = "leave it out, or take that of another result"
        checks.instance("provenance", provenance, Provenance, remedy)


def head_map_of(scores: HeadScores, *, title: str = "", marked: Iterable[Head] = ()) -> HeadMap:
    """What a map of scores shows: those with a sign have colours symmetric about zero."""
    return HeadMap(
        name=scores.name,
        values=scores.values,
        signed=scores.unit != "attention",
        limit=1.0 if scores.unit != "nats" else largest(scores.values),
        title=title,
        marked=tuple((head.layer, head.head) for head in marked),
        note=scores.note,
    )


def _head_columns(values: Float[Tensor, "layer head"]) -> dict[str, object]:
    n_layers, n_heads = values.shape
    return {
        "layer": [layer for layer in range(n_layers) for _ in range(n_heads)],
        "head": [head for _ in range(n_layers) for head in range(n_heads)],
    }
