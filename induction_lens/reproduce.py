"""From nothing to tracked runs: text, training and measuring, in as many processes as cores.

1. Tokenizer and training text are made from the Python source on this machine, once for all runs;
   so is the text that they are measured on.
2. Each run is a process of one thread: it trains (`presets`), is tracked (`track`), and what the
   trained model depends on is measured (`endpoint`). Deep models come first: they take longest.
3. All of it is on disk as it is made. Called again after an interruption, it goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from induction_lens.endpoint import ENDPOINT, measure_end, write_end
from induction_lens.files import atomic_path
from induction_lens.presets import PHASE_PRESETS, prepare_text, train_preset
from induction_lens.snapshots import load
from induction_lens.toy import build_toy
from induction_lens.track import POINTS, TRACKED, held_out_text, track
from induction_lens.training_report import TrainingReport, training_report

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from rich.progress import Progress

ONE_LAYER = ("phase-1l", "phase-1l-smeared")
"""The pair of models with which smeared keys are seen to matter, in minutes."""
TWO_LAYERS = ("phase-2l", "phase-2l-smeared")
QUICK_TOKENS = 4_000_000
"""Training tokens of a quick reproduction."""
TEXT, EVALUATION = "text", "evaluation.safetensors"
N_EXAMPLES = 1500
"""How many of their tokens' losses are kept one by one."""
# glibc returns what a training step frees, and the next step takes it anew: a tenth of the time
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
        ValueError: There is no such preset, there is too little text, or `out` holds other runs.
    """
    unknown = [name for name in presets if name not in PHASE_PRESETS]
    if unknown or not presets or not seeds:
        known = ", ".join(PHASE_PRESETS)
        asked = ", ".join(unknown) or f"{len(presets)} presets and {len(seeds)} seeds"
        raise ValueError(f"expected presets out of {known}, and a seed, got {asked}")
    planned = [
        PlannedRun(Path(out), name, seed, n_tokens or PHASE_PRESETS[name].n_tokens, measured)
        for name in presets
        for seed in seeds
    ]
    with _bars(progress) as bars:
        preparing = bars.add_task("text and tokenizer", total=None)
        _prepare(planned)
        bars.remove_task(preparing)
        _make_all(planned, bars, processes or os.cpu_count() or 1)
    return [run.folder for run in planned]


def reproduce(
    out: str | Path = "reproduction",
    *,
    quick: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> TrainingReport:
    """Reproduce the phase change of induction heads, and move it with smeared keys, from nothing.

    Makes the runs of models of one and two layers, with plain and smeared keys (`make_runs`), and
    writes the page about them to `out`. Called again after an interruption, it goes on.
    As for `make_runs`, a script has to call it under `if __name__ == "__main__":`.

    Args:
        out: Folder for the text, the runs, and the page `index.html`.
        quick: The two models of one layer alone, on fewer tokens.
        processes: Runs at a time; None: one for each core.
        progress: Show bars on stderr.

    Raises:
        ValueError: There is too little text, or `out` holds other runs.
    """
    runs = make_runs(
        out,
        presets=ONE_LAYER if quick else (*ONE_LAYER, *TWO_LAYERS),
        n_tokens=QUICK_TOKENS if quick else None,
        processes=processes,
        progress=progress,
    )
    found = training_report(runs)
    found.save(out)
    return found


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
    tokens = read_evaluation(text / EVALUATION)
    out = planned.folder / TRACKED
    track(planned.folder, out=out, text=tokens, n_examples=N_EXAMPLES, progress=False)
    if not (out / ENDPOINT).is_file():
        training = prepare_text(planned.preset, text, n_tokens=planned.n_tokens)[1]
        model = load(planned.folder / "model")
        write_end(measure_end(model, tokens, training=training, progress=False), out)


def read_evaluation(path: str | Path) -> Int[Tensor, "sequence pos"]:
    """The text that the runs of an experiment are measured on.

    Raises:
        ValueError: There is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"expected the tokens of an experiment, got {path}, which does not exist")
    return load_file(path)["tokens"].long()


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
    with atomic_path(folder / EVALUATION) as temporary:
        save_file({"tokens": tokens.short()}, temporary)


def _make_all(planned: Sequence[PlannedRun], bars: Progress, processes: int) -> None:
    rows = {run: bars.add_task(_title(run), total=1.0) for run in planned}
    by_length = sorted(planned, key=lambda run: -PHASE_PRESETS[run.preset].config.n_layers)
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    begin = {"mp_context": context, "initializer": _begin, "initargs": (stopped,)}
    with _environment(_KEEP_MEMORY), ProcessPoolExecutor(processes, **begin) as pool:
        runs = {pool.submit(make_run, run): run for run in by_length}
        pending: set[Future[None]] = set(runs)
        try:
            while pending:
                finished, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                    if not (bars.disable or bars.console.is_terminal):  # a log has no bars
                        bars.console.print(f"{_title(runs[future])}: trained and measured")
                for run, row in rows.items():
                    bars.update(row, completed=run.done())
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


@contextmanager
def _bars(shown: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not shown, speed_estimate_period=300) as bars:
        yield bars
