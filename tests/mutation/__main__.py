"""`python -m tests.mutation [--only MODULE...] [--sample N] [--seed N] [--json FILE]`."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork must not inherit threads at work

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.mutation.mutants import mutants_of
from tests.mutation.runner import ROOT, Workspace
from tests.mutation.targets import TARGETS

LEAST = 0.9
"""Share of mutants that have to be found out."""
_CONSOLE = Console(soft_wrap=True, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Try mutants, print and write; 1 where too many survive, 2 where tests fail without any."""
    options = _parse(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder).resolve())
        for module in options.only or TARGETS:
            clean = workspace.run(TARGETS[module], limit=600)
            clean = workspace.run(TARGETS[module], limit=600)  # with compiled modules
            if clean.outcome != "survived":
                print((workspace.folder / "pytest.log").read_text()[-3000:], file=sys.stderr)
                print(f"expected tests that pass, got {clean} for {module}", file=sys.stderr)
                return 2
            _CONSOLE.print(f"[bold]{module}[/]: {clean.seconds:.1f} s without a mutant")
            rows += _try_all(workspace, module, options, limit=round(10 + 4 * clean.seconds))
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(_show(rows) < LEAST)


def _try_all(
    workspace: Workspace, module: str, options: argparse.Namespace, *, limit: int
) -> list[dict[str, Any]]:
    source = (ROOT / "induction_lens" / module).read_text()
    rows = []
    for mutant in islice(mutants_of(source, seed=options.seed), options.sample):
        run = workspace.run_mutant(module, mutant.code, TARGETS[module], limit=limit)
        described = {k: v for k, v in dataclasses.asdict(mutant).items() if k != "code"}
        rows.append({"module": module, **described, **dataclasses.asdict(run)})
        at = f"{mutant.operator}, line {mutant.line}, {run.seconds:.1f} s"
        _CONSOLE.print(f"{run.outcome}: {at}, {run.test}", markup=False)
        if run.outcome == "survived":
            _CONSOLE.print(mutant.change, style="red", markup=False)
    return rows


def _show(rows: list[dict[str, Any]]) -> float:
    """Print the scores; what cannot be imported does not count. Returns the score of all."""
    table = Table("module", "killed", "survived", "broken", "score")
    for module in {row["module"]: None for row in rows}:
        counts = Counter(row["outcome"] for row in rows if row["module"] == module)
        killed, survived = counts["killed"] + counts["timeout"], counts["survived"]
        score = killed / max(killed + survived, 1)
        cells = (killed, survived, counts["broken"])
        table.add_row(module, *map(str, cells), f"{score:.0%}")
    _CONSOLE.print(table)
    counts = Counter(row["outcome"] for row in rows)
    killed = counts["killed"] + counts["timeout"]
    return killed / max(killed + counts["survived"], 1)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", metavar="MODULE", nargs="+", choices=list(TARGETS))
    parser.add_argument("--sample", metavar="N", type=int, help="mutants of each module; else all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what became of each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
