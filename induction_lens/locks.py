"""Locks: who works on a folder or a file at this moment.

A lock is a small file that a process holds open and locked with `flock`. The operating system
releases it when the process ends, however it ends: a lock that was left behind is taken over
silently. The file names its owner, for the error that others get.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: there are no locks, and two processes must not share a folder
    fcntl = None

_POLL = 0.05
"""Seconds between two attempts to take a lock."""
_owned: dict[tuple[int, int, Path], Lock] = {}
"""The locks of this process, by process (a fork owns nothing), thread and path."""


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    path: Path
    """Its file."""
    file: IO[str]
    """The same file, open; the lock holds while it is open."""

    def check(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            ValueError: It is gone, or another one has taken its place.
        """
        if not _is_at(self.file, self.path):
            raise ValueError(
                f"expected the folder {self.path.parent} to stay while it is written to, got it "
                "removed or replaced; start again, and leave the folder alone until the end"
            )


@contextmanager
def locked(path: str | Path, *, wait: float = 0.0) -> Iterator[Lock]:
    """Hold a lock inside a `with` block; a thread may enter the block of its own lock again.

    Args:
        path: The lock's file, in a folder that exists; it is removed after the block.
        wait: Seconds to wait for another process.

    Raises:
        ValueError: Another process, or another thread of this one, holds it.
    """
    path = Path(path).absolute()
    key = (os.getpid(), threading.get_ident(), path)
    if key in _owned and _is_at(_owned[key].file, path):
        yield _owned[key]
        return
    until = time.monotonic() + wait
    while (file := _taken(path)) is None:
        if time.monotonic() >= until:
            raise ValueError(_refusal(path))
        time.sleep(_POLL)
    with file:  # closing it frees the lock
        try:
            _owned[key] = Lock(path, file)
            _sign(file)
            yield _owned[key]
        finally:
            _owned.pop(key, None)
            if _is_at(file, path):
                with suppress(OSError):  # Windows removes no open file
                    path.unlink()


def _taken(path: Path) -> IO[str] | None:
    """The file of the lock, open and locked; None where another one holds it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if not _flocked(file):
                file.close()
                return None
            if _is_at(file, path):
                return file
            file.close()  # its owner removed it between our opening and locking it: try the next
        except BaseException:
            file.close()
            raise


def _flocked(file: IO[str]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warnings.warn(
            f"{file.name} is on a file system without locks ({error}): make sure that no other "
            "process writes there",
            UserWarning,
            stacklevel=2,
        )
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (OSError, ValueError):  # gone, or closed
        return False


def _sign(file: IO[str]) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
    file.truncate(0)
    file.write(json.dumps(owner))
    file.flush()


def _refusal(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']} at work there since {owner['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has just begun, or just ended
        who = "another process at work there"
    return (
        f"expected {path.parent} to be used by one process at a time, got {who}; wait for it, "
        "stop it, or use another folder"
    )
