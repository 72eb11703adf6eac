"""Data sets on the Hugging Face hub: their first rows as texts, or as tokens that are kept on disk.

A data set is streamed once for each tokenizer. Its token ids are kept under what they follow from:
the commit, split, column and rows of the data set, and the tokenizer. A commit that is named in
full needs no network then.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.seals import read_tensors, tokens_digest, write_tensors

HUB_ROWS = 10_000
"""Rows that are read of a data set on the hub."""
CACHE = "INDUCTION_LENS_CACHE"
"""The environment variable that names the folder for what is kept; else it is in `~/.cache`."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DataSet:
    """A data set on the hub, and what is read of it."""

    name: str
    """Its name, `org/name`."""
    column: str = "text"
    """The column that holds the text."""
    split: str = "train"
    """The split."""
    revision: str | None = None
    """A branch, tag or commit; None: the main branch."""

    def commit(self) -> str | None:
        """The commit that the revision is at; None where the hub does not say.

        Raises:
            ValueError: There is no such data set or revision, or the hub does not answer.
        """
        from huggingface_hub import HfApi

        if self.revision is not None and _COMMIT.fullmatch(self.revision):
            return self.revision
        with self._explained():
            # one request: loading would try, and wait, again
            found = HfApi().dataset_info(self.name, revision=self.revision, timeout=10)
        return getattr(found, "sha", None)

    def texts(self, commit: str | None = None) -> list[str]:
        """The texts of the first rows.

        Args:
            commit: What `commit` says, where that is known; None asks.

        Raises:
            ValueError: As `commit`; or there is no such split or column, or it holds no text.
        """
        from datasets import load_dataset

        commit = self.commit() if commit is None else commit
        with self._explained():
            revision = commit or self.revision
            rows = load_dataset(self.name, split=self.split, revision=revision, streaming=True)
            found = list(rows.take(HUB_ROWS))
        for row in found:
            check_column(self.column, row, self.name)
        values = [row[self.column] for row in found]
        return strings_in(values, column=self.column, where=self.name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the hub, the network or the data set: of many libraries
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"expected a file, a folder, a text or a Hugging Face dataset with a "
                f"{self.column!r} column, got {self.name!r} ({type(error).__name__}: {reason}); "
                "check the spelling and the network; where it is the text itself, pass it as text="
            ) from error


def kept_tokens(
    data_set: DataSet,
    tokenizer: Any,
    encoded: Callable[[list[str]], list[Tensor]],
) -> list[Tensor]:
    """The token ids of each document of a data set, from disk or, first, made and put there.

    Args:
        data_set: The data set.
        tokenizer: The tokenizer, which is part of what they are kept under.
        encoded: Encodes what was read.

    Raises:
        ValueError: As `DataSet.texts`.
    """
    commit = data_set.commit()
    known = _fingerprint(tokenizer)
    if commit is None or known is None:
        return encoded(data_set.texts(commit))
    about = {
        "name": data_set.name,
        "commit": commit,
        "split": data_set.split,
        "column": data_set.column,
        "rows": HUB_ROWS,
        "tokenizer": known,
    }
    path = cache_folder() / _file_name(about)
    found = _read(path, about)
    if found is None:
        found = encoded(data_set.texts(commit))
        _write(path, found, about)
    return found


def cache_folder() -> Path:
    """Where tokens of data sets are kept."""
    if named := os.environ.get(CACHE):
        return Path(named) / "tokens"
    above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(above) / "induction_lens" / "tokens"


def check_column(column: str, known: Iterable[str], where: str) -> None:
    """Check that a row or a table has a column.

    Raises:
        ValueError: It has not.
    """
    known = list(known)
    if column not in known:
        near = checks.closest(column, known)
        remedy = f"{near} " if near else ""
        remedy += f"pass column={known[0]!r}, say" if known and not near else ""
        raise ValueError(
            f"expected the column {column!r}, got {', '.join(known) or 'no columns'} in {where}; "
            f"{remedy.strip() or 'name a source with columns'}"
        )


def strings_in(values: Iterable[Any], *, column: str, where: str) -> list[str]:
    """The texts of a column, without rows that have none.

    Raises:
        ValueError: A value is no text.
    """
    present = [value for value in values if value is not None]  # rows without a text
    for value in present:
        if not isinstance(value, str):
            raise ValueError(
                f"expected text in the column {column!r} of {where}, got {type(value).__name__}; "
                "name another column, or write its values as texts"
            )
    return present


def _fingerprint(tokenizer: Any) -> str | None:
    """A sum of all that a tokenizer does; None of a slow one, which does not tell it."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return None
    special = repr(sorted(map(str, getattr(tokenizer, "all_special_tokens", []))))
    return hashlib.sha256((fast.to_str() + special).encode()).hexdigest()


def _file_name(about: dict[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return f"{about['name'].replace('/', '--')}-{key}.safetensors"


def _read(path: Path, about: dict[str, Any]) -> list[Tensor] | None:
    """What is kept; None where nothing is, or it is damaged."""
    if not path.is_file():
        return None
    try:
        tensors, told = read_tensors(path, remedy="it is made again")
        ids, lengths = tensors["ids"], tensors["lengths"]
        same = all(told.get(name) == value for name, value in about.items())
        whole = int(lengths.sum()) == len(ids) == told["tokens"]
    except (ValueError, KeyError):
        return None
    return list(ids.split(lengths.tolist())) if same and whole else None


def _write(path: Path, found: list[Tensor], about: dict[str, Any]) -> None:
    empty = torch.empty(0, dtype=torch.int32, device="cpu")
    ids = torch.cat([empty, *found])
    sizes = [len(one) for one in found]
    tensors = {"ids": ids, "lengths": torch.tensor(sizes, dtype=torch.int64, device="cpu")}
    told = {**about, "tokens": len(ids), "fingerprint": tokens_digest(ids)}
    checks.path("the folder for what is kept", path.parent).mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, told)
