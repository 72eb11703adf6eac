"""How often `phase_change` finds changes that are there, and that are not.

    python -m tests.simulations.change_points [--curves 200] [--simulations 199] [--snapshots 47]

Changeless curves are a smooth trend plus noise of a kind; at most 5% should pass at p <= 0.05.
Changes are logistic curves of 0.2 nats with noise of 0.02. Midpoints are judged on changes of 0.3
nats in evaluation sequences, in runs that are noisier than their sequences explain, or both.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable

import torch

from induction_lens.dynamics import phase_change
from induction_lens.dynamics.abruptness import AbruptnessTest
from induction_lens.tracking.trajectory import Trajectory

SIZE = 0.02
MIDDLE = math.log(2.2e6)


def snapshots(n: int = 47) -> torch.Tensor:
    """Tokens like those of the runs that ship: nine early snapshots, the others evenly spaced."""
    early = [4096, 8192, 12288, 24576, 40960, 69632, 126976]
    late = torch.linspace(225_280, 9e6, n - len(early))
    return torch.cat([torch.tensor(early), late.round().long()])


def correlated(n: int, x, generator, r: float):
    """Autoregressive noise of order one."""
    fresh = torch.randn(n, len(x), dtype=torch.float64, generator=generator)
    columns = [fresh[:, 0]]
    for column in fresh.unbind(1)[1:]:
        columns.append(r * columns[-1] + math.sqrt(1 - r**2) * column)
    return torch.stack(columns, dim=1)


def heavy(n: int, x, generator):
    """Student's t with 3 degrees of freedom, at variance one."""
    draws = torch.randn(4, n, len(x), dtype=torch.float64, generator=generator)
    return draws[0] / draws[1:].square().sum(0).sqrt()


def larger(n: int, x, generator, *, early: bool):
    """Three times as large in the first third of the snapshots, or in the last."""
    index = torch.arange(len(x))
    where = index < len(x) / 3 if early else index >= 2 * len(x) / 3
    return correlated(n, x, generator, 0.0) * torch.where(where, 3.0, 1.0)


def noisy_beginning(n: int, x, generator):
    """Five times as large in the first five snapshots."""
    size = torch.where(torch.arange(len(x)) < 5, 5.0, 1.0)
    return correlated(n, x, generator, 0.0) * size


def drift(n: int, x, generator):
    """A random walk."""
    return 0.5 * torch.randn(n, len(x), dtype=torch.float64, generator=generator).cumsum(1)


def with_trend(trend: Callable):
    """Independent noise on a trend, in nats."""
    return lambda n, x, g: trend(x) / SIZE + correlated(n, x, g, 0.0)


CHANGELESS: dict[str, Callable] = {
    "independent": lambda n, x, g: correlated(n, x, g, 0.0),
    "correlated, 0.5": lambda n, x, g: correlated(n, x, g, 0.5),
    "correlated, 0.8": lambda n, x, g: correlated(n, x, g, 0.8),
    "correlated, 0.9": lambda n, x, g: correlated(n, x, g, 0.9),
    "correlated, 0.95": lambda n, x, g: correlated(n, x, g, 0.95),
    "larger early": lambda n, x, g: larger(n, x, g, early=True),
    "larger late": lambda n, x, g: larger(n, x, g, early=False),
    "noisy beginning": noisy_beginning,
    "heavy-tailed": heavy,
    "random walk": drift,
    "linear trend": with_trend(lambda x: 0.05 * x),
    "exponential trend": with_trend(lambda x: -0.4 * torch.exp(-torch.exp(x - MIDDLE))),
}
"""Changeless curves by kind, in units of `SIZE`."""


def share_that_passes(curves, x, *, n_simulations: int, generator) -> float:
    """The share of curves with p <= 0.05."""
    test = AbruptnessTest(x)
    passes = 0
    for curve in curves:
        result = test(curve, n_simulations=n_simulations, generator=generator)
        more = int((result.simulated >= result.observed).sum())
        passes += (1 + more) / (1 + n_simulations) <= 0.05
    return passes / len(curves)


def false_alarms(kind: str, x, *, n: int, n_simulations: int, seed: int = 0) -> float:
    """Of changeless curves of a kind, the share that passes."""
    generator = torch.Generator().manual_seed(seed)
    curves = SIZE * CHANGELESS[kind](n, x, generator)
    return share_that_passes(curves, x, n_simulations=n_simulations, generator=generator)


def power(width: float, x, *, n: int, n_simulations: int, seed: int = 0) -> float:
    """Of curves with a change of 0.2 nats, the share that passes."""
    generator = torch.Generator().manual_seed(seed)
    change = 0.2 * torch.sigmoid((x - MIDDLE) / width)
    curves = change + SIZE * correlated(n, x, generator, 0.0)
    return share_that_passes(curves, x, n_simulations=n_simulations, generator=generator)


def coverage(
    template: Trajectory,
    *,
    width: float,
    of_run: float,
    of_sequences: float,
    n: int,
    n_resamples: int = 199,
    seed: int = 0,
) -> tuple[float, float]:
    """Of runs that change, the share found, and of these the share whose interval is right."""
    generator = torch.Generator().manual_seed(seed)
    tokens = template.tokens_seen[1:]
    x = tokens.double().log()
    n_sequences = template.icl.shape[1]
    found = right = 0
    for run in range(n):
        # between two snapshots anywhere, so that their spacing counts
        middle = MIDDLE + 0.1 * (float(torch.rand(1, generator=generator)) - 0.5)
        curve = -0.3 * torch.sigmoid((x - middle) / width)
        curve = curve + of_run * correlated(1, x, generator, 0.0)[0]
        scatter = correlated(n_sequences, x, generator, 0.0).T
        icl = curve[:, None] + of_sequences * math.sqrt(n_sequences) * scatter
        tracked = dataclasses.replace(template, icl=torch.cat([icl[:1] * 0, icl]).float())
        change = phase_change(tracked, n_resamples=n_resamples, seed=run)
        if change.midpoint is not None:
            found += 1
            right += change.midpoint.low <= math.exp(middle) <= change.midpoint.high
    return found / n, right / max(found, 1)


def main() -> None:
    """Print the tables."""
    from tests.dynamics.test_dynamics import _trajectory

    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("curves", 200), ("simulations", 199), ("snapshots", 47)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    tokens = snapshots(options.snapshots)
    x = tokens.double().log()
    shared = {"n": options.curves, "n_simulations": options.simulations}
    for kind in CHANGELESS:
        print(f"changeless, {kind:18} {false_alarms(kind, x, **shared):7.1%}", flush=True)
    for width in (0.05, 0.1, 0.2):
        print(f"a change, width {width:<14} {power(width, x, **shared):7.1%}", flush=True)
    template = _trajectory(tokens=torch.cat([torch.tensor([0]), tokens]))
    for of_run, of_sequences in ((0.0, 0.01), (0.02, 0.0), (0.014, 0.014)):
        for width in (0.02, 0.1, 0.2):
            noise = {"of_run": of_run, "of_sequences": of_sequences}
            found, right = coverage(template, width=width, n=options.curves, **noise)
            of = f"noise {of_run} + {of_sequences}, width {width}"
            print(f"midpoint, {of:34} found {found:.1%}, covered {right:.1%}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
