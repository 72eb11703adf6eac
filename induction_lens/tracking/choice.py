"""Which checkpoints of many to measure: all, so many by their step, or named ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from induction_lens import checks

Checkpoints = str | Sequence[int]
"""`all`, `log:40`, `linear:40`, `every:5`, or the steps themselves."""

_SPACED = re.compile(r"(log|linear|every):([1-9]\d{0,5})")
_REMEDY = "for instance 'log:40', 'linear:40', 'every:5', 'all' or a list of steps"


def chosen_steps(steps: Sequence[int], how: Any) -> list[int]:
    """Those of some steps that a choice means, rising.

    Args:
        steps: The steps that there are, rising.
        how: `log:n` takes n, step 0 among them if it is there, as evenly as they come in the
            logarithm of the step; `linear:n` in the step; `every:n` each n-th and the last; `all`
            or None all of them; a list takes its steps.

    Raises:
        ValueError: It is none of these, or a step is not there: the nearest are named.

    Examples:
        >>> il.tracking.chosen_steps([0, 1, 2, 4, 8, 16, 32, 64], "log:4")
        [0, 1, 8, 64]
    """
    steps = [
        checks.whole_number("each of steps", step, least=0)
        for step in checks.several("steps", steps)
    ]
    if how is None or how == "all":
        return steps
    if isinstance(how, str):
        match = _SPACED.fullmatch(how)
        if match is None:
            raise checks.refuse("checkpoints", "a choice of checkpoints", how, _REMEDY)
        kind, n = match[1], int(match[2])
        if kind == "every":
            return sorted({*steps[::n], *steps[-1:]})
        return _spaced(steps, n, math.log1p if kind == "log" else float)
    wanted = [
        checks.whole_number("each of checkpoints", step, least=0, remedy=_REMEDY)
        for step in checks.several("checkpoints", how)
    ]
    if not wanted:
        raise checks.refuse("checkpoints", "at least one step", how, _REMEDY, given="none")
    missing = next((step for step in wanted if step not in steps), None)
    if missing is not None:
        near = sorted(steps, key=lambda step: (abs(step - missing), step))[:3]
        raise ValueError(
            f"expected steps that there are checkpoints of, got {missing}; the nearest are "
            f"{', '.join(map(str, sorted(near)))}"
        )
    return sorted(set(wanted))


def _spaced(steps: list[int], n: int, scale: Callable[[float], float]) -> list[int]:
    """So many steps, the first and the last among them, as evenly on a scale as they come."""
    if n >= len(steps):
        return steps
    kept = {0} & set(steps)
    free = [step for step in steps if step not in kept]
    n -= len(kept)
    low, high = scale(free[0]), scale(free[-1])
    for number in range(n):
        # the last first: with few, the end says most
        target = high - (high - low) * number / max(n - 1, 1)
        best = min(free, key=lambda step: (abs(scale(step) - target), step))
        free.remove(best)
        kept.add(best)
    return sorted(kept)
