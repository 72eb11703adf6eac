"""Figures of training: how scores, losses and knock-outs change from snapshot to snapshot.

The axis of training is ln(tokens seen), so step 0 is left out. A shaded part is the window of a
phase change, from its onset to its end, as `dynamics.phase_change` finds it. Runs are given by
model, one run for each seed; a model has the same colour in every figure of one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import torch

from induction_lens import checks
from induction_lens.dynamics import LossDerivative, LossPCA, PhaseChange
from induction_lens.dynamics.drawing import derivative_figure, paths_figure
from induction_lens.estimates import short_number
from induction_lens.plots.parts import check_run, shade
from induction_lens.plots.results import binned
from induction_lens.style import (
    CATEGORICAL,
    CLEAN,
    CONTROL,
    INK,
    Look,
    add_estimate,
    between,
    color_axis,
    new_figure,
    plain,
    tokens_axis,
    translucent,
)
from induction_lens.tracking.drawing import (
    add_heads,
    add_run,
    heads_of,
    induction_figure,
    last_tokens,
    strong_heads,
)
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

Runs = Mapping[str, Sequence[Trajectory]]
Changes = Mapping[str, PhaseChange]
MODEL_COLORS = CATEGORICAL


def icl_over_training(
    runs: Runs,
    changes: Changes,
    *,
    window_of: Sequence[str] = (),
    looks: Mapping[str, Look] | None = None,
) -> go.Figure:
    """The ICL score over training: a line for each run, which looks as its model's lines do.

    Args:
        runs: Runs by model.
        changes: The phase change of each model's ICL score.
        window_of: Models whose windows are shaded; windows of many models hide each other.
        looks: How each model is drawn; None: a colour for each, in their order.

    Raises:
        ValueError: There is no run, or a model has no look.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> change = il.dynamics.phase_change(run, n_resamples=100)
        >>> figure = il.plots.icl_over_training({"2 layers": [run]}, {"2 layers": change})
        >>> [trace.name for trace in figure.data]
        ['2 layers']
    """
    _check_by_model("runs", runs)
    for seeds in runs.values():
        for run in checks.several("each of runs", seeds):
            check_run(run)
    looks = _checked_looks(looks, runs)
    figure = new_figure([], height=440)
    for model, seeds in runs.items():
        look = looks[model]
        for run in seeds:
            icl = run.icl.double().mean(1)
            add_run(figure, run, icl, name=model, color=look.color, listed=run is seeds[0])
            drawn: Any = figure.data[-1]
            drawn.line.dash = look.dash
        if model in window_of and model in changes:
            shade(figure, changes[model], color=look.color)
    tokens_axis(figure, max(last_tokens(run) for seeds in runs.values() for run in seeds))
    figure.update_yaxes(title_text="ICL score (nats)", zeroline=True)
    return figure


def induction_over_training(run: Trajectory, change: PhaseChange | None = None) -> go.Figure:
    """The prefix-matching score of every head over training; heads that end above 0.3 in colour.

    Raises:
        ValueError: This is no run.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> il.plots.induction_over_training(run).data[-1].name  # the heads in colour come last
        'head 1.0'
    """
    check_run(run)
    figure = induction_figure(run)
    if change is not None:
        shade(figure, change, color=CONTROL)
    return figure


def smear_over_training(run: Trajectory, change: PhaseChange | None = None) -> go.Figure:
    """σ(α) of every head over training: 1 is a plain key, 0 the key of the token before.

    Raises:
        ValueError: This is no run, or it has no smeared keys.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-1l-smeared-seed-0")
        >>> [trace.name for trace in il.plots.smear_over_training(run).data]
        ['head 0.0', 'head 0.1', 'head 0.2', 'head 0.3']
    """
    check_run(run)
    if run.smear is None:
        raise ValueError(
            f"expected a run with smeared keys, got {run.name!r}; train one with smeared_keys=True"
        )
    figure = new_figure([], height=330)
    add_heads(figure, run, run.smear.double(), strong=strong_heads(run))
    if change is not None:
        shade(figure, change, color=CONTROL)
    tokens_axis(figure, last_tokens(run))
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
        ValueError: This is no run, or the method was not tracked.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> figure = il.plots.effects_over_training(run)
        >>> [trace.name for trace in figure.data]
        ['0.0', '0.1', '0.2', '0.3', '1.0', '1.1', '1.2', '1.3']
    """
    import plotly.graph_objects as go

    check_run(run)
    if not run.effects:
        raise ValueError(
            "expected a run whose heads were knocked out, got one without effects; track it with "
            "methods=[...]"
        )
    tracked = list(run.effects)
    method = tracked[0] if method is None else checks.one_of("method", method, tracked)
    trained = run.tokens_seen > 0
    figure = new_figure([], height=360)
    for head in heads_of(run):
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
        shade(figure, change, color=CONTROL)
    tokens_axis(figure, last_tokens(run))
    color_axis(figure, "sequential", 0.0, 1.0, title="prefix<br>matching")
    figure.update_yaxes(title_text="change of the ICL score (nats)", zeroline=True)
    return figure


