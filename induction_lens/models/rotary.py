"""Rotary positions: as the toy models have them, and as Hugging Face models do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(
    x: Float[Tensor, "batch pos head d_head"], positions: Sequence[int] | None = None
) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each adjacent pair of a head's coordinates by its position's angle, base 10000;
    `positions` are given if `x` does not hold all of them."""
    d_head, at = x.shape[-1], range(x.shape[1]) if positions is None else positions
    rates = 1.0 / 10000 ** (torch.arange(0, d_head, 2, device=x.device).float() / d_head)
    angles = torch.outer(torch.tensor(list(at), device=x.device).float(), rates)[:, None]
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


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
