"""What all figures share: colours, the template, and the parts that several of them draw.

Backgrounds are transparent and text is mid-grey, so that figures are legible on a light and on a
dark page alike. Colours mean the same thing everywhere: blue is the clean model, grey is chance or
a control, and each ablation method has its own colour.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from induction_lens.estimates import Estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go

CLEAN = "#3b7dd8"
CONTROL = "#8b93a1"
METHOD_COLORS: Mapping[str, str] = {
    "zero": "#9b5fc0",
    "mean": "#d9662b",
    "resample": "#1f9d74",
    "pattern-preserving": "#c2427f",
}
_OTHER_METHODS = ("#7a8f1c", "#2b9bb3", "#a0703c", "#5a63c8")
SEQUENTIAL = [[0.0, "#eef2f7"], [0.35, "#9dbfe6"], [0.7, "#3b7dd8"], [1.0, "#123f7d"]]
DIVERGING = [
    [0.0, "#1f7a5c"],
    [0.25, "#8cc9b2"],
    [0.5, "#f1f2f4"],
    [0.75, "#ecaa85"],
    [1.0, "#b8480f"],
]
TEXT = "#7b838f"
GRID = "rgba(127, 135, 148, 0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
Z95 = 1.96
"""Half-width of a 95% interval, in standard errors."""


def method_color(label: str) -> str:
    """The colour of an ablation method: the same in every figure, also for a user's own."""
    if label in METHOD_COLORS:
        return METHOD_COLORS[label]
    return _OTHER_METHODS[sum(label.encode()) % len(_OTHER_METHODS)]


def template() -> go.layout.Template:
    """The look that all figures share."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zerolinecolor": "rgba(127, 135, 148, 0.55)",
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 8},
        "fixedrange": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": TEXT},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "coloraxis": {
                "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9, "tickfont.size": 11}
            },
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hoverlabel": {"font": {"family": FONT}},
            "dragmode": False,
        }
    )


def new_figure(traces: Sequence[Any], *, height: int) -> go.Figure:
    """A figure with the common template, some traces and a height in pixels."""
    import plotly.graph_objects as go

    figure = go.Figure(data=list(traces))
    figure.update_layout(template=template(), height=height)
    return figure


def add_band(
    figure: go.Figure,
    x: list[float],
    mean: list[float],
    half: list[float],
    *,
    name: str,
    color: str,
) -> None:
    """Add a line, and the band of `half` on each side of it."""
    import plotly.graph_objects as go

    upper = [m + h for m, h in zip(mean, half, strict=True)]
    lower = [m - h for m, h in zip(mean, half, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=[*x, *reversed(x)],
            y=[*upper, *reversed(lower)],
            fill="toself",
            fillcolor=translucent(color),
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
        )
    )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=mean,
            name=name,
            legendgroup=name,
            mode="lines",
            line={"color": color, "width": 2.2 if name == "clean" else 1.8},
            customdata=half,
            hovertemplate=f"{name}, position %{{x:.0f}}: %{{y:.3f}} ± %{{customdata:.3f}}"
            "<extra></extra>",
        )
    )


def add_estimate(
    figure: go.Figure,
    name: str,
    estimate: Estimate,
    *,
    color: str,
    label: str | None = None,
) -> None:
    """Add a dot with its interval, where that is bounded, in the row `name`; `label`: what it says
    when pointed at, None: name and numbers."""
    import plotly.graph_objects as go

    bounded = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    figure.add_trace(
        go.Scatter(
            x=[estimate.value],
            y=[name],
            mode="markers",
            marker={"size": 11, "color": color},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [estimate.high - estimate.value if bounded else 0.0],
                "arrayminus": [estimate.value - estimate.low if bounded else 0.0],
                "color": color,
                "thickness": 2.5,
                "width": 0,
            },
            hovertemplate=f"{label or f'{name}: {estimate}'}<extra></extra>",
            showlegend=False,
        )
    )


def color_axis(
    figure: go.Figure,
    scale: list[list[Any]],
    low: float,
    high: float,
    title: str | None = None,
) -> None:
    """Give a heat map its colours, from `low` to `high`, and perhaps a title."""
    axis: dict[str, Any] = {"colorscale": scale, "cmin": low, "cmax": high}
    if title is not None:
        bar = {"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": title}}
        axis["colorbar"] = bar
    kind = "diverging" if scale is DIVERGING else "sequential"  # pages have dark ones of both
    figure.update_layout(coloraxis=axis, meta={"scale": kind})


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would read `<b>` as markup."""
    return html.escape(text, quote=False)


def translucent(color: str) -> str:
    """A colour written as `#rrggbb`, for areas that others shine through."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.16)"


def between(first: str, second: str, share: float) -> str:
    """A colour between two, all written as `#rrggbb`."""
    pairs = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
