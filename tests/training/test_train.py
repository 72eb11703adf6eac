"""Training: the same numbers with and without hooks, and after an interruption."""

import json
import math
import os
import shutil
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from induction_lens import train
from induction_lens.inputs.corpus import (
    is_held_out,
    load_tokenizer,
    tokenizer_json,
    train_tokenizer,
)
from induction_lens.models import toy_weights
from induction_lens.toys import snapshots
from induction_lens.toys.model import ToyConfig, build_toy, set_weights
from induction_lens.training import cards, presets
from induction_lens.training import optimizers as optimization
from induction_lens.training.loop import snapshot_steps
from induction_lens.training.presets import PHASE_PRESETS, PRESETS, Preset, train_preset
from induction_lens.training.run_folder import CHECKPOINT
from tests.test_progress import _terminal

CONFIG = ToyConfig(
    n_layers=2, d_model=16, n_heads=2, d_vocab=31, n_ctx=13, smeared_keys=True, attn_only=False
)
OPTIONS: dict[str, Any] = {"n_steps": 12, "batch_size": 4, "warmup": 2, "progress": False}


def _toy(implementation=None, config: ToyConfig = CONFIG):
    return build_toy(config, implementation=implementation, device="cpu")


def _data(n: int = 20) -> torch.Tensor:
    """Counting upwards from anywhere: easy to learn."""
    start = torch.randint(31, (n, 1), generator=torch.Generator().manual_seed(5))
    return (start + torch.arange(13)) % 31


def _weights(model):
    return {name: w.detach().clone() for name, w in toy_weights(model).items()}


def _same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize(("optimizer", "gap"), [("muon", 5e-4), ("adamw", 1e-4)])
def test_fused_and_hooked_training_agree(implementation, optimizer, gap):
    # Low rates: optimizers that divide by the gradient's size also magnify rounding.
    rates: dict[str, Any] = {"learning_rate": 1e-3, "muon_learning_rate": 2e-3}
    hooked, fused = (
        train(_toy(implementation), _data(), fused=fused, optimizer=optimizer, **OPTIONS, **rates)
        for fused in (False, True)
    )
    assert (hooked.losses - fused.losses).abs().max() < gap
    assert hooked.losses[-1] < hooked.losses[0] - 0.02


def test_fused_training_agrees_for_a_hundred_steps(implementation):
    rates: dict[str, Any] = {"learning_rate": 1e-3, "optimizer": "adamw"}
    hooked, fused = (
        train(_toy(implementation), _data(), fused=fused, **{**OPTIONS, "n_steps": 100}, **rates)
        for fused in (False, True)
    )
    assert (hooked.losses - fused.losses).abs().max() < 1e-4
    assert hooked.losses[-1] < hooked.losses[0] - 0.5


def test_training_learns(implementation):
    run = train(_toy(implementation), _data(), **{**OPTIONS, "n_steps": 60})
    assert abs(run.losses[0].item() - math.log(31)) < 0.6
    assert run.losses[-1] < 1.0
    assert run.tokens_seen == 60 * 4 * 13
    assert run.tokens_per_second > 0


def test_both_classes_train_alike(implementation):
    bridge = train(_toy("bridge"), _data(), **OPTIONS)
    other = train(_toy(implementation), _data(), **OPTIONS)
    assert (bridge.losses - other.losses).abs().max() < 5e-3


