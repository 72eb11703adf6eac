"""What a report on a model of GPT-2 small's shape costs, against the package's first report.

The model holds a toy that learns in context (`embedded`), so that there is something to find. The
first report is taken from the project's history (`FIRST`) and would run for hours, so that its
parts are timed on a few sequences in a process of its own, and its whole counted: every control set
and tested set on 256 sequences, every head alone on 64. Its intervals are those of the paper's
estimator on so many sequences. It is timed with random weights, which cost it as much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import induction_lens as il
from tests.benchmarks.embedded import gpt2_with_circuit
from tests.benchmarks.harness import Row, Run, Target, measured

FIRST = "7292004"
"""The last commit with the first report."""
N_SEQUENCES, N_ALONE, N_CONTROLS, N_METHODS = 256, 64, 20, 4
"""What the first report measures: sequences of sets, and of single heads, controls of a method."""

PARTS = """
import json, sys, time
import torch
import induction_lens as il
from tests.benchmarks.shapes import build

heads, n, quick = json.loads(sys.argv[1])
model = build("gpt2-small", quick=quick)
tokens = torch.tensor(json.load(open(sys.argv[2])))[:n]
late = 80 if quick else 500
at = {"early": 20 if quick else 50, "late": late, "window": 10, "progress": False}

def seconds(work):
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / n

def sets(n):
    return seconds(lambda: il.ablate(model, heads, tokens, method="mean", n_controls=n, **at))

sets(0)
tested = sets(0)
control = (sets(3) - tested) / 3
alone = seconds(lambda: il.ablate_each_head(model, tokens, method="mean", **at))
print(json.dumps({"tested": tested, "control": control, "alone": alone}))
"""


def report(*, quick: bool) -> list[Row]:
    """The whole report, against what the first one takes for intervals of the same width."""
    model = gpt2_with_circuit(quick=quick)
    n = 8 if quick else 64
    text = il.sample_text(il.load("toy-2l"), n_sequences=n, seq_len=100 if quick else 512)
    found: dict[str, Any] = {}

    def ours() -> None:
        found["report"] = il.report(model, text=text, progress=False)

    taken, peak = measured(ours)
    heads = ("0.1", "1.2") if quick else tuple(map(str, found["report"].studied))
    first = _first(text.tokens.tolist(), heads, quick=quick)
    study = found["report"].windowed["mean"]
    paper = study.at(estimator="paper")
    narrower = (_width(paper.effect) / _width(study.effect)) ** 2 * n / N_SEQUENCES
    of_ours = Run("il.report", (taken,), peak)
    of_first = Run(f"the report of {FIRST} with intervals as narrow", (first * narrower,), None)
    note = (
        f"the first report takes {first:,.0f} s, its intervals have {narrower:.2g} times the "
        f"variance of ours; the effect is {study.effect}, by the paper's estimator {paper.effect}"
    )
    targets = (Target("seconds", "at most", 600.0), Target("ratio", "at least", 30.0))
    return [
        Row("first-report/gpt2-small", of_first, of_ours, "baseline / ours", targets, note=note)
    ]


def _width(estimate: il.Estimate) -> float:
    return estimate.high - estimate.low


def _first(tokens: list[list[int]], heads: tuple[str, ...], *, quick: bool) -> float:
    """Seconds that the first report takes."""
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", FIRST], cwd=here, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "--extract"], input=archive, cwd=folder, check=True)
        text = Path(folder, "tokens.json")
        text.write_text(json.dumps(tokens))
        asked = json.dumps([heads, 2, quick])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PARTS, asked, str(text)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    parts = json.loads(done.stdout.splitlines()[-1])
    of_each = N_METHODS * (parts["tested"] + N_CONTROLS * parts["control"])
    return N_SEQUENCES * of_each + N_ALONE * parts["alone"]


BENCHMARKS = {"first-report/gpt2-small": report}
