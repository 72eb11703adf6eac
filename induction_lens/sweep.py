"""Losses under many knock-outs of one model, sharing what they share.

1. What `mean` and `resample` write is kept once for all sets of heads.
2. For each batch, one clean pass gives the clean losses, the attention patterns that
   pattern-preserving ablation freezes, and the residual stream that enters each layer.
3. Each set of heads is knocked out in a pass of its own, which starts at the first layer that it
   touches where the class can (`can_resume`), and unembeds only the positions that are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.knockout import Knockout, Method, by_layer, keep_outputs
from induction_lens.metrics import batch_loss, batches, progress_bar
from induction_lens.models import (
    Model,
    batch_size_for,
    can_resume,
    check_tokens,
    device_of,
    installed,
    keep,
    prove_writes_land,
    running,
    shape,
)


def knockout_losses(
    model: Model,
    sets: Sequence[Sequence[Head]],
    tokens: Int[Tensor, "batch pos"],
    *,
    method: Method,
    reference: Int[Tensor, "reference_batch reference_pos"] | None = None,
    per_position: bool = False,
    seed: int = 0,
    positions: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "set batch pos"]]:
    """The loss of every token, clean and with each set of heads knocked out, in nats.

    Args:
        model: a hooked model.
        sets: sets of heads, each knocked out together.
        tokens: sequences, BOS at position 0.
        method: how to knock out.
        reference: what `mean` and `resample` take outputs from; None takes `tokens`.
        per_position: for `mean`, a mean for each position.
        seed: seed of `resample`.
        positions: positions whose losses are wanted; None for all. The others are NaN.
        batch_size: sequences per forward pass; None chooses by a memory budget.
        progress: show progress bars on stderr for what takes over two seconds.

    Raises:
        ValueError: if the tokens or the reference do not fit.
        InterventionError: if the model drops the writes.
    """
    check_tokens(model, tokens)
    everything = by_layer({head for heads in sets for head in heads})
    prove_writes_land(model, list(everything), vocabulary=shape(model).d_vocab)
    outputs: dict[int, Tensor] = {}
    if method in ("mean", "resample"):
        source = tokens if reference is None else reference
        title = "head outputs" if progress else None
        outputs = keep_outputs(model, everything, source, batch_size=batch_size, progress=title)
    knockouts = [
        Knockout(
            model,
            heads,
            method,
            outputs=_of_heads(outputs, everything, by_layer(heads)),
            per_position=per_position,
            seed=seed,
        )
        for heads in sets
    ]
    read = list(range(1, tokens.shape[1])) if positions is None else list(positions)
    clean = torch.full(tokens.shape, math.nan)
    losses = torch.full((len(sets), *tokens.shape), math.nan)
    size = batch_size or batch_size_for(model, tokens.shape[1])
    title = f"{len(sets)} knock-outs" if progress else None
    with running(model), progress_bar(title, len(tokens) * (1 + len(sets))) as advance:
        for rows in batches(len(tokens), size):
            batch = tokens[rows].to(device_of(model))
            for index, loss in enumerate(_passes(model, knockouts, batch, rows, read)):
                (losses[index - 1] if index else clean)[rows, read] = loss
                advance(len(batch))
    return clean, losses


def _passes(
    model: Model, knockouts: Sequence[Knockout], batch: Tensor, rows: slice, read: list[int]
) -> Iterator[Tensor]:
    """Losses of one batch at the positions that are read: clean, then of every knock-out."""
    patterns: dict[int, Tensor] = {}
    residuals: dict[int, Tensor] = {}
    hooks = []
    if any(knockout.freezes for knockout in knockouts):
        hooks += keep("pattern", range(shape(model).n_layers), into=patterns)
    if can_resume(model):
        hooks += keep("resid_pre", {k.first_layer for k in knockouts}, into=residuals)
    # all positions in one piece is how the model unembeds anyway
    positions = read if len(read) < batch.shape[1] - 1 else None
    with installed(model, hooks):
        clean = batch_loss(model, batch, positions).cpu()
    yield clean
    for knockout in knockouts:
        knockout.freeze(patterns)
        first = knockout.first_layer
        resume = (first, residuals[first]) if first in residuals else None
        with installed(model, knockout.hooks(rows)):
            losses = batch_loss(model, batch, positions, resume=resume).cpu()
        yield losses


def _of_heads(
    outputs: Mapping[int, Tensor], kept: Mapping[int, list[int]], heads: Mapping[int, list[int]]
) -> dict[int, Tensor]:
    """The outputs of some of the heads that were kept."""
    return {
        layer: outputs[layer][:, :, [kept[layer].index(head) for head in chosen]]
        for layer, chosen in heads.items()
        if layer in outputs
    }
