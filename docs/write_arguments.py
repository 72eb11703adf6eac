"""Writes the pages about the paper's arguments, with every number from the runs that ship.

    python docs/write_arguments.py

The texts are in docs/arguments, with numbers to be filled in; the pages go to docs/pages/arguments.
A test does the same and compares.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from induction_lens.html import Table
from induction_lens.training_report import TrainingReport, page, training_report, words
from induction_lens.training_report.findings import rows_of

DOCS = Path(__file__).parent
TEXTS, PAGES = DOCS / "arguments", DOCS / "pages" / "arguments"


def written(report: TrainingReport) -> dict[str, str]:
    """The pages, by file name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEXTS),
        autoescape=False,  # noqa: S701 - Markdown of our own, from our own numbers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"report": report, "words": words, "of": report.by_label}
    environment.globals |= {name: _table(name, report) for name in TABLES}
    environment.globals["knocked_out"] = lambda *where: knocked_out(report, *where)
    texts = sorted(TEXTS.glob("*.md"))
    return {path.name: environment.get_template(path.name).render() for path in texts}


TABLES: dict[str, Callable[[TrainingReport], Table | None]] = {
    "models_table": page.models_table,
    "together_table": page.together_table,
    "knockouts_table": page.knockouts_table,
    "ngrams_table": page.ngrams_table,
    "orders_table": page.orders_table,
}


def knocked_out(report: TrainingReport, label: str, method: str, seed: int = 0) -> dict[str, Any]:
    """The row of the induction heads of one run, knocked out by one method."""
    where = {"model": label, "method": method, "seed": seed, "set": "tested"}
    [row] = rows_of(report.knockouts_frame(), **where)
    return row


def _table(name: str, report: TrainingReport) -> Callable[[], str]:
    def markdown() -> str:
        table = TABLES[name](report)
        assert table is not None
        lines = [table.columns, ("---", *["---:"] * (len(table.columns) - 1)), *table.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    return markdown


if __name__ == "__main__":
    for name, text in written(training_report()).items():
        (PAGES / name).write_text(text, encoding="utf-8")
        print(PAGES / name)
