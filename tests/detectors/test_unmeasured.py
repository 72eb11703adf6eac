"""Scores of what the tokens do not ask for are NaN with a note, not 0 as if measured."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens.plots import head_map

ONCE = torch.tensor([[0, 5, 3, 8, 6, 2, 9, 7]])
TWICE = torch.tensor([[0, 5, 3, 8, 5, 3, 9, 7]])


@pytest.fixture(scope="module")
def model():
    config = il.toys.ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=11, n_ctx=13)
    return il.toys.build_toy(config, device="cpu")


@pytest.mark.parametrize("attention", ["pattern", "streaming"])
def test_induction_without_a_repeat_is_not_measured(model, attention):
    names = ["previous_token", "induction", "duplicate_token"]
    table = il.score_heads(model, tokens=ONCE, detectors=names, attention=attention)
    for name in ("induction", "duplicate_token"):
        scores = table[name]
        assert scores.note == "no token comes twice in these sequences"
        for values in (scores.values, scores.sem, scores.null):
            assert values.isnan().all()
        assert scores.uniform is None
        assert scores.above(-1.0) == []
    assert table["previous_token"].note is None
    assert torch.isfinite(table["previous_token"].values).all()
    assert "not measured: no token comes twice" in repr(table)


def test_one_repeat_is_measured_as_the_attention_on_it(model):
    scores = il.score_heads(model, tokens=TWICE, detectors=["induction"])["induction"]
    assert scores.note is None
    _, cache = model.run_with_cache(TWICE)
    # the token 5 at 4 asks for the one after 1, the token 3 at 5 for the one after 2
    by_hand = torch.stack(
        [
            (cache[f"blocks.{layer}.attn.hook_pattern"][0, :, [4, 5], [2, 3]]).mean(-1)
            for layer in range(2)
        ]
    )
    torch.testing.assert_close(scores.values, by_hand, atol=1e-5, rtol=1e-5)


def test_bos_alone_leaves_every_detector_of_activations_unmeasured(model):
    table = il.score_heads(model, tokens=torch.tensor([[0]]))
    notes = {name: scores.note for name, scores in table.items()}
    assert notes["previous_token"] == "no token has another than BOS before it in these sequences"
    assert notes["copying"] == "there is no token but BOS in these sequences"
    assert notes["copying_weights"] is None
    assert table["copying"].values.isnan().all()
    assert torch.isfinite(table["copying_weights"].values).all()


def test_text_without_a_previous_token_is_not_measured_either(model):
    table = il.score_heads(model, text=torch.tensor([[0, 4]]), detectors=["previous_token"])
    assert table["previous_token"].values.isnan().all()


def test_the_heat_map_of_what_was_not_measured_says_why(model):
    scores = il.score_heads(model, tokens=ONCE, detectors=["induction"])["induction"]
    figure = head_map(scores)
    assert figure.layout.annotations[0].text == (
        "not measured: no token comes twice in these sequences"
    )
    assert list(figure.data[0].z[0]) == [None, None, None]
