"""What knocking out each head alone costs: against a pass for each, and against one clean pass."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import induction_lens as il
from tests.benchmarks.harness import Row, Target, interleave
from tests.benchmarks.shapes import build, tokens_for

BATCH_SIZE = 2
LEAST_SPEED_UP = {"gpt2-small": 2.5, "attn-only-2l": 20.0}


def sweep(shape: str, *, quick: bool) -> list[Row]:
    """Zero ablation of each head by one whole pass each, against `ablate_each_head`."""
    model = build(shape, quick=quick)
    early, late, tokens = _text(model, 2, quick)
    found: dict[str, Tensor] = {}

    def naive() -> None:
        found["naive"] = naive_sweep(model, tokens, early=early, late=late)

    def ours() -> None:
        scores = il.ablate_each_head(
            model,
            tokens,
            method="zero",
            early=early,
            late=late,
            estimator="paper",  # as the naive sweep
            batch_size=BATCH_SIZE,
            progress=False,
        )
        found["ours"] = scores.values

    many_heads = shape == "gpt2-small"  # minutes for each round; its passes are long and steady
    arms = {"a pass for each head": naive, 'ablate_each_head, "zero"': ours}
    baseline, run = interleave(arms, repeats=1 if quick or many_heads else 3)
    difference = (found["naive"] - found["ours"]).abs().max().item()
    # float32 carries a loss to about 1e-7 of its size; a change is the difference of four
    targets = [Target("difference", "at most", 1e-5 * clean_loss(model, tokens))]
    if shape in LEAST_SPEED_UP:
        targets.append(Target("ratio", "at least", LEAST_SPEED_UP[shape]))
    note = f"largest effect {found['naive'].abs().max():.2g} nats"
    return [
        Row(f"sweep/{shape}", baseline, run, "baseline / ours", tuple(targets), difference, note)
    ]


def sweep_in_clean_passes(*, quick: bool) -> list[Row]:
    """The mean ablation of each head of toy-2l, in units of one clean pass over the same text."""
    model = build("toy-2l", quick=quick)
    early, late, tokens = _text(model, 4 if quick else 32, quick)
    options = {"early": early, "late": late, "progress": False}
    baseline, ours = interleave(
        {
            "per_token_loss": lambda: il.per_token_loss(model, tokens, progress=False),
            'ablate_each_head, "mean"': lambda: il.ablate_each_head(
                model, tokens, method="mean", **options
            ),
        },
        repeats=2 if quick else 7,
    )
    target = Target("ratio", "at most", 3.0)
    return [Row("clean-passes/toy-2l", baseline, ours, "ours / baseline", (target,))]


def naive_sweep(model: Any, tokens: Tensor, *, early: int, late: int) -> Tensor:
    """The effect of each head [layer head], by `run_with_hooks` and a whole forward pass each."""
    clean = _icl(model, tokens, [], early=early, late=late)
    effects = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def knock_out(z: Tensor, hook: object, head: int = head) -> Tensor:
                z[:, :, head] = 0.0
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", knock_out)]
            effects[layer, head] = _icl(model, tokens, hooks, early=early, late=late) - clean
    return effects


@torch.no_grad()
def _icl(model: Any, tokens: Tensor, hooks: list[Any], *, early: int, late: int) -> Tensor:
    """The mean over sequences of loss[late] - loss[early]."""
    scores = []
    for batch in tokens.split(BATCH_SIZE):
        log_probs = model.run_with_hooks(batch, fwd_hooks=hooks).log_softmax(-1)
        losses = -log_probs[:, :-1].gather(-1, batch[:, 1:, None])[..., 0]
        scores.append(losses[:, late - 1] - losses[:, early - 1])
    return torch.cat(scores).mean()


def clean_loss(model: Any, tokens: Tensor) -> float:
    """The mean loss of the whole model, in nats."""
    return il.per_token_loss(model, tokens, progress=False).nanmean().item()


def _text(model: Any, n_sequences: int, quick: bool) -> tuple[int, int, Tensor]:
    """Positions of the ICL score, and tokens to read."""
    if quick:
        return 10, 90, tokens_for(model, n_sequences, 100)
    return 50, 500, tokens_for(model, n_sequences, 512)


BENCHMARKS = {
    **{
        f"sweep/{shape}": functools.partial(sweep, shape)
        for shape in ("gpt2-small", "attn-only-2l", "llama-gqa-6l", "toy-2l")
    },
    "clean-passes/toy-2l": sweep_in_clean_passes,
}
