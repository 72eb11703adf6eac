"""How often intervals hold the truth where ablations end once they are decided.

    python -m tests.simulations.allocation [--trials 1000]

Each trial draws effects of heads and of control sets on sequences, measures them as
`ablation.allocation` says, and asks whether the interval of every head (Student's, over the
sequences that it was measured on) holds its true effect, whether that of the strongest one does
(with the correction for the choice that the report makes), and whether control sets that ended are
on the side of the tested set that they were said to be on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from induction_lens.ablation.allocation import UntilDecided
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.estimates import simultaneous_quantile
from induction_lens.estimators import Losses

N_SEQUENCES = 256
TRUE_EFFECTS = {
    "none matters": np.zeros(16),
    "one matters": np.array([0.5, *[0.0] * 15]),
    "graded": np.linspace(0, 0.5, 16),
}


@dataclass(frozen=True)
class Coverage:
    """What a setting gave, as shares."""

    heads: float
    """Intervals of single heads that hold the true effect."""
    strongest: float
    """Trials in which the interval of the strongest head does."""
    sides: float
    """Control sets that ended on the side where they truly are."""
    n_sequences: float
    """Sequences that a head or control set was measured on, on average."""


def coverage(effects: np.ndarray, noise: str, *, trials: int, seed: int = 0) -> Coverage:
    """Simulate one setting; half of the effects are also those of control sets."""
    rng = np.random.default_rng(seed)
    heads, strongest, sides, counts = [], [], [], []
    for _ in range(trials):
        errors = _noise(rng, noise, (1 + 2 * len(effects), N_SEQUENCES))
        tested = 0.2
        true = np.concatenate([[tested], effects, effects])
        n_measured, values = _measured(true[:, None] + errors, n_heads=len(effects))
        counts.append(n_measured[1:].mean())
        means = np.array([v[:n].mean() for v, n in zip(values, n_measured, strict=True)])
        errors = np.array(
            [v[:n].std(ddof=1) / n**0.5 for v, n in zip(values, n_measured, strict=True)]
        )
        alone = slice(1 + len(effects), None)
        critical = np.array([simultaneous_quantile(1, int(n)) for n in n_measured[alone]])
        heads.append(np.abs(means[alone] - effects) <= critical * errors[alone])
        best = int(means[alone].argmax())
        widened = simultaneous_quantile(len(effects), int(n_measured[alone][best]))
        distance = abs(means[alone][best] - effects[best])
        strongest.append(distance <= widened * errors[alone][best])
        ended = (n_measured[1 : 1 + len(effects)] < N_SEQUENCES) & (effects != tested)
        said = [
            values[1 + i][:n].mean() >= values[0][:n].mean()
            for i, n in enumerate(n_measured[1 : 1 + len(effects)])
        ]
        sides += (np.array(said) == (effects > tested))[ended].tolist()
    return Coverage(
        float(np.mean(heads)), float(np.mean(strongest)), float(np.mean(sides)), np.mean(counts)
    )


def _noise(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    if kind == "normal":
        return rng.normal(size=shape)
    return (rng.exponential(size=shape) - 1) * rng.choice([-1, 1])  # of one direction in a trial


def _measured(values: np.ndarray, *, n_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """How many sequences each of tested set, control sets and heads is measured on."""
    tested = dict.fromkeys(range(1, 1 + n_heads), 0)
    allocation = UntilDecided(
        lambda losses: losses.long[..., 0],
        EffectEstimates(None, 0),
        tested=tested,
        heads=range(1 + n_heads, 1 + 2 * n_heads),
    )
    clean = torch.zeros(1, values.shape[1])
    losses = torch.cat([clean, torch.tensor(values, dtype=torch.float32)])[:, :, None]
    active, n_measured = list(range(len(values))), np.zeros(len(values), dtype=int)
    n_done = 0
    while (part := allocation.next_part(n_done, values.shape[1])) is not None:
        n_done = part.stop
        n_measured[active] = n_done
        active = allocation.going_on(Losses(losses[:, : part.stop]), active)
    return n_measured, values


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print(
        f"{'effects':14} {'noise':8} {'heads':>7} {'strongest':>10} {'sides':>7} {'sequences':>10}"
    )
    for name, effects in TRUE_EFFECTS.items():
        for noise in ("normal", "skewed"):
            found = coverage(effects, noise, trials=trials)
            print(
                f"{name:14} {noise:8} {found.heads:7.1%} {found.strongest:10.1%} "
                f"{found.sides:7.1%} {found.n_sequences:10.0f}"
            )


if __name__ == "__main__":
    main()
