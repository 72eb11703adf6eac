"""One thread at a time on a model: hooks of two threads on one model would see each other's passes.

Every function of this package that puts hooks on a model, or runs it, takes its turn first. Threads
wait for each other; but a `with knocked_out(...)` block of another thread may stay open for ever,
so while one is open other threads get an error instead.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_POLL_SECONDS = 0.002
_THREAD = "thread"


class InterventionError(RuntimeError):
    """An intervention did not act: its numbers would have been those of another run."""


@dataclass
class _Turn:
    """Whose turn it is on one model.

    A lock that can be set back to an earlier state, even twice: an interrupt between taking a
    `threading.RLock` and noting that would leave it taken for ever.
    """

    holder: dict[str, int] = field(default_factory=dict)
    open_blocks: int = 0

    def taken_by(self, thread: int) -> bool:
        """Take the model for a thread, if it is free; returns whether it is that thread's now."""
        return self.holder.setdefault(_THREAD, thread) == thread  # one atomic step


_TURNS: weakref.WeakKeyDictionary[Any, _Turn] = weakref.WeakKeyDictionary()


@contextmanager
def exclusive(model: Any, *, block: bool = False) -> Iterator[None]:
    """Keep other threads off a model; `block`: for as long as a `with` block of the user's lasts.

    Raises:
        InterventionError: If another thread holds the model in a block of the user's.
    """
    turn = _TURNS.setdefault(model, _Turn())
    thread = threading.get_ident()
    was_ours = turn.holder.get(_THREAD) == thread
    blocks_before = turn.open_blocks

    def release() -> None:
        if turn.holder.get(_THREAD) == thread:
            turn.open_blocks = blocks_before if was_ours else 0
            if not was_ours:
                turn.holder.pop(_THREAD, None)

    with undone(release):
        while not turn.taken_by(thread):
            if turn.open_blocks:
                raise InterventionError(
                    f"expected this {type(model).__name__} to be free, but another thread has "
                    "heads knocked out of it; leave that block first, or give each thread a model "
                    "of its own (copy.deepcopy)"
                )
            time.sleep(_POLL_SECONDS)
        if block:
            turn.open_blocks += 1
        yield


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` when the block ends, and once more if that is itself interrupted.

    `undo` may be called twice, so it must also work when everything is already undone.
    """
    finished = False
    try:
        try:
            yield
        finally:
            undo()
            finished = True
    finally:
        if not finished:
            undo()
