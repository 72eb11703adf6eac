"""Figures for a light or for a dark background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.style.palette import (
    INK,
    PAPER,
    SCALES,
    SOFT,
    THEMES,
    Theme,
    color_at,
    ink_on,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def themed(figure: go.Figure, theme: Theme | str | None) -> go.Figure:
    """Give a figure of this package the background, text and scales of a theme, in place.

    Args:
        figure: The figure.
        theme: `light` or `dark`; None leaves the background transparent and the text mid-grey,
            which can be read on either.

    Returns:
        The same figure.

    Raises:
        ValueError: There is no such theme.

    Examples:
        >>> figure = il.plots.head_map(il.score_heads(il.load("toy-2l"))["induction"])
        >>> il.plots.themed(figure, "dark").layout.paper_bgcolor
        '#12151b'
    """
    if theme is None:
        return figure
    name: Theme = checks.one_of("theme", theme, THEMES)  # pyright: ignore[reportAssignmentType]
    scales = (figure.layout.meta or {}).get("scales", {})
    for axis, kind in scales.items():
        figure.layout[axis].colorscale = SCALES[name][kind]
    for shape in figure.layout.shapes:
        if shape.line.color in INK.values():
            shape.line.color = INK[name]
    figure.update_layout(
        paper_bgcolor=PAPER[name], plot_bgcolor=PAPER[name], font={"color": SOFT[name]}
    )
    ink_numbers(figure)
    return figure


def ink_numbers(figure: go.Figure) -> None:
    """Make the numbers in cells black or white, whichever can be read on the cell's colour."""
    traces: Any = figure.data
    for trace in traces:
        axis = (trace.meta or {}).get("numbers_of")
        if axis is not None:
            colors = figure.layout[axis]
            trace.textfont.color = [
                _ink(value, colors.colorscale, colors.cmin, colors.cmax)
                for value in trace.customdata
            ]


def _ink(
    value: float | None, scale: Sequence[Sequence[float | str]], low: float, high: float
) -> str:
    if value is None:
        return INK["light"]
    return ink_on(color_at(scale, (value - low) / (high - low)))
