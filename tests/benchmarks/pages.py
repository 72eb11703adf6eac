"""What the pages weigh and how long they take to open, now and before views and small multiples.

    python -m tests.benchmarks.pages --json docs/page_weights.json
    python docs/scripts/write_performance.py

The code of an earlier commit (`BEFORE`) is taken from the project's history; both write the same
pages in a process of their own, from the same models, text and runs. Chromium then opens each in
turn, before, now, before, now, …, in a window 1,200 pixels wide. A time is from the request of the
file to the second frame after its load event, by when all that is not folded is drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from induction_lens.files import write_text
from tests.browser import Browser, browsing

BEFORE = "208aff6"
"""The last commit before pages were made lighter."""
ROUNDS = 5
HERE = Path(__file__).parents[2]
PAGES = {
    "report/index.html": "report on `toy-2l`",
    "report/notebook.html": "the same, in a notebook",
    "report/attention.html": "every head of `toy-2l` on a passage",
    "training/index.html": "training page, the runs that ship",
    "training/notebook.html": "the same, in a notebook",
    "comparison/index.html": "two models compared",
}
"""Files, and what they are called in the table."""
WRITE = """
import sys
from pathlib import Path

import induction_lens as il

out, n_sequences = Path(sys.argv[1]), int(sys.argv[2])
options = {"n_sequences": n_sequences, "n_controls": 3, "progress": False}
report = il.report(il.load("toy-2l"), **options)
training = il.reports.training_report(n_resamples=50, progress=False)
begin = "<!doctype html><html lang=en><meta charset=utf-8><title>Notebook</title>"
for page, name in ((report, "report"), (training, "training")):
    page.save(out / name)
    shown = begin + "<link rel=icon href='data:,'>" + page._repr_html_()
    (out / name / "notebook.html").write_text(shown, encoding="utf-8")
if hasattr(il, "compare"):
    compared = il.compare([il.load(name) for name in ("toy-1l", "toy-2l")], **options)
    il.reports.save_comparison(compared, out / "comparison")
"""
_DRAWN = "!document.getElementById('cards') || document.querySelector('.headcard')"


def measure(*, n_sequences: int = 16, rounds: int = ROUNDS) -> dict[str, Any]:
    """Write the pages with both, and open them."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        code = {"before": Path(folder, "code"), "now": HERE}
        archive = subprocess.run(
            ["git", "archive", BEFORE], cwd=HERE, check=True, capture_output=True
        ).stdout
        code["before"].mkdir()
        subprocess.run(["tar", "--extract"], input=archive, cwd=code["before"], check=True)
        written = {arm: Path(folder, arm) for arm in code}
        for arm, root in code.items():
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", WRITE, str(written[arm]), str(n_sequences)],
                cwd=root,
                env=os.environ | {"PYTHONPATH": str(root)},
                check=True,
            )
        rows = [{"page": page, **_opened(browser, page, written, rounds)} for page in PAGES]
        version = browser.call("Browser.getVersion")["product"]
    return {"before": BEFORE, "browser": version, "cpus": os.cpu_count(), "rows": rows}


def markdown(measured: Mapping[str, Any]) -> str:
    """The table, and what the shares are of."""
    lines = [
        "| page | size | opens in | height |",
        "| --- | --- | --- | --- |",
        *(_line(row) for row in measured["rows"]),
    ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    arms = [row[arm] for arm in ("before", "now")]
    cells = (
        _both(arms, lambda arm: _size(arm["bytes"])),
        _both(arms, lambda arm: f"{1000 * statistics.median(arm['seconds']):,.0f} ms"),
        # in a notebook it is that of a frame
        "" if "notebook" in row["page"] else _both(arms, lambda arm: f"{arm['height']:,} px"),
    )
    return f"| {PAGES[row['page']]} | {' | '.join(cells)} |"


def _both(arms: Sequence[Mapping[str, Any] | None], shown: Any) -> str:
    before, now = ("none" if arm is None else shown(arm) for arm in arms)
    return f"{before} → {now}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.0f} kB"


def _opened(
    browser: Browser, page: str, written: Mapping[str, Path], rounds: int
) -> dict[str, dict[str, Any] | None]:
    """Bytes, seconds and height of one page, by arm; None where there is no such page."""
    paths = {arm: folder / page for arm, folder in written.items() if (folder / page).exists()}
    found: dict[str, dict[str, Any] | None] = {
        arm: {"bytes": paths[arm].stat().st_size, "seconds": []} if arm in paths else None
        for arm in written
    }
    for _ in range(rounds):
        for arm, path in paths.items():
            # a tab of its own, so that nothing is left of the page before
            tab = browser.open(path, width=1200, until=_DRAWN)
            found[arm]["seconds"].append(round(tab.seconds, 4))
            found[arm]["height"] = tab.height
            tab.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pages", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    measured = measure()
    write_text(options.json, json.dumps(measured, indent=1) + "\n")
    print(markdown(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
