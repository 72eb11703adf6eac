"""A Ray cluster that measures the moments of a run, or the models of a family: one task for each.

Of a run, the driver measures the first checkpoint, which shows what model this is, and draws the
text. Each task downloads its checkpoint to its own machine, measures it, and sends the numbers
back; only the driver writes to the folder of the run. A task whose machine goes is started again
elsewhere. No path is shared, but the folders of a suite of folders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from induction_lens import checks
from induction_lens.checks import first_line
from induction_lens.tracking.engine import Engine, Result, measured
from induction_lens.tracking.moments import Moment


@dataclass(frozen=True)
class RayEngine(Engine):
    """Ray Core tasks on the cluster that `ray.init` finds, or on this machine.

    Examples:
        >>> engine = il.tracking.RayEngine(num_gpus=1)  # doctest: +SKIP
        >>> il.track(found, out="tracked", engine=engine)  # doctest: +SKIP
    """

    address: str | None = None
    """Of the cluster, such as `auto`; None takes the one that is there or `RAY_ADDRESS` names, or
    starts one on this machine."""
    num_cpus: float | int = 1
    """Cores that a task asks for."""
    num_gpus: float | int = 0
    """GPUs that a task asks for; tasks run on the CPU without."""
    memory: int | None = None
    """Bytes of memory that a task asks for; None: nothing is asked."""
    retries: int = 5
    """How often a task whose machine went is started again."""
    name: str = "ray"

    def __post_init__(self) -> None:
        """Check that the numbers can be asked for."""
        for name in ("num_cpus", "num_gpus"):
            checks.real_number(name, getattr(self, name), least=0)
        checks.whole_number("memory", self.memory, least=1, optional=True)
        checks.whole_number("retries", self.retries, least=0)

    def run(
        self,
        task: Callable[[Any, Any], Any],
        jobs: Sequence[Any],
        shared: Any,
        *,
        named: Callable[[Any], str],
    ) -> Iterator[tuple[Any, Any]]:
        """As `Engine.run`; results come in the order in which they are there.

        Raises:
            ValueError: Ray is not installed, or the cluster is gone or does not answer.
        """
        if not jobs:
            return
        ray = _ray()
        self._connect(ray)
        options = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory}
        remote: Any = ray.remote(_done).options(max_retries=self.retries, **options)
        given = ray.put((task, shared, torch.get_num_threads()))
        waiting = {remote.remote(job, given): job for job in jobs}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting))
                for reference in ready:
                    job = waiting.pop(reference)
                    yield job, _got(ray, reference, named(job))
        finally:
            for reference in waiting:  # after an error, the others are of no use
                ray.cancel(reference, force=True)

    def device(self, given: Any) -> Any:
        """The CPU where no GPU is asked for."""
        return "cpu" if given is None and not self.num_gpus else given

    @property
    def task(self) -> Callable[[Moment, Any], Result]:
        """What measures a moment on another machine."""
        return _measured

    def _connect(self, ray: Any) -> None:
        if ray.is_initialized():
            return
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise ValueError(
                f"expected a Ray cluster at {self.address or 'RAY_ADDRESS'}, got none "
                f"({first_line(error)}); start one with ray up, or pass engine='local'"
            ) from error


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "expected Ray for engine='ray', got none; pip install 'induction_lens[ray]'"
        ) from error
    return ray


def _got(ray: Any, reference: Any, name: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"expected the cluster to measure {name}, got none that does ({first_line(error)}); "
            "what is measured is kept: run the same again when it is back"
        ) from error


def _done(job: Any, given: Any) -> Any:
    """What a worker does, on whichever machine."""
    task, shared, n_threads = given
    torch.set_num_threads(n_threads)  # sums depend on it
    return task(job, shared)


def _measured(moment: Moment, shared: Any) -> Result:
    """Download a moment to a folder of this machine, and measure it."""
    with tempfile.TemporaryDirectory(prefix="induction-lens-") as folder:
        return measured(moment.downloaded_to(Path(folder)), shared)
