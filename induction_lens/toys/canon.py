"""Canon layers: causal convolutions of width 2 to 4 along the sequence, for each coordinate alone.

`x_j := x_j + Σ_d c_d · x_{j−d}`, for d from 0 to the width minus 1, with a learnt factor `c_d` of
each coordinate. Before the first position stands the first position again. (Allen-Zhu 2025,
"Physics of Language Models: Part 4.1", takes zeros there. With the first position, a width of 2 and
the factors σ(α) − 1 and 1 − σ(α), the layer on keys is exactly that of smeared keys.)

On keys, a key holds the tokens before it as well, like a smeared key, and one layer can do what
takes two. On the residual stream everything after it does.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Canon = Literal["keys", "residual"]
"""Where canon layers stand: on every head's keys before any rotation, or on the residual stream
that enters each block."""
WIDTHS = (2, 4)
"""The least and the largest width."""


class CanonLayer(nn.Module):
    """A causal convolution of every coordinate, added to what goes in."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        """Start with factors of zero: what goes in comes out.

        Args:
            sizes: The axes of one position: `(head, d_head)` or `(d_model,)`.
            width: Positions that are mixed, the own one included.
            device: Where the factors are.
            dtype: Their type.
        """
        super().__init__()
        self.factors = nn.Parameter(torch.zeros((*sizes, width), device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos ..."]:
        """Each position with those before it mixed in."""
        return convolved(x, self.factors)


def convolved(
    x: Float[Tensor, "batch pos ..."], factors: Float[Tensor, "... width"]
) -> Float[Tensor, "batch pos ..."]:
    """`x_j + Σ_d factors[..., d] x_{j−d}`, where `x_0` stands before the first position too."""
    mixed = x + factors[..., 0] * x
    for distance in range(1, factors.shape[-1]):
        first = x[:, :1].expand(-1, min(distance, x.shape[1]), *x.shape[2:])
        earlier = torch.cat([first, x[:, : x.shape[1] - first.shape[1]]], dim=1)
        mixed = mixed + factors[..., distance] * earlier
    return mixed
