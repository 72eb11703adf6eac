"""Checks of arguments: one small function for each kind, used by every public function.

Each takes the argument's name and value, and returns the value in plain Python types, or raises a
`ValueError` of one line: `expected <name> to be …, got …; <what to do>`. A value of the wrong type
is refused in the same way, so that callers need not know whether the type or the size was wrong.
"""

from __future__ import annotations

import difflib
import math
import os
import reprlib
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Number, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")
Name = TypeVar("Name", bound=str)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_LONGEST_SAID = 120
_LONGEST_NAME = 255  # bytes: what file systems take
_SHOWN_WHOLE = (str, bytes, Number, tuple, list, dict, set, Path)
# torch's generators take no larger ones, and NumPy's none below zero
_LARGEST_SEED = 2**63 - 1


def shown(value: object) -> str:
    """A value as messages show it: one short line, with type and shape for large things."""
    plain = _plain(value)
    dimensions = getattr(plain, "shape", None)
    if isinstance(dimensions, tuple):
        kind = f"{type(plain).__name__} of {getattr(plain, 'dtype', 'unknown type')}"
        return f"a {kind} and shape {list(dimensions)}"
    if plain is None or isinstance(plain, _SHOWN_WHOLE):
        return " ".join(_SHORT.repr(plain).split())
    return with_article(type(plain).__name__)


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says, as messages show it."""
    lines = str(error).strip().splitlines()
    said = lines[0].strip() if lines else ""
    if len(said) > _LONGEST_SAID:
        said = said[:_LONGEST_SAID] + "…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def with_article(noun: str) -> str:
    """`a Head`, `an object`."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def refuse(
    name: str, condition: str, value: object, remedy: str, *, given: str | None = None
) -> ValueError:
    """The error that says what was expected, what was given, and what to do."""
    got = shown(value) if given is None else given
    return ValueError(f"expected {name} to be {condition}, got {got}; {remedy}")


@overload
def whole_number(
    name: str,
    value: object,
    *,
    least: int | None = None,
    most: int | None = None,
    optional: Literal[False] = False,
    remedy: str | None = None,
) -> int: ...


@overload
def whole_number(
    name: str,
    value: object,
    *,
    least: int | None = None,
    most: int | None = None,
    optional: bool,
    remedy: str | None = None,
) -> int | None: ...


def whole_number(
    name: str,
    value: object,
    *,
    least: int | None = None,
    most: int | None = None,
    optional: bool = False,
    remedy: str | None = None,
) -> int | None:
    """An `int`, or an integer of NumPy or of a tensor without axes; no bool and no float.

    Args:
        name: What the argument is called.
        value: What was given.
        least: The smallest that is allowed.
        most: The largest that is allowed.
        optional: Whether None is allowed.
        remedy: What to do instead.

    Raises:
        ValueError: If it is something else.
    """
    if value is None and optional:
        return None
    number = _plain(value)
    if isinstance(number, Integral) and not isinstance(number, bool):
        whole = int(number)
        if (least is None or whole >= least) and (most is None or whole <= most):
            return whole
    condition = "a whole number" + _whole_range(least, most)
    raise refuse(name, condition, value, remedy or _default(optional, "pass such a number"))


@overload
def real_number(
    name: str,
    value: object,
    *,
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    optional: Literal[False] = False,
    remedy: str | None = None,
) -> float: ...


@overload
def real_number(
    name: str,
    value: object,
    *,
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    optional: bool,
    remedy: str | None = None,
) -> float | None: ...


def real_number(
    name: str,
    value: object,
    *,
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    optional: bool = False,
    remedy: str | None = None,
) -> float | None:
    """A finite number as `float`; no bool, no complex number and no text.

    Args:
        name: What the argument is called.
        value: What was given.
        least: The smallest that is allowed.
        most: The largest that is allowed.
        above: What it must be larger than.
        below: What it must be smaller than.
        optional: Whether None is allowed.
        remedy: What to do instead.

    Raises:
        ValueError: If it is something else.
    """
    if value is None and optional:
        return None
    number = _finite(_plain(value))
    limits = [
        (least, "of at least", number is not None and (least is None or number >= least)),
        (most, "of at most", number is not None and (most is None or number <= most)),
        (above, "above", number is not None and (above is None or number > above)),
        (below, "below", number is not None and (below is None or number < below)),
    ]
    if number is not None and all(kept for _, _, kept in limits):
        return number
    said = " and".join(f" {words} {limit:g}" for limit, words, _ in limits if limit is not None)
    condition = "a finite number" + said
    raise refuse(name, condition, value, remedy or _default(optional, "pass such a number"))


