"""Texts from anything that a caller names: files, folders, data sets, or the texts themselves.

What is named is read, or refused with the reason; a name is never taken for a text. `documents`
reads sources, in this order:

1. a path object is a file or folder, and must exist;
2. a string is one too if it exists;
3. a string `org/name` that the Hugging Face hub could hold is a data set there;
4. a string that looks like a name (one line that is one word, has a suffix such as `.txt`, or has a
   separator) is a mistake, and the closest name that exists is offered;
5. any other string is a text.

`texts` takes strings that are text, whatever they look like. Both leave out blank documents and
second copies of a document: a repeated text is exactly what an induction head predicts.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from induction_lens import checks
from induction_lens.inputs.data_sets import DataSet, check_column, strings_in


@dataclass(frozen=True)
class TextSource:
    """Sources of text, and how to read them.

    Examples:
        >>> from pathlib import Path
        >>> row = '{"body": "' + "one token after another " * 40 + '"}'
        >>> n_characters = Path("notes.jsonl").write_text(row)
        >>> source = il.inputs.TextSource("notes.jsonl", column="body")
        >>> il.text_tokens(il.load("toy-2l"), source=source, n_sequences=2, seq_len=32).shape
        torch.Size([2, 32])
    """

    source: str | Path | Sequence[str | Path] | Iterable[Any]
    """Files, folders, texts or names of data sets, as `documents` takes them."""
    column: str = "text"
    """The column of `.jsonl` and `.parquet` files, of data sets and of data frames that holds the
    text."""
    encoding: str | None = None
    """Of text files; None: UTF-8, or what a byte-order mark says."""
    split: str = "train"
    """The split of data sets on the hub."""
    revision: str | None = None
    """The branch, tag or commit of data sets on the hub; None: their main branch."""

    @property
    def items(self) -> list[str | Path]:
        """The sources, one by one."""
        return [self.source] if isinstance(self.source, (str, Path)) else list(self.source)


Source = str | Path | Sequence[str | Path] | Iterable[Any] | TextSource

_LONGEST_NAME = 255  # bytes: no common file system holds a longer one
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_SEPARATOR = re.compile(r"[/\\]")
_JSON_LINES = (".jsonl", ".ndjson")
# A data set's name may have dots too, but hardly ends like one of these.
_FILES = re.compile(
    r"\.(txt|md|rst|tex|log|html?|xml|csv|tsv|json|jsonl|ndjson|parquet|gz|zip|py|ipynb|c|h|cpp|js"
    r"|ts|java|go|rs)$",
    re.IGNORECASE,
)
_BYTE_ORDER_MARKS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def documents(
    source: Source,
    *,
    column: str = "text",
    encoding: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> list[str]:
    """The documents of some sources, each once, without blank ones.

    Files are text, `.jsonl` or `.parquet` (one document a row), plain or `.gz`. In a folder every
    file is read, except hidden ones, those in hidden folders and in `__pycache__`, and binary ones.

    Args:
        source: A file, a folder, a text, the name of a data set (`org/name`), or a list of these;
            a data frame, a column of one, or an iterator, whose strings are texts whatever they
            look like; or a `TextSource`, which says how to read them.
        column: The column of `.jsonl` and `.parquet` files, of data sets and of data frames that
            holds the text.
        encoding: Of text files; None: UTF-8, or what a byte-order mark says.
        split: Of data sets on the hub.
        revision: Of data sets on the hub: a branch, tag or commit; None: their main branch.

    Raises:
        ValueError: A source does not exist, cannot be read or decoded, or holds no text.
    """
    if isinstance(source, TextSource):
        kept = {"split": source.split, "revision": source.revision}
        return documents(source.source, column=source.column, encoding=source.encoding, **kept)
    if encoding is not None:
        _check_encoding(encoding)
    split = checks.text("split", split)
    revision = checks.text("revision", revision, optional=True)
    if _is_frame(source):
        return _kept(_in_frame(source, column))
    if _holds_texts(source):
        values: Any = source
        return texts(value for value in values if not _is_missing(value))
    items = [source] if isinstance(source, (str, PurePath)) else _items(source, "source")
    options = {"column": column, "split": split, "revision": revision}
    found: list[str] = []
    for item in items:
        if not isinstance(item, (str, PurePath)):
            raise ValueError(
                f"expected files, folders, texts or names of data sets, got "
                f"{type(item).__name__}; pass strings or paths"
            )
        if is_data_set(item):
            found += DataSet(str(item), **options).texts()
        else:
            found += _read(item, column=column, encoding=encoding)
    return _kept(found)


def texts_in(source: Source, *, column: str = "text", encoding: str | None = None) -> list[str]:
    """The texts in files, data sets or columns, such as prompts, one a row of a `.jsonl` file.

    They may be passed wherever tokens are taken; each is then a sequence of its own. For sequences
    of one length out of long texts, see `sample_text`.

    Args:
        source: As in `sample_text`.
        column: The column of `.jsonl` and `.parquet` files, of data sets and of data frames that
            holds the text.
        encoding: Of text files; None: UTF-8, or what a byte-order mark says.

    Returns:
        The texts, each once, without blank ones.

    Raises:
        ValueError: A source does not exist, cannot be read or decoded, or holds no text.

    Examples:
        >>> from pathlib import Path
        >>> lines = '{"prompt": "a b a b a b"}\\n{"prompt": "x = f(x) + f("}\\n'
        >>> n_characters = Path("prompts.jsonl").write_text(lines)
        >>> prompts = il.inputs.texts_in("prompts.jsonl", column="prompt")
        >>> prompts
        ['a b a b a b', 'x = f(x) + f(']
        >>> il.per_token_loss(il.load("toy-2l"), prompts).shape[0]
        2
    """
    return documents(source, column=column, encoding=encoding)


def data_set_of(
    source: Any, *, column: str = "text", encoding: str | None = None
) -> DataSet | None:
    """The data set on the hub that a source is, where it is that alone."""
    del encoding
    on_hub: dict[str, Any] = {"column": column}
    if isinstance(source, TextSource):
        on_hub = {"column": source.column, "split": source.split, "revision": source.revision}
        items = [] if _is_frame(source.source) else source.items
        source = items[0] if len(items) == 1 else None
    elif isinstance(source, (list, tuple)) and len(source) == 1:
        source = source[0]
    return DataSet(source, **on_hub) if isinstance(source, str) and is_data_set(source) else None


def _holds_texts(source: Any) -> bool:
    """Whether this is an iterator, or a column of a data frame: nobody lists files in these."""
    return isinstance(source, Iterator) or (hasattr(source, "to_numpy") and hasattr(source, "name"))


def _is_frame(source: Any) -> bool:
    return hasattr(source, "columns") and hasattr(source, "to_numpy")


def _in_frame(frame: Any, column: str) -> list[str]:
    """The texts in a column of a data frame, of pandas or polars."""
    names = [str(name) for name in frame.columns]
    check_column(column, names, "the data frame")
    if names.count(column) > 1:
        raise ValueError(
            f"expected one column {column!r}, got {names.count(column)} of that name in the data "
            "frame; rename them"
        )
    values = list(frame[frame.columns[names.index(column)]])
    found = [None if _is_missing(value) else value for value in values]
    return strings_in(found, column=column, where="the data frame")


def _is_missing(value: Any) -> bool:
    """Whether a cell of a column is empty; pandas has a value of its own for that."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, float) and math.isnan(value)


