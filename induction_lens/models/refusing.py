"""Errors of the loading libraries as one line: what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from induction_lens.checks import first_line


class Refused(ValueError):  # noqa: N818
    """A model that cannot be loaded, with the reason in one line."""


@contextmanager
def refusing(expected: str, got: str, remedy: str) -> Iterator[None]:
    """Turn anything that the block raises into one `Refused`.

    The libraries that read models raise nearly every class of error there is for files that they
    cannot use, from `KeyError` to `SafetensorError`, often over many lines.
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(got, error) from error
        raise Refused(f"expected {expected}, got {got} ({first_line(error)}); {remedy}") from error


def out_of_memory(got: str, error: BaseException) -> Refused:
    """The refusal of a model for which there is not enough memory."""
    return Refused(
        f"expected a model that fits into memory, got {got}, which does not "
        f"({first_line(error)}); take a smaller one, dtype=torch.bfloat16 or another device"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whichever device: torch's CPU has no class for that."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        "not enough memory" in str(error) or "can't allocate memory" in str(error)
    )
