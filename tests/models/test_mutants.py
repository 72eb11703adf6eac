"""Values that faults survived without: each test here fails for a fault that no other test saw.

`python -m tests.mutation` puts such faults in; what survives still is in tests/mutation.
"""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

from induction_lens import metrics
from induction_lens.ablation import context, controls, hooks, methods, outputs
from induction_lens.ablation import sets as ablation
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.detectors import attention, copying
from induction_lens.dynamics import change, phase_change
from induction_lens.estimates import Estimate, bootstrap_mean, short_number
from induction_lens.estimators import MATCHED_TARGET, PAPER
from induction_lens.heads import Head
from induction_lens.metrics import Positions, choose_positions
from induction_lens.models import hook_name, run
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.dynamics.test_dynamics import _measured, _ramp, _still, _trajectory
from tests.mutation.words import what_it_does

pytestmark = pytest.mark.slow  # one test for each fault put in


def _toy(**changes):
    config = dict(n_layers=2, d_model=22, n_heads=3, d_head=6, d_vocab=31, n_ctx=37, seed=3)
    return build_toy(ToyConfig(**config | changes), device="cpu")


def _sequences(n=5, length=23, seed=0, d_vocab=31):
    drawn = torch.randint(1, d_vocab, (n, length), generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] = 0
    return drawn


# metrics


@pytest.mark.parametrize(
    ("seq_len", "options", "expected"),
    [
        (512, {}, (50, 500, 10)),  # the paper's, where the window fits behind 500
        (511, {}, (50, 500, 10)),
        (510, {}, (49, 499, 10)),  # else the last position with a window, and a tenth of it
        (1024, {}, (50, 500, 10)),
        (501, dict(window=0), (50, 500, 0)),
        (500, dict(window=0), (49, 499, 0)),
        (101, {}, (11, 90, 10)),  # a tenth would be 9, whose window reaches BOS
        (64, {}, (7, 57, 6)),  # a window of at most a tenth of the room
        (3, {}, (1, 2, 0)),
        (512, dict(copy=40), (36, 500, 4)),  # inside the first copy, with its window
        (512, dict(copy=20, window=1), (19, 500, 1)),
        (600, dict(late=400), (40, 400, 10)),
        (600, dict(late=500), (50, 500, 10)),
        (600, dict(early=11), (11, 500, 10)),
        (64, dict(early=7, late=8), (7, 8, 6)),
        (64, dict(early=56, late=57), (56, 57, 6)),
    ],
)
def test_where_the_icl_score_is_taken(seq_len, options, expected):
    assert choose_positions(seq_len, **options) == Positions(*expected)


@pytest.mark.parametrize(
    ("seq_len", "options", "message"),
    [
        (2, {}, "at least 3 tokens in a sequence, got 2"),
        (64, dict(copy=1), "at least 3 tokens"),
        (64, dict(window=-1), "window"),
        (64, dict(early=6, late=30), "early=6, late=30, window=6"),
        (64, dict(late=58), "window=6"),
        (64, dict(early=30, late=30), "early=30, late=30"),
    ],
)
def test_positions_without_room_are_refused(seq_len, options, message):
    with pytest.raises(ValueError, match=message):
        choose_positions(seq_len, **options)


def test_the_positions_that_a_score_reads():
    assert PAPER.reads(Positions(5, 9)) == ([5, 9], [])
    assert PAPER.reads(Positions(5, 8, 2)) == ([3, 4, 5, 6, 7, 8, 9, 10], [])
    assert MATCHED_TARGET.reads(Positions(5, 9)) == ([9], [5])
    assert MATCHED_TARGET.reads(Positions(5, 8, 2)) == ([6, 7, 8, 9, 10], [3, 4, 5, 6, 7])


def test_a_score_for_each_sequence_is_taken_where_the_papers_is():
    losses = torch.zeros(2, 512)
    losses[:, 50], losses[:, 500] = torch.tensor([2.0, 1.0]), torch.tensor([1.25, 3.0])
    assert metrics.icl_per_sequence(losses).tolist() == [-0.75, 2.0]


