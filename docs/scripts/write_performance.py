"""Writes the tables of the page on performance, from what the benchmarks measured.

    python -m tests.benchmarks --json docs/benchmarks.json
    python docs/scripts/write_performance.py

A test does the same and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent))

from tests.benchmarks import tables  # noqa: E402 - of the checkout, which is no package

MEASURED, PAGE = DOCS / "benchmarks.json", DOCS / "pages" / "performance.md"
BEGIN, END = "<!-- results: docs/scripts/write_performance.py writes this -->", "<!-- /results -->"


def written() -> str:
    """The page with its tables."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    measured = tables.markdown(json.loads(MEASURED.read_text(encoding="utf-8"))["rows"])
    return f"{before}{BEGIN}\n\n{measured}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
    print(PAGE)
