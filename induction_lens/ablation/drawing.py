"""The figure of a knock-out: the ICL score clean, without heads, and without random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from induction_lens.heads import names_of
from induction_lens.style import CLEAN, CONTROL, add_estimate, method_color, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from induction_lens.ablation.study import AblationStudy


def icl_figure(studies: Mapping[str, AblationStudy]) -> go.Figure:
    """ICL score clean, ablated by each method, and under random controls, with intervals."""
    import plotly.graph_objects as go

    first = next(iter(studies.values()))
    figure = new_figure([], height=64 + 40 * (1 + len(studies)))
    add_estimate(figure, "clean", first.clean, color=CLEAN)
    for method, study in studies.items():
        add_estimate(figure, method, study.ablated, color=method_color(method))
        if study.controls:
            figure.add_trace(
                go.Scatter(
                    x=[study.clean.value + control.effect.value for control in study.controls],
                    y=[method] * len(study.controls),
                    mode="markers",
                    marker={"symbol": "line-ns-open", "size": 13, "color": CONTROL},
                    text=[names_of(control.heads) for control in study.controls],
                    hovertemplate="control: %{text}<br>%{x:+.3f} nats<extra></extra>",
                    showlegend=False,
                )
            )
    figure.add_vline(x=first.clean.value, line={"color": CLEAN, "width": 1, "dash": "dot"})
    figure.update_yaxes(
        categoryorder="array", categoryarray=["clean", *studies][::-1], showgrid=False
    )
    figure.update_xaxes(title_text="ICL score (nats)")
    return figure
