"""How often intervals over three seeds hold the truth: `python -m tests.simulations.seeds`.

Midpoints of training are drawn with a spread of 0.3 in ln(tokens), as the two-layer runs that ship
have it; those of the second model have half of it.
"""

from __future__ import annotations

import math

import numpy as np

from induction_lens.dynamics import mean_over_seeds, ratio_over_seeds

SPREAD = 0.3


def student(n: int, *, n_seeds: int = 3, seed: int = 0) -> float:
    """The share of t intervals of a geometric mean that hold the truth, 1."""
    rng = np.random.default_rng(seed)
    hits = 0
    for values in np.exp(SPREAD * rng.standard_normal((n, n_seeds))):
        interval = mean_over_seeds(values.tolist(), geometric=True)
        hits += interval.low <= 1 <= interval.high
    return hits / n


def welch(n: int, *, n_seeds: int = 3, seed: int = 0) -> float:
    """The share of Welch intervals of a ratio that hold the truth, 1/2."""
    rng = np.random.default_rng(seed)
    hits = 0
    for draws in rng.standard_normal((n, 2, n_seeds)):
        below = np.exp(SPREAD * draws[0])
        above = np.exp(SPREAD / 2 * draws[1] - math.log(2))
        interval = ratio_over_seeds(above.tolist(), below.tolist())
        hits += interval.low <= 0.5 <= interval.high
    return hits / n


def bootstrap(n: int, *, n_seeds: int = 3, n_resamples: int = 1000, seed: int = 0) -> float:
    """The same as `student` for percentile bootstrap intervals."""
    rng = np.random.default_rng(seed)
    hits = 0
    for values in SPREAD * rng.standard_normal((n, n_seeds)):
        drawn = rng.integers(0, n_seeds, (n_resamples, n_seeds))
        low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
        hits += low <= 0 <= high
    return hits / n


if __name__ == "__main__":
    print(f"Student's t, three seeds: {student(4000):.1%}")
    print(f"Welch's t, three and three: {welch(4000):.1%}")
    print(f"percentile bootstrap, three seeds: {bootstrap(4000):.1%}")
