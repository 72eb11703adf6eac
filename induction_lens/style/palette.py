"""Colours, which mean the same thing everywhere, and how legible text is on them.

Blue is the clean model, grey is chance or a control, and each ablation method has its own colour.
Scales come in two versions: on a dark page, zero is dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Theme = Literal["light", "dark"]
Dash = Literal["solid", "dot", "dash", "longdash", "dashdot", "longdashdot"]
THEMES: tuple[Theme, ...] = ("light", "dark")
Scale = list[list[float | str]]
"""A colour scale of plotly: pairs of a place from 0 to 1 and a colour."""
Kind = Literal["sequential", "diverging"]
"""Scales for what begins at zero, and for what has a sign."""

CLEAN = "#3b7dd8"
CONTROL = "#8b93a1"
MARKED = "#d9662b"
"""Outlines of induction heads, and whatever else is set apart."""
METHOD_COLORS: Mapping[str, str] = {
    "zero": "#9b5fc0",
    "mean": MARKED,
    "resample": "#1f9d74",
    "pattern-preserving": "#c2427f",
}
_OTHER_METHODS = ("#7a8f1c", "#2b9bb3", "#a0703c", "#5a63c8")
CATEGORICAL = (
    *(CLEAN, "#d9662b", "#1f9d74", "#9b5fc0", "#b98410", "#c2427f"),
    *("#0e8a9e", "#8a6d3b", "#5a63c8", CONTROL),
)
"""Colours of things that are told apart and have no order."""
SEQUENTIAL: Scale = [[0.0, "#eef2f7"], [0.35, "#9dbfe6"], [0.7, "#3b7dd8"], [1.0, "#123f7d"]]
DIVERGING: Scale = [
    [0.0, "#1f7a5c"],
    [0.25, "#8cc9b2"],
    [0.5, "#f1f2f4"],
    [0.75, "#ecaa85"],
    [1.0, "#b8480f"],
]
"""Below zero green, above zero orange."""
SCALES: Mapping[Theme, Mapping[Kind, Scale]] = {
    "light": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
    "dark": {
        "sequential": [[0.0, "#20262f"], [0.35, "#22508c"], [0.7, "#4f93ea"], [1.0, "#d3e6ff"]],
        "diverging": [
            [0.0, "#58d6ab"],
            [0.25, "#256b55"],
            [0.5, "#242a33"],
            [0.75, "#93481e"],
            [1.0, "#ff9a5c"],
        ],
    },
}
PAPER: Mapping[Theme, str] = {"light": "#ffffff", "dark": "#12151b"}
"""Backgrounds."""
INK: Mapping[Theme, str] = {"light": "#12151b", "dark": "#e4e7ec"}
"""Lines over a map of colours: as dark as the page is light."""
SOFT: Mapping[Theme, str] = {"light": "#566070", "dark": "#a0a9b8"}
"""Text of figures."""
TEXT = "#747b87"
"""Text of figures that may come to lie on a light or on a dark page."""
GRID = "rgba(127, 135, 148, 0.22)"


@dataclass(frozen=True)
class Look:
    """How the lines of a thing are drawn."""

    color: str
    """Colour, `#rrggbb`."""
    dash: Dash = "solid"
    """Dashes."""


def method_color(label: str) -> str:
    """The colour of an ablation method: the same in every figure, also for a user's own."""
    if label in METHOD_COLORS:
        return METHOD_COLORS[label]
    return _OTHER_METHODS[sum(label.encode()) % len(_OTHER_METHODS)]


def translucent(color: str) -> str:
    """A colour written as `#rrggbb`, for areas that others shine through."""
    red, green, blue = _rgb(color)
    return f"rgba({red}, {green}, {blue}, 0.16)"


def between(first: str, second: str, share: float) -> str:
    """A colour between two, all written as `#rrggbb`."""
    pairs = zip(_rgb(first), _rgb(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def color_at(scale: Sequence[Sequence[float | str]], share: float) -> str:
    """The colour of a scale at a place from 0 to 1; beyond its ends, that of the nearer end."""
    share = min(max(share, 0.0), 1.0)
    places = [float(place) for place, _ in scale]
    colors = [str(color) for _, color in scale]
    for start, stop, low, high in zip(places, places[1:], colors, colors[1:], strict=False):
        if share <= stop:
            return between(low, high, (share - start) / (stop - start))
    return colors[-1]


def ink_on(color: str) -> str:
    """Black or white, whichever is easier to read on a colour: a contrast of at least 4.58."""
    return "#000000" if contrast("#000000", color) >= contrast("#ffffff", color) else "#ffffff"


def contrast(first: str, second: str) -> float:
    """How well two colours written as `#rrggbb` are told apart, from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    shares = [part / 255 for part in _rgb(color)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
