"""Ablations that end once what they are measured for is decided."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
import scipy.stats
import torch

from induction_lens.ablation import (
    Mean,
    Zero,
    ablate,
    ablate_by_methods,
    ablate_each_head,
    control_sets,
    sweep,
)
from induction_lens.ablation.allocation import UntilDecided
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.ablation.jointly import studies_and_single_heads
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.sets import StudiedSets
from induction_lens.ablation.stopping import Stopping, UntilStopped
from induction_lens.ablation.study import study_of_losses
from induction_lens.estimates import bootstrap_mean
from induction_lens.estimators import Losses, as_estimator
from induction_lens.heads import Head
from induction_lens.metrics import Positions
from induction_lens.models import HAS_HOOKED_TRANSFORMER
from induction_lens.toys.model import ToyConfig, build_toy
from tests.simulations.allocation import TRUE_EFFECTS, coverage

IMPLEMENTATIONS = ["hooked", "bridge"] if HAS_HOOKED_TRANSFORMER else ["bridge"]
WHERE = dict(early=4, late=17, window=1)
HEADS = (Head(0, 1), Head(1, 2))


def _first_loss(losses):
    """A score for the rules alone: the loss at position 0."""
    return losses.long[..., 0]


def _losses(*effects):
    """Clean losses of 1, and after each ablation 1 plus its effects on the sequences so far."""
    rows = [torch.ones(len(effects[0])), *(1 + torch.tensor(effect) for effect in effects)]
    return Losses(torch.stack(rows)[:, :, None])


def _allocation(estimates=None, **options):
    return UntilDecided(_first_loss, estimates or EffectEstimates(None, 0), **options)


def _parts(allocation, n_sequences):
    """Where parts begin and end, each taken as soon as the one before it is measured."""
    parts, n_measured = [], 0
    while (part := allocation.next_part(n_measured, n_sequences)) is not None:
        parts.append((part.start, part.stop))
        n_measured = part.stop
    return parts


def test_parts_double_from_the_first_on():
    assert _parts(_allocation(first=3), 20) == [(0, 3), (3, 6), (6, 12), (12, 20)]
    assert _parts(_allocation(first=16), 5) == [(0, 5)]


def test_a_control_ends_when_its_rank_is_told_either_way():
    tested = [1.0, 1.2, 0.8, 1.0]
    much_less, much_more = [0.0, 0.1, 0.0, 0.1], [3.0, 3.1, 2.9, 3.0]
    as_much = [1.1, 1.0, 0.9, 1.0]
    losses = _losses(tested, much_less, much_more, as_much)
    allocation = _allocation(tested={1: 0, 2: 0, 3: 0})
    assert allocation.going_on(losses, [0, 1, 2, 3]) == [0, 3]


@pytest.mark.parametrize(("factor", "goes_on"), [(0.99, True), (1.01, False)])
def test_what_is_told_is_told_by_a_t_interval_for_all_controls(factor, goes_on):
    # Of three controls, Šidák: each interval holds with 0.95 ** (1/3), over four sequences
    critical = scipy.stats.t.ppf((1 + 0.95 ** (1 / 3)) / 2, 3)
    noise = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    mean = factor * critical * float(noise.std()) / 2
    losses = _losses([0.0] * 4, (noise - mean).tolist(), [9.0] * 4, [-9.0] * 4)
    going_on = _allocation(tested={1: 0, 2: 0, 3: 0}).going_on(losses, [0, 1, 2, 3])
    assert going_on == ([0, 1] if goes_on else [0])


@pytest.mark.parametrize(("factor", "goes_on"), [(0.99, False), (1.01, True)])
def test_what_is_known_to_be_negligible_ends(factor, goes_on):
    """Of a control set: whatever its difference is, 0.01 nats cannot be reached."""
    critical = scipy.stats.t.ppf((1 + 0.95 ** (1 / 2)) / 2, 3)
    noise = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    noise *= factor * 0.008 / (critical * float(noise.std()) / 2)  # reaches 0.008 from the mean
    losses = _losses([0.0] * 4, (noise - 0.002).tolist(), [9.0] * 4)
    going_on = _allocation(tested={1: 0, 2: 0}).going_on(losses, [0, 1, 2])
    assert going_on == ([0, 1] if goes_on else [0])


def test_heads_end_that_are_hardly_stronger_at_best():
    """The strongest, known to 0.001 nats, and one that may be stronger by 0.003 at most."""
    strong = [0.5, 0.5001, 0.4999, 0.5]
    near = [0.5005, 0.4995, 0.5005, 0.4995]
    unknown = [0.3, 0.7, 0.2, 0.9]
    losses = _losses(strong, near, unknown)
    assert _allocation(heads=range(3)).going_on(losses, range(3)) == [2]


@pytest.mark.parametrize(("factor", "goes_on"), [(0.99, False), (1.01, True)])
def test_few_sequences_are_enough_for_a_head_that_is_known(factor, goes_on):
    """Below the least number of sequences, without anything known to first order."""
    noise = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    noise *= factor * 0.01 / (scipy.stats.t.ppf(0.975, 3) * float(noise.std()) / 2)
    losses = _losses([9.0] * 4, noise.tolist())
    going_on = _allocation(heads=range(2), least=8).going_on(losses, range(2))
    assert going_on == ([1] if goes_on else [])


def test_heads_go_on_while_they_may_be_the_strongest():
    strong, near = [1.0, 1.1, 0.9, 1.0], [0.9, 1.3, 0.6, 1.1]
    weak = [[0.01 * k, 0.0, 0.01, 0.02] for k in range(4)]
    losses = _losses(strong, *weak, near)
    assert _allocation(heads=range(6)).going_on(losses, range(6)) == [0, 5]
    # what is no head alone goes on, whatever its effect
    going_on = _allocation(heads=[0, 5]).going_on(losses, range(6))
    assert going_on == [0, 1, 2, 3, 4, 5]


def test_at_most_eight_heads_go_on_where_none_matters():
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(12, 16, generator=generator).tolist()
    going_on = _allocation(heads=range(12)).going_on(_losses(*effects), range(12))
    means = torch.tensor(effects).mean(1)
    assert going_on == sorted(means.argsort(descending=True)[:8].tolist())


def test_units_are_documents_where_there_are_enough():
    """Sequences of equal values in one document are no evidence of their own."""
    values = torch.tensor([1.0, 1.0, -0.5, -0.5, 1.0, 1.0, -0.5, -0.5, 0.2, 0.2]) + 0.4
    losses = _losses(values.tolist(), [0.0] * 10)
    told = {}
    for size in (1, 2, 5):
        documents = torch.arange(10)[:, None] // size
        allocation = _allocation(EffectEstimates(documents, 0), tested={1: 0})
        told[size] = allocation.going_on(losses, [0, 1]) == [0]
    # Two documents are too few to be units: intervals are over sequences then.
    assert told == {1: True, 2: False, 5: True}


def _model(implementation):
    config = ToyConfig(n_layers=2, d_model=30, n_heads=5, d_head=14, d_vocab=53, n_ctx=61, seed=1)
    return build_toy(config, implementation=implementation, device="cpu")


def _sequences(n):
    drawn = torch.randint(1, 53, (n, 23), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_together_they_give_what_each_gives_on_the_sequences_it_was_measured_on(implementation):
    """29 sequences: 16 for all, the rest for what is undecided."""
    model, tokens = _model(implementation), _sequences(29)
    methods, options = [Mean(), Zero()], dict(progress=False, **WHERE)
    controls = tuple(control_sets(model, HEADS, n=5))
    sets = StudiedSets(HEADS, {"mean": controls, "zero": ()})
    measured_on = MeasuredText.of(model, tokens, None, where=Positions(**WHERE), estimator=None)
    studies, effects = studies_and_single_heads(
        model,
        sets,
        methods,
        measured_on,
        alone_by=Mean(),
        rough=False,
        stopping=Stopping(),
        progress=False,
    )
    apart = ablate_by_methods(
        model, HEADS, tokens, methods=methods, controlled=[methods[0]], n_controls=5, **options
    )
    for label, study in apart.items():
        for field in ("clean", "ablated", "effect", "clean_losses", "ablated_losses"):
            ours, its = getattr(studies[label], field), getattr(study, field)
            if isinstance(its, torch.Tensor):
                torch.testing.assert_close(ours, its, equal_nan=True)
            else:
                assert ours.value == pytest.approx(its.value, abs=1e-6)
                assert ours.low == pytest.approx(its.low, abs=1e-5)
    counts = {control.effect.n for control in studies["mean"].controls}
    assert counts <= {16, 29}
    per_head = ablate_each_head(model, tokens, method="mean", **options)
    of_first = {}
    for control in studies["mean"].controls:
        n = control.effect.n
        if n not in of_first:  # what is written is the mean over all sequences
            cut = [Mean(reference=tokens)]
            of_first[n] = ablate_by_methods(
                model, HEADS, tokens[:n], methods=cut, n_controls=5, **options
            )["mean"]
        [same] = [c for c in of_first[n].controls if c.heads == control.heads]
        assert control.effect.value == pytest.approx(same.effect.value, abs=1e-6)
        assert control.effect.low == pytest.approx(same.effect.low, abs=1e-5)
    assert effects.n_units is not None
    first = ablate_each_head(model, tokens[:16], method=Mean(reference=tokens), **options)
    for layer in range(2):
        for head in range(5):
            n = int(effects.n_units[layer, head])
            assert n in (16, 29)
            expected = (per_head if n == 29 else first)[layer, head]
            assert effects[layer, head] == pytest.approx(expected, abs=1e-6)
    assert int((effects.n_units == 29).sum()) in range(1, 9)


def test_a_deadline_cuts_the_last_part_to_what_there_is_time_for(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def parts(deadline, seconds_a_sequence):
        nonlocal now
        now, n_measured, found = 0.0, 0, []
        stopping = Stopping(deadline=deadline)
        allocation = UntilStopped(_allocation(), stopping, half_width=lambda losses: math.inf)
        while (part := allocation.next_part(n_measured, 100)) is not None:
            found.append((part.start, part.stop))
            now += seconds_a_sequence * (part.stop - part.start)
            n_measured = part.stop
        return found, stopping.reason

    assert parts(100.5, 1.0) == ([(0, 16), (16, 32), (32, 64), (64, 100)], None)
    assert parts(60.5, 1.0) == ([(0, 16), (16, 32), (32, 60)], "time")
    assert parts(33.5, 1.0) == ([(0, 16), (16, 32)], "time")  # one sequence more is not worth it
    assert parts(3.0, 1.0) == ([(0, 16)], "time")  # less than the first part says nothing
    assert parts(None, 1.0)[1] is None


def _together(model, tokens, stopping):
    sets = StudiedSets(HEADS, {"mean": tuple(control_sets(model, HEADS, n=3))})
    measured_on = MeasuredText.of(model, tokens, None, where=Positions(**WHERE), estimator=None)
    options = dict(alone_by=Mean(reference=tokens), rough=False, progress=False)
    methods = [Mean(reference=tokens)]
    return studies_and_single_heads(model, sets, methods, measured_on, stopping=stopping, **options)


@pytest.mark.parametrize("reason", ["time", "precision", "interrupt"])
def test_what_ends_early_gives_what_its_sequences_give(reason, monkeypatch):
    """29 sequences, of which 16 are measured."""
    implementation = IMPLEMENTATIONS[-1]
    model, tokens = _model(implementation), _sequences(29)
    stopping = Stopping()
    if reason == "time":
        stopping = Stopping(deadline=0.0)
    if reason == "precision":
        stopping = Stopping(precision=1e3)
    n_clean_passes = 0
    if reason == "interrupt":
        measure = sweep.Sweep.measure

        def interrupted(*arguments, **options):
            nonlocal n_clean_passes
            n_clean_passes += 1
            measure(*arguments, **options)
            if n_clean_passes == 3:  # long and short of the first part, long of the second
                raise KeyboardInterrupt

        monkeypatch.setattr(sweep.Sweep, "measure", interrupted)
    studies, effects = _together(model, tokens, stopping)
    monkeypatch.undo()
    assert stopping.reason == reason
    study = studies["mean"]
    assert study.clean_losses.shape == study.ablated_losses.shape == (16, 23)
    assert study.short_losses.shape[:2] == (5, 16)
    assert study.effect.n == 16
    alone = _model(implementation)
    expected = ablate(
        alone, HEADS, tokens[:16], method=Mean(reference=tokens), n_controls=3, **WHERE
    )
    assert study.effect.value == pytest.approx(expected.effect.value, abs=1e-6)
    assert study.effect.low == pytest.approx(expected.effect.low, abs=1e-5)
    assert [c.effect.value for c in study.controls] == pytest.approx(
        [c.effect.value for c in expected.controls], abs=1e-6
    )
    method = Mean(reference=tokens)
    each = ablate_each_head(model, tokens[:16], method=method, progress=False, **WHERE)
    torch.testing.assert_close(effects.values, each.values, atol=1e-6, rtol=0)


def test_precision_is_half_the_width_of_the_interval_that_is_reported():
    model, tokens = _model(IMPLEMENTATIONS[-1]), _sequences(29)
    whole = _together(model, tokens, Stopping())[0]["mean"].effect
    first = _together(model, tokens, Stopping(deadline=0.0))[0]["mean"].effect
    widths = [(estimate.high - estimate.low) / 2 for estimate in (first, whole)]
    assert widths[1] < widths[0]
    for precision, n in ((widths[0] * 1.001, 16), (widths[0] * 0.999, 29)):
        stopping = Stopping(precision=precision)
        assert _together(model, tokens, stopping)[0]["mean"].effect.n == n


def test_an_interrupt_before_anything_is_known_is_raised(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.Sweep, "measure", interrupted)
    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt):
        _together(_model(IMPLEMENTATIONS[-1]), _sequences(29), stopping)
    assert stopping.reason is None


def test_the_rank_compares_the_sets_on_the_same_sequences():
    """A control that was measured on the first half, where it is stronger than the tested set."""
    losses = torch.full((3, 4, 23), math.nan)
    losses[0] = 1.0
    losses[1, :2], losses[1, 2:] = 1.0, 1.0
    losses[1, :2, 16:19], losses[1, 2:, 16:19] = 1.5, 4.0  # effects of 0.5, and of 3
    losses[2, :2] = 1.0
    losses[2, :2, 16:19] = 2.0  # of 1
    at = MeasuredText.of(
        _model(IMPLEMENTATIONS[-1]),
        _sequences(4),
        None,
        where=Positions(**WHERE),
        estimator="paper",
    )
    sets = StudiedSets((Head(0, 0),), {"mean": ((Head(0, 1),),)})
    study = sets.studies(at, Losses(losses[0]), Losses(losses[1:]))["mean"]
    assert study.effect.value == pytest.approx(1.75)
    assert study.controls[0].effect.value == pytest.approx(1.0)
    assert study.controls[0].effect.n == 2
    assert study.rank == 2


def test_intervals_hold_the_truth_although_ablations_end_early():
    """The simulation of `tests.simulations.allocation` has more settings and trials."""
    found = coverage(TRUE_EFFECTS["one matters"], "normal", trials=60)
    assert 0.93 <= found.heads <= 0.97
    assert found.strongest >= 0.95
    assert found.sides >= 0.95
    assert found.n_sequences < 200  # of 256


def _sets(seed=0, *, follows=1.0):
    """Effects of a tested set and two controls on 64 sequences; and these to first order."""
    draw = np.random.default_rng(seed)
    exact = np.array([[0.0], [1.0], [-1.0]]) + draw.normal(size=(3, 64))
    cheap = 1.2 * exact + (1 - follows) * draw.normal(size=(3, 64)) - 0.3
    return torch.tensor(exact), torch.tensor(cheap)


def test_what_controls_are_to_first_order_decides_their_rank_sooner():
    exact, cheap = _sets(follows=0.99)
    losses = _losses(*exact[:, :8].tolist())
    plain = _allocation(tested={1: 0, 2: 0})
    assert plain.going_on(losses, [0, 1, 2]) == [0, 1]
    known = EffectEstimates(None, 0, 64, dict(enumerate(cheap)))
    assert _allocation(tested={1: 0, 2: 0}, estimates=known).going_on(losses, [0, 1, 2]) == [0]
    known.first_order[1] = cheap[1].flip(0)  # of this control it says nothing
    assert _allocation(tested={1: 0, 2: 0}, estimates=known).going_on(losses, [0, 1, 2]) == [0, 1]


def test_control_sets_that_ended_early_are_compared_by_their_first_order_too():
    """Against the formula of `control_variates`, written out for each control."""
    exact, cheap = _sets()
    losses = torch.zeros(4, 64, 23, dtype=torch.float64)
    losses[1:, :, 17] = exact
    losses[2, 8:], losses[3, 16:] = math.nan, math.nan
    documents = torch.arange(32).repeat_interleave(2)[:, None].expand(64, 23)
    study = study_of_losses(
        (Head(0, 0),),
        "mean",
        Losses(losses.float()),
        ((Head(0, 1),), (Head(0, 2),)),
        documents=documents,
        at=Positions(4, 17, 0),
        estimator=as_estimator("paper"),
        first_order=cheap.float(),
    )
    units = documents[:, 17].numpy()

    def by_hand(e, f, n):
        rest, values = f[n:].mean(), []
        for i in range(n):
            others = units[:n] != units[i]
            slope = np.polyfit(f[:n][others], e[:n][others], 1)[0]
            values.append(e[i] - (1 - n / 64) * slope * (f[i] - rest))
        return np.mean(values)

    e, f = exact.numpy(), cheap.numpy()
    found = {control.heads: control.effect for control in study.controls}
    for index, n in ((1, 8), (2, 16)):
        estimate = found[(Head(0, index),)]
        assert estimate.value == pytest.approx(by_hand(e[index], f[index], n), abs=1e-5)
        assert estimate.n == n
        assert estimate.low < e[index].mean() < estimate.high
        plain = bootstrap_mean(exact[index, :n], documents=documents[:n, 17])
        assert estimate.high - estimate.low < 0.6 * (plain.high - plain.low)
        assert estimate.n_documents == n // 2
    sides = [by_hand(e[i] - e[0], f[i] - f[0], n) >= 0 for i, n in ((1, 8), (2, 16))]
    assert study.rank == 1 + sum(sides)
    assert dataclasses.replace(study, first_order=None).at(late=17).controls != study.controls
    assert study.at(late=17).controls == study.controls
    assert study.at(window=1).first_order is None  # it is of another score


def test_the_error_of_a_part_is_its_distance_from_all():
    """Over many draws of the same size, with the first order and without it."""
    draw = np.random.default_rng(3)
    exact = draw.normal(size=96)
    cheap = exact + 0.5 * draw.normal(size=96) + 50
    distances, errors = [], []
    for _ in range(400):
        order = draw.permutation(96)
        known = EffectEstimates(
            None, 0, 96, {0: torch.tensor(cheap[order]), 1: torch.zeros(96, dtype=torch.float64)}
        )
        mean, error, _ = known.of_all(0, torch.tensor(exact[order[:24]]), less=1)
        distances.append(mean - exact.mean())
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.1)
    assert abs(np.mean(distances)) < 0.2 * np.std(distances)
    assert known.of_all(0, torch.tensor(exact[order]), less=1)[0] == pytest.approx(exact.mean())
    part = torch.tensor(exact[order[:24]])
    plain = EffectEstimates(None, 0, 96)
    of_sample = plain.of(0, part)[1]
    assert plain.of_all(0, part, less=1)[1] == pytest.approx(of_sample * math.sqrt(0.75))
    known.n_sequences = 500  # the first order is not known of all
    assert known.of_all(0, part, less=1) == known.of(0, part, less=1)
