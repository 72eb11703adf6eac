"""Composition: the published number on known weights, and what chance gives."""

from __future__ import annotations

import math

import pytest
import torch

import induction_lens as il
from induction_lens.toys.model import ToyConfig, build_toy
from tests.circuits.plain_weights import plain_heads, random_orthogonal
from tests.hf_folders import hugging_face_model
from tests.reference_model import induction_circuit


@pytest.fixture(scope="module")
def narrow():
    return il.load("toy-2l-narrow", device="cpu")


@pytest.fixture(scope="module")
def on_narrow(narrow):
    return il.circuits.composition(narrow)


def dense(written, read, kind):
    """The definition, with whole d_model × d_model matrices."""
    W_OV = written[2] @ written[3]
    W_QK, other_OV = read[0] @ read[1].T, read[2] @ read[3]
    X = {"Q": W_QK, "K": W_QK.T, "V": other_OV}[kind]
    return float((W_OV @ X).norm() / (W_OV.norm() * X.norm()))


def test_the_numbers_measured_on_the_narrow_toy(on_narrow):
    K = on_narrow.raw[1, 1, :, 0]
    assert K[1].tolist() == pytest.approx([0.026, 0.171, 0.016, 0.018], abs=5e-4)
    others = K[[0, 2, 3]]
    assert float(others.min()) > 0.066
    assert float(others.max()) < 0.088
    [best] = on_narrow.top(1)
    assert (best.kind, str(best.earlier), str(best.later)) == ("K", "0.1", "1.1")


def test_random_matrices_give_what_was_measured():
    mean, sd = il.circuits.random_composition(128, 32, n_draws=200)
    assert mean == pytest.approx(0.0884, abs=0.0005)
    assert sd == pytest.approx(0.0022, abs=0.0003)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_every_pair_is_that_of_the_dense_matrices(name):
    found = il.circuits.composition(hugging_face_model(name), n_draws=2)
    heads = plain_heads(name)
    for index, kind in enumerate("QKV"):
        for h, later in enumerate(heads[1]):
            for g, earlier in enumerate(heads[0]):
                expected = dense(earlier, later, kind)
                assert float(found.raw[index, 1, h, 0, g]) == pytest.approx(expected, abs=1e-5)
    assert found.raw[:, 0].isnan().all()
    assert found.raw[:, 1, :, 1].isnan().all()


def test_the_hand_set_circuit_composes_by_keys_alone(circuit):
    found = il.circuits.composition(circuit, n_draws=2)
    # 0.0 writes 29 tokens of which the keys of 1.0 read 28, and nothing of the queries' part;
    # centring takes a little of each
    assert found.of("0.0", "1.0", kind="K").z_shuffled > 10
    assert [(str(p.earlier), str(p.later), p.kind) for p in found.above()] == [("0.0", "1.0", "K")]


def test_the_circuit_without_centring_has_the_number_of_its_construction(monkeypatch):
    model = induction_circuit()
    monkeypatch.setattr("induction_lens.circuits.weights.centres", lambda model: False)
    monkeypatch.setattr("induction_lens.models.properties.centres", lambda model: False)
    monkeypatch.setattr("induction_lens.circuits.weights._check_values", lambda model: None)
    found = il.circuits.composition(model, n_draws=2)
    # W_OV of 0.0 has 29 singular values of 1, W_QK of 1.0 has 28 of 40; b_Q is no part of it
    expected = math.sqrt(28) * 40 / (math.sqrt(29) * math.sqrt(28) * 40)
    assert float(found.raw[1, 1, 0, 0, 0]) == pytest.approx(expected, abs=1e-6)
    assert float(found.raw[0, 1, 0, 0, 0]) == 0
    assert found.raw[:, 1, 0, 0, 1].isnan().all()  # 0.1 writes nothing
    assert found.raw[:2, 1, 2, 0, 0].isnan().all()  # 1.2 attends to all alike


def test_z_of_shuffled_partners_has_the_moments_of_rotations(narrow, on_narrow):
    """Against 400 rotations, of a pair whose matrices have few large singular values."""
    generator = torch.Generator().manual_seed(0)
    first = il.circuits.head_weights(narrow, 0)
    second = il.circuits.head_weights(narrow, 1)
    W_OV = (first.W_V[1] @ first.W_O[1]).double()
    W_KQ = (second.W_K[1] @ second.W_Q[1].T).double()
    # in the 127 dimensions that heads read
    basis = torch.linalg.svd(torch.ones(1, 128, dtype=torch.float64))[2][1:]
    W_OV, W_KQ = W_OV @ basis.T / W_OV.norm(), basis @ W_KQ / W_KQ.norm()
    squares = torch.stack(
        [(W_OV @ random_orthogonal(127, generator) @ W_KQ).square().sum() for _ in range(400)]
    )
    pair = on_narrow.of("0.1", "1.1", kind="K")
    raw = pair.score + on_narrow.expected
    sd = (raw**2 - 1 / 127) / pair.z_shuffled
    assert float(squares.mean()) == pytest.approx(1 / 127, abs=4 * sd / 20)
    assert float(squares.std()) == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize("d_head", [1, 2, 8, 16])