def test_adamw_follows_torch(implementation):
    """Three steps against torch's own AdamW on the model's own parameters."""
    model, reference = _toy(implementation), _toy(implementation)
    data = _data(12)
    own = torch.optim.AdamW(
        [p for p in reference.parameters() if p.requires_grad],
        lr=1.0,
        betas=(0.9, 0.95),
        weight_decay=0.1,
    )
    rates = [0.01 * factor for factor in (1 / 2, 1, 2 / 3)]  # warm-up of 2; decay over 1.5 steps
    losses = []
    for step, rate in enumerate(rates):
        batch = data[4 * step : 4 * step + 4]
        logits = reference(batch)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        own.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        own.param_groups[0]["lr"] = rate
        own.step()
        losses.append(loss.item())
    run = train(
        model,
        lambda step: data[4 * step : 4 * step + 4],
        n_steps=3,
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.1,
        warmup=2,
        decay=0.5,
        clip=0.5,
        progress=False,
    )
    assert run.losses.tolist() == pytest.approx(losses, abs=1e-5)
    for name, weight in toy_weights(reference).items():
        assert torch.allclose(toy_weights(model)[name], weight, atol=2e-4), name


def test_muon_moves_the_projection_of_all_heads_as_one_matrix(implementation):
    """One step of Muon turns the gradient into a nearly orthogonal matrix of the rate's size."""
    model = _toy(implementation, ToyConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=31, n_ctx=13))
    before = _weights(model)
    train(
        model,
        _data(4),
        n_steps=1,
        batch_size=4,
        warmup=1,
        muon_learning_rate=0.5,
        learning_rate=0.0,
        progress=False,
    )
    after = _weights(model)
    moved = after["blocks.0.attn.W_O"] - before["blocks.0.attn.W_O"]
    singular = torch.linalg.svdvals(moved.flatten(0, 1)) / 0.5
    assert singular[:-1].min() > 0.5  # layer norm leaves one direction of the output without use
    assert singular.max() < 1.5
    for name in ("embed.W_E", "unembed.W_U", "blocks.0.attn.b_V"):
        assert after[name].equal(before[name]), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_muon_is_the_one_of_torch_up_to_the_rounding_of_bfloat16(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    by_ours = optimization._Muon([ours], 0.02)
    by_torch = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.0)
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        by_ours.step()
        by_torch.step()
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved
    [state] = by_torch.state.values()
    assert by_ours.state[ours]["momentum_buffer"].equal(state["momentum_buffer"])


def test_muon_keeps_the_singular_vectors_and_makes_the_singular_values_alike():
    """The exact function: five times the polynomial, on each singular value by itself."""
    matrix = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ values.diag() @ right
    assert (optimization._orthogonalised(matrix) - expected).abs().max() < 1e-5


def test_micro_batches_change_nothing_but_memory():
    whole = train(_toy(), _data(), **OPTIONS)
    pieces = train(_toy(), _data(), micro_batch=3, **OPTIONS)
    assert (whole.losses - pieces.losses)[:2].abs().max() < 5e-5
    assert (whole.losses - pieces.losses).abs().max() < 5e-3  # the optimizers magnify rounding


def test_clipping_bounds_the_gradient(monkeypatch):
    options = {**OPTIONS, "n_steps": 1}
    norms = []
    update = optimization.Optimization.update

    def spy(self, model, rate):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        update(self, model, rate)

    monkeypatch.setattr(optimization.Optimization, "update", spy)
    for clip in (None, 0.01):
        train(_toy(), _data(), clip=clip, **options)
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_is_used_when_asked_for():
    exact = train(_toy(), _data(), **OPTIONS)
    mixed = train(_toy(), _data(), mixed_precision=True, **OPTIONS)
    gap = (exact.losses - mixed.losses).abs()
    assert 1e-6 < gap[0] < 0.05
    assert gap.max() < 0.5


class _InterruptedError(Exception):
    pass


