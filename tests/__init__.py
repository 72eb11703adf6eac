"""Known answers, second implementations and predictions; folders as in the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_CHECKED: dict[tuple[str, str, str], Callable[..., Any]] = {}


def beartype_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping checks calls with: `beartype`, which is asked once for each signature.

    A function inside another is made again in every call of the outer one, and writing its check
    takes a thousand times as long as the check itself. What jaxtyping hands over has a signature
    and no body, so that one check serves for all of the same name and signature. Defaults are
    checked while the check is written, so functions that have any are never shared.
    """
    from beartype import beartype

    signature = inspect.signature(function)
    has_defaults = any(p.default is not p.empty for p in signature.parameters.values())
    if has_defaults or "<locals>" not in function.__qualname__:
        return beartype(function)
    key = (function.__module__, function.__qualname__, str(signature))
    if key not in _CHECKED:
        _CHECKED[key] = beartype(function)
    return _CHECKED[key]
