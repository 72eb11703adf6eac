"""Abrupt or smooth: two descriptions of a curve over ln(training tokens).

1. Abrupt: a continuous line with two bends, steepest and rising between them. Every pair of bends
   at snapshots is tried and fitted by least squares; the best pair is the window of the change. For
   the test also windows with rounded corners, a line plus a narrow logistic curve: a change that is
   large beside the noise shows that it has no corners.
   (Dynamic programming over segments, as `ruptures` does it, fits each segment by itself and so
   cannot make them meet on an uneven grid; there are few enough pairs to try them all.)
2. Smooth: the best of a parabola, a line with one bend, an exponential relaxation in tokens,
   a + b exp(-t / τ), and logistic curves no steeper than one that is in proportion to tokens,
   a + b / (1 + (t / τ) ** -c) with c <= 1, whose tails are power laws.

Least squares are weighted where a `Noise` is given: curve and description are multiplied by a
matrix that makes its noise independent and of one size. `abruptness` compares the two.

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

from induction_lens.dynamics.noise import Noise

MIN_SNAPSHOTS = 10
"""Fewer do not tell a change from a trend."""
EDGE = 2
"""Snapshots before the first bend, and after the second: what is abrupt has a before and after."""
NARROW = (0.1, 0.15, 0.2, 0.3)
"""Widths of the logistic curves that count as abrupt, in ln(tokens); smooth ones have 1 or more."""
_CHUNK = 64


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
    """All pairs of bends on a grid of snapshots.

    A bend at snapshot i is a hinge, max(x - x[i], 0). Once all hinges are cleared of constant and
    line, a pair of them is a regression on two columns, whose solution is written out.
    """

    x: Float[Tensor, " snapshot"]
    """ln(tokens seen)."""
    bends: Int[Tensor, "pair 2"]
    """Snapshots of the two bends."""
    whitening: Float[Tensor, "snapshot snapshot"]
    """Makes the noise of a curve independent and of size one."""
    line: Float[Tensor, "2 snapshot"]
    """From a whitened curve to constant and slope of the line that fits it."""
    hinges: Float[Tensor, "bend snapshot"]
    """Whitened hinges, cleared of constant and line."""
    hinge_lines: Float[Tensor, "2 bend"]
    """Constant and slope of what was cleared."""
    cleared: Float[Tensor, "snapshot snapshot"]
    """Clears a whitened curve of constant and line."""

    @classmethod
    def over(cls, x: Float[Tensor, " snapshot"], noise: Noise | None = None) -> WindowSearch:
        """Prepare the search on the grid `x`."""
        whitening = _whitening(x, noise)
        first, second = torch.triu_indices(len(x), len(x), offset=1, device="cpu")
        inside = (first >= EDGE) & (second < len(x) - EDGE)
        basis, triangle = torch.linalg.qr(whitening @ torch.stack([torch.ones_like(x), x], dim=1))
        line = torch.linalg.inv(triangle) @ basis.T
        cleared = torch.eye(len(x), dtype=x.dtype, device="cpu") - basis @ basis.T
        hinges = whitening @ (x[:, None] - x).clamp(min=0)
        return cls(
            x,
            torch.stack([first[inside], second[inside]], dim=1),
            whitening,
            line,
            (cleared @ hinges).T.contiguous(),
            line @ hinges,
            cleared,
        )

    def best(self, curves: Float[Tensor, "curve snapshot"]) -> Windows:
        """The best-fitting window of each curve, among those that rise most steeply inside."""
        found = [self._best(chunk) for chunk in curves.split(_CHUNK)]
        return Windows(*(torch.cat(column) for column in zip(*found, strict=True)))

    def design(self, window: Windows) -> Float[Tensor, "snapshot 4"]:
        """The whitened columns of the window of one curve: constant, line and two hinges."""
        bends = torch.cat([window.onset, window.end])
        past = (self.x[:, None] - self.x[bends]).clamp(min=0)
        columns = torch.cat([torch.ones_like(past[:, :1]), self.x[:, None], past], dim=1)
        return self.whitening @ columns

    def _best(self, curves: Float[Tensor, "curve snapshot"]) -> tuple[Tensor, ...]:
        white = curves @ self.whitening.T
        rest = white @ self.cleared
        first, second = self.bends.unbind(1)
        products = self.hinges @ self.hinges.T
        along = rest @ self.hinges.T
        one, two = along[:, first], along[:, second]
        size_one, size_two = products[first, first], products[second, second]
        both = products[first, second]
        scale = 1 / (size_one * size_two - both.square())
        change_one = (size_two * one - both * two) * scale
        change_two = (size_one * two - both * one) * scale
        residual = rest.square().sum(1, keepdim=True) - (change_one * one + change_two * two)
        slope = (white @ self.line[1])[:, None]
        before = slope - change_one * self.hinge_lines[1, first]
        before -= change_two * self.hinge_lines[1, second]
        rises = (change_one > 0) & (change_two < 0) & (before + change_one > 0)
        residual, pair = residual.clamp(min=0).masked_fill(~rises, math.inf).min(1)
        onset, end = self.bends[pair].unbind(1)
        rows = torch.arange(len(curves), device="cpu")
        bend, before = change_one[rows, pair], before[rows, pair]
        constant = white @ self.line[0] - bend * self.hinge_lines[0, onset]
        constant = constant - change_two[rows, pair] * self.hinge_lines[0, end]
        onset_level = constant + before * self.x[onset]
        rise = (before + bend) * (self.x[end] - self.x[onset])
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
    index = torch.arange(len(x) - 1, device="cpu")
    inside = (index >= windows.onset[:, None]) & (index < windows.end[:, None])
    crosses = inside & (above[:, :-1] < 0) & (above[:, 1:] >= 0)
    crossing = x[:-1] - above[:, :-1] * x.diff() / curves.diff(dim=1)
    first = crossing.masked_fill(~crosses, math.inf).amin(1)
    last = crossing.masked_fill(~crosses, -math.inf).amax(1)
    middle = (x[windows.onset] + x[windows.end]) / 2
    return torch.where(half.isnan(), half, torch.where(crosses.any(1), (first + last) / 2, middle))


@dataclass(frozen=True)
class Trends:
    """Many trends on a grid of snapshots: each is one column beside those of its group."""

    whitening: Float[Tensor, "snapshot snapshot"]
    """Makes the noise of a curve independent and of size one."""
    groups: tuple[tuple[Float[Tensor, "snapshot _common"], Float[Tensor, "snapshot _trend"]], ...]
    """Orthonormal columns that all trends of a group have, and one more of each, of length one."""
    rising: bool
    """Whether the last column has to rise."""

    @classmethod
    def smooth(cls, x: Float[Tensor, " snapshot"], noise: Noise | None = None) -> Trends:
        """All smooth trends on the grid `x`."""
        whitening = _whitening(x, noise)
        past = x[:, None] - _centres(x, beyond=2.0, n=60)
        curved = [torch.exp(-torch.exp(past))]
        curved += [torch.sigmoid(past / width) for width in (1.0, 1.5, 2.5, 5.0)]
        bent = (x[:, None] - x[EDGE:-EDGE]).clamp(min=0)
        constant, line = _line(x)
        designs = (
            (constant, torch.cat(curved, dim=1)),
            (torch.cat([constant, line], dim=1), torch.cat([bent, line.square()], dim=1)),
        )
        groups = tuple(_cleared(whitening @ common, whitening @ own) for common, own in designs)
        return cls(whitening, groups, rising=False)

    @classmethod
    def rounded(cls, x: Float[Tensor, " snapshot"], noise: Noise | None = None) -> Trends:
        """Windows with rounded corners: a line, and a narrow logistic curve between snapshots."""
        whitening = _whitening(x, noise)
        inside = x[EDGE:-EDGE]
        centres = torch.cat([inside, (inside[1:] + inside[:-1]) / 2])
        past = x[:, None] - centres
        steps = torch.cat([torch.sigmoid(past / width) for width in NARROW], dim=1)
        common = torch.cat(_line(x), dim=1)
        return cls(whitening, (_cleared(whitening @ common, whitening @ steps),), rising=True)

    def residuals(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, " curve"]:
        """The residual sum of squares of the trend that fits each curve best."""
        return torch.cat([self._best(chunk)[0] for chunk in curves.split(_CHUNK)])

    def design(self, curve: Float[Tensor, " snapshot"]) -> Float[Tensor, "snapshot column"]:
        """The whitened columns, orthonormal, of the trend that fits a curve best."""
        _, [best] = self._best(curve[None])
        trends = [
            torch.cat([common, column[:, None]], dim=1)
            for common, own in self.groups
            for column in own.T
        ]
        return trends[int(best)]

    def fit(self, curve: Float[Tensor, " snapshot"]) -> Float[Tensor, " snapshot"]:
        """The trend that fits a curve best."""
        basis = self.design(curve)
        fitted = basis @ (basis.T @ (self.whitening @ curve))
        return torch.linalg.solve_triangular(self.whitening, fitted[:, None], upper=False)[:, 0]

    def _best(self, curves: Float[Tensor, "curve snapshot"]) -> tuple[Tensor, Tensor]:
        white = curves @ self.whitening.T
        total = white.square().sum(1, keepdim=True)
        residuals = []
        for common, own in self.groups:
            along = white @ own
            rest = total - (white @ common).square().sum(1, keepdim=True)
            left = (rest - along.square()).clamp(min=0)
            residuals.append(left.masked_fill(along <= 0, math.inf) if self.rising else left)
        residual, trend = torch.cat(residuals, dim=1).min(1)
        return residual, trend


def _centres(x: Float[Tensor, " snapshot"], *, beyond: float, n: int) -> Tensor:
    first, last = float(x[0]) - beyond, float(x[-1]) + beyond
    return torch.linspace(first, last, n, dtype=x.dtype, device="cpu")


def _line(x: Float[Tensor, " snapshot"]) -> tuple[Tensor, Tensor]:
    return torch.ones_like(x)[:, None], (x - x.mean())[:, None]


def _cleared(common: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns for `common`, and `own` cleared of them, at length one or zero."""
    basis, _ = torch.linalg.qr(common)
    before = own.norm(dim=0)
    own = own - basis @ (basis.T @ own)
    own = own - basis @ (basis.T @ own)  # once more, for what rounding left
    size = own.norm(dim=0)
    return basis, own / size.where(size > 1e-9 * before, math.inf)


def _whitening(x: Float[Tensor, " snapshot"], noise: Noise | None) -> Tensor:
    if noise is None:
        return torch.eye(len(x), dtype=x.dtype, device="cpu")
    identity = torch.eye(len(x), dtype=x.dtype, device="cpu")
    return torch.linalg.solve_triangular(noise.factor(x), identity, upper=False)
