"""Arithmetic in bfloat16, where a device has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from induction_lens.models.hooks import Model, untyped
from induction_lens.models.properties import device_of


def has_bfloat16(model: Model) -> bool:
    """Whether products in bfloat16 are faster on the model's device, and say the same up to their
    rounding: weights are float32, and the device has instructions for them."""
    if any(weight.dtype != torch.float32 for weight in untyped(model).parameters()):
        return False
    device = device_of(model)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


@contextmanager
def rounded(model: Model) -> Iterator[None]:
    """Products with weights, and attention, in bfloat16 inside the block."""
    with torch.autocast(device_of(model).type, dtype=torch.bfloat16):
        yield


@contextmanager
def unrounded(tensor: torch.Tensor) -> Iterator[None]:
    """Everything in its own type inside the block, whatever is around it."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield
