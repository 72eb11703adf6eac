"""The phase change: the short window of training in which a curve changes abruptly.

1. The curve is the ICL score, or the induction score of the run's strongest head, averaged over
   evaluation sequences, over ln(tokens seen). Step 0 is left out.
2. The window's ends are the bends of the continuous line of three pieces that fits best and is
   steepest in the middle; the midpoint is where the curve is halfway between the levels there.
3. A one-sided test asks whether the window fits better than a smooth trend does, given the noise
   (see `abruptness`). There is a change if p < 0.05 and it is larger than a stated minimum.
4. Intervals of one run: sequences are resampled, noise is added as far as the curve is noisier than
   sequences explain, step 2 is repeated, and midpoints are moved as far as the spacing of snapshots
   leaves open. With several seeds: Student's t over the seeds that change by themselves.

Olsson et al. 2022, "Argument 1", see the change by eye; the procedure here is this package's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.dynamics.abruptness import Abruptness, AbruptnessTest
from induction_lens.dynamics.curves import MIN_SNAPSHOTS, WindowSearch, midpoints, one_thread
from induction_lens.dynamics.runs import checked_runs
from induction_lens.dynamics.seeds import mean_over_seeds
from induction_lens.estimates import Estimate, short_number
from induction_lens.packing import Comparable
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

Curve = Literal["icl", "induction"]
LEVEL = 0.05
"""A change is found where p is below this."""
MINIMUM = 0.1
"""Smallest change that counts: nats for the ICL score, share of attention for induction."""
_NONE = torch.zeros(0, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class PhaseChange(Comparable):
    """Where in training a curve changes abruptly, if it does."""

    of: Curve
    """The curve: `icl`, the ICL score, which falls, or `induction`, the induction score of the
    strongest head, which rises."""
    found: bool
    """Whether there is a change: p < 0.05, and as large as `minimum`; with several seeds, also that
    at least one changes by itself."""
    onset: Estimate | None
    """Where it begins, in tokens; None where there is none."""
    midpoint: Estimate | None
    """Where it is half done, in tokens."""
    end: Estimate | None
    """Where it ends, in tokens."""
    change: float
    """From onset to end: nats for `icl`, share of attention for `induction`; 0 where no window is
    steeper than what is around it. The mean over the seeds that change, or over all if none does.
    """
    minimum: float
    """The smallest change that counts."""
    p_value: float
    """Of the one-sided test against a smooth trend; of all seeds together."""
    seeds: tuple[int, ...]
    """Seeds of the runs."""
    n_sequences: int
    """Evaluation sequences that the curve is averaged over."""
    confidence: float
    """Level of the intervals."""
    midpoints: Float[Tensor, " resample"]
    """The midpoint of one run in each resample, in tokens; none where there is no change, or the
    marks are over several seeds."""
    changed: tuple[int, ...] = ()
    """Seeds of the runs that change by themselves (p < 0.05 each): the marks are over these alone,
    geometric means where there are several."""
    seed_midpoints: tuple[float, ...] = ()
    """The midpoint of each of them, in tokens."""

    @property
    def over(self) -> str:
        """What the intervals are over: `sequences and snapshots`, or `3 seeds`."""
        n = len(self.changed)
        return f"{n} seeds" if n > 1 else "sequences and snapshots"

    def __str__(self) -> str:
        """`between 9.1M and 12.4M tokens, midpoint 10.6M [10.2M, 11.0M]`, or `none (p = 0.41)`."""
        if self.onset and self.midpoint and self.end:
            onset = short_number(self.onset.value)
            end = short_number(self.end.value)
            return f"between {onset} and {end} tokens, midpoint {self.midpoint}"
        if self.p_value < LEVEL and self.change_is_large():
            return f"none (p = {self.p_value:.2g}, but no seed changes by itself)"
        if self.p_value < LEVEL:
            return f"none (a change of {self.change:+.3f}, smaller than {self.minimum:g})"
        return f"none (p = {self.p_value:.2g})"

    def change_is_large(self) -> bool:
        """Whether the change, found or not, is as large as `minimum`."""
        return abs(self.change) >= self.minimum

    def corrected(self, p_value: float) -> PhaseChange:
        """The same with a p-value that is corrected for other tests: no change if it is too large.

        Raises:
            ValueError: This is no probability.

        Examples:
            >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
            >>> change = il.dynamics.phase_change(run, n_resamples=100)
            >>> print(change.corrected(9 * change.p_value))  # one of nine models, after Bonferroni
            none (p = 0.089)
        """
        p_value = checks.real_number("p_value", p_value, least=0, most=1, remedy="a probability")
        if p_value < LEVEL:
            return replace(self, p_value=p_value)
        nothing = {"onset": None, "midpoint": None, "end": None, "midpoints": _NONE}
        none_of_them = {"changed": (), "seed_midpoints": ()}
        return replace(self, found=False, p_value=p_value, **nothing, **none_of_them)

    def to_frame(self) -> pd.DataFrame:
        """One row each for onset, midpoint and end: `tokens`, `low`, `high`; NaN for no change."""
        import pandas as pd

        marks = {"onset": self.onset, "midpoint": self.midpoint, "end": self.end}
        nowhere = Estimate(math.nan, math.nan, math.nan)
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
    trend of `curves`, with a bend at both ends. So a run needs a before and an after. The noise
    from snapshot to snapshot may correlate, and be larger early or late: both are estimated.
    `tests/simulations/change_points.py` prints how often changeless curves pass, how often changes
    are found, and how often intervals hold the true midpoint.

    The test asks for one window. A curve that changes twice may pass with a window around one of
    the changes or around both, or fail, as it is described well by neither a window nor a trend.

    Intervals of one run say how far the marks depend on which sequences were evaluated, on the
    noise of the run, and on the spacing of its snapshots; not what another run would do. With
    several seeds they are Student's t intervals over those that change: for what other seeds would
    give that change, evaluated on the same sequences. Onset and end lie on snapshots.

    Args:
        trajectories: One run, or several of the same model that differ in their seed.
        of: `icl`, the ICL score, which falls; or `induction`, the induction score of the head that
            is `strongest` at the end, which rises.
        minimum: The smallest change that counts, in nats for `icl`, or share of attention.
        confidence: Level of the intervals.
        n_resamples: Resamples for the intervals of one run, and simulations of the test.
        seed: Seed of both.

    Raises:
        ValueError: If the runs are not of the same model and evaluation, one comes twice or has too
            few snapshots or sequences, or an option is out of range.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> change = il.dynamics.phase_change(run, n_resamples=200)
        >>> change.found
        True
        >>> [f"{mark.value / 1e6:.1f}M" for mark in (change.onset, change.midpoint, change.end)]
        ['2.0M', '2.7M', '3.6M']
    """
    runs = checked_runs(trajectories)
    checks.one_of("of", of, get_args(Curve))
    minimum = checks.real_number("minimum", minimum, least=0, remedy="for instance 0.1")
    confidence = checks.confidence(confidence)
    seed = checks.seed(seed)
    n_resamples = checks.resamples(n_resamples)
    _check(runs)
    of = "icl" if of == "icl" else "induction"
    # text and prompts are resampled independently of each other: see `co_occurrence`
    generator = torch.Generator().manual_seed(seed + (of == "induction"))
    curves = [_Curve.read(run, of, n_resamples, generator) for run in runs]
    p_value = _p_value([curve.test for curve in curves])
    changing = [
        (run.seed, curve)
        for run, curve in zip(runs, curves, strict=True)
        if _p_value([curve.test]) < LEVEL and curve.change() >= minimum
    ]
    found = p_value < LEVEL and len(changing) > 0
    counted = [curve for _, curve in changing] if found else curves
    change = sum(curve.change() for curve in counted) / len(counted)
    options = {"confidence": confidence, "n_resamples": n_resamples, "generator": generator}
    marks, middles = _marks(counted, **options) if found else ((None, None, None), _NONE)
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
        changed=tuple(seed for seed, _ in changing) if found else (),
        seed_midpoints=tuple(c.own_marks()[1].exp().item() for c in counted) if found else (),
    )


