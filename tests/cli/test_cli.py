"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

import induction_lens as il
from induction_lens import cli
from induction_lens.detectors import score_heads
from induction_lens.loading import load, zoo
from induction_lens.models import InterventionError
from induction_lens.reports.model import sentences
from induction_lens.reports.numbers import ends
from induction_lens.reports.training import sentences as training_sentences
from induction_lens.reports.training import training_report
from induction_lens.training.language_presets import train_language
from induction_lens.training.loop import TrainingRun
from induction_lens.training.presets import FAMILY_PRESETS, PHASE_PRESETS
from tests.hf_folders import write_folder
from tests.reports.test_report import TEXT
from tests.reports.test_training_report import MIDDLE
from tests.reports.test_training_report import _run as synthetic_run
from tests.views.plain import Page

# Wide enough that no table cell is cut, and without colours.
TERMINAL = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two local models, one without a tokenizer, and a text."""
    folder = tmp_path_factory.mktemp("models")
    write_folder("llama", folder / "llama", tokenizer=True)
    write_folder("gpt2", folder / "gpt2", tokenizer=True)
    write_folder("neox", folder / "neox", tokenizer=True)
    write_folder("gpt2", folder / "bare", tokenizer=False)
    (folder / "text.txt").write_text(TEXT)
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 99)
    (folder / "rows.jsonl").write_text('{"body": "x"}')
    write_folder("gpt2", folder / "steps" / "step1", tokenizer=False)
    (folder / "site").mkdir()
    (folder / "site" / "index.html").write_text("<!doctype html><title>Mine</title>")
    return folder


def _run(*arguments: object):
    return CliRunner(env=TERMINAL).invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def reported(models, tmp_path_factory):
    """A report on the model with a tokenizer: what was printed, and its folder."""
    folder = tmp_path_factory.mktemp("out") / "report"
    text = models / "text.txt"
    result = _run("report", models / "llama", "--text", text, "--sequences", 7, "--out", folder)
    assert result.exit_code == 0, result.output
    return result, folder


def test_report_writes_the_page_and_prints_heads_icl_table_and_where_it_is(reported):
    result, folder = reported
    content = json.loads((folder / "report.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        *(
            "index.html",
            "attention.html",
            "heads.csv",
            "icl.csv",
            "losses.parquet",
            "short_losses.parquet",
            "report.json",
            "result",
        )
    }
    assert content["headline"] in result.stdout
    assert str((folder / "index.html").resolve()) in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    tested = [row for row in content["icl"] if row["kind"] == "tested"]
    assert len(tested) == 12
    for row in tested:
        low, _ = ends(row["effect_low"], row["effect_high"])
        change = f"{sentences.number(row['effect'])} [{low},"
        rank = "–" if row["rank"] is None else f"{row['rank']} of {row['n_controls'] + 1}"
        assert any(
            line[:1] == [row["method"]] and change in (text := " ".join(line)) and rank in text
            for line in lines
        )
    [candidate] = content["knocked_out"]
    assert any(line[:1] == [candidate] for line in lines)


def test_the_command_on_the_card_makes_the_same_report(reported, tmp_path):
    _, folder = reported
    content = json.loads((folder / "report.json").read_text())
    program, *arguments = content["card"]["Command"].split()
    assert program == "induction-lens"
    result = _run(*arguments, "--json", "--out", tmp_path / "again")
    again = json.loads(result.stdout)
    assert again.pop("page") == str(tmp_path / "again" / "index.html")
    for table in ("icl", "heads"):
        for row, expected in zip(again[table], content[table], strict=True):
            assert row == {
                name: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                for name, value in expected.items()
            }
    assert again["card"] == content["card"]


@pytest.mark.slow
def test_a_column_and_an_encoding_of_text_on_the_command_line(models, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [json.dumps({"body": f"{i} {TEXT}", "text": "x"}) for i in range(3)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "latin.txt").write_bytes(f"é {TEXT}".encode("latin-1"))
    few = ["--sequences", "4", "--method", "zero", "--controls", "0", "--heads", "1.1", "--json"]
    losses = []
    for named in (["rows.jsonl", "--column", "body"], ["latin.txt", "--encoding", "latin-1"]):
        text = ["--text", folder / named[0], *named[1:], *few]
        result = _run("report", models / "llama", *text, "--out", tmp_path / named[0])
        content = json.loads(result.stdout)
        assert " ".join(named[1:]) in content["card"]["Command"]
        losses.append(content["icl"])
        again = _run(
            *shlex.split(content["card"]["Command"])[1:], "--json", "--out", tmp_path / "b"
        )
        assert json.loads(again.stdout)["icl"] == content["icl"]
    model = il.load(models / "llama", device="cpu")
    for source, loss in zip(
        ([json.loads(row)["body"] for row in rows], [f"é {TEXT}"]), losses, strict=True
    ):
        expected = il.report(
            model, text=source, n_sequences=4, methods=["zero"], n_controls=0, heads="1.1"
        )
        assert json.loads(json.dumps(expected.to_dict()["icl"])) == loss


def test_checks_and_code_of_others_on_the_command_line(models, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append(options)
        return il.load(name, device="cpu")

    monkeypatch.setattr(cli.common, "load", load)
    _run("heads", models / "llama", "--json")
    _run("heads", models / "llama", "--json", "--no-check", "--trust-remote-code")
    assert asked == [
        {"device": None, "trust_remote_code": False, "check": True},
        {"device": None, "trust_remote_code": True, "check": False},
    ]


def test_report_goes_to_a_folder_named_after_the_model(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--sequences", "5", "--method", "zero", "--heads", "1.1, 0.2", "--controls", "0"]
    result = _run("report", models / "bare", *options, "--json")
    content = json.loads(result.stdout)
    assert content["page"] == "bare-report/index.html"
    assert (tmp_path / "bare-report" / "index.html").is_file()
    assert content["knocked_out"] == ["0.2", "1.1"]
    assert content["data"] == "repeated random tokens"
    assert {row["method"] for row in content["icl"]} == {"zero"}
    assert {row["kind"] for row in content["icl"]} == {"tested"}


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_report_on_other_architectures(models, tmp_path, name):
    options = ["--sequences", 5, "--method", "mean", "--controls", 1, "--seed", 2, "--json"]
    text = ["--text", models / "text.txt", "--out", tmp_path]
    content = json.loads(_run("report", models / name, *text, *options).stdout)
    assert content["model"] == name
    [head] = content["knocked_out"]
    alone = {f"{row['layer']}.{row['head']}": row["effect_alone"] for row in content["heads"]}
    [tested] = [
        row for row in content["icl"] if row["kind"] == "tested" and row["definition"] == "windowed"
    ]
    assert tested["effect"] == pytest.approx(alone[head], abs=1e-5)
    losses = pd.read_parquet(tmp_path / "losses.parquet")
    short = pd.read_parquet(tmp_path / "short_losses.parquet")
    late, early = losses[losses.position.between(54, 66)], short[short.position.between(1, 13)]
    assert tested["clean"] == pytest.approx(late.clean.mean() - early.clean.mean(), abs=1e-5)


def test_heads_prints_every_score_as_json(models):
    result = _run("heads", models / "llama", "--json", "--seed", 3)
    printed = pd.DataFrame(json.loads(result.stdout))
    expected = score_heads(load(models / "llama", device="cpu"), seed=3).to_frame()
    pd.testing.assert_frame_equal(printed, expected, check_exact=False, atol=1e-5)


def test_heads_lists_the_top_of_the_one_detector(models):
    result = _run("heads", models / "llama", "--detector", "duplicate_token", "--top", 3)
    scores = score_heads(load(models / "llama", device="cpu"), detectors=["duplicate_token"])
    printed = [line.split() for line in result.stdout.splitlines() if "." in line]
    expected = [[str(h), f"{score:.2f}"] for h, score in scores["duplicate_token"].top(3)]
    assert printed == expected


def test_attention_writes_a_page_of_heads_on_the_prompt(models, tmp_path):
    file = tmp_path / "page.html"
    prompt = "def function(argument): return argument"
    arguments = ["attention", models / "llama", "--text", prompt, "--heads", "1.4,0.2"]
    result = _run(*arguments, "--out", file)
    assert result.exit_code == 0, result.output
    assert f"The page: {file.resolve()}" in result.stdout
    page = Page(file.read_text())
    assert page.view["heads"] == ["0.2", "1.4"]
    assert "".join(page.view["tokens"][1:]) == prompt.replace(" ", "·")
    said = json.loads(_run(*arguments, "--out", file, "--json").stdout)
    assert (said["page"], said["heads"]) == (str(file), ["0.2", "1.4"])
    assert "".join(said["tokens"][1:]) == prompt


def test_attention_without_a_text_is_on_random_tokens(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = _run("attention", models / "bare", "--detector", "none")
    assert result.exit_code == 0, result.output
    assert "random tokens, 3 times over" in result.stderr
    page = Page((tmp_path / "bare-attention.html").read_text())
    ids = page.view["ids"]
    assert ids[1:17] == ids[17:33] == ids[33:49]
    assert page.targets() == set()


def test_zoo_lists_the_models_that_ship():
    assert json.loads(_run("zoo", "--json").stdout) == zoo().to_dict("records")
    text = _run("zoo").stdout
    assert all(name in text for name in zoo()["name"])
    assert "ICL score" in text


def test_train_passes_its_options_on_and_says_what_it_did(monkeypatch, tmp_path):
    asked = {}

    def fake(name, out, **options):
        asked.update(options, name=name, out=out)
        losses = torch.tensor([5.0, 2.5])
        return TrainingRun(
            model=None,
            losses=losses,
            n_steps=2,
            tokens_seen=4096,
            tokens_per_second=1.0,
            snapshots=(),
        )

    monkeypatch.setattr(cli.training, "train_preset", fake)
    result = _run("train", "--preset", "toy-1l", "--tokens", 4096, "--seed", 5, "--no-resume")
    assert asked == {
        "name": "toy-1l",
        "out": Path("toy-1l-training"),
        "n_tokens": 4096,
        "text": None,
        "seed": 5,
        "device": None,
        "resume": False,
        "progress": True,
    }
    assert "2 steps, 4,096 tokens" in result.stdout
    assert "2.500 nats" in result.stdout
    out = tmp_path / "run"
    result = _run("train", "--preset", "toy-1l", "--out", out, "--json")
    assert asked["out"] == out
    assert json.loads(result.stdout) == {
        "model": str(out / "model"),
        "steps": 2,
        "tokens_seen": 4096,
        "last_loss": 2.5,
        "snapshots": [],
    }


def test_train_takes_languages_as_it_takes_text(tmp_path):
    out = tmp_path / "chains"
    arguments = ("train", "--preset", "markov", "--tokens", 6000, "--seed", 1, "--out", out)
    result = _run(*arguments)
    assert "Trained markov for 3 steps, 6,240 tokens" in result.stdout
    assert f"Next: induction-lens heads {out / 'model'}" in result.stdout
    again = train_language("markov", tmp_path / "python", n_steps=3, seed=1, progress=False)
    told = json.loads(_run(*arguments, "--json").stdout)
    assert told["last_loss"] == float(again.losses[-1])
    assert [Path(one).name for one in told["snapshots"]] == [
        snapshot.path.name for snapshot in again.snapshots
    ]
    result = _run(*arguments[:3], "--text", tmp_path)
    assert result.exit_code == 2
    assert "expected --text with a preset that is trained on text, got it with markov" in (
        result.stderr
    )
    for arguments in (("--seed", 2), ("--tokens", 9000)):  # another run is in the folder
        result = _run("train", "--preset", "markov", "--out", out, *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: expected the checkpoint of this run, got ")
    assert "alphabets-clamped-late" in _run("train", "--help").stdout.replace("\n", "")


def test_all_presets_are_trained_into_one_folder(monkeypatch, tmp_path):
    asked = {}

    def fake(out, **options):
        asked.update(options, out=out)
        return [out / "phase-1l-seed-7", out / "phase-2l-seed-7"]

    monkeypatch.setattr(cli.training, "make_runs", fake)
    arguments = ("train", "--all-presets", "--seed", 7, "--tokens", 4096)
    result = _run(*arguments, "--out", tmp_path)
    assert asked == {
        "out": tmp_path,
        "presets": list(PHASE_PRESETS),
        "seeds": [7],
        "n_tokens": 4096,
        "measured": False,
        "progress": True,
    }
    assert f"induction-lens dynamics {tmp_path}/phase-*" in result.stdout
    result = _run(*arguments, "--json")
    assert json.loads(result.stdout)["runs"] == [f"all-presets/phase-{n}l-seed-7" for n in (1, 2)]


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory) -> list[Path]:
    """A run with a phase change and one without, as files."""
    folder = tmp_path_factory.mktemp("trajectories")
    runs = {"changes": synthetic_run(MIDDLE), "never": synthetic_run(None, n_layers=1)}
    for name, run in runs.items():
        run.save(folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in runs]


@pytest.mark.slow
def test_dynamics_writes_a_page_and_prints_when_each_model_changes(trajectories, tmp_path):
    result = _run("dynamics", *trajectories, "--out", tmp_path / "page")
    assert result.exit_code == 0, result.output
    expected = training_report(trajectories)
    [one, two] = training_sentences.rows(expected)
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert " ".join(" ".join(one).split()) in rows
    assert " ".join(two) in rows
    assert expected.headline == "In-context learning appears abruptly in 1 of 2 models"
    assert rows[0] == expected.headline
    assert str((tmp_path / "page" / "index.html").resolve()) in result.stdout
    result = _run("dynamics", *trajectories, "--out", tmp_path / "page", "--json")
    content = json.loads(result.stdout)
    assert content["headline"] == expected.headline
    [never, changes] = content["models"]
    assert (never["icl_midpoint"], changes["model"]) == (None, "2 layers")
    assert changes["icl_midpoint"] == pytest.approx(9e6, rel=0.05)


def test_reproduce_passes_its_options_on_and_says_what_came_of_it(
    trajectories, monkeypatch, tmp_path
):
    asked = {}

    def fake(out, **options):
        asked.update(options, out=out)
        return training_report(trajectories[:1])

    monkeypatch.setattr(cli.training, "reproduce", fake)
    result = _run("reproduce", "--quick", "--quiet", "--out", tmp_path, "--processes", 3)
    assert asked == {"out": tmp_path, "quick": True, "processes": 3, "progress": False}
    assert result.stdout.startswith("2 layers: in-context learning appears abruptly\n")
    assert str(tmp_path / "index.html") in result.stdout
    assert _run("reproduce", "--processes", 0).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads", "{models}/text.txt"], "text.txt"),
        (["heads", "{models}"], "which holds 4; pass one of them, such as {models}/neox"),
        (["heads", "{models}/llama", "--detector", "inductoin"], "did you mean 'induction'"),
        (["report", "{models}/llama", "--heads", "9.9"], "0.0 to 1.5"),
        (["report", "{models}/llama", "--heads", "one"], "'1.6' or (1, 6)"),
        (["report", "{models}/llama", "--method", "meen"], "did you mean 'mean'"),
        (["report", "{models}/llama", "--text", "{models}/none"], "none', which is not there"),
        (["report", "{models}/llama", "--text", "some words"], "got 'some words', which is not"),
        (["report", "{models}/llama", "--text", ""], "got '', which is not there; check the sp"),
        (["report", "{models}/llama", "--text", "{models}/tex.txt"], "did you mean '{models}/te"),
        (["compare", "toy-1l", "toy-2l", "--text", "some words"], "got 'some words', which is n"),
        (["compare", "toy-1l", "toy-2l", "--column", "body"], "expected --text with --column"),
        (["compare", "toy-1l", "toy-2l", "--encoding", "utf-8"], "expected --text with --column"),
        (["compare", "toy-1l", "toy-2"], "did you mean 'toy-2l'"),
        (["family", "toy-1l", "--column", "body"], "expected --text with --column"),
        (["family", "toy-1l", "{models}"], "which holds 4; pass one of them"),
        (["track", "{models}", "--column", "body", "--out", "o"], "expected --text with --column"),
        (["report", "{models}/llama", "--text", "{models}/latin.txt"], "--encoding latin-1, or c"),
        (["report", "{models}/llama", "--text", "{models}/rows.jsonl"], "pass --column body, say"),
        (["heads", "{models}/text.txt"], "got the file {models}/text.txt; pass the folder"),
        (["heads", ""], "the name or the folder of a model, got ''"),
        (["heads", "TOY-2L"], "did you mean 'toy-2l'"),
        (["attention", "toy-1l", "--seed", "-1"], "--seed to be a whole number from 0"),
        (["attention", "toy-1l", "--out", "page.txt"], "a file that ends with .html, got 'page"),
        (["attention", "toy-1l", "--text", "{models}/text.txt"], "got the name of a file"),
        (["report", "{models}/bare", "--out", "{models}/site"], "which has another index.html"),
        (["circuit", "{models}/bare", "--out", "{models}/site"], "which has another index.html"),
        (["dynamics", "--shipped", "--out", "{models}/site"], "which has another index.html"),
        (["report", "{models}/llama", "--column", "body"], "expected --text with --column"),
        (["report", "{models}/llama", "--encoding", "latin-1"], "expected --text with --column"),
        (["report", "{models}/llama", "--late", "99"], "inside the model's context"),
        (
            ["report", "{models}/llama", "--threshold", "nan"],
            "threshold to be a finite number, got nan",
        ),
        (
            ["report", "{models}/llama", "--heads", "9.9", "--out", "{models}/llama/config.json"],
            "expected --out to be a folder to write to, got the file",
        ),
        (["attention", "{models}/bare", "--text", "words"], "which has no tokenizer, got a text"),
        (["attention", "{models}/llama", "--text", "words", "--heads", "9.9"], "0.0 to 1.5"),
        (["attention", "{models}/llama", "--text", "a " * 99], "texts of at most 67 tokens"),
        (["attention", "{models}/llama", "--out", "{models}"], "--out to be a file to write"),
        (["dynamics", "{models}/none", "--out", "{models}/text.txt"], "a folder to write to"),
        (["train", "--preset", "toy-9l"], "toy-2l"),
        (["train"], "either --preset or --all-presets"),
        (["train", "--preset", "toy-2l", "--all-presets"], "either --preset or --all-presets"),
        (["train", "--all-presets", "--device", "cpu"], "only with --preset"),
        (["train", "--preset", "toy-2l", "--device", "tpu"], "such as cpu, cuda or mps, got 'tpu'"),
        (["report", "{models}/llama", "--device", "tpu"], "such as cpu, cuda or mps, got 'tpu'"),
        (["heads", "toy-2l", "--device", "tpu"], "such as cpu, cuda or mps, got 'tpu'"),
        (["dynamics"], "either folders of runs or --shipped"),
        (["dynamics", "{models}", "--shipped"], "either folders of runs or --shipped"),
        (["dynamics", "{models}/none"], "which does not exist"),
        (["dynamics", "{models}"], "induction-lens track {models} --tokens-per-step N --out"),
        (["track", "{models}/steps", "--out", "o"], "expected --tokens-per-step for {models}/ste"),
        (["track", "nosuch", "--out", "o"], "for a repository of your own pass --tokens-per-step"),
    ],
)
def test_user_errors_are_one_line_on_stderr_with_exit_code_2(models, arguments, message):
    result = _run(*(argument.format(models=models) for argument in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message.format(models=models) in errors[0]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads", "--top", "0"], "--top to be greater than or equal to 1, got '0'; see inducti"),
        (["heads", "--top", "three"], "--top to be a valid integer, got 'three'; see induction"),
        (["heads", "--threshold", "x"], "--threshold to be a valid number, got 'x'; see induct"),
        (["compare"], "Missing argument 'MODEL…'; see induction-lens compare --help"),
        (["heads", "--bogus"], "No such option: --bogus; see induction-lens heads --help"),
        (["nonsense"], "No such command 'nonsense'"),
        (["--bogus"], "No such option: --bogus; see induction-lens --help"),
        (["heads", "toy-2l", "gpt2"], "gpt2"),
        (["report", "--out"], "--out"),
    ],
)
def test_misused_options_are_one_line_too(arguments, message):
    result = CliRunner(env=TERMINAL).invoke(cli.app, arguments, prog_name="induction-lens")
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_error_of_ours_is_called_a_bug_and_shown_on_demand(monkeypatch):
    def broken(*arguments, **options):
        raise LookupError("where is\nit")

    monkeypatch.setattr(cli.models, "zoo", broken)
    result = _run("zoo")
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("unexpected error: LookupError: where is it; this is a bug")
    monkeypatch.setenv("INDUCTION_LENS_DEBUG", "1")
    result = _run("zoo")
    assert "Traceback" in result.stderr
    assert "in broken" in result.stderr


FULL = OSError(errno.ENOSPC, "No space left on device", "out/heads.csv")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FULL, 2, "room on the disk, got none left for out/heads.csv; free some"),
        (SafetensorError("I/O error: No space left"), 2, "see whether the disk is full"),
        (MemoryError(), 2, "expected enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "expected enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "expected enough memory"),
        (InterventionError("expected writes to land, got none"), 2, "expected writes to land"),
        (ImportError("expected the package x"), 2, "expected the package x"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start"), 2, "expected text in UTF-8"),
        (json.JSONDecodeError("Expecting value", "", 0), 2, "expected JSON, got something else"),
        (KeyboardInterrupt(), 130, "stopped by an interrupt"),
    ],
)
def test_what_libraries_and_users_end_is_one_line(monkeypatch, error, code, message):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(cli.models, "zoo", fails)
    result = _run("zoo")
    assert (result.exit_code, result.stdout) == (code, "")
    [line] = result.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "error",
    [
        KeyError("gpt_neo"),
        NotImplementedError("no"),
        AttributeError("no config"),
        RuntimeError("bad"),
        RecursionError("too deep"),
        AssertionError(),
        TypeError("null"),
    ],
)
def test_what_ends_the_loading_of_a_model_is_about_that_model(monkeypatch, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(cli.common, "load", fails)
    for command in ("heads", "report"):
        result = _run(command, "some-model")
        assert (result.exit_code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert "expected a model that TransformerLens can load, got 'some-model'" in line
        assert type(error).__name__ in line


@pytest.mark.parametrize("command", ["report", "dynamics", "reproduce", "train"])
@pytest.mark.parametrize("where", ["text.txt", "text.txt/sub", "text.txt/a/b", "x" * 300])
def test_where_nothing_can_be_written_is_found_before_the_work(models, monkeypatch, command, where):
    def work(*arguments, **options):
        raise LookupError("the work began")

    for module, name in (
        (cli.common, "load"),
        (cli.training, "training_report"),
        (cli.training, "reproduce"),
        (cli.training, "train_preset"),
        (cli.training, "train_language"),
    ):
        monkeypatch.setattr(module, name, work)
    options = {"dynamics": ["--shipped"], "train": ["--preset", "toy-1l"]}.get(command, [])
    result = _run(command, *options, "--out", models / where)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: expected --out to be a folder to write to, got ")
    left = {path.name for path in models.iterdir()}
    assert left == {
        *("llama", "gpt2", "neox", "bare", "site", "steps"),
        *("text.txt", "latin.txt", "rows.jsonl"),
    }


def test_heads_are_sorted_by_induction_or_as_asked():
    scores = score_heads(load("toy-2l", device="cpu"))
    for options, leading in ((), "induction"), (("--sort", "copying_weights"), "copying_weights"):
        result = _run("heads", "--top", 3, *options)
        printed = [line.split()[0] for line in result.stdout.splitlines() if "." in line]
        assert printed == [str(head) for head, _ in scores[leading].top(3)]
    assert _run("heads", "--top", 1).stdout.split("\n")[-3].split()[0] == "1.6"
    result = _run("heads", "--detector", "copying", "--sort", "induction")
    assert result.exit_code == 2
    assert "expected --sort to be one of copying, got 'induction'" in result.stderr


def test_the_json_of_a_report_has_the_headline(reported, models, tmp_path):
    _, folder = reported
    text = models / "text.txt"
    arguments = ("report", models / "llama", "--text", text, "--sequences", 7)
    printed = json.loads(_run(*arguments, "--json", "--out", tmp_path / "again").stdout)
    saved = json.loads((folder / "report.json").read_text())
    assert {name: printed[name] for name in ("headline", "summary")} == {
        name: saved[name] for name in ("headline", "summary")
    }


@pytest.mark.parametrize("columns", ["0", "1", "9", "wide"])
def test_narrow_terminals_get_all_numbers(columns):
    result = CliRunner(env={**TERMINAL, "COLUMNS": columns}).invoke(cli.app, ["zoo"])
    assert (result.exit_code, result.stderr) == (0, "")


def _as_a_process(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell command in which `induction-lens` is this package's."""
    program = f"{sys.executable} -W ignore -c 'from induction_lens.cli import app; app()'"
    script = command.replace("induction-lens", program)
    shell = ["bash", "-o", "pipefail", "-c", script]
    variables = {**os.environ, **environment}
    return subprocess.run(shell, check=False, capture_output=True, env=variables)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    done = _as_a_process("induction-lens zoo --json | true")  # gone before anything is printed
    assert (done.returncode, done.stdout, done.stderr) == (141, b"", b"")


