"""A flipped bit in any file is found; files of earlier versions have no sums, and are read."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from induction_lens import seals
from induction_lens.inputs import corpus
from induction_lens.inputs.corpus import train_tokenizer
from induction_lens.seals import read_json, read_tensors, write_json, write_tensors
from induction_lens.toys import snapshots
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.final_model import read_end, write_end
from induction_lens.tracking.runs import read_evaluation
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import METADATA, Trajectory
from induction_lens.training import presets
from induction_lens.training.optimizers import read_checkpoint
from induction_lens.training.presets import PHASE_PRESETS, Preset, prepare_text, train_preset
from induction_lens.training.run_folder import CHECKPOINT

N_FLIPS = 5
CONFIG = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=300, n_ctx=24)
TRACKING: dict[str, Any] = {
    "n_prompts": 2,
    "n_ablated": 2,
    "n_examples": 5,
    "methods": ("zero",),
    "device": "cpu",
    "progress": False,
}
END = {"knockouts": [{"method": "zero", "effect": 0.125, "heads": "0.1"}], "ngrams": []}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a preset with everything that there can be, and copies of files that ship."""
    out = tmp_path_factory.mktemp("integrity") / "run"
    text = ["def value(x):\n    return compute(x)\n" * 40] * 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PHASE_PRESETS, "tiny", Preset(CONFIG, "tiny", 24 * 12, batch_size=3))
        patch.setattr(presets, "documents", lambda *_, **__: text)
        patch.setattr(presets, "card_of", lambda *_: {"held_out_loss": 2.5, "layers": 1})
        patch.setattr(corpus, "documents", lambda *_, **__: text)
        tokenizer = train_tokenizer(text, 280)
        train_preset("tiny", out, tokenizer=tokenizer, device="cpu", progress=False)
    tokens = load_file(out / "tokens.safetensors")["tokens"]
    write_tensors(out / "evaluation.safetensors", {"tokens": tokens[:4].short()})
    track(out, out=out / "tracked", text=tokens[:4], **TRACKING)
    write_end(END, out / "tracked")
    package = out.parent / "package"
    for name in ("zoo/toy-1l", "zoo/tokenizer.json", "runs/phase-1l-seed-0", "runs/tokenizer.json"):
        copy = shutil.copytree if "-1l" in name else shutil.copy
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        copy(seals.DATA / name, package / name)
    listed = (seals.DATA / seals.SUMS).read_text().splitlines()
    there = [line for line in listed if (package / line.split("  ")[1]).is_file()]
    (package / seals.SUMS).write_text("\n".join(there) + "\n")
    return out


def _prepared(run: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PHASE_PRESETS, "tiny", Preset(CONFIG, "tiny", 24 * 12, batch_size=3))
        return prepare_text("tiny", run)


def _tracked(run: Path) -> Trajectory:
    text = read_evaluation(run / "evaluation.safetensors")
    return track(run, out=run / "tracked", text=text, **TRACKING)


def _shipped(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def inside(run: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seals, "DATA", run.parent / "package")
            return read(run.parent / "package")

    return inside


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint.safetensors": lambda run: read_checkpoint(run / CHECKPOINT),
    "snapshots/step-00000001/config.json": lambda run: snapshots.list_snapshots(run / "snapshots"),
    "snapshots/step-00000001/weights.safetensors": lambda run: snapshots.load(
        run / "snapshots" / "step-00000001", device="cpu"
    ),
    "model/config.json": lambda run: snapshots.load(run / "model", device="cpu"),
    "model/card.json": lambda run: read_json(run / "model" / "card.json", remedy="train again"),
    "tokenizer.json": lambda run: snapshots.load(run / "model", device="cpu"),
    "tokens.safetensors": _prepared,
    "evaluation.safetensors": lambda run: read_evaluation(run / "evaluation.safetensors"),
    "tracked/points/step-00000002/point.json": _tracked,
    "tracked/points/step-00000002/measures.safetensors": _tracked,
    "tracked/trajectory.parquet": lambda run: Trajectory.read(run / "tracked"),
    "tracked/endpoint.json": lambda run: read_end(run / "tracked"),
    "../package/zoo/toy-1l/card.json": _shipped(
        lambda package: read_json(package / "zoo" / "toy-1l" / "card.json", remedy="train again")
    ),
    "../package/zoo/toy-1l/config.json": _shipped(
        lambda package: snapshots.read_snapshot(package / "zoo" / "toy-1l")
    ),
    "../package/zoo/toy-1l/weights.safetensors": _shipped(
        lambda package: snapshots.load(package / "zoo" / "toy-1l", device="cpu")
    ),
    "../package/zoo/tokenizer.json": _shipped(
        lambda package: snapshots.load(package / "zoo" / "toy-1l", device="cpu")
    ),
    "../package/runs/phase-1l-seed-0/trajectory.parquet": _shipped(
        lambda package: Trajectory.read(package / "runs" / "phase-1l-seed-0")
    ),
    "../package/runs/phase-1l-seed-0/endpoint.json": _shipped(
        lambda package: read_end(package / "runs" / "phase-1l-seed-0")
    ),
}


