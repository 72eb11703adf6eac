"""Every public function has an example in its docstring, and what the examples say is so."""

import doctest
import importlib
import inspect
import shutil
from pathlib import Path

import pytest

import induction_lens as il
from induction_lens.progress import show_progress
from induction_lens.reports.training.runs import SHIPPED

PACKAGES = [
    "induction_lens",
    *(
        f"induction_lens.{name}"
        for name in (
            *("ablation", "circuits", "detectors", "detectors.published", "dynamics", "inputs"),
            *("languages", "plots", "reports", "results", "suites", "tasks", "toys"),
            *("tracking", "training", "views"),
        )
    ),
]
CLASSES = {
    *("AblationMethod", "AttentionDetector", "Clamp", "Estimate", "Head", "HeadScores"),
    *("Task", "TextSource", "ToyConfig", "Trajectory"),
}
TAKES_LONG = {"make_runs", "measured_run", "reproduce", "save_figure", "train_preset"}
"""Functions that train or track, or need a browser; their examples are shown and not run."""
SLOW = {"against_size", "before_and_after", "dissociate", "family", "save_dissociation"}
SLOW |= {"compare", "save_comparison", "same_heads", "save_family", "term_importance"}
"""Functions whose examples take seconds each."""
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented():
    """Every public function, and the classes whose docstrings teach by example, by name."""
    found = {}
    for name in PACKAGES:
        package = importlib.import_module(name)
        for public in package.__all__:
            thing = inspect.unwrap(getattr(package, public))
            if inspect.isfunction(thing) or public in CLASSES:
                found[public] = thing
    return found


DOCUMENTED = documented()


def examples_of(name):
    """The examples in a docstring."""
    return doctest.DocTestParser().get_examples(inspect.getdoc(DOCUMENTED[name]) or "")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with some of the runs that ship, where a reader has runs of their own."""
    folder = tmp_path_factory.mktemp("examples") / "runs"
    for name in ("phase-1l-seed-0", "phase-2l-seed-0", "phase-1l-smeared-seed-0"):
        shutil.copytree(SHIPPED / name, folder / name)
    return folder


@pytest.fixture
def _in_a_folder_with_runs(runs, tmp_path, monkeypatch):
    """An empty folder, except for `runs`; and bars shown afterwards, whatever an example does."""
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    yield
    show_progress()


def test_the_classes_that_teach_by_example_are_public():
    assert set(DOCUMENTED) >= CLASSES | TAKES_LONG


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_the_docstring_has_an_example(name):
    examples = examples_of(name)
    assert examples, f"{name} has no example in its docstring"
    assert "\nExamples:\n" in inspect.getdoc(DOCUMENTED[name])
    skipped = any(example.options.get(doctest.SKIP) for example in examples)
    assert skipped == (name in TAKES_LONG)


@pytest.mark.usefixtures("_in_a_folder_with_runs", "_as_users_call")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in sorted(set(DOCUMENTED) - TAKES_LONG)
    ],
)
def test_the_example_says_what_comes_out(name):
    """Each begins with `il` alone, so that a reader can paste it."""
    module = DOCUMENTED[name].__module__
    source = Path(importlib.import_module(module).__file__)
    test = doctest.DocTest(examples_of(name), {"il": il}, name, str(source), 0, None)
    said = []
    result = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)
