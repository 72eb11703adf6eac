"""Several runs from nothing: text, training and measuring, in as many processes as cores.

1. Tokenizer and training text are made from the Python source on this machine, once for all runs;
   so is the text that they are measured on.
2. Each run is a process of one thread: it trains (`presets`) and is measured (`measured_run`). Deep
   models come first: they take longest.
3. All of it is on disk as it is made. After an interruption, run it again to resume.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from induction_lens import checks
from induction_lens.files import output_folder
from induction_lens.locks import locked
from induction_lens.progress import progress_bars, wanted
from induction_lens.seals import write_tensors
from induction_lens.toys.model import build_toy
from induction_lens.tracking.measures import held_out_text
from induction_lens.tracking.runs import EVALUATION, TEXT, measured_run
from induction_lens.tracking.track import POINTS, TRACKED
from induction_lens.training.presets import PHASE_PRESETS, prepare_text, train_preset
from induction_lens.training.run_folder import SNAPSHOTS, refuse_other_run

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

ONE_LAYER = ("phase-1l", "phase-1l-smeared")
"""The pair of models with which smeared keys are seen to matter, in minutes."""
TWO_LAYERS = ("phase-2l", "phase-2l-smeared")
LOCK = ".experiment.lock"
"""What keeps a second process from making runs in the same folder."""
# glibc returns what a training step frees, and the next step asks for it again: a tenth of the time
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 31), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
_SHARE_OF_TRAINING = 0.8  # of the time that a run takes


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    out: Path
    """Folder of the experiment."""
    preset: str
    """A name in `PHASE_PRESETS`."""
    seed: int
    """Seed of the weights and of the order of the batches."""
    n_tokens: int
    """Training tokens."""
    measured: bool
    """Whether it is tracked, and its end measured."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.out / f"{self.preset}-seed-{self.seed}"

    def done(self) -> float:
        """How much of the run is done: 0 to 1, by the snapshots that there are."""
        n = len(PHASE_PRESETS[self.preset].snapshot_steps(self.n_tokens))
        trained = _count(self.folder / "snapshots") / n
        if not self.measured:
            return trained
        tracked = _count(self.folder / TRACKED / POINTS) / n
        return _SHARE_OF_TRAINING * trained + (1 - _SHARE_OF_TRAINING) * tracked


