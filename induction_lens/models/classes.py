"""TransformerLens's two model classes, imported when they are needed.

Importing them takes seconds, which neither the help of the command line nor a shell that completes
names should wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


def _has_module(package: str, module: str) -> bool:
    """Whether a package has a module, without importing either, which `find_spec` of both does."""
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return any((Path(folder) / f"{module}.py").is_file() for folder in folders)


HAS_HOOKED_TRANSFORMER: bool = _has_module("transformer_lens", "HookedTransformer")
"""Whether this TransformerLens still has `HookedTransformer` (3.9 has, 4.0 removed it)."""


def bridge_class() -> Any:
    """`TransformerBridge`."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge


def bridge_config_class() -> Any:
    """`TransformerBridgeConfig`."""
    from transformer_lens.config import TransformerBridgeConfig

    return TransformerBridgeConfig


def hooked_class() -> Any:
    """`HookedTransformer`, where `HAS_HOOKED_TRANSFORMER`."""
    from transformer_lens import HookedTransformer

    return HookedTransformer


def hooked_config_class() -> Any:
    """`HookedTransformerConfig`, where `HAS_HOOKED_TRANSFORMER`."""
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig


def is_bridge(model: object) -> bool:
    """Whether this is a `TransformerBridge`."""
    return isinstance(model, bridge_class())


def is_hooked(model: object) -> bool:
    """Whether this is a `HookedTransformer`."""
    return HAS_HOOKED_TRANSFORMER and isinstance(model, hooked_class())


def usual_device() -> AbstractContextManager[Any]:
    """Torch's usual default device, for a `with` block. Nothing is set if it is the default
    already, because a device as a context slows down every call."""
    is_usual = torch.get_default_device().type == "cpu"
    return nullcontext() if is_usual else torch.device("cpu")


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Torch's usual default dtype and device, which TransformerLens relies on; those of the caller
    are restored at the end."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with usual_device():
            yield
    finally:
        torch.set_default_dtype(dtype)
