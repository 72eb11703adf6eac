"""Toy models: the same numbers in every class, with and without hooks, smeared or not."""

import inspect
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from induction_lens.models import HAS_HOOKED_TRANSFORMER, new_transformer, toy_weights, weights_hash
from induction_lens.toys.forward import toy_logits
from induction_lens.toys.model import (
    SmearedKey,
    ToyConfig,
    build_toy,
    set_weights,
    smear,
    toy_config,
)

SIZES: dict[str, Any] = {"n_layers": 2, "d_model": 24, "n_heads": 3, "d_vocab": 37, "n_ctx": 29}

# Every kind of toy in every class that can hold it.
KINDS = [
    (implementation, positions, smeared, attn_only)
    for implementation, positions, smeared, attn_only in itertools.product(
        ["hooked", "bridge"], ["rotary", "standard", "shortformer"], [False, True], [True, False]
    )
    if (implementation == "bridge" and positions != "shortformer")
    or (implementation == "hooked" and HAS_HOOKED_TRANSFORMER)
]


def _scrambled(config: ToyConfig, implementation: Any, *, scale: float = 0.3):
    """A toy whose every weight, biases and smears included, matters."""
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, weight in sorted(toy_weights(model).items()):
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return model


def _tokens(n: int = 5, length: int = 23) -> torch.Tensor:
    return torch.randint(37, (n, length), generator=torch.Generator().manual_seed(3))


def _gradients(model, logits, tokens):
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    return {name: g.clone() for name, g in toy_weights(model, of=lambda p: p.grad).items()}


@pytest.mark.parametrize(("implementation", "positions", "smeared", "attn_only"), KINDS)
def test_the_fused_forward_equals_the_model(implementation, positions, smeared, attn_only):
    config = ToyConfig(**SIZES, positions=positions, smeared_keys=smeared, attn_only=attn_only)
    model, tokens = _scrambled(config, implementation), _tokens()
    hooked, fused = model(tokens), toy_logits(toy_weights(model), config, tokens)
    assert (hooked - fused).abs().max() < 1e-5
    assert hooked.std() > 0.5
    expected, found = _gradients(model, hooked, tokens), _gradients(model, fused, tokens)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (gradient - found[name]).abs().max() < 1e-5, name
        if not name.endswith(("b_K", "b_Q", "smear")):  # those are small by nature
            assert gradient.abs().max() > 1e-4, name


@pytest.mark.parametrize("smeared", [False, True])
@pytest.mark.parametrize("attn_only", [False, True])
@pytest.mark.parametrize("positions", ["rotary", "standard"])
def test_the_same_weights_give_the_same_logits_in_every_class(positions, attn_only, smeared):
    config = ToyConfig(**SIZES, positions=positions, attn_only=attn_only, smeared_keys=smeared)
    bridge, tokens = _scrambled(config, "bridge"), _tokens()
    # The default class: HookedTransformer where there is one.
    for other in [build_toy(config, device="cpu")]:
        assert (other(tokens) - bridge(tokens)).abs().max() > 0.1
        set_weights(other, toy_weights(bridge))
        assert (other(tokens) - bridge(tokens)).abs().max() < 1e-5
        assert weights_hash(other) == weights_hash(bridge)


def test_one_seed_gives_one_model_in_every_class(implementation):
    config = ToyConfig(**SIZES, seed=11)
    state = torch.get_rng_state()
    model = build_toy(config, implementation=implementation, device="cpu")
    assert torch.get_rng_state().equal(state)  # nobody else's draws change
    generator = torch.Generator().manual_seed(11)
    first = torch.randn(37, 24, generator=generator) * (0.8 / math.sqrt(24))
    weights = toy_weights(model)
    assert torch.allclose(weights["embed.W_E"], first, rtol=1e-6)
    assert weights["blocks.0.attn.W_Q"].shape == (3, 24, 8)
    second = torch.randn(3, 24, 8, generator=generator) * (0.8 / math.sqrt(24))
    assert torch.allclose(weights["blocks.0.attn.W_Q"], second, rtol=1e-6)
    assert all(bool((w == 0).all()) for name, w in weights.items() if ".b_" in name)
    assert not weights["unembed.W_U"].equal(
        toy_weights(
            build_toy(ToyConfig(**SIZES, seed=12), implementation=implementation, device="cpu")
        )["unembed.W_U"]
    )


