"""The corpus: which files, which split, and how text becomes sequences."""

import hashlib
import inspect
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from induction_lens.inputs.corpus import (
    BOS,
    documents,
    is_held_out,
    load_tokenizer,
    pack,
    prose_files,
    python_files,
    tokenizer_json,
    train_tokenizer,
)

TEXTS = ["def double(x):\n    return 2 * x\n" * 8, "naïve = 'café ∑'\n" * 8, "\tif x:\r\n  pass"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=290)


def _name(held_out: bool, *, start: int = 0) -> str:
    """A file name of one part of the split."""
    names = (f"package/file_{i}.py" for i in range(start, start + 1000))
    return next(name for name in names if is_held_out(name) == held_out)


def _write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_the_split_is_the_one_that_was_published():
    # By hand: the last decimal digit of the SHA-256 of the name.
    digits = {
        name: int(str(int(hashlib.sha256(name.encode()).hexdigest(), 16))[-1])
        for name in ("json/decoder.py", "ast.py", "torch/nn/functional.py", "os.py")
    }
    assert {name: is_held_out(name) for name in digits} == {
        name: digit == 0 for name, digit in digits.items()
    }
    held_out = [is_held_out(f"file_{i}.py") for i in range(4000)]
    assert 0.08 < sum(held_out) / len(held_out) < 0.12


def test_names_are_paths_inside_the_root_and_tables_and_nested_packages_stay_out(tmp_path):
    _write(tmp_path, "b.py", "x")
    _write(tmp_path, "a/b.py", "x")
    _write(tmp_path, "a/note.txt", "x")
    _write(tmp_path, "a/table.py", "x" * 1_000_001)
    _write(tmp_path, "site-packages/a.py", "x")
    _write(tmp_path, "a/__pycache__/b.py", "x")
    assert [file.name for file in python_files([tmp_path])] == ["a/b.py", "b.py"]


def test_the_standard_library_is_named_from_its_own_folder():
    files = {file.name: file.path for file in python_files(origin="stdlib")}
    assert files["json/decoder.py"].is_file()
    assert not any("site-packages" in name for name in files)
    packages = {file.name for file in python_files(origin="packages")}
    assert "torch/nn/functional.py" in packages
    assert "json/decoder.py" not in packages


def test_a_training_copy_of_a_held_out_file_is_dropped(tmp_path):
    held_out, train, copied, doubled = (
        _name(True),
        _name(False),
        _name(False, start=100),
        _name(False, start=200),
    )
    secret, lesson = "secret = 1\n" * 30, "lesson = 1\n" * 30
    _write(tmp_path, held_out, secret)
    _write(tmp_path, copied, secret)
    _write(tmp_path, train, lesson)
    _write(tmp_path, doubled, lesson)
    assert documents("train", roots=[tmp_path]) == [lesson]
    assert documents("held_out", roots=[tmp_path]) == [secret]


def test_short_and_undecodable_files_are_left_out(tmp_path):
    good = "good = 1\n" * 30
    _write(tmp_path, _name(False), good)
    _write(tmp_path, _name(False, start=100), "x" * 199)
    _write(tmp_path, _name(False, start=200), b"\xff" * 300)
    assert documents("train", roots=[tmp_path]) == [good]


def test_no_training_text_is_held_out_text(monkeypatch, tmp_path):
    """The drop reaches over origins: packages carry copies of the standard library's files."""
    stdlib, packages = tmp_path / "lib", tmp_path / "packages"
    paths = {"stdlib": str(stdlib), "purelib": str(packages), "platlib": str(packages)}
    monkeypatch.setattr("sysconfig.get_paths", lambda: paths)
    text = "shared = 1\n" * 30
    _write(stdlib, _name(True), text)
    _write(packages, _name(False), text)
    _write(packages, _name(False, start=100), "own = 1\n" * 30)
    assert documents("train", origin="packages") == ["own = 1\n" * 30]
    assert documents("train") == ["own = 1\n" * 30]
    assert documents("held_out", origin="packages") == []


def test_documentation_is_listed_by_its_endings_and_licences_stay_out(tmp_path):
    for name in (
        *("readme.md", "a/guide.rst", "a/notes.txt", "a/b.py", "a/data.csv", "a/page.html"),
        *("LICENSE.txt", "a/licences/copying.md", "a/NOTICE.txt", "a/AUTHORS.rst"),
        *("a-1.dist-info/METADATA", "a-1.dist-info/top_level.txt", "b.egg-info/PKG-INFO"),
        *("a-1.dist-info/licenses/README.md", "METADATA", "site-packages/c.md"),
    ):
        _write(tmp_path, name, "x")
    assert [file.name for file in prose_files([tmp_path])] == [
        *("a-1.dist-info/METADATA", "a/guide.rst", "a/notes.txt", "b.egg-info/PKG-INFO"),
        "readme.md",
    ]


def test_prose_is_the_body_of_a_description_and_pages_of_words(tmp_path):
    words, table = "Plain words, one after another. " * 10, "1.25, 2.50, 3.75\n" * 30
    named = {held_out: _dist_info(held_out) for held_out in (True, False)}
    for name in named.values():
        _write(tmp_path, name, f"Metadata-Version: 2.1\nName: a\nSummary: {name}\n\n{words}{name}")
    _write(tmp_path, "empty.dist-info/METADATA", f"Name: b\nSummary: {words}\n")
    _write(tmp_path, "table.txt", table)
    _write(tmp_path, "code.py", "x = 1\n" * 100)
    assert documents("held_out", kind="prose", roots=[tmp_path]) == [f"{words}{named[True]}"]
    assert documents("train", kind="prose", roots=[tmp_path]) == [f"{words}{named[False]}"]