def make_runs(
    out: str | Path,
    *,
    presets: Sequence[str] = (*ONE_LAYER, *TWO_LAYERS),
    seeds: Sequence[int] = (0,),
    n_tokens: int | None = None,
    measured: bool = True,
    processes: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Train several models on the same text, and measure them at every snapshot.

    Everything goes to `out`: `text`, and a folder for each run (`phase-2l-seed-0`), which
    `training_report` reads. Called again, it does what is missing. Each process imports the script
    that this is called from, so a script has to call it under `if __name__ == "__main__":`.

    Args:
        out: Folder for all of it.
        presets: Names in `PHASE_PRESETS`.
        seeds: Seeds of each.
        n_tokens: Training tokens of each run; None: as the preset says.
        measured: Track the runs, and measure what the trained models depend on.
        processes: Runs at a time, each in a process of one thread; None: one for each core.
        progress: Show bars on stderr.

    Returns:
        The folders of the runs.

    Raises:
        ValueError: There is no such preset, an option is out of range, there is too little text,
            `out` holds other runs, or another process makes runs there.

    Examples:
        >>> presets = ["phase-1l", "phase-2l"]
        >>> folders = il.reports.make_runs("phase", presets=presets, seeds=[0, 1])  # doctest: +SKIP
        >>> print(il.reports.training_report(folders).headline)  # doctest: +SKIP
    """
    planned = _planned(out, presets, seeds, n_tokens=n_tokens, measured=measured)
    processes = checks.whole_number("processes", processes, least=1, optional=True)
    checks.flag("progress", progress)
    out = planned[0].out
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        _prepare(planned)
        _make_all(planned, processes or os.cpu_count() or 1, progress=progress)
    return [run.folder for run in planned]


def _planned(
    out: str | Path,
    presets: Sequence[str],
    seeds: Sequence[int],
    *,
    n_tokens: int | None,
    measured: bool,
) -> list[PlannedRun]:
    """The runs, once it is shown that they can be made there."""
    n_tokens = checks.whole_number("n_tokens", n_tokens, least=1, optional=True)
    checks.flag("measured", measured)
    names = checks.some_of("presets", presets, list(PHASE_PRESETS))
    numbers = [checks.seed(seed, name="each seed") for seed in checks.several("seeds", seeds)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise checks.refuse("seeds", "one or more different ones", seeds, "for instance [0, 1]")
    folder = output_folder(out)
    planned = [
        PlannedRun(folder, name, seed, n_tokens or PHASE_PRESETS[name].n_tokens, measured)
        for name in names
        for seed in numbers
    ]
    output_folder(folder / TEXT)
    for run in planned:
        output_folder(run.folder / SNAPSHOTS)
        output_folder(run.folder / TRACKED / POINTS)
        preset = PHASE_PRESETS[run.preset]
        same = {"model": replace(preset.config, seed=run.seed).to_dict(), "seed": run.seed}
        refuse_other_run(run.folder, same | {"n_steps": preset.n_steps(run.n_tokens)})
    return planned


def make_run(planned: PlannedRun) -> None:
    """Train one run whose text is prepared and, where it is to be measured, measure it."""
    text = planned.out / TEXT
    train_preset(
        planned.preset,
        planned.folder,
        n_tokens=planned.n_tokens,
        text=text,
        seed=planned.seed,
        progress=False,
    )
    if not planned.measured:
        return
    training = prepare_text(planned.preset, text, n_tokens=planned.n_tokens)[1]
    measured_run(planned.folder, training=training, progress=False)


def _prepare(planned: Sequence[PlannedRun]) -> None:
    """The text of the longest run, which holds that of the others, and the evaluation text."""
    longest = max(planned, key=lambda run: run.n_tokens)
    folder = longest.out / TEXT
    tokenizer, _ = prepare_text(longest.preset, folder, n_tokens=longest.n_tokens)
    if not longest.measured or (folder / EVALUATION).is_file():
        return
    config = PHASE_PRESETS[longest.preset].config
    model = build_toy(config, device="cpu", tokenizer=tokenizer)
    tokens = held_out_text(model)
    write_tensors(folder / EVALUATION, {"tokens": tokens.short()})


def _make_all(planned: Sequence[PlannedRun], processes: int, *, progress: bool) -> None:
    by_length = sorted(planned, key=lambda run: -PHASE_PRESETS[run.preset].config.n_layers)
    titles = [_title(run) for run in planned]
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    begin = {"mp_context": context, "initializer": _begin, "initargs": (stopped,)}
    with (
        _environment(_KEEP_MEMORY),
        progress_bars(titles, shown=progress) as show,
        ProcessPoolExecutor(processes, **begin) as pool,
    ):
        runs = {pool.submit(make_run, run): run for run in by_length}
        pending: set[Future[None]] = set(runs)
        try:
            while pending:
                finished, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                    if progress and not wanted():  # a log has no bars
                        print(f"{_title(runs[future])}: trained and measured", file=sys.stderr)
                show([run.done() for run in planned])
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes that start inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(stopped: Event) -> None:
    """What a process does first: one thread for the work, and one to know when to leave."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and tells us
    threading.Thread(target=_leave, args=(stopped,), daemon=True).start()


def _leave(stopped: Event) -> None:
    """Leave when told to, or when the parent is gone; what is on disk is whole."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and not stopped.wait(1.0):
        pass
    os._exit(1)


def _title(run: PlannedRun) -> str:
    return f"{PHASE_PRESETS[run.preset].description}, seed {run.seed}"


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("step-*"))