@pytest.mark.parametrize("error", [_InterruptedError, KeyboardInterrupt])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_an_interrupted_run_continues_exactly(implementation, optimizer, error, tmp_path):
    data, options = _data(), {**OPTIONS, "optimizer": optimizer, "checkpoint_every": 3}
    straight = train(_toy(implementation), data, out=tmp_path / "a", **options)
    draw = train_module()._batch_source(data, CONFIG, batch_size=4, seed=0)

    def broken(step: int) -> torch.Tensor:
        if step == 8:  # two steps after the last checkpoint
            raise error
        return draw(step)

    with pytest.raises(error):
        train(_toy(implementation), broken, out=tmp_path / "b", **options)
    assert not list(tmp_path.rglob(".*"))
    resumed = train(
        # Other weights to begin with: all must come from the checkpoint.
        build_and_zero(implementation),
        data,
        out=tmp_path / "b",
        **options,
    )
    assert _same(_weights(straight.model), _weights(resumed.model))
    assert resumed.losses.equal(straight.losses)
    assert resumed.tokens_seen == straight.tokens_seen == 12 * 4 * 13
    assert [s.sha256 for s in resumed.snapshots] == [s.sha256 for s in straight.snapshots]
    finished = train(_toy(implementation), data, out=tmp_path / "b", **options)
    assert _same(_weights(straight.model), _weights(finished.model))
    assert math.isnan(finished.tokens_per_second)


def train_module():
    import importlib

    return importlib.import_module("induction_lens.training.loop")


def build_and_zero(implementation):
    model = _toy(implementation)
    set_weights(model, {name: torch.zeros_like(w) for name, w in toy_weights(model).items()})
    return model


def test_resume_refuses_another_run_and_a_damaged_checkpoint(tmp_path):
    train(_toy(), _data(), out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="with another learning_rates, seed; use another folder"):
        train(_toy(), _data(), out=tmp_path, seed=1, learning_rate=1e-3, **OPTIONS)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors .* is damaged"):
        train(_toy(), _data(), out=tmp_path, **OPTIONS)
    again = train(_toy(), _data(), out=tmp_path, resume=False, snapshots=[5], **OPTIONS)
    assert [s.step for s in again.snapshots] == [5]
    assert len(again.losses) == 12


def test_snapshots_hold_the_weights_of_their_step(tmp_path):
    run = train(_toy(), _data(), out=tmp_path, snapshots=[0, 7, 12], **OPTIONS)
    assert [s.step for s in run.snapshots] == [0, 7, 12]
    assert [s.tokens_seen for s in run.snapshots] == [0, 7 * 52, 12 * 52]
    assert run.snapshots[1].extra["loss"] == pytest.approx(run.losses[6].item())
    first, _, last = (snapshots.load(s, device="cpu") for s in run.snapshots)
    assert _same(_weights(first), _weights(_toy()))
    assert _same(_weights(last), _weights(run.model))
    nothing = train(_toy(), _data(), out=tmp_path / "none", snapshots=[], **OPTIONS)
    assert nothing.snapshots == ()


def test_snapshot_steps_are_logarithmic_then_linear():
    steps = snapshot_steps(4000, n=20)
    assert steps == (0, 1, 2, 4, 7, 14, 28, 54, 106, 206, *range(400, 4001, 400))
    assert snapshot_steps(5) == (0, 1, 2, 3, 4, 5)
    dense_late = (0, 1, 5, 22, 100, *range(200, 1601, 100))
    assert snapshot_steps(1600, n=20, early=4) == dense_late
    with pytest.raises(ValueError, match="2 of them early and 2 late, got 20 and 19 early"):
        snapshot_steps(1600, n=20, early=19)
    with pytest.raises(ValueError, match=r"at least 4 snapshots, .*got 3 and 1 early"):
        snapshot_steps(100, n=3)


