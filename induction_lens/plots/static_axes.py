"""Axes of pictures that are drawn without plotly.js: from values to pixels, and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from induction_lens.estimates import short_number

_ROOM = 0.05
"""How far a range reaches beyond the data, as a share of it."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it holds, and where it lies in pixels."""

    kind: str
    """`linear`, `log`, or `category`."""
    low: int | float
    """What is at `start`: a value, its logarithm to base 10, or the number of a category."""
    high: int | float
    """What is at `stop`."""
    start: int | float
    """Pixel where it begins."""
    stop: int | float
    """Pixel where it ends."""
    categories: tuple[str, ...] = ()
    """The names on it, where it has names."""

    def at(self, value: Any) -> float:
        """The pixel of a value."""
        if self.kind == "category":
            value = self.categories.index(str(value))
        elif self.kind == "log":
            value = math.log10(value)
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, known: Any) -> list[tuple[int | float, str]]:
        """Pixels and labels: those that plotly was told, or round numbers."""
        if self.kind == "category":
            return [(self.at(name), _text(name)) for name in self.categories]
        if known.tickvals is not None:
            labels = known.ticktext or [f"{value:g}" for value in known.tickvals]
            return self._inside(zip(known.tickvals, labels, strict=True))
        if self.kind == "log":
            return self._inside(_log_ticks(min(self.low, self.high), max(self.low, self.high)))
        low, high = sorted((self.low, self.high))
        step = float(known.dtick) if isinstance(known.dtick, (int, float)) else _step(high - low)
        values = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        style = known.tickformat or ""
        labels = [f"{v:{style.lstrip('.') and style}}" if style else _number(v) for v in values]
        return self._inside(zip(values, labels, strict=True))

    def _inside(self, ticks: Iterable[tuple[int | float, str]]) -> list[tuple[int | float, str]]:
        first, last = sorted((self.start, self.stop))
        placed = [(self.at(value), label) for value, label in ticks]
        return [(pixel, label) for pixel, label in placed if first - 1 <= pixel <= last + 1]


def axis_of(known: Any, values: Sequence[Any], *, pixels: tuple[int | float, int | float]) -> Axis:
    """The axis that plotly would make of its description and of what is on it."""
    start, stop = pixels
    names = [value for value in values if isinstance(value, str)]
    if known.type == "category" or (names and known.type is None):
        order = list(known.categoryarray or ()) or list(dict.fromkeys(map(str, values)))
        low, high = known.range or (-0.5, len(order) - 0.5)
        if known.autorange == "reversed":
            low, high = high, low
        return Axis("category", low, high, start, stop, tuple(order))
    kind = "log" if known.type == "log" else "linear"
    if known.range is not None:
        low, high = known.range
        return Axis(kind, low, high, start, stop)
    numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
    if kind == "log":
        numbers = [math.log10(value) for value in numbers if value > 0]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    beyond = _ROOM * (high - low) or 0.5
    low, high = low - beyond, high + beyond
    if known.autorange == "reversed":
        low, high = high, low
    return Axis(kind, low, high, start, stop)


def _step(span: int | float) -> float:
    """A round step that divides a span into about five."""
    rough = span / 5
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * part for part in (1, 2, 5, 10) if size * part >= rough)


def _log_ticks(low: int | float, high: int | float) -> list[tuple[int | float, str]]:
    """Powers of ten, and 2 and 5 times these where there is room."""
    parts = (1, 2, 5) if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [part * 10.0**power for power in powers for part in parts]
    return [(value, short_number(value) if value >= 1000 else f"{value:g}") for value in values]


def _number(value: int | float) -> str:
    return f"{round(value, 10):g}".replace("-", "−")


def _text(name: str) -> str:
    return name.replace("<br>", " ")
