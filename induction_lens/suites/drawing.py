"""Drawings of models beside each other, and of what is measured of them against their size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from induction_lens.estimates import Estimate
from induction_lens.heads import Head
from induction_lens.style import CLEAN, CONTROL, METHOD_COLORS, new_figure, plain, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_ROW, _AROUND = 36, 110  # pixels
_SCORE = "strongest induction score"


def comparison_figure(
    names: Sequence[str],
    estimates: Mapping[str, Sequence[Estimate | None]],
    strongest: Sequence[tuple[Head, float] | None],
    *,
    threshold: float,
) -> go.Figure:
    """One row a model, one panel a quantity: dots with their intervals, where these are bounded.

    Args:
        names: The models.
        estimates: By quantity in words: of each model, in nats.
        strongest: The strongest head of each model, and its induction score.
        threshold: A line in the panel of these.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = {words: of for words, of in estimates.items() if any(one is not None for one in of)}
    scored = any(one is not None for one in strongest)
    titles = [f"{words}, nats" for words in shown] + [_SCORE] * scored
    figure: Any = make_subplots(
        1, max(1, len(titles)), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    labels = [plain(name) for name in names]
    colors = [*[CLEAN] * (len(shown) - 1), METHOD_COLORS["mean"]] if len(shown) > 1 else [CLEAN]
    for column, (of, color) in enumerate(zip(shown.values(), colors, strict=False), start=1):
        known = [(label, one) for label, one in zip(labels, of, strict=True) if one is not None]
        figure.add_trace(_dots(known, color), row=1, col=column)
    if scored:
        known = [(label, one) for label, one in zip(labels, strongest, strict=True) if one]
        figure.add_trace(
            go.Scatter(
                x=[score for _, (_, score) in known],
                y=[label for label, _ in known],
                mode="markers+text",
                text=[str(head) for _, (head, _) in known],
                textposition="middle right",
                marker={"size": 10, "color": CLEAN},
                hovertemplate="%{y}: head %{text}, %{x:.3f}<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=len(titles),
        )
        figure.update_xaxes(range=[-0.05, 1.05], row=1, col=len(titles))
        last: Any = {"row": 1, "col": len(titles)}  # stubs of plotly know texts alone
        figure.add_vline(x=threshold, line={"color": CONTROL, "dash": "dot"}, **last)
    for annotation in figure.layout.annotations:
        annotation.font = {"size": 12}
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1])
    figure.update_layout(template=template(), height=_AROUND + _ROW * len(names))
    figure.update_layout(margin={"t": 34})
    return figure


def _dots(known: Sequence[tuple[str, Estimate]], color: str) -> Any:
    import plotly.graph_objects as go

    def reach(value: float, end: float) -> float:
        return abs(end - value) if math.isfinite(end) else 0.0

    return go.Scatter(
        x=[one.value for _, one in known],
        y=[label for label, _ in known],
        mode="markers",
        marker={"size": 10, "color": color},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [reach(one.value, one.high) for _, one in known],
            "arrayminus": [reach(one.value, one.low) for _, one in known],
            "color": color,
            "thickness": 2,
            "width": 0,
        },
        customdata=[str(one) for _, one in known],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
        showlegend=False,
    )


def size_figure(frame: pd.DataFrame, quantity: str, *, words: str, unit: str) -> go.Figure:
    """A column of a family's table, with its interval where it has one, against parameters."""
    import plotly.graph_objects as go

    rows: Any = frame[frame[quantity].notna()].to_dict("records")  # pyright: ignore[reportCallIssue]
    low, high = f"{quantity}_low", f"{quantity}_high"
    known = low in frame
    ends = [
        (row[quantity] - row[low], row[high] - row[quantity]) if known else (0.0, 0.0)
        for row in rows
    ]
    ends = [end if all(map(math.isfinite, end)) else (0.0, 0.0) for end in ends]
    figure = new_figure([], height=320)
    figure.add_trace(
        go.Scatter(
            x=[row["parameters"] for row in rows],
            y=[row[quantity] for row in rows],
            text=[plain(row["model"]) for row in rows],
            mode="markers",
            marker={"size": 10, "color": CLEAN},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [above for _, above in ends],
                "arrayminus": [below for below, _ in ends],
                "color": CLEAN,
                "width": 0,
            },
            hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            showlegend=False,
        )
    )
    if quantity == "removed":
        figure.add_trace(
            go.Scatter(
                x=[row["parameters"] for row in rows],
                y=[row["control_removed"] for row in rows],
                mode="markers",
                marker={"size": 8, "color": CONTROL, "symbol": "diamond"},
                hovertemplate="random heads: %{y:.3f}<extra></extra>",
                showlegend=False,
            )
        )
    suffix = ", nats" if unit == "nats" else ""
    figure.update_xaxes(type="log", title_text="parameters in blocks")
    figure.update_yaxes(title_text=words + suffix)
    return figure
