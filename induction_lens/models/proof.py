"""Proof that what is written at a hook is used: some models ignore it without a word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from induction_lens.models.hooks import (
    InterventionError,
    Model,
    device_of,
    hook_name,
    installed,
    keep,
    running,
    untyped,
)
from induction_lens.models.passes import run_until


def prove_writes_land(model: Model, layers: Sequence[int], *, vocabulary: int) -> None:
    """Check on three tokens that a write to `z` of each layer reaches the residual stream.

    For each layer, noise is added to `z` and the residual stream after that layer is compared with
    an unchanged run. A layer whose output projection is zero has nothing to pass on: it is let be.

    Raises:
        InterventionError: naming the layer whose writes are dropped.
    """
    tokens = torch.arange(3, device=device_of(model))[None] % vocabulary
    generator = torch.Generator().manual_seed(0)

    def noisy(z: Tensor) -> Tensor:
        noise = torch.randn(z.shape, generator=generator).to(z)
        return z + noise * (1 + z.abs().mean())

    clean: dict[int, Tensor] = {}
    with running(model), installed(model, keep("resid_post", layers, into=clean)):
        run_until(model, tokens, hook_name("resid_post", max(layers)))
    for layer in layers:
        written: dict[int, Tensor] = {}
        hooks = [(hook_name("z", layer), noisy), *keep("resid_post", [layer], into=written)]
        with running(model), installed(model, hooks):
            run_until(model, tokens, hook_name("resid_post", layer))
        if torch.equal(clean[layer], written[layer]) and _projects(model, layer):
            raise InterventionError(
                f"expected a write to {hook_name('z', layer)} to change the residual stream, "
                f"but this {type(model).__name__} dropped it; enable compatibility mode, or "
                "remove the hook that overwrites ours"
            )


def _projects(model: Model, layer: int) -> bool:
    return bool((untyped(model).blocks[layer].attn.W_O != 0).any())
