"""Figures as SVG pictures that need no script, for notebooks.

It draws what this package's figures of one pair of axes are made of: heat maps, lines, bands, dots
with intervals and bars; what it has no drawing for, it refuses. Colours of scales are CSS classes,
so that a page can have dark ones.
"""

from __future__ import annotations

import html
import math
from typing import Any

from induction_lens.plots.static_axes import Axis, axis_of
from induction_lens.style import INK, MARKED, SCALES, color_at, ink_on

DRAWN = ("heatmap", "scatter", "bar")
"""The kinds of traces that there are drawings for."""
LEVELS = 32
"""Steps of a colour scale."""
_LETTER = 6.3  # pixels of a letter of a label
_LINE = 17  # pixels of a line of text


def static_svg(figure: Any, label: str, *, width: int = 620) -> str:
    """A figure of this package as an SVG element of this width in pixels.

    Args:
        figure: A figure with one pair of axes.
        label: What it shows, for those who cannot see it.
        width: Pixels.

    Raises:
        ValueError: It has a kind of trace that cannot be drawn.
    """
    for trace in figure.data:
        if trace.type not in DRAWN:
            raise ValueError(
                f"expected heat maps, lines and bars, got a trace of kind {trace.type}; draw it "
                "with plotly"
            )
    height = int(figure.layout.height)
    legend, below = _legend(figure, width)
    frame = _frame(figure, width, height, top=below)
    parts = [*legend, *_grid(figure, frame), *_shapes(figure, frame, behind=True)]
    for trace in figure.data:
        parts += _trace(trace, frame, figure)
    parts += [*_shapes(figure, frame, behind=False), *_annotations(figure, frame)]
    return (
        f'<svg class="static" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{"".join(parts)}</svg>'
    )


def static_css() -> str:
    """The colours of the scales, light and dark, and of the numbers on them."""
    dark = "".join(_rules("dark"))
    return f"{''.join(_rules('light'))}@media (prefers-color-scheme: dark) {{{dark}}}"


def _rules(theme: Any) -> list[str]:
    rules = []
    for kind, scale in SCALES[theme].items():
        for level in range(LEVELS + 1):
            color = color_at(scale, level / LEVELS)
            name = f"{kind[0]}{level}"
            rules.append(f".{name}{{fill:{color}}}.n{name}{{fill:{ink_on(color)}}}")
    rules.append(f".ink{{stroke:{INK[theme]}}}")
    return rules


# --- the frame -----------------------------------------------------------------------------------


def _frame(figure: Any, width: int, height: int, *, top: int | float) -> tuple[Axis, Axis]:
    """Both axes, with room for their labels."""
    x, y = figure.layout.xaxis, figure.layout.yaxis
    across, up = _values(figure, "x"), _values(figure, "y")
    draft = axis_of(y, up, pixels=(height, top))
    longest = max((len(text) for _, text in draft.ticks(y)), default=0)
    left = 8 + _LETTER * longest + _LINE * bool(y.title.text)
    bottom = height - 8 - _LINE * (1 + bool(x.title.text))
    return (
        axis_of(x, across, pixels=(left, width - 12)),
        axis_of(y, up, pixels=(bottom, top)),
    )


def _values(figure: Any, letter: str) -> list[Any]:
    """Everything that an axis has to hold."""
    values: list[Any] = []
    for trace in figure.data:
        own = getattr(trace, letter)
        if own is None and trace.type == "heatmap":
            n = len(trace.z) if letter == "y" else len(trace.z[0])
            own = [-0.5, n - 0.5]
        own = list(own if own is not None else ())
        error = getattr(trace, f"error_{letter}", None)
        if error is not None and error.array is not None and len(error.array):
            minus = error.array if error.arrayminus is None else error.arrayminus
            values += [value + more for value, more in zip(own, error.array, strict=True)]
            values += [value - less for value, less in zip(own, minus, strict=True)]
        horizontal = trace.type == "bar" and trace.orientation == "h"
        if trace.type == "bar" and (letter == "x") == horizontal:
            values.append(0.0)
        values += own
    return values


