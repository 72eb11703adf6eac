"""The noise of a curve from snapshot to snapshot: how it correlates, and how it grows or shrinks.

A description of noise is a correlation that falls by a constant factor from each snapshot to the
next (autoregressive of order one), a share of it that is independent instead, and a standard
deviation that is exponential over the snapshots or over ln(tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """One description of noise, up to its size."""

    correlation: float = 0.0
    """From one snapshot to the next."""
    independent: float = 0.0
    """Share of the variance that does not correlate."""
    growth: float = 0.0
    """ln of the standard deviation at the last snapshot divided by that at the first."""
    over: Literal["snapshots", "tokens"] = "snapshots"
    """Whether that grows evenly over snapshots, or over ln(tokens)."""

    def deviations(self, x: Float[Tensor, " snapshot"]) -> Float[Tensor, " snapshot"]:
        """Relative standard deviation at each snapshot; `x` is ln(tokens)."""
        if self.over == "tokens":
            place = (x - x[0]) / (x[-1] - x[0])
        else:
            place = torch.linspace(0, 1, len(x), dtype=x.dtype, device="cpu")
        return torch.exp(self.growth * (place - 0.5))

    def factor(self, x: Float[Tensor, " snapshot"]) -> Float[Tensor, "snapshot snapshot"]:
        """Lower triangular square root of the covariance."""
        index = torch.arange(len(x), dtype=x.dtype, device="cpu")
        apart = (index[:, None] - index).abs()
        correlations = torch.tensor(self.correlation, dtype=x.dtype, device="cpu").pow(apart)
        same = torch.eye(len(x), dtype=x.dtype, device="cpu")
        mixed = (1 - self.independent) * correlations + self.independent * same
        return self.deviations(x)[:, None] * torch.linalg.cholesky(mixed)


GROWTHS = tuple(Noise(growth=growth) for growth in (0.0, -3.0, -1.5, 1.5, 3.0)) + tuple(
    Noise(growth=growth, over="tokens") for growth in (-3.0, -1.5, 1.5, 3.0)
)
"""How the standard deviation may change: up to twentyfold either way."""
CORRELATIONS = (
    *((0.0, 0.0), (0.4, 0.0), (0.7, 0.0), (0.9, 0.0), (0.98, 0.0)),
    *((0.9, 0.5), (0.98, 0.3)),
)
"""Correlation and independent share: from independent noise to what drifts like a random walk, and
that with independent noise on top."""
