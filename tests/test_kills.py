"""Killed at any of its file operations, a call that is made again ends as if it had not been."""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from induction_lens.reports.model import Report, report
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.track import track
from induction_lens.training.loop import train
from tests.campaigns import result_of

CONFIG = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=29, n_ctx=24)
# counting upwards from anywhere
TOKENS = (torch.arange(6)[:, None] * 4 + torch.arange(24)) % 29
N_KILLS = {"train": 16, "track": 12, "report": 12}
EVENTS = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove"}
"""File operations, as Python names them to its audit hooks."""


def _train(out: Path) -> None:
    options: dict[str, Any] = {"n_steps": 5, "batch_size": 2, "warmup": 1, "progress": False}
    steps = (0, 2, 3, 5)
    model = build_toy(CONFIG, device="cpu")
    train(model, TOKENS, out=out, snapshots=steps, checkpoint_every=2, **options)


def _track(out: Path) -> None:
    options: dict[str, Any] = {"n_prompts": 2, "n_ablated": 2, "n_examples": 5, "methods": ["zero"]}
    run = out.parent / "train-whole"
    track(run, out=out, text=TOKENS, device="cpu", progress=False, **options)


def _reported() -> Report:
    model = build_toy(CONFIG, device="cpu")
    return report(model, text=TOKENS, methods=["zero"], n_controls=1, progress=False)


def _in_a_fork(work: Callable[[], None], *, where: Path, kill_at: int | None) -> int | None:
    """Do work in a fork, killed at its n-th file operation; how many it did, None if killed."""
    log = where.with_suffix(".operations")
    child = os.fork()
    if child == 0:
        n_done = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal n_done
            if event in EVENTS and str(arguments[0]).startswith(str(where)):
                n_done += 1
                if n_done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        n_operations = n_done
        log.write_text(str(n_operations))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    assert os.WEXITSTATUS(status) == 0, where
    return int(log.read_text())


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden or not: the content of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def campaign(tmp: Path) -> dict[str, Any]:
    """Kill and repeat each kind of work; what was different afterwards."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # for power cuts: what is killed loses nothing by it
    reported = _reported()
    page = reported.to_html()
    Report.to_html = lambda _: page  # drawn once: only writing it matters here
    works: dict[str, Callable[[Path], Any]] = {
        "train": _train,
        "track": _track,
        "report": reported.save,
    }
    generator, killed, wrong = random.Random(12), 0, []
    for name, work in works.items():
        whole = tmp / f"{name}-whole"
        n_operations = _in_a_fork(lambda: work(whole), where=whole, kill_at=None)  # noqa: B023
        assert n_operations is not None
        expected = _tree(whole)
        for place in sorted(generator.sample(range(1, n_operations + 1), N_KILLS[name])):
            out = tmp / f"{name}-{place}"
            if place % 2:  # over an earlier result as well as from nothing
                shutil.copytree(whole, out)
                for path in [*out.glob("checkpoint*"), *out.glob("points"), *out.glob("*.csv")]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            killed += _in_a_fork(lambda: work(out), where=out, kill_at=place) is None  # noqa: B023
            _in_a_fork(lambda: work(out), where=out, kill_at=None)  # noqa: B023
            if (found := _tree(out)) != expected:
                names = expected.keys() | found.keys()
                differ = sorted(n for n in names if expected.get(n, 0) != found.get(n, 0))
                wrong.append([name, place, differ])
    return {"killed": killed, "wrong": wrong}


RUN = """
import json, pathlib, sys
from tests.test_kills import campaign
print("RESULT", json.dumps(campaign(pathlib.Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_forty_kills_lose_nothing_and_leave_nothing_behind(tmp_path):
    result = result_of(RUN, tmp_path)
    assert result["wrong"] == []
    assert result["killed"] == sum(N_KILLS.values()) == 40