def _grid(figure: Any, frame: tuple[Axis, Axis]) -> list[str]:
    """Grid lines, ticks and titles."""
    x, y = frame
    left, right, bottom, top = x.start, x.stop, y.start, y.stop
    parts = []
    for pixel, text in _spaced(x.ticks(figure.layout.xaxis)):
        if figure.layout.xaxis.showgrid is not False:
            parts.append(_line(pixel, top, pixel, bottom, "grid"))
        parts.append(_text(pixel, bottom + 14, text, anchor="middle"))
    for pixel, text in y.ticks(figure.layout.yaxis):
        if figure.layout.yaxis.showgrid is not False:
            parts.append(_line(left, pixel, right, pixel, "grid"))
        parts.append(_text(left - 5, pixel + 4, text, anchor="end"))
    for axis, known in ((x, figure.layout.xaxis), (y, figure.layout.yaxis)):
        low, high = sorted((axis.low, axis.high))
        if known.zeroline and axis.kind == "linear" and low < 0 < high:
            zero = axis.at(0.0)
            ends = (zero, top, zero, bottom) if axis is x else (left, zero, right, zero)
            parts.append(_line(*ends, "zero"))
    if figure.layout.xaxis.title.text:
        middle = (left + right) / 2
        parts.append(_text(middle, bottom + 31, figure.layout.xaxis.title.text, anchor="middle"))
    if figure.layout.yaxis.title.text:
        middle = (top + bottom) / 2
        turned = f' transform="rotate(-90 12 {middle:.0f})"'
        title = figure.layout.yaxis.title.text
        parts.append(_text(12, middle, title, anchor="middle", more=turned))
    return parts


def _spaced(ticks: list[tuple[int | float, str]]) -> list[tuple[int | float, str]]:
    """Ticks whose labels do not touch."""
    kept: list[tuple[int | float, str]] = []
    for pixel, text in sorted(ticks):
        if not kept or pixel - kept[-1][0] >= _LETTER * (len(text) + len(kept[-1][1])) / 2 + 4:
            kept.append((pixel, text))
    return kept


def _legend(figure: Any, width: int) -> tuple[list[str], float]:
    """Names beside strokes of their colours, and where what comes below may begin."""
    named = {t.name: t for t in figure.data if t.name and t.showlegend is not False}
    if len(named) < 2:
        return [], 10.0
    parts, x, y = [], 4.0, 12.0
    for name, trace in named.items():
        long = 26 + _LETTER * len(name) + 14
        if x + long > width and x > 4:
            x, y = 4.0, y + _LINE
        color = trace.line.color or trace.marker.color or MARKED
        dashes = _dashes(trace.line.dash)
        parts.append(
            f'<line x1="{x:.0f}" y1="{y - 4:.0f}" x2="{x + 20:.0f}" y2="{y - 4:.0f}" '
            f'stroke="{color}" stroke-width="2"{dashes}/>'
        )
        parts.append(_text(x + 25, y, name))
        x += long
    return parts, y + 14


# --- what is drawn -------------------------------------------------------------------------------


def _trace(trace: Any, frame: tuple[Axis, Axis], figure: Any) -> list[str]:
    if trace.type == "heatmap":
        return _heat(trace, frame, figure)
    if trace.type == "bar":
        return _bars(trace, frame)
    if (trace.meta or {}).get("numbers_of"):
        return _numbers(trace, frame, figure)
    return _scatter(trace, frame)


