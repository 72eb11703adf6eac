"""Intervals between seeds: Student's t for a mean, Welch's t for the ratio of two.

Three runs are too few for a bootstrap: resampling three values with replacement gives a 95%
interval that holds the mean of all seeds three times in four (see `tests/simulations/seeds.py`).
Moments of training are compared by their ratio, so their intervals are made of logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from induction_lens import checks
from induction_lens.estimates import Estimate, Measure


def mean_over_seeds(
    values: Sequence[float],
    *,
    geometric: bool = False,
    confidence: float = 0.95,
    unit: Measure = "nats",
) -> Estimate:
    """The mean over seeds with Student's t interval: what other seeds would give on average.

    The values of different seeds are taken as draws from one normal distribution, of their
    logarithms where `geometric`. Equal values leave no spread: their interval is a point.

    Args:
        values: One for each seed.
        geometric: Take the geometric mean, of positive values such as moments of training.
        confidence: Level of the interval.
        unit: Of the values.

    Returns:
        The mean; `n` counts seeds. The interval of a single seed is infinite, or from 0 to infinity
        where `geometric`.

    Raises:
        ValueError: If there is no value, one is not finite, or one is not positive where
            `geometric`.

    Examples:
        >>> midpoints = [2.7e6, 4.5e6, 2.6e6]
        >>> print(il.dynamics.mean_over_seeds(midpoints, geometric=True, unit="tokens"))
        3.2M [1.5M, 6.8M]
    """
    import numpy as np
    from scipy import stats

    confidence = checks.confidence(confidence)
    sample = np.array(_checked("values", values, positive=geometric))
    if geometric:
        sample = np.log(sample)
    mean = float(sample.mean())
    if len(sample) == 1:
        half = math.inf
    else:
        half = float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * stats.sem(sample))
    ends = (mean, mean - half, mean + half)
    value, low, high = (math.exp(end) for end in ends) if geometric else ends
    return Estimate(value, low, high, len(sample), confidence, unit)


def ratio_over_seeds(
    above: Sequence[float], below: Sequence[float], *, confidence: float = 0.95
) -> Estimate:
    """The ratio of two geometric means over seeds, with Welch's t interval of its logarithm.

    The two groups of runs may differ in their spread; degrees of freedom are those of Welch and
    Satterthwaite. A single run has no spread to be seen: it is then taken to be that of the others.

    Args:
        above: One positive value for each seed of the one model.
        below: Likewise of the other.
        confidence: Level of the interval.

    Returns:
        The ratio; `n` counts the seeds of both.

    Raises:
        ValueError: If there are fewer than 2 values of both, or one is not positive and finite.

    Examples:
        >>> print(il.dynamics.ratio_over_seeds([1.1e6, 1.3e6, 1.3e6], [2.7e6, 4.5e6, 2.6e6]))
        0.39 [0.20, 0.77]
    """
    import numpy as np
    from scipy import stats

    confidence = checks.confidence(confidence)
    groups = [
        np.log(_checked(name, values, positive=True))
        for name, values in (("above", above), ("below", below))
    ]
    sizes = [len(group) for group in groups]
    if max(sizes) < 2:
        remedy = "one run of each has no spread between seeds"
        raise checks.refuse("above and below", "several values of one of them", sizes, remedy)
    difference = float(groups[0].mean() - groups[1].mean())
    if min(sizes) < 2:
        [several] = [group for group in groups if len(group) > 1]
        square = float(several.var(ddof=1)) * (1 + 1 / len(several))
        freedom = len(several) - 1.0
    else:
        squares = [float(stats.sem(group)) ** 2 for group in groups]
        square = sum(squares)
        spread = sum(s**2 / (n - 1) for s, n in zip(squares, sizes, strict=True))
        freedom = square**2 / spread if spread > 0 else 1.0
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(square)
    value, low, high = (math.exp(difference + side) for side in (0.0, -half, half))
    return Estimate(value, low, high, sum(sizes), confidence, "ratio")


def _checked(name: str, values: Sequence[float], *, positive: bool) -> list[float]:
    remedy = "give a number for each seed"
    given = [
        checks.real_number(f"each of {name}", value, remedy=remedy)
        for value in checks.several(name, values)
    ]
    if not given:
        raise checks.refuse(name, "at least one number", values, remedy)
    if positive and min(given) <= 0:
        raise checks.refuse(name, "positive numbers", values, "moments of training are")
    return given


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's method, in the order given.

    Of all tests in which there is nothing to be found, the chance that any is below a level after
    the correction is at most that level, however the tests depend on each other.

    Examples:
        >>> il.dynamics.holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    given = _checked("p_values", p_values, positive=False)
    corrected = list(given)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(given)), key=given.__getitem__)):
        largest = max(largest, min(1.0, (len(given) - rank) * given[place]))
        corrected[place] = largest
    return corrected
