"""Ablation methods as objects: a user's own works wherever a built-in one does, on both roads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pytest
import torch

import induction_lens as il
from induction_lens.ablation import AblationMethod, Mean, PatternPreserving, Resample, Zero
from induction_lens.ablation.methods import METHODS, as_method, as_methods
from induction_lens.ablation.outputs import keep_outputs
from induction_lens.models import HAS_HOOKED_TRANSFORMER, InterventionError, hook_name
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.hf_folders import hugging_face_model

PLACES = dict(early=4, late=17, window=2, estimator="paper", progress=False)


@dataclass(frozen=True)
class Scale(AblationMethod):
    """A part of what a head puts out, less its mean at the position."""

    factor: float = 0.5
    name = "scale"
    needs = "means"
    position_wise = True

    def replacement(self, z, place):
        return self.factor * (z - place.outputs.mean_at(place.layer, place.positions).to(z))


class Halve(AblationMethod):
    """The same everywhere, and says so."""

    name = "halve"
    position_wise = True
    reads_positions = False

    def replacement(self, z, place):
        return z / 2


class Shift(AblationMethod):
    """The output one position earlier: it looks at another position, and does not say that it
    does not."""

    name = "shift"

    def replacement(self, z, place):
        return torch.cat([z[:, :1], z[:, :-1]], dim=1)


class Reverse(AblationMethod):
    """The output at the position as far from the end: it looks ahead."""

    name = "reverse"

    def replacement(self, z, place):
        return z.flip(1)


class Ones(AblationMethod):
    name = "ones"
    preserves_patterns = True

    def replacement(self, z, place):
        return torch.ones_like(z)


def _toy(implementation):
    config = ToyConfig(n_layers=3, d_model=20, n_heads=3, d_head=6, d_vocab=41, n_ctx=23)
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


def _tokens(seed=0):
    tokens = torch.randint(1, 41, (5, 23), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def _naive_losses(model, tokens, reference, heads):
    """By TransformerLens's own hooks, one head at a time."""
    names = [hook_name("z", layer) for layer in range(3)]
    with torch.no_grad():
        _, clean = model.run_with_cache(reference, names_filter=lambda name: name in names)

    def write(z, hook, layer):
        z = z.clone()
        for head in (h for n, h in heads if n == layer):
            for position in range(z.shape[1]):
                mean = clean[names[layer]][:, position, head].mean(0)
                z[:, position, head] = 0.5 * (z[:, position, head] - mean)
        return z

    hooks = [(name, partial(write, layer=layer)) for layer, name in enumerate(names)]
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    chosen = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
    return -chosen[..., 0]


@pytest.mark.parametrize("whole", [False, True], ids=["layer by layer", "whole"])
def test_a_method_of_the_users_own_is_what_naive_hooks_give(implementation, whole):
    model, tokens = _toy(implementation), _tokens()
    heads = [(0, 1), (1, 0), (1, 2)]
    expected = _naive_losses(model, tokens, tokens, heads)
    alone = [_naive_losses(model, tokens, tokens, [head]) for head in heads]
    clean = _naive_losses(model, tokens, tokens, [])
    if whole:  # a hook of the user's keeps it from being run layer by layer
        model.hook_dict[hook_name("z", 0)].add_hook(lambda z, hook: None)
    study = il.ablate(model, heads, tokens, method=Scale(), n_controls=2, **PLACES)
    torch.testing.assert_close(study.ablated_losses[:, 1:], expected, rtol=1e-4, atol=1e-5)
    each = il.ablate_each_head(model, tokens, method=Scale(), **PLACES)
    for head, losses in zip(heads, alone, strict=True):
        change = losses - clean  # of the tokens at position 1 and later
        effect = change[:, 14:19].mean() - change[:, 1:6].mean()
        assert each[head] == pytest.approx(float(effect), abs=1e-5)
    with il.knocked_out(model, heads, method=Scale(), reference=tokens):
        found = il.per_token_loss(model, tokens, progress=False)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_its_own_reference_goes_before_the_calls(implementation):
    model, tokens, other = _toy(implementation), _tokens(), _tokens(seed=1)
    expected = _naive_losses(model, tokens, other, [(1, 0)])
    method = Scale()
    object.__setattr__(method, "reference", other)
    study = il.ablate(model, "1.0", tokens, method=method, n_controls=0, **PLACES)
    torch.testing.assert_close(study.ablated_losses[:, 1:], expected, rtol=1e-4, atol=1e-5)
    with il.knocked_out(model, "1.0", method=method, reference=tokens):
        found = il.per_token_loss(model, tokens, progress=False)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_objects_are_what_their_names_stand_for(implementation):
    model, tokens = _toy(implementation), _tokens()
    objects = {
        "zero": Zero(),
        "mean": Mean(tokens.clone()),
        "resample": Resample(tokens.clone(), seed=7),
        "pattern-preserving": PatternPreserving(),
    }
    assert list(objects) == list(METHODS)
    for name, method in objects.items():
        named = il.ablate(model, ["0.1", "2.0"], tokens, method=name, seed=7, **PLACES)
        passed = il.ablate(model, ["0.1", "2.0"], tokens, method=method, seed=7, **PLACES)
        assert named.method == passed.method == name
        assert named.effect.value == pytest.approx(passed.effect.value, abs=1e-5)
        torch.testing.assert_close(named.control_losses, passed.control_losses, equal_nan=True)