def texts(text: str | Iterable[str]) -> list[str]:
    """Strings that are text, whatever they look like: each once, without blank ones.

    Raises:
        ValueError: They are not strings, or hold no text.
    """
    if hasattr(text, "columns"):  # whose items are the names of its columns
        raise checks.refuse("text", "one column", text, "pass frame['text'], say")
    items = [text] if isinstance(text, str) else _items(text, "text")
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(
                f"expected text to be a string or strings, got {type(item).__name__} at {number}; "
                "pass files and folders as source"
            )
    return _kept(items)


def _items(given: Any, name: str) -> list[Any]:
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise ValueError(
            f"expected {name} to be a string or a list of them, got {type(given).__name__}; put "
            "what you have into a list"
        )
    if isinstance(given, (set, frozenset)):  # whose order changes from run to run
        raise checks.refuse(name, "in order", given, "pass a list")
    return list(given)


def _kept(found: Iterable[str]) -> list[str]:
    marked = (document.removeprefix("\ufeff") for document in found)
    kept = list(dict.fromkeys(document for document in marked if document.strip()))
    if not kept:
        raise ValueError(
            "expected a source with text, got an empty one; pass files, folders, strings, or the "
            "name of a dataset"
        )
    return kept


def _read(item: str | PurePath, *, column: str, encoding: str | None) -> list[str]:
    """The documents of one source."""
    blank = isinstance(item, str) and not item.strip()  # "" is the working directory as a path
    if not blank and os.path.exists(item):
        found = _read_path(Path(item), column=column, encoding=encoding)
        if not any(document.strip() for document in found):
            raise ValueError(
                f"expected a source with text, got an empty one, {item}; name another, or write "
                "text there"
            )
        return found
    if isinstance(item, PurePath):
        raise ValueError(f"expected a file or folder, got {_missing(Path(item))}")
    if blank or not _looks_like_a_name(item):
        return [item]
    raise ValueError(
        f"expected a file, a folder or a text, got {_missing(Path(item))}; where it is the text "
        "itself, pass it as text="
    )


def is_name(item: str | PurePath) -> bool:
    """Whether this names a file, a folder or a data set, and is no text."""
    if isinstance(item, PurePath) or os.path.exists(item):
        return True
    return bool(item.strip()) and _looks_like_a_name(item)


