"""Numbers with intervals: what a bootstrap gives, and how they read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from induction_lens.estimates import (
    Estimate,
    bootstrap_mean,
    bounded_mean,
    columns,
    ratio_of_means,
    standard_error,
)
from tests.simulations import intervals


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        sample = torch.randn(60, generator=generator) + 0.7
        estimate = bootstrap_mean(sample, n_resamples=300, seed=seed)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99
    estimate = bootstrap_mean(torch.randn(400, generator=generator) * 3, seed=1)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 3 / 20, rel=0.15)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_interval_of_few_values_is_students(confidence):
    values = torch.randn(15, generator=torch.Generator().manual_seed(3)).exp().double()
    ours = bootstrap_mean(values, confidence=confidence)
    theirs = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval(confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_of_many_values_sees_their_skew():
    """Against a plain loop: t of every resample, its quantiles, and the farther end of the two."""
    values = torch.randn(24, generator=torch.Generator().manual_seed(3)).exp().double().numpy()
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(24)
    ours = bootstrap_mean(torch.from_numpy(values), n_resamples=400, seed=5)
    counts = np.random.default_rng(5).multinomial(24, np.full(24, 1 / 24), 400)
    found = []
    for times in counts:
        drawn = np.repeat(values, times)
        found.append((drawn.mean() - mean) / (drawn.std(ddof=1) / np.sqrt(24)))
    low, high = np.quantile(found, [0.025, 0.975])
    margin = scipy.stats.t.ppf(0.975, 23) * error
    assert ours.low == pytest.approx(mean - max(margin, high * error), abs=1e-12)
    assert ours.high == pytest.approx(mean - min(-margin, low * error), abs=1e-12)
    assert ours.high - ours.value > 1.2 * (ours.value - ours.low)


def test_documents_of_one_sequence_each_are_sequences():
    values = torch.randn(30, generator=torch.Generator().manual_seed(1))
    alone = bootstrap_mean(values)
    named = bootstrap_mean(values, documents=torch.arange(30) * 7)
    assert (named.value, named.n, named.n_documents) == (alone.value, 30, 30)
    assert (named.low, named.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert alone.n_documents is None


def test_copies_of_a_sequence_are_no_evidence():
    """Every value four times over, as one document: the interval is that of the values."""
    values = torch.randn(12, generator=torch.Generator().manual_seed(1)).double()
    once = bootstrap_mean(values)
    documents = torch.arange(12).repeat(4)
    copies = bootstrap_mean(values.repeat(4), documents=documents)
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (copies.n, copies.n_documents) == (48, 12)
    blind = bootstrap_mean(values.repeat(4))
    assert blind.high - blind.low < 0.6 * (copies.high - copies.low)
    errors = standard_error(torch.stack([values.repeat(4), -values.repeat(4)]), documents)
    expected = float(values.std() / math.sqrt(12))
    assert errors.tolist() == pytest.approx([expected, expected], abs=1e-12)


def test_one_document_says_nothing_of_others():
    one = torch.zeros(5, dtype=torch.long)
    found = bootstrap_mean(torch.arange(5).float(), documents=one)
    assert (found.value, found.low, found.high) == (2.0, -math.inf, math.inf)
    assert standard_error(torch.arange(5).float(), one).isnan()


def test_values_at_a_bound_leave_room_for_others_at_the_other():
    """A worse value must not make the interval better."""
    right = torch.ones(16).double()
    nearly = right.clone()
    nearly[3] = 2 / 3
    assert bounded_mean(nearly).low < bounded_mean(right).low < 0.8
    assert bounded_mean(1 - nearly).high == pytest.approx(1 - bounded_mean(nearly).low)
    one = bounded_mean(right[:1], least=-1.0)
    assert (one.low, one.high) == pytest.approx((-0.95, 1))


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 16, 40])
def test_intervals_of_scores_that_are_mostly_right_cover(n):
    """F1 of a model that is right most of the time, and now and then quite wrong."""
    generator = torch.Generator().manual_seed(n)
    scores, shares = torch.tensor([0, 2 / 3, 1]).double(), torch.tensor([0.05, 0.1, 0.85])
    truth, covered = float((scores * shares).sum()), 0
    for _ in range(300):
        drawn = torch.multinomial(shares, n, replacement=True, generator=generator)
        found = bounded_mean(scores[drawn])
        covered += found.low <= truth <= found.high
    assert covered >= 0.93 * 300


def test_a_ratio_of_means_has_fiellers_interval():
    """The ends are the ratios at which a t test of `top - ratio * bottom` just rejects."""
    generator = torch.Generator().manual_seed(2)
    bottom = 1 + torch.randn(20, generator=generator).double()
    top = 0.4 * bottom + torch.randn(20, generator=generator).double()
    found = ratio_of_means(top, bottom)
    assert found.value == pytest.approx(float(top.mean() / bottom.mean()))
    for end in (found.low, found.high):
        p_value = scipy.stats.ttest_1samp((top - end * bottom).numpy(), 0).pvalue
        assert p_value == pytest.approx(0.05, abs=1e-9)
    doubled = ratio_of_means(top.repeat(2), bottom.repeat(2), documents=torch.arange(20).repeat(2))
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high), abs=1e-12)
    assert ratio_of_means(top, bottom - 1).high == math.inf
    of_nothing = ratio_of_means(top, torch.zeros_like(top))
    assert math.isnan(of_nothing.value)
    assert (of_nothing.low, of_nothing.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("kind", ["normal", "Student t, 3 df", "exponential"])
def test_intervals_cover_as_often_as_they_say(kind, clustered):
    share = intervals.coverage(intervals.KINDS[kind], 64, clustered=clustered, trials=500)
    assert 0.925 <= share <= 0.975


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_cover_in_a_corpus_whose_documents_differ(clustered):
    """As real text is drawn: documents, and then sequences of these."""
    rng = np.random.default_rng(1)
    documents = np.repeat(np.arange(160), rng.integers(1, 30, size=160))
    values = rng.exponential(size=160)[documents] + rng.laplace(size=len(documents))
    share = intervals.real_coverage(values, documents, 128, clustered=clustered, trials=400)
    assert 0.925 <= share <= 0.975


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate(-0.31, -0.4, -0.221, 64)) == "-0.310 [-0.400, -0.221]"
    assert str(Estimate(10.6e6, 10.2e6, 11e6, unit="tokens")) == "10.6M [10.2M, 11.0M]"
    assert str(Estimate(0.5, 0.375, 0.75, unit="ratio")) == "0.50 [0.38, 0.75]"
    assert Estimate(0.3, 0.1, 0.4, 9).excludes_zero()
    assert Estimate(-0.3, -0.4, -0.1, 9).excludes_zero()
    assert not Estimate(0.3, -0.1, 0.4, 9).excludes_zero()


def test_one_sequence_has_no_interval():
    estimate = bootstrap_mean(torch.tensor([0.5]))
    assert (estimate.value, estimate.low, estimate.high) == (0.5, -math.inf, math.inf)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="position 0 has no loss"):
        bootstrap_mean(torch.tensor([0.5, math.nan]))


def test_an_estimate_fills_three_columns_of_a_row():
    expected = {"icl": -0.5, "icl_low": -0.75, "icl_high": -0.25}
    assert columns("icl", Estimate(-0.5, -0.75, -0.25, 3)) == expected
    missing = columns("icl", None)
    assert list(missing) == list(expected)
    assert all(math.isnan(value) for value in missing.values())


def test_resampled_numbers_that_are_missing_are_left_out():
    resampled = torch.tensor([math.nan, 1.0, 2.0, 3.0, math.nan]).double()
    found = Estimate.of(2.5, resampled, n=7, confidence=0.5, unit="ratio")
    assert found == Estimate(2.5, 1.5, 2.5, 7, 0.5, "ratio")
    nowhere = Estimate.of(2.5, resampled[:1])
    assert math.isnan(nowhere.low)
    assert math.isnan(nowhere.high)


def test_right_answers_have_the_exact_binomial_interval():
    """Against scipy's own, and at the ends by hand."""
    from scipy.stats import binomtest

    for n_right in (0, 1, 7, 23):
        values = (torch.arange(23) < n_right).float()
        found = bounded_mean(values)
        exact = binomtest(n_right, 23).proportion_ci(0.95, "exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert found.value == pytest.approx(n_right / 23)
    assert bounded_mean(torch.zeros(10)).high == pytest.approx(1 - 0.025**0.1)


def test_differences_that_are_all_equal_may_still_have_others():
    found = bounded_mean(torch.zeros(10), least=-1.0)
    bound = 1 - 0.025**0.1
    assert (found.low, found.high) == pytest.approx((-bound, bound))
    all_lost = bounded_mean(torch.full((10,), -1.0), least=-1.0)
    assert (all_lost.low, all_lost.high) == pytest.approx((-1, -1 + 2 * bound))
    some = torch.tensor([-1.0, 0.0, 0.0, 1.0] * 8)
    plain = bootstrap_mean(some)
    assert (bounded_mean(some, least=-1.0).low, plain.low) == (plain.low, plain.low)
    with pytest.raises(ValueError, match="expected values from 0 to 1"):
        bounded_mean(some)


def test_rounding_in_resamples_of_equal_values_is_no_error():
    """Two values of 23 differ: resamples without them have an error of zero, up to rounding."""
    values = torch.zeros(23)
    values[:2] = 1.0
    found = bootstrap_mean(values)
    assert -1 < found.low < found.value < found.high < 1


def test_an_estimate_is_a_number_and_formats_as_one():
    effect = Estimate(-0.4217, low=-0.5049, high=-0.3)
    assert float(effect) == -0.4217
    assert f"{effect:.2f}" == "-0.42 [-0.50, -0.30]"
    assert f"{effect:+.1f}" == "-0.4 [-0.5, -0.3]"
    assert f"{effect}" == str(effect) == "-0.422 [-0.505, -0.300]"
    with pytest.raises(ValueError, match="Unknown format code"):
        f"{effect:x}"
