"""How often the interval of a mean with a control variate holds the truth, and how wide it is.

    python -m tests.simulations.control_variates [--trials 1500]

Exact values of 8 or 16 sequences, cheap ones of 64 that correlate with them; Student's interval
with as many degrees of freedom as exact values, minus one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from induction_lens.ablation.control_variates import control_variate_mean


@dataclass(frozen=True)
class Coverage:
    """What a setting gave."""

    covered: float
    """Share of intervals that hold the truth."""
    variance: float
    """Variance of the estimate, as a share of that of the mean of the exact values."""
    width: float
    """Mean width of the interval, as a share of that of 16 exact values."""


def coverage(
    correlation: float, noise: str, *, n: int, n_all: int, trials: int, seed: int = 0
) -> Coverage:
    """Simulate one setting."""
    rng = np.random.default_rng(seed)
    covered, squares, plain, widths = 0, 0.0, 0.0, 0.0
    critical = float(stdtrit(n - 1, 0.975))
    usual = float(stdtrit(15, 0.975)) / 16**0.5
    for _ in range(trials):
        own, cheap = _draws(rng, noise, n_all)
        exact = correlation * cheap + (1 - correlation**2) ** 0.5 * own
        value, error = control_variate_mean(torch.tensor(exact[:n]), torch.tensor(cheap))
        covered += abs(value) <= critical * error
        squares += value**2
        plain += exact[:n].mean() ** 2
        widths += critical * error / usual
    return Coverage(covered / trials, squares / plain, widths / trials)


def _draws(rng: np.random.Generator, noise: str, n: int) -> np.ndarray:
    if noise == "normal":
        return rng.normal(size=(2, n))
    return (rng.exponential(size=(2, n)) - 1) * rng.choice([-1, 1])  # one direction in a trial


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1500)
    trials = parser.parse_args().trials
    print(
        f"{'exact':>5} {'correlation':>11} {'noise':7} {'covered':>8} {'variance':>9} {'width':>7}"
    )
    for n in (8, 16):
        for correlation in (0.0, 0.5, 0.7, 0.85, 0.95):
            for noise in ("normal", "skewed"):
                found = coverage(correlation, noise, n=n, n_all=64, trials=trials)
                print(
                    f"{n:5} {correlation:11.2f} {noise:7} {found.covered:8.1%} "
                    f"{found.variance:9.2f} {found.width:7.2f}"
                )


if __name__ == "__main__":
    main()
