"""What callers pass as text: tokenizers in any state, files of any kind, names that are wrong."""

import gzip
import hashlib
import json
import os
import time
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, GPT2Config, PreTrainedTokenizerFast

import induction_lens as il
from induction_lens.inputs import corpus, reading
from induction_lens.inputs.corpus import BOS, encode, train_tokenizer
from induction_lens.models import bos_id, ordinary_ids
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.toys.snapshots import save
from tests.conftest import IMPLEMENTATIONS
from tests.hf_folders import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("_as_users_call")

TEXT = ["def function(argument): return argument + 1\n" * 9, "return 1\n" * 40]


def _digest(tokens):
    return hashlib.sha256(tokens.long().cpu().numpy().tobytes()).hexdigest()[:16]


def _model(tokenizer=None, *, d_vocab=311, n_ctx=128, implementation="bridge"):
    config = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=d_vocab, n_ctx=n_ctx)
    return build_toy(config, implementation=implementation, device="cpu", tokenizer=tokenizer)


@pytest.fixture
def model():
    return _model(tiny_tokenizer())


# --- The same seed gives the same tokens, for ever ---


@pytest.mark.parametrize("name", ["toy-1l", "toy-2l-narrow"])
def test_tokens_of_the_shipped_toys_are_those_of_the_published_numbers(name):
    toy = il.load(name, device="cpu")
    assert (bos_id(toy), len(ordinary_ids(toy))) == (0, 1885)
    assert _digest(ordinary_ids(toy)) == "903883be41b01f93"
    assert _digest(il.repeated_random_tokens(toy)) == "faaf87971834e0e7"
    few = il.repeated_random_tokens(toy, n_tokens=7, n_repeats=2, n_sequences=3, seed=5)
    assert _digest(few) == "64784a1c3fa63b1a"
    text = [f"def f_{i}(x):\n    return x + {i}\n\n" * (3 + i % 5) for i in range(60)]
    options = dict(n_sequences=5, seq_len=24, seed=2)
    packed = il.text_tokens(toy, source=text, **options)
    dropped = il.text_tokens(toy, source=text, short_documents="drop", **options)
    assert packed[0, :8].tolist() == [0, 329, 286, 63, 1523, 8, 88, 319]
    assert (_digest(packed), _digest(dropped)) == ("ac57f9ff8de73eeb", "ca4d8cdf4223e59d")


# --- The tokenizer's state ---


def _to_tokens(model):
    model.to_tokens(["x = 1", "y"])


def _call(model):
    model.tokenizer(["a b c"] * 2, padding=True, truncation=True, max_length=2)


def _set_backend(model):
    model.tokenizer.backend_tokenizer.enable_truncation(5)
    model.tokenizer.backend_tokenizer.enable_padding(length=900, direction="left")


def _set_attributes(model):
    model.tokenizer.model_max_length = 4
    model.tokenizer.padding_side = "left"
    model.tokenizer.add_bos_token = True
    model.tokenizer.split_special_tokens = True


def _encode_special(model):
    model.tokenizer.backend_tokenizer.encode_special_tokens = True


def _drop_merges(model):
    model.tokenizer.backend_tokenizer.model.dropout = 0.5


def _state(tokenizer):
    backend = tokenizer.backend_tokenizer
    names = ("model_max_length", "padding_side", "add_bos_token", "split_special_tokens")
    return (
        backend.to_str(),
        backend.padding,
        backend.truncation,
        backend.encode_special_tokens,
        backend.model.dropout,
        [getattr(tokenizer, name, None) for name in names],
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "disturb", [_to_tokens, _call, _set_backend, _set_attributes, _encode_special, _drop_merges]
)
@pytest.mark.parametrize("short_documents", ["pack", "drop"])
def test_the_state_of_the_tokenizer_neither_counts_nor_changes(
    disturb, short_documents, implementation
):
    model = _model(tiny_tokenizer(), implementation=implementation)
    text = [*TEXT, "argument <s> return <s>\n" * 30]
    options = dict(text=text, n_sequences=2, seq_len=32, short_documents=short_documents)
    before = il.text_tokens(model, **options)
    disturb(model)
    state = _state(model.tokenizer)
    assert torch.equal(il.text_tokens(model, **options), before)
    assert _state(model.tokenizer) == state


