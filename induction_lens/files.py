"""Files that are either whole or not there.

Everything is written beside its destination under a temporary name, flushed to disk, and moved
into place in one step, so that a reader, or a run that is cut off, never sees half a file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write a file to, which becomes `path` when the block ends.

    The folder of `path` is made where it is missing. If the block raises, `path` stays as it was
    and the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that a writer may put whatever it needs beside the file.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = folder / path.name
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path` when the block ends.

    A folder that is already at `path` is replaced. If the block raises, it stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fresh = holder / "new"
        fresh.mkdir()
        yield fresh
        for file in fresh.iterdir():
            _flush(file)
        if path.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, holder / "old")
        os.replace(fresh, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def output_folder(path: str | Path) -> Path:
    """A folder to write to, which need not exist yet.

    Raises:
        ValueError: It is a file.
    """
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"expected a folder to write to, got the file {folder}; name another")
    return folder


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
