"""Term importance: against sums over paths by hand, and against running the model again."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import induction_lens as il
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import D_VOCAB, hugging_face_model

N_LAYERS, N_HEADS, D_MODEL = 3, 2, 22


def random_toy(implementation, **options):
    config = dict(n_layers=N_LAYERS, d_model=D_MODEL, n_heads=N_HEADS, d_head=6, d_vocab=37)
    config |= dict(n_ctx=32, positions="standard")
    model = build_toy(ToyConfig(**(config | options)), implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in il.models.toy_weights(model).values():
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture
def toy(implementation):
    return random_toy(implementation)


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 37, (3, 19), generator=generator)


def losses_of(logits, tokens):
    return F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none").mean(1)


def cached(model, tokens):
    with torch.no_grad():
        return model.run_with_cache(tokens)


def centred(x):
    return x - x.mean(-1, keepdim=True)


def scale(x):
    return (centred(x).square().mean(-1, keepdim=True) + 1e-5).sqrt()


def test_with_frozen_norms_logits_are_the_sum_of_the_paths(toy, tokens):
    """Each path written out: up to eight of them for each choice of heads in three layers."""
    W = {name: w.detach() for name, w in il.models.toy_weights(toy).items()}
    _, cache = cached(toy, tokens)
    scales = [scale(cache["resid_pre", layer]) for layer in range(N_LAYERS)]
    patterns = [cache["pattern", layer] for layer in range(N_LAYERS)]

    def through(layer, x):
        """The OV circuits of one layer's heads, on a part of the residual stream."""
        at = f"blocks.{layer}.attn"
        v = torch.einsum("bpd,hde->bphe", centred(x) / scales[layer], W[f"{at}.W_V"])
        z = torch.einsum("bhqk,bkhe->bqhe", patterns[layer], v)
        return torch.einsum("bqhe,hed->bqd", z, W[f"{at}.W_O"])

    def constant(layer):
        """Their value biases, which begin paths."""
        at = f"blocks.{layer}.attn"
        return torch.einsum("he,hed->d", W[f"{at}.b_V"], W[f"{at}.W_O"]).expand(3, 19, -1)

    embedded = W["embed.W_E"][tokens] + W["pos_embed.W_pos"][:19]
    # (order, layer it entered the residual stream before, what it is)
    parts = [(0, 0, embedded)]
    for layer in range(N_LAYERS):
        new = [(order + 1, layer + 1, through(layer, x)) for order, _, x in parts]
        new.append((1, layer + 1, constant(layer)))
        b_O = W[f"blocks.{layer}.attn.b_O"].expand(3, 19, -1)
        parts += [*new, (0, layer + 1, b_O)]
    last = scale(cache["resid_post", N_LAYERS - 1])
    found = il.circuits.term_importance(toy, tokens)
    for order in range(N_LAYERS + 1):
        residual = sum(x for n, _, x in parts if n <= order)
        expected = losses_of(centred(residual) / last @ W["unembed.W_U"], tokens)
        assert found.by_sequence[order].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_with_norms_as_they_fall_it_is_running_the_model_again(toy, tokens):
    """The published steps, on the model itself: outputs recorded, then put back."""
    logits, cache = cached(toy, tokens)
    z = [torch.zeros_like(cache["z", layer]) for layer in range(N_LAYERS)]
    found = il.circuits.term_importance(toy, tokens, freeze_norms=False)
    for order in range(N_LAYERS + 1):
        values = {}
        hooks = []
        for layer in range(N_LAYERS):

            def record(v, hook, layer=layer, values=values):
                values[layer] = v.clone()

            def put_back(own, hook, recorded=z[layer]):
                return recorded.clone()

            hooks += [(f"blocks.{layer}.attn.hook_v", record)]
            hooks += [(f"blocks.{layer}.attn.hook_z", put_back)]
        with torch.no_grad():
            logits = toy.run_with_hooks(tokens, fwd_hooks=hooks)
        expected = losses_of(logits, tokens)
        assert found.by_sequence[order].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
        z = [
            torch.einsum("bhqk,bkhe->bqhe", cache["pattern", layer], values[layer])
            for layer in range(N_LAYERS)
        ]


@pytest.mark.parametrize("freeze_norms", [True, False])
def test_all_orders_are_the_models_own_loss(toy, tokens, freeze_norms):
    found = il.circuits.term_importance(toy, tokens, freeze_norms=freeze_norms)
    own = il.per_token_loss(toy, tokens)[:, 1:].mean(1)
    assert found.by_sequence[-1].tolist() == pytest.approx(own.tolist(), abs=1e-5)
    assert found.losses[-1].value == pytest.approx(float(own.mean()), abs=1e-5)
    total = sum(effect.value for effect in found.effects)
    assert total == pytest.approx(found.losses[-1].value - found.losses[0].value, abs=1e-5)


