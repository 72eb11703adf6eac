"""Every page that the package writes, in a real browser: narrow, wide, light, dark, by keys."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import induction_lens as il
from induction_lens.reports.pages import TEMPLATES
from induction_lens.reports.training.runs import SHIPPED
from induction_lens.tasks import (
    Extent,
    LiteralHeads,
    PatternHeads,
    dissociate,
    literal_copying,
    same_heads,
)
from tests.browser import WIDTHS, faults
from tests.tasks.material import key_task, speaking_circuit
from tests.tasks.test_kinds import PASSAGES

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {"n_sequences": 4, "n_controls": 1, "progress": False}
READY = "!document.getElementById('cards') || document.documentElement.dataset.ready"
PARTS = {"base.html", "macros.html"}
"""Templates that are no pages by themselves."""


def _shown(result: Any, path: Path) -> Path:
    """The document that a notebook shows of a result in a frame, as a page."""
    inside = re.search(r'srcdoc="([^"]*)"', result._repr_html_())
    assert inside is not None
    path.write_text(html.unescape(inside[1]), encoding="utf-8")
    return path


def _report(folder: Path) -> list[Path]:
    found = il.report(il.load("toy-2l-narrow"), circuit=True, **SMALL)
    page = found.save(folder)
    return [page, folder / "attention.html", _shown(found, folder / "notebook.html")]


def _training(folder: Path) -> list[Path]:
    names = ("phase-1l-seed-0", "phase-2l-seed-0", "phase-2l-smeared-seed-0")
    runs = [SHIPPED / name for name in names]
    found = il.reports.training_report(runs, n_resamples=50, progress=False)
    return [found.save(folder), _shown(found, folder / "notebook.html")]


def _comparison(folder: Path) -> list[Path]:
    found = il.compare([il.load(name) for name in ("toy-1l", "toy-2l-narrow")], **SMALL)
    return [il.reports.save_comparison(found, folder)]


def _circuit(folder: Path) -> list[Path]:
    model = il.load("toy-2l-narrow")
    material = il.circuits.Material.of(model, n_sequences=4, n_texts=4)
    found = il.circuits.circuit(model, n_random=2, material=material)
    return [il.reports.save_circuit(found, folder)]


def _dissociation(folder: Path) -> list[Path]:
    model = speaking_circuit()
    text = il.repeated_random_tokens(model, n_tokens=10, n_repeats=4, n_sequences=12)
    kinds = ["induction", PatternHeads(key_task(), n_lines=9, n_prompts=6)]
    extent = Extent(shots=4, n_items=12, n_controls=3)
    found = dissociate(model, key_task(), text, kinds=kinds, methods=["mean"], extent=extent)
    same = same_heads(model, kinds=[LiteralHeads(literal_copying(PASSAGES)), kinds[1]])
    return [il.reports.save_dissociation(found, folder, same=same)]


def _family(folder: Path) -> list[Path]:
    found = il.suites.family(["toy-1l", "toy-2l-narrow", "toy-2l"], **SMALL)
    return [il.reports.save_family(found, folder)]


def _view(folder: Path) -> list[Path]:
    text = "def add(first, second):\n    return first + second\n\ndef sub(first, second):"
    view = il.views.attention(il.load("toy-2l"), text)
    folder.mkdir()
    return [view.save(folder / "attention.html"), _shown(view, folder / "notebook.html")]


PAGES: dict[str, Callable[[Path], list[Path]]] = {
    "report": _report,
    "training": _training,
    "comparison": _comparison,
    "circuit": _circuit,
    "dissociation": _dissociation,
    "family": _family,
    "view": _view,
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_in_order(name, browser, tmp_path):
    for path in PAGES[name](tmp_path / name):
        page = browser.open(path, width=WIDTHS[0], until=READY)
        assert list(faults(page)) == [], path
        page.close()


def test_no_page_is_left_out():
    assert {path.name for path in TEMPLATES.glob("*.html")} - PARTS == {
        f"{name}.html" for name in PAGES if name != "view"
    }
