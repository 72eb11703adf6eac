"""Heat maps of heads: layers down, heads across, with numbers in the cells where they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from induction_lens.style.figures import color_axis, new_figure, plain
from induction_lens.style.palette import INK, MARKED
from induction_lens.style.themes import ink_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_NUMBERED = 16
"""Heads in a layer of which the cells can hold numbers."""
MOST_ALONE = 32
"""Cells of a map whose numbers need no bar of colours beside them."""
NARROWEST = 24
"""Pixels of a cell that a number fits into."""
_COLUMNS = 3  # maps side by side
_MARGIN = 46  # pixels, for a title and an axis


@dataclass(frozen=True)
class HeadMap:
    """What one map shows."""

    name: str
    """What its numbers are called when they are pointed at."""
    values: Float[Tensor, "layer head"]
    """A number for each head; NaN is an empty cell."""
    signed: bool = False
    """Whether the numbers have a sign: colours are then symmetric about zero."""
    limit: float = 1.0
    """The number of the strongest colour."""
    title: str = ""
    """What stands above it."""
    marked: tuple[tuple[int, int], ...] = ()
    """Layers and heads to outline."""
    note: str | None = None
    """What stands in place of the numbers, where nothing was measured."""


def head_maps(maps: Sequence[HeadMap], *, n_columns: int = _COLUMNS) -> go.Figure:
    """Maps of the heads of one model, side by side, in rows of `n_columns`.

    Maps of one kind of numbers share their colours.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    n_columns = min(n_columns, len(maps))
    n_rows = math.ceil(len(maps) / n_columns)
    n_layers, n_heads = maps[0].values.shape
    map_height = row_height(n_layers) * n_layers
    height = 24 + n_rows * (map_height + _MARGIN)
    figure = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[plain(one.title) for one in maps] if len(maps) > 1 else None,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=_MARGIN / height if n_rows > 1 else 0,
        figure=go.Figure(new_figure([], height=height)),
    )
    axes = _color_axes(figure, maps)
    numbered = n_heads <= MOST_NUMBERED
    for index, one in enumerate(maps):
        place = {"row": index // n_columns + 1, "col": index % n_columns + 1}
        _add_map(figure, one, axes[index], place, numbered=numbered)
    _label_axes(figure, len(maps), n_columns, shape=(n_layers, n_heads))
    if n_layers * n_heads <= MOST_ALONE and numbered:
        figure.update_coloraxes(showscale=False)
    figure.update_layout(margin_t=28 if len(maps) > 1 else 12)
    figure.update_annotations(font_size=12)
    ink_numbers(figure)
    return figure


def fit_numbers(figure: go.Figure, width: float) -> None:
    """Show the numbers in cells if they fit into a figure of this width in pixels, in place."""
    traces: Any = figure.data
    for trace in traces:
        meta = trace.meta or {}
        if "numbers_of" not in meta:
            continue
        start, stop = figure.layout[(trace.xaxis or "x").replace("x", "xaxis")].domain or (0, 1)
        fits = (width - 60) * (stop - start) / meta["columns"] >= NARROWEST
        trace.visible = fits
        numbers_say_all = fits and meta["columns"] * meta["rows"] <= MOST_ALONE
        figure.layout[meta["numbers_of"]].showscale = not numbers_say_all


def row_height(n_layers: int) -> int:
    """Pixels of a layer."""
    return min(46, max(14, 720 // n_layers))


def cells(values: Float[Tensor, "row column"]) -> list[list[float | None]]:
    """A table for a heat map, where NaN is an empty cell."""
    return [[None if math.isnan(cell) else cell for cell in row] for row in values.tolist()]


def largest(values: Float[Tensor, "layer head"]) -> float:
    """The largest magnitude, for a scale: 1 where there is none."""
    return float(values.nan_to_num(nan=0.0).abs().max()) or 1.0


def short(value: float | None) -> str:
    """A number as short as it can be read in a cell: `.97`, `−.12`, `1.0`, `0`; none is empty."""
    if value is None:
        return ""
    size = abs(value)
    digits = 2 if round(size, 2) < 1 else 1 if round(size, 1) < 10 else 0
    text = f"{size:.{digits}f}"
    if float(text) == 0:
        return "0"
    sign = "−" if value < 0 else ""
    return sign + (text.removeprefix("0") if digits == 2 else text)


def _color_axes(figure: go.Figure, maps: Sequence[HeadMap]) -> list[str]:
    """The name of each map's colour axis: maps with the same scale and limit share one."""
    names: dict[tuple[bool, float], str] = {}
    for one in maps:
        kind = (one.signed, one.limit)
        if kind not in names:
            axis = f"coloraxis{len(names) + 1 if names else ''}"
            low = -one.limit if one.signed else 0.0
            scale = "diverging" if one.signed else "sequential"
            color_axis(figure, scale, low, one.limit, axis=axis)
            names[kind] = axis
    share = 1 / len(names)
    for index, axis in enumerate(names.values()):  # colour bars stand below each other
        bar = {"len": 0.95 * share, "lenmode": "fraction", "y": 1 - share * index}
        figure.update_layout({axis: {"colorbar": bar}})
    return [names[one.signed, one.limit] for one in maps]


def _add_map(
    figure: go.Figure, one: HeadMap, axis: str, place: dict[str, Any], *, numbered: bool
) -> None:
    import plotly.graph_objects as go

    table = cells(one.values)
    heat = go.Heatmap(
        z=table,
        coloraxis=axis,
        xgap=2,
        ygap=2,
        hovertemplate=f"head %{{y}}.%{{x}}<br>{plain(one.name)} %{{z:.3f}}<extra></extra>",
    )
    figure.add_trace(heat, **place)
    if numbered and one.note is None:
        at = [(layer, head) for layer, row in enumerate(table) for head in range(len(row))]
        values = [table[layer][head] for layer, head in at]
        numbers = go.Scatter(
            x=[head for _, head in at],
            y=[layer for layer, _ in at],
            text=[short(value) for value in values],
            customdata=values,
            mode="text",
            textfont={"size": 11},
            hoverinfo="skip",
            showlegend=False,
            meta={"numbers_of": axis, "columns": one.values.shape[1], "rows": len(table)},
        )
        figure.add_trace(numbers, **place)
    for layer, head in one.marked:
        box = {"x0": head - 0.46, "x1": head + 0.46, "y0": layer - 0.46, "y1": layer + 0.46}
        line = {"color": INK["light"] if one.signed else MARKED, "width": 2.5}
        figure.add_shape(type="rect", **box, line=line, **place)
    if one.note is not None:
        said = plain(f"not measured: {one.note}")
        middle = {"x": (one.values.shape[1] - 1) / 2, "y": (len(table) - 1) / 2}
        figure.add_annotation(text=said, showarrow=False, **middle, **place)


def _label_axes(figure: go.Figure, n_maps: int, n_columns: int, *, shape: tuple[int, int]) -> None:
    """Titles at the edges, ticks that can be read, and every cell inside."""
    n_layers, n_heads = shape
    figure.update_xaxes(
        dtick=_tick(n_heads), showgrid=False, zeroline=False, range=[-0.5, n_heads - 0.5]
    )
    figure.update_yaxes(
        dtick=_tick(n_layers), showgrid=False, zeroline=False, range=[n_layers - 0.5, -0.5]
    )
    for index in range(n_maps):
        row, column = divmod(index, n_columns)
        if index + n_columns >= n_maps:
            figure.update_xaxes(title_text="head", row=row + 1, col=column + 1)
        if column == 0:
            figure.update_yaxes(title_text="layer", row=row + 1, col=column + 1)


def _tick(count: int) -> int:
    return max(1, math.ceil(count / 16))
