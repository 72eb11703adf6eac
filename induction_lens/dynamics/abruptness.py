"""A test of "abrupt" against "smooth" that estimates the noise from the curve itself.

1. The statistic is the logarithm of the likelihood ratio of the best window to the best smooth
   trend (see `curves`), each with the noise, among the descriptions in `noise`, that makes it most
   likely. How the noise grows is chosen first, for the window; its correlation for each of the two.
2. Its distribution under "smooth" is that of simulated curves: the smooth trend plus noise like
   that around the best window, described by restricted likelihood, and of the size that the
   residuals have near each snapshot.
3. A window absorbs part of the noise, so that what is left around it is smaller and less
   correlated. Residuals are enlarged by their leverage, correlations by `_HARDER`, and a curve has
   to be more abrupt than the simulated ones by `MARGIN`. These were set by simulation, see
   `tests/simulations/change_points.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.dynamics.curves import Trends, WindowSearch
from induction_lens.dynamics.noise import CORRELATIONS, GROWTHS, Noise
from induction_lens.packing import Comparable

MARGIN = 1.5
"""How many times as abrupt as a simulated curve one has to be."""
_HARDER = {0.0: 0.2, 0.4: 0.9, 0.7: 0.98, 0.9: 0.98, 0.98: 0.98}
"""The correlation that is simulated, by the one that is estimated."""
_FIRST_CORRELATION = 0.4
"""Assumed while the growth of the noise is chosen."""
_NEAR = 1 / 12
"""What is near a snapshot, as a share of all: the standard deviation of a Gaussian window."""


@dataclass(frozen=True)
class _Described:
    """A description of the noise, and what fits best under it."""

    x: Float[Tensor, " snapshot"]
    noise: Noise

    @cached_property
    def windows(self) -> WindowSearch:
        return WindowSearch.over(self.x, self.noise)

    @cached_property
    def trends(self) -> Trends:
        return Trends.smooth(self.x, self.noise)

    @cached_property
    def rounded(self) -> Trends:
        return Trends.rounded(self.x, self.noise)

    @cached_property
    def size(self) -> float:
        """Logarithm of the determinant of the whitening."""
        return float(self.windows.whitening.diagonal().log().sum())

    def abrupt(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, " curve"]:
        """Log-likelihood of the best window of each curve, with corners or without."""
        residual = self.windows.best(curves).residual.minimum(self.rounded.residuals(curves))
        return self.likelihood(residual, _least(curves))

    def smooth(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, " curve"]:
        """Log-likelihood of the best smooth trend of each curve."""
        return self.likelihood(self.trends.residuals(curves), _least(curves))

    def likelihood(self, residual: Tensor, least: Tensor) -> Tensor:
        """Log-likelihood at the best size of the noise, up to a constant."""
        return self.size - len(self.x) / 2 * residual.maximum(least).log()


@dataclass(frozen=True, eq=False)
class Abruptness(Comparable):
    """How much better a window describes a curve than a smooth trend does."""

    observed: float
    """Log-likelihood ratio of the curve; -inf where it has no window."""
    simulated: Float[Tensor, " simulation"]
    """The same of simulated smooth curves, times `MARGIN`."""
    noise: Float[Tensor, "snapshot snapshot"]
    """Square root of the covariance of the noise around the window, as estimated."""


class AbruptnessTest:
    """The test, on one grid of snapshots."""

    def __init__(self, x: Float[Tensor, " snapshot"]) -> None:
        """Prepare the test on the grid `x`, ln(tokens seen)."""
        self._x = x
        self._described = [
            [
                _Described(x, dataclasses.replace(growth, correlation=r, independent=share))
                for r, share in CORRELATIONS
            ]
            for growth in GROWTHS
        ]
        first = [dataclasses.replace(growth, correlation=_FIRST_CORRELATION) for growth in GROWTHS]
        self._first = [_Described(x, noise) for noise in first]

    def __call__(
        self, curve: Float[Tensor, " snapshot"], *, n_simulations: int, generator: torch.Generator
    ) -> Abruptness:
        """Test one curve."""
        curve = curve - curve.mean()
        [growth] = self._growths(curve[None])
        described = self._described[int(growth)]
        noise, harder = self._noise(curve, described)
        trend = self._trend(curve, described)
        fresh = torch.randn(
            n_simulations, len(curve), dtype=curve.dtype, generator=generator, device="cpu"
        )
        observed = float(self.statistics(curve[None])[0])
        simulated = self.statistics(trend + fresh @ harder.T)
        return Abruptness(observed, simulated * MARGIN, noise)

    def statistics(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, " curve"]:
        """The logarithm of the likelihood ratio of each curve."""
        curves = curves - curves.mean(1, keepdim=True)
        growths = self._growths(curves)
        ratios = torch.empty_like(curves[:, 0])
        for growth in growths.unique().tolist():
            mine = growths == growth
            chosen = curves[mine]
            of_windows = [d.abrupt(chosen) for d in self._described[growth]]
            of_trends = [d.smooth(chosen) for d in self._described[growth]]
            ratios[mine] = torch.stack(of_windows).amax(0) - torch.stack(of_trends).amax(0)
        return ratios

    def _growths(self, curves: Float[Tensor, "curve snapshot"]) -> Tensor:
        """Which growth of the noise makes the best window of each curve most likely."""
        return torch.stack([d.abrupt(curves) for d in self._first]).argmax(0)

    def _trend(self, curve: Tensor, described: list[_Described]) -> Float[Tensor, " snapshot"]:
        likely = [float(d.smooth(curve[None])) for d in described]
        return described[likely.index(max(likely))].trends.fit(curve)

    def _noise(self, curve: Tensor, described: list[_Described]) -> tuple[Tensor, Tensor]:
        """Square roots of the covariance of the noise: as estimated, and as simulated."""
        fits = [
            (_restricted_likelihood(d, curve, design), index, design)
            for index, d in enumerate(described)
            for design in _designs(d, curve)
        ]
        _, index, design = max(fits, key=lambda fit: fit[0])
        best = described[index]
        chosen = best.noise
        harder = dataclasses.replace(chosen, correlation=_HARDER[chosen.correlation])
        left, leverage = _left_over(best, curve, design)
        spared = (1 - leverage).clamp(min=0.3)
        fair = _nearby(left.square() / spared)
        large = _nearby((left / spared).square())
        return (
            fair.sqrt()[:, None] * chosen.factor(self._x),
            large.sqrt()[:, None] * harder.factor(self._x),
        )


def _least(curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, " curve"]:
    """A residual that counts as none: a fit that is exact leaves only rounding."""
    return curves.square().sum(1) * 1e-24 + torch.finfo(curves.dtype).tiny


def _designs(described: _Described, curve: Tensor) -> list[Tensor]:
    """The whitened columns of the best window, and of the best one with rounded corners."""
    search = described.windows
    window = search.best(curve[None])
    rounded = described.rounded.design(curve)
    return [rounded] if window.residual.isinf() else [search.design(window), rounded]


def _restricted_likelihood(described: _Described, curve: Tensor, design: Tensor) -> float:
    """Log-likelihood of what a fit leaves over, which is less biased for noise."""
    left, _ = _left_over(described, curve, design)
    residual = left.square().sum().maximum(_least(curve[None])[0])
    freedom = len(design) - design.shape[1]
    coloured = torch.linalg.solve_triangular(described.windows.whitening, design, upper=False)
    plain = torch.linalg.qr(coloured).Q
    volume = torch.linalg.qr(described.windows.whitening @ plain).R.diagonal().abs().log().sum()
    return described.size - freedom / 2 * float(residual.log()) - float(volume)


def _left_over(
    described: _Described, curve: Tensor, design: Tensor
) -> tuple[Float[Tensor, " snapshot"], Float[Tensor, " snapshot"]]:
    """The whitened residuals of a fit, and the leverage of each snapshot."""
    basis = torch.linalg.qr(design).Q
    white = described.windows.whitening @ curve
    return white - basis @ (basis.T @ white), basis.square().sum(1)


def _nearby(values: Float[Tensor, " snapshot"]) -> Float[Tensor, " snapshot"]:
    """The mean of the values near each snapshot."""
    index = torch.arange(len(values), dtype=values.dtype, device="cpu")
    near = torch.exp(-0.5 * ((index[:, None] - index) / (len(values) * _NEAR)).square())
    return near @ values / near.sum(1)
