"""Puts the runs over the phase change into the package: what every figure and number needs.

    python -c 'import induction_lens as il; il.reports.make_runs("phase", presets=…, seeds=…)'
    python docs/scripts/ship_runs.py phase

Of each run: its trajectory, what was measured at its end, and, of seed 0 of all that were trained
freely and are not wide, the final weights: those with MLPs beside the pages of the arguments, since
they would make the package too large. Of all together: the tokenizer, and the tokens they were
measured on, the wide ones, made on a GPU, on the first quarter of them. The list of the sums of all
files that ship, `SHA256SUMS`, is written again.
"""

import shutil
import sys
from pathlib import Path

from induction_lens.reports.training.runs import SHIPPED
from induction_lens.seals import write_sums
from induction_lens.toys.snapshots import TOKENIZER
from induction_lens.tracking.final_model import ENDPOINT
from induction_lens.tracking.runs import EVALUATION
from induction_lens.tracking.track import TRACKED
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory
from induction_lens.training.presets import PHASE_PRESETS

_WITHOUT = ("phase-2l-clamped", "phase-2l-wide", "phase-2l-wide-smeared")
WITH_WEIGHTS = {f"{name}-seed-0" for name in PHASE_PRESETS if name not in _WITHOUT}
OUTSIDE = "phase-2l-mlp-seed-0"
"""The run whose weights are not in the package."""
BESIDE = Path(__file__).parents[1] / "arguments"


def ship(out: Path) -> None:
    """Replace the shipped runs by those in a folder that `make_runs` filled."""
    shutil.rmtree(SHIPPED, ignore_errors=True)
    SHIPPED.mkdir()
    for name in (EVALUATION, TOKENIZER):
        shutil.copy(out / "text" / name, SHIPPED / name)
    for run in sorted(out.glob("phase-*")):
        target = SHIPPED / run.name
        target.mkdir()
        shutil.copy(run / TRACKED / ENDPOINT, target / ENDPOINT)
        Trajectory.read(run / TRACKED / TRAJECTORY).save(target / TRAJECTORY)
        if run.name in WITH_WEIGHTS:
            without = shutil.ignore_patterns(TOKENIZER)  # one for all, in the folder above
            where = BESIDE / run.name if run.name == OUTSIDE else target
            shutil.copytree(run / "model", where / "model", ignore=without, dirs_exist_ok=True)
    write_sums()


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
