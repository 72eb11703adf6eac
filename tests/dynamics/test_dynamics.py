"""Analyses of trajectories, on synthetic ones whose answer is known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from induction_lens.dynamics import (
    co_occurrence,
    loss_derivative,
    loss_pca,
    mean_over_seeds,
    model_order,
    phase_change,
)
from induction_lens.dynamics.curves import Trends, WindowSearch, midpoints
from induction_lens.tracking.trajectory import Trajectory
from induction_lens.training.loop import snapshot_steps

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


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_smooth_trends_are_no_phase_change(correlation):
    generator = torch.Generator().manual_seed(0)
    significant = dict.fromkeys(SMOOTH, 0)
    for name, curve in SMOOTH.items():
        for run in range(16):
            icl = _measured(curve(X), generator, noise=0.02, correlation=correlation)
            change = phase_change(_trajectory(icl), n_resamples=79, seed=run)
            assert change.p_value < 0.05 or not change.found
            significant[name] += change.p_value < 0.05
    assert sum(significant.values()) <= 0.08 * 16 * len(SMOOTH)
    assert max(significant.values()) <= 4


@pytest.mark.parametrize(
    ("width", "correlation", "least"),
    # a wide change in correlated noise is the price of few false alarms
    [(0.1, 0.0, 0.95), (0.1, 0.5, 0.95), (0.2, 0.0, 0.95), (0.2, 0.5, 0.8)],
)
@pytest.mark.slow
def test_abrupt_changes_are_found_where_they_are(width, correlation, least):
    generator = torch.Generator().manual_seed(0)
    n_runs, errors = 20, []
    for run in range(n_runs):
        curve = _logistic(MIDDLE, width, -0.3)(X)
        icl = _measured(curve, generator, noise=0.01, correlation=correlation)
        change = phase_change(_trajectory(icl), n_resamples=79, seed=run)
        if change.found:
            assert change.onset.value < change.midpoint.value < change.end.value
            assert change.change == pytest.approx(-0.3, abs=0.09)
            errors.append(change.midpoint.value - 6e6)
    assert len(errors) >= least * n_runs
    spacing = 2 * 25e6 / 40
    assert max(map(abs, errors)) < spacing
    assert abs(sum(errors) / len(errors)) < spacing / 8


@pytest.mark.slow
def test_intervals_cover_what_all_sequences_would_give_as_often_as_they_say():
    curve = _logistic(MIDDLE, 0.1, -0.3)(X)
    truth = phase_change(_trajectory(_still(curve)), n_resamples=79).midpoint.value
    assert truth == pytest.approx(6e6, rel=0.02)
    generator = torch.Generator().manual_seed(0)
    covered = {0.5: 0, 0.95: 0}
    for run in range(30):
        trajectory = _trajectory(_measured(curve, generator, noise=0.01))
        for confidence in covered:
            change = phase_change(trajectory, n_resamples=99, seed=run, confidence=confidence)
            covered[confidence] += change.midpoint.low <= truth <= change.midpoint.high
    # each bound is passed by chance with a probability below 0.01
    assert covered[0.95] >= 25
    assert 8 <= covered[0.5] <= 22


def _still(curve, n=4):
    """Sequences whose mean is the curve, in every resample up to a constant."""
    return curve[:, None] + torch.linspace(-0.25, 0.25, n, dtype=torch.float64)


def _ramp(first, last, height):
    """A line with two bends, on snapshots `first` and `last` of X."""
    return height * ((X - X[first]) / (X[last] - X[first])).clamp(0, 1)


def test_an_exact_ramp_by_hand():
    change = phase_change(_trajectory(_still(_ramp(20, 25, -0.75))), n_resamples=79)
    assert change.found
    for mark, expected in (
        (change.onset, TOKENS[21].item()),
        (change.midpoint, math.sqrt(TOKENS[21].item() * TOKENS[26].item())),
        (change.end, TOKENS[26].item()),
    ):
        assert [mark.value, mark.low, mark.high] == pytest.approx([expected] * 3, rel=1e-3)
    assert change.change == pytest.approx(-0.75, abs=1e-5)
    assert (change.p_value, change.seeds, change.n_sequences) == (1 / 80, (0,), 4)
    assert change.midpoints.shape == (79,)
    marks = (change.onset, change.midpoint, change.end)
    onset, middle, end = (f"{mark.value / 1e6:.1f}M" for mark in marks)
    text = f"between {onset} and {end} tokens, midpoint {middle} [{middle}, {middle}]"
    assert str(change) == text
    frame = change.to_frame()
    assert frame["mark"].tolist() == ["onset", "midpoint", "end"]
    assert frame["tokens"].tolist() == [mark.value for mark in marks]


def test_no_change_says_so():
    flat = _measured(0 * X, torch.Generator().manual_seed(2), noise=0.02)
    change = phase_change(_trajectory(flat), n_resamples=99)
    assert str(change) == f"none (p = {change.p_value:.2g})"
    assert (change.onset, change.midpoint, change.end) == (None, None, None)
    assert change.to_frame()["tokens"].isna().all()
    assert len(change.midpoints) == 0


def test_a_change_below_the_minimum_does_not_count():
    run = _trajectory(_still(_ramp(20, 22, -0.08)))
    change = phase_change(run, n_resamples=79)
    assert str(change) == "none (a change of -0.080, smaller than 0.1)"
    assert phase_change(run, n_resamples=79, minimum=0.07).found


def test_icl_falls_and_induction_rises():
    falls, rises = _still(_ramp(20, 25, -0.5)), _still(_ramp(15, 18, 0.5))
    run = _trajectory(falls, rises)
    induction = phase_change(run, of="induction", n_resamples=79)
    assert induction.onset.value == pytest.approx(TOKENS[16].item())
    assert induction.change == pytest.approx(0.5, abs=1e-5)
    assert phase_change(run, n_resamples=79).onset.value == pytest.approx(TOKENS[21].item())
    upside_down = _trajectory(-falls, -rises)
    assert not phase_change(upside_down, n_resamples=79).found
    assert not phase_change(upside_down, of="induction", n_resamples=79).found


def test_step_0_is_left_out_and_the_seed_decides():
    icl = _measured(_ramp(20, 25, -0.5), torch.Generator().manual_seed(0), noise=0.01)
    run = _trajectory(icl)
    wild = run.icl.clone()
    wild[0] = 7.0
    same = phase_change(dataclasses.replace(run, icl=wild), n_resamples=79, seed=3)
    first = phase_change(run, n_resamples=79, seed=3)
    assert (str(same), same.p_value) == (str(first), first.p_value)
    assert first.midpoint != phase_change(run, n_resamples=79, seed=4).midpoint


def test_several_seeds_are_averaged_over_ln_tokens():
    runs = [
        _trajectory(_still(_ramp(first, first + 4, -0.5)), seed=seed)
        for seed, first in enumerate((18, 22, 25))
    ]
    change = phase_change(runs, n_resamples=999, confidence=0.98)
    assert change.seeds == (0, 1, 2)
    single = [phase_change(run, n_resamples=79).midpoint.value for run in runs]
    assert change.midpoint.value == pytest.approx(math.prod(single) ** (1 / 3))
    assert change.midpoint == mean_over_seeds(
        change.seed_midpoints, geometric=True, confidence=0.98, unit="tokens"
    )
    assert (change.changed, change.over) == ((0, 1, 2), "3 seeds")
    assert change.seed_midpoints == pytest.approx(single)
    generator = torch.Generator().manual_seed(2)
    none = [
        _trajectory(_measured(-0.05 * X, generator, noise=0.02), seed=seed) for seed in range(3)
    ]
    assert not phase_change(none, n_resamples=199).found


def test_a_seed_that_does_not_change_is_left_out_of_the_marks():
    generator = torch.Generator().manual_seed(0)
    changing = [
        _trajectory(_still(_ramp(first, first + 4, -0.5)), seed=seed)
        for seed, first in ((0, 18), (2, 24))
    ]
    still = _trajectory(_measured(0 * X, generator, noise=0.02, n=4), seed=1)
    change = phase_change([changing[0], still, changing[1]], n_resamples=99)
    assert (change.found, change.seeds, change.changed) == (True, (0, 1, 2), (0, 2))
    both = phase_change(changing, n_resamples=99)
    assert change.midpoint == both.midpoint
    assert change.change == pytest.approx(-0.5, abs=1e-4)
    alone = phase_change([changing[0], still], n_resamples=99)
    assert (alone.changed, alone.over) == ((0,), "sequences and snapshots")


def test_a_corrected_p_value_may_undo_a_change():
    change = phase_change(_trajectory(_still(_ramp(20, 25, -0.5))), n_resamples=99)
    kept = change.corrected(0.04)
    assert (kept.found, kept.p_value, kept.midpoint) == (True, 0.04, change.midpoint)
    undone = change.corrected(0.05)
    assert (undone.found, undone.midpoint, undone.changed) == (False, None, ())
    assert str(undone) == "none (p = 0.05)"


def test_the_search_is_that_of_a_naive_one():
    generator = torch.Generator().manual_seed(0)
    x = X[-14:]
    curve = _logistic(x[6], 0.1, 1.0)(x) + 0.1 * _noise((14,), generator)
    best = (math.inf, 0, 0)
    for first in range(2, 12):
        for last in range(first + 1, 12):
            design = torch.stack(
                [torch.ones_like(x), x, (x - x[first]).clamp(min=0), (x - x[last]).clamp(min=0)], 1
            )
            solution = torch.linalg.lstsq(design, curve[:, None]).solution
            slopes = solution[1:, 0].cumsum(0)
            residual = (curve - (design @ solution)[:, 0]).square().sum().item()
            if slopes[1] > max(slopes[0], slopes[2], 0) and residual < best[0]:
                best = (residual, first, last, (design @ solution)[[first, last], 0].tolist())
    [windows] = [WindowSearch.over(x).best(curve[None])]
    assert (windows.onset.item(), windows.end.item()) == best[1:3]
    assert windows.residual.item() == pytest.approx(best[0])
    levels = [windows.onset_level.item(), windows.end_level.item()]
    assert levels == pytest.approx(best[3])


def test_the_window_is_the_one_that_ruptures_finds_on_an_even_grid():
    import ruptures

    x = torch.arange(40.0, dtype=torch.float64)
    curve = 0.01 * x + ((x - 17) / 6).clamp(0, 1)
    noisy = curve + 0.003 * _noise((40,), torch.Generator().manual_seed(0))
    windows = WindowSearch.over(x).best(noisy[None])
    bends = ruptures.Dynp(model="clinear", jump=1).fit_predict(noisy.numpy(), n_bkps=2)
    # its segments begin after the bend
    assert [windows.onset.item() + 1, windows.end.item() + 1, 40] == bends


def test_a_curve_that_only_falls_has_no_window():
    windows = WindowSearch.over(X).best(-X[None])
    assert windows.residual.isinf().all()
    assert midpoints(-X[None], X, windows).isnan().all()


def test_two_bends_that_only_get_steeper_are_no_window():
    steeper = 0.1 * X + 0.4 * (X - X[10]).clamp(min=0) + 0.5 * (X - X[25]).clamp(min=0)
    windows = WindowSearch.over(X).best(steeper[None])
    assert (windows.onset.item(), windows.end.item()) != (10, 25)
    assert windows.residual.item() > 1e-3


def test_a_curve_that_crosses_thrice_has_its_midpoint_between_first_and_last():
    x = torch.arange(11.0, dtype=torch.float64)
    curve = torch.tensor([0, 0, 0, 0, 0.75, 0.25, 0.25, 1, 1, 1, 1], dtype=torch.float64)
    windows = dataclasses.replace(
        WindowSearch.over(x).best(curve[None]),
        onset=torch.tensor([3]),
        end=torch.tensor([7]),
        onset_level=torch.zeros(1, dtype=torch.float64),
        end_level=torch.ones(1, dtype=torch.float64),
    )
    # up through a half at 3 + 2/3 and at 6 + 1/3
    assert midpoints(curve[None], x, windows).item() == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["flat", "linear", "parabola"])
def test_smooth_trends_are_fitted_exactly(name):
    curve = SMOOTH[name](X)
    trends = Trends.smooth(X)
    assert trends.residuals(curve[None]).item() < 1e-12
    torch.testing.assert_close(trends.fit(curve), curve)


@pytest.mark.parametrize("name", ["power law", "exponential relaxation", "one bend"])
def test_smooth_trends_are_fitted_closely(name):
    curve = SMOOTH[name](X)
    residual = Trends.smooth(X).residuals((curve - curve.mean())[None])
    assert residual.item() < 1e-3 * (curve - curve.mean()).square().sum().item()


def test_co_occurrence_of_exact_ramps():
    run = _trajectory(_still(_ramp(22, 26, -0.5)), _still(_ramp(20, 24, 0.5)))
    both = co_occurrence(run, n_resamples=79)
    icl, induction = (
        math.sqrt(TOKENS[first + 1].item() * TOKENS[first + 5].item()) for first in (22, 20)
    )
    assert both.lag.value == pytest.approx(icl - induction, rel=1e-3)
    assert [both.lag.low, both.lag.high] == pytest.approx([both.lag.value] * 2, rel=3e-3)
    assert both.ratio.value == pytest.approx(icl / induction, rel=1e-4)
    assert both.n_snapshots == 7
    for of, change in (("icl", both.icl), ("induction", both.induction)):
        alone = phase_change(run, of=of, n_resamples=79)
        assert change.p_value == alone.p_value
        assert change.midpoints.equal(alone.midpoints)
    # ranks of ICL, falling: 3 ties, then one by one; of induction: one by one, then 3 ties
    ranks = [6, 6, 6, 4, 3, 2, 1], [1, 2, 3, 4, 6, 6, 6]
    expected = torch.corrcoef(torch.tensor(ranks, dtype=torch.float64))[0, 1].item()
    assert both.correlation == pytest.approx(expected)
    assert str(both) == f"ICL {both.lag} tokens after induction, rank correlation -0.92 (n = 7)"
    [row] = both.to_frame().to_dict("records")
    assert (row["lag"], row["ratio_low"]) == (both.lag.value, both.ratio.low)


@pytest.mark.slow
def test_the_lag_of_two_noisy_logistics():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(10):
        icl = _measured(_logistic(math.log(7e6), 0.1, -0.4)(X), generator, noise=0.01)
        curve = _logistic(math.log(5e6), 0.1, 0.5)(X)
        prompts = _measured(curve, generator, noise=0.01, n=N_PROMPTS)
        both = co_occurrence(_trajectory(icl, prompts), n_resamples=99, seed=seed)
        assert both.lag.value == pytest.approx(2e6, abs=0.6e6)
        assert both.ratio.value == pytest.approx(1.4, abs=0.1)
        assert -1 <= both.correlation < -0.5
        hits += both.lag.low - 0.1e6 <= 2e6 <= both.lag.high + 0.1e6
    assert hits >= 8


def test_there_is_no_lag_where_one_of_them_does_not_change():
    flat = _measured(0 * X, torch.Generator().manual_seed(2), noise=0.01, n=N_PROMPTS)
    run = _trajectory(_still(_ramp(22, 26, -0.5)), flat)
    both = co_occurrence(run, n_resamples=79)
    assert (both.lag, both.ratio, both.correlation, both.n_snapshots) == (None, None, None, 0)
    assert str(both) == f"not both: ICL {both.icl}; induction {both.induction}"
    assert both.to_frame()["lag"].isna().all()


def test_pca_of_points_on_a_plane():
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(11, 2, generator=generator, dtype=torch.float64))
    # left, right, straight on, back, and rest; the second path only moves along the first axis
    first = [[0.0, 0], [3, 0], [3, 1], [6, 1], [9, 1], [6, 1], [6, 1]]
    second = [[-9.0, 1], [0, 1], [9, 1]]
    planes = [torch.tensor(points, dtype=torch.float64) for points in (first, second)]
    runs = [
        _trajectory(
            *[torch.zeros(len(plane) - 1, 3)] * 2,
            name=name,
            tokens=torch.arange(len(plane)) * 8192,
            token_losses=5 + plane @ axes.T,
        )
        for name, plane in zip(("a", "b"), planes, strict=True)
    ]
    pca = loss_pca(runs)
    joint = torch.cat(planes)
    centred = joint - joint.mean(0)
    torch.testing.assert_close(
        torch.cdist(torch.cat(pca.coordinates), torch.cat(pca.coordinates)),
        torch.cdist(joint, joint),
        atol=1e-6,
        rtol=1e-6,
    )
    variances = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    assert list(pca.explained) == pytest.approx((variances / variances.sum()).tolist())
    nan = math.nan
    assert pca.turns[0].tolist() == pytest.approx(
        [nan, 90, 90, 0, 180, nan, nan], nan_ok=True, abs=1e-6
    )
    assert pca.turns[1].tolist() == pytest.approx([nan, 0, nan], nan_ok=True, abs=1e-6)
    frame = pca.to_frame()
    assert frame["name"].tolist() == ["a"] * 7 + ["b"] * 3
    assert frame["pc2"].tolist() == torch.cat(pca.coordinates)[:, 1].tolist()


def _falling(intercepts, slopes, *, n_positions=512):
    """Losses a + b ln(position), by snapshot."""
    x = torch.arange(n_positions, dtype=torch.float64).log()
    losses = torch.tensor(intercepts)[:, None] + torch.tensor(slopes)[:, None] * x
    losses[:, 0] = math.nan
    return losses


def _short_run(losses, name="run"):
    tokens = torch.arange(len(losses)) * 1000
    empty = torch.zeros(len(losses) - 1, 3)
    return _trajectory(empty, empty, name=name, tokens=tokens, losses=losses)


@pytest.mark.parametrize("n_positions", [3, 7, 41, 512])
def test_the_derivative_of_a_logarithm_is_its_factor(n_positions):
    losses = _falling([7.0, 5.0, 4.0], [0.0, -0.25, 0.5], n_positions=n_positions)
    derivative = loss_derivative(_short_run(losses))
    expected = torch.tensor([0.0, -0.25, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(derivative.values, expected.expand_as(derivative.values))
    # the bins cover every position once
    covered = [
        position
        for first, last in zip(derivative.first, derivative.last, strict=True)
        for position in range(first, last + 1)
    ]
    assert covered == list(range(1, n_positions))
    assert (derivative.last > derivative.first).all()
    assert len(derivative.first) <= 12


def test_the_derivative_is_that_of_the_bin():
    losses = _falling([0.0, 0.0], [1.0, 0.0])
    past = torch.arange(512) >= 100
    losses[1, past] = 2 * (torch.arange(512.0, dtype=torch.float64)[past] / 100).log()
    derivative = loss_derivative(_short_run(losses))
    assert derivative.at(50).tolist() == pytest.approx([1, 0])
    assert derivative.at(500).tolist() == pytest.approx([1, 2])
    frame = derivative.to_frame()
    row = frame[(frame["tokens_seen"] == 1000) & (frame["last"] == 511)]
    assert row["derivative"].tolist() == pytest.approx([2])
    with pytest.raises(ValueError, match="expected a position from 1 to 511, got 0"):
        derivative.at(0)


def test_the_order_of_models_before_and_after():
    runs = [
        _short_run(_falling([a, a, a], [0.0, before, after]), name)
        for name, a, before, after in (
            ("small", 6.0, -0.3, -0.1),
            ("medium", 5.0, -0.2, -0.2),
            ("large", 3.0, -0.1, -0.3),
        )
    ]
    moments = dict(before=1e3, after=2e3)
    loss = model_order(runs, 50, **moments, window=0)
    assert loss.before == pytest.approx(
        [a + b * math.log(50) for a, b in ((6, -0.3), (5, -0.2), (3, -0.1))]
    )
    assert loss.agreement == pytest.approx(1)
    derivative = model_order(runs, 50, by="derivative", **moments)
    assert derivative.before == pytest.approx([-0.3, -0.2, -0.1])
    assert derivative.agreement == pytest.approx(-1)
    frame = derivative.to_frame()
    assert frame["rank_before"].tolist() == [1, 2, 3]
    assert frame["rank_after"].tolist() == [3, 2, 1]
    between = model_order(runs, 50, by="derivative", before=500.0, after=1250.0)
    assert between.before == pytest.approx([-0.15, -0.1, -0.05])
    assert between.after == pytest.approx([-0.25, -0.2, -0.15])
    wide = model_order(runs[:2], 2, before=1e3, after=2e3, window=4)
    expected = sum(6 - 0.3 * math.log(t) for t in range(1, 7)) / 6
    assert wide.before[0] == pytest.approx(expected)


def test_bad_input_is_refused():
    run = _trajectory(_still(_ramp(20, 25, -0.5)))
    for options, message in (
        (dict(of="loss"), "expected of to be one of icl, induction, got 'loss'"),
        (dict(confidence=1.0), "expected confidence to be a finite number above 0 and below 1"),
        (dict(n_resamples=0), "expected n_resamples to be a whole number from 1 to"),
        (dict(minimum=math.nan), "expected minimum to be a finite number"),
        (dict(seed=-1), "expected seed to be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            phase_change(run, **options)
    with pytest.raises(ValueError, match="at least one trajectory"):
        phase_change([])
    with pytest.raises(ValueError, match="at least 2 evaluation sequences"):
        phase_change(dataclasses.replace(run, icl=run.icl[:, :1]))
    with pytest.raises(ValueError, match="at least 10 snapshots after step 0"):
        phase_change(_short_run(_falling([1.0, 2.0], [0.0, 0.0])))
    with pytest.raises(ValueError, match="differ in their seed alone"):
        phase_change([run, dataclasses.replace(run, config={"n_layers": 1})])
    with pytest.raises(ValueError, match="differ in their seed alone"):
        phase_change([run, dataclasses.replace(run, evaluation="another")])
    with pytest.raises(ValueError, match="measured on the same tokens"):
        loss_pca([run, dataclasses.replace(run, evaluation="another")])
    with pytest.raises(
        ValueError, match="expected n_bins to be a whole number from 1 to 10000, got 0"
    ):
        loss_derivative(run, n_bins=0)
    moments = dict(before=1e6, after=2e6)
    two = [run, dataclasses.replace(run, seed=run.seed + 1)]
    for arguments, message in (
        (dict(trajectories=[run], position=5, **moments), "at least 2 trajectories, got 1"),
        (dict(trajectories=two, position=0, **moments), "expected a position from 1 to 18"),
        (
            dict(trajectories=two, position=5, before=1.0, after=1e9),
            "expected moments from 0",
        ),
        (dict(trajectories=two, position=5, by="icl", **moments), "expected by to be one of loss"),
    ):
        with pytest.raises(ValueError, match=message):
            model_order(**arguments)


def test_a_run_counts_once_whatever_it_is_called():
    run = _trajectory(_still(_ramp(20, 25, -0.5)))
    twin = dataclasses.replace(run, name="again", icl=run.icl.clone())
    for analysis in (
        phase_change,
        loss_pca,
        lambda runs: model_order(runs, 5, before=1e3, after=2e3),
    ):
        for runs in ([run, run], [run, twin]):
            with pytest.raises(ValueError, match="expected trajectories to be different runs, got"):
                analysis(runs)
    # one seed more is one run more
    assert len(phase_change([run, dataclasses.replace(run, seed=1)], n_resamples=2).seeds) == 2


def test_moments_come_in_order():
    run = _short_run(_falling([6.0, 6.0, 6.0], [0.0, -0.3, -0.1]))
    runs = [run, dataclasses.replace(run, seed=7)]
    with pytest.raises(ValueError, match=r"expected after to be a finite number above 2000, got"):
        model_order(runs, 5, before=2e3, after=1e3)


def test_the_callers_threads_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        phase_change(_trajectory(), n_resamples=2)
        with pytest.raises(ValueError, match="expected of to be one of icl, induction"):
            phase_change(_trajectory(), of="loss")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
