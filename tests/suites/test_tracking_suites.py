"""Tracking a suite gives what tracking the same models in memory gives, killed or not."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import induction_lens as il
from induction_lens.suites import suite
from induction_lens.tracking.measures import ModelInfo
from tests.campaigns import result_of
from tests.local_hub import Fault
from tests.models.test_hub_loading import NEEL, write_own_format
from tests.suites.trained import CONFIG, TOKENS_PER_STEP, hooked, text, training, write_folders

REPO = "EleutherAI/pythia-14m"
STEPS = tuple(sorted({round(1.16**n) for n in range(5, 60)} | set(range(6))))[:40]
FEW = STEPS[6::12]
OPTIONS: dict[str, Any] = {
    "text": text(6, seed=99),
    "n_prompts": 3,
    "n_ablated": 2,
    "n_examples": 9,
    "methods": ("mean",),
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return write_folders(tmp_path_factory.mktemp("trained"), FEW)


@pytest.fixture
def published(local_hub, folders):
    for step in FEW:
        local_hub.add(REPO, f"step{step}", folders / f"step{step}")
    local_hub.add(REPO, "main", folders / f"step{FEW[-1]}")
    return local_hub


def _assert_same(found, expected, *, atol: float = 1e-5) -> None:
    """Every number of two trajectories, to a tolerance."""
    assert found.steps.tolist() == expected.steps.tolist()
    for name in ("held_out_loss", "icl", "induction_by_sequence"):
        left, right = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(left, right, atol=atol, rtol=0)
    by_position = [one.loss_by_position[:, 1:] for one in (found, expected)]
    torch.testing.assert_close(*by_position, atol=atol, rtol=0)
    # kept in float16
    torch.testing.assert_close(found.token_losses, expected.token_losses, atol=5e-3, rtol=0)
    for group in ("scores", "effects"):
        for name, value in getattr(expected, group).items():
            torch.testing.assert_close(
                getattr(found, group)[name], value, atol=10 * atol, rtol=1e-4, msg=name
            )
    assert found.evaluation == expected.evaluation


def _compare(steps: tuple[int, ...], folder: Path, tmp_path: Path) -> None:
    live = ((step, TOKENS_PER_STEP * step, hooked(model)) for step, model in training(steps))
    expected = il.track(live, out=tmp_path / "live", **OPTIONS)
    found = il.track(
        suite(folder, tokens_per_step=TOKENS_PER_STEP), out=tmp_path / "folders", **OPTIONS
    )
    assert found.steps.tolist() == list(steps)
    assert found.tokens_seen.tolist() == [TOKENS_PER_STEP * step for step in steps]
    _assert_same(found, expected)
    assert found.held_out_loss[-1] < found.held_out_loss[0] - 0.5


@pytest.mark.slow
def test_folders_give_what_the_models_give_that_were_saved(folders, tmp_path):
    _compare(FEW, folders, tmp_path)


@pytest.mark.slow
def test_forty_folders_give_what_forty_models_give(tmp_path):
    assert len(STEPS) == 40
    _compare(STEPS, write_folders(tmp_path / "run", STEPS), tmp_path)
    found = il.tracking.Trajectory.read(tmp_path / "folders")
    changed = il.dynamics.phase_change(found)
    assert changed.n_sequences == 6  # it is read like any other
    page = il.reports.training_report([found], n_resamples=50)
    assert "2 layers, MLPs" in page.headline


@pytest.mark.slow
def test_a_hub_gives_what_the_folders_give_one_at_a_time(published, folders, tmp_path, capsys):
    expected = il.track(
        suite(folders, tokens_per_step=2_097_152), out=tmp_path / "folders", **OPTIONS
    )
    found_suite = suite(REPO)
    options = OPTIONS | {"progress": True}
    found = il.track(found_suite, out=tmp_path / "hub", **options)
    _assert_same(found, expected)
    assert found.tokens_seen.tolist() == [2_097_152 * step for step in FEW]
    assert found.weights == expected.weights
    said = capsys.readouterr().err
    n = len(FEW)
    assert f"pythia-14m: {n} checkpoints, " in said
    assert "to download, at most" in said
    assert f"the other {n - 1} take about" in said
    assert "each is at most 17 sequences" in said  # 6 of text, 3 prompts, 4 heads on 2
    assert not (tmp_path / "hub" / "checkpoints").exists()
    stored = [path for path in published.downloads() if "/store/" in path]
    assert len(stored) == n
    again = il.track(found_suite, out=tmp_path / "hub", **OPTIONS)
    assert len([path for path in published.downloads() if "/store/" in path]) == n
    assert again.weights == found.weights


@pytest.mark.slow
def test_only_one_checkpoint_is_on_disk_unless_they_are_kept(published, tmp_path, monkeypatch):
    there: list[list[str]] = []
    work = tmp_path / "out" / "checkpoints"
    real = il.suites.checkpoints.load_downloaded

    def seen(folder, name, **options):
        there.append(sorted(path.name for path in work.iterdir()))
        return real(folder, name, **options)

    monkeypatch.setattr(il.suites.checkpoints, "load_downloaded", seen)
    chosen = {"checkpoints": FEW[:2]}
    il.track(suite(REPO), out=tmp_path / "out", **chosen, **OPTIONS)
    assert there == [[f"step-{step:08d}"] for step in FEW[:2]]
    il.track(suite(REPO), out=tmp_path / "out", **chosen, keep=True, resume=False, **OPTIONS)
    assert len(list(work.iterdir())) == 2
    assert published.repos


@pytest.mark.slow
def test_a_download_that_fails_loses_nothing(published, tmp_path):
    last = il.suites.suite(REPO).checkpoints[-1]
    [weights] = last.weights
    published.faults.append(Fault(f"/store/{weights.sha256}", corrupt=True))
    with pytest.raises(ValueError, match="another SHA-256") as told:
        il.track(suite(REPO), out=tmp_path / "out", **OPTIONS)
    assert "\n" not in str(told.value)
    assert len(list((tmp_path / "out" / "points").iterdir())) == len(FEW) - 1
    published.faults.clear()
    published.requests.clear()
    il.track(suite(REPO), out=tmp_path / "out", **OPTIONS)
    stored = [path for path in published.downloads() if "/store/" in path]
    assert stored == [f"/store/{weights.sha256}"]


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused_and_the_rest_is_kept(folders, tmp_path):
    import transformers

    other = transformers.GPTNeoXConfig(**{**CONFIG.to_dict(), "num_attention_heads": 3})
    write_folders(tmp_path / "other", (FEW[-1] + 1,), config=other)
    given = [(step, step, str(folders / f"step{step}"), None) for step in FEW]
    given.append((FEW[-1] + 1, 1, str(tmp_path / "other" / f"step{FEW[-1] + 1}"), None))
    with pytest.raises(ValueError, match=r"checkpoints of one model, got step \d+ with n_heads 3"):
        il.track(suite(given), out=tmp_path / "out", **OPTIONS)
    assert len(list((tmp_path / "out" / "points").iterdir())) == len(FEW)


def test_another_tokenizer_is_another_model():
    one = ModelInfo({"n_layers": 2}, "a")
    one.check_same(ModelInfo({"n_layers": 2}, "a"), "step 5")
    with pytest.raises(ValueError, match="got step 5 with another tokenizer") as told:
        one.check_same(ModelInfo({"n_layers": 2}, "b"), "step 5")
    assert "\n" not in str(told.value)


def test_too_little_memory_is_said_before_weights_are_read(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("induction_lens.models.memory.available_memory", lambda _: 20_000)
    found = suite(folders, tokens_per_step=1)
    read: list[Any] = []
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", read.append)
    with pytest.raises(ValueError, match=r"take \d+ kB in float32 where 20 kB are free") as told:
        il.track(found, out=tmp_path / "out", **OPTIONS)
    assert "\n" not in str(told.value)
    assert read == []


def test_own_checkpoints_are_downloaded_one_at_a_time(local_hub, tmp_path):
    values = (1000, 21000, 300000)
    local_hub.add(NEEL, "main", write_own_format(tmp_path / "neel", values))
    options = OPTIONS | {"text": text(4, seed=1)[:, :20] % 29}
    found = il.track(suite(NEEL), out=tmp_path / "out", checkpoints=[1000, 300000], **options)
    assert found.tokens_seen.tolist() == [1000, 300000]
    assert found.config["attn_only"]
    assert not (tmp_path / "out" / "checkpoints").exists()
    stored = [path for path in local_hub.downloads() if "/store/" in path]
    assert len(stored) == 2
    one = il.load(NEEL, checkpoint=300000, device="cpu")
    losses = il.per_token_loss(one, options["text"])
    assert found.held_out_loss[1].item() == pytest.approx(float(losses[:, 1:].mean()), abs=1e-5)


def test_choices_of_checkpoints():
    chosen = il.tracking.chosen_steps
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 144000, 1000)]
    assert chosen(steps, None) == chosen(steps, "all") == steps
    few = chosen(steps, "log:12")
    assert len(few) == 12
    assert few[0] == 0
    assert few[-1] == 143000
    assert all(1 < after / before < 10 for before, after in itertools.pairwise(few[1:]))
    assert chosen(steps, "linear:3") == [0, 1, 143000]
    assert chosen([10, 20, 30, 40, 50], "linear:3") == [10, 30, 50]
    assert chosen(steps, "every:50") == [0, 40000, 90000, 140000, 143000]
    assert chosen(steps, "log:999") == steps
    assert chosen(steps, [4, 1]) == [1, 4]
    with pytest.raises(ValueError, match="got 5; the nearest are 2, 4, 8"):
        chosen(steps, [5])
    for wrong in ("log", "log:0", "some", 3, []):
        with pytest.raises(ValueError, match=r"^expected .*checkpoints"):
            chosen(steps, wrong)


def test_models_that_come_one_by_one_are_checked(tmp_path):
    model = il.load("toy-1l", device="cpu")
    for given, said in (
        ([(0, 0, "gpt2")], r"\(step, tokens seen, model\) with a hooked model"),
        ([(3, 0, model), (3, 0, model)], "in the order of their steps"),
        ([], "at least one model"),
    ):
        with pytest.raises(ValueError, match=said):
            il.track(given, out=tmp_path / str(said)[:3], **OPTIONS)
    with pytest.raises(ValueError, match="expected no checkpoints with models that come"):
        il.track(iter([(0, 0, model)]), out=tmp_path / "x", checkpoints="log:2", **OPTIONS)


def campaign(folders: Path, tmp: Path, *, n_kills: int) -> dict[str, Any]:
    """Kill a track at random moments and go on, three times for each file; which files differ."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # for power cuts: what is killed loses nothing by it
    found = suite(folders, tokens_per_step=TOKENS_PER_STEP)

    def started(out: Path) -> int:
        child = os.fork()
        if child == 0:
            il.track(found, out=out, **OPTIONS)
            os._exit(0)
        return child

    def ended(child: int) -> bool:
        """Wait; whether it ended by itself."""
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return not os.WIFSIGNALED(status)

    begin = time.monotonic()
    assert ended(started(tmp / "whole"))
    seconds = time.monotonic() - begin
    expected = (tmp / "whole" / "trajectory.parquet").read_bytes()
    generator, killed, wrong = random.Random(5), 0, []
    while killed < n_kills:
        out = tmp / f"killed-{killed}"
        for _ in range(3):
            child = started(out)
            time.sleep(seconds * generator.uniform(0.05, 0.7))
            os.kill(child, signal.SIGKILL)
            killed += not ended(child)
        assert ended(started(out))
        if (out / "trajectory.parquet").read_bytes() != expected:
            wrong.append(out.name)
    return {"killed": killed, "wrong": wrong}


RUN = """
import json, pathlib, sys
from tests.suites.test_tracking_suites import campaign
folders, tmp = map(pathlib.Path, sys.argv[1:])
print("RESULT", json.dumps(campaign(folders, tmp, n_kills=20)))
"""


@pytest.mark.slow
def test_twenty_kills_leave_the_same_file(folders, tmp_path):
    result = result_of(RUN, folders, tmp_path)
    assert result["wrong"] == []
    assert result["killed"] >= 20
