"""Measures the circuits of two models that ship, for the page about the mechanism.

    python docs/scripts/measure_mechanism.py      # minutes
    python docs/scripts/write_arguments.py        # the page, from what this wrote

What it writes, docs/arguments/mechanism.json, is all that the page's numbers are from.
"""

import json
import time
from pathlib import Path
from typing import Any

import induction_lens as il
from induction_lens.circuits import Circuit, circuit
from induction_lens.heads import names_of
from induction_lens.reports.circuit import headline, summary

OUT = Path(__file__).parents[1] / "arguments" / "mechanism.json"
MODELS = ("toy-2l-narrow", "toy-2l")


def told(found: Circuit, seconds: float) -> dict[str, Any]:
    """A circuit as the page needs it: words and tables of numbers."""
    frames = {"edges": found.to_frame(), "cuts": found.cuts.to_frame(), "sets": found.sets_frame()}
    return {
        "model": found.model,
        "headline": headline(found),
        "summary": summary(found),
        "previous": names_of(found.parts.previous),
        "induction": names_of(found.parts.induction),
        "ideal": [one.to_frame().to_dict("records")[0] for one in found.ideal],
        "cpu_seconds": round(seconds),
        **{name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()},
    }


def main() -> None:
    """Measure both, and write the file."""
    measured = {}
    for name in MODELS:
        start = time.process_time()
        found = circuit(il.load(name, device="cpu"))
        measured[name] = told(found, time.process_time() - start)
    OUT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
