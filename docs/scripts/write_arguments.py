"""Writes the pages about the paper's arguments, with every number from the runs that ship.

    python docs/scripts/write_arguments.py

The texts are in docs/arguments, with numbers to be filled in; the pages go to docs/pages/arguments,
and a table of the models into the README. A test does the same and compares.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from induction_lens.reports.pages import Table
from induction_lens.reports.training import TrainingReport, page, sentences, training_report
from induction_lens.reports.training.findings import rows_of

DOCS = Path(__file__).parents[1]
TEXTS, PAGES, README = DOCS / "arguments", DOCS / "pages" / "arguments", DOCS.parent / "README.md"
BEGIN, END = "<!-- runs: docs/scripts/write_arguments.py writes this -->", "<!-- /runs -->"


def written(report: TrainingReport) -> dict[Path, str]:
    """The pages, and the README with its table of models, by path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEXTS),
        autoescape=False,  # noqa: S701 - Markdown of our own, from our own numbers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"report": report, "words": sentences, "of": report.by_label}
    environment.globals |= {name: _table(name, report) for name in TABLES}
    environment.globals["p_values"] = lambda label: p_values(report, label)
    environment.globals["copying"] = lambda: copying(report)
    environment.globals["captions"] = sentences.captions(report)
    environment.globals["knocked_out"] = lambda *where: knocked_out(report, *where)
    pages = {
        PAGES / path.name: environment.get_template(path.name).render()
        for path in sorted(TEXTS.glob("*.md"))
    }
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    columns = ("model", "ICL score", "window", "midpoint")
    table = _markdown(Table(columns, tuple(tuple(row) for row in sentences.rows(report))))
    return {**pages, README: f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"}


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


def copying(report: TrainingReport) -> str:
    """What each model gains by copying, of those in which that was measured."""
    rows = rows_of(report.ngrams_frame(), tokens="copying", predictor="model", seed=0)
    listed = [
        f"{row['model']} {sentences.number(row['loss'])} "
        f"[{sentences.number(row['low'])}, {sentences.number(row['high'])}]"
        for row in rows
    ]
    return "; ".join(listed) + " nats"


def p_values(report: TrainingReport, label: str) -> str:
    """Of the ICL score's change, in each run of a model."""
    return ", ".join(f"{pair.icl.p_value:.3f}" for pair in report.by_label(label).together)


def _table(name: str, report: TrainingReport) -> Callable[[], str]:
    def filled() -> str:
        table = TABLES[name](report)
        assert table is not None
        return _markdown(table)

    return filled


def _markdown(table: Table) -> str:
    rows = [
        tuple(f"**{cell}**" for cell in row) if index in table.strong else row
        for index, row in enumerate(table.rows)
    ]
    lines = [table.columns, ("---", *["---:"] * (len(table.columns) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for path, text in written(training_report()).items():
        path.write_text(text, encoding="utf-8")
        print(path)
