"""How often the intervals cover the truth: `python -m tests.simulations.intervals [--trials N]`.

Each row draws samples whose mean is known to be zero, many times, and counts the intervals of
`bootstrap_mean` that hold it. Documents hold 1 to 20 sequences (mean 3.5) that share an effect.
Real scores are those of `toy-2l` on all held-out text: sequences are drawn from them, or documents
are drawn first, as many as there are, and then sequences of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

import induction_lens as il
from induction_lens.estimates import bootstrap_mean, ratio_of_means

Draw = Callable[[np.random.Generator, int], np.ndarray]

KINDS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "Student t, 3 df": lambda rng, n: rng.standard_t(3, size=n),
    "exponential": lambda rng, n: rng.exponential(size=n) - 1,
    "gamma, shape 1/2": lambda rng, n: rng.gamma(0.5, size=n) - 0.5,
    "log-normal": lambda rng, n: rng.lognormal(0, 1, size=n) - np.exp(0.5),
}
"""Distributions of mean zero, by name."""

SIZES = (16, 32, 64, 128, 256, 512)


def coverage(draw: Draw, n: int, *, clustered: bool, trials: int, seed: int = 0) -> float:
    """The share of intervals that hold the true mean, zero."""
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(trials):
        values = draw(rng, n)
        documents = None
        if clustered:
            documents = documents_of(rng, n)
            values = values + 0.7 * rng.normal(size=n)[documents]
        found = bootstrap_mean(
            torch.from_numpy(values),
            documents=None if documents is None else torch.from_numpy(documents),
            n_resamples=500,
        )
        covered += found.low <= 0 <= found.high
    return covered / trials


def documents_of(rng: np.random.Generator, n: int) -> np.ndarray:
    """The document of each of `n` sequences: 1 to 20 sequences a document."""
    sizes = np.minimum(1 + rng.exponential(3, size=n).astype(int), 20)
    return np.repeat(np.arange(n), sizes)[:n]


def ratio_coverage(n: int, *, trials: int, seed: int = 0) -> float:
    """The share of Fieller's intervals that hold the true ratio, 1/2."""
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(trials):
        bottom = 0.4 + rng.laplace(size=n) * 0.5
        top = bottom / 2 + rng.laplace(size=n) * 0.5
        found = ratio_of_means(torch.from_numpy(top), torch.from_numpy(bottom))
        covered += found.low <= 0.5 <= found.high
    return covered / trials


def real_scores() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """ICL scores and effects of each held-out sequence, by name, and each one's document."""
    model = il.load("toy-2l")
    text = il.sample_text(model, n_sequences=None)
    heads = il.score_heads(model, detectors=["induction"])["induction"].above(0.3)
    study = il.ablate(model, heads, text, n_controls=0, window=10)
    found = {}
    for name, same in {
        "ICL score, two positions": study.at(window=0, estimator="paper"),
        "ICL score, ±10": study.at(estimator="paper"),
        "matched ICL score, ±10": study,
    }.items():
        before, after = same.scores
        found[name] = before.double().numpy()
        found[name.replace("ICL score", "effect")] = (after - before).double().numpy()
    return found, text.documents[:, study.late].numpy()


def real_coverage(
    values: np.ndarray, documents: np.ndarray, n: int, *, clustered: bool, trials: int
) -> float:
    """The share of intervals of `n` real values that hold the mean of all."""
    rng = np.random.default_rng(0)
    true = values.mean()
    rows_of = [np.flatnonzero(documents == document) for document in np.unique(documents)]
    covered = 0
    for _ in range(trials):
        if clustered:
            drawn = [rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))]
            rows = np.concatenate(drawn)
            units = np.repeat(np.arange(len(drawn)), [len(some) for some in drawn])
            chosen = rng.permutation(len(rows))[:n]
            some, of = torch.from_numpy(values[rows[chosen]]), torch.from_numpy(units[chosen])
        else:
            some, of = torch.from_numpy(rng.choice(values, size=n)), None
        found = bootstrap_mean(some, documents=of, n_resamples=500)
        covered += found.low <= true <= found.high
    return covered / trials


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    print(f"Coverage of 95% intervals in percent, {trials} trials each\n")
    print("| values | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---" * (1 + len(SIZES)) + "|")
    for clustered in (False, True):
        for name, draw in KINDS.items():
            sizes = SIZES[1:] if clustered else SIZES
            found = [
                f"{100 * coverage(draw, n, clustered=clustered, trials=trials):.1f}" for n in sizes
            ]
            where = f"{name}, in documents" if clustered else name
            print(f"| {where} | " + " | ".join(["–"] * clustered + found) + " |", flush=True)
    found = [f"{100 * ratio_coverage(n, trials=trials):.1f}" for n in SIZES]
    print("| ratio of means | " + " | ".join(found) + " |", flush=True)
    real, documents = real_scores()
    for clustered in (False, True):
        for name, values in real.items():
            options = {"clustered": clustered, "trials": trials}
            found = [f"{100 * real_coverage(values, documents, n, **options):.1f}" for n in SIZES]
            where = f"real {name}" + ", in documents" * clustered
            print(f"| {where} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
