"""API pages begin with what is public, and have everything that is public."""

from __future__ import annotations

import functools
import importlib
import importlib.util
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
        holder = importlib.import_module(package)
    except ModuleNotFoundError:
        holder = resolve(package)
    if hasattr(holder, name):
        return getattr(holder, name)
    found = importlib.util.find_spec(path)  # a module that needs a library which may not be there
    assert found is not None, path
    return found


@functools.cache
def arranged():
    """Every page as the hook makes it, by name."""
    return {page.name: HOOK["arranged"](page.read_text(encoding="utf-8")) for page in PAGES}


def test_every_public_function_and_class_leads_on_one_page():
    listed = [path for page in arranged().values() for path in LEADING.findall(page)]
    leading = [id(resolve(path)) for path in listed]
    assert len(leading) == len(set(leading))
    published = (ROOT / "docs" / "pages" / "published-scores.md").read_text(encoding="utf-8")
    whole = {*listed, *LEADING.findall(published)}
    missing = [
        path
        for path, thing in HOOK["_public"]().values()
        if (inspect.isfunction(inspect.unwrap(thing)) or inspect.isclass(thing))
        and id(thing) not in leading
        and not {thing.__module__, path.rpartition(".")[0]} & whole
    ]
    assert missing == []


@pytest.mark.parametrize("page", [path.name for path in PAGES])
def test_modules_are_folded_and_leave_out_what_leads(page):
    lead, _, folded = arranged()[page].partition("??? note")
    for module in FOLDED.findall(folded):
        [options] = re.findall(rf"    ::: {re.escape(module)}\n((?:        .*\n?)*)", folded)
        for path in LEADING.findall(lead):
            thing = resolve(path)
            if getattr(thing, "__module__", None) == module:
                [pattern] = re.findall(r'"!\^\((.*)\)\$"', options)
                assert thing.__name__ in pattern.split("|")


def test_a_page_without_modules_is_as_it_was():
    text = "# API\n\nAll of it.\n"
    assert HOOK["arranged"](text) == text