def _heat(trace: Any, frame: tuple[Axis, Axis], figure: Any) -> list[str]:
    """Cells by colour: one path for each, which is far shorter than an element for each cell."""
    x, y = frame
    across = _edges(trace.x, len(trace.z[0]))
    up = _edges(trace.y, len(trace.z))
    gap = 1 if trace.xgap else 0
    paths: dict[str, list[str]] = {}
    for row, values in enumerate(trace.z):
        top, bottom = sorted((y.at(up[row]), y.at(up[row + 1])))
        for column, value in enumerate(values):
            if value is None or not math.isfinite(value):
                continue
            left, right = x.at(across[column]), x.at(across[column + 1])
            if right < x.start or left > x.stop:
                continue
            left = max(left, x.start)
            path = (
                f"M{left + gap:.1f} {top + gap:.1f}H{right - gap:.1f}"
                f"V{bottom - gap:.1f}H{left + gap:.1f}z"
            )
            paths.setdefault(_level(value, trace.coloraxis, figure), []).append(path)
    return [f'<path class="{name}" d="{"".join(parts)}"/>' for name, parts in paths.items()]


def _edges(given: Any, n: int) -> list[float]:
    if given is not None and len(given) == n + 1:
        return [float(edge) for edge in given]
    return [index - 0.5 for index in range(n + 1)]


def _level(value: int | float, axis: str, figure: Any) -> str:
    colors = figure.layout[axis]
    share = (value - colors.cmin) / (colors.cmax - colors.cmin)
    kind = figure.layout.meta["scales"][axis]
    return f"{kind[0]}{round(LEVELS * min(max(share, 0.0), 1.0))}"


def _numbers(trace: Any, frame: tuple[Axis, Axis], figure: Any) -> list[str]:
    x, y = frame
    axis = trace.meta["numbers_of"]
    cells = zip(trace.x, trace.y, trace.text, trace.customdata, strict=True)
    return [
        _text(
            x.at(column),
            y.at(row) + 4,
            text,
            anchor="middle",
            name=f"n{_level(value, axis, figure)}",
        )
        for column, row, text, value in cells
        if text
    ]


def _scatter(trace: Any, frame: tuple[Axis, Axis]) -> list[str]:
    x, y = frame
    places = [
        (x.at(a), y.at(b))
        for a, b in zip(trace.x, trace.y, strict=True)
        if b is not None and (isinstance(b, str) or math.isfinite(b))
    ]
    places = [place for place in places if x.start - 0.5 <= place[0] <= x.stop + 0.5]
    shown = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    if trace.fill == "toself":
        return [f'<polygon points="{shown}" fill="{trace.fillcolor}"/>']
    mode = trace.mode or "lines+markers"
    color = trace.line.color or trace.marker.color or MARKED
    parts = []
    if "lines" in mode:
        size = trace.line.width or 2
        parts.append(
            f'<polyline points="{shown}" fill="none" stroke="{color}" stroke-width="{size}"'
            f"{_dashes(trace.line.dash)}/>"
        )
    if "markers" in mode:
        parts += _errors(trace, frame)
        sizes = trace.marker.size or 6
        every = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes] * len(places)
        tick = "line" in str(trace.marker.symbol or "")
        fill = trace.marker.color if isinstance(trace.marker.color, str) else color
        for (a, b), size in zip(places, every, strict=False):
            if tick:
                half = size / 2
                parts.append(_line(a, b - half, a, b + half, stroke=fill))
            else:
                parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{size / 2:g}" fill="{fill}"/>')
    return parts


def _bars(trace: Any, frame: tuple[Axis, Axis]) -> list[str]:
    x, y = frame
    flat = trace.orientation == "h"
    colors = trace.marker.color
    parts = []
    for index, (a, b) in enumerate(zip(trace.x, trace.y, strict=True)):
        color = colors[index] if isinstance(colors, (tuple, list)) else colors or MARKED
        if flat:
            left, right = sorted((x.at(0.0), x.at(a)))
            top, bottom = y.at(b) - 6, y.at(b) + 6
        else:
            left, right = x.at(a) - 12, x.at(a) + 12
            top, bottom = sorted((y.at(0.0), y.at(b)))
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" fill="{color}"/>'
        )
    return parts + _errors(trace, frame)


