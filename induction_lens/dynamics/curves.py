"""Abrupt or smooth: two descriptions of a curve over ln(training tokens), and a test of them.

1. Abrupt: a continuous line with two bends, steepest and rising between them. Every pair of bends
   at snapshots is tried and fitted by least squares; the best pair is the window of the change.
   (Dynamic programming over segments, as `ruptures` does it, fits each segment by itself and so
   cannot make them meet on an uneven grid; there are few enough pairs to try them all.)
2. Smooth: the best of a parabola, a line with one bend, an exponential relaxation in tokens,
   a + b exp(-t / τ), and logistic curves no steeper than one that is in proportion to tokens,
   a + b / (1 + (t / τ) ** -c) with c <= 1, whose tails are power laws.
3. The statistic is the logarithm of the ratio of their residual sums of squares, smooth to abrupt.
   Its distribution under "smooth" is that of simulated curves: the smooth fit plus noise with the
   standard deviation and the correlation from snapshot to snapshot of the residuals of that fit.

Curves rise here: those that fall are turned over before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_SNAPSHOTS = 10
"""Fewer do not tell a change from a trend."""
EDGE = 2
"""Snapshots before the first bend, and after the second: what is abrupt has a before and after."""
_CHUNK = 128


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside: on tensors as small as curves, two took twenty times the CPU time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Windows:
    """The window of the change of each of several curves."""

    onset: Int[Tensor, " curve"]
    """Snapshot where the change begins."""
    end: Int[Tensor, " curve"]
    """Snapshot where it ends."""
    onset_level: Float[Tensor, " curve"]
    """The fitted line at the onset; NaN where no window rises more steeply than what is around it.
    """
    end_level: Float[Tensor, " curve"]
    """The fitted line at the end, likewise."""
    residual: Float[Tensor, " curve"]
    """Residual sum of squares; infinite where there is no window."""


@dataclass(frozen=True)
class WindowSearch:
    """All pairs of bends on a grid of snapshots."""

    x: Float[Tensor, " snapshot"]
    """ln(tokens seen)."""
    bends: Int[Tensor, "pair 2"]
    """Snapshots of the two bends."""
    basis: Float[Tensor, "pair snapshot 4"]
    """Orthonormal columns that span all lines with these bends."""
    coefficients: Float[Tensor, "pair 4 4"]
    """From projections on the basis to constant, slope, and the changes of slope at the bends."""

    @classmethod
    def over(cls, x: Float[Tensor, " snapshot"]) -> WindowSearch:
        """Prepare the search on the grid `x`."""
        first, second = torch.triu_indices(len(x), len(x), offset=1)
        inside = (first >= EDGE) & (second < len(x) - EDGE)
        bends = torch.stack([first[inside], second[inside]], dim=1)
        past = (x - x[bends][:, :, None]).clamp(min=0)
        constant = torch.ones_like(past[:, 0])
        design = torch.stack([constant, x.expand_as(constant), past[:, 0], past[:, 1]], dim=-1)
        basis, triangle = torch.linalg.qr(design)
        return cls(x, bends, basis, torch.linalg.inv(triangle))

    def best(self, curves: Float[Tensor, "curve snapshot"]) -> Windows:
        """The best-fitting window of each curve, among those that rise most steeply inside."""
        found = [self._best(chunk) for chunk in curves.split(_CHUNK)]
        return Windows(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _best(self, curves: Float[Tensor, "curve snapshot"]) -> tuple[Tensor, ...]:
        projected = torch.einsum("cs,psk->cpk", curves, self.basis)
        residual = curves.square().sum(1, keepdim=True) - projected.square().sum(2)
        coefficients = torch.einsum("cpk,pjk->cpj", projected, self.coefficients)
        before, inside, after = coefficients[..., 1:].cumsum(2).unbind(2)
        rises = (inside > 0) & (inside > before) & (inside > after)
        residual, pair = residual.clamp(min=0).masked_fill(~rises, math.inf).min(1)
        onset, end = self.bends[pair].unbind(1)
        rows = torch.arange(len(curves))
        onset_level = coefficients[rows, pair, 0] + before[rows, pair] * self.x[onset]
        rise = inside[rows, pair] * (self.x[end] - self.x[onset])
        onset_level = onset_level.masked_fill(residual.isinf(), math.nan)
        return onset, end, onset_level, onset_level + rise, residual


def midpoints(
    curves: Float[Tensor, "curve snapshot"], x: Float[Tensor, " snapshot"], windows: Windows
) -> Float[Tensor, " curve"]:
    """Where each curve crosses halfway between its levels at the ends of its window, in x.

    Between snapshots the curve is a straight line in x. A curve that crosses more than once gives
    the middle of its first and last crossings, one that never does the middle of the window; NaN
    where there is no window.
    """
    half = (windows.onset_level + windows.end_level) / 2
    above = curves - half[:, None]
    index = torch.arange(len(x) - 1)
    inside = (index >= windows.onset[:, None]) & (index < windows.end[:, None])
    crosses = inside & (above[:, :-1] < 0) & (above[:, 1:] >= 0)
    crossing = x[:-1] - above[:, :-1] * x.diff() / curves.diff(dim=1)
    first = crossing.masked_fill(~crosses, math.inf).amin(1)
    last = crossing.masked_fill(~crosses, -math.inf).amax(1)
    middle = (x[windows.onset] + x[windows.end]) / 2
    return torch.where(half.isnan(), half, torch.where(crosses.any(1), (first + last) / 2, middle))


def smooth_bases(x: Float[Tensor, " snapshot"]) -> Float[Tensor, "trend snapshot 3"]:
    """Orthonormal columns that span each smooth trend; columns that a trend lacks are zero."""
    centres = torch.linspace(float(x[0]) - 2, float(x[-1]) + 2, 60, dtype=x.dtype)[:, None]
    shapes = [torch.exp(-torch.exp(x - centres))]
    shapes += [torch.sigmoid((x - centres) / width) for width in (1.0, 1.5, 2.5, 5.0)]
    curved = torch.cat(shapes)
    bent = (x - x[EDGE:-EDGE, None]).clamp(min=0)
    constant, line, nothing = torch.ones_like(x), x - x.mean(), torch.zeros_like(x)
    designs = [
        torch.stack([constant.expand_as(curved), curved, nothing.expand_as(curved)], dim=-1),
        torch.stack([constant.expand_as(bent), line.expand_as(bent), bent], dim=-1),
        torch.stack([constant, line, line.square()], dim=-1)[None],
    ]
    basis, size, _ = torch.linalg.svd(torch.cat(designs), full_matrices=False)
    return basis * (size > 1e-10 * size[:, :1])[:, None, :]


def best_smooth(
    curves: Float[Tensor, "curve snapshot"], bases: Float[Tensor, "trend snapshot 3"]
) -> tuple[Float[Tensor, " curve"], Float[Tensor, "curve snapshot"]]:
    """The residual sum of squares of the smooth trend that fits each curve best, and its values."""
    residuals, fits = [], []
    for chunk in curves.split(_CHUNK):
        projected = torch.einsum("cs,psk->cpk", chunk, bases)
        residual = chunk.square().sum(1, keepdim=True) - projected.square().sum(2)
        best, trend = residual.clamp(min=0).min(1)
        residuals.append(best)
        rows = torch.arange(len(chunk))
        fits.append(torch.einsum("csk,ck->cs", bases[trend], projected[rows, trend]))
    return torch.cat(residuals), torch.cat(fits)


def abruptness(
    curve: Float[Tensor, " snapshot"],
    search: WindowSearch,
    *,
    n_simulations: int,
    generator: torch.Generator,
) -> tuple[float, Float[Tensor, " simulation"]]:
    """How much better a window fits than a smooth trend, and the same for simulated smooth curves.

    Returns:
        ln(smooth residual / abrupt residual) of the curve, -inf where it has no window; and its
        values for curves that are the smooth fit plus noise like that of the curve.
    """
    bases = smooth_bases(search.x)
    curve = curve - curve.mean()
    _, [trend] = best_smooth(curve[None], bases)
    noise = _noise_like(curve - trend, n_simulations, generator)
    curves = torch.cat([curve[None], trend + noise])
    # a fit that is exact leaves only rounding
    least = curves.square().sum(1) * 1e-24 + torch.finfo(curves.dtype).tiny
    smooth, abrupt = best_smooth(curves, bases)[0], search.best(curves).residual
    ratio = smooth.maximum(least).log() - abrupt.maximum(least).log()
    return float(ratio[0]), ratio[1:]


def _noise_like(
    residual: Float[Tensor, " snapshot"], n: int, generator: torch.Generator
) -> Float[Tensor, "simulation snapshot"]:
    """Autoregressive Gaussian noise with the residual's variance and lag-1 correlation.

    Both are corrected for what a fit with about four parameters takes away: residuals are smaller
    and less correlated than the noise that they come from.
    """
    n_snapshots = len(residual)
    total = float(residual.square().sum())
    lag = float((residual[1:] * residual[:-1]).sum()) / total if total > 0 else 0.0
    correlation = min(max((n_snapshots * lag + 2) / (n_snapshots - 5), 0.0), 0.95)
    fresh = torch.randn(n, n_snapshots, dtype=residual.dtype, generator=generator)
    noise = [fresh[:, 0]]
    for column in fresh.unbind(1)[1:]:
        noise.append(correlation * noise[-1] + math.sqrt(1 - correlation**2) * column)
    return torch.stack(noise, dim=1) * math.sqrt(total / (n_snapshots - 4))
