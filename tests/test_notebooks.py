"""Notebooks run, and their pages show what comes out."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITER = runpy.run_path(str(ROOT / "docs" / "scripts" / "write_notebooks.py"))
NAMES, PAGES, FIGURES = WRITER["ORDER"], WRITER["PAGES"], WRITER["FIGURES"]
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?")
REMEDY = "run docs/scripts/write_notebooks.py"


def test_there_is_a_page_for_each_notebook_and_none_else():
    scripts = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert scripts == set(NAMES)
    for folder, suffix in ((PAGES, "md"), (PAGES, "ipynb"), (FIGURES, "json")):
        assert {path.stem for path in folder.glob(f"*.{suffix}")} == set(NAMES)
    listed = re.findall(r"notebooks/(\w+)\.md", (ROOT / "docs" / "mkdocs.yml").read_text())
    assert tuple(listed) == NAMES


def test_what_is_stored_is_small():
    files = [*PAGES.glob("*"), *FIGURES.glob("*")]
    assert sum(path.stat().st_size for path in files) < 1_500_000


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_of_this_script(name):
    first, *_ = (PAGES / f"{name}.md").read_text().splitlines()
    assert first == f"<!-- notebook: {WRITER['sha256'](name)} -->", REMEDY


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_that_colab_opens_is_of_this_script(name):
    pytest.importorskip("jupytext")
    stored = (PAGES / f"{name}.ipynb").read_text()
    assert stored == WRITER["as_ipynb"](name), REMEDY
    cells = json.loads(stored)["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    assert "google.colab" in "".join(cells[1]["source"])
    address = WRITER["colab"](name)
    assert address.startswith("https://colab.research.google.com/github/")
    assert (ROOT / address.split("/blob/main/")[1]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs_and_prints_what_its_page_shows(name):
    pytest.importorskip("nbclient")
    text, figures = WRITER["page"](name, WRITER["run"](name))
    shown = (PAGES / f"{name}.md").read_text()
    assert _words(text) == _words(shown), REMEDY
    for found, stored in zip(_numbers(text), _numbers(shown), strict=True):
        assert found == pytest.approx(stored, rel=0.02, abs=0.02)
    drawn = json.loads((FIGURES / f"{name}.json").read_text())
    assert [_kinds(figure) for figure in figures] == [_kinds(figure) for figure in drawn]


def _words(page: str) -> list[str]:
    """A page without its numbers: these depend on the last bits of sums."""
    return NUMBER.sub("#", page.split("\n", 1)[1]).split()


def _numbers(page: str) -> list[float]:
    return [float(found.replace("−", "-")) for found in NUMBER.findall(page.split("\n", 1)[1])]


def _kinds(figure: dict) -> list[str]:
    return [trace["type"] for trace in figure["data"]]