def test_methods_of_one_study_may_have_references_of_their_own(implementation):
    """Each is as by itself."""
    model, tokens, other = _toy(implementation), _tokens(), _tokens(seed=1)
    methods = [Mean(other), Mean(per_position=True), Resample(other, seed=3), "zero"]
    studies = il.ablation.ablate_by_methods(
        model, "1.1", tokens, methods=methods, n_controls=1, **PLACES
    )
    assert list(studies) == ["mean", "mean per position", "resample", "zero"]
    for method in methods:
        alone = il.ablate(model, "1.1", tokens, method=method, n_controls=1, **PLACES)
        torch.testing.assert_close(
            studies[alone.method].ablated_losses, alone.ablated_losses, equal_nan=True
        )


def test_a_method_that_freezes_patterns_writes_with_them_frozen(implementation):
    """Ones at a head of the last layer, after which nothing attends: its own pattern is unread."""
    model, tokens = _toy(implementation), _tokens()

    def ones(z, hook):
        z = z.clone()
        z[:, :, 1] = 1.0
        return z

    with torch.no_grad():
        expected = model.run_with_hooks(tokens, fwd_hooks=[(hook_name("z", 2), ones)])
        with il.knocked_out(model, "2.1", method=Ones()):
            found = model(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_report_shows_it_like_the_others(implementation, tmp_path):
    model, tokens = _toy(implementation), _tokens()
    found = il.report(
        model,
        text=tokens,
        heads="1.1",
        methods=["zero", Scale()],
        n_controls=2,
        early=4,
        late=17,
        window=2,
        progress=False,
    )
    assert list(found.studies) == ["zero", "scale"]
    assert set(found.to_frame()["method"]) == {"zero", "scale"}
    page = found.save(tmp_path).read_text()
    assert "scale" in page
    assert "methods=['zero', 'scale']" in found.card["Command"]


class WrongShape(AblationMethod):
    name = "wrong shape"

    def replacement(self, z, place):
        return z[:, :1]


class Nameless(AblationMethod):
    def replacement(self, z, place):
        return z


@pytest.mark.usefixtures("_as_users_call")
def test_what_is_no_method_is_refused(implementation):
    model, tokens = _toy(implementation), _tokens()
    options = dict(n_controls=0, **PLACES)
    with pytest.raises(InterventionError, match=r"wrong shape ablation to write .* got"):
        il.ablate(model, "1.1", tokens, method=WrongShape(), **options)
    with pytest.raises(ValueError, match="the name of a method to be a text, got None"):
        il.ablate(model, "1.1", tokens, method=Nameless(), **options)
    with pytest.raises(ValueError, match="of different names, got 'scale'; name scale once"):
        as_methods([Scale(), Scale(0.25)])
    with pytest.raises(ValueError, match="method to be one of zero, mean"):
        as_method(cast(Any, Zero))
    with pytest.raises(ValueError, match="reference for method 'scale', got none"):
        il.knocked_out(model, "1.1", method=Scale()).__enter__()


def test_methods_with_a_reference_are_told_apart_by_identity():
    """Comparing large tensors would take time, and equal ones may be of different sequences."""
    tokens = _tokens()
    assert Mean(tokens) != Mean(tokens)
    assert Resample(tokens) != Resample(tokens)
    assert len({Mean(tokens), Mean(tokens), Resample(tokens)}) == 3
    assert (Zero(), PatternPreserving()) == (Zero(), PatternPreserving())


def test_names_stand_for_objects_with_the_calls_seed():
    [found] = as_methods("resample")
    assert isinstance(found, Resample)
    assert found.seed == 0
    [found] = as_methods(["resample"], seed=5)
    assert isinstance(found, Resample)
    assert found.seed == 5


def test_outputs_of_padded_sequences_are_not_kept_whole(implementation):
    """Their rows would not be those of the sequences that are measured."""
    model, tokens = _toy(implementation), _tokens()
    mask = torch.ones_like(tokens)
    mask[2, 15:] = 0
    padded = {"input_ids": tokens, "attention_mask": mask}
    for whole in (True, False):
        assert keep_outputs(model, {1: [0]}, padded, each=False, whole=whole).whole == {}
    assert keep_outputs(model, {1: [0]}, tokens, each=False, whole=True).whole.keys() == {0, 1}
    assert keep_outputs(model, {1: [0]}, tokens, each=False).whole == {}


@pytest.mark.parametrize("method", [Shift(), Reverse()], ids=lambda method: method.name)
def test_a_method_that_looks_at_other_positions_is_given_all_of_them(implementation, method):
    """Only two positions of the last layer are read here, and no position after them."""
    model, tokens = _toy(implementation), _tokens()

    def losses(head):
        def write(z, hook):
            z = z.clone()
            z[:, :, head[1]] = method.replacement(z[:, :, [head[1]]], None)[:, :, 0]
            return z

        with torch.no_grad():
            logits = model.run_with_hooks(tokens, fwd_hooks=[(hook_name("z", head[0]), write)])
        return -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]

    clean = il.per_token_loss(model, tokens, progress=False)[:, 1:]
    options = dict(method=method, early=4, late=14, estimator="paper", progress=False)
    each = il.ablate_each_head(model, tokens, **options)
    for head in ((0, 1), (2, 0), (2, 2)):
        change = losses(head) - clean
        effect = (change[:, 13] - change[:, 3]).mean()
        assert each[head] == pytest.approx(float(effect), abs=1e-5)
    study = il.ablate(model, "2.1", tokens, **options, n_controls=2)
    torch.testing.assert_close(study.ablated_losses[:, 1:], losses((2, 1)), rtol=1e-4, atol=1e-5)
    for heads, found in zip(study.control_heads, study.control_losses, strict=True):
        expected = losses((heads[0].layer, heads[0].head))
        measured = ~found[0, 1:].isnan()
        torch.testing.assert_close(
            found[:, 1:][:, measured], expected[:, measured], rtol=1e-4, atol=1e-5
        )


