"""Models at moments of their training, whoever keeps them: snapshots, hub revisions, live models.

`track` sees nothing of where a model comes from but a `Moment`: its step, its tokens, a sum of its
weights, and a block in which it is loaded. A `Source` is the moments of one run, in order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from induction_lens import checks
from induction_lens.models import is_model, model_name, weights_hash
from induction_lens.toys.snapshots import (
    CONFIG,
    OfHuggingFace,
    Snapshot,
    list_snapshots,
    load,
    read_snapshot,
)
from induction_lens.tracking.choice import Checkpoints, chosen_steps
from induction_lens.tracking.measures import ModelInfo
from induction_lens.training.loop import TrainingRun
from induction_lens.training.run_folder import SNAPSHOTS


class Moment(ABC):
    """A model at one moment of its training."""

    step: int
    """Updates of the weights before it."""
    tokens_seen: int
    """Training tokens before it."""
    loss: float = math.nan
    """Loss of the last training batch before it, nats per token; NaN where it is not known."""

    @property
    def key(self) -> str:
        """What the folder of its measures is called."""
        return f"step-{self.step:08d}"

    @property
    @abstractmethod
    def digest(self) -> str:
        """A sum of its weights, which is known before it is loaded."""

    def downloaded_to(self, work: Path) -> Moment:
        """The same moment, whose downloads go to a folder of another machine and do not stay."""
        del work
        return self  # nothing is downloaded

    @abstractmethod
    def opened(self, device: Any) -> AbstractContextManager[Any]:
        """A block with the loaded model."""


@dataclass(frozen=True)
class Source:
    """The moments of one training run."""

    name: str
    """Name of the run."""
    moments: Iterable[Moment]
    """Its moments, by step. Not a sequence where they come while the run goes on."""
    info: ModelInfo | None = None
    """The model, where it is known before one is loaded."""
    seed: int = 0
    """Seed that its first weights were drawn with, as far as its name says."""
    clamp: tuple[Mapping[str, Any], ...] = ()
    """What was held at zero in training."""
    note: str = ""
    """What the work is, in words; empty where it is nothing to speak of."""
    published: bool = False
    """Whether somebody published them under names that may be wrong."""


class Trackable(ABC):
    """What `track` takes besides folders and models: something that has checkpoints."""

    @abstractmethod
    def source(self, checkpoints: Checkpoints | None, *, work: Path, keep: bool) -> Source:
        """Its moments.

        Args:
            checkpoints: Which of them.
            work: A folder for downloads.
            keep: Whether downloads stay there.
        """


@dataclass(frozen=True)
class SnapshotMoment(Moment):
    """A snapshot that `train` wrote."""

    snapshot: Snapshot
    step: int = field(init=False)
    tokens_seen: int = field(init=False)
    loss: float = field(init=False)

    def __post_init__(self) -> None:
        """Take over what the snapshot says."""
        object.__setattr__(self, "step", self.snapshot.step)
        object.__setattr__(self, "tokens_seen", self.snapshot.tokens_seen)
        object.__setattr__(self, "loss", float(self.snapshot.extra.get("loss", math.nan)))

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.snapshot.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of its weights file."""
        return self.snapshot.sha256

    def opened(self, device: Any) -> AbstractContextManager[Any]:
        """Load it."""
        return nullcontext(load(self.snapshot, device=device))


@dataclass(frozen=True)
class LiveMoment(Moment):
    """A model that somebody else's training loop hands over."""

    step: int
    tokens_seen: int
    model: Any

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return weights_hash(self.model)

    def opened(self, device: Any) -> AbstractContextManager[Any]:
        """The model as it is, where it is."""
        del device
        return nullcontext(self.model)


@dataclass(frozen=True)
class PastMoment(Moment):
    """A moment whose model went on: measured, and no longer there."""

    step: int
    tokens_seen: int

    @property
    def digest(self) -> str:
        """None is kept."""
        raise AssertionError("measured already")

    def opened(self, device: Any) -> AbstractContextManager[Any]:
        """There is no model any more."""
        raise AssertionError("measured already")