def test_weights_are_views_of_every_trainable_parameter(implementation):
    config = ToyConfig(**SIZES, attn_only=False, smeared_keys=True, positions="standard")
    model = build_toy(config, implementation=implementation, device="cpu")
    trainable = [p for p in model.parameters() if p.requires_grad]
    weights = toy_weights(model)
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in trainable)
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(0.25)
    assert all(bool((p == 0.25).all()) for p in trainable)


def _loop_logits(model, config: ToyConfig, tokens: torch.Tensor) -> torch.Tensor:
    """An attention-only rotary toy, written as loops over positions and heads."""
    w = {name: weight.detach() for name, weight in toy_weights(model).items()}
    d = config.head_width
    rates = 10000.0 ** (-torch.arange(0, d, 2) / d)

    def turn(x, position):
        out = x.clone()
        for pair in range(d // 2):
            c, s = torch.cos(position * rates[pair]), torch.sin(position * rates[pair])
            a, b = x[2 * pair], x[2 * pair + 1]
            out[2 * pair], out[2 * pair + 1] = a * c - b * s, a * s + b * c
        return out

    def norm(x):
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()

    rows = [w["embed.W_E"][token] for token in tokens]
    for layer in range(config.n_layers):
        at = f"blocks.{layer}.attn."
        normal = [norm(row) for row in rows]
        new = [row + w[at + "b_O"] for row in rows]
        for head in range(config.n_heads):
            q, k, v = (
                [row @ w[f"{at}W_{x}"][head] + w[f"{at}b_{x}"][head] for row in normal]
                for x in "QKV"
            )
            own = 1 / (1 + math.exp(-w[at + "smear"][head].item()))
            keys = [k[0]] + [own * k[j] + (1 - own) * k[j - 1] for j in range(1, len(k))]
            for i in range(len(rows)):
                scores = [turn(q[i], i) @ turn(keys[j], j) / math.sqrt(d) for j in range(i + 1)]
                pattern = torch.softmax(torch.stack(scores), 0)
                mixed = pattern @ torch.stack(v[: i + 1])
                new[i] = new[i] + mixed @ w[at + "W_O"][head]
        rows = new
    return torch.stack([norm(row) @ w["unembed.W_U"] for row in rows])


def test_a_smeared_toy_equals_loops(implementation):
    config = ToyConfig(
        n_layers=2, d_model=12, n_heads=3, d_vocab=37, n_ctx=7, smeared_keys=True, smear_init=0.4
    )
    model, tokens = _scrambled(config, implementation), _tokens(1, 7)
    assert (model(tokens)[0] - _loop_logits(model, config, tokens[0])).abs().max() < 1e-5


def test_smeared_keys_by_hand():
    keys = torch.tensor([[[[8.0, 0.0]], [[0.0, 4.0]], [[2.0, 2.0]]]])
    quarter = torch.tensor([-math.log(3.0)])  # σ = 1/4
    expected = torch.tensor([[[[8.0, 0.0]], [[6.0, 1.0]], [[0.5, 3.5]]]])
    assert torch.allclose(smear(keys, quarter), expected, atol=1e-6)
    module = SmearedKey(1, init=-math.log(3.0))
    assert torch.allclose(module(keys), expected, atol=1e-6)
    assert smear(keys, torch.tensor([0.3]))[:, 0].equal(keys[:, 0])


def test_with_alpha_large_a_smeared_model_is_the_plain_one(implementation):
    plain = _scrambled(ToyConfig(**SIZES), implementation)
    smeared = build_toy(
        ToyConfig(**SIZES, smeared_keys=True), implementation=implementation, device="cpu"
    )
    tokens, weights = _tokens(), toy_weights(plain)
    for alpha, same in ((30.0, True), (0.0, False)):
        alphas = {f"blocks.{layer}.attn.smear": torch.full((3,), alpha) for layer in range(2)}
        set_weights(smeared, {**weights, **alphas})
        gap = (smeared(tokens) - plain(tokens)).abs().max()
        assert gap < 1e-5 if same else gap > 0.01


def test_the_smear_survives_reset_hooks_and_is_seen_by_the_key_hook(implementation):
    config = ToyConfig(**SIZES, smeared_keys=True, smear_init=0.0)
    model, tokens = _scrambled(config, implementation), _tokens()
    before = model(tokens)
    model.reset_hooks()
    assert model(tokens).equal(before)
    set_weights(
        model,
        {
            name: torch.full_like(w, 30.0) if name.endswith("smear") else w.clone()
            for name, w in toy_weights(model).items()
        },
    )
    assert (model(tokens) - before).abs().max() > 0.01


def test_widths_follow_from_others():
    assert ToyConfig().head_width == 32
    assert ToyConfig(d_model=30, n_heads=5, d_head=8).head_width == 8
    assert ToyConfig(attn_only=False).d_mlp == 512
    assert ToyConfig().d_mlp is None
    config = ToyConfig(n_layers=3, attn_only=False, positions="standard", smeared_keys=True, seed=5)
    assert ToyConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 0}, "n_layers to be a whole number from 1 to 48, got 0"),
        (
            {"distance_bias": 1.0, "positions": "standard"},
            "rotary positions with distance_bias, got 'standard'",
        ),
        ({"n_layers": 49}, "n_layers to be a whole number from 1 to 48, got 49"),
        ({"d_vocab": 0}, "d_vocab to be a whole number from 1 to 1048576, got 0"),
        ({"n_heads": 5}, "multiple of n_heads, got 128 and 5"),
        ({"d_head": 7}, "even for rotary positions, got 7"),
        ({"d_head": 0}, "d_head to be a whole number from 1 .*, got 0"),
        ({"d_mlp": 64}, "no d_mlp with attn_only=True, got 64"),
        ({"d_mlp": 0, "attn_only": False}, "d_mlp to be a whole number from 1 .*, got 0"),
        ({"layers": 2}, "expected fields of ToyConfig, got layers; did you mean 'n_layers'"),
        ({"smear_init": float("nan")}, "smear_init to be a finite number"),
        ({"aligned_unembed": 1.5}, "aligned_unembed to be a finite number of at least 0 and of at"),
        ({"seed": -1}, "expected seed to be a whole number from 0"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ToyConfig.from_dict(options)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_layers", 1.5),
        ("n_layers", True),
        ("d_model", "64"),
        ("n_heads", None),
        ("d_head", 8.0),
        ("d_vocab", 2**40),
        ("n_ctx", [5]),
        ("attn_only", 1),
        ("attn_only", "no"),
        ("d_mlp", "wide"),
        ("positions", 3),
        ("smeared_keys", None),
        ("smear_init", "0"),
        ("distance_bias", 1j),
        ("aligned_unembed", False),
        ("seed", "a"),
    ],
)
def test_fields_of_other_types_are_refused(name, value):
    with pytest.raises(ValueError, match=f"expected {name} to be .*, got .*; "):
        ToyConfig(**{name: value})