def confidence(value: object, *, name: str = "confidence") -> float:
    """The level of an interval: above 0 and below 1.

    Raises:
        ValueError: If it is something else.
    """
    return real_number(name, value, above=0, below=1, remedy="for instance 0.95")


def seed(value: object, *, name: str = "seed") -> int:
    """A seed that every random generator takes: a whole number from 0 up.

    Raises:
        ValueError: If it is something else.
    """
    return whole_number(name, value, least=0, most=_LARGEST_SEED, remedy="for instance 0")


def resamples(value: object, *, name: str = "n_resamples") -> int:
    """Draws of a bootstrap: 1 to 100,000; more would take too much time and memory.

    Raises:
        ValueError: If it is something else.
    """
    return whole_number(name, value, least=1, most=100_000, remedy="for instance 1000")


def seconds(name: str, value: object) -> float | None:
    """A time in seconds, or as people write it: `90`, `"90s"`, `"2m"`, `"1.5h"`; or None.

    Raises:
        ValueError: If it is none of these, or not above zero.
    """
    if value is None:
        return None
    amount, factor = value, 1.0
    if isinstance(value, str):
        number, unit = value.strip()[:-1], value.strip()[-1:].lower()
        if unit.isdigit():
            number, unit = value.strip(), "s"
        factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(unit, math.nan)
        try:
            amount = float(number)
        except ValueError:
            factor = math.nan
    found = math.nan
    if isinstance(amount, Real) and not isinstance(amount, bool):
        found = float(amount) * factor
    if not (math.isfinite(found) and found > 0):
        raise refuse(name, "a time above zero", value, "for instance 90 (seconds), '2m' or '1h'")
    return found


def batch_size(value: object, *, name: str = "batch_size") -> int | None:
    """Sequences per forward pass, or None.

    Raises:
        ValueError: If it is something else.
    """
    remedy = "None chooses one that fits the memory"
    return whole_number(name, value, least=1, optional=True, remedy=remedy)


def flag(name: str, value: object) -> bool:
    """A bool, NumPy's included; 0, 1 and texts such as "no" are refused.

    Raises:
        ValueError: If it is something else.
    """
    plain = _plain(value)
    if isinstance(plain, bool):
        return plain
    raise refuse(name, "True or False", value, "pass one of the two")


def one_of(name: str, value: object, options: Collection[Name]) -> Name:
    """One of several names.

    Raises:
        ValueError: With the options, and the closest to what was given.
    """
    for option in options:
        if isinstance(value, str) and value == option:
            return option
    listed = ", ".join(options)
    raise refuse(name, f"one of {listed}", value, closest(value, options) or "choose one of them")


def some_of(name: str, values: object, options: Collection[Name]) -> list[Name]:
    """At least one of several names, each once, in the order given; a single text is one name.

    Raises:
        ValueError: If there is none, one is unknown, or one comes twice.
    """
    chosen = several(name, [values] if isinstance(values, str) else values)
    listed = ", ".join(options)
    if not chosen:
        raise refuse(name, f"at least one of {listed}", values, "name one", given="none")
    names = [one_of(f"each of {name}", value, options) for value in chosen]
    twice = next((value for value in names if names.count(value) > 1), None)
    if twice is not None:
        raise refuse(name, f"different ones of {listed}", twice, f"name {twice} once")
    return names


def closest(value: object, options: Iterable[str]) -> str | None:
    """`did you mean '…'?`, where an option is close to what was given."""
    if not isinstance(value, str) or not value:
        return None
    listed = list(options)
    begins = [option for option in listed if option.startswith(value)]
    near = begins or difflib.get_close_matches(value, listed, n=1)
    return f"did you mean {near[0]!r}?" if near else None


def several(name: str, values: object) -> list[Any]:
    """The items of a list, a tuple or another iterable, but not of a text or a mapping.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
        try:
            return list(values)
        except TypeError:  # a tensor without axes says that it can be iterated over
            pass
    raise refuse(name, "a list or another sequence", values, "put it into a list")


def instance(name: str, value: object, kind: type[T], remedy: str) -> T:
    """A value of this type.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, kind):
        return value
    raise refuse(name, with_article(kind.__name__), value, remedy)


