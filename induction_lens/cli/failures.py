"""Failures that are not bugs, explained in one line each, and the exit codes for them.

Exit codes: 2 for what the user can change, 130 for an interrupt, 141 for a reader that closed the
output (as a shell reports it), 1 for a bug of this package.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from induction_lens.models import InterventionError

USER_ERROR, BUG, INTERRUPTED, READER_GONE = 2, 1, 130, 141
DEBUG = "INDUCTION_LENS_DEBUG"
"""Environment variable: if it is set, an unexpected error shows where it happened."""
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
_IN_A_SHELL = (
    (
        re.compile(r"induction_lens\.suites\.suite\('([^']*)', tokens_per_step=\.\.\.\)"),
        r"its checkpoints to 'induction-lens track \1 --tokens-per-step N --out FOLDER'",
    ),
    (re.compile(r"with induction_lens\.suites\.suite\b"), "to 'induction-lens track'"),
    (re.compile(r"\b(column|encoding)='([^'\s]+)'"), r"--\1 \2"),
    (re.compile(r"\b(column|encoding)='([^']*)'"), r"--\1 '\2'"),
    (re.compile(r"\bresume=False\b"), "--no-resume"),
    (re.compile(r"\btrust_remote_code=True\b"), "--trust-remote-code"),
    (re.compile(r"\btokens_per_step\b"), "--tokens-per-step"),
    (re.compile(r"\bsuites\.suite_names\(\)"), "the documentation, on suites"),
)
"""What the library's errors name, where a command line has it by another name."""
_IN_ASCII = str.maketrans({"−": "-", "–": "-", "…": "...", "±": "+-", "≥": ">=", "≤": "<="})


def ended_by(error: BaseException) -> int:
    """Say on stderr, in one line, what ended a command; returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        say("stopped by an interrupt")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # what is still in the buffer would raise again when Python leaves
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return READER_GONE
    known = explained(error)
    if known is not None:
        say(f"error: {_in_a_shell(known)}")
        return USER_ERROR
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    kind = type(error).__name__
    advice = f"this is a bug: set {DEBUG}=1 to see where, and report it"
    say(f"unexpected error: {kind}: {error}; {advice}")
    return BUG


def _in_a_shell(advice: str) -> str:
    """What the library's errors advise, as it is written on a command line: `--column body` for
    `column='body'`."""
    for written, option in _IN_A_SHELL:
        advice = written.sub(option, advice)
    return advice


def say(line: str) -> None:
    """Print a text on stderr as one line."""
    print(" ".join(line.split()), file=sys.stderr)


def explained(error: BaseException) -> str | None:
    """What a foreseeable failure means and what to do; None for any other."""
    for foresees, told in _FORESEEN:
        if foresees(error):
            return told.format(said=error, where=getattr(error, "filename", None) or "the output")
    if isinstance(error, (ValueError, OSError, InterventionError, ImportError)):
        return str(error) or type(error).__name__
    return None


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


def _is_a(kind: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kind)


_FORESEEN: tuple[tuple[Callable[[BaseException], bool], str], ...] = (
    (
        _is_out_of_memory,
        "expected enough memory, got too little ({said}); use a smaller model, or fewer or shorter "
        "sequences",
    ),
    (
        _is_disk_full,
        "expected room on the disk, got none left for {where}; free some, or name another folder "
        "with --out",
    ),
    (
        _is_a(SafetensorError),
        "expected weights that can be written and read, got: {said}; see whether the disk is full, "
        "or the file damaged",
    ),
    (
        _is_a(json.JSONDecodeError),
        "expected JSON, got something else ({said}); write the file again",
    ),
    (
        _is_a(UnicodeError),
        "expected text in UTF-8, got other bytes ({said}); convert the file",
    ),
)


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Turn errors of the libraries that read a model into one error about that model."""
    try:
        yield
    except Exception as error:
        if explained(error) is not None:
            raise
        raise ValueError(
            f"expected a model that TransformerLens can load, got {model!r}, which fails with "
            f"{type(error).__name__}: {error}; its files may be damaged, or its architecture not "
            "supported"
        ) from error


def prepare_streams() -> None:
    """Let stdout and stderr take any text, even if they only know ASCII."""
    codecs.register_error("induction_lens", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="induction_lens")


def plain_terminal() -> bool:
    """Whether nothing but text is to be printed (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace signs that a terminal cannot show with others that mean the same, or question
    marks."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end].translate(_IN_ASCII)
    return "".join(sign if sign.isascii() else "?" for sign in signs), error.end
