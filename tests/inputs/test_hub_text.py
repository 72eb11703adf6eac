"""Text from data sets on a hub on loopback, from columns, and from iterators."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import induction_lens as il
from induction_lens.inputs.reading import documents
from induction_lens.reports.model.evaluation import DEFAULT_TEXT, evaluation_data
from induction_lens.seals import read_tensors, tokens_digest
from tests.hf_folders import hugging_face_model

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
    monkeypatch.setenv("INDUCTION_LENS_CACHE", str(tmp_path / "kept"))
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


@pytest.mark.filterwarnings("ignore")
def test_tokens_of_a_data_set_are_kept(prose, tmp_path):
    model = il.load("toy-2l", device="cpu")
    source = il.inputs.TextSource(REPO, column="body")
    options = {"n_sequences": 3, "seq_len": 16, "seed": 1}
    expected = il.sample_text(model, text=documents(source), **options)
    first = il.sample_text(model, source=source, **options)
    n_requests = len(prose.requests)
    again = il.sample_text(model, source=source, **options)
    for found in (first, again):
        assert found.tokens.equal(expected.tokens)
        assert found.documents.equal(expected.documents)
    ids = [model.tokenizer.encode(one, add_special_tokens=False) for one in documents(source)]
    assert first.n_read == again.n_read == sum(map(len, ids))
    assert prose.requests[n_requests : n_requests + 1] == [f"GET /api/datasets/{REPO}"]
    kept = list((tmp_path / "kept" / "tokens").iterdir())
    assert len(kept) == 1
    tensors, about = read_tensors(kept[0], remedy="")
    assert tensors["ids"].tolist() == [i for one in ids for i in one]
    assert about["fingerprint"] == tokens_digest(tensors["ids"])
    assert about["commit"] == prose.commits[REPO, "main"]
    assert (about["split"], about["column"], about["tokens"]) == ("train", "body", first.n_read)


@pytest.mark.filterwarnings("ignore")
def test_what_is_kept_is_of_one_commit_split_column_and_tokenizer(prose, tmp_path):
    options = {"n_sequences": 2, "seq_len": 16}
    model, other = (il.load(name, device="cpu") for name in ("toy-2l", "toy-1l"))
    for of, given in (
        (model, {}),
        (model, {"split": "validation"}),
        (model, {"revision": "v2"}),
        (other, {}),
    ):
        source = il.inputs.TextSource(REPO, column="body", **given)
        expected = il.sample_text(of, text=documents(source), **options)
        for _ in range(2):
            assert il.sample_text(of, source=source, **options).tokens.equal(expected.tokens)
    assert len(list((tmp_path / "kept" / "tokens").iterdir())) == 4
    (tmp_path / "main" / "train.jsonl").write_text(_rows("changed"))
    prose.add(REPO, "main", tmp_path / "main")
    source = il.inputs.TextSource(REPO, column="body")
    found = il.sample_text(model, source=source, **options)
    assert found.tokens.equal(il.sample_text(model, text=documents(source), **options).tokens)
    assert len(list((tmp_path / "kept" / "tokens").iterdir())) == 5


@pytest.mark.filterwarnings("ignore")
def test_a_commit_that_is_kept_needs_no_network(prose, tmp_path, monkeypatch):
    model = il.load("toy-2l", device="cpu")
    commit = prose.commits[REPO, "v2"]
    source = il.inputs.TextSource(REPO, column="body", revision=commit)
    options = {"source": source, "n_sequences": 2, "seq_len": 16}
    expected = il.sample_text(model, **options)
    prose.requests.clear()
    assert il.sample_text(model, **options).tokens.equal(expected.tokens)
    assert prose.requests == []
    [kept] = (tmp_path / "kept" / "tokens").iterdir()
    content = bytearray(kept.read_bytes())
    content[-3] ^= 1
    kept.write_bytes(bytes(content))
    assert il.sample_text(model, **options).tokens.equal(expected.tokens)  # read again
    assert prose.requests
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="check the spelling and the network") as told:
        il.sample_text(model, source=il.inputs.TextSource(REPO, column="body"), seq_len=16)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_report_says_how_many_tokens_were_read_and_that_python_is_the_default():
    config = il.toys.ToyConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=1024, n_ctx=128)
    model = il.toys.build_toy(config, tokenizer=il.load("toy-2l").tokenizer, device="cpu")
    texts = [f"return {n} and yield {n * n} of them" for n in range(40)]
    data = evaluation_data(model, texts, n_sequences=2)
    ids = [model.tokenizer.encode(one, add_special_tokens=False) for one in texts]
    assert data.about.endswith(f", of which {sum(map(len, ids))} tokens were read")
    assert DEFAULT_TEXT not in data.notes
    assert DEFAULT_TEXT not in evaluation_data(model, n_sequences=2).notes
    pretrained = hugging_face_model("gpt2")
    assert DEFAULT_TEXT in evaluation_data(pretrained, n_sequences=2).notes
    assert DEFAULT_TEXT not in evaluation_data(pretrained, texts, n_sequences=2).notes
