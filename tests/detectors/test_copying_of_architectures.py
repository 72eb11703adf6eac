"""Copying scores of architectures, from plain Hugging Face code: what a head writes to the logits.

A norm's weight is what the norm itself makes of its input, so that no convention of a library
(`weight`, or `1 + weight`) goes into the reference.
"""

from __future__ import annotations

import pytest
import torch

from induction_lens import detectors
from induction_lens.models import load_pretrained, unlike_written
from induction_lens.tasks.attribution import LiteralAttributionHeads
from tests.architectures.cases import CASES
from tests.architectures.tiny import load_plain, sample_tokens, write_folder

ADDED_TO_ONE = ("gemma", "nemotron")
"""Norms that keep what they add to one."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each architecture, plain and hooked, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("model")
            write_folder(CASES[name], folder)
            made[name] = load_plain(folder), load_pretrained(str(folder), device="cpu", check=False)
        return made[name]

    return of


@torch.no_grad()
def _multiplied_by(norm, d_model):
    """What a norm multiplies each dimension by, once it has divided by the scale."""
    x = torch.linspace(-1, 1, d_model)
    made = norm(torch.stack([x, torch.zeros_like(x)])[None])[0]
    return (made[0] - made[1]) * x.square().mean().sqrt() / x


@torch.no_grad()
def _copying(plain, tokens):
    """The copying score of every head, source by source."""
    seen, hooks = {}, []

    def keep(name):
        return lambda module, inputs, output: seen.update({name: (inputs[0], output)})

    layers = plain.model.layers
    for number, layer in enumerate(layers):
        hooks.append(layer.self_attn.v_proj.register_forward_hook(keep(number)))
    hooks.append(plain.model.norm.register_forward_hook(keep("norm")))
    patterns = plain(tokens, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    entering, _ = seen["norm"]
    centres = "LayerNorm" in type(plain.model.norm).__name__
    if centres:
        entering = entering - entering.mean(-1, keepdim=True)
    scale = entering.square().mean(-1).sqrt()
    W_U = _multiplied_by(plain.model.norm, entering.shape[-1])[:, None] * plain.lm_head.weight.T
    if centres:
        W_U = W_U - W_U.mean(0, keepdim=True)
    W_U = W_U - W_U.mean(1, keepdim=True)
    n_heads = plain.config.num_attention_heads
    scores = torch.zeros(len(layers), n_heads)
    for number, layer in enumerate(layers):
        W_O = layer.self_attn.o_proj.weight.T
        d_head = len(W_O) // n_heads
        values = seen[number][1].unflatten(-1, (-1, d_head))
        for head in range(n_heads):
            value = values[:, :, head * values.shape[2] // n_heads]
            written = value @ W_O[head * d_head : (head + 1) * d_head] @ W_U
            own = total = chance = 0.0
            for row, ids in enumerate(tokens):
                distinct = ids[1:].unique()
                chance += 1 / len(distinct) / len(tokens)
                raised = written[row].relu()
                pattern = patterns[number][row, head, 1:, 1:] / scale[row, 1:, None]
                weight = pattern.sum(0)
                own += (weight * raised[torch.arange(1, len(ids)), ids[1:]]).sum()
                total += (weight * raised[1:, distinct].sum(-1)).sum()
            share = own / total
            scores[number, head] = (share - chance) / (1 - chance if share >= chance else chance)
    return scores


@torch.no_grad()
def _eigenvalue_scores(plain):
    """Σ Re λ / Σ |λ| of every head's circuit from tokens to logits, as the whole matrix."""
    n_heads, layers = plain.config.num_attention_heads, plain.model.layers
    centres = "LayerNorm" in type(plain.model.norm).__name__
    W_E, d_model = plain.model.embed_tokens.weight, plain.config.hidden_size
    W_U = _multiplied_by(plain.model.norm, d_model)[:, None] * plain.lm_head.weight.T
    if centres:
        W_E = W_E - W_E.mean(1, keepdim=True)
        W_U = W_U - W_U.mean(0, keepdim=True)
    W_U = W_U - W_U.mean(1, keepdim=True)
    scores = torch.zeros(len(layers), n_heads)
    for number, layer in enumerate(layers):
        W_V, W_O = layer.self_attn.v_proj.weight.T, layer.self_attn.o_proj.weight.T
        W_V = _multiplied_by(layer.input_layernorm, d_model)[:, None] * W_V
        d_head = len(W_O) // n_heads
        n_values = W_V.shape[1] // d_head
        for head in range(n_heads):
            group = head * n_values // n_heads
            of_values = W_V[:, group * d_head : (group + 1) * d_head]
            of_output = W_O[head * d_head : (head + 1) * d_head]
            found = torch.linalg.eigvals((W_E @ of_values @ of_output @ W_U).double())
            scores[number, head] = found.real.sum() / found.abs().sum()
    return scores


@pytest.mark.parametrize("name", [*ADDED_TO_ONE, "llama grouped"])
def test_scores_are_those_of_plain_code(models, name):
    plain, hooked = models(name)
    tokens = sample_tokens(0, 3)[:, :60]
    found = detectors.score_heads(hooked, tokens=tokens, detectors=["copying", "copying_weights"])
    assert found["copying"].values.abs().min() > 0
    assert torch.allclose(found["copying"].values, _copying(plain, tokens), atol=2e-3)
    assert torch.allclose(found["copying_weights"].values, _eigenvalue_scores(plain), atol=2e-3)


NOT_ADDED = {
    "gemma2": "normed or scaled before it is added",
    "olmo2": "normed or scaled before it is added",
    "qwen3_next, attention only": "something else than attention times values",
    "deepseek_v3": "does not show its values",
    "mpt clipped": "values are clipped",
    "openai-gpt": "no final norm is seen",
}


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma2"])
def test_where_heads_add_something_else_nothing_is_measured(models, name):
    _, hooked = models(name)
    tokens = sample_tokens(0, 2)[:, :40]
    names = ["induction", "copying", "copying_weights"]
    found = detectors.score_heads(hooked, tokens=tokens, detectors=names)
    for which in names[1:]:
        assert bool(found[which].values.isnan().all())
        assert found[which].above(0.0) == []
        assert NOT_ADDED[name] in found[which].note
        assert NOT_ADDED[name] in repr(found[which])
    assert bool(found["induction"].values.isfinite().all())
    with pytest.raises(ValueError, match="logit attribution, heads that add attention times"):
        LiteralAttributionHeads().score(hooked)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NOT_ADDED if name not in ("gemma2",)])
def test_what_heads_add_is_known_of_architectures(models, name):
    assert NOT_ADDED[name] in unlike_written(models(name)[1], scaled=True)


def test_a_factor_that_all_heads_share_changes_no_share(models):
    _, hooked = models("granite")
    assert unlike_written(hooked, scaled=True) is None
    assert "normed or scaled" in unlike_written(hooked)
    tokens = sample_tokens(0, 2)[:, :40]
    found = detectors.score_heads(hooked, tokens=tokens, detectors=["copying"])["copying"]
    assert torch.allclose(found.values, _copying(models("granite")[0], tokens), atol=2e-3)


def test_hooks_of_others_are_not_taken_for_the_architecture(models):
    _, hooked = models("llama grouped")
    hooked.blocks[0].attn.hook_q.add_hook(lambda activation, hook: activation)
    fired = []
    hooked.blocks[1].attn.hook_z.add_hook(lambda z, hook: fired.append(1) or 0 * z)
    try:
        assert unlike_written(hooked) is None
        assert fired == []
        hooked(sample_tokens(0, 1)[:, :5])
        assert fired == [1]
    finally:
        hooked.reset_hooks()
