"""The page on performance shows what was measured."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_its_tables_are_those_of_the_measurements():
    writer = runpy.run_path(str(ROOT / "docs" / "scripts" / "write_performance.py"))
    page = writer["PAGE"].read_text(encoding="utf-8")
    for name in ("results", "pages"):
        assert page.count(writer["BEGIN"].format(name)) == 1
        assert page.count(writer["END"].format(name)) == 1
    assert writer["written"]() == page, "run docs/scripts/write_performance.py"