def test_slow_tokenizers_encode_whole_and_as_text():
    slow = ByT5Tokenizer(model_max_length=3)
    texts = ["naïve </s> text", "<extra_id_0>", "a\r\n\tb" * 50]
    assert list(encode(texts, slow)) == [[3 + byte for byte in text.encode()] for text in texts]
    assert slow("</s>", add_special_tokens=False).input_ids == [1]


def test_a_tokenizer_that_cannot_be_copied_is_refused():
    class Lines:
        def pre_tokenize(self, text):
            text.split(lambda _, part: [part])

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Lines())
    with pytest.raises(ValueError, match="a tokenizer that can be copied"):
        list(encode(TEXT, tokenizer))


# --- Special tokens in a text ---


@pytest.mark.parametrize("marked", [True, False])
def test_special_tokens_in_a_text_are_text(marked):
    tokenizer = train_tokenizer(TEXT, vocab_size=290)
    tokenizer.add_tokens([AddedToken("<|end|>", special=marked), AddedToken("    ")])
    tokenizer.eos_token = "<|end|>"
    text = f"x{BOS}y<|end|>z    "
    [ids] = encode([text], tokenizer)
    assert not {0, tokenizer.eos_token_id} & set(ids)
    assert ids[-1] == tokenizer.convert_tokens_to_ids("    ")  # added, but not special
    assert tokenizer.decode(ids) == text
    assert tokenizer(text).input_ids != ids


def test_special_tokens_that_can_only_be_special_are_refused():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "one": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>")
    assert list(encode(["one two <unk>"], tokenizer)) == [[2, 0, 0]]
    with pytest.raises(ValueError, match=r"special tokens, got '<s>' in .* 'one <s>'"):
        list(encode(["one <s>"], tokenizer))


def test_an_ordinary_word_that_ends_texts_is_still_a_word(model):
    model.tokenizer.eos_token = "def"
    rows = il.text_tokens(model, text=TEXT, n_sequences=2, seq_len=32)
    assert model.tokenizer.convert_tokens_to_ids("def") in rows


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", "bad \ud83d here"], "lone surrogate at character 4 of the text that begins 'bad"),
        ("one text", "several texts, got a single string"),
    ],
)
def test_texts_that_cannot_be_encoded_are_refused(texts, message, model):
    with pytest.raises(ValueError, match=message):
        list(encode(texts, model.tokenizer))


# --- Vocabularies ---


@pytest.fixture
def larger():
    """A model whose tokenizer has one id more than the model."""
    tokenizer = tiny_tokenizer()
    d_vocab = len(tokenizer)
    tokenizer.add_tokens(["€€"])
    model = _model(d_vocab=d_vocab)
    model.tokenizer = tokenizer
    return model


def test_a_tokenizer_with_more_ids_than_the_model_is_no_obstacle(larger):
    d_vocab = larger.cfg.d_vocab
    assert larger.tokenizer.convert_tokens_to_ids("€€") == d_vocab
    same = _model(tiny_tokenizer(), d_vocab=d_vocab)
    assert torch.equal(ordinary_ids(larger), ordinary_ids(same))
    assert torch.equal(il.repeated_random_tokens(larger), il.repeated_random_tokens(same))
    options = dict(n_sequences=2, seq_len=32)
    text = [*TEXT, "€ and € but never both\n"]
    rows = [il.text_tokens(model, text=text, **options) for model in (larger, same)]
    assert torch.equal(*rows)
    scores = il.score_heads(larger, detectors=["induction"], progress=False)["induction"]
    assert torch.isfinite(scores.values).all()
    with pytest.raises(ValueError, match=rf"the model's {d_vocab} tokens, got '€€', .* {d_vocab} "):
        il.text_tokens(larger, text=["€€" * 99], **options)