def test_a_method_that_looks_at_other_positions_needs_whole_sequences():
    model, tokens = hugging_face_model("llama"), _tokens()
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    with torch.no_grad(), il.knocked_out(model, "0.1", method=Shift()):
        model(tokens)
        with pytest.raises(InterventionError, match="got masked tokens"):
            model(tokens, attention_mask=mask)


@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="the class with this cache")
def test_a_method_that_looks_at_other_positions_takes_no_cache():
    model, tokens = _toy("hooked"), _tokens()[:2, :9]
    model.tokenizer = il.load("toy-2l-narrow", device="cpu").tokenizer
    options = dict(max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False)
    with il.knocked_out(model, "2.1", method=Shift()):
        model.generate(tokens, use_past_kv_cache=False, return_type="tokens", **options)
        with pytest.raises(InterventionError, match="got one with a key/value cache"):
            model.generate(tokens, use_past_kv_cache=True, return_type="tokens", **options)


def test_padding_is_refused_unless_a_method_says_that_it_reads_no_positions():
    model, tokens = hugging_face_model("llama"), _tokens()
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    with torch.no_grad():
        with il.knocked_out(model, "0.1", method=Scale(), reference=tokens):
            model(tokens)
            with pytest.raises(InterventionError, match="got masked tokens"):
                model(tokens, attention_mask=mask)
        with il.knocked_out(model, "0.1", method=Ones()):  # patterns frozen, and masked alike
            model(tokens)
            with pytest.raises(InterventionError, match="got masked tokens"):
                model(tokens, attention_mask=mask)
        with il.knocked_out(model, "0.1", method=Halve()):
            masked = model(tokens, attention_mask=mask)[1, 5:]
            alone = model(tokens[1:2, 5:])[0]
    torch.testing.assert_close(masked, alone, rtol=1e-4, atol=1e-4)
