"""What is remembered of a model is forgotten as soon as anything of it changes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import induction_lens as il
from induction_lens.models import HAS_HOOKED_TRANSFORMER, remembered, roads
from induction_lens.toys.model import ToyConfig, build_toy

IMPLEMENTATIONS = ["hooked", "bridge"] if HAS_HOOKED_TRANSFORMER else ["bridge"]
TOKENS = torch.tensor([[0, 5, 7, 5, 7, 9, 5, 7, 9, 2, 3, 4]])


@pytest.fixture(params=IMPLEMENTATIONS)
def model(request):
    config = ToyConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_vocab=31, n_ctx=16, seed=1)
    return build_toy(config, implementation=request.param, device="cpu")


def _weight(model):
    """The largest matrix of the first block."""
    return max(model.blocks[0].parameters(), key=lambda weight: weight.numel())


def _set_number(model):
    model.blocks[0].attn.a_number = 3.0


def _set_option(model):
    model.cfg.n_ctx = 17


def _write_through_data(model):
    _weight(model).data.view(-1)[37] += 1e-5


def _write_in_place(model):
    with torch.no_grad():
        _weight(model).mul_(1.0001)


def _exchange_rows(model):
    weight = _weight(model).data
    weight[[0, 1]] = weight[[1, 0]].clone()


def _exchange_parameters(model):
    """As two heads that are exchanged: the sum over all numbers stays."""
    first, second = (block.attn for block in model.blocks[:2])
    for (_, one), (_, other) in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        one.data, other.data = other.data.clone(), one.data.clone()


def _turn_to_nan(model):
    _weight(model).data.view(-1)[3] = math.nan


def _replace_a_function(model):
    part = model.blocks[0].attn
    part.calculate_attention_scores = lambda *_, **__: None


def _replace_another_function(model):
    """Of the part that wraps or is the norm, under a private name."""
    model.blocks[0].ln1._own = partial(print)


CHANGES = [
    _replace_a_function,
    _replace_another_function,
    _set_number,
    _set_option,
    _write_through_data,
    _write_in_place,
    _exchange_rows,
    _exchange_parameters,
    _turn_to_nan,
]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(model, change):
    found = []
    for _ in range(2):
        assert remembered(model, "it", lambda: found.append(1)) is None
    assert len(found) == 1
    change(model)
    remembered(model, "it", lambda: found.append(1))
    assert len(found) == 2


def test_a_function_that_was_replaced_is_run(implementation_of_classes):
    """In a part alone, and then in its class."""
    model, patched = implementation_of_classes
    for owner in (model.blocks[0].attn, patched):
        before = il.per_token_loss(model, TOKENS, progress=False)[:, 1:]
        with pytest.MonkeyPatch.context() as patch:
            own = owner.calculate_attention_scores
            patch.setattr(owner, "calculate_attention_scores", lambda *q_k, own=own: 3 * own(*q_k))
            with torch.no_grad():
                logits = model(TOKENS)[:, :-1]
            expected = cross_entropy(logits.mT, TOKENS[:, 1:], reduction="none")
            found = il.per_token_loss(model, TOKENS, progress=False)[:, 1:]
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, before, atol=1e-3)
        after = il.per_token_loss(model, TOKENS, progress=False)[:, 1:]
        assert torch.allclose(after, before, atol=1e-6)


def test_equal_tokens_prove_nothing_of_others(implementation_of_classes):
    """Where all values are the same, any pattern gives the same."""
    model, _ = implementation_of_classes
    part = model.blocks[0].attn
    own = part.apply_causal_mask
    part.apply_causal_mask = lambda *scores: own(*scores) * 3
    alike = torch.full_like(TOKENS, 5)
    il.per_token_loss(model, alike, mask=torch.ones_like(alike), progress=False)
    with torch.no_grad():
        expected = cross_entropy(model(TOKENS)[:, :-1].mT, TOKENS[:, 1:], reduction="none")
    found = il.per_token_loss(model, TOKENS, progress=False)[:, 1:]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.fixture
def implementation_of_classes():
    if not HAS_HOOKED_TRANSFORMER:
        pytest.skip("parts of bridges have no function for their scores")
    from transformer_lens.components import AbstractAttention

    config = ToyConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_vocab=31, n_ctx=16, seed=1)
    return build_toy(config, implementation="hooked", device="cpu"), AbstractAttention


def test_what_is_not_finite_is_never_remembered(model):
    _turn_to_nan(model)
    found = []
    for _ in range(2):
        remembered(model, "it", lambda: found.append(1))
    assert len(found) == 2


def test_a_pass_and_its_mode_are_no_change(model):
    found = []
    remembered(model, "it", lambda: found.append(1))
    model(TOKENS)
    model.train()
    il.score_heads(model, tokens=TOKENS, progress=False)
    model.eval()
    remembered(model, "it", lambda: found.append(1))
    assert len(found) == 1


def test_layers_are_compared_once(model, monkeypatch):
    compared, logits_at = [], roads.logits_at

    def counted(*arguments):
        compared.append(1)
        return logits_at(*arguments)

    monkeypatch.setattr(roads, "logits_at", counted)
    first = il.per_token_loss(model, TOKENS, progress=False)
    assert il.per_token_loss(model, TOKENS, progress=False).equal(first) is False  # NaN at BOS
    assert len(compared) == 1
    _write_through_data(model)
    il.per_token_loss(model, TOKENS, progress=False)
    assert len(compared) == 2


def test_what_is_returned_may_be_changed(model):
    first = il.detectors.copying_from_weights(model).values
    kept = first.clone()
    first.zero_()
    assert il.detectors.copying_from_weights(model).values.equal(kept)