def test_an_interval_that_touches_zero_does_not_exclude_it():
    assert not Estimate(0.3, 0.0, 0.4, 9).excludes_zero()
    assert not Estimate(-0.3, -0.4, 0.0, 9).excludes_zero()


def test_the_interval_is_that_of_5000_resamples_and_seed_0():
    values = torch.randn(19, generator=torch.Generator().manual_seed(0)).exp()
    losses = torch.stack([torch.zeros(19), torch.zeros(19), values], 1)
    expected = bootstrap_mean(values, n_resamples=5000, seed=0)
    for ours in (bootstrap_mean(values), metrics.icl_score(losses, 1, 2)):
        assert ours == expected
        assert (ours.n, ours.confidence) == (19, 0.95)
    assert expected != bootstrap_mean(values, n_resamples=1999)
    assert expected != bootstrap_mean(values, seed=1)


def test_two_tokens_have_one_loss():
    model, tokens = _toy(), _sequences(length=2)
    losses = metrics.per_token_loss(model, tokens, progress=False)
    with torch.no_grad():
        seen = model(tokens)[:, 0].log_softmax(-1)
    torch.testing.assert_close(losses[:, 1], -seen[torch.arange(5), tokens[:, 1]])
    with pytest.raises(ValueError, match="at least 2 tokens"):
        metrics.per_token_loss(model, tokens[:, :1])


def test_losses_at_chosen_positions_are_those_of_the_whole():
    model, tokens = _toy(), _sequences()
    for unfit in (False, True):
        if unfit:  # a hook of the user's has it run whole
            model.hook_dict[hook_name("z", 0)].add_hook(lambda z, hook: None)
        with run(model, tokens, unembeds=True) as road:
            assert (road.why_whole is not None) == unfit
            whole = road.losses(tokens)
            chosen = road.losses(tokens, [7, 1, 22])
        assert whole.shape == (5, 22)
        torch.testing.assert_close(chosen, whole[:, [6, 0, 21]])


def test_losses_with_a_mask_count_from_the_first_token():
    alone = torch.tensor([[math.nan, 5.0, 3.0, 2.0], [math.nan, 4.0, 4.0, 1.0]])
    pad = torch.full((2, 2), math.nan)
    ones = torch.ones(2, 4, dtype=torch.long)
    none = torch.zeros(2, 2, dtype=torch.long)
    expected = metrics.icl_score(alone, 1, 3)
    left = metrics.icl_score(torch.cat([pad, alone], 1), 1, 3, mask=torch.cat([none, ones], 1))
    assert left == expected
    with pytest.raises(ValueError, match="NaN"):  # after the last token there is no loss
        metrics.icl_score(torch.cat([pad, alone], 1), 1, 4, mask=torch.cat([none, ones], 1))


@pytest.mark.parametrize("shape", [(9,), (2, 3, 9)])
@pytest.mark.usefixtures("_as_users_call")
def test_losses_have_two_axes(shape):
    with pytest.raises(ValueError, match=rf"got \[{', '.join(map(str, shape))}\]; for one"):
        metrics.icl_score(torch.zeros(shape), 1, 4)
    with pytest.raises(ValueError, match="; for one"):
        metrics.icl_score(torch.zeros(shape), 1, 4, mask=torch.ones(2, 9))


def test_infinite_values_are_called_infinite():
    with pytest.raises(ValueError, match="got infinite ones"):
        bootstrap_mean(torch.tensor([0.5, math.inf]))
    with pytest.raises(ValueError, match="got NaN"):
        bootstrap_mean(torch.tensor([math.inf, math.nan]))


# progress bars


@pytest.fixture
def bars(monkeypatch):
    """The title, the total and the sum of the steps of each bar that is asked for."""
    seen = []

    class Bar:
        def __init__(self, title, total):
            self.entry = [title, total, 0]
            seen.append(self.entry)

        def __enter__(self):
            return self.advance

        def __exit__(self, *_):
            return None

        def advance(self, n):
            self.entry[2] += n

    monkeypatch.setattr(metrics, "progress_bar", lambda title, total, **_: Bar(title, total))
    return seen


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_has_a_title_only_if_one_is_wanted(bars, progress):
    metrics.per_token_loss(_toy(), _sequences(), batch_size=2, progress=progress)
    assert [title for title, *_ in bars if title] == ["losses"] * progress
    assert all(done == total == 5 for _, total, done in bars)


