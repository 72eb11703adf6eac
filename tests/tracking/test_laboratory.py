"""The page of the synthetic laboratory against what was measured, and that against the runs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from induction_lens.dynamics import mean_over_seeds
from induction_lens.tracking import LanguageTrajectory
from induction_lens.training import LANGUAGE_PRESETS

DOCS = Path(__file__).parents[2] / "docs"
TOLD = json.loads((DOCS / "arguments" / "laboratory.json").read_text(encoding="utf-8"))


def _script(name: str = "write_arguments") -> Any:
    spec = importlib.util.spec_from_file_location("w", DOCS / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_numbers_that_were_measured():
    module = _script()
    page = module.plain_environment().get_template("laboratory.md").render()
    assert page == (module.PAGES / "laboratory.md").read_text(encoding="utf-8")
    assert f"{TOLD['compared']['stages']['value']:.2f} [" in page


@pytest.mark.parametrize("name", list(LANGUAGE_PRESETS))
def test_means_are_those_of_three_seeds_whose_runs_ship(name):
    rows = TOLD["runs"][name]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    of = "gap" if "gap" in rows[0] else "gap_new"
    expected = mean_over_seeds([row[of] for row in rows])
    told = TOLD["means"][name][of]
    assert (told["value"], told["low"], told["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-4
    )
    for row in rows:
        file = DOCS / "arguments" / "laboratory" / f"{name}-seed-{row['seed']}.safetensors"
        run = LanguageTrajectory.read(file)
        assert run.language == repr(LANGUAGE_PRESETS[name].language)
        assert (run.seed, int(run.steps[-1])) == (row["seed"], row["steps"])
        kind = "new" if name.startswith("alphabets") else "all"
        gap = float(run.loss(kind)[-1]) - run.references["optimal"][kind]
        assert gap == pytest.approx(row[of], abs=0.15)  # other sequences than those of the end


@pytest.mark.parametrize(
    ("name", "presets", "kind"),
    [
        ("alphabets", ["alphabets"], "new"),
        ("clamped", ["alphabets", "alphabets-clamped", "alphabets-clamped-late"], "new"),
        ("markov", ["markov"], "all"),
    ],
)
def test_figures_end_where_the_runs_do_and_are_small(name, presets, kind):
    figure = _script("figures")._of_laboratory(name)
    assert len(figure.json) < 300_000
    drawn = json.loads(figure.json)
    ends = {round(line["y"][-1], 6) for line in drawn["data"] if len(line["x"]) > 1}
    for preset in presets:
        how = "-under-clamp" if preset == "alphabets-clamped" else ""
        for seed in range(3):
            file = DOCS / "arguments" / "laboratory" / f"{preset}-seed-{seed}{how}.safetensors"
            run = LanguageTrajectory.read(file)
            last = float(run.losses[kind][-1].nanmean()) - run.references["optimal"][kind]
            assert round(last, 6) in ends
    heights = sorted(line["y0"] for line in drawn["layout"]["shapes"])
    lesser = "unigram" if name == "markov" else "letters"
    optimal = run.references["optimal"][kind]
    assert heights == pytest.approx([0, run.references[lesser][kind] - optimal])


def test_seeds_needed_by_hand():
    found = {"value": 1.0, "low": -1.484, "high": 3.484, "n": 3}  # a spread of 1
    assert _script().seeds_needed(found) == "7 seeds"