def test_a_toy_with_a_larger_tokenizer_is_built_saved_and_loaded(larger, tmp_path):
    """As `transformers` allows: what a text may not use is found when a text uses it."""
    tokenizer = train_tokenizer(TEXT * 9, vocab_size=270)
    config = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=len(tokenizer) - 1, n_ctx=64)
    with pytest.raises(ValueError, match=r"with the token .* got one without"):
        save(
            build_toy(config, device="cpu", tokenizer=larger.tokenizer),
            tmp_path,
            step=0,
            tokens_seen=0,
        )
    toy = build_toy(config, device="cpu", tokenizer=tokenizer)
    loaded: Any = il.load(save(toy, tmp_path, step=0, tokens_seen=0).path, device="cpu")
    assert len(loaded.tokenizer) == config.d_vocab + 1
    assert torch.equal(
        il.repeated_random_tokens(loaded, n_tokens=9), il.repeated_random_tokens(toy, n_tokens=9)
    )


def test_ordinary_ids_exist_and_are_not_special():
    vocabulary = {"<unk>": 0, "<s>": 2, "a": 3, "b": 7, "c": 11, "d": 40, "e": 41}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>")
    tokenizer.add_tokens([AddedToken("<reserved>", special=True), AddedToken("  ")])
    reserved, spaces = (tokenizer.convert_tokens_to_ids(token) for token in ("<reserved>", "  "))
    model = _model(d_vocab=97)  # padded beyond the tokenizer
    model.tokenizer = tokenizer
    expected = sorted({3, 7, 11, 40, 41, spaces} - {reserved})
    assert ordinary_ids(model, exclude_fraction=0).tolist() == expected
    assert ordinary_ids(model, exclude_fraction=0.2).tolist() == expected[1:-1]
    small = _model(d_vocab=12)
    small.tokenizer = tokenizer
    assert ordinary_ids(small, exclude_fraction=0).tolist() == [i for i in expected if i < 12]
    drawn = il.repeated_random_tokens(small, n_tokens=3, n_repeats=2)
    assert set(drawn[:, 1:].flatten().tolist()) <= set(expected)


@pytest.mark.parametrize("fraction", [-0.1, 0.5, float("nan")])
def test_a_fraction_that_leaves_nothing_is_refused(model, fraction):
    with pytest.raises(
        ValueError, match=r"exclude_fraction to be a finite .* of at least 0 and below 0\.5"
    ):
        ordinary_ids(model, exclude_fraction=fraction)


def test_bos_is_one_that_the_model_has(larger):
    larger.tokenizer.bos_token = "€€"
    larger.tokenizer.eos_token = "def"
    assert bos_id(larger) == larger.tokenizer.convert_tokens_to_ids("def")


def test_several_configured_end_tokens_count_in_their_order():
    model = _model(d_vocab=50)
    config = GPT2Config(bos_token_id=None, eos_token_id=[50256, 13, 12])
    object.__setattr__(model.original_model, "config", config)
    assert bos_id(model) == 13


def test_what_is_no_hugging_face_tokenizer_is_refused(model, monkeypatch):
    backend = model.tokenizer.backend_tokenizer
    monkeypatch.setattr(type(model), "tokenizer", backend)
    with pytest.raises(ValueError, match="a Hugging Face tokenizer, got Tokenizer; wrap it"):
        il.text_tokens(model, text=TEXT)


# --- Draws ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_tokens=2.0), "n_tokens to be a whole .* of at least 1, got 2.0"),
        (dict(n_tokens=(1, 2, 3)), "n_tokens to be one or two whole numbers, got"),
        (dict(n_repeats=True), "n_repeats to be a whole .* of at least 1, got True"),
        (dict(n_sequences=-1), "n_sequences to be a whole number from 1 to .*, got -1"),
        (dict(seed="a"), "seed to be a whole number from 0 to .*, got 'a'"),
        (dict(seed=2**64), "seed to be a whole number"),
        (dict(ids=[5, 6, 6], n_tokens=2), "different ids"),
        (dict(ids=[5.0, 6.0], n_tokens=2), "list of token ids, got torch.float32"),
        (dict(ids=[[5, 6]], n_tokens=2), r"got torch.int64 of shape \[1, 2\]"),
        (dict(ids=[], n_tokens=1), "one at least"),
        (dict(ids="ab", n_tokens=1), "ids to be token ids, got 'ab'"),
        (dict(ids=[-1, 3], n_tokens=1), "ids from 0 to 310, got ids from -1 to 3"),
    ],
)
def test_impossible_draws_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        il.repeated_random_tokens(model, **options)


