"""From text to a page in processes of their own; killed at any moment, it goes on exactly."""

import importlib
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from induction_lens.inputs.corpus import tokenizer_json, train_tokenizer
from induction_lens.locks import locked
from induction_lens.models import toy_weights, weights_hash
from induction_lens.reports.reproduce import reproduce
from induction_lens.seals import write_tensors
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.toys.snapshots import load
from induction_lens.tracking.experiment import PlannedRun, make_runs
from induction_lens.tracking.final_model import measure_end, read_end
from induction_lens.tracking.runs import N_EXAMPLES, read_evaluation
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import Trajectory
from induction_lens.training.loop import train
from induction_lens.training.presets import train_preset
from tests.tracking.test_track import _differences

N_STEPS = 13
N_TOKENS = N_STEPS * 8 * 512
PAIR = ["phase-1l-smeared", "phase-1l"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """The text of an experiment: a tokenizer, random training tokens, and few to measure on."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = train_tokenizer(["def held_out(value):\n    return value\n" * 50], 300)
    (folder / "tokenizer.json").write_text(tokenizer_json(tokenizer))
    generator = torch.Generator().manual_seed(0)
    for name, n in (("tokens", 8 * N_STEPS), ("evaluation", 3)):
        tokens = torch.randint(1, 280, (n, 512), generator=generator).short()
        tokens[:, 0] = 0
        save_file({"tokens": tokens}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(text, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("made")
    shutil.copytree(text, out / "text")
    return make_runs(out, presets=PAIR, n_tokens=N_TOKENS, processes=2, progress=False)


@pytest.mark.slow
def test_runs_are_trained_on_the_same_text_and_measured_at_every_snapshot(made, tmp_path):
    assert [folder.name for folder in made] == [f"{name}-seed-0" for name in PAIR]
    text = made[0].parent / "text"
    tokens = read_evaluation(text / "evaluation.safetensors")
    for name, folder in zip(PAIR, made, strict=True):
        trajectory = Trajectory.read(folder / "tracked" / "trajectory.parquet")
        assert trajectory.steps.tolist() == list(range(N_STEPS + 1))
        assert trajectory.config["smeared_keys"] == name.endswith("smeared")
        alone = train_preset(
            name, tmp_path / name, n_tokens=N_TOKENS, text=text, device="cpu", progress=False
        )
        assert weights_hash(alone.model) == trajectory.weights[-1]
        again = track(
            tmp_path / name,
            out=tmp_path / name / "again",
            text=tokens,
            n_examples=N_EXAMPLES,
            device="cpu",
            progress=False,
        )
        assert set(_differences(again, trajectory)) == {"name"}
        training = load_file(text / "tokens.safetensors")["tokens"]
        expected = measure_end(load(tmp_path / name / "model"), tokens, training=training)
        assert read_end(folder / "tracked") == expected
        assert PlannedRun(folder.parent, name, 0, N_TOKENS, measured=True).done() == 1.0
    # held-out text of the standard library would have been drawn, but for what was there
    assert len(tokens) == 3


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_named_in_a_log(made, capfd):
    kept = [folder / "tracked" / "endpoint.json" for folder in made]
    kept += [folder / "snapshots" / "step-00000007" / "weights.safetensors" for folder in made]
    before = [path.stat().st_mtime_ns for path in kept]
    make_runs(made[0].parent, presets=PAIR, n_tokens=N_TOKENS, processes=1)
    logged = [line for line in capfd.readouterr().err.splitlines() if line.endswith("measured")]
    assert sorted(logged) == [
        "1 layer, seed 0: trained and measured",
        "1 layer, smeared keys, seed 0: trained and measured",
    ]
    assert [path.stat().st_mtime_ns for path in kept] == before


@pytest.mark.slow
def test_a_reproduction_ends_in_a_page(made, monkeypatch):
    module = importlib.import_module("induction_lens.reports.reproduce")
    monkeypatch.setattr(module, "QUICK_TOKENS", N_TOKENS)
    found = reproduce(made[0].parent, quick=True, processes=2, progress=False)
    assert [model.label for model in found.models] == ["1 layer", "1 layer, smeared keys"]
    assert not any(model.icl_change.found for model in found.models)
    assert found.headline in (made[0].parent / "index.html").read_text()


def test_how_far_a_run_is(tmp_path):
    planned = PlannedRun(tmp_path, "phase-1l", 0, N_TOKENS, measured=True)
    assert planned.done() == 0
    for step in range(7):
        (planned.folder / "snapshots" / f"step-{step}").mkdir(parents=True)
    assert planned.done() == pytest.approx(0.8 / 2)
    (planned.folder / "tracked" / "points" / "step-0").mkdir(parents=True)
    assert planned.done() == pytest.approx(0.8 / 2 + 0.2 / 14)
    unmeasured = PlannedRun(tmp_path, "phase-1l", 0, N_TOKENS, measured=False)
    assert unmeasured.done() == pytest.approx(1 / 2)


@pytest.mark.slow
def test_an_error_in_a_run_comes_out_and_ends_the_others(text, tmp_path):
    shutil.copytree(text, tmp_path / "text")
    run = tmp_path / "phase-1l-seed-0"
    run.mkdir()
    refused = rf"expected {run} to be used by one process at a time, got process {os.getpid()} on "
    with locked(run / ".training.lock"), pytest.raises(ValueError, match=refused):
        make_runs(tmp_path, presets=PAIR, n_tokens=N_TOKENS, processes=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "phase-1l-smeared-seed-0" / "tracked" / "endpoint.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"presets": ["toy-2l"]}, r"presets to be one of phase-1l, .* got 'toy-2l'"),
        ({"presets": []}, r"presets to be at least one of phase-1l, .* got none"),
        ({"presets": ["phase-1l", "phase-1l"]}, "presets to be different ones"),
        ({"seeds": []}, "seeds to be one or more different ones, got "),
        ({"seeds": (1, 1)}, r"seeds to be one or more different ones, got \(1, 1\)"),
        ({"seeds": (-1,)}, "each seed to be a whole number from 0"),
        ({"seeds": 3}, "seeds to be a list or another sequence, got 3"),
        ({"n_tokens": 0}, "n_tokens to be a whole number of at least 1, got 0"),
        ({"n_tokens": 1e6}, "n_tokens to be a whole number of at least 1, got 1000000.0"),
        ({"processes": 0}, "processes to be a whole number of at least 1, got 0"),
        ({"measured": "no"}, "measured to be True or False, got 'no'"),
        ({"progress": 1}, "progress to be True or False, got 1"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_options_are_refused_before_any_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_runs(tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_as_users_call")
def test_folders_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "sub"):
        for make in (make_runs, reproduce):
            with pytest.raises(ValueError, match=r"expected a folder to write to, got .*file"):
                make(out, progress=False)
        with pytest.raises(ValueError, match=r"expected a folder to write to, got .*file"):
            train_preset("phase-1l", out, progress=False)
    with pytest.raises(ValueError, match="quick to be True or False, got 'yes'"):
        reproduce(tmp_path / "out", quick="yes")
    for name in ("text", "phase-2l-seed-0", "phase-1l-seed-0/tracked"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("")
        with pytest.raises(ValueError, match=f"expected a folder to write to, got .*{name}"):
            make_runs(out, progress=False)
    (tmp_path / "other" / "phase-1l-seed-0").mkdir(parents=True)
    settings = {"model": {}, "seed": 0, "n_steps": 3}
    kept = tmp_path / "other" / "phase-1l-seed-0" / "checkpoint.safetensors"
    write_tensors(kept, {"losses": torch.zeros(3)}, {"settings": settings, "tokens_seen": 9})
    with pytest.raises(ValueError, match=r"of this run, got .* with another model, n_steps; use"):
        make_runs(tmp_path / "other", n_tokens=N_TOKENS, progress=False)
    with pytest.raises(ValueError, match=r"of this run, got .* with another model, n_steps, "):
        train_preset("phase-1l", kept.parent, n_tokens=N_TOKENS, progress=False)
    assert not (tmp_path / "other" / "text").exists()


def test_evaluation_text_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got .*nothing\.safetensors, which does not exist"):
        read_evaluation(tmp_path / "nothing.safetensors")


SMALL = ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=31, n_ctx=41, smeared_keys=True)
SMALL_TEXT = (torch.arange(7)[:, None] * 4 + torch.arange(37)) % 31


def _train_and_track(out: Path) -> None:
    torch.set_num_threads(1)
    model = build_toy(SMALL, device="cpu")
    steps = tuple(range(0, 121, 5))
    options = {"batch_size": 3, "warmup": 1, "checkpoint_every": 4, "progress": False}
    run = train(model, SMALL_TEXT, n_steps=120, out=out, snapshots=steps, **options)
    where = {"early": 6, "late": 30, "window": 2}
    track(run, out=out / "tracked", text=SMALL_TEXT, device="cpu", progress=False, **where)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_as_if_it_had_not_been(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started = time.monotonic()
    whole = context.Process(target=_train_and_track, args=(tmp_path / "whole",))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    longest = (time.monotonic() - started) / 4
    out, killed = tmp_path / "killed", 0
    while killed < 10:
        child = context.Process(target=_train_and_track, args=(out,))
        child.start()
        child.join(random.uniform(0.02, longest))
        if child.exitcode is None:
            os.kill(child.pid, 9)
            child.join()
            killed += 1
        else:  # it got to the end: take the last parts away
            assert child.exitcode == 0
            for point in sorted((out / "tracked" / "points").iterdir())[3:]:
                shutil.rmtree(point)
    _train_and_track(out)
    ends = [load(folder / "snapshots" / "step-00000120") for folder in (tmp_path / "whole", out)]
    for name, weight in toy_weights(ends[0]).items():
        assert torch.equal(weight, toy_weights(ends[1])[name]), name
    paths = [folder / "tracked" / "trajectory.parquet" for folder in (tmp_path / "whole", out)]
    trajectories = [Trajectory.read(path) for path in paths]
    assert set(_differences(*trajectories)) <= {"name"}
    assert trajectories[0].weights == trajectories[1].weights
    assert len(trajectories[0].weights) == 25
