"""Rotary positions: as the toy models have them, and as Hugging Face models do."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotation(
    n_pos: int, d_head: int, device: torch.device
) -> tuple[Float[Tensor, "pos 1 pair"], Float[Tensor, "pos 1 pair"]]:
    """Cosines and sines of the rotary angles, base 10000."""
    rates = 1.0 / 10000 ** (torch.arange(0, d_head, 2, device=device).float() / d_head)
    angles = torch.outer(torch.arange(n_pos, device=device).float(), rates)[:, None]
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch pos head d_head"],
    by: tuple[Float[Tensor, "pos 1 pair"], Float[Tensor, "pos 1 pair"]],
) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each adjacent pair of a head's coordinates by its position's angle."""
    cos, sin = (part.to(x.dtype) for part in by)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(turned, dim=-1).flatten(-2)


def rotate_halves(
    x: Float[Tensor, "batch pos head d_head"],
    by: tuple[Float[Tensor, "_ pos d_rotary"], Float[Tensor, "_ pos d_rotary"]],
) -> Float[Tensor, "batch pos head d_head"]:
    """Turn the first `d_rotary` coordinates, each of the first half with one of the second."""
    cos, sin = (part[:, :, None].to(x.dtype) for part in by)
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    partner = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos + partner * sin, rest], dim=-1)