def test_the_default_is_to_show_one(bars):
    metrics.per_token_loss(_toy(), _sequences())
    assert "losses" in [title for title, *_ in bars]


# ablation


def test_as_many_controls_as_there_are_or_as_are_wanted():
    model = _toy(n_heads=5)
    sets = ablation.control_sets(model, "0.1", n=4)
    assert sets == [(Head(0, head),) for head in (0, 2, 3, 4)]  # all there are, in their order
    assert len(ablation.control_sets(model, "0.1", n=3)) == 3
    assert ablation.control_sets(model, "0.1", n=0) == []
    assert len(ablation.control_sets(model, "0.1", n=controls.MAX_CONTROLS)) == 4
    with pytest.raises(ValueError, match="from 0 to 10000, got 10001"):
        ablation.control_sets(model, "0.1", n=10_001)
    twenty = ablation.control_sets(_toy(n_heads=11), ["0.1", "0.3"])
    assert len(twenty) == 20  # of 36
    assert all(one < other for one, other in twenty)
    assert twenty == ablation.control_sets(_toy(n_heads=11), ["0.1", "0.3"], seed=0)


def test_controls_that_do_as_much_come_before_the_set():
    """With weights of zero no head does anything: all effects are equal, and the rank is last."""
    model = _toy(n_heads=5)
    with torch.no_grad():
        for layer in range(2):
            toy_weights(model)[f"blocks.{layer}.attn.W_O"].zero_()
    study = ablation.ablate(
        model, "1.2", _sequences(), method="zero", early=4, late=17, progress=False
    )
    assert [control.effect.value for control in study.controls] == [0.0] * 4
    assert (study.effect.value, study.rank) == (0.0, 5)


def test_each_of_several_methods_gets_its_own_losses():
    model, tokens = _toy(), _sequences()
    options = dict(early=4, late=17, n_controls=1, progress=False)
    together = ablation.ablate_by_methods(model, "0.1", tokens, methods=["zero", "mean"], **options)
    assert list(together) == ["zero", "mean"]
    for method, study in together.items():
        alone = ablation.ablate(model, "0.1", tokens, method=method, **options)
        assert study.effect.value == pytest.approx(alone.effect.value, abs=1e-6)
        for kind in ("ablated_losses", "control_losses"):
            one, other = getattr(study, kind), getattr(alone, kind)
            torch.testing.assert_close(one, other, equal_nan=True)


def test_controls_are_measured_where_every_sequence_reaches():
    """After the end of the shortest there is no score, so nothing is run for one."""
    tokens, mask = _sequences(), torch.ones(5, 23, dtype=torch.long)
    mask[2, 19:] = 0
    study = ablation.ablate(
        _toy(), "1.2", tokens, mask=mask, method="zero", early=4, late=12, progress=False
    )
    measured = study.control_losses[0].isfinite().any(0).nonzero().flatten().tolist()
    assert measured == list(range(1, 19))


def test_one_sequence_has_an_effect_and_no_standard_error():
    options = dict(method="mean", early=4, late=17, progress=False)
    scores = ablate_each_head(_toy(), _sequences(1), **options)
    assert scores.sem is not None
    assert scores.sem.shape == (2, 3)
    assert scores.sem.isnan().all()
    assert scores.values.isfinite().all()
    assert scores.values.abs().max() > 1e-4


def test_the_last_position_and_the_first_can_be_used():
    model, tokens = _toy(), _sequences()
    study = ablation.ablate(model, "1.2", tokens, method="zero", early=1, late=22, progress=False)
    study = study.at(estimator="paper")
    expected = study.ablated_losses - study.clean_losses
    assert study.effect.value == pytest.approx((expected[:, 22] - expected[:, 1]).mean().item())
    measured = study.control_losses[0, 0].isfinite().nonzero().flatten().tolist()
    assert measured == list(range(1, 23))
    assert (study.at(early=2).early, study.at(late=9).late, study.at().window) == (2, 9, 0)


