"""Runs the tests of a module on one mutant of it: in a fork, on a copy of the checkout.

A fresh pytest takes seconds to import torch and TransformerLens. Here one process imports them
once and forks for every mutant. It never imports the package itself, so each fork reads the
mutant. The checkout is left alone: the mutant is written into a copy of it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.mutation.targets import Target

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "scipy.stats", "sklearn", "plotly")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-o", "addopts=")
"""Without the run-time type checks of `addopts`: users have none, and to set them up takes longer
than most tests."""
_PATIENCE = 20
"""A run that has not ended after this many times its limit waits for something."""
_FORK = multiprocessing.get_context("fork")

Outcome = Literal["killed", "timeout", "survived", "broken"]
"""`broken`: the module cannot be imported, which no test is needed for."""


@dataclass(frozen=True)
class Run:
    """What became of one run of the tests."""

    outcome: Outcome
    seconds: float
    """Time of the processor, which other work on the machine does not stretch."""
    test: str
    """The test that failed, if one did."""


class Workspace:
    """A copy of the checkout in which modules are changed and tested."""

    def __init__(self, folder: Path) -> None:
        """Copy the package and the tests, and import what all runs need."""
        self.folder = folder
        without = shutil.ignore_patterns("__pycache__")
        for name in ("induction_lens", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=without)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for name in HEAVY:
            importlib.import_module(name)
        self._hooked = hasattr(sys.modules["transformer_lens"], "HookedTransformer")

    def run(self, target: Target, *, limit: int) -> Run:
        """Run a target's tests on the copy as it is, for at most `limit` seconds of work."""
        here, there = _FORK.Pipe(duplex=False)
        arguments = (self.folder, self._arguments(target), limit, there)
        child = _FORK.Process(target=_test, args=arguments)
        child.start()
        there.close()
        try:
            asleep = not here.poll(_PATIENCE * limit)
            return Run("timeout", limit, "") if asleep else Run(*here.recv())
        except EOFError:  # the mutant has ended the process
            child.join()
            used_up = child.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
            return Run("timeout" if used_up else "killed", limit, "the process ended")
        finally:
            child.kill()
            child.join()

    def run_mutant(self, module: str, code: str, target: Target, *, limit: int) -> Run:
        """The same with a module's code replaced."""
        file = self.folder / "induction_lens" / module
        original = file.read_text()
        _rewrite(file, code)
        try:
            return self.run(target, limit=limit)
        finally:
            _rewrite(file, original)

    def _arguments(self, target: Target) -> list[str]:
        """For pytest: one class of models is enough to see a fault of these modules."""
        left_out = [part for part in (target.leave_out, "bridge" * self._hooked) if part]
        files = [str(self.folder / "tests" / name) for name in target.tests]
        chosen = ["-k", f"not ({' or '.join(left_out)})"] if left_out else []
        return [f"--rootdir={self.folder}", *OPTIONS, *chosen, *files]


def _rewrite(file: Path, code: str) -> None:
    """Write a module, and leave no bytecode of what it was: that is told apart by seconds alone."""
    file.write_text(code)
    for stale in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        stale.unlink()


class _Watch:
    """Sees what pytest reports."""

    def __init__(self) -> None:
        self.failed = ""
        self.uncollected = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.uncollected |= report.failed


def _test(folder: Path, arguments: list[str], limit: int, answer: Connection) -> None:
    """In the fork: run pytest, quietly, and send what came of it."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    quiet = os.open(folder / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    sys.modules.pop("__main__", None)
    watch = _Watch()
    code: Any = pytest.main(arguments, plugins=[watch])
    tested = sys.modules.get("induction_lens")
    if tested is not None and folder not in Path(str(tested.__file__)).parents:
        outcome, test = "broken", f"another copy was tested: {tested.__file__}"
    elif watch.uncollected or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        outcome, test = "broken", f"pytest ended with {code!r}"
    else:
        outcome, test = "survived" if code == pytest.ExitCode.OK else "killed", watch.failed
    answer.send((outcome, time.process_time(), test))
