"""Times and peak memory of several ways of doing the same thing, and what they say about targets.

1. The arms of a comparison run in turn, again and again, in one process (baseline, ours, baseline,
   ours, …), so that a busy machine disturbs all of them alike.
2. A ratio is the median over the rounds of the ratio within a round.
3. Extra memory is the highest resident memory during an arm minus that before it; the largest of
   the rounds counts.

Linux only: the highest resident memory (`VmHWM`) is reset before each arm through
`/proc/self/clear_refs`. The peak of `getrusage` cannot be reset, so that what building the model
once took would hide what an arm takes; and a child process inherits it from its parent.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["ratio", "memory", "difference", "seconds"]


@dataclass(frozen=True)
class Run:
    """The rounds of one arm."""

    what: str
    """What it does."""
    seconds: tuple[float, ...]
    """Wall time of each round."""
    peak_bytes: int | None
    """Extra memory at the peak; None where the work is in another process."""

    @property
    def median(self) -> float:
        """Median wall time, in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Target:
    """What a row should reach."""

    of: Kind
    """Which of a row's quantities."""
    bound: Literal["at least", "at most"]
    """From which side."""
    value: float
    """The bound itself."""

    def holds(self, measured: float) -> bool:
        """Whether a measured value is within the bound; NaN never is."""
        return measured >= self.value if self.bound == "at least" else measured <= self.value


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    """Which: the benchmark, a slash, and the model or the size."""
    baseline: Run
    """The plain way."""
    ours: Run
    """The package's way."""
    direction: Literal["ours / baseline", "baseline / ours"]
    """Which ratio of times `ratio` is."""
    targets: tuple[Target, ...] = ()
    """What should hold."""
    difference: float | None = None
    """Largest difference between the results of both ways, where they are the same quantity."""
    note: str = ""
    """Anything else that was measured."""

    @property
    def ratio(self) -> float:
        """The ratio of the times: the median over the rounds."""
        return ratio_of_rounds(
            self.ours.seconds, self.baseline.seconds, flipped=self.direction == "baseline / ours"
        )

    @property
    def memory(self) -> float:
        """Our extra memory over that of the baseline; NaN where one is unknown or nothing."""
        if not self.ours.peak_bytes or not self.baseline.peak_bytes:
            return math.nan
        return self.ours.peak_bytes / self.baseline.peak_bytes

    def measured(self, kind: Kind) -> float:
        """The quantity that a target is about."""
        if kind == "difference":
            return math.nan if self.difference is None else self.difference
        return {"ratio": self.ratio, "memory": self.memory, "seconds": self.ours.median}[kind]

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "name": self.name,
            "baseline": asdict(self.baseline),
            "ours": asdict(self.ours),
            "direction": self.direction,
            "ratio": self.ratio,
            "memory": None if math.isnan(self.memory) else self.memory,
            "difference": self.difference,
            "note": self.note,
            "targets": [
                {**asdict(target), "holds": target.holds(self.measured(target.of))}
                for target in self.targets
            ],
        }


def ratio_of_rounds(
    numerator: Sequence[float], denominator: Sequence[float], *, flipped: bool = False
) -> float:
    """The median over the rounds of numerator / denominator, or of its inverse."""
    if flipped:
        numerator, denominator = denominator, numerator
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def interleave(
    arms: Mapping[str, Callable[[], object]], *, repeats: int, memory: bool = True
) -> list[Run]:
    """Run all arms in turn, `repeats` times over; what each of them took, in their order.

    `memory=False` for work in other processes, whose memory is not seen here.
    """
    seconds: dict[str, list[float]] = {what: [] for what in arms}
    peaks: dict[str, int] = dict.fromkeys(arms, 0)
    for _ in range(repeats):
        for what, work in arms.items():
            taken, peak = measured(work)
            seconds[what].append(taken)
            peaks[what] = max(peaks[what], peak)
    return [Run(what, tuple(seconds[what]), peaks[what] if memory else None) for what in arms]


def measured(work: Callable[[], object]) -> tuple[float, int]:
    """The wall time of a call in seconds, and its extra memory at the peak in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but still resident would hide new memory
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
    before = _status_bytes("VmRSS")
    started = time.perf_counter()
    work()
    taken = time.perf_counter() - started
    return taken, max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of `value ~ size ** e`: the least-squares slope of their logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-12)) for value in values]
    return statistics.linear_regression(x, y).slope