def _errors(trace: Any, frame: tuple[Axis, Axis]) -> list[str]:
    """Intervals along both axes."""
    x, y = frame
    parts = []
    for letter, error in (("x", trace.error_x), ("y", trace.error_y)):
        if error is None or error.array is None:
            continue
        minus = error.array if error.arrayminus is None else error.arrayminus
        color = error.color or MARKED
        for a, b, more, less in zip(trace.x, trace.y, error.array, minus, strict=True):
            if letter == "x":
                ends = (x.at(a - less), y.at(b), x.at(a + more), y.at(b))
            else:
                ends = (x.at(a), y.at(b - less), x.at(a), y.at(b + more))
            parts.append(_line(*ends, stroke=color, width=error.thickness or 2))
    return parts


def _shapes(figure: Any, frame: tuple[Axis, Axis], *, behind: bool) -> list[str]:
    """Windows and positions that are marked, and outlines of heads."""
    x, y = frame
    parts = []
    for shape in figure.layout.shapes:
        if (shape.layer == "below") != behind:
            continue
        left, right = (_along(x, value, shape.xref) for value in (shape.x0, shape.x1))
        top, bottom = sorted(_along(y, value, shape.yref) for value in (shape.y0, shape.y1))
        left, right = (min(max(value, x.start), x.stop) for value in (left, right))
        if shape.type == "line":
            dashes = _dashes(shape.line.dash)
            ink = shape.line.color in INK.values()
            name = "ink" if ink else ""
            stroke = "" if ink else shape.line.color
            parts.append(_line(left, top, right, bottom, name, stroke=stroke, more=dashes))
        else:
            ink = ' class="ink"' if shape.line.color in INK.values() else ""
            stroke = "" if ink or not shape.line.width else f' stroke="{shape.line.color}"'
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{bottom - top:.1f}" fill="{shape.fillcolor or "none"}"{ink}{stroke} '
                f'stroke-width="{shape.line.width or 0}"/>'
            )
    return parts


def _annotations(figure: Any, frame: tuple[Axis, Axis]) -> list[str]:
    x, y = frame
    anchors = {"left": "start", "right": "end"}
    return [
        _text(
            _along(x, note.x, note.xref),
            _along(y, note.y, note.yref) + 4,
            note.text.replace("<br>", " "),
            anchor=anchors.get(note.xanchor, "middle"),
        )
        for note in figure.layout.annotations
    ]


def _along(axis: Axis, value: Any, ref: str | None) -> float:
    """A place on an axis, or a share of its length."""
    if ref and (ref.endswith("domain") or ref == "paper"):
        return axis.start + value * (axis.stop - axis.start)
    return axis.at(value)


# --- elements ------------------------------------------------------------------------------------


def _text(
    x: int | float,
    y: int | float,
    text: str,
    *,
    anchor: str = "start",
    name: str = "",
    more: str = "",
) -> str:
    """Text; it comes from figures, where it is escaped."""
    named = f' class="{name}"' if name else ""
    placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{placed}{named}{more}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return html.escape(html.unescape(text), quote=False)


def _line(
    x1: int | float,
    y1: int | float,
    x2: int | float,
    y2: int | float,
    name: str = "",
    *,
    stroke: str = "",
    width: int | float = 1,
    more: str = "",
) -> str:
    named = f' class="{name}"' if name else ""
    colored = f' stroke="{stroke}"' if stroke else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{named}{colored} '
        f'stroke-width="{width:g}"{more}/>'
    )


def _dashes(dash: str | None) -> str:
    known = {"dot": "2 3", "dash": "7 4", "longdash": "12 5", "dashdot": "7 3 2 3"}
    lengths = known.get(dash or "solid", "" if dash in (None, "solid") else "12 4 2 4")
    return f' stroke-dasharray="{lengths}"' if lengths else ""
