"""The phase change: the short window of training in which a curve changes abruptly.

1. The curve is the ICL score, or the induction score of the run's strongest head, averaged over
   evaluation sequences, over ln(tokens seen). Step 0 is left out.
2. The window's ends are the bends of the continuous line of three pieces that fits best and is
   steepest in the middle; the midpoint is where the curve is halfway between the levels there.
3. A one-sided test asks whether the window fits better than a smooth trend does, given the noise
   (see `curves`). There is a change if p < 0.05 and it is larger than a stated minimum.
4. Intervals: sequences are resampled, and seeds where there are several; steps 1 and 2 are done
   anew each time.

Olsson et al. 2022, "Argument 1", see the change by eye; the procedure here is this package's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.dynamics.curves import (
    MIN_SNAPSHOTS,
    WindowSearch,
    abruptness,
    midpoints,
    one_thread,
)
from induction_lens.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

Curve = Literal["icl", "induction"]
LEVEL = 0.05
"""A change is found where p is below this."""
MINIMUM = 0.1
"""Smallest change that counts: nats for the ICL score, share of attention for induction."""


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap confidence interval."""

    value: float
    """The estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    @classmethod
    def of(
        cls, value: float, resampled: Float[Tensor, " resample"], *, confidence: float
    ) -> Interval:
        """The percentile interval of resampled estimates; NaN among them are left out."""
        tail = (1 - confidence) / 2
        ends = torch.tensor([tail, 1 - tail], dtype=resampled.dtype)
        low, high = resampled.nanquantile(ends).tolist()
        return cls(value, low, high)

    def __str__(self) -> str:
        """For instance, in tokens, `10.6M [10.2M, 11.0M]`."""
        value, low, high = (short(number) for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class PhaseChange:
    """Where in training a curve changes abruptly, if it does."""

    of: Curve
    """The curve: `icl`, the ICL score, which falls, or `induction`, the induction score of the
    strongest head, which rises."""
    found: bool
    """Whether there is a change: p < 0.05, and as large as `minimum`."""
    onset: Interval | None
    """Where it begins, in tokens; None where there is none."""
    midpoint: Interval | None
    """Where it is half done, in tokens."""
    end: Interval | None
    """Where it ends, in tokens."""
    change: float
    """From onset to end: nats for `icl`, share of attention for `induction`; 0 where no window is
    steeper than what is around it. The mean over seeds."""
    minimum: float
    """The smallest change that counts."""
    p_value: float
    """Of the one-sided test against a smooth trend."""
    seeds: tuple[int, ...]
    """Seeds of the runs; with several, the marks are geometric means over them."""
    n_sequences: int
    """Evaluation sequences that the curve is averaged over."""
    confidence: float
    """Level of the intervals."""
    midpoints: Float[Tensor, " resample"]
    """The midpoint in each resample, in tokens; none where there is no change."""

    def __str__(self) -> str:
        """`between 9.1M and 12.4M tokens, midpoint 10.6M [10.2M, 11.0M]`, or `none (p = 0.41)`."""
        if self.onset and self.midpoint and self.end:
            onset, end = short(self.onset.value), short(self.end.value)
            return f"between {onset} and {end} tokens, midpoint {self.midpoint}"
        if self.p_value < LEVEL:
            return f"none (a change of {self.change:+.3f}, smaller than {self.minimum:g})"
        return f"none (p = {self.p_value:.2g})"

    def to_frame(self) -> pd.DataFrame:
        """One row each for onset, midpoint and end: `tokens`, `low`, `high`; NaN for no change."""
        import pandas as pd

        marks = {"onset": self.onset, "midpoint": self.midpoint, "end": self.end}
        nowhere = Interval(math.nan, math.nan, math.nan)
        rows = [
            {"of": self.of, "mark": name, "tokens": mark.value, "low": mark.low, "high": mark.high}
            for name, mark in ((name, mark or nowhere) for name, mark in marks.items())
        ]
        return pd.DataFrame(rows).assign(found=self.found, change=self.change, p_value=self.p_value)


@one_thread()
def phase_change(
    trajectories: Trajectory | Sequence[Trajectory],
    *,
    of: Curve | str = "icl",
    minimum: float = MINIMUM,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> PhaseChange:
    """The window of training in which in-context learning, or induction, appears abruptly.

    Abruptly means: faster, over ln(tokens), than an exponential relaxation or any other smooth
    trend of `curves`, with a bend at both ends. So a run needs a before and an after. In smooth
    curves with noise of 0.01 to 0.03 nats from snapshot to snapshot, simulated, p was below 0.05 at
    most one time in ten, also where the noise of neighbouring snapshots correlates at 0.5; where
    it correlates at 0.8 and snapshots are few (40), up to one time in five.

    The intervals say how far the marks depend on which sequences were evaluated, and with several
    seeds, on the seed. They do not know the noise of one training run, which needs more seeds.
    Onset and end lie on snapshots; the midpoint lies between them.

    Args:
        trajectories: one run, or several of the same model that differ in their seed.
        of: `icl`, the ICL score, which falls; or `induction`, the induction score of the head that
            is `strongest` at the end, which rises.
        minimum: the smallest change that counts, in nats for `icl`, or share of attention.
        confidence: level of the bootstrap intervals.
        n_resamples: bootstrap resamples, and simulations of the test.
        seed: seed of both.

    Raises:
        ValueError: if the runs are not of the same model and evaluation, or one has too few
            snapshots or sequences, or an option is out of range.
    """
    runs = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    _check(runs, of=of, confidence=confidence, n_resamples=n_resamples)
    of = "icl" if of == "icl" else "induction"
    curves = [_Curve.read(run, of) for run in runs]
    # text and prompts are resampled independently of each other: see `co_occurrence`
    generator = torch.Generator().manual_seed(seed + (of == "induction"))
    tests = [
        abruptness(c.mean(), c.search, n_simulations=n_resamples, generator=generator)
        for c in curves
    ]
    observed = sum(ratio for ratio, _ in tests)
    simulated = torch.stack([ratios for _, ratios in tests]).sum(0)
    p_value = (1 + int((simulated >= observed).sum())) / (1 + n_resamples)
    change = sum(c.change() for c in curves) / len(curves)
    found = p_value < LEVEL and change >= minimum
    marks: list[Interval | None] = [None, None, None]
    middles = torch.zeros(0, dtype=torch.float64)
    if found:
        resampled = _resampled_marks(curves, n_resamples, generator).exp()
        values = torch.stack([c.marks(c.mean()[None])[0] for c in curves]).mean(0).exp().tolist()
        marks = [
            Interval.of(value, column, confidence=confidence)
            for value, column in zip(values, resampled.unbind(1), strict=True)
        ]
        middles = resampled[:, 1]
    return PhaseChange(
        of,
        found,
        *marks,
        change=-change if of == "icl" else change,
        minimum=minimum,
        p_value=p_value,
        seeds=tuple(run.seed for run in runs),
        n_sequences=curves[0].values.shape[1],
        confidence=confidence,
        midpoints=middles,
    )


def curve_values(trajectory: Trajectory, of: Curve) -> Float[Tensor, "snapshot sequence"]:
    """A curve for every evaluation sequence, at each snapshot, step 0 included."""
    if of == "icl":
        return trajectory.icl.double()
    head = trajectory.strongest()
    return trajectory.induction_by_sequence[:, head.layer, head.head].double()


def short(tokens: float) -> str:
    """A number of tokens in few characters: `10.6M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(tokens) >= size:
            return f"{tokens / size:.1f}{letter}"
    return f"{tokens:.0f}"


@dataclass(frozen=True)
class _Curve:
    """One run's curve, turned over if it falls, without step 0."""

    values: Float[Tensor, "snapshot sequence"]
    search: WindowSearch

    @classmethod
    def read(cls, run: Trajectory, of: Curve) -> _Curve:
        trained = run.tokens_seen > 0
        sign = -1 if of == "icl" else 1
        x = run.tokens_seen[trained].double().log()
        return cls(sign * curve_values(run, of)[trained], WindowSearch.over(x))

    def mean(self) -> Float[Tensor, " snapshot"]:
        return self.values.mean(1)

    def change(self) -> float:
        windows = self.search.best(self.mean()[None])
        return (windows.end_level - windows.onset_level).nan_to_num().item()

    def marks(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, "curve 3"]:
        """Onset, midpoint and end of each curve, in ln(tokens); NaN where it has no window."""
        x, windows = self.search.x, self.search.best(curves)
        middle = midpoints(curves, x, windows)
        missing = middle.isnan()
        onset, end = (x[i].masked_fill(missing, math.nan) for i in (windows.onset, windows.end))
        return torch.stack([onset, middle, end], dim=1)


def _resampled_marks(
    curves: list[_Curve], n_resamples: int, generator: torch.Generator
) -> Float[Tensor, "resample 3"]:
    """Marks in ln(tokens), over resampled sequences, the same for all seeds, and seeds."""
    n = curves[0].values.shape[1]
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    counts = torch.zeros(n_resamples, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    marks = torch.stack([c.marks(counts @ c.values.T / n) for c in curves])
    seeds = torch.randint(len(curves), (len(curves), n_resamples), generator=generator)
    return marks[seeds, torch.arange(n_resamples)].mean(0)


def _check(runs: list[Trajectory], *, of: str, confidence: float, n_resamples: int) -> None:
    if of not in ("icl", "induction"):
        raise ValueError(f"expected of='icl' or of='induction', got {of!r}; choose one of them")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise ValueError(
            "expected a confidence between 0 and 1 and n_resamples >= 1, got "
            f"{confidence} and {n_resamples}; for instance 0.95 and 1000"
        )
    if not runs:
        raise ValueError("expected at least one trajectory, got none; give one, or a list of them")
    for run in runs:
        seen = run.tokens_seen[run.tokens_seen > 0]
        if len(seen) < MIN_SNAPSHOTS or not (seen.diff() > 0).all():
            raise ValueError(
                f"expected at least {MIN_SNAPSHOTS} snapshots after step 0, in the order of their "
                f"tokens, got {seen.tolist()} tokens in {run.name!r}; save more snapshots"
            )
        if min(run.icl.shape[1], run.induction_by_sequence.shape[-1]) < 2:
            raise ValueError(
                f"expected at least 2 evaluation sequences and prompts in {run.name!r}, got "
                f"{run.icl.shape[1]} and {run.induction_by_sequence.shape[-1]}; track it with more"
            )
    models = [{k: v for k, v in run.config.items() if k != "seed"} for run in runs]
    if any(model != models[0] for model in models) or len({r.evaluation for r in runs}) > 1:
        raise ValueError(
            "expected runs of one model that differ in their seed alone, measured on the same "
            f"text, got {', '.join(repr(run.name) for run in runs)}; call phase_change for each"
        )
