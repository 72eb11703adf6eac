"""Parts of figures over training: lines for runs and for their heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from induction_lens.heads import THRESHOLD, Head
from induction_lens.style import CONTROL, new_figure, plain, tokens_axis

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from induction_lens.tracking.trajectory import Trajectory

HEAD_COLORS = ("#d9662b", "#3b7dd8", "#1f9d74", "#9b5fc0", "#b98410", "#c2427f")


def last_tokens(run: Trajectory) -> float:
    """Tokens at the last snapshot."""
    return float(run.tokens_seen[-1])


def heads_of(run: Trajectory) -> list[Head]:
    """All heads of its model."""
    _, n_layers, n_heads = run.scores["induction"].shape
    return [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def strong_heads(run: Trajectory) -> list[Head]:
    """Heads that end above the threshold, strongest first."""
    last = run.scores["induction"][-1]
    strong = [head for head in heads_of(run) if last[head.layer, head.head] >= THRESHOLD]
    return sorted(strong, key=lambda head: -float(last[head.layer, head.head]))


def add_heads(
    figure: go.Figure,
    run: Trajectory,
    values: Float[Tensor, "snapshot layer head"],
    *,
    strong: Sequence[Head],
) -> None:
    """A line for every head: `strong` ones in colour and named, the others grey."""
    for head in sorted(heads_of(run), key=lambda head: head in strong):
        named = head in strong
        color = HEAD_COLORS[strong.index(head) % len(HEAD_COLORS)] if named else CONTROL
        curve = values[:, head.layer, head.head]
        width = 2.4 if named else 1.0
        add_run(figure, run, curve, name=f"head {head}", color=color, listed=named, width=width)


def add_run(
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


def induction_figure(run: Trajectory) -> go.Figure:
    """The prefix-matching score of every head over training; heads that end above 0.3 in colour."""
    figure = new_figure([], height=330)
    add_heads(figure, run, run.scores["induction"].double(), strong=strong_heads(run))
    tokens_axis(figure, last_tokens(run))
    figure.update_yaxes(title_text="prefix-matching score", range=[-0.02, 1.02])
    return figure