def is_data_set(item: str | PurePath) -> bool:
    """Whether this is read as the name of a data set on the hub."""
    if not isinstance(item, str) or not item.strip() or os.path.exists(item):
        return False
    return _looks_like_a_name(item) and _could_be_on_the_hub(item)


def _looks_like_a_name(item: str) -> bool:
    lines, parts = item.splitlines(), _SEPARATOR.split(item)
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    if len(lines) > 1 or "\0" in item or max(sizes) > _LONGEST_NAME:
        return False
    if not any(character.isspace() for character in item):
        return True
    named = len(parts) > 1 or _SUFFIX.search(item) is not None
    return named and len(item) <= _LONGEST_NAME


def _could_be_on_the_hub(item: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    owner, slash, name = item.partition("/")
    if not slash or _FILES.search(name) or os.path.exists(owner):
        return False
    try:
        validate_repo_id(item)
    except HFValidationError:
        return False
    return True


def closest_path(path: str | Path) -> str | None:
    """Of a path that does not exist, the closest name where its first wrong part should be."""
    wrong = Path(path)
    while not os.path.exists(wrong.parent):
        wrong = wrong.parent
    try:
        names = os.listdir(wrong.parent)
    except OSError:  # no folder, or not ours to read
        names = []
    close = difflib.get_close_matches(wrong.name, names, n=1)
    return str(wrong.parent / close[0]) if close else None


def _missing(path: Path) -> str:
    close = closest_path(path)
    remedy = f"did you mean {close!r}?" if close else "check the spelling"
    return f"{str(path)!r}, which does not exist; {remedy}"


def _read_path(path: Path, *, column: str, encoding: str | None) -> list[str]:
    if not path.is_dir():
        return _read_file(path, column=column, encoding=encoding)
    found: list[str] = []
    for file in _files_in(path):
        found += _read_file(file, column=column, encoding=encoding, or_binary=True)
    return found


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder in the order of their paths, without hidden ones and caches."""
    files: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        files += [Path(where, name) for name in names if name[0] != "."]
    return sorted(file for file in files if file.is_file())


def _refuse_folder(error: OSError) -> None:
    raise ValueError(
        f"expected a folder that can be read, got {error.filename} ({error.strerror}); look at its "
        "permissions"
    ) from error


def _read_file(
    file: Path, *, column: str, encoding: str | None, or_binary: bool = False
) -> list[str]:
    """The documents of a file; none of a binary one where that may be (`or_binary`)."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(file, column=column)
    data = _bytes_of(file)
    if _is_binary(data, encoding):
        if or_binary:
            return []
        raise ValueError(
            f"expected a text file, got {file}, which has zero bytes: it is binary, or in an "
            "encoding that its beginning does not tell; pass encoding='utf-16-le', say"
        )
    text = _decoded(data, file, encoding)
    if name.removesuffix(".gz").endswith(_JSON_LINES):
        return _json_lines(text, file, column=column)
    return [text]


def _bytes_of(file: Path) -> bytes:
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if file.suffix.lower() == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"expected a file that can be read, got {file} ({reason}); write it again, or name "
            "another"
        ) from error


def _marked_encoding(data: bytes) -> str | None:
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    return next(marks, None)


def _check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError) as error:
        known = "an encoding that Python knows"
        raise checks.refuse("encoding", known, encoding, "for instance latin-1") from error


def _is_binary(data: bytes, encoding: str | None) -> bool:
    if b"\0" not in data or _marked_encoding(data) is not None:
        return False
    return encoding is None or not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def _decoded(data: bytes, file: Path, encoding: str | None) -> str:
    """The text of a file, its line ends as `\\n`."""
    known = encoding or _marked_encoding(data) or "utf-8"
    try:
        text = data.decode(known)
    except UnicodeError as error:
        at = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise ValueError(
            f"expected text in {known}, got {file}, which is not{at}; pass the encoding that it "
            "has, such as encoding='latin-1', or convert it to UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(text: str, file: Path, *, column: str) -> list[str]:
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"expected JSON, got {where}: {error}; write one object a line, such as "
                f'{{"{column}": "…"}}'
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"expected a JSON object, got {type(row).__name__} in {where}; write one object a "
                f'line, such as {{"{column}": "…"}}'
            )
        check_column(column, row, where)
        found.append(row[column])
    return strings_in(found, column=column, where=str(file))


def _read_parquet(file: Path, *, column: str) -> list[str]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        with pq.ParquetFile(file) as opened:
            check_column(column, opened.schema_arrow.names, str(file))
            values = opened.read(columns=[column]).column(column).to_pylist()
    except (ArrowException, OSError) as error:
        reason = checks.first_line(error)
        raise ValueError(
            f"expected a Parquet file, got {file} ({reason}); write it again, or name another"
        ) from error
    return strings_in(values, column=column, where=str(file))
