"""What was found out about a model, kept while the model stays what it is.

To prove that layers run one by one end where the model does takes as long as reading 128 tokens,
and what follows from weights alone does not change from call to call. Both are found out once, and
again when anything of the model may have changed: a weight, in whatever way it was written to, a
part, a number or a function on a part of it or on its class, or a setting. Hooks and other forward
functions are nothing to remember beside: where there are some, nothing of this is asked
(`fitness`).

Weights are compared by sums of their products with fixed numbers, which read them once: a change
that leaves such a sum as it is, to its last digit, goes unseen, and no change that is made on
purpose does. Of masks it is known that nothing was written to them but through `.data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from induction_lens.models.hooks import Model, parts, untyped

Found = TypeVar("Found")
_FUNCTIONS = (FunctionType, MethodType, partial, staticmethod, classmethod, property)
_PLAIN = (bool, int, float, str, type(None))
_WIDTH, _PIECE = 1024, 32 * 1024


@dataclass
class _Known:
    state: Hashable
    """What the model was when this was found out."""
    found: dict[Hashable, Any] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def remembered(model: Model, what: Hashable, find: Callable[[], Found]) -> Found:
    """What `find` finds out about a model, or found out before, if the model is still the same.

    Args:
        model: A hooked model.
        what: What it is: with the same, `find` has to find the same.
        find: Finds it out. What it returns is shared, so that nobody may change it.
    """
    state = _state(model)
    known = _KNOWN.get(model)
    if known is None or known.state != state:
        known = _KNOWN[model] = _Known(state)
    if what not in known.found:
        known.found[what] = find()
    return known.found[what]


def _state(model: Model) -> Hashable:
    """Everything that what a model computes depends on. Not equal to itself if a weight is NaN."""
    module = untyped(model)
    tensors = [*module.parameters(), *module.buffers()]
    held = tuple((t.data_ptr(), times_written(t), t.dtype, t.device, t.shape) for t in tensors)
    of_model = parts(model)
    numbers = tuple(
        (type(part), tuple(item for item in vars(part).items() if _is_plain(*item)))
        for part in module.modules()
    )
    own = tuple(_functions(vars(part)) for part in of_model)
    of_classes = {kind for part in of_model for kind in type(part).__mro__}
    classes = frozenset((kind, _functions(vars(kind))) for kind in of_classes)
    settings = tuple(sorted(f"{name}={value!r}" for name, value in vars(model.cfg).items()))
    digest = _digest([t for t in tensors if t.dtype != torch.bool])
    return held, digest, numbers, own, classes, settings


def _functions(attributes: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Which functions are there, by where they are in memory: that of one that was replaced was
    still taken when the other was made."""
    return tuple(
        (name, id(value)) for name, value in attributes.items() if isinstance(value, _FUNCTIONS)
    )


def times_written(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 of those of inference, which nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def _is_plain(name: str, value: Any) -> bool:
    """Whether it is a setting of a part. Bridges keep what a pass leaves behind under private
    names; what is found out is found out in evaluation mode."""
    return isinstance(value, _PLAIN) and not name.startswith("_") and name != "training"


def _digest(tensors: list[Tensor]) -> float:
    """A sum over all numbers, each times one that depends on its place."""
    sums = [_rows(tensor).detach().cpu() for tensor in tensors if tensor.numel()]
    if not sums:
        return 0.0
    rows = torch.cat(sums).double()
    places = torch.arange(1, 1 + len(rows), dtype=torch.float64, device="cpu")
    return float(rows @ places.cos())


def _rows(tensor: Tensor) -> Tensor:
    """Sums of about a thousand neighbours each, times fixed numbers: [row]."""
    flat = tensor.reshape(-1)
    if isinstance(tensor, torch.nn.Parameter) and flat.dtype == torch.float32:
        return _rows_of(flat)
    # others are made float32 a piece at a time; masks hold infinities, of which no sum can be made
    pieces = (piece.float().nan_to_num(math.nan, 1.0, -1.0) for piece in flat.split(_PIECE))
    return torch.cat([_rows_of(piece) for piece in pieces])


def _rows_of(flat: Tensor) -> Tensor:
    places = torch.arange(1, 1 + _WIDTH, dtype=flat.dtype, device=flat.device)
    factors = (0.7 * places).cos()
    n_whole = len(flat) // _WIDTH * _WIDTH
    whole = flat[:n_whole].view(-1, _WIDTH) @ factors
    rest = flat[n_whole:] @ factors[: len(flat) - n_whole]
    return torch.cat([whole, rest[None]])
