"""Progress bars, and the one switch for them.

A bar is shown on stderr, if that is a terminal, for work that takes more than two seconds. A file
or a pipe gets none, because the codes that redraw it would fill a log.

`show_progress(False)`, or the environment variable `INDUCTION_LENS_PROGRESS=0`, turns all of them
off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from induction_lens import checks

VARIABLE = "INDUCTION_LENS_PROGRESS"
_OFF = ("0", "false", "no", "off")


class _Switch:
    """Whether bars are wanted."""

    set_to: bool | None = None  # until it is set, the environment decides

    @classmethod
    def on(cls) -> bool:
        if cls.set_to is not None:
            return cls.set_to
        return os.environ.get(VARIABLE, "").strip().lower() not in _OFF


def show_progress(shown: bool = True) -> None:
    """Turn all progress bars of this process on or off.

    Args:
        shown: Whether functions called with `progress=True` show their bars.

    Raises:
        ValueError: If that is neither True nor False.

    Examples:
        >>> il.show_progress(False)
        >>> scores = il.score_heads(il.load("toy-2l"), detectors="induction")  # never shows a bar
        >>> il.show_progress()
    """
    _Switch.set_to = checks.flag("shown", shown)


def wanted(asked: bool = True) -> bool:
    """Whether to show a bar: the caller asked for it, nobody turned bars off, and stderr is a
    terminal or a notebook."""
    return asked and _Switch.on() and (_in_notebook() or _is_terminal())


@contextmanager
def libraries_follow(asked: bool = True) -> Iterator[None]:
    """Inside a `with` block, let libraries that read models show bars only where we would."""
    from transformers.utils import logging

    silenced = logging.is_progress_bar_enabled() and not wanted(asked)
    if silenced:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if silenced:
            logging.enable_progress_bar()


@contextmanager
def progress_bar(
    title: str | None, total: int, *, unit: str = "seq", done: int = 0
) -> Iterator[Callable[..., object]]:
    """Show a bar over `total` things; yields what to call with the number just done.

    Args:
        title: What is being done; None shows nothing.
        total: How many things there are.
        unit: What one of them is called.
        done: How many are done already.

    Yields:
        A function of the number just done and, if there is more to say, a note behind the bar.
    """
    from tqdm.auto import tqdm

    hidden = title is None or not wanted()
    options = {"initial": done, "unit": unit, "leave": False, "delay": 2, "disable": hidden}
    with tqdm(total=total, desc=title, **options) as bar:

        def advance(n: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(n)

        yield advance


@contextmanager
def progress_bars(
    titles: Sequence[str], *, shown: bool = True
) -> Iterator[Callable[[Sequence[float]], None]]:
    """A bar for each of several things; yields what to call with the share of each that is done."""
    from tqdm.auto import tqdm

    width = max(map(len, titles), default=0)
    form = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    options = {"total": 1.0, "bar_format": form, "disable": not wanted(shown)}
    with ExitStack() as stack:
        bars = [
            stack.enter_context(tqdm(desc=title.ljust(width), position=row, **options))
            for row, title in enumerate(titles)
        ]

        def show(shares: Sequence[float]) -> None:
            for bar, share in zip(bars, shares, strict=True):
                bar.update(share - bar.n)

        yield show


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it was closed
        return False


def _in_notebook() -> bool:
    """Whether tqdm draws notebook bars here; a notebook needs no terminal."""
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    return issubclass(tqdm, tqdm_notebook)
