"""Writes the pages about the paper's arguments, with every number from the runs that ship.

    python docs/scripts/write_arguments.py

The texts are in docs/arguments, with numbers to be filled in; the pages go to docs/pages/arguments,
and a table of the models into the README. A test does the same and compares.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from scipy import stats

from induction_lens.estimates import Estimate, short_number
from induction_lens.reports.numbers import number, percent, shown
from induction_lens.reports.pages import Table
from induction_lens.reports.training import TrainingReport, page, sentences, training_report
from induction_lens.reports.training.findings import rows_of
from induction_lens.suites.family import QUANTITIES

DOCS = Path(__file__).parents[1]
TEXTS, PAGES, README = DOCS / "arguments", DOCS / "pages" / "arguments", DOCS.parent / "README.md"
BEGIN, END = "<!-- runs: docs/scripts/write_arguments.py writes this -->", "<!-- /runs -->"


def plain_environment() -> jinja2.Environment:
    """Where the texts are filled in, with what needs no report: circuits, and kinds of heads."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEXTS),
        autoescape=False,  # noqa: S701 - Markdown of our own, from our own numbers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= mechanism() | generality() | continuity() | laboratory()
    return environment


def written(report: TrainingReport) -> dict[Path, str]:
    """The pages, and the README with its table of models, by path."""
    environment = plain_environment()
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


MECHANISM = TEXTS / "mechanism.json"
"""What docs/scripts/measure_mechanism.py wrote."""


def mechanism() -> dict[str, Any]:
    """The circuits that were measured, by model, and how their tables and shares are written."""
    return {
        "circuits": json.loads(MECHANISM.read_text(encoding="utf-8")),
        "edges_of": edges_of,
        "cuts_of": cuts_of,
        "sets_of": sets_of,
        "share": share,
    }


CONTINUITY = TEXTS / "continuity.json"
"""What docs/scripts/measure_family.py wrote."""


def continuity() -> dict[str, Any]:
    """The families that were measured, and how their tables are written."""
    told = json.loads(CONTINUITY.read_text(encoding="utf-8"))
    tables = {"sizes_of": sizes_of, "trends_of": trends_of, "members_of": members_of}
    return {"families": told, "extremes": extremes, **tables}


