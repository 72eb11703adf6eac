"""Effects to first order, and the unbiased mean that they and a few exact effects give."""

from __future__ import annotations

import itertools

import pytest
import torch

from induction_lens.ablation import (
    Mean,
    PatternPreserving,
    Zero,
    ablate_each_head,
)
from induction_lens.ablation.control_variates import control_variate_mean
from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.ablation.first_order import first_order_effects
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.sweep import Job
from induction_lens.estimates import standard_error
from induction_lens.heads import Head
from induction_lens.metrics import Positions
from induction_lens.models import HAS_HOOKED_TRANSFORMER, hook_name
from induction_lens.toys.model import ToyConfig, build_toy
from tests.simulations.control_variates import coverage

IMPLEMENTATIONS = ["hooked", "bridge"] if HAS_HOOKED_TRANSFORMER else ["bridge"]
WHERE = dict(early=4, late=17, window=1)


def _model(implementation, **options):
    sizes = dict(n_layers=2, d_model=24, n_heads=3, d_head=10) | options
    config = ToyConfig(**sizes, d_vocab=53, n_ctx=61, seed=1)
    model = build_toy(config, implementation=implementation, device="cpu")
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.split(".")[-1].startswith("b") or "bias" in name or ".ln" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def _tokens(n):
    drawn = torch.randint(1, 53, (n, 23), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


def _scores(model, tokens, fwd_hooks, estimator):
    """The ICL score of each sequence with hooks, by the public functions alone."""
    with model.hooks(fwd_hooks=fwd_hooks):
        long = model(tokens).log_softmax(-1)
    cut = torch.cat([tokens[:, :1], tokens[:, 14:19]], dim=1)  # position 17 is 4 of the cut
    with model.hooks(fwd_hooks=fwd_hooks):
        short = model(cut).log_softmax(-1)

    def mean(log_probs, of, positions):
        """Mean loss at three positions."""
        losses = [-log_probs[:, p - 1].gather(1, of[:, p, None])[:, 0] for p in positions]
        return torch.stack(losses).mean(0)

    early = mean(long, tokens, (3, 4, 5)) if estimator == "paper" else mean(short, cut, (3, 4, 5))
    return mean(long, tokens, (16, 17, 18)) - early


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("estimator", ["matched-target", "paper"])
@pytest.mark.parametrize("method", [Zero(), Mean()], ids=["zero", "mean"])
def test_it_is_the_slope_of_the_score_on_the_way_to_the_ablation(
    implementation, mlp, estimator, method
):
    """A small step of what is written, with plain hooks in double precision of the step."""
    model, tokens = _model(implementation, attn_only=not mlp), _tokens(5)
    at = MeasuredText.of(model, tokens, None, where=Positions(**WHERE), estimator=estimator)
    heads = [Head(0, 1), Head(1, 2)]
    jobs = [Job((head,), method) for head in heads]
    found = {}

    def take(ablations):
        found["first order"] = first_order_effects(
            model, ablations, at, rough=False, progress=False
        )

    at.losses(model, jobs, prepared=take, batch_size=None, progress=False)
    model.cfg.dtype = torch.float64  # norms cast to it
    model = model.double()
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        for index, head in enumerate(heads):
            z = cache[hook_name("z", head.layer)][:, :, head.head]
            target = 0 * z[0, 0] if method == Zero() else z.mean((0, 1))

            def towards(step, head=head, target=target):
                def hook(z, hook):
                    z = z.clone()
                    z[:, :, head.head] += step * (target - z[:, :, head.head])
                    return z

                return [(hook_name("z", head.layer), hook)]

            up, down = (_scores(model, tokens, towards(s), estimator) for s in (1e-3, -1e-3))
            slope = (up - down) / 2e-3
            assert slope.abs().max() > 1e-3
            torch.testing.assert_close(
                found["first order"][index].double(), slope, atol=2e-5, rtol=2e-3
            )


@pytest.mark.parametrize("method", [PatternPreserving()])
def test_methods_that_freeze_attention_have_none(method):
    model, tokens = _model(IMPLEMENTATIONS[-1]), _tokens(3)
    at = MeasuredText.of(model, tokens, None, where=Positions(**WHERE), estimator=None)
    found = []

    def take(ablations):
        found.append(first_order_effects(model, ablations, at, rough=False, progress=False))

    at.losses(model, [Job((Head(0, 0),), method)], prepared=take, batch_size=None, progress=False)
    assert found == [None]


def test_the_mean_is_unbiased_over_all_draws():
    """Every ordered draw of five sequences from a population of three, three of them exact."""
    population = [(1.0, 0.3), (-2.0, 0.1), (0.5, -1.1)]
    means = []
    for drawn in itertools.product(population, repeat=5):
        exact, cheap = torch.tensor(drawn, dtype=torch.float64).unbind(1)
        means.append(control_variate_mean(exact[:3], cheap)[0])
    expected = sum(e for e, _ in population) / 3
    assert sum(means) / len(means) == pytest.approx(expected, abs=1e-12)
    assert max(means) - min(means) > 1


def test_a_hand_computed_mean():
    # S = {0, 1, 2}, others {3, 4}. Slopes without each: from the other two points of S.
    exact = torch.tensor([1.0, 3.0, 2.0])
    cheap = torch.tensor([0.0, 1.0, 3.0, 2.0, 4.0])
    slopes = [(2 - 3) / (3 - 1), (2 - 1) / (3 - 0), (3 - 1) / (1 - 0)]
    moved = [b * (f - 3) for b, f in zip(slopes, (0, 1, 3), strict=True)]
    expected = (6 - (2 / 5) * sum(moved)) / 3
    assert control_variate_mean(exact, cheap)[0] == pytest.approx(expected)


def test_documents_are_left_out_whole():
    """The slope for a sequence comes from other documents than its own."""
    exact = torch.tensor([1.0, 5.0, 2.0, 2.5])
    cheap = torch.tensor([0.0, 9.0, 1.0, 2.0, 5.0, 6.0])
    documents = torch.tensor([7, 7, 3, 3, 3, 1])
    # for the first two: from the third and fourth; for these: from the first two
    slopes = [0.5, 0.5, 4 / 9, 4 / 9]
    moved = sum(b * (f - 5.5) for b, f in zip(slopes, cheap[:4].tolist(), strict=True))
    expected = (10.5 - (2 / 6) * moved) / 4
    value, error = control_variate_mean(exact, cheap, documents=documents)
    assert value == pytest.approx(expected)
    assert error > 0


def test_what_follows_exactly_leaves_only_the_error_of_all():
    generator = torch.Generator().manual_seed(0)
    cheap = torch.randn(64, generator=generator, dtype=torch.float64)
    value, error = control_variate_mean(2 * cheap[:8], cheap)
    assert value == pytest.approx(2 * float(cheap.mean()), abs=1e-9)
    assert error == pytest.approx(2 * float(standard_error(cheap)), rel=1e-6)


def test_exact_values_of_all_are_their_mean():
    exact = torch.tensor([1.0, 2.0, 4.0])
    value, error = control_variate_mean(exact, torch.tensor([3.0, 1.0, 0.0]))
    assert value == pytest.approx(7 / 3)
    assert error == pytest.approx(float(standard_error(exact)))


def test_without_a_slope_the_mean_is_left():
    exact, cheap = torch.tensor([1.0, 2.0, 4.0]), torch.ones(9)
    assert control_variate_mean(exact, cheap)[0] == pytest.approx(7 / 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_heads_are_measured_on_few_sequences_and_agree_with_all(implementation):
    model, tokens = _model(implementation, n_heads=9), _tokens(64)
    options = dict(method=Mean(reference=tokens), progress=False, **WHERE)
    exact = ablate_each_head(model, tokens, **options)
    few = ablate_each_head(model, tokens, exact=False, **options)
    assert set(few.n_units.unique().tolist()) <= {8, 16, 32, 64}
    assert int(few.n_units.min()) < 64
    same = few.n_units == 64
    torch.testing.assert_close(few.values[same], exact.values[same])
    off = (few.values - exact.values).abs() / few.sem
    assert float(off[~same].max()) < 4
    first = ablate_each_head(model, tokens[:16], **options)
    narrower = few.sem[few.n_units == 16] < first.sem[few.n_units == 16]
    assert narrower.double().mean() > 0.6


def test_a_head_stops_early_only_where_the_first_order_says_half(monkeypatch):
    effects = torch.randn(8, generator=torch.Generator().manual_seed(1))
    cheap = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    cheap[0, :8] = effects  # the first head's effects are known to first order
    estimates = EffectEstimates(None, 17, first_order=dict(enumerate(cheap)))
    assert estimates.gained(0, effects)
    assert not estimates.gained(1, effects)
    assert not EffectEstimates(None, 17).gained(0, effects)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """The simulation of `tests.simulations.control_variates` has more settings and trials."""
    for correlation in (0.0, 0.9):
        assert coverage(correlation, "normal", n=8, n_all=64, trials=150).covered >= 0.90
