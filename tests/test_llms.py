"""The list of pages for programs that read."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

HOOK = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "scripts" / "llms.py"))


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        (
            "# Title\n\nA head *attends*\nto [what](x.md) follows. More.",
            "A head attends to what follows.",
        ),
        ("# Title\n\n```python\nx = 1\n\ny = 2\n```\n\nAfter code: this.", "After code: this."),
        ("# Title\n\n**What we found.** Keys carry it.", "Keys carry it."),
        ("# Title\n\nAs Olsson et al. 2022. So.", "As Olsson et al. 2022."),
        ("# Title\n\n| a |\n|---|\n\n::: module\n", ""),
        ("# Title\n\nIt does three things:\n\n- one", "It does three things"),
    ],
)
def test_the_first_sentence_of_prose(markdown, sentence):
    assert HOOK["first_sentence"](markdown) == sentence


def test_pages_are_listed_with_those_of_no_section_first(tmp_path):
    def page(title, uri, markdown):
        file = SimpleNamespace(src_uri=uri, url=uri.replace(".md", ".html"))
        found = SimpleNamespace(title=title, file=file, is_page=True, is_section=False)
        assert HOOK["on_page_markdown"](markdown, found) == markdown
        return found

    home = page("Home", "index.md", "# A\n\nIt finds heads. Quickly.")
    inner = page("Inner", "how/inner.md", "# B\n\n- a list")
    section = SimpleNamespace(title="How", children=[inner], is_page=False, is_section=True)
    config = SimpleNamespace(
        extra={}, site_dir=str(tmp_path), site_name="name", site_description="what it is"
    )
    HOOK["on_nav"](SimpleNamespace(items=[section, home]), config)
    HOOK["on_post_build"](config)
    assert (tmp_path / "llms.txt").read_text() == (
        "# name\n\n> what it is\n\n- [Home](index.html): It finds heads.\n\n"
        "## How\n\n- [Inner](how/inner.html)\n"
    )
