"""The template that all figures share, and the parts that several of them draw.

Without a theme, backgrounds are transparent and text is mid-grey, so that figures are legible on a
light and on a dark page alike; `themed` gives one of either kind.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from induction_lens.estimates import Estimate
from induction_lens.style.palette import (
    CATEGORICAL,
    GRID,
    SCALES,
    TEXT,
    Kind,
    translucent,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
COLORBAR = {
    **{"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}},
    **{"len": 150, "lenmode": "pixels", "y": 1, "yanchor": "top", "title": {"font": {"size": 11}}},
}
Z95 = 1.96
"""Half-width of a 95% interval, in standard errors."""


def template() -> go.layout.Template:
    """The look that all figures share."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zerolinecolor": "rgba(127, 135, 148, 0.55)",
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12}},
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
            "coloraxis": {"colorbar": COLORBAR},
            "colorway": CATEGORICAL,
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
    kind: Kind,
    low: float,
    high: float,
    *,
    title: str | None = None,
    axis: str = "coloraxis",
) -> None:
    """Give the heat maps of a colour axis their colours, from `low` to `high`, and perhaps a title.

    That the axis is of this kind stands in the layout's `meta`, so that themes and pages find it.
    """
    colors: dict[str, Any] = {"colorscale": SCALES["light"][kind], "cmin": low, "cmax": high}
    if title is not None:
        colors["colorbar"] = {"title": {"text": title}}
    known = dict(figure.layout.meta or {})
    scales = {**known.get("scales", {}), axis: kind}
    figure.update_layout({axis: colors, "meta": {**known, "scales": scales}})


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would read `<b>` as markup."""
    return html.escape(text, quote=False)


def tokens_axis(figure: go.Figure, last: float) -> None:
    """The axis of training, from the ninetieth part of `last` on: before that little happens that
    these figures are about, and a log scale would give it half of the room."""
    shown = [math.log10(last / 90), math.log10(last * 1.04)]
    title = "training tokens (log scale)"
    figure.update_xaxes(type="log", range=shown, title_text=title, exponentformat="SI")