# change points


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (999.0, "999"),
        (1e3, "1.0k"),
        (4.2e3, "4.2k"),
        (9.949e3, "9.9k"),
        (9.951e3, "10k"),
        (9.994e5, "999k"),
        (9.996e5, "1.0M"),
        (1e6, "1.0M"),
        (10.64e6, "10.6M"),
        (1e9, "1.0B"),
        (-2.5e9, "-2.5B"),
        (0.4, "0"),
    ],
)
def test_numbers_of_tokens_in_short(tokens, text):
    assert short_number(tokens) == text


def test_an_interval_is_that_of_the_quantiles():
    resampled = torch.cat([torch.arange(101).double(), torch.tensor([math.nan] * 7).double()])
    found = Estimate.of(3.0, resampled, confidence=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 5.0, 95.0))


def test_a_change_as_large_as_the_minimum_counts():
    run = _trajectory(_still(_ramp(20, 25, -0.5)))
    size = -phase_change(run, n_resamples=79).change
    assert phase_change(run, n_resamples=79, minimum=size).found
    assert not phase_change(run, n_resamples=79, minimum=size + 1e-9).found
    smaller = _trajectory(_still(_ramp(20, 25, -0.09)))
    larger = _trajectory(_still(_ramp(20, 25, -0.11)))
    assert [phase_change(r, n_resamples=79).found for r in (smaller, larger)] == [False, True]


def test_runs_with_too_little_to_go_by_are_refused():
    run = _trajectory(_still(_ramp(20, 25, -0.5)))
    one_prompt = run.induction_by_sequence[..., :1]
    with pytest.raises(ValueError, match="at least 2 evaluation sequences and prompts"):
        phase_change(dataclasses.replace(run, induction_by_sequence=one_prompt))
    two = dataclasses.replace(
        run, icl=run.icl[:, ::3], induction_by_sequence=run.induction_by_sequence[..., :2]
    )
    assert phase_change(two, n_resamples=79).n_sequences == 2
    twice = run.tokens_seen.clone()
    twice[5] = twice[4]
    with pytest.raises(ValueError, match="in the order of their tokens"):
        phase_change(dataclasses.replace(run, tokens_seen=twice))
    back = run.tokens_seen.clone()
    back[5], back[6] = run.tokens_seen[6], run.tokens_seen[5]
    with pytest.raises(ValueError, match="in the order of their tokens"):
        phase_change(dataclasses.replace(run, tokens_seen=back))


GENERATOR = torch.Generator().manual_seed(0)


def test_the_first_token_counts_as_training():
    """Step 0 alone has seen no token."""
    run = _trajectory(_still(_ramp(20, 25, -0.5)))
    seen = run.tokens_seen.clone()
    seen[1] = 1
    curve = change._Curve.read(dataclasses.replace(run, tokens_seen=seen), "icl", 9, GENERATOR)
    assert curve.search.x[0].item() == 0.0
    assert len(curve.values) == len(seen) - 1


def test_text_and_prompts_are_resampled_independently():
    noisy = _measured(_ramp(20, 25, -0.5), torch.Generator().manual_seed(0), noise=0.02, n=13)
    run = _trajectory(noisy, -noisy)
    icl = phase_change(run, n_resamples=79, seed=4)
    induction = phase_change(run, of="induction", n_resamples=79, seed=4)
    later = phase_change(run, n_resamples=79, seed=5)
    assert not torch.allclose(icl.midpoints, induction.midpoints)
    torch.testing.assert_close(later.midpoints, induction.midpoints, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("n", "fits"), [(9, False), (10, True)])
def test_ten_snapshots_are_needed_and_step_0_is_none(n, fits):
    tokens = torch.tensor([0, *(8192 * 2**step for step in range(n))])
    run = _trajectory(torch.rand(n, 5), torch.rand(n, 5), tokens=tokens)
    if fits:
        assert phase_change(run, n_resamples=9).n_sequences == 5
    else:
        with pytest.raises(ValueError, match="at least 10 snapshots after step 0"):
            phase_change(run, n_resamples=9)


