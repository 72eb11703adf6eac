"""The battery of a family against the functions that measure one model, and trends against sums."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import induction_lens as il
from induction_lens.heads import THRESHOLD
from induction_lens.metrics import choose_positions
from induction_lens.models import toy_weights
from induction_lens.suites import battery, family, trend
from induction_lens.suites.member import PREDICTED, block_parameters
from tests.campaigns import result_of
from tests.hf_folders import CONFIGS, hugging_face_model, random_model

NAMES = ["toy-2l", "toy-1l", "toy-2l-narrow"]


@pytest.fixture(scope="module")
def found():
    return family(NAMES, n_sequences=12, n_controls=3, progress=False)


@pytest.mark.slow
def test_each_row_is_what_the_functions_for_one_model_give(found):
    assert [one.name for one in found.members] == ["toy-1l", "toy-2l-narrow", "toy-2l"]
    row = found.to_frame().set_index("model").loc["toy-2l"]
    model = il.load("toy-2l")
    text = il.sample_text(model, n_sequences=12)
    losses = il.per_token_loss(model, text.tokens)
    assert row["loss"] == pytest.approx(float(losses[:, 1:].mean()), abs=1e-5)
    at = choose_positions(512)
    late = losses[:, at.late - at.window : at.late + at.window + 1].mean(1)
    early = losses[:, at.early - at.window : at.early + at.window + 1].mean(1)
    assert row["icl_paper"] == pytest.approx(float((late - early).mean()), abs=1e-5)
    scores = il.score_heads(model)
    above = scores["induction"].above(THRESHOLD)
    assert row["above"] == len(above) > 0
    assert row["share_above"] == len(above) / 16
    assert row["depth"] == sum(head.layer for head in above) / len(above) / 1
    pairs = [
        (scores["induction"].values[layer, head], scores["copying_weights"].values[layer, head])
        for layer in range(2)
        for head in range(8)
    ]
    x, y = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 1))
    x, y = x - x.mean(), y - y.mean()
    expected = float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())
    assert row["copying_correlation"] == pytest.approx(expected, abs=1e-6)
    study = il.ablate(
        model,
        above,
        text,
        n_controls=3,
        early=at.early,
        late=at.late,
        window=at.window,
        estimator="matched-target",
    )
    assert row["icl"] == pytest.approx(study.clean.value, abs=1e-6)
    assert row["removed"] == pytest.approx(-study.effect.value / study.clean.value, abs=1e-6)
    controls = [control.effect.value for control in study.controls]
    expected = -sum(controls) / 3 / study.clean.value
    assert row["control_removed"] == pytest.approx(expected, abs=1e-6)
    assert row["p_value"] == study.rank / 4


@pytest.mark.slow
def test_a_model_without_induction_heads_has_no_depth(found):
    row = found.to_frame().set_index("model").loc["toy-1l"]
    assert row["above"] == 0
    assert math.isnan(row["depth"])
    assert row["knocked_out"] == str(il.score_heads(il.load("toy-1l"))["induction"].top(1)[0][0])


def test_parameters_are_those_of_the_matrices_in_blocks():
    model = il.load("toy-2l")
    weights = toy_weights(model)
    expected = sum(
        weight.numel()
        for name, weight in weights.items()
        if "blocks" in name and any(f".W_{letter}" in name for letter in "QKVO")
    )
    assert block_parameters(model) == expected
    for name in CONFIGS:
        theirs = sum(
            parameter.numel()
            for key, parameter in random_model(CONFIGS[name]).named_parameters()
            if parameter.ndim == 2 and (".h." in key or "layers." in key)
        )
        assert block_parameters(hugging_face_model(name)) == theirs, name


WORDS = ["def", "return", "import", "class", "yield", "while", "lambda", "assert"]
TEXT = [" ".join(WORDS[(i * j * j + i) % 8] for j in range(60)) for i in range(1, 30)]
TINY: dict[str, Any] = {"text": TEXT, "n_sequences": 4, "n_controls": 1, "progress": False}


@pytest.fixture
def tiny_models(tmp_path):
    """Three toys of two sizes that are folders."""
    folders = []
    for number, (d_model, n_layers) in enumerate(((16, 1), (16, 2), (24, 2))):
        config = il.toys.ToyConfig(
            n_layers=n_layers, d_model=d_model, n_heads=2, d_vocab=1024, n_ctx=64, seed=number
        )
        model = il.toys.build_toy(config, tokenizer=il.load("toy-2l").tokenizer, device="cpu")
        kept = il.toys.save(model, tmp_path / f"toy-{number}", step=number, tokens_seen=0)
        folders.append(str(kept.path))
    return folders


def _seen(monkeypatch) -> list[str]:
    """What is knocked out from now on, by the number of heads."""
    real = battery.ablate
    calls = []

    def ablate(model, *arguments, **options):
        calls.append(model.cfg.d_model)
        return real(model, *arguments, **options)

    monkeypatch.setattr(battery, "ablate", ablate)
    return calls


def test_a_family_that_was_cut_off_goes_on(tiny_models, tmp_path, monkeypatch):
    whole = family(tiny_models, **TINY)
    calls = _seen(monkeypatch)
    out = tmp_path / "out"
    family(tiny_models[:2], out=out, **TINY)
    assert calls == [16, 16]
    (out / "models" / ".x.safetensors.new").mkdir()  # as a killed writer leaves it
    again = family(tiny_models, out=out, **TINY)
    assert calls == [16, 16, 24]
    pd.testing.assert_frame_equal(again.to_frame(), whole.to_frame(), check_exact=True)
    for one, other in zip(again.members, whole.members, strict=True):
        pairs = [(of.study.control_losses, of.study.short_losses) for of in (one, other)]
        for kept, made in zip(*pairs, strict=True):
            torch.testing.assert_close(kept, made, rtol=0, atol=0, equal_nan=True)
        assert one.induction.values.equal(other.induction.values)
        assert one.copying.values.equal(other.copying.values)
        assert one.study.controls == other.study.controls
    assert not list((out / "models").glob(".*.new"))
    family(tiny_models, out=out, resume=False, **TINY)
    assert len(calls) == 6


def test_what_was_measured_otherwise_is_refused(tiny_models, tmp_path):
    out = tmp_path / "out"
    family(tiny_models[:1], out=out, **TINY)
    with pytest.raises(ValueError, match="with another n_controls; use another folder"):
        family(tiny_models[:1], out=out, **(TINY | {"n_controls": 2}))
    with pytest.raises(ValueError, match="with another text;"):
        family(tiny_models[:1], out=out, **(TINY | {"n_sequences": 5}))
    with pytest.raises(ValueError, match="with another method;"):
        family(tiny_models[:1], out=out, method="zero", **TINY)
    [kept] = (out / "models").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="the file is damaged or was edited") as told:
        family(tiny_models[:1], out=out, **TINY)
    assert "\n" not in str(told.value)


def test_models_of_one_name_with_other_weights_are_refused(tiny_models, tmp_path):
    out = tmp_path / "out"
    family(tiny_models[:1], out=out, **TINY)
    kept = Path(tiny_models[0])
    model = il.load(kept, device="cpu")
    with torch.no_grad():
        model.W_E[3, 5] += 1.0
    shutil.rmtree(kept)
    il.toys.save(model, kept.parent, step=0, tokens_seen=0)
    with pytest.raises(ValueError, match="with another weights;"):
        family([str(kept)], out=out, **TINY)


@pytest.mark.usefixtures("_as_users_call")
def test_loaded_models_are_not_sent_to_other_machines():
    with pytest.raises(ValueError, match="got the loaded model toy-1l; pass its name"):
        family([il.load("toy-1l")], engine="ray", **TINY)


@pytest.mark.slow
def test_a_trajectory_gives_the_midpoint_over_the_predicted_one():
    from induction_lens.reports.training.runs import SHIPPED

    run = il.tracking.Trajectory.read(SHIPPED / "phase-2l-seed-0")
    found = family(["toy-2l"], n_sequences=4, n_controls=0, trajectories={"toy-2l": run})
    [member] = found.members
    midpoint = il.dynamics.phase_change(run).midpoint
    assert member.midpoint == midpoint
    per_step = float(run.tokens_seen[-1]) / float(run.steps[-1])
    expected = midpoint.value / (10**5.7 * math.sqrt(per_step))
    assert found.to_frame()["midpoint_over_predicted"][0] == pytest.approx(expected)
    assert pytest.approx(501187.2, rel=1e-6) == PREDICTED
    assert math.isnan(member.control_removed)


def test_the_slope_and_its_interval_are_those_of_least_squares():
    x, y = (
        torch.tensor([6.0, 7, 7, 8, 9]).double(),
        torch.tensor([0.1, 0.5, 0.2, 0.4, 0.9]).double(),
    )
    design = torch.stack([torch.ones(5).double(), x], 1)
    coefficients = torch.linalg.solve(design.T @ design, design.T @ y)
    residual = y - design @ coefficients
    error = float((residual.square().sum() / 3 / (x - x.mean()).square().sum()).sqrt())
    half = 3.182446305284263 * error  # Student's t with 3 degrees of freedom
    found = trend((10**x).tolist(), y.tolist())
    assert found.slope.value == pytest.approx(float(coefficients[1]))
    assert found.slope.low == pytest.approx(float(coefficients[1]) - half)
    assert found.slope.high == pytest.approx(float(coefficients[1]) + half)
    assert found.constant == (found.p_value > 0.05)


def test_two_models_show_no_trend():
    found = trend([1e6, 1e7], [0.1, 0.3])
    assert found.slope.value == pytest.approx(0.2)
    assert math.isinf(found.slope.low)
    assert found.constant
    assert math.isnan(trend([1e6, 1e6], [0.1, 0.3]).slope.value)
    assert trend([1e6, 1e7, 1e8], [0.1, math.nan, 0.3]).slope.n == 2


def test_a_quantity_that_is_equal_everywhere_has_no_trend():
    found = trend([1e5, 1e6, 1e7, 1e8], [1.0, 1.0, math.nan, 1.0])
    assert (found.slope.value, found.slope.low, found.slope.high) == (0, 0, 0)
    assert (found.p_value, found.slope.n, found.constant) == (1.0, 3, True)


def test_shares_of_a_score_that_may_be_zero_are_left_out(tiny_models):
    found = family(tiny_models, **TINY)
    frame = found.to_frame()
    bounded = [math.isfinite(low) for low in frame["removed_low"]]
    assert not all(bounded)
    named = {one.quantity: one.slope.n for one in found.trends()}
    assert named["loss"] == 3
    assert named.get("removed", 0) == sum(bounded)


def test_how_often_intervals_of_flat_families_hold_zero():
    generator = torch.Generator().manual_seed(0)
    sizes = [10.0**k for k in (5, 5.5, 6, 6.5, 7, 7.5)]
    held = [
        trend(sizes, torch.randn(6, generator=generator).tolist()).constant for _ in range(1000)
    ]
    assert 0.93 < sum(held) / len(held) < 0.97


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        ([], {}, "one or more models"),
        (["toy-1l", "toy-1l"], {}, "name each once"),
        (
            ["toy-1l"],
            {"trajectories": {"toy-1": None}},
            "the trajectory of toy-1 to be a Trajectory",
        ),
        (["toy-1l"], {"n_sequences": 1}, "n_sequences"),
        (["toy-1"], {}, "did you mean 'toy-1l'"),
        ({"mine": "toy-1"}, {}, "did you mean 'toy-1l'"),
        ({3: "toy-1l"}, {}, "each name of models to be a text, got 3"),
        (["toy-1l", "."], {}, r"has no config\.json"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_bad_families_are_one_line(models, options, said):
    with pytest.raises(ValueError, match=said) as told:
        family(models, **options)
    assert "\n" not in str(told.value)


def test_models_of_one_name_are_named_by_the_caller():
    model = hugging_face_model("llama")
    with pytest.raises(ValueError, match="pass a dictionary with a name for each"):
        family([model, model])
    found = family({"before": model, "after": model}, **TINY)
    assert sorted(one.name for one in found.members) == ["after", "before"]


@pytest.mark.slow
def test_the_page_shows_every_model_and_writes_the_data(found, tmp_path):
    page = il.reports.save_family(found, tmp_path / "page")
    html = page.read_text("utf-8")
    for member in found.members:
        assert member.name in html
    assert re.search(r"<h1>3 models of 66k to \S+ parameters</h1>", html)
    assert {path.name for path in page.parent.iterdir()} == {
        *("index.html", "models.csv", "trends.csv")
    }
    assert {one.quantity for one in found.trends()} >= {"loss", "icl", "removed"}
    figure = il.plots.against_size(found, "removed")
    assert len(figure.data[0].x) == 3
    assert figure.data[0].error_y.array[2] > 0


def _campaign(names: list[str], tmp: Path) -> dict[str, Any]:
    """Kill a family at random moments and go on; how often, and which files differ at the end."""
    torch.set_num_threads(1)

    def started(out: Path) -> int:
        child = os.fork()
        if child == 0:
            family(names, out=out, **TINY)
            os._exit(0)
        return child

    begin = time.monotonic()
    assert os.waitpid(started(tmp / "whole"), 0)[1] == 0
    seconds = time.monotonic() - begin
    expected = {path.name: path.read_bytes() for path in (tmp / "whole" / "models").iterdir()}
    generator, killed, wrong = random.Random(3), 0, []
    for number in range(4):
        out = tmp / f"killed-{number}"
        for _ in range(3):
            child = started(out)
            time.sleep(seconds * generator.uniform(0.05, 0.9))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert os.waitpid(started(out), 0)[1] == 0
        found = {path.name: path.read_bytes() for path in (out / "models").glob("*.safetensors")}
        if found != expected:
            wrong.append(out.name)
    return {"killed": killed, "wrong": wrong, "files": len(expected)}


RUN = """
import json, pathlib, sys
from tests.suites.test_family import _campaign
print("RESULT", json.dumps(_campaign(sys.argv[2:], pathlib.Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_kills_leave_the_same_files(tiny_models, tmp_path):
    result = result_of(RUN, tmp_path, *tiny_models)
    assert result["wrong"] == []
    assert result["killed"] >= 6
    assert result["files"] == 3
