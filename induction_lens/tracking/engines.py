"""Who measures the moments of a run: this process, or the machines of a Ray cluster."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from induction_lens import checks
from induction_lens.models import best_device, weights_hash
from induction_lens.tracking.measures import Asked, Material, ModelInfo, draw, measure_model
from induction_lens.tracking.moments import Moment


@dataclass(frozen=True)
class Result:
    """What came out of one moment."""

    measures: dict[str, Tensor]
    """By the names of `Trajectory`."""
    weights: str
    """SHA-256 of the weights."""
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
        return Result(measures, weights_hash(model), found, material, time.monotonic() - begin)


class Engine(ABC):
    """Somebody who measures moments."""

    name: str

    @abstractmethod
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


class Local(Engine):
    """This process, one moment after the other."""

    name = "local"

    def measured(
        self,
        moments: Sequence[Moment],
        asked: Asked,
        *,
        info: ModelInfo,
        material: Material,
        device: Any,
    ) -> Iterator[tuple[Moment, Result]]:
        """As `Engine.measured`."""
        for moment in moments:
            yield (
                moment,
                measure_moment(moment, asked, info=info, material=material, device=device),
            )


def as_engine(given: Engine | str) -> Engine:
    """An engine, or the one of a name: `local` or `ray`.

    Raises:
        ValueError: There is no such engine, or Ray is not installed.
    """
    if isinstance(given, Engine):
        return given
    name = checks.one_of("engine", given, ("local", "ray"))
    if name == "local":
        return Local()
    from induction_lens.tracking.ray_engine import RayEngine

    return RayEngine()
