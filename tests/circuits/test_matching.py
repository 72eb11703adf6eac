"""Prefix matching from weights: against tables of tokens by tokens, and known answers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import induction_lens as il
from induction_lens.toys.model import ToyConfig, build_toy
from tests.architectures.cases import CASES
from tests.architectures.tiny import write_folder
from tests.circuits.plain_weights import CENTRES, centred, plain_heads, plain_model
from tests.hf_folders import D_VOCAB, hugging_face_model


@pytest.fixture(scope="module")
def narrow():
    return il.load("toy-2l-narrow", device="cpu")


@pytest.fixture(scope="module")
def text(narrow):
    return il.sample_text(narrow, n_sequences=4, seq_len=128)


@pytest.fixture(scope="module")
def on_narrow(narrow, text):
    return il.circuits.qk_matching(narrow, text, distances=[0, 1, 9])


def tokens_of(n_vocab, length=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, n_vocab, (3, length), generator=generator)


def scores_of(table):
    """Trace and positivity of a table of tokens by tokens."""
    eigenvalues = torch.linalg.eigvals(table)
    return float(table.trace()), float(eigenvalues.real.sum() / eigenvalues.abs().sum())


def test_the_numbers_measured_on_the_narrow_toy(on_narrow):
    positivity = on_narrow.positivity[0, 1, :, 0]
    assert float(positivity[1, 1]) == pytest.approx(0.89, abs=0.005)
    others = positivity.clone()
    others[1, 1] = 0
    assert float(others.abs().max()) == pytest.approx(0.40, abs=0.005)
    assert float(on_narrow.trace[0, 1, 1, 0, 1]) == pytest.approx(1.7e6, rel=0.02)
    assert on_narrow.embedding == "W_E"


def test_the_induction_head_of_the_toy_is_in_the_corner(on_narrow):
    plane = on_narrow.plane().set_index(["layer", "head"])
    assert plane.loc[(1, 1), "qk_positivity"] > 0.8
    assert plane.loc[(1, 1), "ov_positivity"] > 0.8
    assert (plane.drop(index=(1, 1))["qk_positivity"] < 0.4).all()


# against whole tables of tokens by tokens, from the state dictionaries by hand


def normed(x, name, eps):
    x = centred(x, 1) if CENTRES[name] else x
    return x / (x.square().mean(1, keepdim=True) + eps).sqrt()


def plain_embeddings(name) -> tuple[Tensor, Tensor]:
    """What layer 0 and what later layers read of each token, from Hugging Face's own modules."""
    _, model = plain_model(name)
    inner = {"gpt2": "transformer", "llama": "model", "neox": "gpt_neox"}[name]
    body = getattr(model, inner)
    W_E = {"gpt2": "wte", "llama": "embed_tokens", "neox": "embed_in"}[name]
    E = getattr(body, W_E).weight.detach()
    layer = (body.h if name == "gpt2" else body.layers)[0]
    norm = layer.ln_2 if name == "gpt2" else layer.post_attention_layernorm
    with torch.no_grad():
        after = E + layer.mlp(norm(E[None]))[0]
    eps = 1e-6 if name == "llama" else 1e-5
    return normed(E.double(), name, eps), normed(after.double(), name, eps)


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_every_pair_is_that_of_the_table_of_tokens(name, mlp):
    model = hugging_face_model(name)
    tokens = tokens_of(D_VOCAB)
    found = il.circuits.qk_matching(model, tokens, mlp=mlp)
    heads = plain_heads(name)
    at_first, later = plain_embeddings(name)
    E = later if mlp else at_first
    attention = il.score_heads(model, tokens=tokens, detectors=["previous_token"])
    p = attention["previous_token"].values[0].double()
    for h, (W_Q, W_K, _, _) in enumerate(heads[1]):
        total = torch.zeros(D_VOCAB, D_VOCAB, dtype=torch.float64)
        for g, (_, _, W_V, W_O) in enumerate(heads[0]):
            table = (E @ W_Q) @ (at_first @ W_V @ W_O @ W_K).T
            total += p[g] * table
            trace = float(table.trace())
            assert float(found.trace[0, 1, h, 0, g]) == pytest.approx(trace, rel=1e-3)
            if g == h:
                positivity = pytest.approx(scores_of(table)[1], abs=1e-3)
                assert float(found.positivity[0, 1, h, 0, g]) == positivity
        expected = scores_of(total)
        assert float(found.summed_trace[0, 1, h]) == pytest.approx(expected[0], rel=1e-3)
        assert float(found.summed_positivity[0, 1, h]) == pytest.approx(expected[1], abs=1e-3)
    assert found.embedding == ("W_E + MLP 0(W_E)" if mlp else "W_E")
    assert found.summed_trace[:, 0].isnan().all()