@pytest.mark.parametrize("tokens", ["text", [0.5, 1.5], torch.zeros(0, 3)])
def test_only_sequences_are_shuffled(tokens):
    with pytest.raises(ValueError, match=r"expected tokens .*; pass token ids of one length"):
        il.inputs.shuffled(tokens)


# --- Names and texts ---

NAMES = ["corpus.txt", "notes.md", "my corpus.txt", "folder", "deep/inner/file.py"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with files, each of which holds its own name."""
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_strings_that_exist_are_read(folder, name):
    assert reading.documents(name) == [f"in {name}"]
    assert reading.documents(folder / name) == [f"in {name}"]
    assert reading.texts(name) == [name]


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        ("corpus.tx", "corpus.txt"),
        ("my corpsu.txt", "my corpus.txt"),
        ("./corpsu.txt", "corpus.txt"),
        ("folderr", "folder"),
        ("corpus.txt/inner", None),
        ("deep/iner/file.py", "deep/inner"),
        ("deep/inner/fiel.py", "deep/inner/file.py"),
        ("deep/inner/else", None),
        ("deeep/file.py", "deep"),
        ("/nowhere/at/all", None),
        ("C:\\texts\\a b", None),
        ("wikitext", None),
        ("some words.json", None),
    ],
)
@pytest.mark.parametrize("kind", [str, list, "path"])
def test_names_that_do_not_exist_are_refused_with_the_closest(folder, wrong, close, kind):
    item = {str: wrong, list: ["a text of several words", wrong]}.get(kind, folder / wrong)
    known = str(folder / close) if kind == "path" and close else close
    remedy = f"did you mean {known!r}?" if close else "check the spelling"
    with pytest.raises(ValueError, match="which does not exist; ") as caught:
        reading.documents(item)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "word " * 52,  # 260 characters on one line: too long for a name
        "x" * 300,
        "and/or " * 50,
        "two words",
        "This is version 2.0",
        "Ends with a stop.",
        "import os\nimport re",
        "a\0b",
        "noch ein Wörtchen",
    ],
)
def test_other_strings_are_text(folder, text):
    assert reading.documents(text) == [text]


@pytest.mark.parametrize("text", ["word", "corpus.tx", "a/b", "no/such-dataset-here", "ü" * 256])
def test_strings_said_to_be_text_are(text):
    assert reading.texts([text, "another"]) == [text, "another"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(text=3), "text to be a string or a list of them, got int"),
        (dict(text={"a": "b"}), "text to be a string or a list of them, got dict"),
        (dict(text=["a", b"b"]), "text to be a string or strings, got bytes at 1"),
        (dict(text=["a\ud800" * 99]), "lone surrogate at character 1"),
        (dict(text=["", " \n", "\ufeff"]), "a source with text, got an empty one"),
        (dict(text="a", source="b"), "expected source or text, got both"),
        (dict(source=b"corpus.txt"), "source to be a string or a list of them, got bytes"),
        (dict(source=["corpus.txt", 3]), "files, folders, texts or names of data sets, got int"),
        (dict(source=[]), "a source with text, got an empty one"),
        (
            dict(source="corpus.txt", encoding="klingon"),
            "encoding to be an encoding that Python knows",
        ),
        (dict(seq_len=2.5), "seq_len to be a whole number from 2 to .*, got 2.5"),
        (dict(seed=None), "seed to be a whole number"),
    ],
)
def test_what_is_no_text_is_refused(folder, model, options, message):
    with pytest.raises(ValueError, match=message):
        il.text_tokens(model, **dict(n_sequences=1, seq_len=9) | options)


def test_repeated_documents_count_once(folder):
    assert reading.documents(["corpus.txt", folder / "corpus.txt", "folder"]) == [
        "in corpus.txt",
        "in folder",
    ]
    assert reading.texts(["b", "a", "b"]) == ["b", "a"]


# --- Data sets ---


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_data_set_that_cannot_be_had_is_one_line_at_once(monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline == "1")

    def unreachable(*arguments, **options):
        raise OSError("no network\nat all")

    if offline == "0":
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="a Hugging Face dataset with a 'text' column") as caught:
        reading.documents("no/such-dataset-here")
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)


def test_rows_of_a_data_set_are_documents(monkeypatch):
    from datasets import Dataset

    rows = Dataset.from_dict({"body": ["one", "", "two", None]}).to_iterable_dataset()
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr("datasets.load_dataset", lambda name, **_: rows)
    assert reading.documents("some/data-set", column="body") == ["one", "two"]
    with pytest.raises(ValueError, match="the column 'text', got body in some/data-set; pass col"):
        reading.documents("some/data-set")


# --- Files ---


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("naïve\r\n".encode(), None),
        ("\ufeffnaïve\n".encode(), None),
        ("\ufeffnaïve\n".encode(), "utf-8"),
        ("naïve\n".encode("utf-16"), None),
        ("\ufeffnaïve\r".encode("utf-16-be"), None),
        ("naïve\n".encode("utf-32"), None),
        ("naïve\n".encode("latin-1"), "latin-1"),
        ("naïve\n".encode("utf-16-le"), "utf-16-le"),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ""])
def test_encodings_and_byte_order_marks(tmp_path, data, encoding, suffix):
    file = tmp_path / f"text{suffix}"
    file.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert reading.documents(file, encoding=encoding) == ["naïve\n"]
    assert reading.documents(tmp_path, encoding=encoding) == ["naïve\n"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.txt",
            "naïve".encode("latin-1"),
            r"text in utf-8, got .*a\.txt, which is not at byte 2",
        ),
        ("a.txt", b"\xff\xfea", r"text in utf-16, got .*a\.txt, which is not"),
        ("a.txt", "abc".encode("utf-16-le"), r"a\.txt, which has zero bytes: .* encoding="),
        ("a.txt.gz", b"no gzip", r"a file that can be read, got .*a\.txt\.gz \(Not a gzipped"),
        (
            "a.txt.gz",
            gzip.compress(b"text" * 99, mtime=0)[:-9],
            r"a file that can be read, got .*a\.txt\.gz",
        ),
        ("a.txt", b"", r"with text, got an empty one, .*a\.txt"),
        ("a.txt", b" \n", r"with text, got an empty one, .*a\.txt"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"JSON, got .*a\.jsonl, line 2"),
        ("a.jsonl", b'["a"]', r"a JSON object, got list in .*a\.jsonl, line 1"),
        (
            "a.jsonl",
            b'{"id": 3, "body": "a"}',
            r"column 'text', got id, body in .*a\.jsonl, line 1",
        ),
        ("a.jsonl", b'{"text": 3}', r"text in the column 'text' of .*a\.jsonl, got int"),
        ("a.parquet", b"no parquet", r"a Parquet file, got .*a\.parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, data, message):
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        reading.documents(str(file))
    assert "\n" not in str(caught.value)


ROWS = [{"id": 1, "text": "one\n", "body": "eins"}, {"id": 2, "text": "two\u2028", "body": "zwei"}]


def test_json_lines_are_read_by_a_column(tmp_path):
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "rows.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("rows.jsonl", "rows.ndjson.gz"):
        assert reading.documents(tmp_path / name) == ["one\n", "two\u2028"]
        assert reading.documents(tmp_path / name, column="body") == ["eins", "zwei"]
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": "a" * 40 + "\ud800"}))
    with pytest.raises(ValueError, match="lone surrogate at character 40"):
        il.text_tokens(_model(tiny_tokenizer()), source=tmp_path / "bad.jsonl", seq_len=9)


def test_parquet_is_read_by_a_column(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert reading.documents(tmp_path / "rows.parquet") == ["one\n", "two\u2028"]
    assert reading.documents(tmp_path, column="body") == ["eins", "zwei"]
    with pytest.raises(ValueError, match=r"'words', got id, text, body in .*rows\.parquet; pass c"):
        reading.documents(tmp_path, column="words")
    with pytest.raises(ValueError, match=r"text in the column 'id' of .*rows\.parquet, got int"):
        reading.documents(tmp_path, column="id")


def test_of_a_folder_hidden_cached_and_binary_files_are_left_out(tmp_path):
    hidden = [".git/config", ".ipynb_checkpoints/a.py", ".env", "b/.hidden", "b/__pycache__/a.py"]
    for name in ["b/c.py", "a.py", "b.txt", *hidden]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert reading.documents(tmp_path) == ["a.py", "b/c.py", "b.txt"]
    assert reading.documents(tmp_path / ".git") == [".git/config"]
    (tmp_path / "old.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text in utf-8, got .*old\.txt"):
        reading.documents(tmp_path)


def test_a_folder_without_text_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=f"with text, got an empty one, {tmp_path}"):
        reading.documents(["a text beside it", tmp_path])


def test_a_pipe_is_read_like_a_file(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe")
    os.close(writer)
    assert reading.documents(f"/dev/fd/{reader}") == ["through a pipe"]
    os.close(reader)


# --- The corpus's own inputs ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: corpus.pack(TEXT, t, 7, n_sequences=0),
            "n_sequences to be a whole .* of at least 1, got 0",
        ),
        (
            lambda t: corpus.pack(TEXT, t, 2.0),
            "seq_len to be a whole .* of at least 2, got 2.0",
        ),
        (lambda t: corpus.pack("text", t, 7), "several texts, got a single string"),
        (lambda t: train_tokenizer("text"), "several texts, got a single string"),
        (
            lambda t: train_tokenizer(TEXT, 300.0),
            "vocab_size to be a whole .* of at least 257, got 300.0",
        ),
        (lambda t: corpus.python_files(["/nowhere"]), "folders to search, got /nowhere"),
    ],
)
def test_bad_input_to_the_corpus_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny_tokenizer())


def test_one_root_may_be_a_string(tmp_path):
    (tmp_path / "a.py").write_text("x")
    assert [file.name for file in corpus.python_files(str(tmp_path))] == ["a.py"]


# --- Data frames ---


def test_a_data_frame_is_read_by_a_column():
    frame = pd.DataFrame({"id": [1, 2, 3, 4], "body": ["one", None, " ", "a.txt"]})
    assert reading.documents(frame, column="body") == ["one", "a.txt"]
    assert reading.documents(reading.TextSource(frame, column="body")) == ["one", "a.txt"]
    assert il.inputs.texts_in(frame, column="body") == ["one", "a.txt"]
    missing = pd.Series(["one", pd.NA, "two"], dtype="string")
    assert reading.documents(missing) == ["one", "two"]
    assert reading.data_set_of(reading.TextSource(pd.DataFrame({"org/name": ["x"]}))) is None


@pytest.mark.parametrize(
    ("frame", "column", "said"),
    [
        ({"body": ["one"]}, "text", "the column 'text', got body in the data frame; pass column="),
        ({"body": ["one"]}, "bdy", "in the data frame; did you mean 'body'"),
        ({"text": [3]}, "text", "text in the column 'text' of the data frame, got int; name anoth"),
        ({"text": [None]}, "text", "a source with text, got an empty one"),
    ],
)
def test_what_a_data_frame_lacks_is_said(frame, column, said):
    with pytest.raises(ValueError, match=said):
        reading.documents(pd.DataFrame(frame), column=column)


def test_names_of_columns_are_no_texts():
    frame = pd.DataFrame({"one": ["a"], "two": ["b"]})
    with pytest.raises(ValueError, match="expected text to be one column, got a DataFrame"):
        reading.texts(frame)
    twice = pd.concat([frame, frame], axis=1)
    with pytest.raises(ValueError, match="one column 'one', got 2 of that name"):
        reading.documents(twice, column="one")


@pytest.mark.parametrize("read", [reading.documents, reading.texts])
def test_sets_have_no_order_that_can_be_repeated(read):
    with pytest.raises(ValueError, match=r"to be in order, got .*; pass a list"):
        read({"one text", "another text"})


def test_of_too_little_text_it_says_how_much_there_is():
    model = il.load("toy-2l-narrow", device="cpu")
    text = model.tokenizer.decode([100] * 15)
    enough = len(il.sample_text(model, text=text, n_sequences=None, seq_len=8))
    assert enough > 1
    said = f"got enough for {enough}; ask for at most {enough}, ask for shorter ones"
    with pytest.raises(ValueError, match=said):
        il.sample_text(model, text=text, n_sequences=enough + 1, seq_len=8)
