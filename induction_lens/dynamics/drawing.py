"""Figures of what the losses of single tokens, and of positions, say about training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.estimates import short_number
from induction_lens.style import CATEGORICAL, Look, color_axis, new_figure, plain, tokens_axis

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from induction_lens.dynamics.change import PhaseChange
    from induction_lens.dynamics.losses import LossDerivative, LossPCA, ModelOrder


def derivative_figure(derivative: LossDerivative) -> go.Figure:
    """d(loss) / d(ln position) by token index and training tokens, both on log scales."""
    import plotly.graph_objects as go

    trained = derivative.tokens_seen > 0
    seen = derivative.tokens_seen[trained].double()
    values = derivative.values[trained]
    limit = float(values.abs().quantile(0.98)) or 1.0
    edges = [*derivative.first.double().tolist(), float(derivative.last[-1] + 1)]
    heat = go.Heatmap(
        x=_edges(seen),
        y=edges,
        z=values.T.tolist(),
        coloraxis="coloraxis",
        hovertemplate="%{x:.3s} tokens, position %{y:.0f}<br>%{z:+.3f} nats per ln(position)"
        "<extra></extra>",
    )
    figure = new_figure([heat], height=360)
    tokens_axis(figure, float(seen[-1]))
    color_axis(figure, "diverging", -limit, limit, title="nats per<br>ln(pos)")
    shown = [math.log10(edges[0]), math.log10(edges[-1])]
    title = "token index (log scale)"
    figure.update_yaxes(type="log", range=shown, title_text=title, showgrid=False)
    return figure


def paths_figure(
    pca: LossPCA,
    models: Sequence[str],
    looks: Mapping[str, Look],
    *,
    windows: Sequence[PhaseChange | None],
) -> go.Figure:
    """Paths in the plane of per-token losses; snapshots inside the window of a run are large."""
    import plotly.graph_objects as go

    figure = new_figure([], height=520)
    seen_before = set[str]()
    runs = zip(models, pca.names, pca.tokens_seen, pca.coordinates, windows, strict=True)
    for model, name, seen, path, change in runs:
        look = looks[model]
        sizes = [10 if _inside(change, tokens) else 4 for tokens in seen.tolist()]
        figure.add_trace(
            go.Scatter(
                x=path[:, 0].tolist(),
                y=path[:, 1].tolist(),
                name=model,
                legendgroup=model,
                mode="lines+markers",
                showlegend=model not in seen_before,
                line={"color": look.color, "width": 1.6, "dash": look.dash},
                marker={"size": sizes, "color": look.color},
                customdata=[short_number(float(tokens)) for tokens in seen.tolist()],
                hovertemplate=f"{plain(name)}, %{{customdata}} tokens<extra></extra>",
            )
        )
        seen_before.add(model)
    first, second = pca.explained
    figure.update_xaxes(title_text=f"first component (nats), {first:.0%} of the variance")
    figure.update_yaxes(title_text=f"second component (nats), {second:.0%}")
    return figure


def order_figure(order: ModelOrder) -> go.Figure:
    """A line for each model, from the earlier moment to the later one."""
    import plotly.graph_objects as go

    figure = new_figure([], height=360)
    for number, name in enumerate(order.names):
        figure.add_trace(
            go.Scatter(
                x=["before", "after"],
                y=[order.before[number], order.after[number]],
                name=name,
                mode="lines+markers",
                line={"color": CATEGORICAL[number % len(CATEGORICAL)], "width": 1.8},
                hovertemplate=f"{plain(name)}, %{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )
    unit = "nats" if order.by == "loss" else "nats per ln(position)"
    figure.update_yaxes(title_text=f"{order.by} at token {order.position} ({unit})")
    return figure


def _inside(change: PhaseChange | None, tokens: int) -> bool:
    if change is None or change.onset is None or change.end is None:
        return False
    # the marks were exponentials of logarithms: half a token absorbs their rounding
    return change.onset.value - 0.5 <= tokens <= change.end.value + 0.5


def _edges(seen: Float[Tensor, " snapshot"]) -> list[float]:
    """Where the cells of a heat map begin and end: halfway between neighbours on a log scale."""
    logs = seen.log()
    middle = (logs[1:] + logs[:-1]) / 2
    first = 2 * logs[0] - middle[0]
    last = 2 * logs[-1] - middle[-1]
    return torch.cat([first[None], middle, last[None]]).exp().tolist()
