"""Results as plain trees and tensors, and back: what files and comparisons of results are made of.

A result is a frozen dataclass. Packed, it is a tree that JSON can hold, of which each tensor is
taken out and named by its place: `scores.induction.values`. Classes are found by name in a registry
that the package fills when it is imported, so that a file can name a class and not bring code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from induction_lens import checks

T = TypeVar("T")
_AXES = re.compile(r"""\[Tensor, ["']([^"']*)["']\]""")
_NOT_FINITE = ("nan", "inf", "-inf")
# what a tree holds in place of a value that JSON has no word for
_TYPE, _FIELDS, _TENSOR, _DTYPE, _PAIRS, _NUMBER = (
    "type",
    "fields",
    "tensor",
    "dtype",
    "of",
    "float",
)


@dataclass(frozen=True)
class Codec:
    """How objects of a class become named values, and values become such an object."""

    kind: type
    """The class."""
    taken_apart: Callable[[Any], Mapping[str, Any]]
    """From an object to its parts by name."""
    put_together: Callable[..., Any]
    """From the parts, as keyword arguments, to an object."""
    said: Callable[[Any], Any] | None = None
    """How it is written for people, where that is not by its parts."""


_BY_NAME: dict[str, Codec] = {}


def packable(kind: type[T]) -> type[T]:
    """Let a dataclass be part of results that are saved: all of its fields are."""
    return packable_by(kind, parts_of, kind)


def packable_by(
    kind: type[T],
    taken_apart: Callable[[Any], Mapping[str, Any]],
    put_together: Callable[..., T],
    *,
    said: Callable[[T], Any] | None = None,
) -> type[T]:
    """Let a class be part of results that are saved, by functions of its own."""
    _BY_NAME[kind.__name__] = Codec(kind, taken_apart, put_together, said)
    return kind


class Comparable:
    """What is equal if what it holds is: tensors by their numbers, NaN to NaN.

    Its subclasses, dataclasses with `eq=False`, can be part of results that are saved.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Enter the class into the registry."""
        super().__init_subclass__(**options)
        packable(cls)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same, to the bit; where they come from does not count."""
        if type(self) is not type(other):
            return NotImplemented
        return same(self, other)

    def __hash__(self) -> int:
        """One number for the same content: of the texts and whole numbers in it."""
        parts = _compared(self).values()
        return hash((type(self).__name__, *(v for v in parts if isinstance(v, (str, int)))))


def same(first: Any, second: Any) -> bool:
    """Whether two values hold the same, to the bit; fields that do not compare are left out."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return isinstance(first, Tensor) and isinstance(second, Tensor) and _equal(first, second)
    codec = _codec_of(first)
    if codec is not None:
        return type(second) is codec.kind and same(_compared(first), _compared(second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)


@dataclass
class Packed:
    """A packed value: a tree for JSON, and its tensors by name."""

    tree: Any = None
    """The tree."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Tensors, on the CPU. One that comes twice is here once."""
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What the axes of each hold, as far as the classes say."""


def pack(value: Any) -> Packed:
    """Take a result apart.

    Raises:
        ValueError: It holds something that cannot be saved.
    """
    packed, known = Packed(), {}

    def taken(value: Any, place: str, axes: tuple[str, ...] | None) -> Any:
        if isinstance(value, Tensor):
            name = _taken_out(value, place, axes, packed, known)
            return {_TENSOR: name, _DTYPE: str(value.dtype).removeprefix("torch.")}
        codec = _codec_of(value)
        if codec is not None:
            told = _axes_of(codec.kind)
            fields = {
                name: taken(part, _joined(place, name), told.get(name))
                for name, part in codec.taken_apart(value).items()
            }
            return {_TYPE: type(value).__name__, _FIELDS: fields}
        if isinstance(value, Mapping):
            pairs = [
                [taken(key, place, None), taken(part, _joined(place, str(key)), axes)]
                for key, part in value.items()
            ]
            return {_TYPE: "mapping", _PAIRS: pairs}
        if isinstance(value, (list, tuple)):
            items = [taken(part, _joined(place, str(i)), axes) for i, part in enumerate(value)]
            return {_TYPE: type(value).__name__, _PAIRS: items}
        return _leaf(value, place)

    packed.tree = taken(value, "", None)
    return packed


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `pack` took apart.

    Raises:
        ValueError: It names a class or a tensor that is not there, or what is not a tree of ours.
    """
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        return _tensor(tree, tensors)
    if _NUMBER in tree and tree[_NUMBER] in _NOT_FINITE:
        return float(tree[_NUMBER])
    kind = tree.get(_TYPE)
    if kind == "mapping":
        return {unpack(key, tensors): unpack(part, tensors) for key, part in tree[_PAIRS]}
    if kind in ("list", "tuple"):
        items = [unpack(part, tensors) for part in tree[_PAIRS]]
        return items if kind == "list" else tuple(items)
    if not isinstance(kind, str) or kind not in _BY_NAME:
        raise ValueError(f"it names {checks.shown(kind)}, which is no kind of result")
    parts = {name: unpack(part, tensors) for name, part in tree[_FIELDS].items()}
    return _BY_NAME[kind].put_together(**parts)


