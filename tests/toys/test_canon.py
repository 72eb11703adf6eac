"""Canon layers: loops, both classes, smeared keys as a special case, and what refuses them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import induction_lens as il
from induction_lens.models import InterventionError, toy_weights, weights_hash
from induction_lens.toys.canon import CanonLayer, convolved
from induction_lens.toys.forward import Cut, toy_logits
from induction_lens.toys.model import ToyConfig, build_toy, set_weights
from induction_lens.training.clamp import cutting

SIZES = {"n_layers": 2, "d_model": 24, "n_heads": 3, "d_vocab": 37, "n_ctx": 29}
KINDS = [("keys", 2), ("keys", 4), ("residual", 3), ("residual", 4)]
ONE_OF_EACH = [ToyConfig(**SIZES, canon=place, canon_width=3) for place in ("keys", "residual")]


def scrambled(config, implementation=None):
    """A toy in which every weight matters."""
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, weight in sorted(toy_weights(model).items()):
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def some_tokens(n=5, length=23):
    return torch.randint(37, (n, length), generator=torch.Generator().manual_seed(3))


def by_loops(x, factors):
    """The definition, position by position, of x [batch pos d]."""
    out = x.clone()
    for row in range(x.shape[0]):
        for position in range(x.shape[1]):
            for distance in range(factors.shape[1]):
                earlier = x[row, max(position - distance, 0)]
                out[row, position] += factors[:, distance] * earlier
    return out


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("n_pos", [1, 2, 7])
def test_a_canon_layer_equals_loops(width, n_pos):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, n_pos, 5, generator=generator)
    factors = torch.randn(5, width, generator=generator)
    assert (convolved(x, factors) - by_loops(x, factors)).abs().max() < 1e-6
    heads = x[:, :, None].expand(-1, -1, 3, -1)
    assert torch.allclose(
        convolved(heads, factors.expand(3, -1, -1))[:, :, 1], by_loops(x, factors)
    )
    assert CanonLayer((5,), width)(x).equal(x)


@pytest.mark.parametrize(("place", "width"), KINDS)
def test_the_fused_forward_equals_the_model(implementation, place, width):
    config = ToyConfig(**SIZES, canon=place, canon_width=width, attn_only=width == 4)
    model, tokens = scrambled(config, implementation), some_tokens()
    hooked, fused = model(tokens), toy_logits(toy_weights(model), config, tokens)
    assert (hooked - fused).abs().max() < 5e-5  # of logits of a few units, sharp patterns
    gradients = []
    for logits in (hooked, fused):
        model.zero_grad()
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        of = toy_weights(model, of=lambda parameter: parameter.grad)
        gradients.append({name: gradient.clone() for name, gradient in of.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() < 5e-5, name
    assert gradients[0][f"blocks.1.{'attn.' * (place == 'keys')}canon"].abs().max() > 1e-4


@pytest.mark.parametrize("place", ["keys", "residual"])
def test_a_whole_layer_equals_a_plain_one_on_what_the_layer_makes(implementation, place):
    """One block by hand: the canon layer, then attention of a model without one."""
    config = ToyConfig(**{**SIZES, "n_layers": 1}, canon=place, canon_width=3, positions="standard")
    model, tokens = scrambled(config, implementation), some_tokens(2, 9)
    w = {name: weight.detach() for name, weight in toy_weights(model).items()}
    residual = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:9]
    if place == "residual":
        residual = by_loops(residual, w["blocks.0.canon"])
    normal = F.layer_norm(residual, (24,))
    q, k, v = (
        torch.einsum("bpd,hdk->bphk", normal, w[f"blocks.0.attn.W_{x}"]) + w[f"blocks.0.attn.b_{x}"]
        for x in "QKV"
    )
    if place == "keys":
        heads = [by_loops(k[:, :, h], w["blocks.0.attn.canon"][h]) for h in range(3)]
        k = torch.stack(heads, dim=2)
    scores = torch.einsum("bqhk,bphk->bhqp", q, k) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    z = torch.einsum("bhqp,bphk->bqhk", scores.softmax(-1), v)
    left = residual + torch.einsum("bphk,hkd->bpd", z, w["blocks.0.attn.W_O"])
    left = left + w["blocks.0.attn.b_O"]
    logits = F.layer_norm(left, (24,)) @ w["unembed.W_U"]
    assert (model(tokens) - logits).abs().max() < 2e-5


def test_width_2_on_keys_with_factors_that_interpolate_is_smeared_keys(implementation):
    smeared = scrambled(ToyConfig(**SIZES, smeared_keys=True), implementation)
    canon = build_toy(
        ToyConfig(**SIZES, canon="keys", canon_width=2), implementation=implementation, device="cpu"
    )
    weights = {name: weight.detach().clone() for name, weight in toy_weights(smeared).items()}
    for layer in range(2):
        own = weights.pop(f"blocks.{layer}.attn.smear").sigmoid()
        factors = torch.stack([own - 1, 1 - own], dim=-1)[:, None].expand(3, 8, 2)
        weights[f"blocks.{layer}.attn.canon"] = factors.contiguous()
    set_weights(canon, weights)
    tokens = some_tokens()
    assert (canon(tokens) - smeared(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize("config", ONE_OF_EACH, ids=lambda config: config.canon)
def test_it_is_saved_copied_and_stays_when_hooks_are_reset(tmp_path, implementation, config):
    model, tokens = scrambled(config, implementation), some_tokens()
    before = model(tokens)
    model.reset_hooks()
    assert model(tokens).equal(before)
    saved = il.toys.save(model, tmp_path, step=1, tokens_seen=2)
    loaded = il.load(saved.path, device="cpu")
    assert il.toys.read_snapshot(saved.path).config == config
    assert (loaded(tokens) - before).abs().max() < 1e-5
    assert weights_hash(loaded) == weights_hash(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in toy_weights(copied).items():
            if name.endswith("canon"):
                weight.add_(1.0)
    assert (copied(tokens) - before).abs().max() > 0.01
    assert model(tokens).equal(before)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == sum(weight.numel() for weight in toy_weights(model).values())


@pytest.mark.parametrize("config", ONE_OF_EACH, ids=lambda config: config.canon)
@pytest.mark.parametrize("cut", [Cut(k_composition=True)])
def test_a_clamp_acts_on_it_as_without_hooks(implementation, config, cut):
    model, tokens = scrambled(config, implementation), some_tokens()
    with cutting(model, cut):
        hooked = model(tokens)
    fused = toy_logits(toy_weights(model), config, tokens, cut=cut)
    assert (hooked - fused).abs().max() < 1e-5
    assert (hooked - model(tokens)).abs().max() > 0.01


def test_without_k_composition_keys_are_those_of_a_model_whose_layer_0_writes_nothing():
    config = ONE_OF_EACH[1]
    model, tokens = scrambled(config, "bridge"), some_tokens()
    weights = {name: weight.detach().clone() for name, weight in toy_weights(model).items()}
    nothing = {
        f"blocks.0.attn.{x}": torch.zeros_like(weights[f"blocks.0.attn.{x}"])
        for x in ("W_O", "b_O")
    }
    set_weights(model, {**weights, **nothing})
    _, cache = model.run_with_cache(tokens)
    keys = cache["blocks.1.attn.hook_k"]
    set_weights(model, weights)
    expected = model.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.attn.hook_k", lambda _, hook: keys)]
    )
    with cutting(model, Cut(k_composition=True)):
        assert (model(tokens) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("config", ONE_OF_EACH, ids=lambda config: config.canon)
def test_detectors_and_losses_are_those_of_the_model_itself(implementation, config):
    model, tokens = scrambled(config, implementation), some_tokens()
    by_pattern = il.score_heads(model, tokens=tokens, attention="pattern", progress=False)
    auto = il.score_heads(model, tokens=tokens, detectors=["induction"], progress=False)
    found, expected = auto["induction"].values, by_pattern["induction"].values
    assert (found - expected).abs().max() < 1e-5
    own = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    losses = il.per_token_loss(model, tokens, progress=False)
    assert (losses[:, 1:] - own).abs().max() < 1e-4
    mask = il.detectors.target_mask(tokens, "induction")
    _, cache = model.run_with_cache(tokens)
    there = mask.any(2)
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        on_targets = (pattern * mask[:, None]).sum(3).transpose(0, 1)[:, there].mean(1)
        assert torch.allclose(on_targets.double(), expected[layer].double(), atol=1e-5)


def test_what_takes_the_residual_stream_for_a_sum_refuses_it():
    model = scrambled(ONE_OF_EACH[1])
    with pytest.raises(ValueError, match=r"expected a residual stream that is the sum .* rewrites"):
        il.circuits.composition(model)
    material = il.circuits.Material.of(model, n_sequences=2, n_texts=0)
    with pytest.raises(ValueError, match="a canon layer rewrites"):
        il.circuits.path_patch(model, "0.1", "1.1", material=material)
    with pytest.raises(InterventionError, match="a canon layer rewrites"):
        il.circuits.cut_edge(model, "1.1", senders=["0.1"], material=material)
    on_keys = scrambled(ONE_OF_EACH[0])
    assert il.circuits.composition(on_keys).raw.shape == (3, 2, 3, 2, 3)


@pytest.mark.usefixtures("_as_users_call")
def test_smeared_keys_and_canon_layers_on_keys_exclude_each_other():
    for wrong, message in (
        ({"canon": "keys", "smeared_keys": True}, "expected smeared keys or canon layers on keys"),
        ({"canon": "values"}, "expected canon to be"),
        ({"canon_width": 5}, "expected canon_width to be"),
        ({"canon_width": 1}, "expected canon_width to be"),
    ):
        with pytest.raises(ValueError, match=message):
            ToyConfig(**SIZES, **wrong)
    both = ToyConfig(**SIZES, canon="residual", smeared_keys=True)
    assert ToyConfig.from_dict(both.to_dict()) == both
    before = {k: v for k, v in both.to_dict().items() if not k.startswith("canon")}
    assert ToyConfig.from_dict(before).canon is None  # a configuration of an earlier version


@pytest.mark.parametrize("config", ONE_OF_EACH, ids=lambda config: config.canon)
def test_it_trains(config):
    model = build_toy(config, device="cpu")
    name = f"blocks.0.{'attn.' * (config.canon == 'keys')}canon"
    before = toy_weights(model)[name].detach().clone()
    assert before.std() == pytest.approx(1 / 3, rel=0.2)
    il.train(model, some_tokens(16), n_steps=3, batch_size=8, warmup=1, progress=False)
    assert (toy_weights(model)[name] - before).abs().max() > 1e-4
