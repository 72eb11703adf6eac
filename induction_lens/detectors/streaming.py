"""Attention scores without patterns: faster, in memory that grows with the context alone."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from induction_lens.detectors.attention import TargetMass
from induction_lens.metrics import batches
from induction_lens.models import Model, batch_size_for, check_tokens, device_of, streaming


def measure_streaming(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    mass: TargetMass,
    *,
    batch_size: int | None = None,
    progress: str | None = None,
) -> bool:
    """Run the model over the tokens with fused attention: no pattern is ever in memory.

    Returns whether it was run: not where the model cannot be taken apart (`models.streaming`).
    """
    check_tokens(model, tokens)
    with streaming(model, tokens[:1].to(device_of(model))) as stream:
        if stream is None:
            return False
        fitting = batch_size_for(model, tokens.shape[1], fused=True)
        for rows in batches(len(tokens), batch_size or fitting, progress=progress):
            batch = tokens[rows].to(device_of(model))
            mass.begin(batch, rows)
            residual = stream.enter(batch)
            for layer in range(stream.n_layers):
                inputs = stream.attention_inputs(layer, residual)
                mass.look(layer, inputs, scale=stream.scale(layer))
                if layer + 1 < stream.n_layers:
                    residual = stream.leave(layer, residual, stream.attend(layer, inputs))
    return True
