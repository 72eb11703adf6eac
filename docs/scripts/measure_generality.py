"""Measures what heads of two models that ship are good for, for the page about generality.

    python docs/scripts/measure_generality.py     # minutes
    python docs/scripts/write_arguments.py        # the page, from what this wrote

What it writes, docs/arguments/generality.json, is all that the page's numbers are from.
"""

import json
import time
from pathlib import Path
from typing import Any

import induction_lens as il
from induction_lens.reports import dissociation as words
from induction_lens.reports.pages import Table
from induction_lens.tasks import dissociate, same_heads

OUT = Path(__file__).parents[1] / "arguments" / "generality.json"
MODELS = ("toy-2l-narrow", "toy-2l")


def told(model: str) -> dict[str, Any]:
    """What the page needs of a model: words and tables, and the numbers that tests look at."""
    start = time.process_time()
    loaded = il.load(model, device="cpu")
    found, same = dissociate(loaded), same_heads(loaded)
    sets = found.to_frame()
    return {
        "summary": words.summary(found),
        "same": words.same_summary(same),
        "notes": list(found.notes),
        "sets": table(words.sets_table(found)),
        "tasks": table(words.tasks_table(found)),
        "same_heads": table(words.same_table(same)),
        "correlations": table(words.correlations_table(same)),
        "lost": json.loads(sets[~sets["is_control"]].to_json(orient="records")),
        "cpu_seconds": round(time.process_time() - start),
    }


def table(made: Table) -> dict[str, Any]:
    """A table as plain lists."""
    return {"columns": list(made.columns), "rows": [list(row) for row in made.rows]}


def main() -> None:
    """Measure both, and write the file."""
    measured = {model: told(model) for model in MODELS}
    OUT.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
