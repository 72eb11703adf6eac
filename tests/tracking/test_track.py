"""Tracking a run gives, at every snapshot, what measuring that snapshot gives; killed or not."""

import importlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.circuits import composition, qk_matching
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.heads import Head
from induction_lens.inputs import corpus
from induction_lens.inputs.corpus import train_tokenizer
from induction_lens.inputs.tokens import repeated_random_tokens
from induction_lens.metrics import per_token_loss
from induction_lens.models import TextTokens, toy_weights, weights_hash
from induction_lens.seals import save_tensors
from induction_lens.toys import snapshots
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import Trajectory
from induction_lens.training.clamp import Clamp
from induction_lens.training.loop import TrainingRun, train
from tests.reference_model import induction_circuit

track_module = importlib.import_module("induction_lens.tracking.track")
moments_module = importlib.import_module("induction_lens.tracking.moments")

CONFIG = ToyConfig(
    n_layers=2, d_model=12, n_heads=3, d_vocab=31, n_ctx=41, smeared_keys=True, seed=5
)
STEPS = (0, 2, 5, 6)
# counting upwards from anywhere
TEXT = (torch.arange(7)[:, None] * 4 + torch.arange(37)) % 31
OPTIONS: dict[str, Any] = {
    "text": TEXT,
    "n_prompts": 5,
    "n_ablated": 3,
    "n_examples": 11,
    "methods": ("zero", "mean"),
    "early": 6,
    "late": 30,
    "window": 2,
    "device": "cpu",
    "progress": False,
}