@pytest.mark.usefixtures("_as_users_call")
def test_numbers_of_numpy_become_those_of_python():
    config = ToyConfig(n_layers=np.int64(2), seed=torch.tensor(3), smear_init=np.float32(0.5))
    assert config == ToyConfig(n_layers=2, seed=3, smear_init=0.5)
    assert json.loads(json.dumps(config.to_dict())) == ToyConfig(seed=3, smear_init=0.5).to_dict()


def test_unknown_positions_are_refused():
    config = ToyConfig()
    # Past the type checks of the test run, which users do not have.
    object.__setattr__(config, "positions", "alibi")
    with pytest.raises(ValueError, match="rotary, standard, shortformer, got 'alibi'"):
        config.__post_init__()


def test_what_the_installed_transformer_lens_cannot_build_is_refused(monkeypatch):
    config = ToyConfig(**SIZES, positions="shortformer")
    with pytest.raises(ValueError, match="which only HookedTransformer has"):
        build_toy(config, implementation="bridge", device="cpu")
    monkeypatch.setattr("induction_lens.models.from_scratch.HAS_HOOKED_TRANSFORMER", False)
    with pytest.raises(ValueError, match="has no HookedTransformer"):
        build_toy(ToyConfig(**SIZES), implementation="hooked", device="cpu")
    with pytest.raises(ValueError, match="expected implementation to be one of hooked, bridge"):
        # Past the type checks of the test run, which users do not have.
        inspect.unwrap(new_transformer)(
            n_layers=1,
            d_model=4,
            n_heads=1,
            d_head=4,
            d_vocab=5,
            n_ctx=6,
            d_mlp=None,
            positions="rotary",
            implementation="flax",
        )


