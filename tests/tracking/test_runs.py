"""A run is measured once, whole, whatever happens in between; what is of another is refused."""

import importlib
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from induction_lens.models import toy_weights
from induction_lens.seals import write_tensors
from induction_lens.toys import snapshots
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking import measured_run, read_run
from induction_lens.tracking.final_model import measure_end, read_end
from induction_lens.tracking.measures import held_out_text
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import Trajectory

runs = importlib.import_module("induction_lens.tracking.runs")
tracking = importlib.import_module("induction_lens.tracking.track")
measures = importlib.import_module("induction_lens.tracking.measures")
engine = importlib.import_module("induction_lens.tracking.engine")
TRAINING = torch.arange(300).view(10, 30) % 31


@pytest.fixture(autouse=True)
def _text_in_no_time(monkeypatch):
    """Random tokens instead of held-out source, which takes a while to read."""

    def drawn(model, text, n_sequences, seq_len, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, model.cfg.d_vocab, (5, seq_len), generator=generator)

    monkeypatch.setattr(measures, "text_tokens", drawn)


@pytest.fixture(scope="module")
def model():
    config = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=31, n_ctx=47)
    return build_toy(config, device="cpu")


@pytest.fixture
def run(model, tmp_path) -> Path:
    """A training run of two snapshots."""
    for step in (0, 1):
        with torch.no_grad():
            toy_weights(model)["embed.W_E"][0, 0] += step
        snapshots.save(model, tmp_path / "run" / "snapshots", step=step, tokens_seen=step)
    return tmp_path / "run"


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """How often the end, and each snapshot, was measured."""
    made = Counter()
    end, snapshot = runs.measure_end, engine.measure_model

    def count_end(*arguments, **options):
        made["end"] += 1
        return end(*arguments, **options)

    def count_snapshot(*arguments, **options):
        made["snapshot"] += 1
        return snapshot(*arguments, **options)

    monkeypatch.setattr(runs, "measure_end", count_end)
    monkeypatch.setattr(engine, "measure_model", count_snapshot)
    return made


def _interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("measure", [read_run, measured_run])
def test_a_run_that_was_never_measured_is_measured_once(measure, run, model, counted, tmp_path):
    found = measure(run, progress=False)
    expected = track(run, out=tmp_path / "out", progress=False)
    assert found.trajectory.to_frame().equals(expected.to_frame())
    assert found.trajectory.evaluation == expected.evaluation
    assert found.end == measure_end(model, held_out_text(model), progress=False)
    assert [row["heads"] for row in found.end["knockouts"] if row["set"] == "tested"]
    counted.clear()
    for again in (read_run(run), measured_run(run)):
        assert (again.end, again.trajectory.weights) == (found.end, expected.weights)
    assert not counted


@pytest.mark.parametrize("cut", ["track", "write_end", "_join"])
def test_a_run_that_is_cut_off_goes_on(cut, run, counted, monkeypatch, tmp_path):
    shutil.copytree(run, tmp_path / "whole" / "run")
    whole = measured_run(tmp_path / "whole" / "run", progress=False)
    counted.clear()
    module = tracking if cut == "_join" else runs
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, cut, _interrupted)
        measured_run(run, progress=False)
    assert not (run / "tracked" / "trajectory.parquet").exists()
    found = read_run(run, progress=False)
    assert found.end == whole.end == read_end(run / "tracked")
    for trajectory in (found.trajectory, Trajectory.read(run / "tracked")):
        assert trajectory.to_frame().equals(whole.trajectory.to_frame())
        assert trajectory.weights == whole.trajectory.weights
    assert counted == {"end": 2 if cut == "write_end" else 1, "snapshot": 2}


def test_runs_of_an_experiment_are_measured_on_the_text_beside_them(run, model):
    text = held_out_text(model)[:3]
    write_tensors(_made(run.parent / "text") / "evaluation.safetensors", {"tokens": text.short()})
    found = read_run(run, progress=False)
    assert found.trajectory.icl.shape == (2, 3)
    assert found.trajectory.token_losses.shape == (2, 3 * 46)
    assert found.end == measure_end(model, text, progress=False)


def test_tables_of_ngrams_are_added_where_they_are_missing(run, counted):
    assert measured_run(run, progress=False).end["ngrams"] == []
    found = [measured_run(run, training=TRAINING, progress=False).end for _ in range(2)]
    assert found[0]["ngrams"]
    assert found[0] == found[1] == read_run(run).end
    assert counted == {"end": 2, "snapshot": 2}


def test_a_run_that_was_tracked_by_itself_is_read_as_it_is(run, counted):
    track(run, out=run / "tracked", progress=False)
    assert read_run(run).end == {}
    assert counted["end"] == 0
    assert measured_run(run, progress=False).end == read_run(run).end != {}


def test_the_end_of_another_run_is_refused(run, model):
    measured_run(run, progress=False)
    with torch.no_grad():
        toy_weights(model)["embed.W_E"][0, 0] += 1
    shutil.rmtree(run / "snapshots")
    snapshots.save(model, run / "snapshots", step=1, tokens_seen=1)
    refused = r"expected measures of the last snapshot of this run, got .*endpoint\.json of other"
    with pytest.raises(ValueError, match=refused):
        measured_run(run, progress=False)
    shutil.rmtree(run / "tracked" / "points")
    other = track(run, out=run / "tracked", progress=False)
    assert other.steps.tolist() == [1]
    with pytest.raises(ValueError, match=refused):
        read_run(run)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
