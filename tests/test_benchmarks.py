"""The benchmarks' own arithmetic, and that their baselines do the same work as the package."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

import induction_lens as il
from induction_lens.models import HAS_HOOKED_TRANSFORMER, toy_weights
from tests.benchmarks import __main__ as command
from tests.benchmarks import detection, harness, lean, sweeping, tables
from tests.benchmarks.embedded import gpt2_with_circuit
from tests.benchmarks.harness import Row, Run, Target
from tests.benchmarks.shapes import build, tokens_for

MEGABYTE = 1_000_000


def _row(**changes) -> Row:
    values = {
        "name": "group/one",
        "baseline": Run("plain", (4.0, 6.0, 9.0), 100),
        "ours": Run("better", (2.0, 2.0, 1.0), 50),
        "direction": "baseline / ours",
    }
    return Row(**{**values, **changes})


def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians():
    assert _row().ratio == 3.0  # of 2, 3 and 9
    # of 1/2, 1/3 and 1/9
    assert _row(direction="ours / baseline").ratio == pytest.approx(1 / 3)
    # the medians of these rounds are equal, their ratios are 2, 1/2 and 3
    drifting = Run("plain", (2.0, 1.0, 9.0), 100)
    assert _row(baseline=drifting, ours=Run("better", (1.0, 2.0, 3.0), 50)).ratio == 2.0


def test_memory_is_ours_over_the_baseline_and_unknown_without_both():
    assert _row().memory == 0.5
    assert math.isnan(_row(ours=Run("better", (1.0, 1.0, 1.0), None)).memory)
    assert math.isnan(_row(baseline=Run("plain", (1.0, 1.0, 1.0), 0)).memory)


def test_targets_are_held_against_the_quantity_that_they_name():
    targets = (
        Target("ratio", "at least", 3.0),
        Target("ratio", "at most", 2.9),
        Target("memory", "at most", 0.5),
        Target("seconds", "at most", 1.9),
        Target("difference", "at most", 1e-5),
    )
    held = [
        target["holds"] for target in _row(targets=targets, difference=2e-5).record()["targets"]
    ]
    assert held == [True, False, True, False, False]
    # what was not measured holds no target
    assert not Target("difference", "at most", 1.0).holds(_row().measured("difference"))


@pytest.mark.slow
def test_arms_run_in_turn_and_keep_their_own_times(monkeypatch):
    ran: list[str] = []
    clock = itertools.count(0.0, 0.5)  # every reading is half a second after the one before
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    arms = {
        "plain": lambda: (ran.append("plain"), harness.time.perf_counter()),
        "ours": lambda: ran.append("ours"),
    }
    plain, ours = harness.interleave(arms, repeats=3)
    assert ran == ["plain", "ours"] * 3
    assert (plain.what, plain.seconds) == ("plain", (1.0, 1.0, 1.0))
    assert (ours.what, ours.seconds) == ("ours", (0.5, 0.5, 0.5))
    assert harness.interleave(arms, repeats=1, memory=False)[0].peak_bytes is None


def test_peak_memory_is_that_of_the_arm_alone():
    held = torch.ones(20 * MEGABYTE)  # 80 MB that were there before

    def one_then_two() -> None:
        torch.ones(10 * MEGABYTE)  # 40 MB, gone before the next
        torch.ones(15 * MEGABYTE)

    _, peak = harness.measured(one_then_two)
    assert peak == pytest.approx(60 * MEGABYTE, rel=0.1)
    _, peak = harness.measured(held.sum)
    assert peak < 5 * MEGABYTE


def test_exponents_of_exact_power_laws():
    sizes = [1, 2, 5, 11]
    assert harness.exponent(sizes, [7 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert harness.exponent(sizes, [3.0] * 4) == pytest.approx(0.0)


def test_the_lean_model_is_our_toy():
    config = il.toys.ToyConfig(d_model=24, n_heads=3, d_vocab=29, n_ctx=17)
    toy = il.toys.build_toy(config, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # biases are zero at first, which would hide where they go
        for weight in toy_weights(toy).values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    model = lean.LeanModel(config)
    model.load(toy_weights(toy))
    tokens = tokens_for(toy, 5, 17)
    with torch.no_grad():
        assert (model(tokens) - toy(tokens)).abs().max() < 1e-5


def test_the_lean_loop_trains_as_ours_does():
    config = il.toys.ToyConfig(d_model=24, n_heads=3, d_vocab=29, n_ctx=17)
    toy = il.toys.build_toy(config, device="cpu")
    model = lean.LeanModel(config)
    model.load(toy_weights(toy))
    before = [weight.detach().clone() for weight in model.parameters()]
    batches = tokens_for(toy, 60, 17).split(6)
    losses = lean.train(model, batches, micro_batch=4)
    run = il.train(toy, batches.__getitem__, n_steps=10, micro_batch=4, progress=False)
    assert torch.tensor(losses) == pytest.approx(run.losses, abs=1e-4)
    trained = lean.LeanModel(config)
    trained.load(toy_weights(toy))
    for start, ours, theirs in zip(before, trained.parameters(), model.parameters(), strict=True):
        moved, apart = (theirs - start).abs().max(), (ours - theirs).abs().max()
        assert apart < 0.1 * moved


@pytest.mark.parametrize("shape", ["gpt2-small", "attn-only-2l", "llama-gqa-6l", "toy-2l"])
def test_the_naive_sweep_finds_the_same_effects(shape):
    model = build(shape, quick=True)
    tokens = tokens_for(model, 3, 21)
    effects = sweeping.naive_sweep(model, tokens, early=5, late=19)
    options = dict(early=5, late=19, estimator="paper", progress=False)
    ours = il.ablate_each_head(model, tokens, method="zero", **options)
    assert effects.abs().max() > 0.01
    assert (effects - ours.values).abs().max() < 1e-4


@pytest.mark.parametrize("only_patterns", [True, False])
def test_the_cached_scores_are_ours(only_patterns):
    model = build("llama-gqa-6l", quick=True)
    tokens = tokens_for(model, 3, 21)
    cached = detection.cached_scores(model, tokens, only_patterns=only_patterns)
    ours = detection.score(model, tokens)
    assert set(cached) == set(ours)
    assert all((cached[name] - ours[name].values).abs().max() < 1e-6 for name in cached)


def test_the_bare_pass_ends_at_the_last_pattern_and_leaves_no_hook():
    model = build("gpt2-small", quick=True)
    tokens = tokens_for(model, 3, 11)
    with torch.no_grad():
        clean = model(tokens)
    unembedded = []
    model.unembed.register_forward_hook(lambda *_: unembedded.append(1))
    detection.bare_pass(model, tokens, batch_size=2)
    assert unembedded == []
    with torch.no_grad():
        assert model(tokens).equal(clean)
    assert unembedded == [1]


def test_prompts_are_read_as_the_tokens_where_there_is_a_detector_to_read_them():
    if HAS_HOOKED_TRANSFORMER:
        model = build("attn-only-2l", quick=True)
        tokens = tokens_for(model, 2, 31)
        assert model.to_tokens(detection.as_prompts(model, tokens)).equal(tokens)
    else:
        assert detection.against_detect_head("attn-only-2l", "short", quick=True) == []


def test_groups_are_chosen_by_name_and_unknown_ones_refused():
    assert command.chosen(["sweep/toy-2l"], full=False) == ["sweep/toy-2l"]
    assert all(
        name.startswith("growth/sweep/") for name in command.chosen(["growth/sweep"], full=False)
    )
    assert "report/toy-2l" not in command.chosen([], full=False)
    assert command.chosen([], full=True) == list(command.BENCHMARKS)
    with pytest.raises(ValueError, match="'sweeps'"):
        command.chosen(["sweeps"], full=False)


def test_the_command_writes_what_it_prints_and_goes_on_after_a_failure(
    tmp_path, monkeypatch, capsys
):
    def measured(*, quick: bool) -> list[Row]:
        return [_row(targets=(Target("ratio", "at least", 3.5),), note="as it is")]

    def failing(*, quick: bool) -> list[Row]:
        raise ValueError("no such thing")

    monkeypatch.setattr(command, "BENCHMARKS", {"bad": failing, "group/one": measured})
    path = tmp_path / "found.json"
    assert command.main(["--json", str(path)]) == 1
    assert "no such thing" in capsys.readouterr().out
    [row] = json.loads(path.read_text())["rows"]
    assert row == json.loads(json.dumps(_row().record())) | {
        "note": "as it is",
        "targets": [{"of": "ratio", "bound": "at least", "value": 3.5, "holds": False}],
    }
    assert command.main(["--json", str(path), "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == tables.markdown([row])
    assert "| one | 6 s | 2 s | 3 | 0 → 0 (0.50×) |  | ratio ≥ 3.5: missed |" in tables.markdown(
        [row]
    )


def test_the_larger_model_predicts_what_the_toy_inside_it_does():
    """Where its other weights write nothing; the mark of foreign tokens is the small rest."""
    toy = il.load("toy-2l")
    larger = gpt2_with_circuit(quick=True, writes=0.0)
    assert (larger.cfg.n_layers, larger.cfg.d_head) == (8, 2 * toy.cfg.d_head)
    tokens = il.sample_text(toy, n_sequences=2, seq_len=200).tokens
    losses, expected = (il.per_token_loss(m, tokens)[:, 1:] for m in (larger, toy))
    assert (losses - expected).abs().max() < 0.05
    assert (losses - expected).abs().mean() < 0.005
    scores, of_toy = (il.score_heads(m)["induction"].values for m in (larger, toy))
    assert torch.allclose(scores[7], of_toy[1], atol=0.02)