def test_later_layers_read_the_first_mlp_on_both_sides():
    """In three layers, a head of layer 1 reads the first MLP's output too."""
    torch.manual_seed(0)
    config = ToyConfig(
        n_layers=3,
        d_model=22,
        n_heads=2,
        d_vocab=37,
        n_ctx=32,
        d_head=6,
        d_mlp=17,
        attn_only=False,
        positions="standard",
    )
    model = build_toy(config, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    W = {name: w.detach().double() for name, w in il.models.toy_weights(model).items()}
    E = W["embed.W_E"]
    hidden = F.layer_norm(E, [22], eps=1e-5) @ W["blocks.0.mlp.W_in"] + W["blocks.0.mlp.b_in"]
    after = E + F.gelu(hidden, approximate="tanh") @ W["blocks.0.mlp.W_out"]
    after = F.layer_norm(after + W["blocks.0.mlp.b_out"], [22], eps=1e-5)
    first = F.layer_norm(E, [22], eps=1e-5)
    found = il.circuits.qk_matching(model, tokens_of(37, 30))
    for layer, E_g in ((0, first), (1, after)):
        W_V, W_O = W[f"blocks.{layer}.attn.W_V"][1], W[f"blocks.{layer}.attn.W_O"][1]
        # the key side is normed as a whole, so that its mean is not read
        written = centred(E_g @ W_V @ W_O, 1) @ W["blocks.2.attn.W_K"][0]
        expected = scores_of(after @ W["blocks.2.attn.W_Q"][0] @ written.T)
        assert float(found.trace[0, 2, 0, layer, 1]) == pytest.approx(expected[0], rel=1e-4)
        assert float(found.positivity[0, 2, 0, layer, 1]) == pytest.approx(expected[1], abs=1e-4)


# rotary positions


def test_distances_turn_adjacent_pairs_of_toys(narrow, on_narrow):
    W = {name: w.detach().double() for name, w in il.models.toy_weights(narrow).items()}
    E = F.layer_norm(W["embed.W_E"], [128], eps=1e-5)
    queries = E @ W["blocks.1.attn.W_Q"][1]
    keys = centred(E @ W["blocks.0.attn.W_V"][1] @ W["blocks.0.attn.W_O"][1], 1)
    keys = keys @ W["blocks.1.attn.W_K"][1]
    rates = torch.tensor([10000 ** (-i / 16) for i in range(16)], dtype=torch.float64)
    for index, distance in enumerate((0, 1, 9)):
        turn = torch.polar(torch.ones(16, dtype=torch.float64), distance * rates)
        pairs = torch.view_as_complex(queries.unflatten(1, (16, 2)).contiguous()) * turn
        expected = scores_of_factors(torch.view_as_real(pairs).flatten(1), keys)
        assert float(on_narrow.trace[index, 1, 1, 0, 1]) == pytest.approx(expected[0], rel=1e-3)
        assert float(on_narrow.positivity[index, 1, 1, 0, 1]) == pytest.approx(
            expected[1], abs=1e-3
        )


def scores_of_factors(queries, keys):
    eigenvalues = torch.linalg.eigvals(keys.T @ queries)
    return float(eigenvalues.real.sum()), float(eigenvalues.real.sum() / eigenvalues.abs().sum())


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_distances_rotate_as_hugging_face_does(name):
    """Queries of Hugging Face's own rotation at position Δ, keys at position 0."""
    model = hugging_face_model(name)
    found = il.circuits.qk_matching(model, tokens_of(D_VOCAB), distances=[3, 0], mlp=False)
    _, plain = plain_model(name)
    body = plain.model if name == "llama" else plain.gpt_neox
    cos, sin = body.rotary_emb(torch.zeros(1, 4, 8), torch.arange(4)[None])
    E, _ = plain_embeddings(name)
    first, second = plain_heads(name)
    for h, g in ((0, 1), (2, 0)):
        W_Q, W_K = second[h][:2]
        A, B = E @ W_Q, E @ first[g][2] @ first[g][3] @ W_K
        for index, distance in enumerate((3, 0)):
            c, s = cos[0, distance].double(), sin[0, distance].double()
            n = len(c)
            half = torch.cat([-A[:, n // 2 : n], A[:, : n // 2]], dim=1)
            turned = torch.cat([A[:, :n] * c + half * s, A[:, n:]], dim=1)
            expected = scores_of_factors(turned, B)
            assert float(found.trace[index, 1, h, 0, g]) == pytest.approx(expected[0], rel=1e-3)
            assert float(found.positivity[index, 1, h, 0, g]) == pytest.approx(
                expected[1], abs=1e-3
            )


@pytest.mark.parametrize("adjacent", [True, False])
def test_rotations_are_those_of_transformer_lens(adjacent):
    """A model of the user's own, which rotates half of each head or all of it."""
    lens = pytest.importorskip("transformer_lens")
    if not il.models.HAS_HOOKED_TRANSFORMER:
        pytest.skip("this TransformerLens has no HookedTransformer")
    config = lens.HookedTransformerConfig(
        n_layers=2,
        d_model=24,
        n_heads=3,
        d_head=8,
        d_vocab=31,
        n_ctx=40,
        attn_only=True,
        positional_embedding_type="rotary",
        rotary_dim=8 if adjacent else 4,
        rotary_adjacent_pairs=adjacent,
        seed=0,
        device="cpu",
    )
    model = lens.HookedTransformer(config)
    found = il.models.rotations(model, [3, 0])
    x = torch.randn(1, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    turned = model.blocks[1].attn.apply_rotary(x)
    assert torch.allclose(x[0, 3] @ found[0], turned[0, 3], atol=1e-6)
    assert torch.allclose(found[1], torch.eye(8), atol=1e-6)


def test_models_without_rotation_are_alike_at_all_distances():
    found = il.circuits.qk_matching(
        hugging_face_model("gpt2"), tokens_of(D_VOCAB), distances=[0, 5]
    )
    assert torch.equal(found.trace[0].nan_to_num(), found.trace[1].nan_to_num())
    assert il.models.rotations(hugging_face_model("gpt2"), [0, 5]) is None


# the hand-set circuit


def test_the_hand_set_circuit_matches_through_its_previous_token_head(circuit):
    found = il.circuits.qk_matching(circuit, tokens_of(29, 41))
    W = {name: w.detach().double() for name, w in il.models.toy_weights(circuit).items()}
    E = F.layer_norm(W["embed.W_E"], [128], eps=1e-5)
    written = centred(E @ W["blocks.0.attn.W_V"][0] @ W["blocks.0.attn.W_O"][0], 1)
    table = E @ W["blocks.1.attn.W_Q"][0] @ (written @ W["blocks.1.attn.W_K"][0]).T
    pair = found.of("0.0", "1.0")
    assert pair.trace == pytest.approx(scores_of(table)[0], rel=1e-4)
    # each of 28 tokens matches itself with 40 times the square of a one-hot embedding's norm
    assert pair.trace == pytest.approx(28 * 40 * 128, rel=0.03)
    assert pair.positivity == pytest.approx(1.0, abs=1e-4)
    assert pair == found.top(1)[0]
    # 0.0 is the one head that attends to the previous token
    assert float(found.summed_trace[0, 1, 0]) == pytest.approx(pair.trace, rel=1e-3)
    assert float(found.trace[0, 1, 2, 0].abs().max()) == 0
    assert float(found.positivity[0, 1, 2, 0].abs().max()) == 0


# what comes out, and what is refused


def test_frame_top_and_figure(on_narrow):
    frame = on_narrow.to_frame()
    assert len(frame) == 3 * 16
    row = frame.query("distance == 9 and head == 1 and earlier_head == 1").iloc[0]
    assert row["trace"] == pytest.approx(float(on_narrow.trace[2, 1, 1, 0, 1]))
    assert row["previous_token"] == pytest.approx(on_narrow.previous_token["0.1"])
    pair = on_narrow.of("0.1", "1.1")
    assert pair == on_narrow.top(1)[0]
    assert pair.positivity == pytest.approx(float(on_narrow.positivity[:, 1, 1, 0, 1].mean()))
    assert "1.1 through 0.1: positivity +0.89" in repr(on_narrow)
    [dots] = on_narrow.plot().data
    assert list(dots.text) == ["1.0", "1.1", "1.2", "1.3"]
    with pytest.raises(ValueError, match=r"in an earlier layer than 1\.1"):
        on_narrow.of("1.0", "1.1")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("qwen3", "normalises them"),
        ("olmo2", "normalises them"),
        ("gemma3", "normalises them"),
        ("stablelm with normed queries", "normalises them"),
        ("gemma2", "norms what attention puts out"),
        ("deepseek_v3", "expected weights W_Q, W_K, W_V and W_O in each layer"),
        ("opt, norms after, projected", "expected values that are the normed residual stream"),
        ("mpt clipped", "clips them"),
    ],
)
def test_models_that_do_not_read_by_products_are_refused(case, reason, tmp_path):
    write_folder(CASES[case], tmp_path)
    model = il.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=reason):
        il.circuits.qk_matching(model, tokens_of(100))
    with pytest.raises(ValueError, match=reason):
        il.circuits.composition(model)


def test_normed_embeddings_are_refused(tmp_path):
    write_folder(CASES["bloom"], tmp_path)
    model = il.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="expected a residual stream that begins with W_E"):
        il.circuits.qk_matching(model, tokens_of(100), mlp=False)


def test_layers_that_rotate_unlike_each_other_are_refused(tmp_path):
    write_folder(CASES["smollm3"], tmp_path)
    model = il.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="expected rotary positions that can be read off"):
        il.circuits.qk_matching(model, tokens_of(100), distances=[1])
    assert math.isfinite(il.circuits.qk_matching(model, tokens_of(100)).top(1)[0].trace)


@pytest.mark.usefixtures("_as_users_call")
def test_distances_are_checked(narrow, text):
    with pytest.raises(ValueError, match="expected distances to be at least one distance"):
        il.circuits.qk_matching(narrow, text, distances=[])
    with pytest.raises(ValueError, match="each of distances to be a whole number from 0 to 511"):
        il.circuits.qk_matching(narrow, text, distances=[512])