@pytest.mark.slow
def test_a_log_in_ascii_gets_signs_that_it_knows_and_no_codes_of_bars(models):
    command = f"induction-lens heads {models}/bare --top 30"
    done = _as_a_process(command, PYTHONIOENCODING="ascii", COLUMNS="200", NO_COLOR="1")
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\r" not in done.stderr  # nor of those of libraries
    scores = score_heads(load(models / "bare", device="cpu"), detectors=["copying_weights"])
    lowest = scores["copying_weights"].values.min()
    assert f"{lowest:+.2f}".encode() in done.stdout


def test_version_and_help():
    assert _run("--version").stdout == f"induction-lens {il.__version__}\n"
    top = _run("--help").stdout
    cli_commands = ("report", "heads", "zoo", "train", "dynamics", "reproduce")
    assert all(command in top for command in cli_commands)
    listed = [line.split()[1] for line in top.splitlines() if line.startswith(("│ ", "| "))]
    places = [listed.index(command) for command in ("report", "heads", "zoo", "circuit")]
    assert places == sorted(places)
    for command in ("report", "heads", "train", "dynamics", "reproduce"):
        assert f"induction-lens {command}" in _run(command, "--help").stdout  # an example to copy


def test_no_color_means_no_escape_codes(monkeypatch):
    """Not even bold: https://no-color.org; a terminal without the variable gets it."""
    from induction_lens.cli import common

    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert common._console().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert common._console().color_system is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("induction-lens report toy-1", ["toy-1l", "toy-1l-smeared"]),
        ("induction-lens family toy-2l toy-2l-n", ["toy-2l-narrow"]),
        ("induction-lens compare toy-2l toy-1l-", ["toy-1l-smeared"]),
        ("induction-lens train --preset family-96", None),
        ("induction-lens train --preset mark", ["markov"]),
        ("induction-lens track EleutherAI/pythia-160m-d", ["EleutherAI/pythia-160m-deduped"]),
    ],
)
def test_a_shell_completes_names(line, expected, monkeypatch):
    if expected is None:
        expected = sorted(name for name in FAMILY_PRESETS if name.startswith("family-96"))
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    monkeypatch.setenv("_INDUCTION_LENS_COMPLETE", "complete_bash")
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli.app, [], prog_name="induction-lens")
    assert sorted(done.stdout.split()) == expected
