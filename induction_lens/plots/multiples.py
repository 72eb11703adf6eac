"""Small multiples: the same figure of several things, side by side on the same axes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.style import color_axis, new_figure, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

CELL = 150
"""Height of each in pixels, without its title."""
GAP = 66
"""Pixels between rows, for titles and ticks."""
TITLE = 34
"""Pixels of these above a row."""
_SHARED = ("type", "exponentformat", "title", "showgrid", "zeroline")
_LONGEST = 25  # characters in a line of a title


def small_multiples(figures: Mapping[str, go.Figure], *, n_columns: int = 4) -> go.Figure:
    """Figures of one kind in a grid, with common axes and colours, and a title over each.

    On a page, the number of columns follows the width of the page.

    Args:
        figures: Figures with one pair of axes each (and perhaps a second vertical axis), by title.
        n_columns: Most of them side by side.

    Raises:
        ValueError: There is no figure, or no column.

    Examples:
        >>> runs = [il.tracking.Trajectory.read(f"runs/phase-{n}l-seed-0") for n in (1, 2)]
        >>> figure = il.plots.small_multiples({run.name: run.plot() for run in runs})
        >>> [title.text for title in figure.layout.annotations]
        ['phase-1l-seed-0', 'phase-2l-seed-0']
    """
    remedy = "pass a dictionary of figures by title"
    checks.instance("figures", figures, Mapping, remedy)
    if not figures:
        raise checks.refuse("figures", "at least one figure", figures, remedy)
    n_columns = checks.whole_number("n_columns", n_columns, least=1, remedy="for instance 4")
    together = new_figure([], height=100)
    for index, (title, figure) in enumerate(figures.items()):
        _add(together, figure, index, title)
    _share_colors(together, list(figures.values()))
    first = next(iter(figures.values())).layout
    titles = [_lines(html.unescape(first[axis].title.text or "")) for axis in ("xaxis", "yaxis")]
    together.update_layout(meta={**(together.layout.meta or {}), "grid": _about(figures, titles)})
    lay_out(together, n_columns)
    return together


def lay_out(figure: go.Figure, n_columns: int) -> None:
    """Give the parts of small multiples their places; pages do the same for their width."""
    grid = figure.layout.meta["grid"]
    n = grid["n"]
    n_columns = min(n_columns, n)
    n_rows = math.ceil(n / n_columns)
    height = n_rows * (CELL + GAP) + 24
    inner = height - 24
    between = 0.2 / n_columns
    width = (1 - between * (n_columns - 1)) / n_columns
    for index in range(n):
        row, column = divmod(index, n_columns)
        left = column * (width + between)
        top = 1 - (row * (CELL + GAP) + TITLE) / inner
        x, y = figure.layout[_axis("x", index)], figure.layout[_axis("y", index)]
        x.domain = [left, left + width]
        y.domain = [max(0.0, top - CELL / inner), top]
        x.title.text = grid["titles"][0] if index + n_columns >= n else None
        y.title.text = grid["titles"][1] if column == 0 else None
        figure.layout.annotations[index].update(x=left, y=top)
    figure.update_layout(height=height)


def _about(figures: Mapping[str, go.Figure], titles: list[str]) -> dict[str, Any]:
    return {"n": len(figures), "cell": CELL, "gap": GAP, "title": TITLE, "titles": titles}


def _add(together: go.Figure, figure: go.Figure, index: int, title: str) -> None:
    """Add one figure's traces, marks and axes under names of their own."""
    traces: Any = figure.data
    renamed = {"x": _short("x", index), "y": _short("y", index)}
    has_second = any(trace.yaxis == "y2" for trace in traces)
    renamed["y2"] = f"y{1000 + index}"
    for trace in traces:
        place: dict[str, Any] = {"xaxis": renamed["x"], "yaxis": renamed[trace.yaxis or "y"]}
        together.add_trace(trace)
        together.data[-1].update(showlegend=False, **place)
    axes: dict[str, Any] = {}
    for letter, anchor in (("x", renamed["y"]), ("y", renamed["x"])):
        name = _axis(letter, index)
        axes[name] = {**_kept(figure.layout[f"{letter}axis"]), "anchor": anchor}
        axes[name]["tickfont"] = {"size": 10}
        if index > 0:
            axes[name]["matches"] = letter
    if has_second:
        beside = {**_kept(figure.layout.yaxis2), "overlaying": renamed["y"], "anchor": renamed["x"]}
        axes[f"yaxis{1000 + index}"] = {**beside, "side": "right", "title": None}
    together.update_layout(axes)
    for shape in figure.layout.shapes:
        across = renamed["x"]
        up = f"{renamed['y']} domain"
        together.add_shape(shape)
        together.layout.shapes[-1].update(xref=across, yref=up)
    together.add_annotation(
        text=_lines(title),
        **{"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"},
        showarrow=False,
        align="left",
        font={"size": 11},
    )


def _lines(text: str) -> str:
    """A text broken into lines that are no wider than a cell."""
    return "<br>".join(map(plain, wrap(text, _LONGEST, break_on_hyphens=False)))


def _kept(axis: Any) -> dict[str, Any]:
    """What of an axis is kept: its kind and range."""
    known = axis.to_plotly_json()
    kept = {name: known[name] for name in _SHARED if name in known and name != "title"}
    if "range" in known:
        kept["range"] = known["range"]
    return kept


def _share_colors(together: go.Figure, figures: list[go.Figure]) -> None:
    """One colour axis for all: of their kind, as wide as the widest."""
    kinds = [(figure.layout.meta or {}).get("scales", {}).get("coloraxis") for figure in figures]
    if kinds[0] is None:
        return
    axes = [figure.layout.coloraxis for figure in figures]
    low = min(axis.cmin for axis in axes)
    high = max(axis.cmax for axis in axes)
    color_axis(together, kinds[0], low, high, title=axes[0].colorbar.title.text)


def _short(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"


def _axis(letter: str, index: int) -> str:
    return f"{letter}axis" if index == 0 else f"{letter}axis{index + 1}"