def test_a_change_is_searched_on_one_thread(monkeypatch):
    seen, search = [], change.AbruptnessTest.__call__

    def watched(*arguments, **options):
        seen.append(torch.get_num_threads())
        return search(*arguments, **options)

    monkeypatch.setattr(change.AbruptnessTest, "__call__", watched)
    torch.set_num_threads(2)
    phase_change(_trajectory(_still(_ramp(20, 25, -0.5))), n_resamples=9)
    assert (seen, torch.get_num_threads()) == ([1], 2)


# all of them

_STUDY = dict(mask=None, seed=0, estimator=None, batch_size=None, progress=True)
_INTERVAL = dict(confidence=0.95, n_resamples=5000, seed=0)
_AT = dict(early=50, late=500, window=0)  # the paper's


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (metrics.batches, dict(progress=None)),
        (metrics.per_token_loss, dict(mask=None, batch_size=None, progress=True)),
        (choose_positions, dict(early=None, late=None, window=10, copy=None)),
        (metrics.icl_per_sequence, _AT),
        (metrics.check_positions, dict(window=0)),
        (
            metrics.icl_score,
            dict(**_AT, short_losses=None, documents=None, mask=None, **_INTERVAL),
        ),
        (bootstrap_mean, dict(documents=None, **_INTERVAL)),
        (
            ablation.AblationStudy.at,
            dict(early=None, late=None, window=None, estimator=None),
        ),
        (ablation.control_sets, dict(n=20, seed=0)),
        (ablation.ablate, dict(method="mean", n_controls=20, **_STUDY, **_AT)),
        (
            ablation.ablate_by_methods,
            dict(methods=methods.METHODS, controlled=None, n_controls=20, **_STUDY, **_AT),
        ),
        (ablate_each_head, dict(method="mean", exact=True, **_STUDY, **_AT)),
        (outputs.keep_outputs, dict(whole=False, batch_size=None, progress=None)),
        (hooks.Ablation, dict(outputs=outputs.NO_OUTPUTS, only_at=None)),
        (methods.Mean, dict(reference=None, per_position=False)),
        (methods.Resample, dict(reference=None, seed=0)),
        (
            context.knocked_out,
            dict(method="mean", reference=None, seed=0),
        ),
        (
            phase_change,
            dict(of="icl", minimum=0.1, confidence=0.95, n_resamples=1000, seed=0),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_defaults_are_those_of_the_documentation(function, defaults):
    """Numbers that were published were measured with them."""
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert found == defaults


@pytest.mark.parametrize(
    "module", [metrics, ablation, hooks, outputs, methods, attention, copying, change]
)
def test_results_cannot_be_changed(module):
    made = [
        c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__
    ]
    for kind in filter(dataclasses.is_dataclass, made):
        # what hooks write into is the one exception
        assert kind.__dataclass_params__.frozen == (kind is not hooks.CleanAttention), kind


_OPTIONS = {"seed", "window", "progress", "batch_size", "per_position", "confidence", "each"}


@pytest.mark.parametrize("module", [metrics, ablation, hooks, outputs, context, change])
def test_options_are_given_by_name(module):
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            for name, parameter in inspect.signature(function).parameters.items():
                if name in _OPTIONS and parameter.default is not parameter.empty:
                    assert parameter.kind is parameter.KEYWORD_ONLY, (function, name)
    with pytest.raises(TypeError):
        outputs.other_rows(3, 0)


# the mutants themselves

_MODULE = """
def ends(x: int | None, n: int = 2) -> float:
    'First and last.'
    if x is None:
        raise ValueError(f"expected a number, got {x + 1}")
    return x * n
"""


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("int | None", "int & None", True),
        ("First", "Second", True),
        ("{x + 1}", "{x - 1}", True),
        ("-> float", "-> int", True),
        ("n: int = 2", "n: int = 3", False),
        ("x * n", "x + n", False),
        ("if x is None", "if not x is None", False),
        ("ValueError(", "TypeError(", False),
    ],
)
def test_a_mutant_that_only_says_something_else_is_none(before, after, same):
    mutant = _MODULE.replace(before, after)
    assert mutant != _MODULE
    assert (what_it_does(mutant) == what_it_does(_MODULE)) == same
