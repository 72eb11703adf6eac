"""The command: `python -m tests.benchmarks [--quick] [--full] [--only NAME...] [--json FILE]`."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import dataclasses
import json
import platform
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from induction_lens.files import write_text
from tests.benchmarks import (
    circuits,
    detection,
    growth,
    reporting,
    startup,
    sweeping,
    tables,
    training,
)

BENCHMARKS = {
    **detection.BENCHMARKS,
    **sweeping.BENCHMARKS,
    **training.BENCHMARKS,
    **growth.BENCHMARKS,
    **circuits.BENCHMARKS,
    **startup.BENCHMARKS,
    **reporting.BENCHMARKS,
}
LEFT_OUT = ("report/toy-2l", *circuits.BENCHMARKS, *reporting.BENCHMARKS)
"""Run by their name or with --full alone."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; 1 where a benchmark failed to run."""
    options = _parse(arguments)
    console = Console()
    if options.markdown:
        print(tables.markdown(json.loads(options.json.read_text())["rows"]))
        return 0
    names = chosen(options.only, full=options.full)
    result: dict[str, Any] = {"environment": environment(quick=options.quick), "rows": []}
    rows = {row["name"]: row for row in _rows_to_keep(options, result["environment"])}
    failed = []
    for name in names:
        console.print(f"[dim]{name} …[/dim]")
        try:
            measured = BENCHMARKS[name](quick=options.quick)
        except Exception:  # the other benchmarks are hours of work: report, and go on
            failed.append(name)
            console.print(traceback.format_exc(), style="red", markup=False)
            continue
        if options.quick:  # the targets are about the full sizes
            measured = [dataclasses.replace(row, targets=()) for row in measured]
        rows |= {row.name: row.record() for row in measured}
        result["rows"] = list(rows.values())
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    tables.show(result["rows"], console)
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def chosen(only: list[str], *, full: bool) -> list[str]:
    """The benchmarks of these names or groups ("sweep" is every "sweep/…"); all if none is named.

    Raises:
        ValueError: There is none of that name.
    """
    if not only:
        return [name for name in BENCHMARKS if full or name not in LEFT_OUT]
    for wanted in only:
        if not any(_is(name, wanted) for name in BENCHMARKS):
            raise ValueError(
                f"expected benchmarks out of {', '.join(BENCHMARKS)}, or the part before a slash, "
                f"got {wanted!r}"
            )
    return [name for name in BENCHMARKS if any(_is(name, wanted) for wanted in only)]


def environment(*, quick: bool) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "quick": quick,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformer_lens": version("transformer-lens"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def _is(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}/")


def _rows_to_keep(options: argparse.Namespace, here: dict[str, Any]) -> list[dict[str, Any]]:
    """With --only: the rows that the file holds already, where they were measured like these."""
    if not (options.only and options.json.is_file()):
        return []
    before = json.loads(options.json.read_text())
    return before["rows"] if before["environment"] == here else []


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that all runs")
    parser.add_argument("--full", action="store_true", help=f"with {', '.join(LEFT_OUT)}")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    parser.add_argument(
        "--markdown", action="store_true", help="print the rows of the JSON file; measure nothing"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # HookedTransformer says that it is deprecated
    sys.exit(main())