def source_of(
    run: Any, checkpoints: Checkpoints | None = None, *, work: Path, keep: bool = False
) -> Source:
    """The moments of whatever `track` is given.

    Raises:
        ValueError: It has none, or is something else.
    """
    if isinstance(run, Trackable):
        return run.source(checkpoints, work=work, keep=keep)
    if isinstance(run, (str, Path, TrainingRun)):
        snapshots = snapshots_of(run)
        wanted = set(chosen_steps([one.step for one in snapshots], checkpoints))
        snapshots = [one for one in snapshots if one.step in wanted]
        return Source(
            name=_name_of(snapshots[0]),
            moments=[SnapshotMoment(one) for one in snapshots],
            info=ModelInfo(snapshots[0].config.to_dict()),
            seed=snapshots[0].config.seed,
            clamp=tuple(snapshots[-1].extra.get("clamp", ())),
        )
    if isinstance(run, Iterable) and not isinstance(run, (bytes, Mapping)):
        if checkpoints is not None:
            raise ValueError(
                f"expected no checkpoints with models that come one by one, got {checkpoints!r}; "
                "hand over those to be measured"
            )
        return Source("models", _live(run))
    raise checks.refuse(
        "run",
        "a training run, a suite, or models as (step, tokens, model)",
        run,
        "name a folder of snapshots, or make a suite with induction_lens.suites.suite",
    )


def _live(run: Iterable[Any]) -> Iterator[Moment]:
    """The moments of models that come one by one."""
    before = -1
    for given in run:
        if not (isinstance(given, Sequence) and len(given) == 3 and is_model(given[2])):
            raise checks.refuse(
                "each of run",
                "(step, tokens seen, model) with a hooked model",
                given,
                "load or wrap the model first, see induction_lens.load",
            )
        step = checks.whole_number(
            f"the step of {model_name(given[2])}",
            given[0],
            least=before + 1,
            remedy="hand models over in the order of their steps, each step once",
        )
        tokens = checks.whole_number("the tokens seen", given[1], least=0)
        before = step
        yield LiveMoment(step, tokens, given[2])


def snapshots_of(run: str | Path | TrainingRun) -> Sequence[Snapshot]:
    """The snapshots of a run, of its folder, or of a folder of snapshots, by step.

    Raises:
        ValueError: There are none, or they are of different models.
    """
    if isinstance(run, TrainingRun):
        snapshots = run.snapshots
        where = "a run that kept none"
    else:
        folder = checks.path("run", run)
        inside = folder / SNAPSHOTS
        if not inside.is_dir() and (folder / CONFIG).is_file():
            found = read_snapshot(folder)  # refuses models of others, with what to do instead
            raise ValueError(
                f"expected a training run, got {folder}, the snapshot of step {found.step}; name "
                "the folder that the step-... folders are in"
            )
        try:
            snapshots = list_snapshots(inside if inside.is_dir() else folder)
        except OfHuggingFace as error:
            raise ValueError(
                f"expected the snapshots of a training run of this package, got {folder} with "
                f"models of Hugging Face; pass induction_lens.suites.suite({str(folder)!r}, "
                "tokens_per_step=...), with batch size times sequence length"
            ) from error
        where = f"{folder} without any"
    if not snapshots:
        raise ValueError(
            f"expected a training run with snapshots, got {where}; train with out=..., or name the "
            "folder that holds the step-... folders"
        )
    for snapshot in snapshots:
        if snapshot.config != snapshots[0].config:
            raise ValueError(
                f"expected snapshots of one model, got another configuration in {snapshot.path} "
                f"than in {snapshots[0].path}; track each run by itself"
            )
    return snapshots


def _name_of(snapshot: Snapshot) -> str:
    """The name of the folder of a snapshot's run."""
    folder = snapshot.path.resolve().parent
    return folder.parent.name if folder.name == "snapshots" else folder.name