def _dist_info(held_out: bool) -> str:
    names = (f"package_{i}.dist-info/METADATA" for i in range(1000))
    return next(name for name in names if is_held_out(name) == held_out)


SOURCE = '''\
"""The module says this."""

import os


class Thing:
    """A thing.

        Indented once.

    The end.
    """

    async def later(self):
        """Comes later."""

    def silent(self):
        return "no docstring"


def first():
    """Raw \\d, doubtful."""

    def inner():
        """Inside."""
'''
DOCSTRINGS = (
    "The module says this.\n\nA thing.\n\n    Indented once.\n\nThe end.\n\nComes later.\n\n"
    "Raw \\d, doubtful.\n\nInside."
)


def test_docstrings_of_a_file_are_one_document_in_its_part_of_the_split(tmp_path):
    end = "\n\ndef last():\n    " + '"""' + "Words.\n" * 40 + '"""\n'
    expected = DOCSTRINGS + "\n\n" + ("Words.\n" * 40).strip()
    _write(tmp_path, _name(True), SOURCE + end)
    _write(tmp_path, _name(False), SOURCE + end + "# the same words, in another file\n")
    _write(tmp_path, _name(False, start=100), SOURCE + "x = 1\n" * 100)  # too little prose
    _write(tmp_path, _name(False, start=200), "print 'Python 2'\n" * 30)
    own = '"""' + "Own words." * 30 + '"""\n'
    _write(tmp_path, _name(False, start=300), own)
    assert documents("held_out", kind="prose", roots=[tmp_path]) == [expected]
    assert documents("train", kind="prose", roots=[tmp_path]) == ["Own words." * 30]


def test_all_kinds_are_code_then_pages_then_docstrings(tmp_path):
    docstring = "Words of a docstring." * 30
    code = f'"""{docstring}"""\n'
    page = "Words of a page. " * 30
    _write(tmp_path, _name(False), code)
    _write(tmp_path, next(f"{i}.md" for i in range(99) if not is_held_out(f"{i}.md")), page)
    assert documents("train", kind="all", roots=[tmp_path]) == [code, page, docstring]
    assert documents("train", roots=[tmp_path]) == [code]
    assert documents("train", kind="prose", roots=[tmp_path]) == [page, docstring]


def test_unknown_parts_are_refused():
    # Past the type checks of the test run, which users do not have.
    with pytest.raises(ValueError, match="expected split to be one of train, held_out, got 'test'"):
        inspect.unwrap(documents)("test")
    with pytest.raises(ValueError, match="one of code, prose, all, got 'verse'"):
        inspect.unwrap(documents)("train", kind="verse")
    with pytest.raises(ValueError, match="one of stdlib, packages, all, got 'web'"):
        inspect.unwrap(python_files)(origin="web")


def test_the_tokenizer_is_lossless_and_has_one_special_token(tokenizer, tmp_path):
    assert len(tokenizer) == 290
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.all_special_tokens == [BOS]
    for text in [*TEXTS, "unseen: \x00 \U0001f600"]:
        ids = tokenizer(text).input_ids
        assert 0 not in ids
        assert tokenizer.decode(ids) == text
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(tokenizer), encoding="utf-8")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert [again(text).input_ids for text in TEXTS] == [tokenizer(t).input_ids for t in TEXTS]


def test_bad_tokenizers_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    with pytest.raises(ValueError, match="at least 257, got 256"):
        train_tokenizer(TEXTS, vocab_size=256)
    with pytest.raises(ValueError, match="does not exist"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected a tokenizer file, got .*bad\.json"):
        load_tokenizer(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text(Tokenizer(models.BPE()).to_str(), encoding="utf-8")
    with pytest.raises(ValueError, match="expected a tokenizer with the token"):
        load_tokenizer(tmp_path / "other.json")


def test_packing_joins_documents_with_bos_and_loses_nothing_but_the_end(tokenizer):
    ids = [tokenizer(text).input_ids for text in TEXTS]
    stream = [*ids[0], 0, *ids[1], 0, *ids[2]]
    packed = pack(TEXTS, tokenizer, 7)
    assert packed.dtype == torch.int32
    assert packed[:, 0].tolist() == [0] * len(packed)
    assert packed[:, 1:].flatten().tolist() == stream[: len(stream) // 6 * 6]
    assert pack(TEXTS, tokenizer, 7, n_sequences=3).equal(packed[:3])
    assert pack(TEXTS, tokenizer, 7, n_sequences=10_000).equal(packed)
    assert pack([], tokenizer, 7).tolist() == []
    other = pack(TEXTS, tokenizer, 7, bos=5)
    assert other[:, 0].tolist() == [5] * len(other)


def test_packing_stops_reading_when_it_has_enough(tokenizer):
    def endless():
        while True:
            yield TEXTS[0]

    assert len(pack(endless(), tokenizer, 11, n_sequences=5)) == 5


def test_packing_refuses_what_cannot_be(tokenizer):
    with pytest.raises(ValueError, match=r"seq_len to be a whole .* of at least 2, got 1"):
        pack(TEXTS, tokenizer, 1)
    without_bos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="BOS token, got one without; pass bos"):
        pack(TEXTS, without_bos, 7)
