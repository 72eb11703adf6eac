"""Writes the tables of the page on performance, from what the benchmarks measured.

    python -m tests.benchmarks --json docs/benchmarks.json
    python -m tests.benchmarks.pages --json docs/page_weights.json
    python docs/scripts/write_performance.py

A test does the same and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent))

from tests.benchmarks import pages, tables  # noqa: E402 - of the checkout, which is no package

MEASURED, WEIGHTS = DOCS / "benchmarks.json", DOCS / "page_weights.json"
PAGE = DOCS / "pages" / "performance.md"
BEGIN = "<!-- {}: docs/scripts/write_performance.py writes this -->"
END = "<!-- /{} -->"


def written() -> str:
    """The page with its tables."""
    tables_of = {
        "results": tables.markdown(_read(MEASURED)["rows"]),
        "pages": pages.markdown(_read(WEIGHTS)),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables_of.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
    print(PAGE)