def test_every_epoch_has_every_sequence_once_in_a_new_order():
    data = torch.arange(24).view(12, 2)
    draw = train_module()._batch_source(data, CONFIG, batch_size=4, seed=0)
    epochs = [torch.cat([draw(3 * epoch + i) for i in range(3)])[:, 0] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == data[:, 0].tolist()
    assert not epochs[0].equal(epochs[1])
    assert torch.cat([draw(i) for i in range(3)])[:, 0].equal(epochs[0])
    other = train_module()._batch_source(data, CONFIG, batch_size=4, seed=1)
    assert not other(0).equal(draw(0))


def test_the_rate_rises_stays_and_falls():
    rates = [train_module()._rate(step, 100, warmup=10, decay=0.4) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert rates[80] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 40)


def test_the_bar_shows_loss_and_speed_on_a_terminal(capsys, monkeypatch):
    train(_toy(), _data(), **{**OPTIONS, "progress": True})
    assert capsys.readouterr() == ("", "")
    terminal = _terminal(monkeypatch)
    train(_toy(), _data(), **{**OPTIONS, "progress": True})
    shown = terminal.getvalue()
    assert "12/12" in shown
    assert "tokens/s" in shown
    assert "nats" in shown


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least batch_size=16 sequences, got 3"):
        train(_toy(), _data(3), n_steps=2)
    with pytest.raises(ValueError, match="n_steps to be a whole number of at least 1, got 0"):
        train(_toy(), _data(), n_steps=0)
    with pytest.raises(ValueError, match="expected a toy model, got Linear"):
        train(torch.nn.Linear(2, 2), _data(), n_steps=1)
    with pytest.raises(ValueError, match="expected optimizer to be one of muon, adamw, got 'sgd'"):
        optimization.start(_toy(), "sgd", 0.1, 0.1, 0.0)
    model = _toy()
    with torch.no_grad():
        toy_weights(model)["unembed.W_U"][0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss became nan at step 0; lower the rates"):
        train(model, _data(), **OPTIONS)


@pytest.fixture
def source(tmp_path):
    """A folder of training files, and a preset small enough to train on it."""
    names = [name for name in (f"file_{i}.py" for i in range(60)) if not is_held_out(name)]
    for i, name in enumerate(names):
        lines = "".join(f"value_{i}_{j} = compute(value_{i}_{j - 1})\n" for j in range(60))
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_text(lines)
    return tmp_path / "source"


@pytest.fixture
def tiny(monkeypatch):
    config = ToyConfig(n_layers=1, d_model=8, n_heads=1, d_vocab=300, n_ctx=512)
    monkeypatch.setitem(PRESETS, "tiny", Preset(config, "tiny", n_tokens=3 * 4 * 512, batch_size=4))
    # The card measures the standard library's held-out text; a short one is enough here.
    text, short = cards.sample_text, ["held_out = compute(value)\n" * 900]
    monkeypatch.setattr(
        cards,
        "sample_text",
        lambda model, **options: text(model, source=short, **options | {"n_sequences": 8}),
    )


def test_a_preset_trains_from_source_alone_and_continues(tiny, source, tmp_path):
    out = tmp_path / "out"
    run = train_preset("tiny", out, roots=[source], progress=False, device="cpu", seed=3)
    assert (run.n_steps, run.tokens_seen) == (3, 3 * 4 * 512)
    loaded = snapshots.load(out / "model", device="cpu")
    assert _same(_weights(loaded), _weights(run.model))
    assert loaded.toy_config.seed == 3
    learned = loaded.tokenizer("value_1_2 = compute").input_ids
    assert len(learned) < 12  # words of the source, not bytes
    card = json.loads((out / "model" / "card.json").read_text())
    assert card["training_tokens"] == 6144
    assert card["parameters"] == 2 * 300 * 8 + 4 * 64 + 4 * 8
    assert card["icl_low"] <= card["icl_score"] <= card["icl_high"]
    tokens = cards.sample_text(loaded, seq_len=512).tokens
    log_probs = loaded(tokens).log_softmax(-1)
    late = -log_probs[:, 489:510].gather(-1, tokens[:, 490:511, None]).mean()
    cut = torch.cat([tokens[:, :1], tokens[:, 451:511]], dim=1)  # position 500 is at 50 there
    early = -loaded(cut).log_softmax(-1)[:, 39:60].gather(-1, cut[:, 40:61, None]).mean()
    assert card["icl_score"] == pytest.approx((late - early).item(), abs=1e-5)
    losses = [run.losses[0].item(), math.log(300)]
    assert card["held_out_loss"] == pytest.approx(sum(losses) / 2, abs=0.5)
    again = train_preset("tiny", out, roots=[tmp_path / "none"], progress=False, seed=3)
    assert again.losses.equal(run.losses)


def test_a_preset_with_prose_trains_on_both_kinds(tiny, source, monkeypatch, tmp_path):
    pages = [name for name in (f"page_{i}.md" for i in range(40)) if not is_held_out(name)]
    sentence = "There is nothing but words. "
    for i, name in enumerate(pages):
        (source / name).write_text(f"Page {i}. " + sentence * 30)
    _, code = presets.prepare_text("tiny", tmp_path / "text", roots=[source])
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], prose=0.4))
    # text of another share of prose is not what this preset trains on
    tokenizer, tokens = presets.prepare_text("tiny", tmp_path / "text", roots=[source])
    text = tokenizer.decode(tokens.flatten().tolist())
    assert "nothing but" not in tokenizer.decode(code.flatten().tolist())
    assert 0.3 < text.count(sentence) * len(sentence) / len(text) < 0.5
    options: dict[str, Any] = {"text": tmp_path / "text", "progress": False, "device": "cpu"}
    out = tmp_path / "out"
    train_preset("tiny", out, roots=[tmp_path / "none"], **options)  # the text is there already
    card = json.loads((out / "model" / "card.json").read_text())
    assert card["training_text"].endswith("and, for 40% of the characters, their documentation")


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_prose_comes_in_turns_and_ends_with_the_first_kind_that_is_used_up(share):
    code, prose = ["c" * 100] * 30, ["p" * 40] * 10
    texts = presets._interleaved(code, prose, share=share)
    lengths = {"c": 0, "p": 0}
    for text in texts:
        lengths[text[0]] += len(text)
        # Any part has the share, but for less than one document.
        assert abs(lengths["p"] - share * sum(lengths.values())) <= 100
    assert (lengths["c"], lengths["p"]) == {0.2: (1700, 400), 0.5: (500, 400)}[share]


