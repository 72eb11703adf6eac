"""Ending a measurement before all sequences are measured, with what was measured until then.

Work that goes on in parts (see `allocation`) may end after any of them but the first: because the
time that was given is over, because the intervals are as narrow as was asked for, or because the
user interrupts it. Intervals are then those of the sequences that were measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from induction_lens.ablation.allocation import Allocation
from induction_lens.estimators import Losses

Reason = Literal["time", "precision", "interrupt"]
_FEWEST_ADDED = 4
"""A part of fewer sequences changes no interval that one could see."""


@dataclass
class Stopping:
    """When work ends early; afterwards, whether it did, and why."""

    deadline: float | None = None
    """By `time.perf_counter()`: no part begins that would end after it."""
    precision: float | None = None
    """Half the width, in nats, that intervals of the tested sets' effects may have."""
    reason: Reason | None = None
    """Why it ended before all sequences were measured; None: it did not."""


@dataclass
class UntilStopped(Allocation):
    """Another allocation that ends early."""

    inner: Allocation
    """What decides which ablations go on."""
    stopping: Stopping
    """When it ends; is told why it did."""
    half_width: Callable[[Losses], float]
    """Half the width of the widest interval that `precision` is about, in nats."""
    _began: float = field(default=0.0, init=False)
    _n_last: int = field(default=0, init=False)

    def next_part(self, n_measured: int, n_sequences: int) -> slice | None:
        """The inner one's, or as much of it as there is time for; None once it has ended."""
        if self.stopping.reason is not None:
            return None
        part = self.inner.next_part(n_measured, n_sequences)
        if part is not None and n_measured:
            part = self._in_time(part)
        if part is not None:
            self._began, self._n_last = time.perf_counter(), part.stop - part.start
        return part

    def _in_time(self, part: slice) -> slice | None:
        if self.stopping.deadline is None:
            return part
        now = time.perf_counter()
        each = (now - self._began) / self._n_last
        n_left = int((self.stopping.deadline - now) / max(each, 1e-9))
        if n_left >= part.stop - part.start:
            return part
        self.stopping.reason = "time"
        return slice(part.start, part.start + n_left) if n_left >= _FEWEST_ADDED else None

    def going_on(self, losses: Losses, active: Sequence[int]) -> list[int]:
        """The inner one's; it ends here where the intervals are narrow enough."""
        precision = self.stopping.precision
        if precision is not None and self.half_width(losses) <= precision:
            self.stopping.reason = self.stopping.reason or "precision"
        return self.inner.going_on(losses, active)

    def keeps_what_is_measured(self, n_measured: int) -> bool:
        """Where anything was measured."""
        if n_measured:
            self.stopping.reason = "interrupt"
        return n_measured > 0
