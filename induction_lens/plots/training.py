"""Figures of training: how scores, losses and knock-outs change from snapshot to snapshot.

The axis of training is ln(tokens seen), so step 0 is left out. A shaded part is the window of a
phase change, from its onset to its end, as `dynamics.phase_change` finds it. Runs are given by
model, one run for each seed; a model has the same colour in every figure of one page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.dynamics import LossDerivative, LossPCA, PhaseChange
from induction_lens.dynamics.change import short
from induction_lens.heads import Head
from induction_lens.plots.results import binned
from induction_lens.plots.style import (
    CLEAN,
    CONTROL,
    DIVERGING,
    SEQUENTIAL,
    add_estimate,
    between,
    new_figure,
    plain,
    translucent,
)
from induction_lens.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

Runs = Mapping[str, Sequence[Trajectory]]
Changes = Mapping[str, PhaseChange]
MODEL_COLORS = (
    *("#1f9d74", "#3b7dd8", "#9b5fc0", "#e0a021", "#d9662b", "#c2427f"),
    *("#0e8a9e", "#8a6d3b", "#8b93a1"),
)
HEAD_COLORS = ("#d9662b", "#3b7dd8", "#1f9d74", "#9b5fc0", "#e0a021", "#c2427f")
STRONG = 0.3  # induction score at the end from which a head is drawn in colour


def icl_over_training(runs: Runs, changes: Changes, *, window_of: Sequence[str] = ()) -> go.Figure:
    """The ICL score over training: a line for each run, the colour being the model's.

    Args:
        runs: Runs by model.
        changes: The phase change of each model's ICL score.
        window_of: Models whose windows are shaded; windows of many models hide each other.
    """
    figure = new_figure([], height=440)
    for number, (model, seeds) in enumerate(runs.items()):
        for run in seeds:
            icl, first = run.icl.double().mean(1), run is seeds[0]
            _add_run(figure, run, icl, name=model, color=model_color(number), listed=first)
        if model in window_of and model in changes:
            _shade(figure, changes[model], color=model_color(number))
    _tokens_axis(figure, max(_last(run) for seeds in runs.values() for run in seeds))
    figure.update_yaxes(title_text="ICL score (nats)", zeroline=True)
    return figure


def induction_over_training(run: Trajectory, change: PhaseChange | None = None) -> go.Figure:
    """The prefix-matching score of every head over training; heads that end above 0.3 in colour."""
    scores = run.scores["induction"].double()
    figure = new_figure([], height=330)
    _add_heads(figure, run, scores, strong=_strong_heads(run))
    if change is not None:
        _shade(figure, change, color=CONTROL)
    _tokens_axis(figure, _last(run))
    figure.update_yaxes(title_text="prefix-matching score", range=[-0.02, 1.02])
    return figure


def smear_over_training(run: Trajectory, change: PhaseChange | None = None) -> go.Figure:
    """σ(α) of every head over training: 1 is a plain key, 0 the key of the token before.

    Raises:
        ValueError: The run has no smeared keys.
    """
    if run.smear is None:
        raise ValueError(
            f"expected a run with smeared keys, got {run.name!r}; train one with smeared_keys=True"
        )
    figure = new_figure([], height=330)
    _add_heads(figure, run, run.smear.double(), strong=_strong_heads(run))
    if change is not None:
        _shade(figure, change, color=CONTROL)
    _tokens_axis(figure, _last(run))
    figure.update_yaxes(title_text="σ(α)", range=[-0.02, 1.02])
    return figure


def effects_over_training(
    run: Trajectory, *, method: str | None = None, change: PhaseChange | None = None
) -> go.Figure:
    """What knocking out each head alone changes in the ICL score, over training.

    A point's colour is the head's prefix-matching score at that moment.

    Args:
        run: One run.
        method: The ablation method; None: the first that was tracked.
        change: The window to shade.

    Raises:
        ValueError: The method was not tracked.
    """
    import plotly.graph_objects as go

    method = next(iter(run.effects)) if method is None else method
    if method not in run.effects:
        raise ValueError(
            f"expected a method that was tracked, one of {', '.join(run.effects)}, got {method!r}; "
            "track the run with methods=[...]"
        )
    trained = run.tokens_seen > 0
    figure = new_figure([], height=360)
    for head in _heads_of(run):
        scores = run.scores["induction"][trained, head.layer, head.head].tolist()
        figure.add_trace(
            go.Scatter(
                x=run.tokens_seen[trained].tolist(),
                y=run.effects[method][trained, head.layer, head.head].tolist(),
                name=str(head),
                mode="lines+markers",
                line={"color": translucent(CONTROL), "width": 1},
                marker={"color": scores, "coloraxis": "coloraxis", "size": 6},
                customdata=scores,
                hovertemplate=f"head {head}, %{{x:.3s}} tokens: %{{y:+.3f}} nats, "
                "prefix matching %{customdata:.2f}<extra></extra>",
                showlegend=False,
            )
        )
    if change is not None:
        _shade(figure, change, color=CONTROL)
    _tokens_axis(figure, _last(run))
    _color_axis(figure, SEQUENTIAL, 0.0, 1.0, "prefix<br>matching")
    figure.update_yaxes(title_text="change of the ICL score (nats)", zeroline=True)
    return figure


def loss_curves(run: Trajectory, *, n_curves: int = 9) -> go.Figure:
    """Loss by token position (log scale) at moments spread over training, from grey to blue."""
    import plotly.graph_objects as go

    trained = [i for i, seen in enumerate(run.tokens_seen.tolist()) if seen > 0]
    places = torch.linspace(0, len(trained) - 1, min(n_curves, len(trained))).round().long()
    figure = new_figure([], height=400)
    for number, place in enumerate(places.tolist()):
        snapshot = trained[place]
        centers, mean, _ = binned(run.loss_by_position[snapshot][None])
        seen = short(float(run.tokens_seen[snapshot]))
        share = number / max(len(places) - 1, 1)
        figure.add_trace(
            go.Scatter(
                x=centers,
                y=mean,
                name=seen,
                mode="lines",
                line={"color": between(CONTROL, CLEAN, share), "width": 1.2 + share},
                hovertemplate=f"{seen} tokens, position %{{x:.0f}}: %{{y:.3f}} nats<extra></extra>",
            )
        )
    figure.update_xaxes(type="log", title_text="position of the predicted token (log scale)")
    figure.update_yaxes(title_text="loss (nats)")
    return figure


def loss_derivative_map(
    derivative: LossDerivative, *, change: PhaseChange | None = None
) -> go.Figure:
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
    if change is not None:
        _mark_window(figure, change)
    _tokens_axis(figure, float(seen[-1]))
    _color_axis(figure, DIVERGING, -limit, limit, "nats per<br>ln(pos)")
    figure.update_yaxes(type="log", title_text="token index (log scale)", showgrid=False)
    return figure


def pca_paths(pca: LossPCA, changes: Changes, *, models: Sequence[str]) -> go.Figure:
    """The runs' paths in the plane of their per-token losses; snapshots inside a window are large.

    Args:
        pca: From `loss_pca`.
        changes: The phase change of each model's ICL score; colours are in its order, so that a
            model has the same here as in figures with more models.
        models: The model of each of the runs, in their order.
    """
    import plotly.graph_objects as go

    figure = new_figure([], height=520)
    order, seen_before = list(dict.fromkeys([*changes, *models])), set[str]()
    runs = zip(models, pca.names, pca.tokens_seen, pca.coordinates, strict=True)
    for model, name, seen, path in runs:
        listed = model not in seen_before
        seen_before.add(model)
        change, color = changes.get(model), model_color(order.index(model))
        sizes = [10 if _inside(change, tokens) else 4 for tokens in seen.tolist()]
        figure.add_trace(
            go.Scatter(
                x=path[:, 0].tolist(),
                y=path[:, 1].tolist(),
                name=model,
                legendgroup=model,
                mode="lines+markers",
                showlegend=listed,
                line={"color": color, "width": 1.6},
                marker={"size": sizes, "color": color},
                customdata=[short(float(tokens)) for tokens in seen.tolist()],
                hovertemplate=f"{plain(name)}, %{{customdata}} tokens<extra></extra>",
            )
        )
    first, second = pca.explained
    figure.update_xaxes(title_text=f"first component (nats), {first:.0%} of the variance")
    figure.update_yaxes(title_text=f"second component (nats), {second:.0%}")
    return figure


def window_chart(changes: Changes, *, last: float, order: Sequence[str] | None = None) -> go.Figure:
    """When each model changes: its window, and its midpoint with the interval; none, in words.

    Args:
        changes: Phase changes by model.
        last: Where the axis ends: the tokens that the models were trained on.
        order: The models from top to bottom; None: as in `changes`.
    """
    import plotly.graph_objects as go

    names = list(changes) if order is None else list(order)
    figure = new_figure([], height=90 + 46 * len(names))
    for name in names:
        change, color = changes[name], model_color(list(changes).index(name))
        if not (change.onset and change.midpoint and change.end):
            words = str(change).replace("-", "−")
            figure.add_annotation(
                x=0.02, xref="x domain", y=name, text=words, showarrow=False, xanchor="left"
            )
            continue
        figure.add_trace(
            go.Scatter(
                x=[change.onset.value, change.end.value],
                y=[name, name],
                mode="lines",
                line={"color": translucent(color), "width": 16},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        label = f"{plain(name)}: {change}"
        add_estimate(figure, name, change.midpoint, color=color, label=label)
    _tokens_axis(figure, last)
    # the kind of axis and its range are said: where no model changes, there is no data to tell
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_yaxes(range=[-0.5, len(names) - 0.5], showgrid=False)
    narrow = ["<br>".join(map(plain, wrap(name, 18, break_on_hyphens=False))) for name in names]
    figure.update_yaxes(tickmode="array", tickvals=names, ticktext=narrow)
    return figure


def model_color(number: int) -> str:
    """The colour of the model with this place in the order of a page's runs."""
    return MODEL_COLORS[number % len(MODEL_COLORS)]


