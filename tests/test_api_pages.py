"""API pages begin with what is public, and have everything that is public."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "pages" / "api").glob("*.md"))
HOOK = runpy.run_path(str(ROOT / "docs" / "scripts" / "api.py"))
FOLDED = re.compile(r"^    ::: (\S+)$", re.MULTILINE)
LEADING = re.compile(r"^::: (\S+)$", re.MULTILINE)


def resolve(path):
    """The thing that a dotted name is of."""
    package, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError:
        return getattr(resolve(package), name)


def arranged():
    return {page.name: HOOK["arranged"](page.read_text(encoding="utf-8")) for page in PAGES}


def test_every_public_function_and_class_leads_on_one_page():
    leading = [resolve(path) for page in arranged().values() for path in LEADING.findall(page)]
    assert len(leading) == len({id(thing) for thing in leading})
    listed_elsewhere = {"induction_lens.detectors.published", "induction_lens.detectors"}
    for name, (path, thing) in HOOK["_public"]().items():
        if not (inspect.isfunction(inspect.unwrap(thing)) or inspect.isclass(thing)):
            continue
        if path.rpartition(".")[0] in listed_elsewhere and _on_published_page(thing):
            continue
        assert any(thing is one for one in leading), f"{name} ({path}) is on no API page"


def _on_published_page(thing):
    page = (ROOT / "docs" / "pages" / "published-scores.md").read_text(encoding="utf-8")
    return f"::: {thing.__module__}\n" in page


@pytest.mark.parametrize("page", [path.name for path in PAGES])
def test_modules_are_folded_and_leave_out_what_leads(page):
    text = arranged()[page]
    lead, _, folded = text.partition("??? note")
    modules = FOLDED.findall(folded)
    assert all(resolve(path).__class__.__name__ != "module" for path in LEADING.findall(lead))
    for module in modules:
        [options] = re.findall(rf"    ::: {re.escape(module)}\n((?:        .*\n?)*)", folded)
        for path in LEADING.findall(lead):
            thing = resolve(path)
            if getattr(thing, "__module__", None) == module:
                [pattern] = re.findall(r'"!\^\((.*)\)\$"', options)
                assert thing.__name__ in pattern.split("|")


def test_a_page_without_modules_is_as_it_was():
    text = "# API\n\nAll of it.\n"
    assert HOOK["arranged"](text) == text
