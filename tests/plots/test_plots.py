"""Figures hold the numbers of the results that they draw."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
import scipy.stats
import torch

from induction_lens import plots
from induction_lens.ablation.study import AblationStudy, Control
from induction_lens.estimates import Estimate
from induction_lens.heads import Head, HeadScores
from induction_lens.style import add_estimate, method_color, new_figure, template

LENGTH = 23
draw: Any = plots  # plotly's objects have attributes that type checkers do not know


def _losses(seed: int, n: int = 7) -> torch.Tensor:
    losses = torch.rand(n, LENGTH, generator=torch.Generator().manual_seed(seed)) * 3
    losses[:, 0] = math.nan
    return losses


def _study(method: str = "mean", *, effect: float = 0.25) -> AblationStudy:
    heads = (Head(1, 0),)
    controls = (Control((Head(1, 2),), Estimate(0.125, 0.0, 0.25, 7)),)
    return AblationStudy(
        heads=heads,
        method=method,  # pyright: ignore[reportArgumentType]
        early=3,
        late=19,
        window=0,
        estimator="paper",
        clean=Estimate(-0.5, -0.75, -0.375, 7),
        ablated=Estimate(-0.5 + effect, -0.375, 0.0, 7),
        effect=Estimate(effect, effect - 0.125, effect + 0.25, 7),
        controls=controls,
        rank=1 if effect > 0.125 else 2,
        clean_losses=_losses(0),
        ablated_losses=_losses(1),
        control_heads=((Head(1, 2),),),
        control_losses=_losses(2)[None],
        short_losses=None,
        documents=None,
    )


def _traces(figure, **having):
    return [
        trace
        for trace in figure.data
        if all(getattr(trace, name) == value for name, value in having.items())
    ]


def test_head_map_holds_the_scores_and_outlines_the_marked_heads():
    values = torch.tensor([[0.25, 0.5, 0.0], [0.125, 0.0, 1.0]])
    figure = draw.head_map(HeadScores("induction", values), marked=[Head(1, 2), Head(0, 1)])
    [heat, numbers] = figure.data
    assert [list(row) for row in heat.z] == values.tolist()
    cells = dict(zip(zip(numbers.y, numbers.x, strict=True), numbers.text, strict=True))
    assert cells[0, 1] == ".50"  # layers down, heads across
    assert cells[1, 2] == "1.0"
    assert cells[1, 1] == "0"
    centres = {((s.x0 + s.x1) / 2, (s.y0 + s.y1) / 2) for s in figure.layout.shapes}
    assert centres == {(2, 1), (1, 0)}  # heads across, layers down
    assert list(figure.layout.yaxis.range) == [1.5, -0.5]  # down
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


@pytest.mark.parametrize(
    ("unit", "values", "limit"),
    [
        ("copying", [[0.5, -0.25]], 1.0),
        ("nats", [[0.5, -2.0]], 2.0),
        ("nats", [[0.0, 0.0]], 1.0),
    ],
)
def test_signed_scores_are_coloured_symmetrically_about_zero(unit, values, limit):
    figure = draw.head_map(HeadScores("effect", torch.tensor(values), unit=unit))
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-limit, limit)
    assert axis.colorscale[0][1] == plots.DIVERGING[0][1]


def test_large_maps_have_no_numbers_in_their_cells_and_fewer_ticks():
    figure = draw.head_map(HeadScores("induction", torch.zeros(3, 37)))
    assert [trace.type for trace in figure.data] == ["heatmap"]
    assert figure.layout.coloraxis.showscale is None
    assert figure.layout.xaxis.dtick == 3


def test_bins_average_positions_then_sequences():
    losses = _losses(3)
    centers, means, halves = plots.binned(losses, n_bins=4)
    starts = [round(LENGTH ** (i / 4)) for i in range(5)]
    assert starts == [1, 2, 5, 11, 23]
    for index, (start, stop) in enumerate(pairwise(starts)):
        rows = [
            sum(float(losses[b, t]) for t in range(start, stop)) / (stop - start) for b in range(7)
        ]
        mean = sum(rows) / 7
        error = math.sqrt(sum((row - mean) ** 2 for row in rows) / 6 / 7)
        assert means[index] == pytest.approx(mean, abs=1e-6)
        assert halves[index] == pytest.approx(1.96 * error, abs=1e-6)
        assert centers[index] == pytest.approx(math.sqrt(start * (stop - 1)))


def test_a_single_sequence_has_no_band():
    assert set(plots.binned(_losses(3)[:1])[2]) == {0.0}


def test_loss_figure_draws_each_run_with_its_band_and_the_two_positions():
    clean, ablated = _losses(4), _losses(5)
    figure = draw.loss_by_position(clean, {"zero": ablated}, early=3, late=19)
    for name, losses in (("clean", clean), ("zero", ablated)):
        centers, means, halves = plots.binned(losses)
        [line] = _traces(figure, name=name, mode="lines")
        assert list(line.x) == centers
        assert list(line.y) == means
        [band] = _traces(figure, fill="toself", legendgroup=name)
        upper, lower = band.y[: len(means)], band.y[len(means) :][::-1]
        assert list(upper) == pytest.approx([m + h for m, h in zip(means, halves, strict=True)])
        assert list(lower) == pytest.approx([m - h for m, h in zip(means, halves, strict=True)])
    assert [shape.x0 for shape in figure.layout.shapes] == [3, 19]
    assert figure.layout.xaxis.type == "log"


def test_cost_figure_is_paired_by_sequence():
    clean, ablated = _losses(4), _losses(5)
    figure = draw.cost_by_position(clean, {"mean": ablated}, early=3, late=19)
    [line] = _traces(figure, name="mean", mode="lines")
    assert list(line.y) == plots.binned(ablated - clean)[1]
    assert list(line.customdata) == plots.binned(ablated - clean)[2]
    assert not _traces(figure, name="clean")


def test_icl_figure_has_a_dot_an_interval_and_the_controls_for_each_method():
    study = _study()
    figure = draw.icl_scores({"mean": study, "zero": _study("zero", effect=0.0625)})
    [dot] = [t for t in figure.data if list(t.y) == ["mean"] and t.error_x.array is not None]
    assert dot.x[0] == study.ablated.value
    assert dot.x[0] + dot.error_x.array[0] == study.ablated.high
    assert dot.x[0] - dot.error_x.arrayminus[0] == study.ablated.low
    [clean] = [t for t in figure.data if list(t.y) == ["clean"]]
    assert clean.x[0] == -0.5
    ticks = [t for t in figure.data if t.text is not None]
    assert [(list(t.x), list(t.text)) for t in ticks] == [([-0.375], ["1.2"])] * 2
    assert list(figure.layout.yaxis.categoryarray) == ["zero", "mean", "clean"]


def test_an_infinite_interval_is_not_drawn():
    figure = new_figure([], height=10)
    add_estimate(figure, "one", Estimate(0.5, -math.inf, math.inf, 1), color=plots.CLEAN)
    assert (figure.data[0].error_x.array[0], figure.data[0].error_x.arrayminus[0]) == (0, 0)


def test_effects_are_sorted_with_their_intervals_and_the_knocked_out_heads_marked():
    effects = HeadScores(
        "effect",
        torch.tensor([[0.5, -0.25], [0.0, 1.0]]),
        unit="nats",
        sem=torch.tensor([[0.5, 0.25], [0.125, 1.0]]),
    )
    [bars] = draw.head_effects(effects, marked=[Head(1, 1)], k=3).data
    assert list(bars.y) == ["0.1", "0.0", "1.1"]  # 1.0 has the smallest effect of the four
    assert list(bars.x) == [-0.25, 0.5, 1.0]
    assert list(bars.error_x.array) == pytest.approx([0.49, 0.98, 1.96], rel=1e-4)  # normal
    few = dataclasses.replace(effects, n_units=torch.tensor([[3, 5], [16, 9]]))
    [bars] = draw.head_effects(few, marked=[Head(1, 1)], k=3).data
    quantiles = [float(scipy.stats.t.ppf(0.975, n - 1)) for n in (5, 3, 9)]
    expected = [quantile * sem for quantile, sem in zip(quantiles, (0.25, 0.5, 1.0), strict=True)]
    assert list(bars.error_x.array) == pytest.approx(expected)
    assert list(bars.marker.color) == [plots.CLEAN, plots.CLEAN, plots.METHOD_COLORS["mean"]]


def test_methods_of_a_users_own_have_colours_of_their_own():
    assert method_color("mean") == plots.METHOD_COLORS["mean"]
    others = [method_color(label) for label in ("halve", "scale", "mean per position")]
    assert not set(others) & {*plots.METHOD_COLORS.values(), plots.CLEAN, plots.CONTROL}
    assert others == [method_color(label) for label in ("halve", "scale", "mean per position")]


def test_effects_without_standard_errors_have_no_intervals():
    effects = HeadScores("effect", torch.tensor([[0.5, -0.25]]), unit="nats")
    [bars] = draw.head_effects(effects).data
    assert (list(bars.x), bars.error_x.array) == ([-0.25, 0.5], None)


def test_attention_map_shows_what_a_query_can_see_and_escapes_tokens():
    pattern = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    figure = draw.attention_map(pattern, ["<b>", "&x"])
    [heat] = figure.data
    assert [list(row) for row in heat.z] == [[1.0, None], [0.25, 0.75]]
    assert heat.customdata[1][0] == "&amp;x → &lt;b&gt;"


def test_figures_share_one_transparent_template():
    look = template().layout
    figure = draw.attention_map(torch.ones(1, 1), ["a"])
    assert figure.layout.template.layout.font.family == look.font.family
    assert look.paper_bgcolor == look.plot_bgcolor == "rgba(0, 0, 0, 0)"