def test_order_zero_is_the_direct_path(implementation, tokens):
    """Without positions and biases it is `W_E W_U` of the current token, and nothing else."""
    toy = random_toy(implementation, positions="rotary")
    weights = il.models.toy_weights(toy)
    with torch.no_grad():
        for name, weight in weights.items():
            if ".b_" in name:
                weight.zero_()
    direct = F.layer_norm(weights["embed.W_E"], [D_MODEL], eps=1e-5) @ weights["unembed.W_U"]
    expected = losses_of(direct[tokens].detach(), tokens)
    found = il.circuits.term_importance(toy, tokens, freeze_norms=False)
    assert found.by_sequence[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_mlps_are_refused_or_frozen(implementation, tokens):
    toy = random_toy(implementation, attn_only=False, d_mlp=17)
    with pytest.raises(ValueError, match="expected a model without MLPs"):
        il.circuits.term_importance(toy, tokens)
    found = il.circuits.term_importance(toy, tokens, freeze_mlps=True, freeze_norms=False)
    assert found.mlps_frozen
    _, cache = cached(toy, tokens)
    hooks = []
    for layer in range(N_LAYERS):
        mlp = cache["mlp_out", layer]
        hooks.append((f"blocks.{layer}.attn.hook_z", lambda z, hook: torch.zeros_like(z)))
        hooks.append((f"blocks.{layer}.hook_mlp_out", lambda out, hook, mlp=mlp: mlp.clone()))
    with torch.no_grad():
        logits = toy.run_with_hooks(tokens, fwd_hooks=hooks)
    expected = losses_of(logits, tokens).tolist()
    assert found.by_sequence[0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_hugging_face_models_with_frozen_mlps_end_at_their_own_loss(name):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, D_VOCAB, (2, 23), generator=generator)
    model = hugging_face_model(name)
    found = il.circuits.term_importance(model, tokens, freeze_mlps=True)
    own = il.per_token_loss(model, tokens)[:, 1:].mean(1)
    assert found.by_sequence[-1].tolist() == pytest.approx(own.tolist(), abs=1e-4)
    assert abs(found.effects[0].value) > 1e-3


def test_batches_change_nothing(toy, tokens):
    whole = il.circuits.term_importance(toy, tokens)
    alone = il.circuits.term_importance(toy, tokens, batch_size=1)
    assert torch.allclose(whole.by_sequence, alone.by_sequence, atol=1e-5)


def test_the_hand_set_circuit_is_a_path_of_one_head(circuit):
    """It copies embeddings: what two heads make is the pattern, the same at every order."""
    generator = torch.Generator().manual_seed(0)
    copies = 1 + torch.stack([torch.randperm(28, generator=generator)[:9] for _ in range(4)])
    tokens = torch.cat([torch.zeros(4, 1, dtype=torch.long), copies, copies], dim=1)
    found = il.circuits.term_importance(circuit, tokens)
    own = il.per_token_loss(circuit, tokens)[:, 1:].mean()
    assert found.losses[0].value == pytest.approx(math.log(29), abs=1e-4)  # reads no embedding
    assert found.losses[1].value == pytest.approx(float(own), abs=1e-3)
    assert found.losses[2].value == pytest.approx(float(own), abs=1e-5)


def test_what_comes_out(toy, tokens):
    text = il.models.TextTokens(
        tokens.repeat(3, 1), torch.arange(9)[:, None].expand(-1, 19).contiguous()
    )
    found = il.circuits.term_importance(toy, text)
    assert found.losses[0].n_documents == 9
    frame = found.to_frame()
    assert frame["order"].tolist() == [0, 1, 2, 3]
    assert math.isnan(frame["effect"][0])
    assert frame["effect"][1] == pytest.approx(frame["loss"][1] - frame["loss"][0], abs=1e-5)
    [bars] = found.plot().data
    assert list(bars.y) == frame["loss"].tolist()
    assert repr(found).startswith("TermImportance(loss by order: ")


def test_a_model_that_does_more_to_its_logits_is_refused(toy, tokens, monkeypatch):
    monkeypatch.setattr(
        "induction_lens.circuits.terms.losses_at",
        lambda model, batch, read: torch.zeros(len(batch), len(read)),
    )
    with pytest.raises(ValueError, match="expected all paths together to give"):
        il.circuits.term_importance(toy, tokens)
