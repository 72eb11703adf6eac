"""Pictures without scripts hold what the figures hold, at the places where plotly draws it."""

from __future__ import annotations

import re
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from induction_lens import plots
from induction_lens.heads import Head, HeadScores
from induction_lens.plots.static import LEVELS, static_css, static_svg
from induction_lens.plots.static_axes import axis_of
from induction_lens.style import SCALES, color_at
from tests.plots.test_plots import _losses, _study
from tests.plots.test_plots_training import FOUND, NONE, _run

draw: Any = plots
WIDTH = 620


def _axis(known: dict[str, Any], values: list[Any], pixels=(0.0, 100.0)):
    return axis_of(go.layout.XAxis(known), values, pixels=pixels)


def test_values_lie_where_their_axis_says():
    linear = _axis({"range": [-1, 3]}, [])
    assert [linear.at(value) for value in (-1, 0, 3)] == [0, 25, 100]
    log = _axis({"type": "log", "range": [1, 3]}, [])
    assert [log.at(value) for value in (10, 100, 1000)] == pytest.approx([0, 50, 100])
    down = _axis({"range": [1.5, -0.5]}, [])
    assert (down.at(1.5), down.at(-0.5)) == (0, 100)
    names = _axis({"categoryarray": ["b", "a"]}, ["a", "b"])
    assert (names.at("b"), names.at("a")) == (25, 75)
    free = _axis({}, [2.0, 4.0, None, float("nan")])
    assert (free.low, free.high) == pytest.approx((1.9, 4.1))
    turned = _axis({"autorange": "reversed"}, [2.0, 4.0])
    assert (turned.low, turned.high) == pytest.approx((4.1, 1.9))


def test_ticks_are_round_and_inside():
    linear = _axis({"range": [-0.37, 1.02]}, [])
    assert [label for _, label in linear.ticks(go.layout.XAxis())] == ["0", "0.5", "1"]
    tokens = _axis({"type": "log", "range": [5, 7]}, [])
    labels = [label for _, label in tokens.ticks(go.layout.XAxis())]
    assert labels == ["100k", "200k", "500k", "1.0M", "2.0M", "5.0M", "10.0M"]
    told = go.layout.XAxis(tickvals=[1, 10, 100], ticktext=["1", "ten", "100"])
    short = _axis({"type": "log", "range": [0.5, 2]}, [])
    assert [label for _, label in short.ticks(told)] == ["ten", "100"]


def test_a_map_has_a_cell_for_each_head_in_the_colour_of_its_score():
    values = torch.tensor([[0.0, 0.5, 1.0], [0.25, float("nan"), 0.5]])
    figure = draw.head_map(HeadScores("induction", values), marked=[Head(1, 2)])
    svg = static_svg(figure, "Map & more")
    cells = {
        name: path.count("M") for name, path in re.findall(r'<path class="(\w+)" d="(.*?)"', svg)
    }
    assert cells == {"s0": 1, f"s{LEVELS // 2}": 2, f"s{LEVELS}": 1, f"s{LEVELS // 4}": 1}
    assert re.findall(r'class="n(s\d+)">([^<]+)<', svg) == [
        *(("s0", "0"), ("s16", ".50"), ("s32", "1.0"), ("s8", ".25"), ("s16", ".50")),
    ]
    assert svg.count("<rect") == 1
    assert 'aria-label="Map &amp; more"' in svg


def test_every_class_of_a_colour_has_a_rule_in_both_themes():
    light, dark = static_css().split("@media")
    for text, scales in ((light, SCALES["light"]), (dark, SCALES["dark"])):
        rules = dict(re.findall(r"\.(\w+)\{fill:(#\w+)\}", text))
        assert len(rules) == 4 * (LEVELS + 1)
        assert rules["s7"] == color_at(scales["sequential"], 7 / LEVELS)
        assert rules["d30"] == color_at(scales["diverging"], 30 / LEVELS)


def test_lines_are_where_their_values_are():
    run = _run()
    figure = draw.induction_over_training(run, FOUND)
    svg = static_svg(figure, "Induction")
    lines = re.findall(r'<polyline points="([^"]+)" fill="none" stroke="(#\w+)"', svg)
    strong = [points for points, color in lines if color == figure.data[-1].line.color]
    points = [tuple(map(float, point.split(","))) for point in strong[0].split()]
    assert len(points) == 2  # of 10, 100 and 1000 tokens, the first is left of the axis
    values = run.scores["induction"][2:, 1, 2].tolist()
    (x1, y1), (x2, y2) = points
    assert x1 < x2
    height = figure.layout.height
    per_unit = (y1 - y2) / (values[1] - values[0])
    bottom = y1 + per_unit * (values[0] + 0.02)
    assert bottom == pytest.approx(height - 8 - 2 * 17, abs=0.2)  # where the range begins


def test_intervals_windows_and_names_are_drawn():
    study = _study()
    svg = static_svg(draw.icl_scores({"mean": study, "zero": study}), "ICL")
    assert svg.count("<circle") == 3
    assert {"clean", "mean", "zero"} <= set(re.findall(r">([^<]+)</text>", svg))
    losses = {"mean": _losses(1)}
    svg = static_svg(draw.loss_by_position(_losses(0), losses, early=3, late=19), "Loss")
    assert svg.count("<polygon") == 2  # bands
    windows = draw.window_chart({"<one>": FOUND, "two": NONE}, last=1000.0)
    svg = static_svg(windows, "Windows")
    assert "&lt;one&gt;" in svg
    assert "<one>" not in svg
    assert "none (p = 0.5)" in svg
    effects = HeadScores("effect", torch.tensor([[0.5, -0.25]]), unit="nats")
    assert static_svg(draw.head_effects(effects), "Effects").count("<rect") == 2


def test_what_has_no_drawing_is_refused():
    figure = go.Figure(go.Pie(values=[1]), layout={"height": 100})
    with pytest.raises(ValueError, match="got a trace of kind pie; draw it with plotly"):
        static_svg(figure, "Pie")
