"""Figures over training hold the numbers of the trajectories and analyses that they draw."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from induction_lens import plots
from induction_lens.dynamics import LossDerivative, PhaseChange, loss_derivative, loss_pca
from induction_lens.estimates import Estimate
from induction_lens.plots.training import MODEL_COLORS
from induction_lens.tracking.trajectory import Trajectory

draw: Any = plots  # plotly's objects have attributes that type checkers do not know
SEEN = torch.tensor([0, 10, 100, 1000])
NONE = PhaseChange("icl", False, None, None, None, 0.0, 0.1, 0.5, (0,), 3, 0.95, torch.zeros(0))
FOUND = dataclasses.replace(
    NONE,
    found=True,
    onset=Estimate(10.0, 5.0, 20.0, unit="tokens"),
    midpoint=Estimate(50.0, 40.0, 70.0, unit="tokens"),
    end=Estimate(100.0, 90.0, 200.0, unit="tokens"),
)


def _run(seed: int = 0, *, smeared: bool = False, edges: bool = False) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)

    def rand(*sizes: int) -> torch.Tensor:
        return torch.rand(sizes, generator=generator)

    induction = rand(4, 2, 3, 5)
    induction[-1] = 0.1
    induction[-1, 1, 2], induction[-1, 0, 1] = 0.9, 0.4
    losses = rand(4, 19)
    losses[:, 0] = math.nan
    return Trajectory(
        name=f"run-{seed}",
        config={"n_layers": 2, "seed": seed},
        seed=seed,
        steps=SEEN // 10,
        tokens_seen=SEEN,
        training_loss=rand(4),
        held_out_loss=rand(4),
        icl=rand(4, 3),
        early=5,
        late=15,
        window=1,
        scores={"induction": induction.mean(3)},
        induction_by_sequence=induction,
        effects={"zero": rand(4, 2, 3) - 0.5, "mean": rand(4, 2, 3)},
        loss_by_position=losses,
        token_losses=rand(4, 7),
        smear=rand(4, 2, 3) if smeared else None,
        weights=("",) * 4,
        edges=_edges(rand) if edges else {},
    )


def _edges(rand: Any) -> dict[str, torch.Tensor]:
    edges = {name: rand(4, 2, 3) for name in ("k_composition", "k_z", "matching")}
    edges["k_from"] = torch.tensor([2.0, 0.0, 1.0]).expand(4, 2, 3).clone()
    for values in edges.values():
        values[:, 0] = math.nan
    return edges


@pytest.mark.parametrize("measure", ["k_composition", "matching"])
def test_edges_lie_beside_the_icl_score(measure):
    run = _run(edges=True)
    figure = draw.edges_over_training(run, FOUND, measure=measure)
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["head 1.2"].y) == pytest.approx(run.edges[measure][1:, 1, 2].tolist())
    assert list(lines["ICL score"].y) == pytest.approx(run.icl[1:].mean(1).tolist())
    assert lines["ICL score"].yaxis == "y2"
    assert lines["head 1.2"].yaxis is None
    assert lines["head 1.2"].showlegend
    assert not lines["head 1.0"].showlegend
    with pytest.raises(ValueError, match="expected a run whose edges were measured"):
        draw.edges_over_training(_run())


def _named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def _shaded(figure):
    return [(shape.x0, shape.x1) for shape in figure.layout.shapes]


def test_icl_is_the_mean_over_sequences_of_every_run_without_step_0():
    runs = {"one": [_run(0), _run(1)], "two": [_run(2)]}
    figure = draw.icl_over_training(runs, {"one": FOUND, "two": NONE}, window_of=["one", "two"])
    for name, seeds in runs.items():
        for trace, run in zip(_named(figure, name), seeds, strict=True):
            assert list(trace.x) == [10, 100, 1000]
            assert list(trace.y) == pytest.approx(run.icl[1:].mean(1).tolist())
    assert [trace.showlegend for trace in figure.data] == [True, False, True]
    colors = [trace.line.color for trace in figure.data]
    assert colors[0] == colors[1] != colors[2]
    assert _shaded(figure) == [(10.0, 100.0)]  # a model without a change has no window
    assert figure.layout.xaxis.type == "log"


def test_every_head_has_its_scores_and_strong_ones_a_colour_of_their_own():
    run = _run()
    figure = draw.induction_over_training(run, FOUND)
    for layer in range(2):
        for head in range(3):
            [trace] = _named(figure, f"head {layer}.{head}")
            expected = run.scores["induction"][1:, layer, head].tolist()
            assert list(trace.y) == pytest.approx(expected)
            strong = (layer, head) in {(1, 2), (0, 1)}
            assert trace.showlegend == strong
            assert (trace.line.color != plots.CONTROL) == strong
    assert _shaded(figure) == [(10.0, 100.0)]
    assert _shaded(draw.induction_over_training(run)) == []


def test_smear_is_drawn_as_it_is_and_asked_of_smeared_runs_alone():
    run = _run(smeared=True)
    assert run.smear is not None
    figure = draw.smear_over_training(run, FOUND)
    [trace] = _named(figure, "head 0.1")
    assert list(trace.y) == pytest.approx(run.smear[1:, 0, 1].tolist())
    assert _shaded(figure) == [(10.0, 100.0)]
    with pytest.raises(ValueError, match="expected a run with smeared keys, got 'run-0'"):
        draw.smear_over_training(_run())


def test_effects_are_those_of_the_method_coloured_by_induction_score():
    run = _run()
    figure = draw.effects_over_training(run, method="mean", change=FOUND)
    [trace] = _named(figure, "1.2")
    assert list(trace.y) == pytest.approx(run.effects["mean"][1:, 1, 2].tolist())
    assert list(trace.marker.color) == pytest.approx(run.scores["induction"][1:, 1, 2].tolist())
    [first] = _named(draw.effects_over_training(run), "1.2")
    assert list(first.y) == pytest.approx(run.effects["zero"][1:, 1, 2].tolist())
    with pytest.raises(ValueError, match="one of zero, mean, got 'resample'"):
        draw.effects_over_training(run, method="resample")


def test_loss_curves_are_those_of_the_snapshots_after_step_0():
    run = _run()
    figure = draw.loss_curves(run, n_curves=2)
    assert [trace.name for trace in figure.data] == ["10", "1.0k"]
    for trace, snapshot in zip(figure.data, (1, 3), strict=True):
        centers, means, _ = plots.binned(run.loss_by_position[snapshot][None])
        assert list(trace.x) == pytest.approx(centers)
        assert list(trace.y) == pytest.approx(means)
    assert [trace.line.color for trace in figure.data] == [plots.CONTROL, plots.CLEAN]


def test_the_map_of_the_derivative_has_a_cell_for_each_bin_and_snapshot():
    derivative = loss_derivative(_run(), n_bins=3)
    figure = draw.loss_derivative_map(derivative, change=FOUND)
    [heat] = figure.data
    assert [list(row) for row in heat.z] == derivative.values[1:].T.tolist()
    root = 10**0.5  # edges lie halfway between neighbours on the log scale
    assert list(heat.x) == pytest.approx([10 / root, 10 * root, 100 * root, 1000 * root])
    assert list(heat.y) == [*derivative.first.tolist(), 19]
    axis = figure.layout.coloraxis
    assert axis.cmax == -axis.cmin == pytest.approx(derivative.values[1:].abs().quantile(0.98))
    assert _shaded(figure) == [(10.0, 10.0), (100.0, 100.0)]
    flat = LossDerivative(SEEN, torch.tensor([1]), torch.tensor([18]), torch.zeros(4, 1).double())
    assert draw.loss_derivative_map(flat).layout.coloraxis.cmax == 1.0


def test_pca_paths_are_large_inside_the_window():
    pca = loss_pca([_run(0), _run(1), _run(2)])
    changes = {"one": FOUND, "two": NONE}
    figure = draw.pca_paths(pca, changes, models=["one", "one", "two"])
    for trace, path in zip(figure.data, pca.coordinates, strict=True):
        assert list(trace.x) == path[:, 0].tolist()
        assert list(trace.y) == path[:, 1].tolist()
    assert list(figure.data[0].marker.size) == [4, 10, 10, 4]  # at 0, 10, 100 and 1000 tokens
    assert list(figure.data[2].marker.size) == [4, 4, 4, 4]
    assert [trace.showlegend for trace in figure.data] == [True, False, True]
    other = draw.pca_paths(pca, {"none of these": NONE, **changes}, models=["one", "one", "two"])
    colors = [trace.line.color for trace in other.data]
    assert colors == [MODEL_COLORS[n] for n in (1, 1, 2)]
    assert f"{pca.explained[0]:.0%}" in figure.layout.xaxis.title.text


def test_long_names_are_broken_between_words():
    name = "2 layers, K-composition cut until step 800"
    rows = draw.window_chart({name: FOUND, "<i>": NONE}, last=1000.0).layout.yaxis
    assert list(rows.tickvals) == [name, "<i>"]
    assert list(rows.ticktext) == [
        "2 layers,<br>K-composition cut<br>until step 800",
        "&lt;i&gt;",
    ]


def test_the_chart_of_windows_has_onset_midpoint_and_end_or_says_that_there_are_none():
    figure = draw.window_chart({"one": FOUND, "two": NONE}, last=1000.0, order=["two", "one"])
    window, middle = figure.data
    assert list(window.x) == [10.0, 100.0]
    assert list(middle.x) == [50.0]
    assert list(middle.error_x.array) == [20.0]
    assert list(middle.error_x.arrayminus) == [10.0]
    [words] = figure.layout.annotations
    assert (words.y, words.text) == ("two", "none (p = 0.5)")
    for chart in (figure, draw.window_chart({"two": NONE, "one": NONE}, last=1000.0)):
        rows = chart.layout.yaxis
        assert (rows.type, list(rows.range)) == ("category", [-0.5, 1.5])
        assert list(rows.categoryarray) == ["one", "two"]
    assert draw.window_chart({"one": FOUND}, last=1000.0).layout.height < figure.layout.height
    shown = [math.log10(1000 / 90), math.log10(1040)]
    assert list(figure.layout.xaxis.range) == pytest.approx(shown)
