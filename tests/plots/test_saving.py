"""Figures as files have the size that was asked for, in inches, points and pixels."""

from __future__ import annotations

import re
import struct
import sys
from xml.etree import ElementTree

import pytest
import torch

from induction_lens import plots
from induction_lens.heads import HeadScores, ScoreTable
from induction_lens.plots.saving import _drawing, check_format

VALUES = torch.linspace(0, 1, 16).view(2, 8)
TABLE = ScoreTable({"induction": HeadScores("induction", VALUES)})


def test_the_canvas_gives_text_the_size_that_is_asked_for():
    figure = TABLE.plot()
    before = figure.to_json()
    drawing, size = _drawing(
        figure, width=3.25, height=None, font_size=9.0, font="Times", theme="dark", dpi=96.0
    )
    scale = 9 / 72 * 96 / 12  # text of 12 pixels becomes one of 9 points
    assert size["scale"] == pytest.approx(scale)
    assert size["width"] * size["scale"] == pytest.approx(3.25 * 96)
    assert size["height"] == figure.layout.height
    assert drawing.layout.font.family == "Times"
    assert figure.to_json() == before


def test_numbers_that_do_not_fit_into_a_column_are_left_out():
    wide = ScoreTable({"induction": HeadScores("induction", torch.rand(12, 16))}).plot()
    options = {"height": None, "font_size": 8.0, "font": None, "theme": "light", "dpi": 96.0}
    shown = [
        next(trace.visible for trace in _drawing(wide, width=width, **options)[0].data[1:])
        for width in (3.25, 6.75)
    ]
    assert shown == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "heads.gif"}, r"expected path to be a file that ends with \.svg, \.pdf, \.png"),
        ({"width": 0}, "expected width"),
        ({"font_size": "8"}, "expected font_size"),
        ({"height": -1}, "expected height"),
        ({"theme": "sepia"}, "expected theme to be one of light, dark"),
        ({"font": 3}, "expected font"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_bad_sizes_are_refused(options, message):
    given = {"path": "heads.svg", **options}
    with pytest.raises(ValueError, match=message):
        plots.save_figure(TABLE.plot(), given.pop("path"), **given)


def test_without_kaleido_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    remedy = r"got none; pip install 'induction_lens\[figures\]'"
    with pytest.raises(ValueError, match=remedy):
        plots.save_figure(TABLE.plot(), tmp_path / "heads.svg")
    with pytest.raises(ValueError, match=remedy):
        check_format("figures", "svg")
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_it_says_how_to_get_one(monkeypatch, tmp_path):
    kaleido = pytest.importorskip("kaleido")

    def none_found(*_, **__):
        raise kaleido.errors.ChromeNotFoundError

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", none_found)
    with pytest.raises(ValueError, match="found none; install one, or run kaleido_get_chrome"):
        plots.save_figure(TABLE.plot(), tmp_path / "heads.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_have_the_size_of_a_column(tmp_path):
    pytest.importorskip("kaleido")
    figure = TABLE.plot()
    for written in ("svg", "pdf", "png"):
        path = tmp_path / f"heads.{written}"
        assert plots.save_figure(figure, path, width=3.25, font_size=8) == path
    svg = ElementTree.parse(tmp_path / "heads.svg").getroot()
    assert float(svg.attrib["width"]) == pytest.approx(3.25 * 96, abs=0.5)
    _, _, across, _ = map(float, svg.attrib["viewBox"].split())
    sizes = set(re.findall(r"font-size: (\d+)px", (tmp_path / "heads.svg").read_text()))
    assert "12" in sizes
    points = 12 * float(svg.attrib["width"]) / across * 72 / 96
    assert points == pytest.approx(8, abs=0.05)
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+)", (tmp_path / "heads.pdf").read_bytes())
    assert box is not None
    assert float(box[1]) == pytest.approx(3.25 * 72, abs=1)
    across, _ = struct.unpack(">II", (tmp_path / "heads.png").read_bytes()[16:24])
    assert across == pytest.approx(3.25 * 300, abs=1)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [(TABLE, r"got a ScoreTable; pass its plot\(\)"), ({}, r"got \{\}; pass what plot\(\) gives")],
)
def test_what_is_no_figure_is_refused_in_one_line(given, remedy, tmp_path):
    with pytest.raises(ValueError, match=rf"figure to be a Figure, {remedy}$"):
        plots.save_figure(given, tmp_path / "heads.svg")
