"""Checkpoints of another step stand beside the curve of embedding norms; others do not."""

from __future__ import annotations

import math
import random
import shutil
import warnings

import pytest

import induction_lens as il
from induction_lens.suites import suite
from induction_lens.tracking.norms import off_curve
from tests.suites.test_tracking_suites import OPTIONS
from tests.suites.trained import TOKENS_PER_STEP, write_folders

PYTHIA = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 144000, 1000)]


def curve(step: int) -> float:
    """Flat at first, down a little, and then up for long, as norms go under weight decay."""
    x = math.log1p(step)
    return 1.0 - 0.2 / (1 + math.exp(6 - x)) + 0.08 * max(0.0, x - 7) ** 2


def noisy(steps: list[int], seed: int, noise: float = 0.002) -> list[float]:
    generator = random.Random(seed)
    return [curve(step) + generator.gauss(0, noise) for step in steps]


@pytest.mark.parametrize("wrong", [256, 1000, 30000, 60000])
def test_the_last_weights_under_an_earlier_name_are_found(wrong):
    norms = noisy(PYTHIA, seed=1)
    norms[PYTHIA.index(wrong)] = norms[-1]
    assert off_curve(PYTHIA, norms) == [wrong]


def test_several_wrong_ones_are_found_and_the_ends_are_not_judged():
    norms = noisy(PYTHIA, seed=2)
    for wrong in (512, 9000, 40000):
        norms[PYTHIA.index(wrong)] = norms[-1]
    assert off_curve(PYTHIA, norms) == [512, 9000, 40000]
    norms = noisy(PYTHIA, seed=2)
    norms[0] = norms[-1] = 9.0
    assert off_curve(PYTHIA, norms) == []


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.05])
def test_no_smooth_curve_is_taken_for_a_wrong_one(noise):
    assert not any(off_curve(PYTHIA, noisy(PYTHIA, seed, noise)) for seed in range(8))
    few = PYTHIA[::15]
    assert not any(off_curve(few, noisy(few, seed, noise)) for seed in range(8))
    flat = [1.0] * len(PYTHIA)
    assert off_curve(PYTHIA, flat) == []
    assert off_curve(PYTHIA[:7], [1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0]) == []


STEPS = (0, 2, 4, 8, 12, 20, 30, 44, 64, 90)


@pytest.mark.slow
def test_a_suite_with_a_checkpoint_of_another_step_warns(tmp_path):
    folders = write_folders(tmp_path / "run", (*STEPS, 700))
    options = OPTIONS | {"n_sequences": 2, "n_ablated": 1}
    shutil.move(folders / "step700", tmp_path / "later")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        il.track(suite(folders, tokens_per_step=TOKENS_PER_STEP), out=tmp_path / "a", **options)
    shutil.rmtree(folders / "step12")
    shutil.copytree(tmp_path / "later", folders / "step12")
    found = suite(folders, tokens_per_step=TOKENS_PER_STEP)
    assert found.left_out == ()
    with pytest.warns(UserWarning, match="at step 12 have a mean norm of .*another step"):
        il.track(found, out=tmp_path / "b", **options)