@overload
def text(name: str, value: object, *, optional: Literal[False] = False) -> str: ...


@overload
def text(name: str, value: object, *, optional: bool) -> str | None: ...


def text(name: str, value: object, *, optional: bool = False) -> str | None:
    """A text, or None where that is allowed.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, str) or (value is None and optional):
        return value
    raise refuse(name, "a text", value, _default(optional, "pass a str"))


def path(name: str, value: object) -> Path:
    """A path, from text or a path object; an empty text is not a path.

    Raises:
        ValueError: If it is something else, or holds a character that no path can.
    """
    if isinstance(value, (str, os.PathLike)):
        given = os.fspath(value)
        if isinstance(given, str) and given.strip() and "\0" not in given:
            return Path(given)
    raise refuse(name, "the path of a file or folder", value, "pass a str or a pathlib.Path")


def writable_folder(name: str, value: object) -> Path:
    """A folder to write to, which need not exist yet: no part of its path is a file, and the system
    lets us write there. The check leaves nothing behind.

    Raises:
        ValueError: If it is something else.
    """
    folder = path(name, value)
    absolute = Path(os.path.abspath(folder))
    nearest = next(part for part in (absolute, *absolute.parents) if os.path.lexists(part))
    remedy = "name another folder"
    if not nearest.is_dir():
        got = (
            f"{folder}, where {nearest} is a file" if nearest != absolute else f"the file {folder}"
        )
        raise refuse(name, "a folder to write to", value, remedy, given=got)
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in absolute.parts):
        got = f"a name of more than {_LONGEST_NAME} bytes"
        raise refuse(name, "a folder to write to", value, remedy, given=got)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        got = f"{folder}, where the system says: {error.strerror}"
        raise refuse(name, "a folder to write to", value, remedy, given=got) from error
    return folder


def model(value: Any, *, name: str = "model") -> Any:
    """A hooked model, judged by its attributes: not its name, and not only its weights.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, (str, Path)):
        remedy = "load it first with induction_lens.load"
        raise refuse(name, "a loaded model", value, remedy, given=f"the name {shown(value)}")
    if isinstance(value, type) or not all(hasattr(value, part) for part in ("cfg", "hook_dict")):
        condition = "a HookedTransformer or a TransformerBridge"
        raise refuse(name, condition, value, "load one with induction_lens.load")
    return value


def tensor(
    name: str,
    value: object,
    *,
    axes: Sequence[str],
    whole: bool = False,
    remedy: str,
) -> Tensor:
    """A tensor with these axes, none of them empty, of whole or of floating-point numbers.

    Args:
        name: What the argument is called.
        value: What was given.
        axes: What its axes hold, in order.
        whole: Whether the numbers are integers.
        remedy: What to do instead.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, Tensor) and _is_filled(value) and value.ndim == len(axes):
        inexact = value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
        if not inexact if whole else value.is_floating_point():
            return value
    numbers = "whole numbers" if whole else "floating-point numbers"
    raise refuse(name, f"a tensor of {numbers} [{' '.join(axes)}]", value, remedy)


def _is_filled(value: Tensor) -> bool:
    """Whether a tensor holds numbers, each in its place: it is neither empty nor sparse, nor only a
    shape."""
    return value.numel() > 0 and value.layout == torch.strided and not value.is_meta


def _plain(value: Any) -> Any:
    """The number in a NumPy scalar or in an array or tensor without axes; else the value itself."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        empty = isinstance(value, Tensor) and not _is_filled(value)
        return value if empty else value.item()
    return value


def _finite(value: object) -> float | None:
    """The value as a float, where it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole_range(least: int | None, most: int | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if least is not None:
        return f" of at least {least}"
    return "" if most is None else f" of at most {most}"


def _default(optional: bool, remedy: str) -> str:
    return f"{remedy}, or None" if optional else remedy


def no_mask_alone(mask: object) -> None:
    """Check that there is no mask where there are no tokens.

    Raises:
        ValueError: If there is one.
    """
    if mask is not None:
        raise ValueError("expected no mask without tokens, got one; pass the tokens that it masks")
