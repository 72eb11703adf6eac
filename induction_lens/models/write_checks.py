"""Proof that what is written at a hook is used: some models ignore it silently."""

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

    `z` must have one axis for the heads: otherwise an index meant for a head would take a
    coordinate. For each layer, noise is added to `z` and the residual stream after that layer is
    compared with an unchanged run. A layer whose output projection is zero passes nothing on, so it
    is not checked.

    Raises:
        InterventionError: If a layer drops what is written; the message names it.
    """
    n_heads = model.cfg.n_heads
    tokens = torch.arange(3, device=device_of(model))[None] % vocabulary
    generator = torch.Generator().manual_seed(0)

    def noisy(z: Tensor) -> Tensor:
        if z.ndim != 4 or z.shape[2] != n_heads:
            raise InterventionError(
                f"expected outputs of heads of shape [batch, pos, {n_heads}, d_head], got "
                f"{list(z.shape)} from this {type(model).__name__}; call its "
                "enable_compatibility_mode(fold_value_biases=False) first"
            )
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float32, device="cpu").to(z)
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
