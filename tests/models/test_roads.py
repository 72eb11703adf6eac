"""Both roads through a model give the same numbers, whatever the model is and whatever hangs on it.

A model is run layer by layer where its settings, and what hangs on its parts, allow that
(`models.fitness`), and otherwise as one. Here the second road is plain code of this file.
"""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers

from induction_lens import metrics
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.detectors import score_heads
from induction_lens.detectors.attention import target_mask
from induction_lens.heads import Head
from induction_lens.models import fitness, run
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.hf_folders import loaded_from_config

N_POS = 131


def _toy(implementation, seed=0, **changes):
    options = {"n_layers": 2, "d_model": 24, "n_heads": 3, "d_head": 8, "d_vocab": 61}
    config = ToyConfig(**{**options, "n_ctx": 160, "seed": seed, **changes})
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


def _tokens(d_vocab, n_pos=N_POS, n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, d_vocab, (n, n_pos), generator=generator)
    tokens[:, n_pos // 2 :] = tokens[:, : n_pos - n_pos // 2].roll(-1, 1)
    tokens[:, 0] = 0
    return tokens


def plain_losses(model, tokens):
    """The losses by the model's own logits."""
    with torch.no_grad():
        logits = model(tokens)[:, :-1].float()
    return F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")


def plain_induction(model, tokens):
    """[layer head]: the attention on the tokens after earlier copies, from the model's patterns."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    mask = target_mask(tokens, "induction")
    counted = mask.any(-1)
    scores = []
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        mass = (pattern * mask[:, None]).sum(-1)
        scores.append((mass * counted[:, None]).sum((0, 2)) / counted.sum())
    return torch.stack(scores)


def plain_effects(model, tokens, early, late):
    """[layer head]: what zeroing each head changes in the ICL score."""
    before = plain_losses(model, tokens)
    effects = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def zero(z, hook, head=head):
                z = z.clone()
                z[:, :, head] = 0
                return z

            point = model.hook_dict[f"blocks.{layer}.attn.hook_z"]
            point.add_hook(zero, level=-7)
            change = plain_losses(model, tokens) - before
            point.remove_hooks("fwd", level=-7)
            effects[layer, head] = (change[:, late - 1] - change[:, early - 1]).mean()
    return effects


ZERO = dict(method="zero", estimator="paper", progress=False)


def agree(model, tokens, *, layer_by_layer=None):
    """Assert that what users call gives what the plain code gives, and which road it takes."""
    if layer_by_layer is not None:
        with run(model, tokens, unembeds=True) as road:
            assert (road.why_whole is None) == layer_by_layer
    losses = metrics.per_token_loss(model, tokens, progress=False)[:, 1:]
    assert torch.allclose(losses, plain_losses(model, tokens), atol=2e-4, rtol=1e-4)
    found = score_heads(
        model, tokens=tokens, detectors=["induction"], shuffled_null=False, progress=False
    )
    expected = plain_induction(model, tokens)
    assert torch.allclose(found["induction"].values, expected, atol=1e-5)
    last = tokens.shape[1] - 2
    effects = ablate_each_head(model, tokens, early=9, late=last, **ZERO)
    assert torch.allclose(effects.values, plain_effects(model, tokens, 9, last), atol=5e-4)


RANDOM = random.Random(0)
TOYS = [
    dict(
        seed=seed,
        n_layers=RANDOM.choice([1, 2, 3]),
        n_heads=RANDOM.choice([1, 2, 5]),
        d_head=RANDOM.choice([4, 6, 10]),
        d_model=RANDOM.choice([12, 20, 36]),
        attn_only=RANDOM.choice([True, False]),
        smeared_keys=RANDOM.choice([True, False]),
        positions=RANDOM.choice(["rotary", "standard"]),
    )
    for seed in range(6)
]


@pytest.mark.parametrize("changes", TOYS, ids=str)
def test_random_toys(implementation, changes):
    model = _toy(implementation, **changes)
    agree(model, _tokens(61), layer_by_layer=True)


SIZES = dict(
    num_hidden_layers=2,
    num_attention_heads=4,
    hidden_size=32,
    intermediate_size=40,
    vocab_size=97,
    max_position_embeddings=160,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=0,
)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    original_max_position_embeddings=130,
    factor=2.0,
    short_factor=[1.0, 1.2, 1.5, 2.0],
    long_factor=[3.0, 5.0, 2.0, 9.0],
)
PLAIN, SPECIAL = True, False
CONFIGS = {
    "llama": (transformers.LlamaConfig(**SIZES, num_key_value_heads=2), PLAIN),
    "longrope": (transformers.LlamaConfig(**SIZES, rope_parameters=LONGROPE), SPECIAL),
    "olmo": (transformers.OlmoConfig(**SIZES), PLAIN),
    "olmo clipped": (transformers.OlmoConfig(**SIZES, clip_qkv=2.6), SPECIAL),
    "mistral": (
        transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=131),
        PLAIN,
    ),
    "mistral windowed": (
        transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=100),
        SPECIAL,
    ),
    "gpt2": (
        transformers.GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=97, n_positions=160),
        PLAIN,
    ),
    "neox": (transformers.GPTNeoXConfig(**SIZES), PLAIN),
    "phi": (transformers.PhiConfig(**SIZES), PLAIN),  # one norm for attention and the MLP
    "gemma2": (
        transformers.Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=2, sliding_window=100),
        SPECIAL,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hugging_face_architectures(name):
    """At full length: windows, clips and factors that begin later than a short check could see."""
    config, layer_by_layer = CONFIGS[name]
    model = loaded_from_config(config)
    agree(model, _tokens(97), layer_by_layer=layer_by_layer)


@pytest.mark.parametrize("config", [CONFIGS["llama"][0], CONFIGS["phi"][0]], ids=["llama", "phi"])
def test_queries_are_projected_with_and_without_biases(config):
    """No hook has to stop a block: bridges have None where a model has no biases."""
    model, tokens = loaded_from_config(config), _tokens(97)
    with torch.no_grad():
        expected = model(tokens)
    with run(model, tokens, unembeds=True) as road:
        assert road.hooks() == []
        logits = road.unembed(road.final_norm(road.through(tokens)))
    assert torch.allclose(logits, expected, atol=1e-5, rtol=1e-5)


def _late_hook(x, hook):
    x = x.clone()
    x[:, 120:] *= 3
    return x


def _late_torch_hook(module, args, output):
    output = output.clone()
    output[:, 120:] *= 3
    return output


SITES = ["blocks.1.hook_resid_pre", "blocks.0.attn.hook_v", "ln_final.hook_normalized"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("permanent", [False, True])
def test_a_hook_that_acts_late(implementation, site, permanent):
    model = _toy(implementation)
    model.hook_dict[site].add_hook(_late_hook, is_permanent=permanent)
    clean = plain_losses(_toy(implementation), _tokens(61))
    assert not torch.allclose(plain_losses(model, _tokens(61)), clean)
    agree(model, _tokens(61), layer_by_layer=False)


def test_a_hook_on_the_logits_that_acts_late(implementation):
    """The logits of other positions are left out elsewhere; here the hook has to see them all."""
    model = _toy(implementation)
    model.hook_dict["unembed.hook_out"].add_hook(_late_hook)
    agree(model, _tokens(61))


@pytest.mark.parametrize("part", ["ln1", "attn.hook_z"])
def test_a_torch_hook_that_acts_late(implementation, part):
    model = _toy(implementation)
    model.blocks[1].get_submodule(part).register_forward_hook(_late_torch_hook)
    agree(model, _tokens(61), layer_by_layer=False)


def test_a_forward_that_was_replaced(implementation):
    model = _toy(implementation, attn_only=False)
    mlp = model.blocks[0].mlp
    own = mlp.forward
    # into its dictionary: bridges pass what is set as an attribute on to the module that they wrap
    vars(mlp)["forward"] = lambda *args, **kwargs: _late_torch_hook(mlp, args, own(*args, **kwargs))
    agree(model, _tokens(61), layer_by_layer=False)


def test_a_global_hook(implementation):
    model = _toy(implementation)
    name = type(model.blocks[1].ln1)

    def hook(module, args, output):
        return _late_torch_hook(module, args, output) if type(module) is name else None

    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        agree(model, _tokens(61), layer_by_layer=False)
    finally:
        handle.remove()


def test_a_part_of_the_users_own(implementation):
    class Late(torch.nn.Identity):
        def forward(self, x):
            return _late_torch_hook(self, (), x)

    model = _toy(implementation)
    if implementation == "hooked":
        model.blocks[1].attn.hook_z = torch.nn.Sequential(model.blocks[1].attn.hook_z, Late())
    else:
        model.blocks[1].attn.add_module("late", Late())
    assert "Late is a module of" in fitness.foreign_code(model)


def test_a_tokenizer_that_pads_on_the_left(implementation):
    """HookedTransformer then masks tokens like its padding at the beginning of a row."""
    import induction_lens as il

    model = il.load("toy-2l-narrow", device="cpu", implementation=implementation)
    tokens = il.text_tokens(model, n_sequences=2, seq_len=140)
    tokens[1, 1] = 0
    ones = torch.ones_like(tokens)
    usual = metrics.per_token_loss(model, tokens, mask=ones, progress=False)
    assert torch.allclose(usual[:, 1:], plain_losses(model, tokens), atol=1e-4)
    model.tokenizer.padding_side = "left"
    found = metrics.per_token_loss(model, tokens, mask=ones, progress=False)
    assert torch.equal(found[:, 1:], usual[:, 1:])
    assert model.tokenizer.padding_side == "left"


def test_capped_logits(implementation):
    """A cap that hardly shows on small logits, and does on large ones."""
    model = _toy(implementation)
    model.cfg.output_logits_soft_cap = 3.0  # which a native bridge does not apply
    losses = metrics.per_token_loss(model, _tokens(61), progress=False)[:, 1:]
    assert torch.allclose(losses, plain_losses(model, _tokens(61)), atol=1e-4)


def test_heads_of_the_last_layer(implementation):
    """One head, alone, at the end: nothing after it could hide a fault."""
    model, tokens = _toy(implementation, n_layers=1, n_heads=2), _tokens(61)
    effects = ablate_each_head(model, tokens, early=1, late=130, **ZERO)
    assert torch.allclose(effects.values, plain_effects(model, tokens, 1, 130), atol=2e-4)
    assert effects[Head(0, 1)] != 0