def test_a_preset_takes_a_tokenizer(tiny, source, tmp_path):
    tokenizer = train_tokenizer(["unlike the source " * 99], vocab_size=280)
    train_preset(
        "tiny", tmp_path, roots=[source], tokenizer=tokenizer, n_tokens=2048, progress=False
    )
    kept = load_tokenizer(tmp_path / "tokenizer.json")
    assert kept.get_vocab() == tokenizer.get_vocab()


def test_runs_share_text_whatever_their_seed(tiny, source, tmp_path):
    text = tmp_path / "text"
    options: dict[str, Any] = {"text": text, "progress": False, "device": "cpu"}
    train_preset("tiny", tmp_path / "0", roots=[source], **options)
    files = {path.name: path.read_bytes() for path in text.iterdir()}
    assert files.keys() == {"tokens.safetensors", "tokenizer.json"}
    nowhere = [tmp_path / "none"]  # what is shared is not read again
    other = train_preset("tiny", tmp_path / "1", roots=nowhere, seed=1, **options)
    assert {path.name: path.read_bytes() for path in text.iterdir()} == files
    assert not (tmp_path / "1" / "tokens.safetensors").exists()
    assert other.model.toy_config.seed == 1
    assert other.model.tokenizer.get_vocab() == load_tokenizer(text / "tokenizer.json").get_vocab()


def test_runs_over_the_phase_change_differ_in_the_model_alone():
    recipes = {(p.n_tokens, p.batch_size) for p in PHASE_PRESETS.values()}
    assert recipes == {(9_000_000, 8)}
    varied = {"n_layers", "smeared_keys", "attn_only", "d_mlp", "d_model", "n_heads"}
    fixed = [
        {name: value for name, value in preset.config.to_dict().items() if name not in varied}
        for preset in PHASE_PRESETS.values()
    ]
    assert all(config == fixed[0] for config in fixed)
    widths = {(p.config.d_model, p.config.n_heads, p.config.d_head) for p in PHASE_PRESETS.values()}
    assert widths == {(128, 4, 32), (256, 8, 32)}
    assert [name for name, preset in PHASE_PRESETS.items() if preset.clamp] == ["phase-2l-clamped"]


