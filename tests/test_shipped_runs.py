"""The runs that ship bear out what the documentation says of them, to the last number."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import induction_lens as il
from induction_lens.detectors import copying
from induction_lens.dynamics import co_occurrence, phase_change
from induction_lens.models import unembedding
from induction_lens.reports.training import training_report
from induction_lens.reports.training.runs import SHIPPED
from induction_lens.toys.snapshots import TOKENIZER, load
from induction_lens.tracking.final_model import measure_end, read_end
from induction_lens.tracking.runs import EVALUATION, N_EXAMPLES, read_evaluation
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import Trajectory

ROOT = Path(__file__).parents[1]
BESIDE = ROOT / "docs" / "arguments"  # weights that would make the package too large
WITH_WEIGHTS = sorted(
    path.parent.name for folder in (SHIPPED, BESIDE) for path in folder.glob("phase-*/model")
)


@pytest.fixture(scope="module")
def report():
    return training_report()


def test_everything_that_ships_is_there_and_small():
    names = {path.name for path in SHIPPED.iterdir() if path.is_dir()}
    assert names == {
        *(
            f"phase-{n}l{kind}-seed-{s}"
            for n in (1, 2)
            for kind in ("", "-smeared", "-mlp")
            if (n, kind) != (1, "-mlp")
            for s in range(3)
        ),
        *(f"phase-{kind}-seed-0" for kind in ("3l", "2l-clamped", "2l-wide", "2l-wide-smeared")),
    }
    assert len(WITH_WEIGHTS) == 6
    package = Path(il.__file__).parent
    files = [path for path in package.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 30e6


@pytest.mark.parametrize(
    "name",
    [
        name if name == "phase-1l-seed-0" else pytest.param(name, marks=pytest.mark.slow)
        for name in WITH_WEIGHTS
    ],
)
@pytest.mark.slow
def test_the_last_point_is_what_measuring_the_weights_gives(name, tmp_path, monkeypatch):
    """Rebuilt from the shipped weights, within what another processor's sums differ by."""
    shipped = Trajectory.read(SHIPPED / name / "trajectory.parquet")
    text = read_evaluation(SHIPPED / EVALUATION)
    run = SHIPPED / name
    if not (run / "model").is_dir():
        run = tmp_path / name
        shutil.copytree(BESIDE / name, run)
        shutil.copy(SHIPPED / TOKENIZER, tmp_path)
    again = track(
        run,
        out=tmp_path / "tracked",
        text=text,
        n_examples=N_EXAMPLES,
        device="cpu",
        progress=False,
    )
    assert (again.evaluation, again.weights[-1]) == (shipped.evaluation, shipped.weights[-1])
    assert torch.allclose(again.icl[-1], shipped.icl[-1], atol=1e-4)
    assert torch.allclose(again.held_out_loss[-1], shipped.held_out_loss[-1], atol=1e-5)
    assert torch.allclose(
        again.loss_by_position[-1, 1:], shipped.loss_by_position[-1, 1:], atol=1e-4
    )
    assert torch.allclose(again.token_losses[-1], shipped.token_losses[-1], atol=2e-2)  # float16
    # these runs were tracked when `W_U` was not centred for copying from weights
    monkeypatch.setattr(copying, "_centred_unembedding", lambda model: unembedding(model).float())
    found = {detector: scores[-1] for detector, scores in again.scores.items()}
    found["copying_weights"] = copying.copying_from_weights(load(run / "model")).values
    for detector, scores in shipped.scores.items():
        assert torch.allclose(found[detector], scores[-1], atol=1e-4), detector
    for method, effects in shipped.effects.items():
        assert torch.allclose(again.effects[method][-1], effects[-1], atol=1e-4), method


@pytest.mark.slow
def test_the_ends_are_what_measuring_the_weights_gives():
    folder = SHIPPED / "phase-2l-seed-0"
    text = read_evaluation(SHIPPED / EVALUATION)
    again = measure_end(load(folder / "model", device="cpu"), text)["knockouts"]
    shipped = read_end(folder)["knockouts"]
    assert [row["heads"] for row in again] == [row["heads"] for row in shipped]
    for one, other in zip(again, shipped, strict=True):
        assert one["effect"] == pytest.approx(other["effect"], abs=1e-4)


@pytest.mark.slow  # to look for changes in all runs takes a minute
def test_changes_are_where_the_paper_has_them(report):
    found = {model.label: model for model in report.models}
    wide = ("2 layers, d_model 256", "2 layers, smeared keys, d_model 256")
    held = "2 layers, K-composition cut until step 800"
    smeared = ("1 layer, smeared keys", "2 layers, smeared keys")
    for label in ("2 layers", "3 layers", *smeared, *wide, held):
        change = found[label].icl_change
        assert change.found, label
        assert 0 < change.onset.value < change.midpoint.value < change.end.value
    assert not found["1 layer"].icl_change.found
    apart = {pair.plain.label: pair.apart for pair in report.smearings}
    assert apart["2 layers"]
    assert apart["2 layers, d_model 256"]


@pytest.mark.slow  # to look for changes in all runs takes a minute
def test_induction_heads_carry_most_of_the_two_layer_models_icl_score(report):
    frame = report.knockouts_frame()
    tested = frame[
        (frame["model"] == "2 layers")
        & (frame["set"] == "tested")
        & (frame["method"] == "pattern-preserving")
    ]
    assert len(tested) == 3
    assert (tested["removed"] > 0.5).all()


@pytest.mark.slow  # to look for changes in all runs takes a minute
def test_the_page_of_the_shipped_runs_has_every_figure(report):
    page = report.to_html()
    ids = re.findall(r'data-figure="([^"]+)"', page)
    assert sorted(ids) == sorted(
        ("icl", "windows", "induction", "pca", "losses", "derivative", "smear", "effects")
    )
    for model in report.models:
        assert model.label in page
        assert str(model.icl_change.midpoint or "none (") in page.replace("−", "-")


@pytest.mark.slow  # to look for changes in all runs takes a minute
def test_pages_on_the_arguments_have_the_numbers_of_the_runs(report):
    """Every number in them is written anew from the runs, and compared."""
    script = ROOT / "docs" / "scripts" / "write_arguments.py"
    spec = importlib.util.spec_from_file_location("write_arguments", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.written(report)
    assert {*module.PAGES.glob("*.md"), ROOT / "README.md"} == set(written)
    number = re.compile(r"[+−]?\d+(?:\.\d+)?")
    for path, text in written.items():
        name, committed = path.name, path.read_text(encoding="utf-8")
        assert number.sub("#", text) == number.sub("#", committed), name
        for new, old in zip(number.findall(text), number.findall(committed), strict=True):
            one, other = (float(value.replace("−", "-")) for value in (new, old))
            # a bootstrap on another processor may round the last digit another way
            assert one == pytest.approx(other, abs=0.0101, rel=0.011), (name, new, old)


@pytest.mark.slow  # to look for changes in all runs takes a minute
def test_by_hand_the_first_two_layer_run(report):
    run = Trajectory.read(SHIPPED / "phase-2l-seed-0" / "trajectory.parquet")
    together = co_occurrence(run)
    frame = report.runs_frame().set_index(["model", "seed"])
    row = frame.loc[("2 layers", 0)]
    assert row["correlation"] == together.correlation
    assert row["icl_midpoint"] == phase_change(run).midpoint.value
    card = json.loads((SHIPPED / "phase-2l-seed-0" / "model" / "card.json").read_text())
    assert card["weights"] == run.weights[-1]
