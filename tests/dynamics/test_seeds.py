"""Intervals between seeds against scipy's tests, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from induction_lens.dynamics import holm, mean_over_seeds, ratio_over_seeds
from tests.simulations import seeds

PLAIN = [2.7e6, 4.5e6, 2.6e6]
SMEARED = [1.1e6, 1.3e6, 1.35e6]


def test_the_mean_has_the_interval_of_scipys_t_test():
    values = [-0.42, -0.37, -0.45]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    mean = mean_over_seeds(values, confidence=0.9)
    assert mean.value == pytest.approx(np.mean(values))
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))
    assert (mean.n, mean.confidence, mean.unit) == (3, 0.9, "nats")


def test_moments_are_averaged_over_logarithms():
    expected = stats.ttest_1samp(np.log(PLAIN), 0).confidence_interval(0.95)
    mean = mean_over_seeds(PLAIN, geometric=True, unit="tokens")
    assert mean.value == pytest.approx(stats.gmean(PLAIN))
    assert (mean.low, mean.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_the_ratio_has_welchs_interval():
    test = stats.ttest_ind(np.log(SMEARED), np.log(PLAIN), equal_var=False)
    expected = test.confidence_interval(0.95)
    ratio = ratio_over_seeds(SMEARED, PLAIN)
    assert ratio.value == pytest.approx(stats.gmean(SMEARED) / stats.gmean(PLAIN))
    both = math.exp(expected.low), math.exp(expected.high)
    assert (ratio.low, ratio.high) == pytest.approx(both)
    assert (ratio.n, ratio.unit) == (6, "ratio")


def test_a_single_run_is_given_the_spread_of_the_others():
    ratio = ratio_over_seeds(SMEARED[:1], PLAIN)
    logs = np.log(PLAIN)
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) * math.sqrt(1 + 1 / 3)
    assert math.log(ratio.high / ratio.value) == pytest.approx(half)
    assert math.log(ratio.value / ratio.low) == pytest.approx(half)
    other = ratio_over_seeds(PLAIN, SMEARED[:1])
    assert (other.low, other.high) == pytest.approx((1 / ratio.high, 1 / ratio.low))


def test_what_has_no_spread():
    alone = mean_over_seeds([0.5])
    assert (alone.low, alone.high) == (-math.inf, math.inf)
    moment = mean_over_seeds([2.0], geometric=True)
    assert (moment.low, moment.high) == (0.0, math.inf)
    equal = mean_over_seeds([0.5, 0.5])
    assert (equal.low, equal.high) == (0.5, 0.5)
    same = ratio_over_seeds([1.0, 1.0], [2.0, 2.0])
    assert (same.low, same.high) == (0.5, 0.5)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.001]) == pytest.approx([0.6, 0.002])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_over_seeds([]), "expected values to be at least one number"),
        (lambda: mean_over_seeds([1.0, -1.0], geometric=True), "positive numbers"),
        (lambda: mean_over_seeds([math.nan]), "each of values"),
        (lambda: ratio_over_seeds([1.0], [2.0]), "several values of one of them"),
    ],
)
def test_bad_values_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_intervals_over_three_seeds_hold_the_truth_as_often_as_they_say():
    assert 0.93 <= seeds.student(1500) <= 0.97
    assert 0.93 <= seeds.welch(1500) <= 0.985  # Welch's is a little wide with three and three
    assert seeds.bootstrap(500, n_resamples=300) < 0.85
