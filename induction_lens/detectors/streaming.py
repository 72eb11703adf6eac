"""Attention scores without patterns: faster, in memory that grows with the context alone.

The model is run a layer at a time with fused attention. Torch's kernels for that also know the
total of each query's exponentiated scores; with it, the attention on a target is one product of a
query and a key (see `attention`). The operators that give the totals are private, so they are
compared with plain attention before their first use, and where they fall short all scores are
computed.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.detectors.attention import TargetMass
from induction_lens.metrics import batches
from induction_lens.models import (
    AttentionInputs,
    Model,
    Stream,
    batch_size_for,
    checked_tokens,
    device_of,
    streaming,
)

Totals = Float[Tensor, "batch head query_pos"]
_ALIGNED = 8  # CUDA's kernel takes heads of multiples of this size


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
    tokens = checked_tokens(model, tokens)
    with streaming(model, tokens[:1].to(device_of(model))) as stream:
        if stream is None:
            return False
        fitting = batch_size_for(model, tokens.shape[1], fused=True)
        for rows in batches(len(tokens), batch_size or fitting, progress=progress):
            batch = tokens[rows].to(device_of(model))
            mass.begin(batch, rows)
            residual = stream.enter(batch)
            for layer in range(stream.n_layers):
                last = layer + 1 == stream.n_layers
                inputs = stream.attention_inputs(layer, residual, values=not last)
                z, totals = _attended(stream, layer, inputs, last=last)
                mass.look(layer, inputs, totals, scale=stream.scale(layer))
                if z is not None:
                    residual = stream.leave(layer, residual, z)
    return True


def _attended(
    stream: Stream, layer: int, inputs: AttentionInputs, *, last: bool
) -> tuple[Float[Tensor, "batch pos head d_head"] | None, Totals | None]:
    """A layer's outputs `z`, where they are read, and the totals of its scores, where they are
    known."""
    query = inputs.query
    if _taken(query) and knows_totals(query.device.type):
        each = inputs.for_each_head()
        # of the last layer the totals alone are read, but the kernel wants values of this width
        value = each.key if last or each.value is None else each.value
        by_head = (x.transpose(1, 2) for x in (query, each.key, value))
        z, totals = _fused(*by_head, scale=stream.scale(layer))
        return (None if last else z.transpose(1, 2)), totals
    return (None if last else stream.attend(layer, inputs)), None


def _taken(query: Tensor) -> bool:
    """Whether the kernel that gives totals takes such heads."""
    aligned = query.device.type == "cpu" or query.shape[-1] % _ALIGNED == 0
    return query.dtype == torch.float32 and aligned


def _fused(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention [batch head pos d_head] and `logsumexp` of its scores [batch head pos]."""
    if query.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(query, key, value, 0.0, True, scale=scale)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    z, totals, *_ = kernel(query, key, value, None, True, 0.0, True, scale=scale)
    return z, totals[..., : query.shape[2]]


@cache
def knows_totals(device: str) -> bool:
    """Whether this version of torch gives the totals on this kind of device, and the right ones."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 37, 8, generator=generator).to(device)
    future = torch.ones(37, 37, dtype=torch.bool, device=device).triu(1)
    scores = (0.3 * query @ key.mT).masked_fill(future, -torch.inf)
    try:
        z, totals = _fused(query, key, value, scale=0.3)
        right = torch.allclose(z, scores.softmax(-1) @ value, atol=1e-5)
        return right and torch.allclose(totals, scores.logsumexp(-1), atol=1e-5)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