def loss_curves(run: Trajectory, *, n_curves: int = 9) -> go.Figure:
    """Loss by token position (log scale) at moments spread over training, from grey to blue.

    Raises:
        ValueError: This is no run, or no curve is asked for.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> [trace.name for trace in il.plots.loss_curves(run, n_curves=3).data]  # in tokens seen
        ['4.1k', '3.8M', '9.0M']
    """
    import plotly.graph_objects as go

    check_run(run)
    n_curves = checks.whole_number("n_curves", n_curves, least=1, remedy="for instance 9")
    trained = [i for i, seen in enumerate(run.tokens_seen.tolist()) if seen > 0]
    places = (
        torch.linspace(
            0, len(trained) - 1, min(n_curves, len(trained)), dtype=torch.float32, device="cpu"
        )
        .round()
        .long()
    )
    figure = new_figure([], height=400)
    for number, place in enumerate(places.tolist()):
        snapshot = trained[place]
        centers, mean, _ = binned(run.loss_by_position[snapshot][None])
        seen = short_number(float(run.tokens_seen[snapshot]))
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
    """d(loss) / d(ln position) by token index and training tokens, both on log scales.

    Raises:
        ValueError: This is no derivative.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> figure = il.plots.loss_derivative_map(il.dynamics.loss_derivative(run))
        >>> figure.write_html("derivative.html")
    """
    checks.instance("derivative", derivative, LossDerivative, "get one from loss_derivative")
    figure = derivative_figure(derivative)
    if change is not None:
        _mark_window(figure, change)
    return figure


def pca_paths(
    pca: LossPCA,
    changes: Changes,
    *,
    models: Sequence[str],
    looks: Mapping[str, Look] | None = None,
) -> go.Figure:
    """The runs' paths in the plane of their per-token losses; snapshots inside a window are large.

    Args:
        pca: From `loss_pca`.
        changes: The phase change of each model's ICL score; without looks, colours are in its
            order, so that a model has the same here as in figures with more models.
        models: The model of each of the runs, in their order.
        looks: How each model is drawn; None: a colour for each.

    Raises:
        ValueError: These are no paths, there is not one model for each, or one has no look.

    Examples:
        >>> runs = [il.tracking.Trajectory.read(f"runs/phase-{n}l-seed-0") for n in (1, 2)]
        >>> changes = {run.name: il.dynamics.phase_change(run, n_resamples=100) for run in runs}
        >>> pca = il.dynamics.loss_pca(runs)
        >>> figure = il.plots.pca_paths(pca, changes, models=[run.name for run in runs])
        >>> [trace.name for trace in figure.data]
        ['phase-1l-seed-0', 'phase-2l-seed-0']
    """
    checks.instance("pca", pca, LossPCA, "get one from loss_pca")
    models = checks.several("models", models)
    if len(models) != len(pca.names):
        raise checks.refuse("models", f"{len(pca.names)} names", models, "name that of each run")
    looks = _checked_looks(looks, dict.fromkeys([*changes, *models]))
    figure = paths_figure(pca, models, looks, windows=[changes.get(model) for model in models])
    return figure


def window_chart(
    changes: Changes,
    *,
    last: float,
    order: Sequence[str] | None = None,
    looks: Mapping[str, Look] | None = None,
) -> go.Figure:
    """When each model changes: its window, and its midpoint with the interval; none, in words.

    Args:
        changes: Phase changes by model.
        last: Where the axis ends: the tokens that the models were trained on.
        order: The models from top to bottom; None: as in `changes`.
        looks: How each model is drawn; None: a colour for each, in the order of `changes`.

    Raises:
        ValueError: There is no change, `last` is not above 0, or a model has no look.

    Examples:
        >>> runs = [il.tracking.Trajectory.read(f"runs/phase-{n}l-seed-0") for n in (1, 2)]
        >>> changes = {run.name: il.dynamics.phase_change(run, n_resamples=100) for run in runs}
        >>> [change.found for change in changes.values()]
        [False, True]
        >>> il.plots.window_chart(changes, last=9e6).write_html("windows.html")
    """
    import plotly.graph_objects as go

    _check_by_model("changes", changes)
    last = checks.real_number("last", last, above=0, remedy="give a number of tokens")
    looks = _checked_looks(looks, changes)
    names = list(changes) if order is None else list(order)
    figure = new_figure([], height=70 + 34 * len(names))
    for name in names:
        change = changes[name]
        color = looks[name].color
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
    tokens_axis(figure, last)
    # the kind of axis and its range are said: where no model changes, there is no data to tell
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_yaxes(range=[-0.5, len(names) - 0.5], showgrid=False)
    narrow = ["<br>".join(map(plain, wrap(name, 18, break_on_hyphens=False))) for name in names]
    figure.update_yaxes(tickmode="array", tickvals=names, ticktext=narrow)
    return figure


def _checked_looks(looks: Mapping[str, Look] | None, models: Iterable[str]) -> Mapping[str, Look]:
    """A look for each model: a colour of its own where none is given."""
    if looks is None:
        return {model: Look(model_color(number)) for number, model in enumerate(models)}
    remedy = "pass a Look for each model"
    checks.instance("looks", looks, Mapping, remedy)
    for model in models:
        if model not in looks:
            raise checks.refuse("looks", f"one for {model}", list(looks), remedy)
        checks.instance(f"the look of {model}", looks[model], Look, remedy)
    return looks


def model_color(number: int) -> str:
    """The colour of the model with this place in the order of a page's runs."""
    return MODEL_COLORS[number % len(MODEL_COLORS)]


def _check_by_model(name: str, values: object) -> None:
    remedy = "pass a dictionary by model"
    if not checks.instance(name, values, Mapping, remedy):
        raise checks.refuse(name, "those of at least one model", values, remedy)


def _mark_window(figure: go.Figure, change: PhaseChange) -> None:
    """Dotted lines at onset and end, where shading would hide what is below."""
    line = {"color": INK["light"], "width": 1.4, "dash": "dot"}
    for mark in (change.onset, change.end):
        if mark is not None:
            figure.add_vline(x=mark.value, line=line)
