"""Figures of one model's results: its heads' scores, their knock-outs, its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.drawing import icl_figure
from induction_lens.ablation.study import AblationStudy
from induction_lens.estimates import simultaneous_quantile
from induction_lens.heads import Head, HeadScores, head_map_of, parse_heads
from induction_lens.style import (
    CLEAN,
    CONTROL,
    MARKED,
    Z95,
    add_band,
    cells,
    color_axis,
    head_maps,
    method_color,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


def head_map(scores: HeadScores, *, marked: Sequence[Head] = ()) -> go.Figure:
    """Heat map of one score, layers down and heads across; `marked` heads are outlined.

    Small maps carry the numbers in their cells.

    Raises:
        ValueError: These are no scores.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"))["induction"]
        >>> figure = il.plots.head_map(scores, marked=scores.above(0.3))
        >>> figure.write_html("heads.html")
    """
    checks.instance("scores", scores, HeadScores, "get some from score_heads")
    return head_maps([head_map_of(scores, marked=_checked_heads(marked, scores))])


def loss_by_position(
    clean: Float[Tensor, "batch pos"],
    ablated: Mapping[str, Float[Tensor, "batch pos"]],
    *,
    early: int,
    late: int,
) -> go.Figure:
    """Mean loss against token position (log axis), clean and ablated, with 95% bands.

    Positions are averaged in bins of equal width on the log axis; the bands are over sequences.

    Args:
        clean: Loss of every token of the whole model, in nats.
        ablated: The same without heads, by the name of the curve.
        early: Early position of the ICL score, which is marked.
        late: Late position.

    Raises:
        ValueError: These are no losses of the same tokens.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> study = il.ablate(model, "1.6", tokens, early=20, late=60, n_controls=2)
        >>> ablated = {"mean": study.ablated_losses}
        >>> figure = il.plots.loss_by_position(study.clean_losses, ablated, early=20, late=60)
        >>> [trace.name for trace in figure.data if trace.name]
        ['clean', 'mean']
    """
    _check_losses(clean, ablated)
    early, late = _checked_places(clean, early=early, late=late)
    figure = new_figure([], height=400)
    for name, losses in {"clean": clean, **ablated}.items():
        centers, mean, half = binned(losses)
        color = CLEAN if name == "clean" else method_color(name)
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
    """What a knock-out adds to the loss at each position, paired by sequence, with 95% bands.

    Args:
        clean: Loss of every token of the whole model, in nats.
        ablated: The same without heads, by the name of the curve.
        early: Early position of the ICL score, which is marked.
        late: Late position.

    Raises:
        ValueError: These are no losses of the same tokens.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> study = il.ablate(model, "1.6", tokens, early=20, late=60, n_controls=2)
        >>> ablated = {"mean": study.ablated_losses}
        >>> figure = il.plots.cost_by_position(study.clean_losses, ablated, early=20, late=60)
        >>> [trace.name for trace in figure.data if trace.name]
        ['mean']
    """
    _check_losses(clean, ablated)
    early, late = _checked_places(clean, early=early, late=late)
    figure = new_figure([], height=360)
    for name, losses in ablated.items():
        centers, mean, half = binned(losses - clean)
        add_band(figure, centers, mean, half, name=name, color=method_color(name))
    _position_axes(figure, clean.shape[1], early=early, late=late)
    figure.update_yaxes(title_text="added loss (nats)", zeroline=True)
    return figure


def icl_scores(studies: Mapping[str, AblationStudy]) -> go.Figure:
    """ICL score clean, ablated by each method, and under random controls, with intervals.

    Raises:
        ValueError: There is no study.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> study = il.ablate(model, "1.6", tokens, early=20, late=60, n_controls=2)
        >>> figure = il.plots.icl_scores({"mean": study})
        >>> figure.write_html("icl.html")
    """
    remedy = "pass a dictionary of studies by method, each from ablate"
    checks.instance("studies", studies, Mapping, remedy)
    if not studies:
        raise checks.refuse("studies", "at least one study", studies, remedy)
    for study in studies.values():
        checks.instance("each of studies", study, AblationStudy, remedy)
    return icl_figure(studies)


def head_effects(effects: HeadScores, *, marked: Sequence[Head] = (), k: int = 32) -> go.Figure:
    """The effect of knocking out each head alone, largest first, with 95% intervals.

    Only the `k` largest effects in absolute value are drawn.

    Raises:
        ValueError: These are no effects, or `k` is below 1.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> effects = il.ablate_each_head(model, tokens, early=20, late=60)
        >>> figure = il.plots.head_effects(effects, marked=[il.Head(1, 1)], k=3)
        >>> figure.data[0].y  # from the bottom up
        ('0.1', '0.0', '0.2')
    """
    import plotly.graph_objects as go

    checks.instance("effects", effects, HeadScores, "get some from ablate_each_head")
    marked = _checked_heads(marked, effects)
    k = checks.whole_number("k", k, least=1, remedy="for instance 32")
    n_heads = effects.values.shape[1]
    order = torch.argsort(effects.values.abs().flatten(), descending=True, stable=True)[:k]
    heads = [Head(*divmod(int(index), n_heads)) for index in order]
    heads.sort(key=lambda head: effects[head])
    half = None
    if effects.sem is not None:
        half = {
            "type": "data",
            "array": [_half_width(effects, head) for head in heads],
            "color": CONTROL,
            "thickness": 1.2,
            "width": 0,
        }
    bars = go.Bar(
        x=[effects[head] for head in heads],
        y=[str(head) for head in heads],
        orientation="h",
        error_x=half,
        marker={"color": [MARKED if h in marked else CLEAN for h in heads]},
        hovertemplate="head %{y}: %{x:+.3f} nats<extra></extra>",
    )
    figure = new_figure([bars], height=80 + 22 * len(heads))
    figure.update_xaxes(title_text="change of the ICL score (nats)", zeroline=True)
    figure.update_yaxes(type="category", title_text="head", showgrid=False, dtick=1)
    figure.update_layout(bargap=0.35)
    return figure


def _half_width(effects: HeadScores, head: Head) -> float:
    """How far the 95% interval of a head's effect reaches, by Student's t where units are known."""
    assert effects.sem is not None
    n_units = None if effects.n_units is None else int(effects.n_units[head.layer, head.head])
    return simultaneous_quantile(1, n_units) * float(effects.sem[head.layer, head.head])


def attention_map(pattern: Float[Tensor, "query key"], tokens: Sequence[str]) -> go.Figure:
    """One head's attention pattern on one sequence: queries down, keys across.

    Tokens are shown as text, whatever they contain.

    Raises:
        ValueError: The pattern is no table of attention, or has not one row for each token.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_tokens=5, n_repeats=2, n_sequences=1)
        >>> _, cache = model.run_with_cache(tokens)
        >>> pattern = cache["pattern", 1][0, 6]  # of head 1.6
        >>> figure = il.plots.attention_map(pattern, model.to_str_tokens(tokens[0]))
        >>> figure.write_html("attention.html")
    """
    import plotly.graph_objects as go

    remedy = "pass one head's pattern on one sequence"
    checks.tensor("pattern", pattern, axes=("query", "key"), remedy=remedy)
    tokens = [checks.text("each of tokens", token) for token in checks.several("tokens", tokens)]
    if tuple(pattern.shape) != (len(tokens), len(tokens)):
        condition = f"of {len(tokens)} queries and keys, as there are tokens"
        raise checks.refuse("pattern", condition, pattern, remedy)
    labels = [plain(token) for token in tokens]
    lower = torch.ones(pattern.shape, dtype=torch.bool, device="cpu").tril()
    heat = go.Heatmap(
        z=cells(torch.where(lower, pattern.float(), torch.nan)),
        coloraxis="coloraxis",
        customdata=[[f"{query} → {key}" for key in labels] for query in labels],
        hovertemplate="%{customdata}<br>%{z:.2f}<extra></extra>",
    )
    figure = new_figure([heat], height=440)
    color_axis(figure, "sequential", 0.0, 1.0)
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

    Raises:
        ValueError: These are no losses of at least two positions, or there is no bin.

    Examples:
        >>> import torch
        >>> centers, means, half_widths = il.plots.binned(torch.ones(4, 512), n_bins=6)
        >>> [round(center) for center in centers]
        [1, 5, 13, 38, 107, 304]
        >>> means[0], half_widths[0]
        (1.0, 0.0)
    """
    _check_losses(losses, {})
    n_bins = checks.whole_number("n_bins", n_bins, least=1, most=10_000)
    last = losses.shape[1] - 1
    edges = torch.logspace(0, math.log10(last + 1), n_bins + 1, dtype=torch.float64, device="cpu")
    starts = sorted({round(float(edge)) for edge in edges})
    centers = []
    means = []
    halves = []
    for start, stop in pairwise(starts):
        per_sequence = losses[:, start:stop].double().mean(dim=1)
        n = len(per_sequence)
        error = float(per_sequence.std() / math.sqrt(n)) if n > 1 else 0.0
        centers.append(math.sqrt(start * (stop - 1)))
        means.append(float(per_sequence.mean()))
        halves.append(Z95 * error)
    return centers, means, halves