@contextmanager
def _flipped(file: Path, place: int) -> Iterator[None]:
    """The file with one bit flipped."""
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    file.write_bytes(flipped)
    try:
        yield
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_found(name, run):
    """Five bits of each of 18 kinds of file: 90 in all."""
    file, read = run / name, READERS[name]
    read(run)
    content = file.read_bytes()
    generator = random.Random(name)
    for place in [generator.randrange(8 * len(content)) for _ in range(N_FLIPS)]:
        with _flipped(file, place), pytest.raises(ValueError, match=r".+; .+") as error:
            read(run)
        assert "\n" not in str(error.value)
    assert file.read_bytes() == content
    read(run)


@pytest.mark.parametrize("kind", ["json", "tensors", "parquet"])
@pytest.mark.slow
def test_every_bit_of_a_small_file_counts(kind, run, tmp_path):
    """Also the bits that say that there is a sum, and those that change no number."""
    path = tmp_path / "file"
    if kind == "json":
        write_json(path, {"a": 1e-7, "b": ["é", None]})
    elif kind == "tensors":
        write_tensors(path, {"a": torch.arange(3)}, {"b": 1e-7})
    else:
        shutil.copy(run / "tracked" / "trajectory.parquet", path)
    content = path.read_bytes()
    places = range(0, 8 * len(content), 3)
    if kind == "parquet":  # what is about the sum, and some of the rest
        marks = [content.index(mark) for mark in (b"by induction_lens", b"induction_lens SHA-256")]
        places = [8 * start + bit for start in marks for bit in range(0, 8 * 90, 3)]
    for place in places:
        with _flipped(path, place), pytest.raises(ValueError, match="SHA-256"):
            seals.check(path, remedy="")


def test_a_bit_of_the_list_of_what_ships_counts(run):
    package = run.parent / "package"
    sums = package / seals.SUMS
    content = sums.read_bytes()
    lines = content.splitlines(keepends=True)
    start = content.index(next(line for line in lines if line.endswith(b"toy-1l/card.json\n")))
    read = READERS["../package/zoo/toy-1l/card.json"]
    for place in range(8 * start, 8 * (start + 64 + 2 + len("zoo/toy-1l/card.json")), 3):
        with _flipped(sums, place), pytest.raises(ValueError, match="SHA-256"):
            read(run)
    read(run)


def test_the_list_names_all_that_ships():
    listed = [line.split("  ") for line in (seals.DATA / seals.SUMS).read_text().splitlines()]
    ships = [path for name in ("runs", "zoo") for path in (seals.DATA / name).rglob("*.*")]
    files = sorted(path.relative_to(seals.DATA).as_posix() for path in ships if path.is_file())
    assert sorted(name for _, name in listed) == files
    for name in ("zoo/tokenizer.json", "runs/phase-1l-seed-0/endpoint.json"):
        seals.check(seals.DATA / name, remedy="")


