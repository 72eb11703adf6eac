"""Whether a quantity changes with the size of models: a line through them, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from induction_lens import checks
from induction_lens.estimates import Estimate, Measure

FEWEST = 3
"""Two models are always on a line."""


@dataclass(frozen=True)
class Trend:
    """How a quantity changes when models are ten times as large."""

    quantity: str
    """What changes."""
    slope: Estimate
    """Change for ten times the parameters, with Student's t interval over models; `n` counts
    models. Its ends are infinite with fewer than three."""
    p_value: float
    """Of the two-sided test that there is no change; NaN with fewer than three models."""

    @property
    def constant(self) -> bool:
        """Whether no change is shown: zero is inside the interval."""
        return not self.slope.excludes_zero()

    def __str__(self) -> str:
        """For instance `icl: -0.012 [-0.043, +0.019] for ten times the parameters, p = 0.37`."""
        return f"{self.quantity}: {self.slope} for ten times the parameters, p = {self.p_value:.2g}"


def trend(
    sizes: Sequence[float | int],
    values: Sequence[float | int],
    *,
    quantity: str = "value",
    confidence: float = 0.95,
    unit: Measure = "nats",
) -> Trend:
    """The least-squares slope of values against the logarithm to base ten of sizes.

    Models that differ in their seed alone are points of their own; those without a value (NaN) are
    left out.

    Args:
        sizes: Parameters of each model.
        values: The quantity of each.
        quantity: What it is called.
        confidence: Level of the interval.
        unit: Of the quantity.

    Raises:
        ValueError: There are not as many values as sizes, or a size is not positive.

    Examples:
        >>> found = il.suites.trend([1e6, 1e7, 1e8, 1e9], [0.10, 0.22, 0.27, 0.41])
        >>> print(found.slope)
        +0.098 [+0.047, +0.149]
    """
    from scipy import stats

    confidence = checks.confidence(confidence)
    remedy = "give the parameters of each model"
    sizes = [
        checks.real_number("each of sizes", size, above=0, remedy=remedy)
        for size in checks.several("sizes", sizes)
    ]
    values = [_number(value) for value in checks.several("values", values)]
    if len(sizes) != len(values):
        raise ValueError(
            f"expected a value for each of {len(sizes)} sizes, got {len(values)}; give both alike"
        )
    known = [
        (math.log10(s), float(v)) for s, v in zip(sizes, values, strict=True) if math.isfinite(v)
    ]
    n = len(known)
    different = len({x for x, _ in known})
    if different < 2:
        return _unknown(quantity, n, confidence, unit)
    if len({y for _, y in known}) == 1 and n >= FEWEST:
        return Trend(quantity, Estimate(0.0, 0.0, 0.0, n, confidence, unit), 1.0)
    line = stats.linregress([x for x, _ in known], [y for _, y in known])
    slope = float(line.slope)  # pyright: ignore[reportAttributeAccessIssue]
    if n < FEWEST:
        return Trend(quantity, Estimate(slope, -math.inf, math.inf, n, confidence, unit), math.nan)
    error = float(line.stderr)  # pyright: ignore[reportAttributeAccessIssue]
    half = float(stats.t.ppf((1 + confidence) / 2, n - 2)) * error
    p_value = float(line.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    estimate = Estimate(slope, slope - half, slope + half, n, confidence, unit)
    return Trend(quantity, estimate, p_value)


def _unknown(quantity: str, n: int, confidence: float, unit: Measure) -> Trend:
    return Trend(quantity, Estimate(math.nan, -math.inf, math.inf, n, confidence, unit), math.nan)


def _number(value: object) -> float:
    """A value of a model, NaN where it has none."""
    if isinstance(value, float) and math.isnan(value):
        return math.nan
    return checks.real_number("each of values", value, remedy="give a number, or NaN for none")
