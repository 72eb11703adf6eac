"""The figure of a family: what is measured of each model, against its size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from induction_lens.style import CLEAN, CONTROL, new_figure, plain

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


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
