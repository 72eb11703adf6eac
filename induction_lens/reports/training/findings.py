"""What the runs say about the paper's first three arguments, as numbers; sees no model.

1. Each model's phase change, of the ICL score and of the induction score, over its seeds.
2. For each run, how far apart the two are, and how they move together (argument 1).
3. For each pair of models that differ in smeared keys alone, which changes first (argument 2).
4. For each run, what is left of in-context learning without the induction heads (argument 3).
5. The paths of per-token losses, and the order of the models before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.ablation.methods import PatternPreserving
from induction_lens.dynamics import (
    CoOccurrence,
    LossPCA,
    ModelOrder,
    PhaseChange,
    co_occurrence,
    holm,
    loss_pca,
    mean_over_seeds,
    model_order,
    phase_change,
    ratio_over_seeds,
)
from induction_lens.estimates import Estimate, bootstrap_mean, columns
from induction_lens.reports.training.runs import ModelRuns, group_runs
from induction_lens.tracking.runs import TrackedRun

if TYPE_CHECKING:
    import pandas as pd

    from induction_lens.tracking.trajectory import Trajectory

METHOD = PatternPreserving.name
ORDER_POSITION = 50
"""Token index at which models are put in order."""


@dataclass(frozen=True)
class ModelFindings:
    """One model, over all its seeds."""

    model: ModelRuns
    """Its runs."""
    icl_change: PhaseChange
    """Phase change of the ICL score; its p-value is corrected for the number of models (Holm)."""
    induction_change: PhaseChange
    """Phase change of the strongest head's induction score, likewise."""
    together: tuple[CoOccurrence, ...]
    """For each run: the two side by side."""
    icl: Estimate
    """ICL score at the end, in nats: over seeds where there are several, else over sequences."""

    @property
    def label(self) -> str:
        """The model in words."""
        return self.model.label


@dataclass(frozen=True)
class Smearing:
    """A plain model beside the same one with smeared keys."""

    plain: ModelFindings
    """The plain model."""
    smeared: ModelFindings
    """The one with smeared keys."""
    ratio: Estimate | None
    """Midpoint of the smeared model's ICL change divided by the plain one's: over the seeds that
    change, or over sequences and snapshots where both have one; None where either has no change."""

    @property
    def apart(self) -> bool:
        """Whether the smeared model changes earlier: the ratio's interval is below 1."""
        return self.ratio is not None and self.ratio.high < 1


@dataclass(frozen=True)
class TrainingFindings:
    """Everything that a page on training says."""

    models: tuple[ModelFindings, ...]
    """The models, plain ones first."""
    smearings: tuple[Smearing, ...]
    """Every pair of models that smeared keys tell apart."""
    compared: tuple[ModelFindings, ...]
    """The models of `pca` and `orders`: of those whose first runs were measured on the same tokens,
    the largest group."""
    pca: LossPCA
    """Joint paths of the first run of each of `compared`."""
    moments: tuple[float, float]
    """An early moment, 5% of the shortest of their runs, and a late one, its end, in tokens."""
    orders: tuple[ModelOrder, ...]
    """`compared` by loss, and by its derivative, at both moments; none for a single model."""

    def by_label(self, label: str) -> ModelFindings:
        """The findings of one model.

        Raises:
            ValueError: There is no such model.
        """
        for model in self.models:
            if model.label == label:
                return model
        known = "; ".join(model.label for model in self.models)
        raise ValueError(
            f"expected a model of this page, one of {known}, got {checks.shown(label)}"
        )

    def models_frame(self) -> pd.DataFrame:
        """One row per model: losses and scores at the end, and both phase changes, in tokens."""
        import pandas as pd

        return pd.DataFrame([_model_row(found) for found in self.models])

    def runs_frame(self) -> pd.DataFrame:
        """One row per run: scores at the end, both midpoints, their lag, and their correlation."""
        import pandas as pd

        rows = [
            {"model": found.label, **_run_row(run.trajectory, together)}
            for found in self.models
            for run, together in zip(found.model.runs, found.together, strict=True)
        ]
        return pd.DataFrame(rows)

    def knockouts_frame(self) -> pd.DataFrame:
        """One row per run, method and set of heads: ICL score clean and ablated, and the effect.

        `removed` is the share of the ICL score that goes with the heads; NaN for controls.
        `p_value` is that of no effect, two-sided, from the interval taken as a normal one, and not
        corrected.
        """
        frame = self._ends("knockouts")
        if frame.empty:
            return frame
        return frame.assign(removed=frame["effect"] / -frame["clean"], p_value=_p_values(frame))

    def ngrams_frame(self) -> pd.DataFrame:
        """One row per run, kind of tokens and predictor: mean loss with its interval, in nats."""
        return self._ends("ngrams")

    def _ends(self, kind: str) -> pd.DataFrame:
        """What was measured at the ends of the runs, of one kind."""
        import pandas as pd

        rows = [
            {"model": found.label, "seed": run.trajectory.seed, **row}
            for found in self.models
            for run in found.model.runs
            for row in run.end.get(kind, ())
        ]
        return pd.DataFrame(rows)


def rows_of(frame: pd.DataFrame, **values: Any) -> list[dict[str, Any]]:
    """The rows of a frame that have these values in these columns, as dictionaries."""
    rows: Any = frame.to_dict("records")
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def find(runs: Iterable[TrackedRun], *, n_resamples: int = 1000, seed: int = 0) -> TrainingFindings:
    """Analyse tracked runs.

    Args:
        runs: Tracked runs, of one model or of several.
        n_resamples: Bootstrap resamples, and simulations of the tests.
        seed: Seed of both.

    Raises:
        ValueError: There is no run; two have the same model and seed; or those of one model were
            not measured on the same tokens.
    """
    models = _corrected([_find_model(model, n_resamples, seed) for model in group_runs(runs)])
    compared = _on_the_same_tokens(models)
    firsts = [found.model.first for found in compared]
    last = min(float(run.tokens_seen[-1]) for run in firsts)
    moments = (0.05 * last, last)
    return TrainingFindings(
        models=models,
        smearings=_smearings(models),
        compared=compared,
        pca=loss_pca(firsts),
        moments=moments,
        orders=_orders(firsts, moments),
    )


