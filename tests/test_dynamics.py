"""Analyses of trajectories, on synthetic ones whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from induction_lens.dynamics import (
    phase_change,
)
from induction_lens.train import snapshot_steps
from induction_lens.trajectory import Trajectory

TOKENS = torch.tensor(snapshot_steps(3052, 40)) * 8192  # 25M tokens
X = TOKENS[1:].double().log()
MIDDLE = math.log(6e6)
N_SEQUENCES, N_PROMPTS = 29, 13


def _logistic(middle, width, height):
    return lambda x: height * torch.sigmoid((x - middle) / width)


def _noise(shape, generator, correlation=0.0):
    """Standard Gaussian noise, correlated from snapshot to snapshot."""
    fresh = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = [fresh[0]]
    for row in fresh[1:]:
        rows.append(correlation * rows[-1] + math.sqrt(1 - correlation**2) * row)
    return torch.stack(rows)


def _trajectory(
    icl=None, induction=None, *, name="run", seed=0, losses=None, token_losses=None, tokens=TOKENS
):
    """A run with curves [snapshot sequence] after step 0; 0 at step 0, and where none is given."""
    n = len(tokens)
    icl = torch.zeros(n - 1, N_SEQUENCES) if icl is None else icl
    induction = torch.zeros(n - 1, N_PROMPTS) if induction is None else induction
    prompts = torch.zeros(n, 2, 3, induction.shape[1])
    prompts[1:, 1, 2] = induction.float()
    return Trajectory(
        name=name,
        config={"n_layers": 2, "seed": seed},
        seed=seed,
        steps=tokens // 8192,
        tokens_seen=tokens,
        training_loss=torch.zeros(n),
        held_out_loss=torch.zeros(n),
        icl=torch.cat([torch.zeros(1, icl.shape[1]), icl.float()]),
        early=50,
        late=500,
        window=10,
        scores={"induction": prompts.mean(3)},
        induction_by_sequence=prompts,
        effects={},
        loss_by_position=torch.zeros(n, 19) if losses is None else losses,
        token_losses=torch.zeros(n, 5) if token_losses is None else token_losses,
        smear=None,
        weights=("",) * n,
    )


def _measured(curve, generator, *, noise, correlation=0.0, n=N_SEQUENCES):
    """Sequences around a curve: each has an offset, and noise; `noise` is that of their mean."""
    offsets = torch.randn(n, generator=generator, dtype=torch.float64) * 0.3
    offsets -= offsets.mean()
    scatter = _noise((len(curve), n), generator, correlation)
    return curve[:, None] + offsets + scatter * noise * math.sqrt(n)


SMOOTH = {
    "flat": lambda x: 0 * x,
    "linear": lambda x: -0.05 * x,
    "power law": lambda x: 2 * torch.exp(-0.3 * (x - x[0])),
    "exponential relaxation": lambda x: 0.4 * torch.exp(-torch.exp(x - MIDDLE)),
    "logistic in proportion to tokens": _logistic(MIDDLE, 1.2, -0.4),
    "parabola": lambda x: -0.004 * (x - 11) ** 2,
    "one bend": lambda x: -0.1 * (x - MIDDLE).clamp(min=0),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_smooth_trends_are_no_phase_change(name, correlation):
    generator = torch.Generator().manual_seed(0)
    n_runs, found, significant = 60, 0, 0
    for run in range(n_runs):
        icl = _measured(SMOOTH[name](X), generator, noise=0.02, correlation=correlation)
        change = phase_change(_trajectory(icl), n_resamples=99, seed=run)
        found += change.found
        significant += change.p_value < 0.05
    # at a true rate of 5%, more than 8 in 60 has a probability of 0.002
    assert significant <= 8
    assert found <= significant


@pytest.mark.parametrize("width", [0.1, 0.2])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_abrupt_changes_are_found_where_they_are(width, correlation):
    generator = torch.Generator().manual_seed(0)
    n_runs, hits, errors = 40, 0, []
    for run in range(n_runs):
        curve = _logistic(MIDDLE, width, -0.3)(X)
        icl = _measured(curve, generator, noise=0.01, correlation=correlation)
        change = phase_change(_trajectory(icl), n_resamples=99, seed=run)
        hits += change.found
        if change.found:
            assert change.onset.value < change.midpoint.value < change.end.value
            assert change.change == pytest.approx(-0.3, abs=0.09)
            errors.append(change.midpoint.value - 6e6)
    assert hits >= 0.95 * n_runs
    spacing = 2 * 25e6 / 40
    assert max(map(abs, errors)) < spacing
    assert abs(sum(errors) / len(errors)) < spacing / 10