def test_at_most_one_percent_of_untrained_pairs_pass(d_head):
    """Of 20 models of two layers of eight heads: 3840 pairs."""
    passed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        model = build_toy(
            ToyConfig(
                n_layers=2,
                d_model=64,
                n_heads=8,
                d_head=d_head,
                d_vocab=31,
                n_ctx=16,
                positions="standard",
            ),
            device="cpu",
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        passed += len(il.circuits.composition(model, n_draws=2).above())
    assert passed / (20 * 3 * 64) <= 0.01


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_at_most_one_percent_of_shuffled_partners_pass(narrow, on_narrow, kind):
    """Every pair of the trained model, each with 100 rotations."""
    generator = torch.Generator().manual_seed(1)
    first, second = (il.circuits.head_weights(narrow, layer) for layer in range(2))
    basis = torch.linalg.svd(torch.ones(1, 128, dtype=torch.float64))[2][1:]
    passed = 0
    for _ in range(100):
        turned = basis.T @ random_orthogonal(127, generator) @ basis
        for g in range(4):
            W_OV = (first.W_V[g] @ first.W_O[g]).double() @ turned
            for h in range(4):
                read = {
                    "Q": second.W_Q[h] @ second.W_K[h].T,
                    "K": second.W_K[h] @ second.W_Q[h].T,
                    "V": second.W_V[h] @ second.W_O[h],
                }[kind].double()
                square = float(((W_OV @ read).norm() / (W_OV.norm() * read.norm())) ** 2)
                pair = on_narrow.of((0, g), (1, h), kind=kind)
                raw = pair.score + on_narrow.expected
                sd = (raw**2 - 1 / 127) / pair.z_shuffled
                passed += (square - 1 / 127) / sd > il.circuits.Z_THRESHOLD
    assert passed / 1600 <= 0.01


def test_the_frame_holds_every_pair_once(on_narrow):
    frame = on_narrow.to_frame()
    assert len(frame) == 3 * 4 * 4
    row = frame.query("kind == 'K' and layer == 1 and head == 1 and earlier_head == 1").iloc[0]
    pair = on_narrow.of("0.1", "1.1", kind="K")
    assert row["score"] == pytest.approx(pair.score)
    assert row["raw"] - row["score"] == pytest.approx(on_narrow.expected)
    assert row["z_random"] == pytest.approx(pair.score / on_narrow.random_sd, rel=1e-5)
    assert row["z_shuffled"] == pytest.approx(pair.z_shuffled)


def test_top_is_by_score_and_of_one_kind_where_asked(on_narrow):
    assert [pair.kind for pair in on_narrow.top(3, kind="V")] == ["V"] * 3
    scores = [pair.score for pair in on_narrow.top(48)]
    assert scores == sorted(scores, reverse=True)
    assert len(on_narrow.top(100)) == 48
    assert str(on_narrow.top(1)[0]).startswith("K 0.1 → 1.1: +0.08")
    assert "highest K 0.1 → 1.1" in repr(on_narrow)


def test_the_map_has_later_heads_down(on_narrow):
    [heat] = on_narrow.plot(kind="K").data
    assert list(heat.x) == ["0.0", "0.1", "0.2", "0.3"]
    assert list(heat.y) == ["1.0", "1.1", "1.2", "1.3"]
    assert heat.z[1][1] == pytest.approx(on_narrow.of("0.1", "1.1", kind="K").score)


def test_a_model_of_one_layer_has_no_pairs():
    model = il.load("toy-1l", device="cpu")
    found = il.circuits.composition(model, n_draws=2)
    assert found.top(5) == []
    assert len(found.to_frame()) == 0


def test_both_classes_have_the_composition_of_the_weights_that_were_set(circuit):
    found = il.circuits.composition(circuit, n_draws=2)
    W = {name: weight.detach() for name, weight in il.models.toy_weights(circuit).items()}
    C = torch.eye(128) - 1 / 128
    W_OV = C @ W["blocks.0.attn.W_V"][0] @ W["blocks.0.attn.W_O"][0] @ C
    W_KQ = C @ W["blocks.1.attn.W_K"][0] @ W["blocks.1.attn.W_Q"][0].T @ C
    expected = float((W_OV @ W_KQ).norm() / (W_OV.norm() * W_KQ.norm()))
    assert float(found.raw[1, 1, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("_as_users_call")
def test_earlier_and_later_are_not_mixed_up(on_narrow):
    with pytest.raises(ValueError, match=r"expected earlier to be in an earlier layer than 0\.1"):
        on_narrow.of("1.1", "0.1", kind="K")
    with pytest.raises(ValueError, match="expected kind to be one of Q, K, V"):
        on_narrow.of("0.1", "1.1", kind="W")
