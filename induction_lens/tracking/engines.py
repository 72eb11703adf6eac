"""Who measures the moments of a run: this process, or the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from induction_lens import checks
from induction_lens.tracking.engine import Engine
from induction_lens.tracking.ray_engine import RayEngine


class Local(Engine):
    """This process, one job after the other."""

    name = "local"

    def run(
        self,
        task: Callable[[Any, Any], Any],
        jobs: Sequence[Any],
        shared: Any,
        *,
        named: Callable[[Any], str],
    ) -> Iterator[tuple[Any, Any]]:
        """As `Engine.run`."""
        del named
        for job in jobs:
            yield job, task(job, shared)


_ENGINES: dict[str, type[Engine]] = {"local": Local, "ray": RayEngine}


def as_engine(given: Engine | str) -> Engine:
    """An engine, or the one of a name: `local` or `ray`.

    Raises:
        ValueError: There is no such engine.
    """
    if isinstance(given, Engine):
        return given
    return _ENGINES[checks.one_of("engine", given, tuple(_ENGINES))]()
