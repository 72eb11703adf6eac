"""The runs that a page is about: their trajectories, grouped by model.

Runs of one model that differ in their seed alone belong together. A run is read from its
trajectory, a Parquet file; what was measured at the end of it (see `endpoint`) lies beside that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from induction_lens.endpoint import measure_end, read_end, write_end
from induction_lens.snapshots import load
from induction_lens.track import TRACKED, held_out_text, snapshots_of, track
from induction_lens.trajectory import TRAJECTORY, Trajectory

SHIPPED = Path(__file__).parents[1] / "runs"
"""Where the trajectories that ship with the package are."""


@dataclass(frozen=True)
class TrackedRun:
    """One run: its trajectory, and what was measured at its end."""

    trajectory: Trajectory
    """The run, snapshot by snapshot."""
    end: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of knock-outs and n-gram controls, by kind (see `endpoint.measure_end`)."""


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


def read_run(path: str | Path, *, progress: bool = True) -> TrackedRun:
    """A run from its trajectory, or from a folder; one that was never measured is measured first.

    Args:
        path: A trajectory's Parquet file; a folder that holds one, or holds one in `tracked`; or a
            training run, which is then measured into its folder `tracked`: its snapshots, and what
            the last of them depends on. (Tables of n-grams need its training text: see
            `reproduce.make_runs`.)
        progress: Show a bar while it is measured.

    Raises:
        ValueError: There is no such run.
    """
    path = Path(path)
    if path.is_file():
        return TrackedRun(Trajectory.read(path), read_end(path.parent) or {})
    if not path.is_dir():
        raise ValueError(
            f"expected a run, got {path}, which does not exist; name the folder of a training run, "
            f"or its {TRAJECTORY}"
        )
    for folder in (path, path / TRACKED):
        if (folder / TRAJECTORY).is_file():
            return TrackedRun(Trajectory.read(folder / TRAJECTORY), read_end(folder) or {})
    return _measured(path, progress=progress)


def _measured(run: Path, *, progress: bool) -> TrackedRun:
    """Measure a training run. Its end comes first: with a trajectory, it counts as measured."""
    out = run / TRACKED
    end = read_end(out)
    if end is None:
        model = load(snapshots_of(run)[-1])
        end = measure_end(model, held_out_text(model), progress=progress)
        write_end(end, out)
    return TrackedRun(track(run, out=out, progress=progress), end)


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
        label, d_model = label_of(run.trajectory), run.trajectory.config["d_model"]
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
    config, n_layers = run.config, run.config["n_layers"]
    label = f"{n_layers} layer{'s' if n_layers > 1 else ''}"
    label += "" if config["attn_only"] else ", MLPs"
    label += ", smeared keys" if config["smeared_keys"] else ""
    return label + "".join(f", {_clamp_text(clamp)}" for clamp in run.clamp)


def _clamp_text(clamp: Mapping[str, Any]) -> str:
    held = ["K-composition cut"] if clamp["k_composition"] else []
    held += [f"{' '.join(clamp['heads'])} at zero"] if clamp["heads"] else []
    start = f" from step {clamp['start']}" if clamp["start"] else ""
    end = "" if clamp["end"] is None else f" until step {clamp['end']}"
    return " and ".join(held) + start + end


def _place(run: TrackedRun) -> tuple[Any, ...]:
    config = run.trajectory.config
    changed = (bool(run.trajectory.clamp), not config["attn_only"], config["smeared_keys"])
    return (*changed, config["n_layers"], config["d_model"], run.trajectory.seed)
