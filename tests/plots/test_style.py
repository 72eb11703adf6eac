"""Colours can be read, themes change nothing else, and numbers stand in cells that hold them."""

from __future__ import annotations

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.reports.pages import TEMPLATES
from induction_lens.style import (
    HeadMap,
    color_at,
    contrast,
    fit_numbers,
    head_maps,
    ink_on,
    themed,
)
from induction_lens.style.maps import short
from induction_lens.style.palette import (
    CATEGORICAL,
    INK,
    MARKED,
    PAPER,
    SCALES,
    SOFT,
    THEMES,
    Scale,
)

TABLE = ScoreTable(
    {
        "induction": HeadScores("induction", torch.tensor([[0.1, 0.9], [0.0, 0.2], [0.25, 0.4]])),
        "copying": HeadScores(
            "copying", torch.tensor([[0.5, -0.5], [0.0, 1.0], [-0.04, -1.0]]), unit="copying"
        ),
    }
)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("#000000", "#ffffff", 21.0), ("#777777", "#ffffff", 4.48), ("#0000ff", "#ffffff", 8.59)],
)
def test_contrast_is_that_of_wcag(first, second, expected):
    assert contrast(first, second) == pytest.approx(expected, abs=0.01)
    assert contrast(second, first) == contrast(first, second)


def test_numbers_can_be_read_on_every_colour_of_every_scale():
    for theme in THEMES:
        for scale in SCALES[theme].values():
            for step in range(101):
                color = color_at(scale, step / 100)
                assert contrast(ink_on(color), color) >= 4.5


def test_text_of_themes_can_be_read_and_lines_are_seen():
    for theme in THEMES:
        assert contrast(SOFT[theme], PAPER[theme]) >= 4.5
        assert all(contrast(color, PAPER[theme]) >= 2.5 for color in CATEGORICAL)


def test_colours_of_a_scale_lie_between_its_own():
    scale: Scale = [[0.0, "#000000"], [0.5, "#ff0000"], [1.0, "#ffffff"]]
    assert color_at(scale, 0.25) == "#800000"
    ends = [color_at(scale, share) for share in (-1.0, 0.5, 2.0)]
    assert ends == ["#000000", "#ff0000", "#ffffff"]


def test_pages_have_the_same_scales():
    script = (TEMPLATES / "figures.js").read_text()
    for theme in THEMES:
        for kind, scale in SCALES[theme].items():
            block = script[script.index(f"{theme}: {{") :]
            written = re.search(rf"{kind}: (\[\[.*?\]\])", block)
            assert written is not None
            assert json.loads(written[1]) == scale


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.974, ".97"),
        (-0.123, "−.12"),
        (0.996, "1.0"),
        (1.0, "1.0"),
        (0.004, "0"),
        (-0.004, "0"),
        (0.0, "0"),
        (12.3, "12"),
        (9.96, "10"),
        (-2.34, "−2.3"),
        (None, ""),
    ],
)
def test_numbers_in_cells_are_short(value, text):
    assert short(value) == text


def test_maps_of_one_kind_share_their_colours_and_each_holds_its_scores():
    figure: Any = TABLE.plot()
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    for heat, scores in zip(maps, TABLE.values(), strict=True):
        assert [list(row) for row in heat.z] == scores.values.tolist()
    assert [heat.coloraxis for heat in maps] == ["coloraxis", "coloraxis2"]
    layout = figure.layout
    assert (layout.coloraxis.cmin, layout.coloraxis2.cmin, layout.coloraxis2.cmax) == (0, -1, 1)
    assert dict(layout.meta["scales"]) == {"coloraxis": "sequential", "coloraxis2": "diverging"}
    colors = layout.coloraxis2.colorscale
    assert (colors[0][1], colors[-1][1]) == ("#1f7a5c", "#b8480f")  # below zero green, as pages


def _outlined(figure: Any) -> list[tuple[str, float, float]]:
    shapes = figure.layout.shapes
    return [(shape.xref, (shape.y0 + shape.y1) / 2, (shape.x0 + shape.x1) / 2) for shape in shapes]


def test_induction_heads_are_outlined_where_there_are_some():
    sure = HeadScores(
        "induction",
        TABLE["induction"].values,
        sem=torch.full((3, 2), 0.001),
        null=torch.zeros(3, 2),
    )
    table = ScoreTable({"copying": TABLE["copying"], "induction": sure})
    assert sure.above() == [Head(0, 1), Head(2, 1)]
    assert _outlined(table.plot()) == [("x2", 0, 1), ("x2", 2, 1)]  # layers down, heads across
    assert _outlined(table.plot(marked=["1.0"])) == [("x", 1, 0), ("x2", 1, 0)]
    assert _outlined(table.plot(marked=[])) == []
    with pytest.raises(ValueError, match=r"expected .*head"):
        table.plot(marked=["7.0"])


def test_a_theme_changes_colours_and_nothing_else():
    plain: Any = TABLE.plot(marked=["0.1"])
    dark: Any = TABLE.plot(marked=["0.1"], theme="dark")
    assert (dark.layout.paper_bgcolor, dark.layout.font.color) == (PAPER["dark"], SOFT["dark"])
    assert dark.layout.coloraxis.colorscale[0][1] == SCALES["dark"]["sequential"][0][1]
    assert [shape.line.color for shape in plain.layout.shapes] == [MARKED, INK["light"]]
    assert [shape.line.color for shape in dark.layout.shapes] == [MARKED, INK["dark"]]
    for before, after in zip(plain.data, dark.data, strict=True):
        kept = [one.to_plotly_json() for one in (before, after)]
        for one in kept:
            one.pop("textfont", None)
        assert str(kept[0]) == str(kept[1])
    numbers = next(trace for trace in dark.data if trace.type == "scatter")
    scale = SCALES["dark"]["sequential"]
    expected = [ink_on(color_at(scale, value)) for value in numbers.customdata]
    assert list(numbers.textfont.color) == expected


@pytest.mark.usefixtures("_as_users_call")
def test_an_unknown_theme_is_refused():
    with pytest.raises(ValueError, match="expected theme to be one of light, dark, got 'sepia'"):
        TABLE.plot(theme="sepia")  # pyright: ignore[reportArgumentType]


def test_a_figure_without_a_theme_is_left_alone():
    figure = go.Figure()
    assert themed(figure, None) is figure
    assert figure.layout.paper_bgcolor is None


def test_numbers_are_shown_where_they_fit():
    maps = [HeadMap("one", torch.rand(2, 12)), HeadMap("two", torch.rand(2, 12))]
    figure: Any = head_maps(maps)

    def shown(width):
        fit_numbers(figure, width)
        return {trace.visible for trace in figure.data if trace.type == "scatter"}

    assert shown(800.0) == {True}
    assert not figure.layout.coloraxis.showscale
    assert shown(400.0) == {False}  # 14 pixels a cell
    assert figure.layout.coloraxis.showscale
    wide: Any = head_maps([HeadMap("one", torch.rand(2, 30))])
    assert [trace.type for trace in wide.data] == ["heatmap"]