def _last(run: Trajectory) -> float:
    return float(run.tokens_seen[-1])


def _heads_of(run: Trajectory) -> list[Head]:
    _, n_layers, n_heads = run.scores["induction"].shape
    return [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def _strong_heads(run: Trajectory) -> list[Head]:
    """Heads that end above the threshold, strongest first."""
    last = run.scores["induction"][-1]
    strong = [head for head in _heads_of(run) if last[head.layer, head.head] >= STRONG]
    return sorted(strong, key=lambda head: -float(last[head.layer, head.head]))


def _add_heads(
    figure: go.Figure,
    run: Trajectory,
    values: Float[Tensor, "snapshot layer head"],
    *,
    strong: Sequence[Head],
) -> None:
    """A line for every head: `strong` ones in colour and named, the others grey."""
    for head in sorted(_heads_of(run), key=lambda head: head in strong):
        named = head in strong
        color = HEAD_COLORS[strong.index(head) % len(HEAD_COLORS)] if named else CONTROL
        curve, width = values[:, head.layer, head.head], 2.4 if named else 1.0
        _add_run(figure, run, curve, name=f"head {head}", color=color, listed=named, width=width)


def _add_run(
    figure: go.Figure,
    run: Trajectory,
    values: Float[Tensor, " snapshot"],
    *,
    name: str,
    color: str,
    listed: bool = True,
    width: float = 1.8,
) -> None:
    """One value of a run over training; `listed`: with an entry in the legend."""
    import plotly.graph_objects as go

    trained = run.tokens_seen > 0
    figure.add_trace(
        go.Scatter(
            x=run.tokens_seen[trained].tolist(),
            y=values[trained].tolist(),
            name=name,
            legendgroup=name,
            mode="lines",
            line={"color": color, "width": width},
            showlegend=listed,
            hovertemplate=f"{plain(name)}, seed {run.seed}, %{{x:.3s}} tokens: %{{y:.3f}}"
            "<extra></extra>",
        )
    )


def _tokens_axis(figure: go.Figure, last: float) -> None:
    """The axis of training, from the ninetieth part of `last` on: before that little happens that
    these figures are about, and a log scale would give it half of the room."""
    shown = [math.log10(last / 90), math.log10(last * 1.04)]
    title = "training tokens (log scale)"
    figure.update_xaxes(type="log", range=shown, title_text=title, exponentformat="SI")


def _color_axis(
    figure: go.Figure, scale: list[list[Any]], low: float, high: float, title: str
) -> None:
    bar = {"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": title}}
    axis = {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar}
    kind = "diverging" if scale is DIVERGING else "sequential"  # pages have dark ones of both
    figure.update_layout(coloraxis=axis, meta={"scale": kind})


def _shade(figure: go.Figure, change: PhaseChange, *, color: str) -> None:
    if change.onset and change.end:
        figure.add_vrect(
            x0=change.onset.value,
            x1=change.end.value,
            fillcolor=translucent(color),
            line_width=0,
            layer="below",
        )


def _mark_window(figure: go.Figure, change: PhaseChange) -> None:
    """Dotted lines at onset and end, where shading would hide what is below."""
    for mark in (change.onset, change.end):
        if mark is not None:
            figure.add_vline(x=mark.value, line={"color": "#12151b", "width": 1.4, "dash": "dot"})


def _inside(change: PhaseChange | None, tokens: int) -> bool:
    if change is None or change.onset is None or change.end is None:
        return False
    # the marks were exponentials of logarithms: half a token absorbs their rounding
    return change.onset.value - 0.5 <= tokens <= change.end.value + 0.5


def _edges(seen: Float[Tensor, " snapshot"]) -> list[float]:
    """Where the cells of a heat map begin and end: halfway between neighbours on a log scale."""
    logs = seen.log()
    middle = (logs[1:] + logs[:-1]) / 2
    first, last = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    return torch.cat([first[None], middle, last[None]]).exp().tolist()
