"""What a caller's forward pass is called with: its mask, its cache, its positions.

Inside a `with` block of ours the caller runs the model, by name or by position, on tokens or on
strings, in one pass or token by token with a key/value cache. Code that writes at a position has to
know which positions of the sequences a pass covers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from induction_lens.models.classes import is_hooked
from induction_lens.models.exclusive import exclusive, undone
from induction_lens.models.hooks import Model, untyped

_CACHES = ("past_kv_cache", "past_key_values", "use_past_kv_cache", "use_cache")
_MASKS = ("attention_mask", "one_zero_attention_mask")


class Call:
    """One call of a model."""

    def __init__(self, model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Bind what was passed to the names of the model's `forward`."""
        signature = inspect.signature(type(untyped(model)).forward)
        bound = signature.bind_partial(model, *args, **kwargs).arguments
        [more] = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD] or [""]
        self._arguments: dict[str, Any] = {**bound, **bound.get(more, {})}
        self._model = model
        self._args = args
        self._kwargs = kwargs

    def again(self) -> Any:
        """The model's output for this call."""
        return untyped(self._model)(*self._args, **self._kwargs)

    @property
    def uses_cache(self) -> bool:
        """Whether keys and values of earlier calls are read, or kept for later ones."""
        return any(self._get(name) not in (None, False) for name in _CACHES)

    @property
    def n_earlier(self) -> int:
        """How many positions come before those of this call: those in its key/value cache, and
        those that its mask is longer by."""
        found = [0]
        if (cache := self._get("past_kv_cache")) is not None:
            found.append(int(cache[0].past_keys.shape[1]))
        if (cache := self._get("past_key_values")) is not None:
            found.append(int(cache.get_seq_length()))
        given, mask = self._get("input"), self._get("attention_mask")
        if isinstance(given, Tensor) and isinstance(mask, Tensor) and mask.ndim > 1 < given.ndim:
            found.append(mask.shape[1] - given.shape[1])
        return max(found)

    @property
    def columns_are_positions(self) -> bool:
        """Whether the token in column `c` is at position `n_earlier + c` of its sequence.

        It is not if rows are padded on the left, which the model may find out by itself, or if the
        caller gives other positions.
        """
        positions, cache = self._get("position_ids"), self._get("past_kv_cache")
        if positions is not None:
            columns = torch.arange(positions.shape[-1]).to(positions) + self.n_earlier
            if not bool((positions == columns).all()):
                return False
        masks = [self._get(name) for name in _MASKS]
        masks.append(getattr(cache, "previous_attention_mask", None))
        given = [mask for mask in masks if mask is not None]
        if any(not bool(torch.as_tensor(mask).all()) for mask in given):
            return False
        return self._get("attention_mask") is not None or not self._pads_by_itself()

    def _get(self, name: str) -> Any:
        return self._arguments.get(name)

    def _pads_by_itself(self) -> bool:
        """Whether the model pads strings on the left, or takes tokens for such padding, and masks
        them without being asked."""
        model, given = untyped(self._model), self._get("input")
        tokenizer, pad = model.tokenizer, getattr(model.tokenizer, "pad_token_id", None)
        if pad is None or self._side(tokenizer) != "left":
            return False
        if not is_hooked(model) and not isinstance(given, list):
            return False
        options = {key: self._arguments[key] for key in ("prepend_bos",) if key in self._arguments}
        if isinstance(given, (str, list)):
            given = model.to_tokens(given, padding_side="left", **options)
        if not isinstance(given, Tensor) or given.is_floating_point():
            return False
        n_leading = (torch.atleast_2d(given) == pad).int().cumprod(-1).sum(-1)
        begins_with_pad = tokenizer.bos_token_id == pad and model.cfg.default_prepend_bos
        return bool((n_leading > int(begins_with_pad)).any())

    def _side(self, tokenizer: Any) -> str:
        side = self._get("padding_side")
        return side if side in ("left", "right") else tokenizer.padding_side


@contextmanager
def before_forward(model: Model, prepare: Callable[[Call], None]) -> Iterator[None]:
    """Call `prepare` before every forward pass inside the block, with what it is called with.

    The instance's `forward` is replaced, and put back at the end: unlike a torch pre-hook this also
    works for `run_with_hooks` and `run_with_cache`, which call `forward` directly.
    """
    module = untyped(model)
    own, forward = vars(module).get("forward"), module.forward
    inside = False

    def prepared(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if not inside:
            inside = True
            try:
                prepare(Call(model, args, kwargs))
            finally:
                inside = False
        return forward(*args, **kwargs)

    def restore() -> None:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own

    with exclusive(model), undone(restore):
        module.forward = prepared
        yield


@contextmanager
def reading(model: Model, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Show `look` the tokens [batch pos] of every forward pass inside the block, as the model's
    embedding reads them."""
    handles: list[Any] = []

    def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        look(next(value for value in given if isinstance(value, Tensor)))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    with exclusive(model), undone(remove):
        embed = untyped(model).embed
        handles.append(embed.register_forward_pre_hook(see, with_kwargs=True))
        yield
