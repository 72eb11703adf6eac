"""A second net for checkpoints under a wrong name: the norm of the embedding over training.

Equal weights under two names are found by their sums. Weights of another step that no other name
has are not; but the mean norm of a model's embeddings moves along a smooth curve, and a checkpoint
of another step stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from induction_lens import checks

FEWEST = 8
"""Checkpoints below which there is no curve to speak of."""
_SHARE = 0.1
"""How far outside of its neighbours a norm has to be, as a share of the range of all norms."""
_TIMES = 10.0
"""How much further it has to be from the line between its neighbours than most are."""


def off_curve(steps: Sequence[int], norms: Sequence[float]) -> list[int]:
    """The steps whose norm is not on the curve of the others, rising.

    A norm is off the curve where it is outside of those of its neighbours by more than a tenth of
    the range of all, and ten times as far from the straight line between them, over the logarithm
    of the step, as the median of all. The worst is taken out first, and the others are compared
    again without it. The first and the last have one neighbour, and are not judged.

    Args:
        steps: The steps, rising.
        norms: The mean norm of the embeddings at each.

    Returns:
        Some of the steps; none of fewer than eight.

    Examples:
        >>> norms = [1.0, 1.0, 1.1, 1.2, 1.4, 3.2, 1.8, 2.2, 2.7, 3.2]
        >>> il.tracking.norms.off_curve([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], norms)
        [32]
    """
    remedy = "give the norm at each step"
    given = [
        (
            checks.whole_number("each of steps", step, least=0),
            checks.real_number("each of norms", norm, remedy=remedy),
        )
        for step, norm in zip(steps, norms, strict=True)
    ]
    found: list[int] = []
    while len(given) >= FEWEST:
        bent = [_distance(given, number) for number in range(1, len(given) - 1)]
        typical = median(bent)
        span = max(norm for _, norm in given) - min(norm for _, norm in given)
        wrong = [
            (bent[number - 1], number)
            for number in range(1, len(given) - 1)
            if _outside(given, number) > _SHARE * span and bent[number - 1] > _TIMES * typical
        ]
        if not wrong:
            break
        _, worst = max(wrong)
        found.append(given.pop(worst)[0])
    return sorted(found)


def _distance(given: Sequence[tuple[int, float]], number: int) -> float:
    """From the straight line between the neighbours, over the logarithm of the step."""
    (a, low), (here, norm), (b, high) = given[number - 1 : number + 2]
    share = (math.log1p(here) - math.log1p(a)) / (math.log1p(b) - math.log1p(a))
    return abs(norm - (low + share * (high - low)))


def _outside(given: Sequence[tuple[int, float]], number: int) -> float:
    """How far above or below both neighbours."""
    before, norm, after = (norm for _, norm in given[number - 1 : number + 2])
    return max(norm - max(before, after), min(before, after) - norm, 0.0)
