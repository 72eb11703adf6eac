"""What measures the moments of a run, wherever it runs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from induction_lens.models import best_device, embedding, weights_hash
from induction_lens.tracking.measures import Asked, Material, ModelInfo, draw, measure_model
from induction_lens.tracking.moments import Moment


@dataclass(frozen=True)
class Result:
    """What came out of one moment."""

    measures: dict[str, Tensor]
    """By the names of `Trajectory`."""
    weights: str
    """SHA-256 of the weights."""
    embedding_norm: float
    """Mean norm of the embeddings of tokens."""
    info: ModelInfo
    """What model it was."""
    material: Material
    """What it was measured on."""
    seconds: float
    """How long that took, loading included."""


def measure_moment(
    moment: Moment,
    asked: Asked,
    *,
    info: ModelInfo | None,
    material: Material | None,
    device: Any,
) -> Result:
    """Load one moment and measure it.

    Args:
        moment: The moment.
        asked: What to measure.
        info: The model that it has to be; None: any.
        material: What to measure it on; None draws it.
        device: Where to run; None for the best there is.

    Raises:
        ValueError: It cannot be loaded, or is of another model.
    """
    begin = time.monotonic()
    with moment.opened(best_device() if device is None else device) as model:
        found = ModelInfo.of(model)
        if info is not None:
            info.check_same(found, f"step {moment.step}")
        settings = asked.settled(found)
        material = draw(model, asked.text, settings) if material is None else material
        measures = measure_model(model, material, settings)
        norm = float(embedding(model).float().norm(dim=-1).mean())
        seconds = time.monotonic() - begin
        return Result(measures, weights_hash(model), norm, found, material, seconds)


class Engine(ABC):
    """Somebody who measures moments, or does other jobs that do not depend on each other."""

    name: str

    @abstractmethod
    def run(
        self,
        task: Callable[[Any, Any], Any],
        jobs: Sequence[Any],
        shared: Any,
        *,
        named: Callable[[Any], str],
    ) -> Iterator[tuple[Any, Any]]:
        """Do a task for every job; each comes with what came out as soon as that is there.

        Args:
            task: A function of a module, called with a job and `shared`.
            jobs: The jobs.
            shared: What all of them need.
            named: What a job is called in messages.
        """

    def measured(
        self,
        moments: Sequence[Moment],
        asked: Asked,
        *,
        info: ModelInfo,
        material: Material,
        device: Any,
    ) -> Iterator[tuple[Moment, Result]]:
        """Measure moments; each comes with its result as soon as that is there."""
        shared = (asked, info, material, self.device(device))
        return self.run(self.task, moments, shared, named=lambda moment: f"step {moment.step}")

    def device(self, given: Any) -> Any:
        """Where jobs run that are not told where."""
        return given

    @property
    def task(self) -> Callable[[Moment, Any], Result]:
        """What measures a moment."""
        return measured


def measured(moment: Moment, shared: Any) -> Result:
    """Measure a moment here: a task of engines, with what `Engine.measured` shares."""
    asked, info, material, device = shared
    return measure_moment(moment, asked, info=info, material=material, device=device)
