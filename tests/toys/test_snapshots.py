"""Snapshots come back as the same model, or not at all."""

from pathlib import Path

import pytest
import torch

from induction_lens import models
from induction_lens.files import atomic_folder, atomic_path, sha256
from induction_lens.inputs.corpus import train_tokenizer
from induction_lens.models import toy_weights
from induction_lens.seals import read_json, write_json
from induction_lens.toys import snapshots
from induction_lens.toys.model import ToyConfig, build_toy

CONFIG = ToyConfig(
    n_layers=2,
    d_model=12,
    n_heads=3,
    d_vocab=300,
    n_ctx=17,
    smeared_keys=True,
    attn_only=False,
    smear_init=0.7,
)
TOKENS = torch.arange(34).view(2, 17)


@pytest.fixture
def model(implementation):
    return build_toy(CONFIG, implementation=implementation, device="cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x\n" * 9], vocab_size=270)


def test_rounded_weights_are_written_in_their_type_and_others_refused(model, tmp_path):
    options = {"step": 1, "tokens_seen": 2, "dtype": torch.float16}
    with pytest.raises(ValueError, match=r"holds exactly, got others in .*; call round_weights"):
        snapshots.write_snapshot(model, tmp_path / "exact", **options)
    assert not (tmp_path / "exact").exists()
    exact = {name: weight.clone() for name, weight in toy_weights(model).items()}
    snapshots.round_weights(model, torch.float16)
    rounded = {name: weight.clone() for name, weight in toy_weights(model).items()}
    for name, weight in exact.items():
        assert torch.equal(rounded[name], weight.half().float())
    assert any(not torch.equal(rounded[name], weight) for name, weight in exact.items())
    snapshots.write_snapshot(model, tmp_path / "half", **options)
    snapshots.write_snapshot(model, tmp_path / "whole", step=1, tokens_seen=2)
    sizes = [(tmp_path / name / snapshots.WEIGHTS).stat().st_size for name in ("half", "whole")]
    n_weights = sum(weight.numel() for weight in rounded.values())
    assert sizes[1] - sizes[0] == pytest.approx(2 * n_weights, rel=0.05)
    again = toy_weights(snapshots.load(tmp_path / "half", device="cpu"))
    assert all(weight.dtype == torch.float32 for weight in again.values())
    assert all(torch.equal(again[name], weight) for name, weight in rounded.items())


def test_a_snapshot_comes_back_the_same_in_every_class(model, implementation, tmp_path):
    saved = snapshots.save(model, tmp_path, step=7, tokens_seen=119, extra={"loss": 2.5})
    assert (saved.step, saved.tokens_seen, saved.extra) == (7, 119, {"loss": 2.5})
    assert saved.config == CONFIG
    assert saved.path == tmp_path / "step-00000007"
    for again in (
        snapshots.load(saved.path, device="cpu"),  # HookedTransformer, where there is one
        snapshots.load(saved, implementation="bridge", device="cpu"),
    ):
        assert again.toy_config == CONFIG
        assert again.tokenizer is None
        assert models.weights_hash(again) == models.weights_hash(model)
        assert (again(TOKENS) - model(TOKENS)).abs().max() < 1e-5
    before = models.weights_hash(model)
    with torch.no_grad():
        toy_weights(model)["blocks.1.attn.smear"][2] += 1e-3
    assert models.weights_hash(model) != before


def test_snapshots_are_listed_by_step_and_replaced(model, tmp_path):
    for step in (20, 3, 100):
        snapshots.save(model, tmp_path, step=step, tokens_seen=step * 10)
    with torch.no_grad():
        toy_weights(model)["embed.W_E"][0, 0] = 5.0
    snapshots.save(model, tmp_path, step=20, tokens_seen=201)
    listed = snapshots.list_snapshots(tmp_path)
    assert [(s.step, s.tokens_seen) for s in listed] == [(3, 30), (20, 201), (100, 1000)]
    assert listed[0].sha256 == listed[2].sha256 != listed[1].sha256
    loaded = snapshots.load(listed[1], device="cpu")
    assert toy_weights(loaded)["embed.W_E"][0, 0] == 5.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [s.path.name for s in listed]


def test_the_tokenizer_is_kept_once_for_all_snapshots(implementation, tokenizer, tmp_path):
    model = build_toy(CONFIG, implementation=implementation, device="cpu", tokenizer=tokenizer)
    folder = tmp_path / "run" / "snapshots"
    for step in (1, 2):
        snapshots.save(model, folder, step=step, tokens_seen=0)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("tokenizer.json")] == [
        Path("run/snapshots/tokenizer.json")
    ]
    loaded = snapshots.load(folder / "step-00000002", device="cpu")
    assert loaded.tokenizer("def f(x)").input_ids == tokenizer("def f(x)").input_ids


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_weights_are_refused(damage, tmp_path):
    model = build_toy(CONFIG, device="cpu")
    saved = snapshots.save(model, tmp_path, step=1, tokens_seen=0)
    file = saved.path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:-100])
    else:
        content[-1] ^= 1
        file.write_bytes(content)
    message = "does not exist" if damage == "missing" else "truncated or altered"
    with pytest.raises(ValueError, match=rf"weights\.safetensors.*{message}.*train or copy"):
        snapshots.load(saved, device="cpu")


