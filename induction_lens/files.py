"""Files and folders that are either complete or absent.

Everything is written beside its destination, flushed to disk, and moved into place, so that nobody
ever sees half a file, even if a run is cut off. A writer of `a` uses these names beside it, and
only one writer at a time:

- `.a.lock`: held by the writer;
- `.a.new`: a folder with what is being written;
- `.a.old`: the folder that was at `a`, while another takes its place;
- `.a.trash`: what is being deleted.

A killed writer leaves some of them behind. The next writer of `a`, and `tidy`, put `.a.old` back if
nothing is at `a`, and remove the rest; readers of folders call `recover`. So at any moment either
the old or the new content is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from induction_lens import checks
from induction_lens.locks import locked

_PATIENCE = 60.0
"""Seconds to wait for another writer of the same file."""
_OURS = re.compile(r"\.(?P<name>.+)\.(lock|new|old|trash)")
_EARLIER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")  # as earlier versions named them


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write a file to, which becomes `path` when the block ends.

    The folder of `path` is created if it is missing. If the block raises, `path` stays as it was
    and the temporary file is removed.

    Raises:
        ValueError: `path` is a folder, or another process keeps writing to it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"expected a file to write, got the folder {path}; name a file in it")
    with _writing(path):
        fresh = _beside(path, "new")
        fresh.mkdir()
        yield fresh / path.name
        _flush(fresh / path.name)
        os.replace(fresh / path.name, path)
        _flush_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill with files, which becomes `path` when the block ends.

    A folder that is already at `path` is replaced. If the block raises, it stays as it was.

    Raises:
        ValueError: `path` is a file, or another process keeps writing to it.
    """
    path = output_folder(path)
    with _writing(path):
        fresh = _beside(path, "new")
        fresh.mkdir()
        yield fresh
        for file in fresh.iterdir():
            _flush(file)
        _flush_folder(fresh)
        if path.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, _beside(path, "old"))
        os.replace(fresh, path)
        _flush_folder(path.parent)


def tidy(folder: str | Path) -> None:
    """Repair what killed writers left in a folder; do not touch what a live one writes."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    for left in sorted(folder.glob(".*.*")):
        if ours := _OURS.fullmatch(left.name):
            path = folder / ours["name"]
            with suppress(ValueError), locked(_beside(path, "lock")):
                _settle(path)
        elif (earlier := _EARLIER.fullmatch(left.name)) and left.is_dir():
            _tidy_earlier(left, folder / earlier["name"])


def recover(path: str | Path) -> None:
    """Put the old folder back if a writer was killed before the new one took its place."""
    path = Path(path)
    if _beside(path, "old").exists() and not path.exists():
        with locked(_beside(path, "lock"), wait=_PATIENCE):
            _settle(path)


def output_folder(path: str | Path) -> Path:
    """A folder to write to, which need not exist yet.

    Raises:
        ValueError: It is not a path, it or a folder above it is a file, or nothing can be written
            there.
    """
    folder = checks.path("the output folder", path)
    exists = [part for part in (folder, *folder.absolute().parents) if os.path.lexists(part)]
    nearest = exists[0]
    if not nearest.is_dir():
        what = "the file" if nearest == folder else f"{folder}, which is inside the file"
        raise ValueError(f"expected a folder to write to, got {what} {nearest}; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"expected a folder to write to, got {folder}, where you may not write; name another"
        )
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Be the only writer of a path; nothing is left beside it before or after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_beside(path, "lock"), wait=_PATIENCE):
        _settle(path)
        try:
            yield
        finally:
            _settle(path)


def _settle(path: Path) -> None:
    """Put the old folder back if the new one is not there yet; remove leftovers."""
    new, old, trash = (_beside(path, kind) for kind in ("new", "old", "trash"))
    _remove(trash)
    if old.exists() and not path.exists():
        os.replace(old, path)
    for left in (old, new):
        # Moved first: what is called `old` is complete, even if we are killed while removing it.
        if left.exists():
            os.replace(left, trash)
            _remove(trash)


def _tidy_earlier(holder: Path, path: Path) -> None:
    """The same for what a writer of an earlier version left."""
    if not {file.name for file in holder.iterdir()} <= {path.name, "new", "old"}:
        return  # somebody else's
    if (holder / "old").exists() and not path.exists():
        os.replace(holder / "old", path)
    shutil.rmtree(holder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{kind}"


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Make what was made or renamed in a folder survive a power cut."""
    if os.name == "nt":  # has no such call
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
