"""What the shipped models are shipped for."""

from __future__ import annotations

import pytest

import induction_lens as il
from induction_lens.ablation import study as ablation
from induction_lens.inputs import corpus


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
    assert len(induction) >= 2
    assert {head.layer for head in induction} == {1}
    assert scores["induction"].top(1)[0][1] > 0.5
    previous, score = scores["previous_token"].top(1)[0]
    assert previous.layer == 0
    assert score > 0.5
    assert all(scores["copying_weights"][head] > 0.3 for head in induction)


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
