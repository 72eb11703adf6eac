"""The code on "How do I …" and theory pages runs as it stands, on a small model and little text."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import transformers

import induction_lens as il
from induction_lens.reports.training.runs import SHIPPED
from tests.hf_folders import write_folder

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "pages"
HOW = sorted(path.stem for path in (PAGES / "how").glob("*.md") if path.stem != "index")
NAMES = [f"how/{name}" for name in HOW] + [
    f"theory/{path.stem}" for path in sorted((PAGES / "theory").glob("*.md"))
]
FAST = {"how/generate-without-heads", "how/my-jsonl", "how/my-text", "how/one-head-on-my-prompt"}
"""Of the pages, those whose code takes no time; the others are slow tests."""
FIVE_LINES = {
    *("one-head-on-my-prompt", "generate-without-heads", "my-model", "my-jsonl"),
    *("my-checkpoints", "my-task", "everything-on-one-page"),
}
"""What a new user does first: five statements at most."""
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    "sample_text": {"n_sequences": 8},
    "ablate": {"n_controls": 2},
    "report": {"n_sequences": 16, "n_controls": 2},
    "compare": {"n_sequences": 16, "n_controls": 2},
}
"""What calls get that do not say otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader has: a model, a text, checkpoints and a run."""
    folder = tmp_path_factory.mktemp("reader")
    write_folder("gpt2", folder / "path" / "to" / "my-model", tokenizer=False)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=311, n_positions=128, bos_token_id=0
    )
    for step in (0, 100, 200):
        model = transformers.GPT2LMHeadModel(config)
        model.save_pretrained(folder / "my-checkpoints" / f"step{step}")
    lines = [json.dumps({"body": f"x{n} = {n}\nprint(x{n})\n" * 90}) for n in range(8)]
    (folder / "mine.jsonl").write_text("\n".join(lines))
    shutil.copytree(SHIPPED / "phase-2l-seed-0", folder / "tracked-run")
    return folder


@pytest.fixture(scope="module")
def small():
    """The model that stands for the reader's."""
    return il.load("toy-2l-narrow")


@pytest.fixture
def _as_a_reader(folder, tmp_path, small, monkeypatch):
    """In a copy of the folder, where `gpt2` is small and calls are short."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    load, train = il.load, il.train
    monkeypatch.setattr(il, "load", lambda name: small if name == "gpt2" else load(name))
    monkeypatch.setattr(il, "train", lambda *args, **more: train(*args, **more | {"n_steps": 2}))
    for name, options in SMALLER.items():
        monkeypatch.setattr(il, name, _with(getattr(il, name), options))


def _with(function, options):
    return lambda *args, **more: function(*args, **{**options, **more})


def _blocks(name: str) -> list[str]:
    return BLOCK.findall((PAGES / f"{name}.md").read_text(encoding="utf-8"))


def test_there_are_twenty_of_them_and_each_is_listed():
    assert len(HOW) == 20
    index = (PAGES / "how" / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(([\w-]+)\.md\)", index)) == HOW
    navigation = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"how/([\w-]+)\.md", navigation)) == sorted([*HOW, "index"])


@pytest.mark.parametrize("name", HOW)
def test_a_page_is_short(name):
    assert len(_blocks(f"how/{name}")) == 1
    text = (PAGES / "how" / f"{name}.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30


@pytest.mark.parametrize("name", sorted(FIVE_LINES))
def test_what_a_new_user_does_first_takes_five_statements_at_most(name):
    [block] = _blocks(f"how/{name}")
    statements = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.stmt)]
    assert len(statements) <= 5


@pytest.mark.usefixtures("_as_a_reader", "_as_users_call")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in NAMES]
)
def test_the_code_of_a_page_runs(name, small):
    names = {"il": il, "model": small}
    assert _blocks(name)
    for block in _blocks(name):
        exec(compile(block, f"{name}.md", "exec"), names)
    if name == "how/save-what-i-found":
        assert {"induction", "previous_token"} <= set(pd.read_csv("scores.csv").columns)
        assert Path("scores.html").is_file()
    if name == "how/compare-two-models":
        assert names["found"].to_frame()["model"].nunique() == 2
