"""Hooks that are proven to act, and that never outlive a call.

Three things go wrong silently with hooks on TransformerLens models:

1. a hook point exists but never fires (`hook_result` while `use_attn_result` is off);
2. it fires, but the model ignores what the hook wrote (`hook_pattern` on bridges that delegate
   attention to Hugging Face);
3. a hook stays behind after an error, or removing ours removes the caller's as well.

`installed` adds exactly its own hooks and removes exactly those, and raises if one never fired.
For the second, see `proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Site = Literal["k", "v", "z", "pattern", "resid_pre", "resid_post"]
HookFunction = Callable[[Tensor], Tensor | None]

_NAMES: Mapping[str, str] = {
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "z": "blocks.{layer}.attn.hook_z",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_post": "blocks.{layer}.hook_resid_post",
}
FINAL_SCALE = "ln_final.hook_scale"


@runtime_checkable
class Model(Protocol):
    """What this package needs of a model: `HookedTransformer` and `TransformerBridge` have it."""

    @property
    def cfg(self) -> Any:
        """The model's configuration."""
        ...

    @property
    def hook_dict(self) -> Any:
        """Hook points by name."""
        ...

    def __call__(self, input: Any) -> Any:
        """Logits [batch pos d_vocab] of tokens [batch pos]."""
        ...


def untyped(model: Model) -> Any:
    """The model, for what it has beyond the protocol: it is a torch module with blocks."""
    return model


class InterventionError(RuntimeError):
    """An intervention did not act: its numbers would have been those of a clean run."""


def hook_name(site: Site, layer: int) -> str:
    """The name of a hook point: `hook_name("z", 1)` is `blocks.1.attn.hook_z`."""
    return _NAMES[site].format(layer=layer)


@contextmanager
def installed(
    model: Model, hooks: Sequence[tuple[str, HookFunction]], *, all_fire: bool = True
) -> Iterator[None]:
    """Install hooks for the length of a `with` block, then remove these and no others.

    A hook is called with the activation alone and returns its replacement, or None to only look.
    With `all_fire=False` a hook may never be called, because its layer is never run.

    Raises:
        ValueError: if the model has no hook point of that name.
        InterventionError: if the block ran to its end and a hook never fired.
    """
    fired = [False] * len(hooks)
    points = hook_points(model, [name for name, _ in hooks])
    handles: list[tuple[Any, Any]] = []

    def watched(index: int, function: HookFunction) -> Callable[..., Tensor | None]:
        def hook_function(activation: Tensor, hook: object) -> Tensor | None:
            fired[index] = True
            return function(activation)

        return hook_function

    try:
        for index, (point, (_, function)) in enumerate(zip(points, hooks, strict=True)):
            point.add_hook(watched(index, function))
            handles.append((point, point.fwd_hooks[-1]))
        yield
    finally:
        for point, handle in handles:
            handle.hook.remove()
            point.fwd_hooks = [kept for kept in point.fwd_hooks if kept is not handle]
    silent = [name for (name, _), did in zip(hooks, fired, strict=True) if not did]
    if silent and all_fire:
        raise InterventionError(
            f"expected every hook to fire, but {', '.join(silent)} never did; "
            f"this {type(model).__name__} does not run through it"
        )


def keep(
    site: Site, layers: Iterable[int], into: MutableMapping[int, Tensor]
) -> list[tuple[str, HookFunction]]:
    """Hooks that put a layer's activation into a dictionary, for `installed`."""

    def on(layer: int) -> HookFunction:
        def hook(activation: Tensor) -> None:
            into[layer] = activation.detach()

        return hook

    return [(hook_name(site, layer), on(layer)) for layer in layers]


def hook_points(model: Model, names: Sequence[str]) -> list[Any]:
    """The hook points of these names.

    Raises:
        ValueError: if one of them does not exist.
    """
    available = model.hook_dict  # a property that is rebuilt on every access on bridges
    missing = [name for name in names if name not in available]
    if missing:
        raise ValueError(
            f"expected a model with the hook points {', '.join(missing)}, got a "
            f"{type(model).__name__} without; pass a decoder-only HookedTransformer, or a "
            "TransformerBridge after enable_compatibility_mode()"
        )
    return [available[name] for name in names]


@contextmanager
def running(model: Model) -> Iterator[None]:
    """No gradients and no dropout, and the model's mode restored at the end."""
    was_training = bool(getattr(model, "training", False))
    if was_training:
        untyped(model).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            untyped(model).train()


def device_of(model: Model) -> torch.device:
    """Where the model's first parameter lives."""
    return next(untyped(model).parameters()).device


@contextmanager
def before_forward(model: Model, prepare: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `prepare(tokens)` before every forward pass inside the block.

    The instance's `forward` is replaced, and put back at the end: unlike a torch pre-hook this is
    also seen by `run_with_hooks` and `run_with_cache`, which call `forward` directly.
    """
    module = untyped(model)
    own, forward = vars(module).get("forward"), module.forward
    inside = False

    def prepared(input: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if not inside:
            if not isinstance(input, Tensor):
                raise ValueError(
                    f"expected tokens as a tensor [batch pos], got {type(input).__name__}; "
                    "tokenise the text first, for instance with text_tokens"
                )
            inside = True
            try:
                prepare(input)
            finally:
                inside = False
        return forward(input, *args, **kwargs)

    module.forward = prepared
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
