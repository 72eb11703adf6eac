"""A measured run: its trajectory, and what its end depends on, in one folder.

A run is measured when both are there, of the same weights. The end is measured first and the
trajectory is written last: a run that is cut off between the two has no trajectory, so it does not
look measured, and the next call continues. A trajectory without an end was tracked by
itself, with `track`, and is read as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.files import output_folder
from induction_lens.locks import locked
from induction_lens.models import best_device, weights_hash
from induction_lens.seals import read_tensors
from induction_lens.toys.snapshots import Snapshot, load
from induction_lens.tracking.final_model import Rows, measure_end, read_end, write_end
from induction_lens.tracking.measures import held_out_text
from induction_lens.tracking.moments import snapshots_of
from induction_lens.tracking.track import LOCK, TRACKED, track
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory

TEXT, EVALUATION = "text", "evaluation.safetensors"
"""Folder of the text that the runs of an experiment share, beside them, and what in it they are
measured on."""
N_EXAMPLES = 1500
"""How many of the losses of an experiment's tokens are kept one by one."""


@dataclass(frozen=True)
class TrackedRun:
    """One run: its trajectory, and what was measured at its end."""

    trajectory: Trajectory
    """The run, snapshot by snapshot."""
    end: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of knock-outs and n-gram controls, by kind (see `final_model.measure_end`)."""


def measured_run(
    folder: str | Path,
    *,
    training: Int[Tensor, "training_sequence training_pos"] | None = None,
    progress: bool = True,
) -> TrackedRun:
    """Measure a training run into its folder `tracked`: its snapshots, and what its end depends on.

    Called again after an interruption, it does what is missing, and no part twice. Runs of one
    experiment are measured on the text that lies beside them (`text/evaluation.safetensors`, see
    `make_runs`), others on held-out text.

    Args:
        folder: The folder of a training run.
        training: The text that it was trained on; None leaves the tables of n-grams out.
        progress: Show bars on stderr.

    Raises:
        ValueError: There are no snapshots, or another process measures this run; or what is there
            is of another run or of other text.

    Examples:
        >>> run = il.tracking.measured_run("phase/phase-2l-seed-1")  # doctest: +SKIP
        >>> il.dynamics.phase_change(run.trajectory).found  # doctest: +SKIP
    """
    folder = checks.path("folder", folder)
    snapshots = snapshots_of(folder)
    out = output_folder(folder / TRACKED)
    shared = folder.absolute().parent / TEXT / EVALUATION
    text = read_evaluation(shared) if shared.is_file() else None
    options: dict[str, Any] = {} if text is None else {"n_examples": N_EXAMPLES}
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        end = _measured_end(snapshots[-1], out, text, training, progress=progress)
        return TrackedRun(track(folder, out=out, text=text, progress=progress, **options), end)


def read_run(path: str | Path, *, progress: bool = True) -> TrackedRun:
    """A run from its trajectory, or from a folder; one that was never measured is measured first.

    Args:
        path: A trajectory's Parquet file; a folder that holds one, or holds one in `tracked`; or a
            training run, which is then measured (see `measured_run`). Tables of n-grams need its
            training text: see `make_runs`.
        progress: Show a bar while it is measured.

    Raises:
        ValueError: There is no such run, or what was measured at its end is of another.

    Examples:
        >>> run = il.tracking.read_run("runs/phase-2l-seed-0")
        >>> run.trajectory.strongest()
        Head(layer=1, head=0)
        >>> sorted(run.end)
        ['knockouts', 'ngrams']
    """
    path = checks.path("each run", path)
    if path.is_file():
        return _read_measures(path)
    if not path.is_dir():
        raise ValueError(
            f"expected a run, got {path}, which does not exist; name the folder of a training run, "
            f"or its {TRAJECTORY}"
        )
    for folder in (path, path / TRACKED):
        if (folder / TRAJECTORY).is_file():
            return _read_measures(folder / TRAJECTORY)
    return measured_run(path, progress=progress)


def read_evaluation(path: str | Path) -> Int[Tensor, "sequence pos"]:
    """The text that the runs of an experiment are measured on.

    Raises:
        ValueError: There is no such file, or it is damaged.
    """
    path = Path(path)
    remedy = "delete it, and it is drawn again"
    if not path.is_file():
        raise ValueError(f"expected the tokens of an experiment, got {path}, which does not exist")
    tokens = read_tensors(path, remedy=remedy)[0].get("tokens")
    axes = ["sequence", "pos"]
    tokens = checks.tensor(f"tokens in {path}", tokens, axes=axes, whole=True, remedy=remedy)
    return tokens.long()


def _read_measures(file: Path) -> TrackedRun:
    """A trajectory and, where there is one beside it, the end of the same run."""
    trajectory = Trajectory.read(file)
    return TrackedRun(trajectory, read_end(file.parent, weights=trajectory.weights[-1]) or {})


def _measured_end(
    last: Snapshot,
    out: Path,
    text: Tensor | None,
    training: Tensor | None,
    *,
    progress: bool,
) -> dict[str, Rows]:
    """What the end depends on: as it is on disk or, first, measured and put there."""
    model = load(last, device=best_device())
    weights = weights_hash(model)
    kept = read_end(out, weights=weights)
    if kept is not None and (training is None or kept.get("ngrams")):
        return kept
    text = held_out_text(model) if text is None else text
    end = measure_end(model, text, training=training, progress=progress)
    write_end(end, out, weights=weights)
    return end
