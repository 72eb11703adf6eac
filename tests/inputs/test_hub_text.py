"""Text from data sets on a hub on loopback, from columns, and from iterators."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import induction_lens as il
from induction_lens.inputs.reading import documents

REPO = "somebody/prose"


def _rows(word: str) -> str:
    return "".join(
        json.dumps({"body": f"{word} {n} says something of its own", "n": n}) + "\n"
        for n in range(5)
    )


@pytest.fixture
def prose(local_hub, tmp_path, monkeypatch):
    """A data set with two splits, and another revision."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", local_hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False, raising=False)
    for revision in ("main", "v2"):
        folder = tmp_path / revision
        folder.mkdir()
        for split in ("train", "validation"):
            (folder / f"{split}.jsonl").write_text(_rows(f"{revision} {split}"))
        local_hub.add(REPO, revision, folder)
    return local_hub


@pytest.mark.parametrize("revision", [None, "v2"])
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.filterwarnings("ignore")
def test_a_data_set_has_splits_columns_and_revisions(prose, split, revision):
    source = il.inputs.TextSource(REPO, column="body", split=split, revision=revision)
    found = documents(source)
    assert found == [
        f"{revision or 'main'} {split} {n} says something of its own" for n in range(5)
    ]
    assert prose.requests


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{"split": "test"}, {"revision": "v3"}, {"column": "text"}, {"split": ""}]
)
def test_what_a_data_set_has_not_is_one_line(prose, options):
    given = {"column": "body", **options}
    with pytest.raises(ValueError, match=r"^expected ") as told:
        documents(il.inputs.TextSource(REPO, **given))
    assert "\n" not in str(told.value)
    assert prose.repos


def test_a_column_and_an_iterator_hold_texts_whatever_they_look_like():
    names = ["readme.txt", "org/name", "one more text"]
    column = pd.Series([*names, None, float("nan")], name="text")
    assert documents(column) == names
    assert documents(iter(names)) == names
    model = il.load("toy-2l", device="cpu")
    text = ["a token after another token " * 30]
    expected = il.text_tokens(model, text=text, n_sequences=2, seq_len=32)
    assert il.text_tokens(model, source=iter(text), n_sequences=2, seq_len=32).equal(expected)
    with pytest.raises(ValueError, match="a string or strings, got int"):
        documents(pd.Series([1, 2]))
