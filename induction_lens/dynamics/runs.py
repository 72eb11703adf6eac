"""Which runs an analysis may compare: trajectories, and each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.tracking.trajectory import Trajectory

REMEDY = "read one with Trajectory.read, or make one with induction_lens.track"


def checked_run(run: object) -> Trajectory:
    """One run.

    Raises:
        ValueError: If this is no trajectory.
    """
    return checks.instance("trajectory", run, Trajectory, REMEDY)


def checked_runs(
    runs: Trajectory | Sequence[Trajectory], *, least: int = 1
) -> tuple[Trajectory, ...]:
    """One run, or several, of which none is there twice: it would count as much as two.

    Raises:
        ValueError: If there are fewer than `least`, one is no trajectory, or one comes twice.
    """
    given = [runs] if isinstance(runs, Trajectory) else checks.several("trajectories", runs)
    several = [checks.instance("each of trajectories", run, Trajectory, REMEDY) for run in given]
    if len(several) < least:
        wanted = "one trajectory" if least == 1 else f"{least} trajectories"
        got = len(several) or "none"
        raise ValueError(f"expected at least {wanted}, got {got}; give more of them")
    for one, other in combinations(several, 2):
        if _same(one, other):
            remedy = "give each run once"
            raise checks.refuse("trajectories", "different runs", other.name, remedy)
    return tuple(several)


def _same(one: Trajectory, other: Trajectory) -> bool:
    """Whether two trajectories are of the same run, whatever they are called."""
    told = ("seed", "config", "clamp", "weights", "evaluation")
    measured = ("steps", "icl", "loss_by_position", "induction_by_sequence")
    return one is other or (
        all(getattr(one, name) == getattr(other, name) for name in told)
        and all(_equal(getattr(one, name), getattr(other, name)) for name in measured)
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tables hold the same, NaN included."""
    return torch.equal(one.nan_to_num(), other.nan_to_num())
