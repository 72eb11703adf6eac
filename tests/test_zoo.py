"""What the shipped models are shipped for."""

from __future__ import annotations

import sys

import pytest
import torch

import induction_lens as il
from induction_lens import loading
from induction_lens.ablation import sets as ablation
from induction_lens.inputs import corpus
from induction_lens.models import toy_weights
from induction_lens.tasks import few_shot, ready
from induction_lens.training.cards import held_out
from induction_lens.training.mixtures import N_ITEMS, SHOTS, answered


def test_toy_2l_narrow_has_both_halves_of_the_circuit():
    scores = il.score_heads(il.load("toy-2l-narrow", device="cpu"))
    induction, score = scores["induction"].top(1)[0]
    assert induction.layer == 1
    assert score > 0.5
    previous, score = scores["previous_token"].top(1)[0]
    assert previous.layer == 0
    assert score > 0.5
    assert scores["induction"].above(0.3) == [induction]
    assert scores["copying"][induction] > 0.1
    assert scores["copying_weights"][induction] > 0.5


def test_toy_2l_has_several_of_both_halves_of_the_circuit():
    scores = il.score_heads(il.load("toy-2l", device="cpu"))
    induction = scores["induction"].above(0.3)
    assert len(induction) >= 3
    assert {head.layer for head in induction} == {1}
    assert scores["induction"].top(2)[1][1] > 0.5
    previous, score = scores["previous_token"].top(1)[0]
    assert previous.layer == 0
    assert score > 0.5
    assert all(scores["copying_weights"][head] > 0.3 for head in induction)


def test_toy_4l_has_both_halves_of_the_circuit_beside_mlps():
    model = il.load("toy-4l", device="cpu")
    assert not model.cfg.attn_only
    scores = il.score_heads(model, detectors=["previous_token", "induction"])
    [induction] = scores["induction"].above(0.3)
    assert scores["induction"][induction] > 0.5
    previous, score = scores["previous_token"].top(1)[0]
    assert previous.layer < induction.layer
    assert score > 0.9


@pytest.mark.parametrize(("name", "has_them"), [("toy-1l", False), ("toy-1l-smeared", True)])
def test_one_layer_has_induction_heads_with_smeared_keys_alone(name, has_them):
    scores = il.score_heads(il.load(name, device="cpu"), detectors=["induction"])
    assert bool(scores["induction"].above(0.3)) == has_them


@pytest.mark.slow
def test_in_context_learning_of_toy_2l_narrow_needs_its_induction_head_more_than_any_control():
    model = il.load("toy-2l-narrow", device="cpu")
    heads = il.score_heads(model, detectors=["induction"])["induction"].above(0.3)
    text = il.text_tokens(model, n_sequences=256)
    studies = ablation.ablate_by_methods(
        model, heads, text, methods=["zero", "mean", "resample"], window=10
    )
    for method, study in studies.items():
        assert study.clean.high < 0, method
        assert study.effect.low > 0, method
        assert len(study.controls) == 3, method  # all that one head of four has
        assert study.rank == 1, method


@pytest.mark.parametrize("kind", ["code", "prose"])
@pytest.mark.slow
def test_toy_2l_learns_in_context_from_code_and_prose_by_its_induction_heads(kind):
    model = il.load("toy-2l", device="cpu")
    heads = il.score_heads(model, detectors=["induction"])["induction"].above(0.3)
    texts = corpus.documents("held_out", origin="stdlib", kind=kind)
    text = il.text_tokens(model, text=texts, n_sequences=200)
    study = il.ablate(model, heads, text, method="mean", n_controls=1, window=10)
    assert study.clean.high < 0
    assert study.effect.low > 0


@pytest.mark.parametrize(
    ("name", "most"), [("toy-2l", 2.2e6), ("toy-4l", 2.4e6), ("toy-3l-mixture", 1.2e6)]
)
def test_weights_that_ship_in_float16_are_those_that_were_measured(name, most):
    """Rounded to float16 before anything was measured: the file holds them exactly."""
    weights = toy_weights(il.load(name, device="cpu"))
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(weight.equal(weight.half().float()) for weight in weights.values())
    assert (loading.ZOO / name / "weights.safetensors").stat().st_size < most


@pytest.mark.parametrize("name", ["classes-2", "plurals"])
def test_the_card_of_toy_3l_mixture_quotes_what_few_shot_says(name):
    model = il.load("toy-3l-mixture", device="cpu")
    told = loading.zoo_card("toy-3l-mixture")["few_shot"][name]
    found = few_shot(model, ready(name)[0], shots=SHOTS, n_items=N_ITEMS)
    assert (len(found.clean), found.shots) == (told["items"], told["shots"])
    assert found.chance == pytest.approx(told["chance"])
    values = (found.accuracy.value, found.accuracy.low, found.accuracy.high)
    # another processor's sums may turn an answer
    assert values == pytest.approx((told["accuracy"], told["low"], told["high"]), abs=0.06)
    assert found.beats_chance


@pytest.mark.slow
def test_the_card_of_toy_3l_mixture_quotes_what_is_measured():
    model = il.load("toy-3l-mixture", device="cpu")
    card = loading.zoo_card("toy-3l-mixture")
    for name, found in answered(model).items():
        assert found == pytest.approx(card["few_shot"][name], abs=0.03), name
    assert card["icl_high"] < 0
    if sys.version_info[:2] != (3, 11):
        return  # the held-out text is that of another standard library
    found = held_out(model, n_sequences=None, progress=False)
    assert found["held_out_text"] == card["held_out_text"]
    for name in ("held_out_loss", "icl_score", "icl_low", "icl_high"):
        assert found[name] == pytest.approx(card[name], abs=1e-3), name