def extremes(family: dict[str, Any], name: str, *, digits: int = 2) -> str:
    """The least and the most of the runs that have induction heads, such as `0.12 to 0.19`."""
    values = [row[name] for row in family["runs"] if row["above"] and row[name] is not None]
    least, most = (_plain(value, digits) for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def sizes_of(family: dict[str, Any]) -> str:
    """A row for each size of a family."""
    rows = [
        (
            size["size"],
            short_number(float(size["parameters"])),
            str(len(size["seeds"])),
            f"{', '.join(map(str, size['above']))} of {size['heads']}",
            *(over_seeds(size, name) for name in ("icl", "loss", "early_loss", "depth", "removed")),
            over_seeds(size, "control_removed"),
            midpoint(size),
        )
        for size in family["sizes"]
    ]
    columns = (
        *("size", "parameters", "seeds", "heads above", "ICL score", "loss", "loss at 50"),
        *("depth", "removed", "by random heads", "midpoint"),
    )
    return _markdown(Table(columns, tuple(rows)))


def trends_of(family: dict[str, Any]) -> str:
    """How each quantity changes with ten times the parameters."""
    rows = [
        (WORDS[row["quantity"]], over_seeds(row, "slope"), _p_value(row["p_value"]), str(row["n"]))
        for row in family["trends"]
        if row["slope"] is not None
    ]
    return _markdown(Table(("quantity", "for ten times the parameters", "p", "sizes"), tuple(rows)))


def members_of(family: dict[str, Any]) -> str:
    """A row for each model that `induction-lens family` measured."""
    rows = [
        (
            row["model"],
            short_number(float(row["parameters"])),
            f"{row['above']} of {row['layers'] * row['heads']}",
            *(over_seeds(row, name) for name in ("icl", "icl_paper", "loss")),
            _plain(row["copying_correlation"], 2),
            over_seeds(row, "removed"),
            _plain(row["control_removed"], 2),
        )
        for row in family["models"]
    ]
    columns = (
        *("model", "parameters", "heads above", "ICL score", "ICL score, paper", "loss"),
        *("copying ~ prefix", "removed", "by random heads"),
    )
    return _markdown(Table(columns, tuple(rows)))


WORDS = {name: words for name, (words, _) in QUANTITIES.items()} | {
    "icl": "ICL score",
    "early_loss": "loss at 50",
}


def over_seeds(row: dict[str, Any], name: str) -> str:
    """A mean, with its interval where there is a bounded one."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return _plain(value, 2)
    return shown(Estimate(value, low, high), signed=False)


def midpoint(size: dict[str, Any]) -> str:
    """Where the change is half done, over the seeds that change."""
    value, low, high = (size[f"midpoint{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "none found"
    told = short_number(value)
    if low is not None and high is not None:
        told += f" [{short_number(low)}, {short_number(high)}]"
    n = len(size["seeds"])
    return told if size["changed"] == n else f"{told}, {size['changed']} of {n} seeds"


def _p_value(value: float | None) -> str:
    return "<0.01" if value is not None and value < 0.005 else _plain(value, 2)


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else number(value, signed=False, digits=digits)


GENERALITY = TEXTS / "generality.json"
"""What docs/scripts/measure_generality.py wrote."""


def generality() -> dict[str, Any]:
    """What heads are good for, by model, and how its tables are written."""
    return {
        "generality": json.loads(GENERALITY.read_text(encoding="utf-8")),
        "plain_table": plain_table,
    }


def plain_table(table: dict[str, Any]) -> str:
    """A table that was stored as lists."""
    return _markdown(Table(tuple(table["columns"]), tuple(map(tuple, table["rows"]))))


LABORATORY = TEXTS / "laboratory.json"
"""What docs/scripts/measure_laboratory.py wrote."""


def laboratory() -> dict[str, Any]:
    """The runs on languages, and how their numbers are written."""
    return {
        "lab": json.loads(LABORATORY.read_text(encoding="utf-8")),
        "between": between_seeds,
        "runs_table": runs_table,
        "seeds_needed": seeds_needed,
        "plain_number": _plain,
    }


def between_seeds(found: dict[str, Any] | None, digits: int = 2) -> str:
    """A mean over seeds with its interval, such as `0.12 [0.08, 0.16]`; a dash without one."""
    if found is None or found["value"] is None:
        return "–"
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if low is None or high is None:
        return _plain(value, digits)
    return f"{_plain(value, digits)} [{_plain(low, digits)}, {_plain(high, digits)}]"


def runs_table(name: str, columns: dict[str, str], digits: int = 2) -> str:
    """A row for each seed of a run, and their means; columns by the names of numbers."""
    told = json.loads(LABORATORY.read_text(encoding="utf-8"))

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return _plain(value, digits)
        return "–" if value is None else str(value)

    rows = [(str(row["seed"]), *(shown(row[key]) for key in columns)) for row in told["runs"][name]]
    means = told["means"][name]
    rows.append(("mean", *(between_seeds(means.get(key), digits) for key in columns)))
    return _markdown(Table(("seed", *columns.values()), tuple(rows), strong=(len(rows) - 1,)))


def seeds_needed(found: dict[str, Any], most: int = 100) -> str:
    """How many seeds would tell a mean from zero, if it and the spread stay as they are."""
    n, value = found["n"], abs(found["value"])
    spread = (found["high"] - found["value"]) / stats.t.ppf(0.975, n - 1) * n**0.5
    for more in range(2, most + 1):
        if stats.t.ppf(0.975, more - 1) * spread / more**0.5 < value:
            return f"{more} seeds"
    return f"more than {most} seeds"


def share(row: dict[str, Any], name: str) -> str:
    """A share with its interval in percent; `not measured` where there is none."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return "not measured"
    return percent(Estimate(value, low, high))


def edges_of(circuit: dict[str, Any]) -> str:
    """Every edge between heads of the circuit, alone and together, and the strongest of each kind
    from random senders."""
    own = [row for row in circuit["edges"] if not row["is_control"]]
    random = [row for row in circuit["edges"] if row["is_control"]]
    rows = []
    for which in "kqv":
        rows += [(row, "") for row in own if row["input"] == which]
        same = [row for row in random if row["input"] == which]
        by = "copying_share" if which == "v" else "prefix_share"
        rows.append((max(same, key=lambda row: row[by]), f"strongest of {len(same)} random"))
    return _markdown(
        Table(
            ("edge", "", "prefix matching", "copying", "ICL score"),
            tuple(
                (
                    edge_name(row),
                    note,
                    *(share(row, f"{name}_share") for name in ("prefix", "copying", "icl")),
                )
                for row, note in rows
            ),
        )
    )


def edge_name(row: dict[str, Any]) -> str:
    """For instance `0.2 → 1.4, 1.6 (K)`."""
    sent, received = (row[name].replace(" ", ", ") for name in ("senders", "receivers"))
    return f"{sent} → {received} ({row['input'].upper()})"


def cuts_of(circuit: dict[str, Any]) -> str:
    """The cuts with their controls."""
    rows = [
        (
            row["method"],
            "control" if row["is_control"] else "",
            *(share(row, f"{name}_share") for name in ("copying", "icl")),
        )
        for row in circuit["cuts"]
    ]
    return _markdown(Table(("cut", "", "copying lost", "ICL score lost"), tuple(rows)))


def sets_of(circuit: dict[str, Any]) -> str:
    """What is lost without each set of heads, and without all heads but these."""
    without = [row for row in circuit["sets"] if row["what"] == "without"]
    alone = [row for row in circuit["sets"] if row["what"] == "alone"]
    rows = [
        (
            row["heads"].replace(" ", ", "),
            "random" if row["is_control"] else "the circuit",
            *(share(of, f"{name}_share") for name in ("copying", "icl") for of in pair),
        )
        for row, *pair in zip(without, without, alone, strict=True)
    ]
    columns = ("heads", "", "copying without", "with these alone", "ICL score without", "alone")
    return _markdown(Table(columns, tuple(rows)))


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
