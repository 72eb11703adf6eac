from __future__ import annotations

import pytest
import torch

from induction_lens import models
from induction_lens.models import InterventionError, hook_name, installed
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import hugging_face_model


def _toy(implementation):
    config = ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=17, n_ctx=13)
    return build_toy(config, implementation=implementation, device="cpu")


TOKENS = torch.tensor([[0, 3, 5, 7, 11]])


def test_a_hook_acts_once_for_each_pass_and_is_gone_afterwards(implementation):
    model = _toy(implementation)
    clean = model(TOKENS)
    calls = []

    def double(z):
        calls.append(z.shape)
        return 2 * z

    with installed(model, [(hook_name("z", 0), double)]):
        changed = model(TOKENS)
    assert calls == [torch.Size([1, 5, 3, 4])]
    assert not torch.equal(clean, changed)
    assert torch.equal(clean, model(TOKENS))


def test_compatibility_mode_does_not_call_a_hook_under_two_names():
    model = hugging_face_model("gpt2")
    calls = []
    with installed(model, [(hook_name("z", 0), lambda z: calls.append(1))]):
        model(TOKENS)
    assert calls == [1]


def test_a_missing_hook_point_is_named(implementation):
    with (
        pytest.raises(ValueError, match=r"hook points blocks\.7\.attn\.hook_z, got a"),
        installed(_toy(implementation), [(hook_name("z", 7), lambda z: None)]),
    ):
        pass


def test_a_hook_that_never_fires_is_an_error(implementation):
    model = _toy(implementation)
    hooks = [(hook_name("z", layer), lambda z: None) for layer in (0, 1)]
    with (
        pytest.raises(InterventionError, match=r"but blocks\.1\.attn\.hook_z never did"),
        installed(model, hooks),
    ):
        model(torch.tensor([[0, 1]]), stop_at_layer=1)


def test_a_block_without_a_forward_pass_says_so(implementation):
    model = _toy(implementation)
    with (
        pytest.raises(InterventionError, match=r"expected a forward pass of the model inside"),
        installed(model, [(hook_name("z", 1), lambda z: None)]),
    ):
        pass


def test_an_error_inside_the_block_is_the_one_that_is_seen(implementation):
    model = _toy(implementation)
    with (
        pytest.raises(ZeroDivisionError),
        installed(model, [(hook_name("z", 1), lambda z: None)]),
    ):
        raise ZeroDivisionError
    assert model.hook_dict[hook_name("z", 1)].fwd_hooks == []


def test_the_models_mode_is_restored(implementation):
    model = _toy(implementation)
    model.train()
    with models.running(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert torch.is_grad_enabled()
    model.eval()
    with models.running(model):
        pass
    assert not model.training


def test_a_replaced_forward_is_put_back(implementation):
    model = _toy(implementation)
    seen = []
    with models.before_forward(model, lambda call: seen.append(call.again().shape)):
        model(TOKENS)
        model.run_with_cache(TOKENS)
        with models.before_forward(model, lambda call: None):
            model(TOKENS)
        model(TOKENS)
    model(TOKENS)
    assert seen == [model(TOKENS).shape] * 4


def test_what_a_call_says_does_not_depend_on_how_it_is_passed():
    model = _toy("hooked" if models.HAS_HOOKED_TRANSFORMER else "bridge")
    calls, mask = [], torch.ones_like(TOKENS)
    with models.before_forward(model, calls.append):
        model(TOKENS, attention_mask=mask)
        model(TOKENS, "logits", False, None, "right", attention_mask=mask)
        model(input=TOKENS)
        model.run_with_cache(TOKENS, attention_mask=1 - mask // 2)
    assert [call.columns_are_positions for call in calls] == [True] * 4
    assert [(call.n_earlier, call.uses_cache) for call in calls] == [(0, False)] * 4


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="a HookedTransformer or a TransformerBridge, got Linear"):
        models.shape(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", models.ModelShape(2, 3, 3, 33, 11, 311, 67)),
        ("llama", models.ModelShape(2, 6, 2, 48, 8, 311, 67)),
        ("neox", models.ModelShape(2, 3, 3, 48, 16, 311, 67)),
    ],
)
def test_shapes_of_pretrained_models(name, expected):
    assert models.shape(hugging_face_model(name)) == expected


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_folded_weights_give_the_models_own_logits(name):
    """Unembedding with the final norm folded in, times the normalised residual, are the logits."""
    model = hugging_face_model(name)
    last = models.shape(model).n_layers - 1
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    residual = cache[hook_name("resid_post", last)]
    scale = cache[models.FINAL_SCALE]
    found = residual / scale @ models.unembedding(model)
    bias = logits - found
    # what is left is the unembedding's bias: the same at every position
    assert (bias - bias[:, :1]).abs().max() < 1e-4
    assert found.std() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_folded_value_weights_give_the_models_own_values(name):
    model = hugging_face_model(name)
    sizes = models.shape(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    for layer in range(sizes.n_layers):
        residual = cache[hook_name("resid_pre", layer)]
        scale = cache[f"blocks.{layer}.ln1.hook_scale"]
        W_V = models.value_weights(model, layer)
        found = torch.einsum("bpd,hde->bphe", residual / scale, W_V)
        value = cache[hook_name("v", layer)]
        value = value.repeat_interleave(sizes.n_heads // value.shape[2], dim=2)
        bias = value - found
        assert (bias - bias[:, :1]).abs().max() < 1e-4


def test_batches_stay_within_the_memory_budget():
    model = hugging_face_model("llama")
    for length in (10, 67):
        size = models.batch_size_for(model, length)
        per_sequence = 4 * length * 3 * 6 * length
        assert size * per_sequence <= 48 * 2**20 < (size + 1) * per_sequence
    # fused: the widest activation, the MLP's 50, within 4 MiB
    assert models.positions_for(model) == 4 * 2**20 // (4 * 50)
    assert models.batch_size_for(model, 67, fused=True) == 4 * 2**20 // (4 * 50) // 67


def test_the_weights_hash_tells_models_apart():
    one, same, other = _toy("bridge"), _toy("bridge"), hugging_face_model("gpt2")
    assert models.weights_hash(one) == models.weights_hash(same) != models.weights_hash(other)
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-3
    assert models.weights_hash(one) != models.weights_hash(same)
