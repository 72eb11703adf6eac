"""The runs that a page is about, grouped by model.

Runs of one model that differ in their seed alone belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from induction_lens.heads import names_of
from induction_lens.tracking.runs import TrackedRun, read_run
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory

SHIPPED = Path(__file__).parents[2] / "data" / "runs"
"""Where the trajectories that ship with the package are."""


@dataclass(frozen=True)
class ModelRuns:
    """The runs of one model, one for each seed."""

    label: str
    """The model in words, such as `2 layers, smeared keys`."""
    runs: tuple[TrackedRun, ...]
    """Its runs, by seed."""

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """The trajectories of the runs, by seed."""
        return tuple(run.trajectory for run in self.runs)

    @property
    def first(self) -> Trajectory:
        """The run that stands for the model in figures of one run."""
        return self.runs[0].trajectory


def shipped_runs() -> list[TrackedRun]:
    """The runs that ship with the package: attention-only models and one with MLPs, three seeds of
    most (see the package's documentation for how they were made)."""
    return [read_run(path.parent) for path in sorted(SHIPPED.glob(f"*/{TRAJECTORY}"))]


def group_runs(runs: Iterable[TrackedRun]) -> tuple[ModelRuns, ...]:
    """The runs by model: plain ones before smeared ones, then by depth; clamped ones come last.

    Of models that differ in nothing but their width, all but the narrowest are named with it.

    Raises:
        ValueError: There is no run, or two runs have the same model and seed.
    """
    groups: dict[str, list[TrackedRun]] = {}
    narrowest: dict[str, int] = {}
    for run in sorted(runs, key=_place):
        label = label_of(run.trajectory)
        d_model = run.trajectory.config["d_model"]
        if d_model > narrowest.setdefault(label, d_model):
            label += f", d_model {d_model}"
        groups.setdefault(label, []).append(run)
    if not groups:
        raise ValueError("expected at least one run, got none; name the folders of training runs")
    for label, group in groups.items():
        seeds = [run.trajectory.seed for run in group]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"expected runs of one model to differ in their seed, got {label} with seeds "
                f"{', '.join(map(str, seeds))}; leave one of them out"
            )
    return tuple(ModelRuns(label, tuple(group)) for label, group in groups.items())


def label_of(run: Trajectory) -> str:
    """A run's model in words; two models have the same only if they differ in nothing but size."""
    config = run.config
    n_layers = run.config["n_layers"]
    label = f"{n_layers} layer{'s' if n_layers > 1 else ''}"
    label += "" if config["attn_only"] else ", MLPs"
    label += ", smeared keys" if config["smeared_keys"] else ""
    return label + "".join(f", {_clamp_text(clamp)}" for clamp in run.clamp)


def _clamp_text(clamp: Mapping[str, Any]) -> str:
    held = ["K-composition cut"] if clamp["k_composition"] else []
    held += [f"{names_of(clamp['heads'], between=' ')} at zero"] if clamp["heads"] else []
    start = f" from step {clamp['start']}" if clamp["start"] else ""
    end = "" if clamp["end"] is None else f" until step {clamp['end']}"
    return " and ".join(held) + start + end


def _place(run: TrackedRun) -> tuple[Any, ...]:
    config = run.trajectory.config
    changed = (bool(run.trajectory.clamp), not config["attn_only"], config["smeared_keys"])
    return (*changed, config["n_layers"], config["d_model"], run.trajectory.seed)
