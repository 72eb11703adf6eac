"""Perfect patterns in place of heads' own: against plain code, and on the hand-set circuit."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens.circuits.ideal import IdealInduction, IdealPreviousToken, ideal_pattern
from induction_lens.circuits.material import Material
from induction_lens.estimates import ratio_of_means
from induction_lens.heads import Head
from tests.circuits.plain import Plain, drawn, losses
from tests.hf_folders import hugging_face_model
from tests.reference_model import induction_circuit

HEAD = Head(1, 2)


def previous_token(ids):
    pattern = torch.zeros(len(ids), len(ids))
    for query in range(len(ids)):
        pattern[query, max(query - 1, 0)] = 1
    return pattern


def induction(ids):
    pattern = torch.zeros(len(ids), len(ids))
    for query in range(len(ids)):
        keys = [key for key in range(2, query + 1) if ids[key - 1] == ids[query]] or [0]
        for key in keys:
            pattern[query, key] = 1 / len(keys)
    return pattern


@pytest.mark.parametrize(
    ("method", "plainly"), [(IdealPreviousToken(), previous_token), (IdealInduction(), induction)]
)
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_a_written_pattern_is_that_of_plain_hugging_face_code(name, method, plainly):
    model, tokens = hugging_face_model(name), drawn(0)
    plain = Plain(name, tokens)
    value = plain.part(plain.run()[0]["v"][HEAD.layer], "v", HEAD.head)
    pattern = torch.stack([plainly(ids) for ids in tokens.tolist()])

    def write(z):
        z[:, :, HEAD.head] = pattern @ value
        return z

    expected = losses(plain.run(z={HEAD.layer: write})[1].logits, tokens)
    with il.knocked_out(model, HEAD, method=method):
        found = il.per_token_loss(model, tokens)[:, 1:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def material():
    model = induction_circuit()
    tokens = il.repeated_random_tokens(model, n_tokens=9, n_repeats=4, n_sequences=6)
    return Material.of(model, tokens=tokens, n_texts=0)


@pytest.mark.parametrize(("heads", "kind"), [("0.0", "previous_token"), ("1.0", "induction")])
def test_the_heads_of_the_hand_set_circuit_are_perfect(circuit, material, heads, kind):
    found = ideal_pattern(circuit, heads, kind=kind, ablation="zero", material=material)
    assert found.explained.value == pytest.approx(1, abs=1e-4)
    assert found.needed.value > 1


def test_the_other_pattern_explains_nothing(circuit, material):
    found = ideal_pattern(circuit, "1.0", kind="previous_token", ablation="zero", material=material)
    assert found.explained.value < 0.1


def test_the_share_is_one_minus_what_is_left(circuit, material):
    found = ideal_pattern(circuit, "0.0", kind="previous_token", material=material)
    left = (found.ideal - found.clean).mean() / (found.ablated - found.clean).mean()
    assert found.explained.value == pytest.approx(1 - left.item(), abs=1e-6)
    again = ratio_of_means(found.ablated - found.ideal, found.ablated - found.clean)
    assert (found.explained.low, found.explained.high) == (again.low, again.high)
    frame = found.to_frame()
    assert frame["heads"].tolist() == ["0.0"]
    assert frame["ideal"][0] == pytest.approx(found.ideal.mean().item())
    assert "explains" in repr(found)


def test_what_cannot_be_measured_is_refused(circuit, material):
    with pytest.raises(ValueError, match="expected kind to be one of previous_token, induction"):
        ideal_pattern(circuit, "0.0", kind="duplicate", material=material)
    with pytest.raises(ValueError, match="expected text to measure on, got none"):
        ideal_pattern(circuit, "0.0", kind="induction", on_text=True, material=material)
