"""A mean of exact values that are known of few sequences, with cheap ones that are known of many.

With exact values `e` of the sequences in `S`, cheap values `f` of these and of others, and slopes
`b`, the estimate is the mean over `S` of

    e_i - (1 - n/N) b_i (f_i - mean of f over the others)

where `b_i`, the slope of `e` on `f`, is from `S` without the document of `i`. What is subtracted
has mean zero whatever the slope, because slope and value come from different documents: the
estimate is unbiased. Where `f` follows `e`, it takes out what the sequences in `S` have more of
than the others; where it does not, the slope is near zero and the mean of `e` is left.

The error is the jackknife's over documents, each left out of all of it. See Kott and Stukel 1997,
"Can the jackknife be used with a two-phase sample?"; `tests.simulations.control_variates` prints
how often such intervals hold the truth.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from induction_lens.estimates import standard_error


def control_variate_mean(
    exact: Float[Tensor, " n"],
    cheap: Float[Tensor, " batch"],
    *,
    documents: Shaped[Tensor, " batch"] | None = None,
) -> tuple[float, float]:
    """The mean and its standard error; NaN for the error where there is a single document.

    Args:
        exact: Exact values of the first sequences, or of all.
        cheap: Cheap values of all sequences.
        documents: The document of each sequence: documents are the units; None: sequences.
    """
    sums, _ = _summed(exact, cheap, documents)
    n_units = sums.measured.shape[1]
    estimates = sums.estimates()
    of_all, without_each = estimates[0], estimates[1:]
    known = np.isfinite(without_each)
    if n_units < 2 or not known.all():
        return float(of_all), np.nan
    variance = (n_units - 1) / n_units * ((without_each - of_all) ** 2).sum()
    return float(of_all), float(np.sqrt(variance))


def error_of_all(
    exact: Float[Tensor, " n"],
    cheap: Float[Tensor, " batch"],
    *,
    documents: Shaped[Tensor, " batch"] | None = None,
) -> float:
    """How far the estimate may be from the mean of the exact values of *all* these sequences.

    That is the standard error of what the cheap values leave of the exact ones, as of a sample
    without replacement: 0 once all are measured. `control_variate_mean` also has the error of
    all these sequences themselves, which no further one of them takes away.
    """
    n, n_all = len(exact), len(cheap)
    sums, unit = _summed(exact, cheap, documents)
    slopes = torch.from_numpy(sums.slopes()[unit[:n]])
    e, f = exact.double().cpu(), cheap.double().cpu()
    left = e - slopes * (f[:n] - f[n:].mean())
    units = None if documents is None else documents[:n]
    return float(standard_error(left, units)) * math.sqrt(1 - n / n_all)


def _summed(
    exact: Float[Tensor, " n"],
    cheap: Float[Tensor, " batch"],
    documents: Shaped[Tensor, " batch"] | None,
) -> tuple[_Sums, np.ndarray]:
    """The sums over each unit, and which unit each sequence is of."""
    numbers = np.arange(len(cheap)) if documents is None else documents.cpu().numpy()
    _, unit = np.unique(numbers, return_inverse=True)
    e, f = (values.double().cpu().numpy() for values in (exact, cheap))
    return _Sums.of(e, f, unit, measured=np.arange(len(e))), unit


class _Sums:
    """Sums over each unit, and from them the estimate with all units and without each."""

    def __init__(self, measured: np.ndarray, others: np.ndarray) -> None:
        """Of the measured sequences: how many, e, f, e f, f f; of the others: how many, f."""
        self.measured = measured
        self.others = others

    @classmethod
    def of(
        cls, exact: np.ndarray, cheap: np.ndarray, unit: np.ndarray, *, measured: np.ndarray
    ) -> _Sums:
        """Sums of `exact` and `cheap` by `unit`; `measured`: which sequences have exact values."""
        n_units = int(unit.max()) + 1

        def by_unit(values: np.ndarray, of: np.ndarray) -> np.ndarray:
            return np.bincount(of, weights=values, minlength=n_units)

        its, rest = unit[measured], np.delete(unit, measured)
        f, g = cheap[measured], np.delete(cheap, measured)
        columns = (np.ones_like(f), exact, f, exact * f, f * f)
        return cls(
            np.stack([by_unit(column, its) for column in columns]),
            np.stack([by_unit(np.ones_like(g), rest), by_unit(g, rest)]),
        )

    def slopes(self) -> np.ndarray:
        """The slope of e on f by all units but one, for each that is left out."""
        return _slope(self.measured.sum(1, keepdims=True) - self.measured)

    def estimates(self) -> np.ndarray:
        """With all units, and without each."""
        n_units = self.measured.shape[1]
        left_out = np.concatenate([np.zeros((1, n_units)), np.eye(n_units)])  # [case unit]
        kept = 1 - left_out
        measured = self.measured @ kept.T  # [sum case]
        others = self.others @ kept.T
        n, n_others = measured[0], others[0]
        share = n_others / np.maximum(n + n_others, 1)
        mean_of_others = others[1] / np.maximum(n_others, 1)
        # slopes of each case from all units but one more, [case unit]
        slopes = _slope(measured[:, :, None] - self.measured[:, None, :])
        moved = self.measured[2] - self.measured[0] * mean_of_others[:, None]  # [case unit]
        taken = (kept * slopes * moved).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (measured[1] - share * taken) / n


def _slope(sums: np.ndarray) -> np.ndarray:
    """Slopes of e on f by least squares, [case unit]; 0 where f does not vary."""
    n, e, f, ef, ff = sums
    at_least_one = np.maximum(n, 1)
    spread = ff - f * f / at_least_one
    together = ef - e * f / at_least_one
    varies = spread > 1e-12 * np.maximum(ff, 1e-300)
    return np.where(varies & (n > 1), together / np.where(varies, spread, 1), 0)