def test_weights_that_do_not_fit_are_refused(implementation):
    model = build_toy(ToyConfig(**SIZES), implementation=implementation, device="cpu")
    weights = {name: w.detach().clone() for name, w in toy_weights(model).items()}
    with pytest.raises(ValueError, match=r"missing \['embed.W_E'\]"):
        set_weights(model, {name: w for name, w in weights.items() if name != "embed.W_E"})
    with pytest.raises(ValueError, match=r"unknown \['more'\]"):
        set_weights(model, {**weights, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"unembed.W_U of shape \(24, 37\), got \(3,\)"):
        set_weights(model, {**weights, "unembed.W_U": torch.zeros(3)})
    with pytest.raises(ValueError, match="expected a toy model, got Linear"):
        toy_config(torch.nn.Linear(2, 3))


def test_dtype_reaches_every_weight(implementation):
    config = ToyConfig(**SIZES, smeared_keys=True)
    model = build_toy(config, implementation=implementation, device="cpu", dtype=torch.float64)
    assert {w.dtype for w in toy_weights(model).values()} == {torch.float64}
    single = build_toy(config, implementation=implementation, device="cpu")
    gap = (model(_tokens()) - single(_tokens())).abs().max()
    assert 0 < gap < 1e-4


def test_heads_start_with_a_preference_for_the_distance_of_their_number():
    plain = toy_weights(build_toy(ToyConfig(), device="cpu"))
    assert all((plain[f"blocks.{i}.attn.b_{c}"] == 0).all() for i in range(2) for c in "QKVO")
    model = build_toy(ToyConfig(distance_bias=2.0), device="cpu")
    weights = toy_weights(model)
    for layer in range(2):
        assert abs(weights[f"blocks.{layer}.attn.b_Q"].std().item() - 2.0) < 0.4
        assert all((weights[f"blocks.{layer}.attn.b_{kind}"] == 0).all() for kind in "VO")
        for kind in "QK":  # leave only the biases
            weights[f"blocks.{layer}.attn.W_{kind}"].data.zero_()
    _, cache = model.run_with_cache(torch.randint(5, 100, (1, 40)))
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        for head in range(4):
            distances = torch.arange(10, 40) - pattern[head, 10:].argmax(-1)
            assert (distances == head).all()


def test_the_unembedding_starts_with_a_share_of_the_embedding():
    config = ToyConfig(d_vocab=1024, aligned_unembed=0.25)
    set_out = toy_weights(build_toy(config, device="cpu"))
    embedding, unembedding = set_out["embed.W_E"], set_out["unembed.W_U"]
    rest = (unembedding - 0.25 * embedding.T) / 0.75  # what was drawn for the unembedding itself
    assert abs(rest.std().item() * 128**0.5 / 0.8 - 1) < 0.02
    correlation = torch.corrcoef(torch.stack([rest.flatten(), embedding.T.flatten()]))[0, 1]
    assert abs(correlation.item()) < 0.02


@pytest.mark.parametrize(
    ("field", "value"),
    [("distance_bias", -1.0), ("aligned_unembed", 1.5), ("aligned_unembed", -0.1)],
)
def test_where_weights_start_is_checked(field, value):
    with pytest.raises(ValueError, match=f"expected {field} .*got {value}"):
        ToyConfig(**{field: value})
