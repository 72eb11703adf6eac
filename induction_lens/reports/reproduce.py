"""The whole road in one call: runs from nothing (`make_runs`), and the page about them."""

from __future__ import annotations

from pathlib import Path

from induction_lens import checks
from induction_lens.reports.training import TrainingReport, training_report
from induction_lens.tracking.experiment import ONE_LAYER, TWO_LAYERS, make_runs

QUICK_TOKENS = 4_000_000
"""Training tokens of a quick reproduction."""


def reproduce(
    out: str | Path = "reproduction",
    *,
    quick: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Reproduce the phase change of induction heads, and move it with smeared keys, from nothing.

    Makes the runs of models of one and two layers, with plain and smeared keys (`make_runs`), and
    writes the page about them to `out`. After an interruption, call it again to resume.
    As for `make_runs`, a script has to call it under `if __name__ == "__main__":`.

    Args:
        out: Folder for the text, the runs, and the page `index.html`.
        quick: The two models of one layer alone, on fewer tokens.
        processes: Runs at a time; None: one for each core.
        progress: Show bars on stderr.

    Raises:
        ValueError: There is too little text, `out` holds other runs, or another process makes runs
            there.

    Examples:
        >>> page = il.reports.reproduce("reproduction", quick=True)  # doctest: +SKIP
        >>> print(page.headline)  # doctest: +SKIP
    """
    checks.flag("quick", quick)
    runs = make_runs(
        out,
        presets=ONE_LAYER if quick else (*ONE_LAYER, *TWO_LAYERS),
        n_tokens=QUICK_TOKENS if quick else None,
        processes=processes,
        progress=progress,
    )
    found = training_report(runs)
    found.save(out)
    return found