def test_files_of_earlier_versions_are_read_as_before(run, tmp_path):
    tensors, about = read_checkpoint(run / CHECKPOINT)
    kept = {name: tensor for name, tensor in tensors.items() if name != "batches"}
    old = {name: json.dumps(about[name]) for name in ("settings", "tokens_seen")}
    save_file(kept, tmp_path / CHECKPOINT, metadata=old)
    again, said = read_checkpoint(tmp_path / CHECKPOINT)
    assert said == {"settings": about["settings"], "tokens_seen": about["tokens_seen"]}
    assert again.keys() == kept.keys()
    (tmp_path / "endpoint.json").write_text(json.dumps(END))
    assert read_end(tmp_path) == END
    table = pq.read_table(run / "tracked" / "trajectory.parquet")
    plain = seals.without_seal(json.loads(table.schema.metadata[METADATA]))
    table = table.replace_schema_metadata({METADATA: json.dumps(plain)})
    pq.write_table(table, tmp_path / "trajectory.parquet")
    ours = Trajectory.read(run / "tracked")
    assert Trajectory.read(tmp_path).icl.equal(ours.icl)
    saved = snapshots.save(build_toy(CONFIG, device="cpu"), tmp_path, step=1, tokens_seen=9)
    config = read_json(saved.path / "config.json", remedy="")
    del config["tokenizer"]
    (saved.path / "config.json").write_text(json.dumps(config))
    assert snapshots.load(saved.path, device="cpu").toy_config == CONFIG


DAMAGED = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"a"',
    "object": b"{}",
    "half": b'{"step": 1, "tok',
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "numbers": b'{"step": [], "tokens_seen": {}, "sha256": 1, "model": 3, "extra": 4}',
    "rows": b'{"knockouts": 3, "ngrams": [4], "evaluation": 5}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_no_file_of_ours_is_one_line(content, run, tmp_path):
    reads: dict[str, Callable[[], Any]] = {
        "step-00000001/config.json": lambda: snapshots.load(tmp_path / "step-00000001"),
        "endpoint.json": lambda: read_end(tmp_path),
        "trajectory.parquet": lambda: Trajectory.read(tmp_path),
        CHECKPOINT: lambda: read_checkpoint(tmp_path / CHECKPOINT),
        "evaluation.safetensors": lambda: read_evaluation(tmp_path / "evaluation.safetensors"),
    }
    for name, read in reads.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        if name == "endpoint.json" and content == b"{}":
            assert read() == {}
            continue
        with pytest.raises(ValueError, match=r"expected .+; ") as error:
            read()
        assert "\n" not in str(error.value)
        assert name.rpartition("/")[2] in str(error.value)


def test_a_trajectory_with_other_metadata_is_one_line(run, tmp_path):
    table = pq.read_table(run / "tracked" / "trajectory.parquet")
    good = seals.without_seal(json.loads(table.schema.metadata[METADATA]))
    shapes = good["shapes"]
    changed: list[Any] = [None, [], 3, {}, {**good, "shapes": None}, {**good, "clamp": 3}]
    changed += [{**good, "shapes": {**shapes, "icl": [999]}}, {**good, "shapes": {"icl": "a"}}]
    texts = [json.dumps(one) for one in changed] + ["{", "[" * 100_000]
    for text in texts:
        bad = table.replace_schema_metadata({METADATA: text})
        pq.write_table(bad, tmp_path / "trajectory.parquet")
        with pytest.raises(ValueError, match=r"trajectory in .*which is damaged .*; write one"):
            Trajectory.read(tmp_path)


def test_pages_of_a_trajectory_have_checksums_of_their_own(run, tmp_path):
    """Other readers of Parquet find a flipped bit of the data, too."""
    path = run / "tracked" / "trajectory.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 4
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(OSError, match=r"CRC checksum|crc|Corrupt|corrupt"):
        pq.read_table(tmp_path / "a.parquet", page_checksum_verification=True)


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(seals, "save_file", full)
    monkeypatch.setattr(snapshots, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*No space left .*is the disk full\?"):
        write_tensors(tmp_path / "a", {"a": torch.zeros(1)})
    with pytest.raises(OSError, match=r"could not write .*is the disk full\?"):
        snapshots.save(build_toy(CONFIG, device="cpu"), tmp_path, step=1, tokens_seen=1)
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_tensors(tmp_path / name, {"x": torch.ones(2), "y": torch.zeros(3)}, {"z": 1, "u": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    tensors, about = read_tensors(tmp_path / "a", remedy="")
    assert about == {"z": 1, "u": 2}
    assert tensors["x"].equal(torch.ones(2))
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert list(file.metadata()) == ["about"]
