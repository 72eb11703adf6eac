"""Ablations in bfloat16: changes of losses, on top of clean losses in float32."""

from __future__ import annotations

import logging

import pytest
import torch

from induction_lens.ablation import Mean, PatternPreserving, precision
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.heads import Head
from induction_lens.models import HAS_HOOKED_TRANSFORMER, has_bfloat16
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import hugging_face_model

MODELS = ["hooked", "bridge", "gpt2", "llama"] if HAS_HOOKED_TRANSFORMER else ["bridge", "gpt2"]


def _model(name):
    if name in ("hooked", "bridge"):
        config = ToyConfig(n_layers=2, d_model=30, n_heads=5, d_head=14, d_vocab=53, n_ctx=61)
        return build_toy(config, implementation=name, device="cpu")
    return hugging_face_model(name)


def _tokens():
    drawn = torch.randint(1, 53, (6, 23), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


def _jobs(rough):
    heads = [(Head(0, 1),), (Head(1, 0),), (Head(0, 0), Head(1, 1))]
    jobs = [Job(some, Mean(), (4, 9, 17), rough=rough) for some in heads]
    return [
        Job((Head(0, 1),), Mean()),
        *jobs,
        Job((Head(0, 0),), PatternPreserving(), (9,), rough=rough),
    ]


@pytest.mark.parametrize("name", MODELS)
def test_changes_are_those_of_float32_up_to_rounding(name):
    model, tokens = _model(name), _tokens()
    options = dict(batch_size=4, progress=False)
    clean, exact = ablation_losses(model, _jobs(False), tokens, **options)
    same_clean, rough = ablation_losses(model, _jobs(True), tokens, **options)
    in_float32 = dict(rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(clean.long, same_clean.long, **in_float32)
    torch.testing.assert_close(exact.long[0], rough.long[0], **in_float32)
    difference = (exact.long - rough.long)[1:]
    measured = ~difference.isnan()
    assert measured.sum() == 6 * (3 * 3 + 1)
    of_change = (exact.long[1:] - clean.long)[measured].abs().max()
    assert 0 < difference[measured].abs().max() < 0.03 * of_change
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_that_rounding_moves_is_run_in_float32(monkeypatch, caplog):
    model, tokens = _model(MODELS[0]), _tokens()
    monkeypatch.setattr(precision, "MOST_ROUNDED", 1e-9)
    exact = ablation_losses(model, _jobs(False), tokens, progress=False)[1]
    with caplog.at_level(logging.INFO, logger="induction_lens"):
        rough = ablation_losses(model, _jobs(True), tokens, progress=False)[1]
    torch.testing.assert_close(exact.long, rough.long, equal_nan=True)
    assert "bfloat16 moves losses" in caplog.text


def test_who_stops_between_passes_leaves_no_autocast(monkeypatch):
    """What is done between passes is in float32, even where it fails."""
    model, seen = _model(MODELS[0]), []

    def not_finite(tensor):
        seen.append(torch.is_autocast_enabled("cpu"))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return torch.ones((), dtype=torch.bool)

    monkeypatch.setattr("induction_lens.ablation.sweep.torch.isfinite", not_finite)
    with pytest.raises(KeyboardInterrupt):
        ablation_losses(model, _jobs(True), _tokens(), progress=False)
    assert seen == [False] * 3
    assert not torch.is_autocast_enabled("cpu")


def test_bfloat16_is_taken_where_weights_are_float32():
    model = _model(MODELS[0])
    has = torch.cpu.get_capabilities()
    assert has_bfloat16(model) == bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    assert not has_bfloat16(model.to(torch.bfloat16))
