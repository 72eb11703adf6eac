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

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens.models.classes import is_hooked, usual_device
from induction_lens.models.exclusive import InterventionError, exclusive, undone

Site = Literal["k", "v", "z", "pattern", "attn_out", "resid_pre", "resid_post"]
HookFunction = Callable[[Tensor], Tensor | None]

_NAMES: Mapping[str, str] = {
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "z": "blocks.{layer}.attn.hook_z",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_post": "blocks.{layer}.hook_resid_post",
}
FINAL_SCALE = "ln_final.hook_scale"


@runtime_checkable
class Model(Protocol):
    """What this package needs from a model; `HookedTransformer` and `TransformerBridge` have it."""

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


def hook_name(site: Site, layer: int) -> str:
    """The name of a hook point: `hook_name("z", 1)` is `blocks.1.attn.hook_z`."""
    return _NAMES[site].format(layer=layer)


_levels = itertools.count(-1, -1)  # those of TransformerLens's own contexts are positive


@contextmanager
def installed(
    model: Model, hooks: Sequence[tuple[str, HookFunction]], *, all_fire: bool = True
) -> Iterator[None]:
    """Install hooks for the length of a `with` block, then remove these and no others.

    A hook is called with the activation alone and returns its replacement, or None to only look.
    With `all_fire=False` a hook may never be called, because its layer is never run.

    Raises:
        ValueError: If the model has no hook point of that name.
        InterventionError: If the block ran to its end and a hook never fired, or was removed before
            the end, as `model.reset_hooks()` does; or another thread has heads knocked out.
    """
    points = hook_points(model, [name for name, _ in hooks])
    fired = [False] * len(hooks)
    level = next(_levels)

    def watched(index: int, function: HookFunction) -> Callable[..., Tensor | None]:
        def hook_function(activation: Tensor, hook: object) -> Tensor | None:
            fired[index] = True
            return function(activation)

        return hook_function

    def remove() -> None:
        for point in points:
            point.remove_hooks("fwd", level=level)

    with exclusive(model), undone(remove):
        for index, (point, (_, function)) in enumerate(zip(points, hooks, strict=True)):
            point.add_hook(watched(index, function), level=level)
        yield
        n_left = sum(handle.context_level == level for p in set(points) for handle in p.fwd_hooks)
    if n_left < len(hooks):
        raise InterventionError(
            "expected our hooks to stay until the end of the block, but something removed them, as "
            "model.reset_hooks() does; what ran after that ran without them"
        )
    silent = [name for (name, _), did in zip(hooks, fired, strict=True) if not did]
    if silent and all_fire and not any(fired):
        raise InterventionError(
            "expected a forward pass of the model inside the block, but none came through "
            f"{silent[0]}; run the model there, the same object that the block is for"
        )
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
        ValueError: If one of them does not exist.
    """
    available = model.hook_dict  # a property that is rebuilt on every access on bridges
    missing = [name for name in names if name not in available]
    if missing:
        remedy = (
            "its layers are not softmax attention of heads: pass another model"
            if getattr(model, "compatibility_mode", False)
            else "pass a decoder-only HookedTransformer, or a TransformerBridge after "
            "enable_compatibility_mode(fold_value_biases=False)"
        )
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        raise ValueError(
            f"expected a model with the hook points {', '.join(missing[:2])}{more}, got a "
            f"{type(model).__name__} without; {remedy}"
        )
    return [available[name] for name in names]


@contextmanager
def running(model: Model) -> Iterator[None]:
    """Turn off gradients and dropout and use torch's usual defaults; at the end restore everything,
    including the mode of each part of the model.

    Raises:
        InterventionError: If another thread has heads knocked out of the model.
    """
    modes = [(part, part.training) for part in parts(model)]
    with_gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()

    def restore() -> None:
        torch.set_grad_enabled(with_gradients)
        torch.set_default_dtype(dtype)
        for part, mode in modes:
            part.training = mode

    with exclusive(model), undone(restore), usual_device():
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float32)
        for part, mode in modes:
            if mode:
                part.training = False
        yield


def parts(model: Model) -> list[Any]:
    """Every torch module of a model, including those of a wrapped Hugging Face model, which a
    bridge does not list."""
    wrapped = vars(untyped(model)).get("original_model")
    wrapped_parts = [] if wrapped is None else wrapped.modules()
    return list(dict.fromkeys([*untyped(model).modules(), *wrapped_parts]))


def forward(model: Model, tokens: Int[Tensor, "batch pos"]) -> Any:
    """Logits of sequences in which nothing is padding.

    `HookedTransformer` masks what it takes for padding where its tokenizer pads on the left; that
    is switched off for this call.
    """
    if is_hooked(model) and getattr(model, "tokenizer", None) is not None:
        return untyped(model)(tokens, padding_side="right")
    return model(tokens)


def device_of(model: Model) -> torch.device:
    """The device of the model's first parameter."""
    return next(untyped(model).parameters()).device
