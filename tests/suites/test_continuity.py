"""The page on argument 6 against what was measured, and what was measured against the runs."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from induction_lens.dynamics import mean_over_seeds
from induction_lens.reports.training.runs import SHIPPED
from induction_lens.tracking.runs import read_run
from induction_lens.tracking.trajectory import Trajectory

SCRIPTS = Path(__file__).parents[2] / "docs" / "scripts"


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return json.loads((SCRIPTS.parent / "arguments" / "continuity.json").read_text())


def test_the_page_has_the_numbers_that_were_measured(told):
    module = _script("write_arguments")
    page = module.plain_environment().get_template("continuity.md").render()
    assert page == (module.PAGES / "continuity.md").read_text(encoding="utf-8")
    sizes = told["own"]["sizes"]
    for size in sizes:
        assert f"| {size['size']} |" in page
    for row in told["battery"]["models"]:
        number = f"{row['icl']:.2f}".replace("-", "−")
        assert re.search(rf"\| {re.escape(row['model'])} \|.*\| {number} \[", page)


@pytest.mark.parametrize("which", ["phase", "own"])
def test_means_over_seeds_are_those_of_the_runs(told, which):
    for size in told[which]["sizes"]:
        runs = [run for run in told[which]["runs"] if run["size"] == size["size"]]
        values = [run["icl"] for run in runs]
        expected = mean_over_seeds(values)
        assert size["icl"] == pytest.approx(expected.value, abs=2e-5)
        if len(values) > 1:
            assert size["icl_low"] == pytest.approx(expected.low, abs=1e-4)
        else:
            assert size["icl_low"] is None
        assert size["seeds"] == [run["seed"] for run in runs]


def test_rows_of_our_family_are_those_of_its_trajectories(told):
    kept = SCRIPTS.parent / "arguments" / "family"
    rows = {row["run"]: row for row in told["own"]["runs"]}
    assert len({row["size"] for row in rows.values()}) >= 5
    assert len({row["parameters"] + row["layers"] for row in told["battery"]["models"]}) >= 6
    for name, row in rows.items():
        run = Trajectory.read(kept / name / "trajectory.parquet")
        assert row["icl"] == pytest.approx(float(run.icl[-1].mean()), abs=2e-5)
        assert row["above"] == int((run.scores["induction"][-1] > 0.3).sum())
        assert row["loss"] == pytest.approx(float(run.held_out_loss[-1]), abs=2e-5)


@pytest.mark.slow
def test_a_row_is_what_the_run_says(told):
    module = _script("measure_family")
    run = read_run(SHIPPED / "phase-2l-seed-1")
    row = module.row_of(run)
    [kept] = [row for row in told["phase"]["runs"] if row["run"] == "phase-2l-seed-1"]
    for name, value in row.items():
        if isinstance(value, float) and math.isnan(value):
            assert kept[name] is None
        elif isinstance(value, float):
            assert kept[name] == pytest.approx(value, rel=1e-4, abs=2e-5), name
        else:
            assert kept[name] == value, name
    weights = {"q": 2 * 128 * 128, "k": 2 * 128 * 128, "v": 2 * 128 * 128, "o": 2 * 128 * 128}
    assert row["parameters"] == sum(weights.values())
    around = slice(40, 61)
    early = run.trajectory.loss_by_position[-1][around]
    assert row["early_loss"] == pytest.approx(float(early.mean()))
    above = torch.nonzero(run.trajectory.scores["induction"][-1] > 0.3)
    assert row["depth"] == float(above[:, 0].double().mean())
