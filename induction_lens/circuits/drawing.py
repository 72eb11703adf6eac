"""Figures of edges and circuits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from induction_lens.circuits.shares import QUANTITIES, Quantity

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from induction_lens.circuits.paths import PatchedEdge

_TITLES: dict[Quantity, str] = {
    "prefix": "prefix matching",
    "copying": "copying",
    "icl": "ICL score",
}
_TESTED, _RANDOM = "#1f77b4", "#9e9e9e"


def edge_bars(edges: Sequence[PatchedEdge]) -> go.Figure:
    """Each edge's share of every quantity that was measured, with intervals."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    measured: list[Quantity] = [name for name in QUANTITIES if all(name in one.of for one in edges)]
    titles = [f"share of {_TITLES[name]}" for name in measured]
    figure = make_subplots(1, len(measured), subplot_titles=titles, shared_yaxes=True)
    names = [str(one.edge) for one in edges]
    colors = [_RANDOM if one.is_control else _TESTED for one in edges]
    for column, name in enumerate(measured, start=1):
        found = [one.of[name].share for one in edges]
        bars = go.Bar(
            x=[share.value for share in found],
            y=names,
            orientation="h",
            marker_color=colors,
            error_x={
                "type": "data",
                "array": [share.high - share.value for share in found],
                "arrayminus": [share.value - share.low for share in found],
            },
        )
        figure.add_trace(bars, row=1, col=column)
    figure.update_layout(showlegend=False)
    figure.update_yaxes(autorange="reversed", col=1)
    return figure