def _p_value(tests: Sequence[Abruptness]) -> float:
    """The share of simulations, of all runs together, that are as abrupt."""
    observed = sum(test.observed for test in tests)
    simulated = torch.stack([test.simulated for test in tests]).sum(0)
    return (1 + int((simulated >= observed).sum())) / (1 + len(simulated))


def curve_values(trajectory: Trajectory, of: Curve) -> Float[Tensor, "snapshot sequence"]:
    """A curve for every evaluation sequence, at each snapshot, step 0 included."""
    if of == "icl":
        return trajectory.icl.double()
    head = trajectory.strongest()
    return trajectory.induction_by_sequence[:, head.layer, head.head].double()


@lru_cache(maxsize=4)
def _test_on(x: tuple[float, ...]) -> AbruptnessTest:
    """Runs that are compared have the same snapshots, so what the test prepares serves them all."""
    return AbruptnessTest(torch.tensor(x, dtype=torch.float64, device="cpu"))


@dataclass(frozen=True)
class _Curve:
    """One run's curve, turned over if it falls, without step 0, and how abrupt it is."""

    values: Float[Tensor, "snapshot sequence"]
    search: WindowSearch
    test: Abruptness

    @classmethod
    def read(
        cls, run: Trajectory, of: Curve, n_simulations: int, generator: torch.Generator
    ) -> _Curve:
        trained = run.tokens_seen > 0
        sign = -1 if of == "icl" else 1
        x = run.tokens_seen[trained].double().log()
        values = sign * curve_values(run, of)[trained]
        test = _test_on(tuple(x.tolist()))
        abruptness = test(values.mean(1), n_simulations=n_simulations, generator=generator)
        return cls(values, WindowSearch.over(x), abruptness)

    def mean(self) -> Float[Tensor, " snapshot"]:
        return self.values.mean(1)

    def change(self) -> float:
        windows = self.search.best(self.mean()[None])
        return (windows.end_level - windows.onset_level).nan_to_num().item()

    def own_marks(self) -> Float[Tensor, " 3"]:
        return self.marks(self.mean()[None])[0]

    def marks(self, curves: Float[Tensor, "curve snapshot"]) -> Float[Tensor, "curve 3"]:
        """Onset, midpoint and end of each curve, in ln(tokens); NaN where it has no window."""
        x = self.search.x
        windows = self.search.best(curves)
        middle = midpoints(curves, x, windows)
        missing = middle.isnan()
        onset, end = (x[i].masked_fill(missing, math.nan) for i in (windows.onset, windows.end))
        return torch.stack([onset, middle, end], dim=1)

    def resampled_marks(
        self, n_resamples: int, generator: torch.Generator
    ) -> Float[Tensor, "resample 3"]:
        """Marks in ln(tokens) as they might have been."""
        n_snapshots, n = self.values.shape
        drawn = torch.randint(n, (n_resamples, n), generator=generator, device="cpu")
        counts = torch.zeros(n_resamples, n, dtype=torch.float64, device="cpu")
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        shape = (n_resamples, n_snapshots)
        fresh = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
        noise = fresh @ self.test.noise.T * math.sqrt(self._unexplained())
        marks = self.marks(counts @ self.values.T / n + noise)
        place = torch.rand(n_resamples, dtype=torch.float64, generator=generator, device="cpu")
        marks[:, 1] += (place - 0.5) * self._gap()
        return marks

    def _unexplained(self) -> float:
        """Share of the variance around the window that is more than sequences explain."""
        window = self.search.best(self.mean()[None])
        basis = torch.linalg.qr(self.search.design(window)).Q
        left = self.values - basis @ (basis.T @ self.values)
        whole = float(left.mean(1).square().sum())
        n = left.shape[1]
        of_sequences = float(left.var(1).sum()) / n
        return max(0.0, 1 - of_sequences / whole) if whole > 0 else 0.0

    def _gap(self) -> float:
        """What the spacing of snapshots leaves open of the midpoint, in ln(tokens).

        A change that lies between two snapshots may be halfway anywhere between them; of one that
        several snapshots follow, little is left open. The fourth power stands for all between.
        """
        curve = self.mean()
        window = self.search.best(curve[None])
        middle = self.own_marks()[1]
        after = int(torch.searchsorted(self.search.x, middle).clamp(1, len(curve) - 1))
        rise = float(window.end_level - window.onset_level)
        share = float(curve[after] - curve[after - 1]) / rise
        return float(self.search.x[after] - self.search.x[after - 1]) * min(max(share, 0), 1) ** 4


def _marks(
    curves: list[_Curve], *, confidence: float, n_resamples: int, generator: torch.Generator
) -> tuple[tuple[Estimate, ...], Float[Tensor, " resample"]]:
    """Onset, midpoint and end, and the midpoints of resamples where there is one curve."""
    own = torch.stack([curve.own_marks() for curve in curves]).exp()
    if len(curves) > 1:
        over_seeds = {"geometric": True, "confidence": confidence, "unit": "tokens"}
        return tuple(mean_over_seeds(column, **over_seeds) for column in own.T.tolist()), _NONE
    [curve] = curves
    n = curve.values.shape[1]
    resampled = curve.resampled_marks(n_resamples, generator).exp()
    marks = [
        Estimate.of(value, column, n=n, confidence=confidence, unit="tokens")
        for value, column in zip(own[0].tolist(), resampled.unbind(1), strict=True)
    ]
    return tuple(marks), resampled[:, 1]


def _check(runs: Sequence[Trajectory]) -> None:
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
