"""TransformerLens's two model classes, imported when they are needed.

Importing them takes seconds with TransformerLens 4, which loads them lazily itself.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

HAS_HOOKED_TRANSFORMER: bool = find_spec("transformer_lens.HookedTransformer") is not None
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