def _check_losses(clean: object, others: object) -> None:
    """Check that these are losses [batch pos], and others of the same tokens by name."""
    remedy = "get them from per_token_loss"
    losses = checks.tensor("losses", clean, axes=("batch", "pos"), remedy=remedy)
    if losses.shape[1] < 2:
        raise checks.refuse("losses", "those of at least 2 positions", losses, remedy)
    named = checks.instance("ablated", others, Mapping, "pass a dictionary of losses by name")
    for name, other in named.items():
        checks.tensor(f"losses of {name}", other, axes=("batch", "pos"), remedy=remedy)
        if other.shape != losses.shape:
            condition = f"of the shape {list(losses.shape)}, that of the clean ones"
            raise checks.refuse(f"losses of {name}", condition, other, remedy)


def _checked_places(
    losses: Float[Tensor, "batch pos"], *, early: object, late: object
) -> tuple[int, int]:
    """Two positions to mark, inside the sequences."""
    last = losses.shape[1] - 1
    remedy = "name a position of these losses"
    return (
        checks.whole_number("early", early, least=0, most=last, remedy=remedy),
        checks.whole_number("late", late, least=0, most=last, remedy=remedy),
    )


def _checked_heads(marked: object, scores: HeadScores) -> list[Head]:
    """Heads to mark, of those that were scored; there may be none."""
    n_layers, n_heads = scores.values.shape
    named = checks.several("marked", marked)
    return parse_heads(named, n_layers=n_layers, n_heads=n_heads) if named else []


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
