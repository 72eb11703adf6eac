"""Numbers and their intervals as people read them, in sentences and tables."""

from __future__ import annotations

import math

from induction_lens.estimates import Estimate

UNKNOWN = "–"
"""What stands for a number that was not measured."""


def nats(estimate: Estimate, *, signed: bool = True) -> str:
    """An estimate in a sentence or a table: `−0.31 [−0.40, −0.22]`.

    An interval that excludes 0 shows it: an end near 0 has as many digits as that takes.
    """
    if not math.isfinite(estimate.low):
        return number(estimate.value, signed=signed)
    low, high = (
        number(end, signed=signed, digits=_digits(end) if estimate.excludes_zero() else 2)
        for end in (estimate.low, estimate.high)
    )
    return f"{number(estimate.value, signed=signed)} [{low}, {high}]"


def _digits(value: float) -> int:
    """Two decimals, or the first that is not 0."""
    digits = 2
    while digits < 9 and abs(value) < 0.5 * 10**-digits:
        digits += 1
    return digits


def number(value: float, *, signed: bool = True, digits: int = 2) -> str:
    """A number with a true minus sign; what rounds to zero has no sign, and NaN is `–`."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def percent(share: Estimate) -> str:
    """A share with its interval: `96% [95, 97]`; without one where its ends are infinite."""
    value, low, high = (
        number(100 * part, signed=False, digits=0) for part in (share.value, share.low, share.high)
    )
    return f"{value}% [{low}, {high}]" if math.isfinite(share.low) else f"{value}%"