def _find_model(model: ModelRuns, n_resamples: int, seed: int) -> ModelFindings:
    options = {"n_resamples": n_resamples, "seed": seed}
    together = tuple(co_occurrence(run, **options) for run in model.trajectories)
    if len(model.runs) == 1:
        icl_change = together[0].icl
        induction_change = together[0].induction
    else:
        icl_change = phase_change(model.trajectories, of="icl", **options)
        induction_change = phase_change(model.trajectories, of="induction", **options)
    last = [run.icl[-1].double() for run in model.trajectories]
    if len(last) == 1:
        icl = bootstrap_mean(last[0])
    else:
        icl = mean_over_seeds([float(of_run.mean()) for of_run in last])
    return ModelFindings(model, icl_change, induction_change, together, icl)


def _corrected(models: Sequence[ModelFindings]) -> tuple[ModelFindings, ...]:
    """The p-values of the models' changes, and what is found, corrected for their number."""
    icl = holm([found.icl_change.p_value for found in models])
    induction = holm([found.induction_change.p_value for found in models])
    return tuple(
        replace(
            found,
            icl_change=found.icl_change.corrected(of_icl),
            induction_change=found.induction_change.corrected(of_induction),
        )
        for found, of_icl, of_induction in zip(models, icl, induction, strict=True)
    )


def _on_the_same_tokens(models: Sequence[ModelFindings]) -> tuple[ModelFindings, ...]:
    groups: dict[str, list[ModelFindings]] = {}
    for found in models:
        groups.setdefault(found.model.first.evaluation, []).append(found)
    return tuple(max(groups.values(), key=len))


def _smearings(models: Sequence[ModelFindings]) -> tuple[Smearing, ...]:
    def rest(found: ModelFindings) -> dict[str, Any]:
        config = found.model.first.config
        return {k: v for k, v in config.items() if k not in ("seed", "smeared_keys")}

    free = [found for found in models if not found.model.first.clamp]
    plain = [found for found in free if found.model.first.smear is None]
    smeared = [found for found in free if found.model.first.smear is not None]
    return tuple(
        Smearing(one, other, _ratio(other, one))
        for one in plain
        for other in smeared
        if rest(one) == rest(other)
    )


def _ratio(smeared: ModelFindings, plain: ModelFindings) -> Estimate | None:
    early = smeared.icl_change
    late = plain.icl_change
    if early.midpoint is None or late.midpoint is None:
        return None
    confidence = early.confidence
    if max(len(early.changed), len(late.changed)) > 1:
        return ratio_over_seeds(early.seed_midpoints, late.seed_midpoints, confidence=confidence)
    value = early.midpoint.value / late.midpoint.value
    ratios = early.midpoints / late.midpoints
    return Estimate.of(value, ratios, n=early.n_sequences, confidence=confidence, unit="ratio")


def _orders(runs: Sequence[Trajectory], moments: tuple[float, float]) -> tuple[ModelOrder, ...]:
    if len(runs) < 2:
        return ()
    position = min(ORDER_POSITION, runs[0].loss_by_position.shape[1] - 1)
    before, after = moments
    return tuple(
        model_order(runs, position, by=by, before=before, after=after)
        for by in ("loss", "derivative")
    )


def _p_values(frame: pd.DataFrame) -> Any:
    from scipy import stats

    half_width = (frame["effect_high"] - frame["effect_low"]) / 2
    error = half_width / stats.norm.ppf(0.975)
    return 2 * stats.norm.sf(abs(frame["effect"]) / error)


def _model_row(found: ModelFindings) -> dict[str, Any]:
    runs = found.model.trajectories
    row: dict[str, Any] = {
        "model": found.label,
        "seeds": len(runs),
        "tokens": int(runs[0].tokens_seen[-1]),
        "held_out_loss": fmean([float(run.held_out_loss[-1]) for run in runs]),
        "induction": fmean([float(run.scores["induction"][-1].max()) for run in runs]),
        **columns("icl", found.icl),
    }
    for name, change in (("icl", found.icl_change), ("induction", found.induction_change)):
        row |= {f"{name}_found": change.found, f"{name}_p_value": change.p_value}
        row |= {f"{name}_change": change.change, f"{name}_changed": len(change.changed)}
        row |= {f"{name}_over": change.over}
        marks = {"onset": change.onset, "midpoint": change.midpoint, "end": change.end}
        for mark, interval in marks.items():
            row |= columns(f"{name}_{mark}", interval)
    return row


def _run_row(run: Trajectory, together: CoOccurrence) -> dict[str, Any]:
    head = run.strongest()
    return {
        "seed": run.seed,
        "held_out_loss": float(run.held_out_loss[-1]),
        "head": str(head),
        "induction": float(run.scores["induction"][-1, head.layer, head.head]),
        "icl": float(run.icl[-1].double().mean()),
        **columns("icl_midpoint", together.icl.midpoint),
        **columns("induction_midpoint", together.induction.midpoint),
        **columns("lag", together.lag),
        **columns("ratio", together.ratio),
        "correlation": together.correlation,
        "n_snapshots": together.n_snapshots,
    }
