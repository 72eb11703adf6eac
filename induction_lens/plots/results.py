"""Figures of one model's results: its heads' scores, their knock-outs, its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.ablation import AblationStudy
from induction_lens.heads import Head, HeadScores
from induction_lens.plots.style import (
    CLEAN,
    CONTROL,
    DIVERGING,
    METHOD_COLORS,
    SEQUENTIAL,
    Z95,
    add_band,
    add_estimate,
    names_of,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def head_map(scores: HeadScores, *, marked: Sequence[Head] = ()) -> go.Figure:
    """Heat map of one score, layers down and heads across; `marked` heads are outlined.

    Small maps carry the numbers in their cells.
    """

    import plotly.graph_objects as go

    n_layers, n_heads = scores.values.shape
    signed = scores.unit != "attention"
    limit = 1.0 if scores.unit != "nats" else float(scores.values.abs().max()) or 1.0
    heat = go.Heatmap(
        z=scores.values.tolist(),
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        texttemplate="%{z:.2f}" if n_layers * n_heads <= 32 else None,
        hovertemplate=f"head %{{y}}.%{{x}}<br>{plain(scores.name)} %{{z:.3f}}<extra></extra>",
    )
    figure = new_figure([heat], height=96 + min(46, max(14, 720 // n_layers)) * n_layers)
    figure.update_layout(
        coloraxis={
            "colorscale": DIVERGING if signed else SEQUENTIAL,
            "cmin": -limit if signed else 0.0,
            "cmax": limit,
        },
        meta={"scale": "diverging" if signed else "sequential"},
    )
    for head in marked:
        figure.add_shape(
            type="rect",
            x0=head.head - 0.46,
            x1=head.head + 0.46,
            y0=head.layer - 0.46,
            y1=head.layer + 0.46,
            line={"color": METHOD_COLORS["mean"], "width": 2.5},
        )
    figure.update_xaxes(title_text="head", dtick=_tick(n_heads), showgrid=False, zeroline=False)
    figure.update_yaxes(
        title_text="layer",
        dtick=_tick(n_layers),
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    return figure


def loss_by_position(
    clean: Float[Tensor, "batch pos"],
    ablated: Mapping[str, Float[Tensor, "batch pos"]],
    *,
    early: int,
    late: int,
) -> go.Figure:
    """Mean loss against token position (log axis), clean and ablated, with 95% bands.

    Positions are averaged in bins of equal width on the log axis; the bands are over sequences.
    """
    figure = new_figure([], height=400)
    for name, losses in {"clean": clean, **ablated}.items():
        centers, mean, half = binned(losses)
        color = CLEAN if name == "clean" else METHOD_COLORS.get(name, CONTROL)
        add_band(figure, centers, mean, half, name=name, color=color)
    _position_axes(figure, clean.shape[1], early=early, late=late)
    figure.update_yaxes(title_text="loss (nats)")
    return figure


def cost_by_position(
    clean: Float[Tensor, "batch pos"],
    ablated: Mapping[str, Float[Tensor, "batch pos"]],
    *,
    early: int,
    late: int,
) -> go.Figure:
    """What a knock-out adds to the loss at each position, paired by sequence, with 95% bands."""
    figure = new_figure([], height=360)
    for name, losses in ablated.items():
        centers, mean, half = binned(losses - clean)
        add_band(figure, centers, mean, half, name=name, color=METHOD_COLORS.get(name, CONTROL))
    _position_axes(figure, clean.shape[1], early=early, late=late)
    figure.update_yaxes(title_text="added loss (nats)", zeroline=True)
    return figure


def icl_scores(studies: Mapping[str, AblationStudy]) -> go.Figure:
    """ICL score clean, ablated by each method, and under random controls, with intervals."""

    import plotly.graph_objects as go

    first = next(iter(studies.values()))
    figure = new_figure([], height=96 + 58 * (1 + len(studies)))
    add_estimate(figure, "clean", first.clean, color=CLEAN)
    for method, study in studies.items():
        add_estimate(figure, method, study.ablated, color=METHOD_COLORS.get(method, CONTROL))
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


def head_effects(effects: HeadScores, *, marked: Sequence[Head] = (), k: int = 32) -> go.Figure:
    """The effect of knocking out each head alone, largest first, with 95% intervals.

    Only the `k` largest effects in absolute value are drawn.
    """

    import plotly.graph_objects as go

    n_heads = effects.values.shape[1]
    order = torch.argsort(effects.values.abs().flatten(), descending=True, stable=True)[:k]
    heads = [Head(*divmod(int(index), n_heads)) for index in order]
    heads.sort(key=lambda head: effects[head])
    half = None
    if effects.sem is not None:
        sem = effects.sem
        half = {
            "type": "data",
            "array": [Z95 * float(sem[head.layer, head.head]) for head in heads],
            "color": CONTROL,
            "thickness": 1.2,
            "width": 0,
        }
    bars = go.Bar(
        x=[effects[head] for head in heads],
        y=[str(head) for head in heads],
        orientation="h",
        error_x=half,
        marker={"color": [METHOD_COLORS["mean"] if h in marked else CLEAN for h in heads]},
        hovertemplate="head %{y}: %{x:+.3f} nats<extra></extra>",
    )
    figure = new_figure([bars], height=80 + 22 * len(heads))
    figure.update_xaxes(title_text="change of the ICL score (nats)", zeroline=True)
    figure.update_yaxes(type="category", title_text="head", showgrid=False, dtick=1)
    figure.update_layout(bargap=0.35)
    return figure


def attention_map(pattern: Float[Tensor, "query key"], tokens: Sequence[str]) -> go.Figure:
    """One head's attention pattern on one sequence: queries down, keys across.

    Tokens are shown as text, whatever they contain.
    """

    import plotly.graph_objects as go

    labels = [plain(token) for token in tokens]
    lower = torch.ones(pattern.shape, dtype=torch.bool).tril()
    cells = torch.where(lower, pattern.float(), torch.nan).tolist()
    heat = go.Heatmap(
        z=[[None if math.isnan(cell) else cell for cell in row] for row in cells],
        coloraxis="coloraxis",
        customdata=[[f"{query} → {key}" for key in labels] for query in labels],
        hovertemplate="%{customdata}<br>%{z:.2f}<extra></extra>",
    )
    figure = new_figure([heat], height=440)
    figure.update_layout(
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0.0, "cmax": 1.0},
        meta={"scale": "sequential"},
    )
    figure.update_xaxes(title_text="attended position", showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="position", autorange="reversed", showgrid=False, zeroline=False)
    return figure


def binned(
    losses: Float[Tensor, "batch pos"], *, n_bins: int = 36
) -> tuple[list[float], list[float], list[float]]:
    """Means over bins of positions of equal width on a log axis, and their uncertainty.

    Returns:
        For each bin: the geometric centre of its positions, the mean over positions and sequences,
        and half the width of its 95% interval over sequences (0 for a single sequence).
    """
    last = losses.shape[1] - 1
    edges = torch.logspace(0, math.log10(last + 1), n_bins + 1, dtype=torch.float64)
    starts = sorted({round(float(edge)) for edge in edges})
    centers, means, halves = [], [], []
    for start, stop in pairwise(starts):
        per_sequence = losses[:, start:stop].double().mean(dim=1)
        n = len(per_sequence)
        error = float(per_sequence.std() / math.sqrt(n)) if n > 1 else 0.0
        centers.append(math.sqrt(start * (stop - 1)))
        means.append(float(per_sequence.mean()))
        halves.append(Z95 * error)
    return centers, means, halves


def _position_axes(figure: go.Figure, length: int, *, early: int, late: int) -> None:
    ticks = [
        tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000) if tick < length
    ]
    figure.update_xaxes(
        type="log",
        title_text="position of the predicted token (log scale)",
        tickvals=ticks,
        ticktext=[str(tick) for tick in ticks],
    )
    for position in (early, late):
        figure.add_vline(x=position, line={"color": CONTROL, "width": 1, "dash": "dot"})


def _tick(count: int) -> int:
    return max(1, math.ceil(count / 16))
