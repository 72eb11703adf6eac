"""Figures of edges and circuits."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from induction_lens.circuits.patching import Input
from induction_lens.circuits.shares import QUANTITIES, Quantity, Share
from induction_lens.style import CLEAN, CONTROL, MARKED, SOFT, TEXT, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from induction_lens.circuits.circuit import Circuit
    from induction_lens.circuits.paths import PatchedEdge
    from induction_lens.heads import Head

_TITLES: dict[Quantity, str] = {
    "prefix": "prefix matching",
    "copying": "copying",
    "icl": "ICL score",
}
INPUT_COLORS: dict[Input, str] = {"k": CLEAN, "q": MARKED, "v": "#1f9d74"}
"""Keys are blue, queries orange, values green, everywhere."""
_COLUMN, _ROW, _MARGIN, _RADIUS = 110, 120, 60, 22  # pixels
_WIDEST = 14  # pixels, of an edge that carries everything


def share_bars(
    names: Sequence[str], shares: Sequence[Mapping[Quantity, Share]], colors: Sequence[str]
) -> go.Figure:
    """A bar with its interval for each of several things, of every quantity that was measured."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    measured: list[Quantity] = [name for name in QUANTITIES if all(name in one for one in shares)]
    titles = [f"share of {_TITLES[name]}" for name in measured]
    figure = make_subplots(1, len(measured), subplot_titles=titles, shared_yaxes=True)
    for column, name in enumerate(measured, start=1):
        found = [one[name].share for one in shares]
        bars = go.Bar(
            x=[share.value for share in found],
            y=list(names),
            orientation="h",
            marker_color=list(colors),
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [_length(share.high - share.value) for share in found],
                "arrayminus": [_length(share.value - share.low) for share in found],
                "color": TEXT,
                "thickness": 1.5,
                "width": 0,
            },
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
    height = 96 + 26 * len(names)
    figure.update_layout(template=template(), height=height, margin_t=36, showlegend=False)
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(autorange="reversed", col=1)
    return figure


def edge_bars(edges: Sequence[PatchedEdge]) -> go.Figure:
    """Each edge's share of every quantity that was measured; random senders are grey."""
    colors = [CONTROL if one.is_control else INPUT_COLORS[one.edge.input] for one in edges]
    return share_bars([str(one.edge) for one in edges], [one.of for one in edges], colors)


def _length(side: float) -> float:
    """One side of an interval; none where it has no bound."""
    return side if math.isfinite(side) else 0.0


def circuit_svg(circuit: Circuit) -> str:
    """A circuit as an SVG picture: layers up, edges as wide as their share of prefix matching.

    Keys are blue, queries orange, values green; random senders are grey, and labelled together.
    """
    named = [*circuit.parts.heads]
    random = {head for one in circuit.paths.edges if one.is_control for head in one.edge.senders}
    places = _places([*named, *sorted(random - set(named))])
    width = 2 * _MARGIN + _COLUMN * max(column for column, _ in places.values())
    height = 2 * _MARGIN + _ROW * max(row for _, row in places.values())
    at = {
        head: (_MARGIN + _COLUMN * column, height - _MARGIN - _ROW * row)
        for head, (column, row) in places.items()
    }
    lines = [_line(one, at) for one in circuit.paths.edges if len(one.edge.receivers) == 1]
    lines = [line for line in lines if line]
    heads = [_circle(head, at[head], is_random=head not in named) for head in places]
    said = html.escape(f"Induction circuit of {circuit.model}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" role="img" aria-label="{said}" font-family="sans-serif" '
            'font-size="13" text-anchor="middle">',
            *lines,
            *heads,
            "</svg>",
        ]
    )


def _places(heads: Sequence[Head]) -> Mapping[Head, tuple[int, int]]:
    """A column and a row for each head: rows are the layers that hold some."""
    layers = sorted({head.layer for head in heads})
    return {
        head: (
            [one for one in heads if one.layer == head.layer].index(head),
            layers.index(head.layer),
        )
        for head in heads
    }


def _line(one: PatchedEdge, at: Mapping[Head, tuple[int, int]]) -> str:
    """An edge; none where it carries nothing that could be seen."""
    share = one.of["prefix"].share.value
    if one.edge.input == "v":  # values change no pattern: what they carry is seen in copying
        share = one.of["copying"].share.value
    [sender, *more], [receiver] = one.edge.senders, one.edge.receivers
    if more or not share > 0.01:
        return ""
    (x1, y1), (x2, y2) = at[sender], at[receiver]
    color = CONTROL if one.is_control else INPUT_COLORS[one.edge.input]
    label = html.escape(f"{one.edge}: {share:.2f}")
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" '
        f'stroke-width="{max(1.0, _WIDEST * min(share, 1)):.1f}" stroke-opacity="0.7">'
        f"<title>{label}</title></line>"
    )


def _circle(head: Head, at: tuple[int, int], *, is_random: bool) -> str:
    x, y = at
    stroke = CONTROL if is_random else "#222"
    text = SOFT["light"] if is_random else stroke  # what is written is darker than a line
    named = ' class="random"' if is_random else ""
    return (
        f'<circle{named} cx="{x}" cy="{y}" r="{_RADIUS}" fill="#fff" stroke="{stroke}" '
        f'stroke-width="2"/><text{named} x="{x}" y="{y + 5}" fill="{text}">{head}</text>'
    )
