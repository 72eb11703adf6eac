"""What chance explains is rarely exceeded by heads that were never trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import induction_lens as il
from induction_lens.toys.model import set_weights, toy_weights

N_MODELS = 24


def untrained(seed):
    """A toy whose heads prefer some tokens and distances at random, some of them strongly."""
    config = il.toys.ToyConfig(
        n_layers=2,
        d_model=32,
        n_heads=4,
        d_vocab=256,
        n_ctx=101,
        positions="rotary" if seed % 2 else "standard",
        seed=seed,
    )
    model = il.toys.build_toy(config, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    gain = (1.0, 4.0, 10.0)[seed % 3]
    weights = {name: weight.detach().clone() for name, weight in toy_weights(model).items()}
    for name, weight in weights.items():
        if name.endswith(("W_Q", "W_K")):
            weight.mul_(gain)
        elif ".b_" in name:
            weight.add_(gain / 2 * torch.randn(weight.shape, generator=generator))
    set_weights(model, weights)
    return model


@pytest.mark.slow
def test_untrained_heads_seldom_exceed_what_chance_explains():
    """Of 24 models of 8 heads: 2.5% of models would have one such head, thus 0.3% of heads."""
    n_heads, n_over_null, n_called = 0, 0, 0
    for seed in range(N_MODELS):
        model = untrained(seed)
        for tokens in (None, il.repeated_random_tokens(model, seed=seed)):
            induction = il.score_heads(
                model, tokens=tokens, detectors="induction", seed=seed, progress=False
            )["induction"]
            n_heads += induction.values.numel()
            by_null_alone = dataclasses.replace(induction, uniform=None)
            n_over_null += len(by_null_alone.above(-1.0))
            n_called += len(induction.above(0.3))
    assert n_heads == 2 * N_MODELS * 8
    assert n_called == 0
    assert n_over_null <= 0.01 * n_heads
