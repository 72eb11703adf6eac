"""Numbers and their intervals as people read them, in sentences and tables."""

from __future__ import annotations

import math

from induction_lens.estimates import Estimate

UNKNOWN = "–"
"""What stands for a number that was not measured."""


def shown(estimate: Estimate, *, signed: bool = True) -> str:
    """An estimate in a sentence or a table: `−0.31 [−0.40, −0.22]`."""
    value = number(estimate.value, signed=signed)
    if not math.isfinite(estimate.low):
        return value
    return f"{value} {interval(estimate.low, estimate.high, signed=signed)}"


def interval(low: float, high: float, *, signed: bool = True, digits: int = 2) -> str:
    """An interval in brackets: `[−0.40, −0.22]`."""
    return f"[{', '.join(ends(low, high, signed=signed, digits=digits))}]"


def ends(low: float, high: float, *, signed: bool = True, digits: int = 2) -> tuple[str, str]:
    """The ends of an interval. One that excludes 0 shows it: an end near 0 has as many digits as
    that takes, as in `[−0.40, −0.003]`."""
    excludes_zero = low > 0 or high < 0

    def text(end: float) -> str:
        enough = _digits(end, digits) if excludes_zero else digits
        return number(end, signed=signed, digits=enough)

    return text(low), text(high)


def _digits(value: float, least: int) -> int:
    """So many decimals that a number does not round to 0."""
    return next((n for n in range(least, 9) if float(f"{value:.{n}f}") != 0), least)


def number(value: float, *, signed: bool = True, digits: int = 2) -> str:
    """A number with a true minus sign; what rounds to zero has no sign, and NaN is `–`."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def percent(share: Estimate) -> str:
    """A share with its interval: `96% [95, 97]`; without one where its ends are infinite."""
    in_percent = {"signed": False, "digits": 0}
    value = number(100 * share.value, **in_percent)
    if not math.isfinite(share.low):
        return f"{value}%"
    return f"{value}% {interval(100 * share.low, 100 * share.high, **in_percent)}"
