"""Attention heads, and the scores that detectors and ablations give them.

A `Head` is a layer and a head index. `HeadScores` holds one number per head with what is needed to
read it: the best possible value, what chance looks like, and how sure the number is. `ScoreTable`
holds the scores of several detectors over the same model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Union

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HeadLike = Union["Head", str, tuple[int, int]]
Unit = Literal["attention", "copying", "nats"]


@dataclass(frozen=True, order=True)
class Head:
    """One attention head (query head, where keys and values are shared between heads)."""

    layer: int
    """Layer, from 0."""
    head: int
    """Head index in its layer, from 0."""

    def __str__(self) -> str:
        """Write the head as the literature does: `1.6` is head 6 of layer 1."""
        return f"{self.layer}.{self.head}"

    @classmethod
    def parse(cls, head: HeadLike) -> Head:
        """Read a head from `"1.6"`, `(1, 6)` or a `Head`.

        Raises:
            ValueError: if the text is not two non-negative integers joined by a dot.
        """
        if isinstance(head, Head):
            return head
        if isinstance(head, str):
            found = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", head)
            if found is not None:
                return cls(int(found[1]), int(found[2]))
        elif _is_pair(head) and min(head) >= 0:
            return cls(*map(int, head))
        raise ValueError(
            f"expected a head such as '1.6' or (1, 6), got {head!r}; "
            "write layer and head index, both counted from 0"
        )


def _is_pair(head: Any) -> bool:
    """Whether these are two whole numbers, NumPy's included."""
    pair = isinstance(head, Sequence) and len(head) == 2
    return pair and all(isinstance(index, Integral) for index in head)


def parse_heads(heads: Iterable[HeadLike] | HeadLike, *, n_layers: int, n_heads: int) -> list[Head]:
    """Read a set of heads and check it against a model's shape.

    Raises:
        ValueError: if a head is not in the model, or is named twice, or there is none.
    """
    several: Any = heads
    if isinstance(heads, (Head, str)) or (isinstance(heads, tuple) and _is_pair(heads)):
        several = [heads]
    elif not isinstance(heads, Iterable):
        several = [Head.parse(heads)]  # an error that says how heads are written
    parsed = [Head.parse(head) for head in several]
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
            f"expected each head once, got {', '.join(map(str, twice))} more than once; "
            "remove the duplicates"
        )
    return sorted(parsed)


@dataclass(frozen=True)
class HeadScores:
    """One score for every head of a model."""

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
    """Upper 97.5% bound of the same head's score on shuffled tokens, where it means something."""
    sem: Float[Tensor, "layer head"] | None = None
    """Standard error of the score over sequences."""

    def __repr__(self) -> str:
        """In one line: what was measured, of how many heads, and the highest."""
        n_layers, n_heads = self.values.shape
        [(head, score)] = self.top(1)
        sizes = f"{n_layers} layers of {n_heads} heads"
        return f"HeadScores({self.name}: {sizes}, highest {head} with {score:.3f})"

    def __getitem__(self, head: HeadLike) -> float:
        """The score of one head."""
        n_layers, n_heads = self.values.shape
        [parsed] = parse_heads([head], n_layers=n_layers, n_heads=n_heads)
        return float(self.values[parsed.layer, parsed.head])

    def chance(self, head: HeadLike) -> float:
        """The largest score that chance explains: of uniform attention or of shuffled tokens."""
        parsed = Head.parse(head)
        floor = -math.inf if self.uniform is None else self.uniform
        if self.null is None:
            return floor
        return max(floor, float(self.null[parsed.layer, parsed.head]))

    def top(self, k: int = 10) -> list[tuple[Head, float]]:
        """The `k` highest scores with their heads, highest first."""
        n_heads = self.values.shape[1]
        order = torch.argsort(self.values.flatten(), descending=True, stable=True)[:k].tolist()
        heads = [Head(*divmod(index, n_heads)) for index in order]
        return [(head, self[head]) for head in heads]

    def above(self, threshold: float = 0.3) -> list[Head]:
        """Heads whose score exceeds the threshold *and* what chance explains, highest first."""
        ranked = self.top(self.values.numel())
        return [head for head, score in ranked if score > max(threshold, self.chance(head))]

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `layer`, `head`, `score` (`effect` for effects of knock-outs), and
        `sem` and `null` where they are known."""
        import pandas as pd

        columns: dict[str, object] = _head_columns(self.values)
        columns["effect" if self.unit == "nats" else "score"] = self.values.flatten().tolist()
        if self.sem is not None:
            columns["sem"] = self.sem.flatten().tolist()
        if self.null is not None:
            columns["null"] = self.null.flatten().tolist()
        return pd.DataFrame(columns)

    def plot(self) -> go.Figure:
        """Heat map of the scores, layers down and heads across."""
        return ScoreTable({self.name: self}).plot()

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


@dataclass(frozen=True)
class ScoreTable(Mapping[str, HeadScores]):
    """The scores of several detectors over one model, by detector name."""

    scores: Mapping[str, HeadScores]
    """Scores by detector name."""

    def __repr__(self) -> str:
        """A line for each detector."""
        return "\n".join(["ScoreTable", *(f"  {scores!r}" for scores in self.scores.values())])

    def __getitem__(self, name: str) -> HeadScores:
        """The scores of one detector."""
        if name not in self.scores:
            raise KeyError(f"no scores of {name!r} here; there are {', '.join(self.scores)}")
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        """Detector names, in the order they were asked for."""
        return iter(self.scores)

    def __len__(self) -> int:
        """How many detectors there are."""
        return len(self.scores)

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `layer`, `head`, and one column per detector."""
        import pandas as pd

        first = next(iter(self.scores.values()))
        columns: dict[str, object] = _head_columns(first.values)
        for name, scores in self.scores.items():
            columns[name] = scores.values.flatten().tolist()
        return pd.DataFrame(columns)

    def plot(self) -> go.Figure:
        """Heat maps side by side, one per detector, layers down and heads across."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        names = list(self.scores)
        figure = make_subplots(1, len(names), subplot_titles=names, shared_yaxes=True)
        for column, scores in enumerate(self.scores.values(), start=1):
            signed = scores.unit != "attention"
            limit = 1.0 if scores.unit != "nats" else float(scores.values.abs().max()) or 1.0
            heat = go.Heatmap(
                z=scores.values.tolist(),
                zmin=-limit if signed else 0.0,
                zmax=limit,
                colorscale="RdBu" if signed else "Blues",
                coloraxis=None,
                showscale=column == len(names),
                hovertemplate=f"head %{{y}}.%{{x}}<br>{scores.name} %{{z:.3f}}<extra></extra>",
            )
            figure.add_trace(heat, row=1, col=column)
        figure.update_xaxes(title="head", dtick=1)
        figure.update_yaxes(title="layer", dtick=1, autorange="reversed", col=1)
        return figure

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def _head_columns(values: Float[Tensor, "layer head"]) -> dict[str, object]:
    n_layers, n_heads = values.shape
    return {
        "layer": [layer for layer in range(n_layers) for _ in range(n_heads)],
        "head": [head for _ in range(n_layers) for head in range(n_heads)],
    }