def plain(value: Any) -> Any:
    """A result as people write JSON: dictionaries, lists, numbers and texts, for other programs.

    Numbers that are not finite are None. Tensors are nested lists; those of single sequences, items
    or positions are left out, because they are large: `save` keeps them.
    """
    codec = _codec_of(value)
    if codec is not None and codec.said is not None:
        return codec.said(value)
    if codec is not None:
        told = _axes_of(codec.kind)
        parts = codec.taken_apart(value).items()
        value = {name: part for name, part in parts if not _is_large(told.get(name))}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parts_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}


def _codec_of(value: Any) -> Codec | None:
    codec = _BY_NAME.get(type(value).__name__)
    return codec if codec is not None and type(value) is codec.kind else None


def _compared(value: Any) -> Mapping[str, Any]:
    """The parts of an object that say what it is, without those of where it comes from."""
    left_out = {one.name for one in dataclasses.fields(value) if not one.compare}
    parts = _BY_NAME[type(value).__name__].taken_apart(value)
    return {name: part for name, part in parts.items() if name not in left_out}


def _axes_of(kind: type) -> dict[str, tuple[str, ...]]:
    """What the axes of a class's tensors hold, by field, from its annotations."""
    found = {}
    for one in dataclasses.fields(kind):
        told = _AXES.search(one.type if isinstance(one.type, str) else str(one.type))
        if told is not None:
            found[one.name] = tuple(told[1].split())
    return found


_LARGE = ("batch", "item", "pos", "query_pos", "prompt", "example")


def _is_large(axes: tuple[str, ...] | None) -> bool:
    return axes is not None and any(name in _LARGE for name in axes)


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    one, other = first.detach().cpu(), second.detach().cpu()
    if not one.is_floating_point():
        return torch.equal(one, other)
    same_nan = torch.equal(one.isnan(), other.isnan())
    return same_nan and torch.equal(
        one.masked_fill(one.isnan(), 0), other.masked_fill(other.isnan(), 0)
    )


def _taken_out(
    value: Tensor,
    place: str,
    axes: tuple[str, ...] | None,
    packed: Packed,
    known: dict[str, str],
) -> str:
    """The name under which a tensor is kept: its place, or that of an equal one."""
    kept = value.detach().cpu().contiguous()
    wide = kept.float() if kept.dtype == torch.bfloat16 else kept
    digest = hashlib.sha256(f"{kept.dtype} {tuple(kept.shape)}".encode())
    digest.update(wide.numpy().tobytes())
    name = known.setdefault(digest.hexdigest(), place or "value")
    if name not in packed.tensors:
        packed.tensors[name] = kept
        if axes is None or len(axes) != kept.ndim:
            axes = tuple(f"axis{i}" for i in range(kept.ndim))
        packed.axes[name] = axes
    return name


def _leaf(value: Any, place: str) -> Any:
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's numbers
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise checks.refuse(
        place or "a result", "something that can be saved", value, "leave it out of the result"
    )


def _tensor(tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    dtype = getattr(torch, str(tree.get(_DTYPE)), None)
    if tree[_TENSOR] not in tensors or not isinstance(dtype, torch.dtype):
        raise ValueError(f"it names the table {checks.shown(tree[_TENSOR])}, which is not there")
    return tensors[tree[_TENSOR]].to(dtype)