def test_presets_refuse_what_cannot_be(tiny, source, tmp_path):
    with pytest.raises(ValueError, match=r"one of toy-2l, toy-4l, toy-1l, .*, got 'toy-9l'"):
        train_preset("toy-9l", tmp_path)
    with pytest.raises(ValueError, match="expected text for 5860 sequences of 512 tokens"):
        train_preset("tiny", tmp_path, roots=[source], n_tokens=3_000_000)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 2.0}, "n_steps to be a whole number of at least 1, got 2.0"),
        ({"n_steps": True}, "n_steps to be a whole number of at least 1, got True"),
        ({"batch_size": 0}, "batch_size to be a whole number of at least 1, got 0"),
        ({"clip": -1}, "clip to be a finite number above 0, got -1"),
        ({"clip": 0}, "clip to be a finite number above 0, got 0"),
        ({"clip": math.nan}, "clip to be a finite number above 0, got nan"),
        ({"warmup": math.nan}, "warmup to be a whole number of at least 0, got nan"),
        ({"warmup": -1}, "warmup to be a whole number of at least 0, got -1"),
        ({"decay": 1.5}, "decay to be a finite number of at least 0 and of at most 1, got 1.5"),
        ({"decay": "a"}, "decay to be a finite number"),
        ({"learning_rate": -1e-3}, "learning_rate to be a finite number of at least 0, got -0.001"),
        ({"muon_learning_rate": math.inf}, "muon_learning_rate to be a finite number"),
        ({"weight_decay": None}, "weight_decay to be a finite number of at least 0, got None"),
        ({"micro_batch": 0}, "micro_batch to be a whole number of at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every to be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed to be a whole number from 0"),
        ({"seed": "a"}, "seed to be a whole number from 0"),
        ({"fused": "no"}, "fused to be True or False, got 'no'"),
        ({"resume": 1}, "resume to be True or False, got 1"),
        ({"progress": None}, "progress to be True or False, got None"),
        ({"mixed_precision": "bf16"}, "mixed_precision to be True or False, got 'bf16'"),
        ({"snapshots": [-1, 2.5]}, "each step in snapshots to be a whole number from 0 to 12"),
        ({"snapshots": [2.5]}, "each step in snapshots to be a whole number from 0 to 12, got 2.5"),
        ({"snapshots": [13]}, "each step in snapshots to be a whole number from 0 to 12, got 13"),
        ({"snapshots": 5}, "snapshots to be a list or another sequence, got 5"),
        ({"snapshots": "all"}, "snapshots to be a list or another sequence, got 'all'"),
        ({"optimizer": ["adamw"]}, r"one of muon, adamw, got \['adamw'\]"),
        ({"out": 3}, "the output folder to be the path of a file or folder, got 3"),
        ({"out": ""}, "the output folder to be the path of a file or folder, got ''"),
    ],
)
def test_options_out_of_range_are_refused(options, message, tmp_path):
    model = _toy()
    before = _weights(model)
    with pytest.raises(ValueError, match=message):
        train(model, _data(), **{**OPTIONS, "out": tmp_path / "out", **options})
    assert _same(before, _weights(model))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (_data().float(), r"a tensor of whole numbers \[sequence pos\], got a Tensor of torch.fl"),
        (_data() > 5, "a tensor of whole numbers"),
        (_data()[0], "a tensor of whole numbers"),
        (_data()[:0], "a tensor of whole numbers"),
        (_data()[:, :1], "sequences of 2 to n_ctx=13 tokens, got 1"),
        (torch.cat([_data(), _data()], dim=1), "sequences of 2 to n_ctx=13 tokens, got 26"),
        (_data() + 1, "token ids from 0 to 30, got 1 to 31"),
        (_data() - 1, "token ids from 0 to 30, got -1 to 29"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(batches, message):
    for name, given in (("batches", batches), ("the batch of step 0", lambda step: batches)):
        with pytest.raises(ValueError, match=f"expected {name} to .*{message}"):
            train(_toy(), given, **OPTIONS)
    for given in (3, None, "text", [[1, 2]]):
        with pytest.raises(ValueError, match="batches to be a tensor of tokens or a function"):
            train(_toy(), given, **OPTIONS)


def _functions(*datas: torch.Tensor):
    return [train_module()._batch_source(data, CONFIG, batch_size=4, seed=0) for data in datas]


def test_a_run_is_not_continued_with_other_data(tmp_path):
    options = {**OPTIONS, "checkpoint_every": 5}
    data, other = _data(), _data()
    other[7, 3] = (other[7, 3] + 1) % 31  # one token of 260
    ours, theirs = _functions(data, data.flip(0))
    whole = train(_toy(), data, out=tmp_path / "tensor", **options)
    train(_toy(), ours, out=tmp_path / "function", **options)
    refused = r"the batches that .*checkpoint.* was trained on, got others; use another"
    for name in ("tensor", "function"):
        for batches in (other, theirs):
            with pytest.raises(ValueError, match=refused):
                train(_toy(), batches, out=tmp_path / name, **options)
        for batches in (data, ours):
            again = train(_toy(), batches, out=tmp_path / name, **options)
            assert again.losses.equal(whole.losses)
            assert _same(_weights(again.model), _weights(whole.model))
    fresh = train(_toy(), other, out=tmp_path / "tensor", resume=False, **options)
    assert not fresh.losses.equal(whole.losses)


def test_a_checkpoint_without_digests_continues_and_gets_them(tmp_path):
    options = {**OPTIONS, "checkpoint_every": 4}
    whole = train(_toy(), _data(), out=tmp_path / "whole", **options)
    with pytest.raises(_InterruptedError):
        train(_toy(), _until(9), out=tmp_path / "old", **options)
    file = tmp_path / "old" / CHECKPOINT
    tensors, about = optimization.read_checkpoint(file)
    del tensors["batches"]
    metadata = {name: json.dumps(about[name]) for name in ("settings", "tokens_seen")}
    save_file(tensors, file, metadata=metadata)
    resumed = train(_toy(), _data(), out=tmp_path / "old", **options)
    assert _same(_weights(resumed.model), _weights(whole.model))
    with pytest.raises(ValueError, match="got others; use another folder"):
        train(_toy(), _data().flip(0), out=tmp_path / "old", **options)


def _until(end: int):
    [draw] = _functions(_data())

    def batches(step: int) -> torch.Tensor:
        if step == end:
            raise _InterruptedError
        return draw(step)

    return batches


def test_one_process_trains_in_a_folder(tmp_path):
    [draw] = _functions(_data())
    refused: list[str] = []

    def second() -> None:
        try:
            train(_toy(), _data(), out=tmp_path, **OPTIONS)
        except ValueError as error:
            refused.append(str(error))

    def batches(step: int) -> torch.Tensor:
        if step == 6:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        return draw(step)

    run = train(_toy(), batches, out=tmp_path, **OPTIONS)
    assert len(refused) == 1
    assert (
        f"{tmp_path} to be used by one process at a time, got process {os.getpid()} on"
        in (refused[0])
    )
    assert run.losses.equal(train(_toy(), _data(), **OPTIONS).losses)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_an_error_at_the_next_write(replaced, tmp_path):
    [draw] = _functions(_data())
    out = tmp_path / "run"

    def batches(step: int) -> torch.Tensor:
        if step == 6:
            shutil.rmtree(out)
            if replaced:
                out.mkdir()
        return draw(step)

    with pytest.raises(ValueError, match=r"run to stay while it is written to, got it removed"):
        train(_toy(), batches, out=out, snapshots=[0, 4, 9], **OPTIONS)
    assert out.exists() == replaced
    assert not replaced or not list(out.iterdir())


def test_snapshots_that_are_missing_are_named(tmp_path):
    options = {**OPTIONS, "checkpoint_every": 3}
    with pytest.raises(_InterruptedError):
        train(_toy(), _until(8), out=tmp_path, snapshots=[0, 2, 4, 9], **options)
    shutil.rmtree(tmp_path / "snapshots" / "step-00000002")
    with pytest.raises(ValueError, match=r"at all steps that were asked for, .* without 2; ask"):
        train(_toy(), _data(), out=tmp_path, snapshots=[0, 2, 4, 9], **options)
    run = train(_toy(), _data(), out=tmp_path, snapshots=[0, 4, 9], **options)
    assert [snapshot.step for snapshot in run.snapshots] == [0, 4, 9]
    [draw] = _functions(_data())

    def batches(step: int) -> torch.Tensor:
        if step == 10:
            shutil.rmtree(tmp_path / "again" / "snapshots" / "step-00000004")
        return draw(step)

    with pytest.raises(ValueError, match="without 4; ask for those that are there"):
        train(_toy(), batches, out=tmp_path / "again", snapshots=[0, 4, 9], **options)


def test_what_a_killed_run_left_is_gone_after_the_next(tmp_path):
    options = {**OPTIONS, "snapshots": [0, 5, 12]}
    whole = train(_toy(), _data(), out=tmp_path, **options)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    os.replace(tmp_path / "snapshots/step-00000005", tmp_path / "snapshots/.step-00000005.old")
    for left in (".step-00000005.new", ".step-00000007.trash", ".step-00000003.abcdefgh"):
        (tmp_path / "snapshots" / left / "new").mkdir(parents=True)
    (tmp_path / ".checkpoint.safetensors.new").mkdir()
    (tmp_path / ".training.lock").write_text("{}")
    again = train(_toy(), _data(), out=tmp_path, **options)
    assert [s.sha256 for s in again.snapshots] == [s.sha256 for s in whole.snapshots]
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == names


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "n_steps to be a whole number of at least 1, got 0"),
        ((100.0,), {}, "n_steps to be a whole number of at least 1, got 100.0"),
        ((100, 8.0), {}, "n to be a whole number, got 8.0"),
        ((100, 8), {"early": "a"}, "early to be a whole number, got 'a'"),
    ],
)
def test_schedules_of_what_is_no_number_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        snapshot_steps(*arguments, **options)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tokens": 0}, "n_tokens to be a whole number of at least 1, got 0"),
        ({"n_tokens": 1e6}, "n_tokens to be a whole number of at least 1"),
        ({"seed": -1}, "seed to be a whole number from 0"),
        ({"resume": "yes"}, "resume to be True or False, got 'yes'"),
        ({"progress": 2}, "progress to be True or False, got 2"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_presets_check_options_before_the_text_is_made(options, message, tiny, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_preset("tiny", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_text_beside_another_tokenizer_is_refused(tiny, source, tmp_path):
    text, options = tmp_path / "text", {"progress": False, "device": "cpu"}
    train_preset("tiny", tmp_path / "0", roots=[source], text=text, **options)
    loaded = snapshots.load(tmp_path / "0" / "model")  # the text is elsewhere
    assert loaded.tokenizer.get_vocab() == load_tokenizer(text / "tokenizer.json").get_vocab()
    other = train_tokenizer(["unlike the source " * 99], vocab_size=280)
    (text / "tokenizer.json").write_text(tokenizer_json(other))
    with pytest.raises(ValueError, match=r"the tokenizer that .*tokens.safetensors was made with"):
        train_preset("tiny", tmp_path / "1", text=text, **options)
