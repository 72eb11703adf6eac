"""Whether in-context learning and induction heads appear together (Olsson et al. 2022, "Argument
1"): the lag between the midpoints of their phase changes, and their correlation meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from induction_lens.dynamics.change import PhaseChange, curve_values, phase_change
from induction_lens.dynamics.runs import checked_run
from induction_lens.estimates import Estimate, columns
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CoOccurrence:
    """The phase changes of the ICL score and of the induction score of one run, side by side."""

    icl: PhaseChange
    """Of the ICL score."""
    induction: PhaseChange
    """Of the strongest head's induction score."""
    lag: Estimate | None
    """Midpoint of ICL minus that of induction, in tokens: positive where ICL comes later. None
    where either change is missing, here and below."""
    ratio: Estimate | None
    """Midpoint of ICL divided by that of induction."""
    correlation: float | None
    """Spearman's rank correlation of the two curves over the snapshots inside either window: -1
    where the ICL score falls whenever induction rises."""
    n_snapshots: int
    """How many snapshots that is."""

    def __str__(self) -> str:
        """For instance `ICL 0.2M [-0.1M, 0.4M] tokens after induction, rank correlation -0.98`."""
        if self.lag is None or self.correlation is None:
            return f"not both: ICL {self.icl}; induction {self.induction}"
        return (
            f"ICL {self.lag} tokens after induction, "
            f"rank correlation {self.correlation:.2f} (n = {self.n_snapshots})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row: lag and ratio with intervals, the correlation, and how many snapshots it has."""
        import pandas as pd

        row: dict[str, Any] = {**columns("lag", self.lag), **columns("ratio", self.ratio)}
        row |= {"correlation": self.correlation, "n_snapshots": self.n_snapshots}
        return pd.DataFrame([row])


def co_occurrence(
    trajectory: Trajectory,
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> CoOccurrence:
    """Compare the phase change of the ICL score with that of the induction score.

    The two are measured on different tokens, text and prompts, which are resampled independently of
    each other for the intervals of lag and ratio. Two curves that both change once correlate in
    rank, whatever the cause: the correlation describes the window and has no p-value.

    Args:
        trajectory: One run.
        confidence: Level of the bootstrap intervals.
        n_resamples: Bootstrap resamples (see `phase_change`).
        seed: Seed of the resampling.

    Raises:
        ValueError: As `phase_change`.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> together = il.dynamics.co_occurrence(run, n_resamples=100)
        >>> [f"{curve.midpoint.value / 1e6:.1f}M" for curve in (together.icl, together.induction)]
        ['2.7M', '2.5M']
        >>> f"{together.lag.value / 1e6:.2f}M"
        '0.26M'
    """
    checked_run(trajectory)
    options = {"confidence": confidence, "n_resamples": n_resamples}
    icl = phase_change(trajectory, of="icl", seed=seed, **options)
    induction = phase_change(trajectory, of="induction", seed=seed, **options)
    if not (icl.midpoint and icl.onset and icl.end):
        return CoOccurrence(icl, induction, None, None, None, 0)
    if not (induction.midpoint and induction.onset and induction.end):
        return CoOccurrence(icl, induction, None, None, None, 0)
    late = icl.midpoint.value
    early = induction.midpoint.value
    shared: dict[str, Any] = {"n": icl.n_sequences, "confidence": confidence}
    lags = icl.midpoints - induction.midpoints
    lag = Estimate.of(late - early, lags, unit="tokens", **shared)
    ratios = icl.midpoints / induction.midpoints
    ratio = Estimate.of(late / early, ratios, unit="ratio", **shared)
    first = min(icl.onset.value, induction.onset.value)
    last = max(icl.end.value, induction.end.value)
    correlation, n = _rank_correlation(trajectory, first, last)
    return CoOccurrence(icl, induction, lag, ratio, correlation, n)


def _rank_correlation(trajectory: Trajectory, first: float, last: float) -> tuple[float, int]:
    import pandas as pd

    # the marks were exponentials of logarithms: half a token absorbs their rounding
    seen = trajectory.tokens_seen.double()
    inside = (seen >= first - 0.5) & (seen <= last + 0.5)
    icl, induction = (
        pd.Series(curve_values(trajectory, of)[inside].mean(1)) for of in ("icl", "induction")
    )
    return float(icl.corr(induction, method="spearman")), int(inside.sum())