def test_what_is_no_safetensors_is_refused(tmp_path):
    saved = snapshots.save(build_toy(CONFIG, device="cpu"), tmp_path, step=1, tokens_seen=0)
    file = saved.path / "weights.safetensors"
    file.write_bytes(b"not weights")
    config = read_json(saved.path / "config.json", remedy="")
    write_json(saved.path / "config.json", {**config, "sha256": sha256(file)})
    with pytest.raises(ValueError, match="expected safetensors in"):
        snapshots.load(saved.path, device="cpu")


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"n_layers": 9}}', "[]"])
def test_damaged_configurations_are_refused(content, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json, which is damaged"):
        snapshots.list_snapshots(tmp_path)


def test_folders_without_snapshots_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a snapshot folder"):
        snapshots.load(tmp_path)
    with pytest.raises(ValueError, match="which does not exist"):
        snapshots.list_snapshots(tmp_path / "none")
    assert snapshots.list_snapshots(tmp_path) == []
    with pytest.raises(ValueError, match="expected a toy model"):
        snapshots.save(torch.nn.Linear(2, 3), tmp_path, step=0, tokens_seen=0)
    assert list(tmp_path.iterdir()) == []


def _break_off_a_file(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("thr")
        raise RuntimeError


def _break_off_a_folder(path: Path) -> None:
    with atomic_folder(path) as fresh:
        (fresh / "three").write_text("thr")
        raise RuntimeError


def test_files_are_whole_or_not_there(tmp_path):
    file, folder = tmp_path / "deep" / "file", tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_path(file) as temporary:
            temporary.write_text(content)
        with atomic_folder(folder) as fresh:
            (fresh / content).write_text(content)
    with pytest.raises(RuntimeError):
        _break_off_a_file(file)
    with pytest.raises(RuntimeError):
        _break_off_a_folder(folder)
    assert file.read_text() == "two"
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "folder", "two"]


def test_a_snapshot_never_gets_another_tokenizer(tokenizer, tmp_path):
    other = train_tokenizer(["quite other words\n" * 9], vocab_size=280)
    for name, given, step in (("a", tokenizer, 1), ("a", other, 2)):
        model = build_toy(CONFIG, device="cpu", tokenizer=given)
        snapshots.save(model, tmp_path / name, step=step, tokens_seen=0)
    again = snapshots.load(tmp_path / "a" / "step-00000002", device="cpu")
    assert again.tokenizer.get_vocab() == other.get_vocab()
    message = r"the tokenizer that .*step-00000001 was saved with, got .*tokenizer.json, which is"
    with pytest.raises(ValueError, match=message):
        snapshots.load(tmp_path / "a" / "step-00000001", device="cpu")


def test_what_a_call_switched_on_in_a_tokenizer_is_not_saved(tmp_path):
    tokenizer = train_tokenizer(["def f(x):\n    return x\n" * 9], vocab_size=270)
    model = build_toy(CONFIG, device="cpu", tokenizer=tokenizer)
    first = snapshots.save(model, tmp_path, step=1, tokens_seen=0)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    second = snapshots.save(model, tmp_path, step=2, tokens_seen=0)
    assert first.tokenizer == second.tokenizer == sha256(tmp_path / "tokenizer.json")
    again = snapshots.load(second, device="cpu").tokenizer
    assert len(again("def f(x):").input_ids) > 2


def test_a_snapshot_between_two_renames_is_found(tmp_path):
    saved = snapshots.save(build_toy(CONFIG, device="cpu"), tmp_path / "a", step=3, tokens_seen=9)
    for read in (
        lambda: snapshots.list_snapshots(tmp_path / "a")[0],
        lambda: snapshots.read_snapshot(saved.path),
    ):
        saved.path.rename(saved.path.parent / ".step-00000003.old")
        assert read() == saved


@pytest.mark.usefixtures("_as_users_call")
def test_what_cannot_be_saved_is_refused(tmp_path):
    model = build_toy(CONFIG, device="cpu")
    for step, seen, extra, message in (
        (-1, 0, None, "step to be a whole number of at least 0, got -1"),
        (1.5, 0, None, "step to be a whole number of at least 0, got 1.5"),
        (1, None, None, "tokens_seen to be a whole number of at least 0, got None"),
        (1, 0, {"a": model}, "extra to be JSON-ready, got .*not JSON serializable"),
    ):
        with pytest.raises(ValueError, match=message):
            snapshots.save(model, tmp_path, step=step, tokens_seen=seen, extra=extra)
    model.tokenizer = object()
    with pytest.raises(ValueError, match=r"expected a fast tokenizer, got object, which has no"):
        snapshots.save(model, tmp_path, step=1, tokens_seen=0)
    assert not list(tmp_path.iterdir())