def _trained(folder: Path, config: ToyConfig = CONFIG) -> TrainingRun:
    model = build_toy(config, device="cpu")
    return train(
        model,
        TEXT,
        n_steps=6,
        batch_size=3,
        warmup=1,
        out=folder,
        snapshots=STEPS,
        progress=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> TrainingRun:
    return _trained(tmp_path_factory.mktemp("runs") / "a_run")


@pytest.fixture(scope="module")
def tracked(run, tmp_path_factory) -> tuple[Trajectory, Path]:
    out = tmp_path_factory.mktemp("tracked")
    return track(run, out=out, **OPTIONS), out


def _only(run: TrainingRun, *points: int) -> TrainingRun:
    """The run with some of its snapshots."""
    return TrainingRun(**{**vars(run), "snapshots": tuple(run.snapshots[i] for i in points)})


def _differences(a: Trajectory, b: Trajectory) -> list[str]:
    """Names of what is not exactly equal, NaN being equal to NaN."""
    differ = []
    for name in Trajectory.__dataclass_fields__:
        one, other = getattr(a, name), getattr(b, name)
        tables = [t if isinstance(t, dict) else {"": t} for t in (one, other)]
        if tables[0].keys() != tables[1].keys() or not all(
            np.array_equal(tables[0][key].numpy(), tables[1][key].numpy(), equal_nan=True)
            if isinstance(tables[0][key], torch.Tensor)
            else tables[0][key] == tables[1][key]
            for key in tables[0]
        ):
            differ.append(name)
    return differ


def test_every_point_is_what_measuring_the_snapshot_gives(run, tracked):
    trajectory, _ = tracked
    assert trajectory.steps.tolist() == list(STEPS)
    assert trajectory.tokens_seen.tolist() == [step * 3 * 37 for step in STEPS]
    assert (trajectory.name, trajectory.seed) == ("a_run", 5)
    assert ToyConfig.from_dict(dict(trajectory.config)) == CONFIG
    assert set(trajectory.scores) == set(DETECTORS)
    assert list(trajectory.effects) == ["zero", "mean"]
    for point, snapshot in enumerate(run.snapshots):
        model = snapshots.load(snapshot, device="cpu")
        losses = per_token_loss(model, TEXT, progress=False)
        mean = sum(losses[s, t].item() for s in range(7) for t in range(1, 37)) / (7 * 36)
        assert trajectory.held_out_loss[point].item() == pytest.approx(mean, abs=1e-6)
        for s in range(7):
            late = sum(losses[s, t].item() for t in (28, 29, 30, 31, 32)) / 5
            early = sum(losses[s, t].item() for t in (4, 5, 6, 7, 8)) / 5
            assert trajectory.icl[point, s].item() == pytest.approx(late - early, abs=1e-5)
        assert trajectory.loss_by_position[point, 0].isnan()
        by_position = [sum(losses[s, t].item() for s in range(7)) / 7 for t in range(1, 37)]
        assert trajectory.loss_by_position[point, 1:].tolist() == pytest.approx(by_position)
        prompts = repeated_random_tokens(model, n_tokens=10, n_sequences=5, seed=0)
        expected = score_heads(
            model, tokens=prompts, text=TEXT, shuffled_null=False, progress=False
        )
        for name, scores in trajectory.scores.items():
            assert scores[point].equal(expected[name].values), name
        for method, effects in trajectory.effects.items():
            where = dict(early=6, late=30, window=2, estimator="paper")
            alone = ablate_each_head(model, TEXT[:3], method=method, progress=False, **where)
            assert effects[point].equal(alone.values), method
        assert trajectory.weights[point] == weights_hash(model)
    assert len(set(trajectory.weights)) == 4
    assert (trajectory.scores["previous_token"][-1] != trajectory.scores["previous_token"][0]).all()


def test_a_short_context_has_positions_of_its_own(run, tmp_path):
    options = {**OPTIONS, "methods": ["zero"], "early": None, "late": None, "window": 10}
    found = track(_only(run, 3), out=tmp_path, **options)
    assert (found.early, found.late, found.window) == (4, 33, 3)
    losses = per_token_loss(snapshots.load(run.snapshots[3], device="cpu"), TEXT, progress=False)
    expected = losses[:, 30:37].mean(1) - losses[:, 1:8].mean(1)
    assert torch.allclose(found.icl[0], expected, atol=1e-6)
    assert _differences(track(_only(run, 3), out=tmp_path, **options), found) == []


def test_training_loss_is_that_of_the_last_batch_before_the_snapshot(run, tracked):
    assert tracked[0].training_loss[0].isnan()
    for point, step in enumerate(STEPS[1:], start=1):
        assert tracked[0].training_loss[point] == run.losses[step - 1]


def test_smear_is_the_share_of_a_keys_own_position(run, tracked):
    for point, snapshot in enumerate(run.snapshots):
        weights = toy_weights(snapshots.load(snapshot, device="cpu"))
        for layer in range(2):
            for head in range(3):
                alpha = weights[f"blocks.{layer}.attn.smear"][head].item()
                own = tracked[0].smear[point, layer, head].item()
                assert own == pytest.approx(1 / (1 + math.exp(-alpha)), abs=1e-6)
    assert (tracked[0].smear[0] == 0.5).all()
    assert (tracked[0].smear[-1] != 0.5).all()


def test_the_induction_score_is_the_mean_over_its_prompts(tracked):
    by_prompt = tracked[0].induction_by_sequence
    assert by_prompt.shape == (4, 2, 3, 5)
    assert (by_prompt.mean(-1) - tracked[0].scores["induction"]).abs().max() < 1e-6
    assert by_prompt[-1].std(-1).min() > 1e-5


def test_token_losses_follow_the_same_tokens_through_training(run, tracked, tmp_path):
    run = _only(run, 0, 3)
    losses = [
        per_token_loss(snapshots.load(s, device="cpu"), TEXT, progress=False)[:, 1:].flatten()
        for s in run.snapshots
    ]
    every = torch.stack(losses).half().float()
    assert track(run, out=tmp_path, **{**OPTIONS, "n_examples": 999}).token_losses.equal(every)
    there = {tuple(column) for column in every.T.tolist()}
    chosen = [tuple(column) for column in tracked[0].token_losses[[0, 3]].T.tolist()]
    assert len(set(chosen)) == 11
    assert set(chosen) <= there
    other = track(run, out=tmp_path, resume=False, **OPTIONS, seed=1)
    assert {tuple(column) for column in other.token_losses.T.tolist()} != set(chosen)


def test_the_circuit_set_by_hand_scores_one(implementation, tmp_path):
    circuit = induction_circuit(implementation)
    snapshots.save(circuit, tmp_path / "circuit", step=3, tokens_seen=9)
    text = torch.cat([torch.zeros(7, 1, dtype=torch.long), TEXT[:, 1:] % 28 + 1], dim=1)
    trajectory = track(
        tmp_path / "circuit", out=tmp_path, **{**OPTIONS, "text": text, "methods": None}
    )
    assert trajectory.strongest() == Head(1, 0)
    assert trajectory.induction_by_sequence[0, 1, 0].tolist() == pytest.approx([1.0] * 5, abs=1e-4)
    assert trajectory.scores["previous_token"][0, 0, 0].item() == pytest.approx(1.0, abs=1e-4)
    assert list(trajectory.effects) == ["pattern-preserving"]
    assert trajectory.smear is None
    assert trajectory.name == "circuit"
    edges = {name: values[0] for name, values in trajectory.edges.items()}
    assert edges["k_from"][1, 0] == 0
    assert edges["k_composition"][1].nan_to_num(-1).argmax() == 0
    assert edges["k_z"][1, 0] > 5
    assert edges["matching"][1, 0].item() == pytest.approx(1, abs=0.02)
    frame = trajectory.edges_frame().set_index("head")
    assert frame.loc["1.0", "earlier"] == "0.0"
    assert frame.loc["1.0", "matching"] == pytest.approx(edges["matching"][1, 0].item())


def test_the_strongest_edges_are_those_of_each_snapshot(run, tracked):
    trajectory, _ = tracked
    assert trajectory.has_edges
    frame = trajectory.edges_frame()
    assert len(frame) == 4 * 3
    for point, snapshot in enumerate(run.snapshots):
        model = snapshots.load(snapshot, device="cpu")
        composed = composition(model)
        matched = qk_matching(model, TEXT).summed_positivity[0]
        edges = {name: values[point] for name, values in trajectory.edges.items()}
        assert all(bool(values[0].isnan().all()) for values in edges.values())
        torch.testing.assert_close(edges["matching"][1], matched[1])
        for head in range(3):
            of_head = [composed.of((0, g), (1, head), kind="K") for g in range(3)]
            best = max(of_head, key=lambda pair: pair.score)
            assert edges["k_composition"][1, head].item() == pytest.approx(best.score, abs=1e-6)
            assert edges["k_z"][1, head].item() == pytest.approx(best.z_shuffled, abs=1e-4)
            assert edges["k_from"][1, head] == best.earlier.head
            row = frame[(frame["step"] == STEPS[point]) & (frame["head"] == f"1.{head}")]
            assert row["earlier"].item() == str(best.earlier)
    assert (
        trajectory.edges["k_composition"][0, 1] != trajectory.edges["k_composition"][3, 1]
    ).all()


def test_measures_from_before_there_were_edges_are_as_they_were(run, tracked, tmp_path):
    whole = track(run, out=tmp_path, **OPTIONS)
    path = tmp_path / "points" / "step-00000002" / "measures.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("edges.")}
    save_tensors(path, kept)
    found = track(run, out=tmp_path, **OPTIONS)
    assert _differences(found, whole) == ["edges"]
    assert found.edges == {}
    assert not found.has_edges
    assert found.edges_frame().empty
    assert _differences(Trajectory.read(tmp_path), found) == []


def test_models_of_one_layer_have_no_edges(tmp_path):
    config = ToyConfig(n_layers=1, d_model=12, n_heads=3, d_vocab=31, n_ctx=41)
    snapshots.save(build_toy(config, device="cpu"), tmp_path / "run", step=0, tokens_seen=0)
    trajectory = track(tmp_path / "run", out=tmp_path, **{**OPTIONS, "methods": ["zero"]})
    assert not trajectory.has_edges
    assert trajectory.edges_frame().empty


def test_models_with_mlps_are_ablated_by_the_mean(tmp_path):
    config = ToyConfig(n_layers=1, d_model=12, n_heads=3, d_vocab=31, n_ctx=41, attn_only=False)
    snapshots.save(build_toy(config, device="cpu"), tmp_path / "run", step=0, tokens_seen=0)
    trajectory = track(tmp_path / "run", out=tmp_path, **{**OPTIONS, "methods": None})
    assert list(trajectory.effects) == ["mean"]
    assert trajectory.smear is None


def test_a_trajectory_comes_back_from_its_file(tracked, tmp_path):
    trajectory, out = tracked
    for path in (out / "trajectory.parquet", out):
        assert _differences(Trajectory.read(path), trajectory) == []
        assert Trajectory.load(path) == trajectory
        assert hash(Trajectory.load(path)) == hash(trajectory)
    assert repr(trajectory) == "Trajectory(a_run: 4 snapshots up to 666 tokens)"
    values = torch.linspace(0, 18.7, 4 * 5).view(4, 5)
    exact = Trajectory(**{**vars(trajectory), "token_losses": values, "smear": None})
    exact.save(tmp_path / "new" / "t.parquet")
    again = Trajectory.read(tmp_path / "new" / "t.parquet")
    assert _differences(again, exact) == ["token_losses"]
    assert again != exact
    assert trajectory != "a_run"
    gap = (again.token_losses - values).abs()
    assert gap.max() > 0
    assert (gap <= values * 2**-11).all()
    assert again.token_losses.dtype == torch.float32
    table = pd.read_parquet(tmp_path / "new" / "t.parquet")
    assert table["steps"].tolist() == list(STEPS)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["t.parquet"]


def test_what_is_no_trajectory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        Trajectory.read(tmp_path / "t.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="another Parquet file; write one with"):
        Trajectory.read(tmp_path / "other.parquet")
    (tmp_path / "text").write_text("not Parquet at all")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        Trajectory.read(tmp_path / "text")


def test_the_frame_has_a_row_per_snapshot(tracked):
    trajectory, _ = tracked
    frame = trajectory.to_frame()
    assert frame["step"].tolist() == list(STEPS)
    assert frame["tokens_seen"].tolist() == [0, 222, 555, 666]
    assert frame["training_loss"].isna().tolist() == [True, False, False, False]
    for point in range(4):
        icl = trajectory.icl[point].tolist()
        assert frame["icl"][point] == pytest.approx(sum(icl) / 7, abs=1e-6)
        error = np.std(icl) / math.sqrt(7)
        assert frame["icl_low"][point] == pytest.approx(sum(icl) / 7 - 1.96 * error, abs=error)
        assert frame["icl_high"][point] == pytest.approx(sum(icl) / 7 + 1.96 * error, abs=error)
    strongest = max(
        (trajectory.scores["induction"][-1, layer, head].item(), Head(layer, head))
        for layer in range(2)
        for head in range(3)
    )
    assert trajectory.strongest() == strongest[1]
    assert frame["induction"][3] == pytest.approx(strongest[0])
    column = trajectory.scores["induction"][:, strongest[1].layer, strongest[1].head]
    assert frame["induction"].tolist() == column.tolist()


@pytest.fixture
def loads(monkeypatch) -> list[int]:
    """The steps of the snapshots that are loaded."""
    steps: list[int] = []

    def counted(snapshot, **options):
        steps.append(snapshot.step)
        return snapshots.load(snapshot, **options)

    monkeypatch.setattr(moments_module, "load", counted)
    return steps


def test_what_is_measured_is_not_measured_again(run, tracked, loads, tmp_path):
    folder = run.snapshots[0].path.parent
    assert track(_only(run, 0, 1), out=tmp_path, **OPTIONS).steps.tolist() == [0, 2]
    assert loads == [0, 2]
    whole = track(folder, out=tmp_path, **OPTIONS)  # the folder of snapshots
    assert loads == [0, 2, 5, 6]
    assert _differences(whole, tracked[0]) == []
    again = track(folder.parent, out=tmp_path, **OPTIONS)  # the folder of the run
    assert loads == [0, 2, 5, 6]
    assert _differences(again, whole) == []
    track(_only(run, 1), out=tmp_path, resume=False, **OPTIONS)
    assert loads == [0, 2, 5, 6, 2]
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["step-00000002"]


KILLED = """
import sys
from tests.tracking.test_track import OPTIONS, track
track(sys.argv[1], out=sys.argv[2], **OPTIONS)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_continues_exactly(run, tracked, tmp_path):
    folder = run.snapshots[0].path.parent.parent
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(folder), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "points" / "step-00000000").is_dir():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.1))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "trajectory.parquet").exists()
    kept = tmp_path / "points" / "step-00000000" / "measures.safetensors"
    first = kept.stat().st_mtime_ns
    # as after a kill in the middle of a write
    (tmp_path / "points" / ".step-00000006.abcdefgh" / "new").mkdir(parents=True)
    (tmp_path / ".trajectory.parquet.abcdefgh").mkdir()
    resumed = track(folder, out=tmp_path, **OPTIONS)
    assert _differences(resumed, tracked[0]) == []
    written = [(path / "trajectory.parquet").read_bytes() for path in (tmp_path, tracked[1])]
    assert written[0] == written[1]
    assert kept.stat().st_mtime_ns == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["points", "trajectory.parquet"]
    assert sorted(p.name for p in (tmp_path / "points").iterdir()) == [
        f"step-{step:08d}" for step in STEPS
    ]


class _InterruptedError(Exception):
    pass


def test_points_are_whole_or_not_there(run, tracked, monkeypatch, tmp_path):
    written = []

    def broken(path, tensors):
        save_tensors(path, tensors)
        written.append(path)
        if len(written) == 2:
            raise _InterruptedError

    monkeypatch.setattr(track_module, "save_tensors", broken)
    run = _only(run, 1, 2)
    with pytest.raises(_InterruptedError):
        track(run, out=tmp_path, **OPTIONS)
    assert [p.name for p in (tmp_path / "points").iterdir()] == ["step-00000002"]
    assert track(run, out=tmp_path, **OPTIONS).icl.equal(tracked[0].icl[1:3])


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_examples", 12), ("late", 29), ("methods", ["zero"]), ("seed", 3), ("text", TEXT[:6])],
)
def test_points_made_with_other_options_are_refused(run, tracked, option, value, loads):
    before = (tracked[1] / "trajectory.parquet").stat().st_mtime_ns
    with pytest.raises(ValueError, match=rf"with another .*{option}.*resume=False"):
        track(run, out=tracked[1], **{**OPTIONS, option: value})
    assert loads == []
    assert (tracked[1] / "trajectory.parquet").stat().st_mtime_ns == before


def test_without_resume_points_are_made_anew(run, tracked, tmp_path):
    run = _only(run, 3)
    track(run, out=tmp_path, **OPTIONS)
    remade = track(run, out=tmp_path, resume=False, **{**OPTIONS, "late": 33})
    assert remade.late == 33
    assert not remade.icl[0].equal(tracked[0].icl[3])
    assert _differences(remade, Trajectory.read(tmp_path / "trajectory.parquet")) == []


def test_points_of_another_run_are_refused(tracked, tmp_path):
    other = _trained(tmp_path / "other", ToyConfig(**{**CONFIG.to_dict(), "seed": 6}))
    with pytest.raises(ValueError, match=r"measures made of this run .* another weights_file"):
        track(other, out=tracked[1], **OPTIONS)


def test_snapshots_with_the_same_weights_are_named(run, tracked, tmp_path):
    folder = tmp_path / "run" / "snapshots"
    for step, source in ((2, 1), (9, 3), (13, 1)):
        model = snapshots.load(run.snapshots[source], device="cpu")
        snapshots.save(model, folder, step=step, tokens_seen=step)
    with pytest.warns(UserWarning, match="steps 2, 13 have the same weights") as caught:
        trajectory = track(folder, out=tmp_path, **OPTIONS)
    assert len([warning for warning in caught if warning.category is UserWarning]) == 1
    assert trajectory.icl[:2].equal(tracked[0].icl[[1, 3]])
    with pytest.warns(UserWarning, match="of run at steps 2, 13"):
        track(folder, out=tmp_path, **OPTIONS)


@pytest.fixture
def few_documents(monkeypatch):
    text = "def f(x):\n    return {i}\nfor a in b:\n    print({i}, a)\n"
    documents = [text.format(i=i) for i in range(60)]
    monkeypatch.setattr(corpus, "documents", lambda *_, **__: list(documents))
    return documents


def test_text_is_drawn_alike_for_every_run_with_the_same_tokenizer(
    few_documents, tmp_path, monkeypatch
):
    config = ToyConfig(n_layers=1, d_model=12, n_heads=3, d_vocab=300, n_ctx=37)
    tokenizer = train_tokenizer(corpus.documents("train"), vocab_size=270)
    for name, seed in (("a", 0), ("b", 1)):
        changed = ToyConfig(**{**config.to_dict(), "seed": seed})
        model = build_toy(changed, device="cpu", tokenizer=tokenizer)
        for step in (0, 1):
            with torch.no_grad():
                toy_weights(model)["embed.W_E"][0, 0] += step
            snapshots.save(model, tmp_path / name, step=step, tokens_seen=0)
    options = {**OPTIONS, "text": None, "n_sequences": 5}
    a = track(tmp_path / "a", out=tmp_path / "out_a", **options)
    b = track(tmp_path / "b", out=tmp_path / "out_b", **options)
    c = track(tmp_path / "b", out=tmp_path / "out_c", **options, seed=1)
    assert a.evaluation == b.evaluation != c.evaluation
    assert (a.icl.shape, a.loss_by_position.shape) == ((2, 5), (2, 37))
    named = {**options, "text": few_documents}
    d = track(tmp_path / "a", out=tmp_path / "out_d", **named)
    assert d == a
    named["text"] = pd.DataFrame({"text": few_documents})
    assert track(tmp_path / "a", out=tmp_path / "out_d", **named) == a
    named["text"] = few_documents[1:]
    with pytest.raises(ValueError, match=r"got .* with another text"):
        track(tmp_path / "a", out=tmp_path / "out_d", **named)
    assert not a.icl.equal(b.icl)
    # another Python's source files would be another text
    monkeypatch.setattr(corpus, "documents", lambda *_, **__: ["x = 1\n" * 900])
    (tmp_path / "out_a" / "points" / "step-00000001" / "point.json").unlink()
    with pytest.raises(ValueError, match=r"text that is drawn here.*resume=False"):
        track(tmp_path / "a", out=tmp_path / "out_a", **options)


def test_points_hold_plain_tensors_and_what_they_were_made_from(run, tracked):
    point = tracked[1] / "points" / "step-00000005"
    about = json.loads((point / "point.json").read_text())
    assert about["weights_file"] == run.snapshots[2].sha256
    assert about["weights"] == tracked[0].weights[2]
    assert (about["n_sequences"], about["n_ablated"], about["late"]) == (7, 3, 30)
    assert load_file(point / "measures.safetensors")["icl"].equal(tracked[0].icl[2])


def test_what_cannot_be_tracked_is_refused(run, tmp_path):
    (tmp_path / "empty" / "snapshots").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"with snapshots, got .*empty without any; train with"):
        track(tmp_path / "empty", out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="got a run that kept none"):
        track(TrainingRun(**{**vars(run), "snapshots": ()}), out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="which does not exist"):
        track(tmp_path / "nothing", out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="n_ablated to be a whole number of at least 1, got 0"):
        track(run, out=tmp_path, **{**OPTIONS, "n_ablated": 0})
    with pytest.raises(ValueError, match="meen"):
        track(run, out=tmp_path, **{**OPTIONS, "methods": ["meen"]})
    with pytest.raises(ValueError, match="has none"):
        track(run, out=tmp_path, **{**OPTIONS, "text": None})
    for seed, step in ((1, 1), (2, 2)):
        model = build_toy(ToyConfig(**{**CONFIG.to_dict(), "seed": seed}), device="cpu")
        snapshots.save(model, tmp_path / "mixed", step=step, tokens_seen=0)
    with pytest.raises(ValueError, match="snapshots of one model, got another configuration"):
        track(tmp_path / "mixed", out=tmp_path, **OPTIONS)
    assert not (tmp_path / "points").exists()


def test_models_of_others_are_recognised(tmp_path):
    """As `Trainer` of Hugging Face leaves them: a folder of folders with a `config.json`."""
    for step in (500, 1000):
        folder = tmp_path / "hf" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        content = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 2}
        (folder / "config.json").write_text(json.dumps(content))
    message = (
        r"a snapshot that induction_lens\.train wrote, got .*checkpoint-500, a Hugging Face "
        r"model; load it with induction_lens\.load, and score it with score_heads or report"
    )
    with pytest.raises(ValueError, match=message):
        track(tmp_path / "hf" / "checkpoint-500", out=tmp_path / "out", **OPTIONS)
    message = r"got .*hf with models of .*; pass induction_lens\.suites\.suite\('.*hf', tokens_per_"
    with pytest.raises(ValueError, match=message):
        track(tmp_path / "hf", out=tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_snapshot_is_no_run(run, tmp_path):
    with pytest.raises(ValueError, match=r"a training run, got .*, the snapshot of step 2; name"):
        track(run.snapshots[1].path, out=tmp_path / "out", **OPTIONS)


FORMS = {
    "TextTokens": lambda ids: TextTokens(ids, torch.zeros_like(ids)),
    "int16": lambda ids: ids.numpy().astype(np.int16),
    "lists": lambda ids: ids.tolist(),
    "a column": lambda ids: pd.Series(ids.tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_token_ids_in_any_form_are_the_same_text(tracked, run, form, loads):
    """Nothing is measured again, because the numbers would be the same."""
    found = track(run, out=tracked[1], **{**OPTIONS, "text": FORMS[form](TEXT)})
    assert found == tracked[0]
    assert loads == []


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_sequences": 0, "text": None}, "n_sequences to be a whole number of at least 1, got 0"),
        ({"n_prompts": 2.5}, "n_prompts to be a whole number of at least 1, got 2.5"),
        ({"n_ablated": -1}, "n_ablated to be a whole number of at least 1, got -1"),
        ({"n_examples": None}, "n_examples to be a whole number of at least 1, got None"),
        ({"seed": -1}, "seed to be a whole number from 0"),
        ({"seed": "a"}, "seed to be a whole number from 0"),
        ({"methods": 3}, "methods to be a list or another sequence, got 3"),
        ({"resume": "no"}, "resume to be True or False, got 'no'"),
        ({"progress": 1}, "progress to be True or False, got 1"),
        ({"device": "gpu"}, "device"),
        ({"out": None}, "the output folder to be the path of a file or folder, got None"),
        ({"run": None}, "run to be a training run, a suite, or models as .* got None"),
        ({"run": 3}, "run to be a training run, a suite, or models as .* got 3"),
        ({"text": TEXT.float()}, r"text to be a tensor of whole numbers \[batch pos\]"),
        ({"text": TEXT[None]}, "text to be a tensor of whole numbers"),
        ({"text": TEXT + 1}, "with ids from 0 to 30, got 37 tokens with ids from 1 to 31"),
        ({"text": TEXT - 1}, "with ids from 0 to 30, got 37 tokens with ids from -1 to 29"),
        ({"text": TEXT.repeat(1, 2)}, "text of at most 41 tokens a sequence, .* got 74 tokens"),
    ],
)
def test_options_are_refused_before_any_work(run, options, message, loads, tmp_path):
    given = {"run": run, "out": tmp_path / "out", **OPTIONS, **options}
    with pytest.raises(ValueError, match=message):
        track(given.pop("run"), **given)
    assert loads == []
    assert not list(tmp_path.iterdir())


def test_text_may_be_lists_an_array_or_with_its_documents(run, tracked, tmp_path):
    forms = (TEXT.tolist(), TEXT.numpy(), TextTokens(TEXT, torch.zeros_like(TEXT)))
    for number, text in enumerate(forms):
        options = {**OPTIONS, "text": text, "methods": "zero"}
        found = track(_only(run, 0), out=tmp_path / str(number), **options)
        assert torch.equal(found.icl[0], tracked[0].icl[0])
    with pytest.raises(ValueError, match="expected a file, a folder or a text, got 'words'"):
        track(run, **{**OPTIONS, "text": "words", "out": tmp_path / "words"})
    with pytest.raises(ValueError, match="expected text to be token ids or sources of text, got"):
        track(run, **{**OPTIONS, "text": {"input_ids": TEXT}, "out": tmp_path / "words"})


def test_one_method_can_be_named_alone(run, tmp_path):
    options = {**OPTIONS, "methods": "zero"}
    assert list(track(_only(run, 0), out=tmp_path, **options).effects) == ["zero"]


def test_a_second_process_is_refused_and_harms_nothing(run, tracked, monkeypatch, tmp_path):
    refused: list[str] = []

    def second() -> None:
        try:
            track(run, out=tmp_path, **OPTIONS)
        except ValueError as error:
            refused.append(str(error))

    def slow(path, tensors):
        save_tensors(path, tensors)  # half a point is there
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    monkeypatch.setattr(track_module, "save_tensors", slow)
    found = track(_only(run, 1, 2), out=tmp_path, **OPTIONS)
    assert len(refused) == 2
    assert (
        f"{tmp_path} to be used by one process at a time, got process {os.getpid()}" in (refused[0])
    )
    assert found.icl.equal(tracked[0].icl[1:3])
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_that_vanishes_is_an_error(run, monkeypatch, tmp_path):
    out = tmp_path / "out"

    def loaded(snapshot, **options):
        if snapshot.step == 5:
            shutil.rmtree(out)
        return snapshots.load(snapshot, **options)

    monkeypatch.setattr(moments_module, "load", loaded)
    with pytest.raises(ValueError, match=r"out to stay while it is written to, got it removed"):
        track(run, out=out, **OPTIONS)
    assert not out.exists()


def test_a_trajectory_knows_what_was_clamped(tmp_path):
    clamp = Clamp(heads=["1.2", "0.1"], k_composition=True, start=1, end=4)
    model = build_toy(CONFIG, device="cpu")
    steps: dict[str, Any] = {"n_steps": 5, "snapshots": (2, 5), "warmup": 1}
    run = train(
        model, TEXT, batch_size=3, out=tmp_path / "run", clamp=clamp, progress=False, **steps
    )
    trajectory = track(run, out=tmp_path / "tracked", **OPTIONS)
    assert trajectory.clamp == (
        {"heads": ["0.1", "1.2"], "k_composition": True, "start": 1, "end": 4},
    )
    assert Trajectory.read(tmp_path / "tracked" / "trajectory.parquet").clamp == trajectory.clamp


def test_a_run_without_clamps_has_none(tracked):
    assert tracked[0].clamp == ()
