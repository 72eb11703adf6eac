"""Heads knocked out of every forward pass inside a `with` block, whoever calls the model there.

Before the block begins, every layer is shown to pass on what is written there; inside it, every
forward pass says which positions of its sequences it is of; at its end, everything is as it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.hooks import Ablation, CleanAttention
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.ablation.outputs import NO_OUTPUTS, by_layer, keep_outputs
from induction_lens.heads import HeadLike, parse_heads
from induction_lens.models import (
    Call,
    HookFunction,
    InterventionError,
    Model,
    Tokens,
    before_forward,
    check_weights,
    check_zero_removes,
    exclusive,
    hook_name,
    installed,
    prove_writes_land,
    running,
    shape,
    undone,
)


@contextmanager
def knocked_out(
    model: Model,
    heads: Iterable[HeadLike] | HeadLike,
    *,
    method: AblationMethod | Method | str = "mean",
    reference: Tokens | None = None,
    seed: int = 0,
) -> Iterator[Model]:
    """Knock heads out of every forward pass inside a `with` block.

    Inside the block the model is the caller's, who may call it or run it with hooks of their own.
    With `resample`, row `i` of a batch gets the outputs of a row other than `i` of the reference.

    Args:
        model: A hooked model.
        heads: Heads such as `"1.6"`, `(1, 6)` or `Head(1, 6)`.
        method: `zero`, `mean`, `resample`, `pattern-preserving`, or an `AblationMethod`.
        reference: Sequences to take outputs from, padded ones with their mask as a tokenizer
            returns them; needed by `mean` and `resample`, unless an object brings its own.
        seed: Seed of the permutation of `resample`, called by its name.

    Raises:
        ValueError: For an unknown method or head, or a missing or too small reference.
        InterventionError: If the model drops the writes, or no forward pass came through them.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> with il.knocked_out(model, "1.6", method="zero"):
        ...     ablated = il.per_token_loss(model, tokens)
        >>> clean = il.per_token_loss(model, tokens)
        >>> [round(losses[:, 51:].mean().item(), 1) for losses in (clean, ablated)]
        [8.6, 9.7]
    """
    seed = checks.seed(seed)
    method = as_method(method, reference=reference, seed=seed)
    sizes = shape(model)
    parsed = parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
    grouped = by_layer(parsed)
    check_nesting(model, method)
    taken_from = reference if method.reference is None else method.reference
    if method.needs != "nothing" and taken_from is None:
        raise ValueError(
            f"expected a reference for method {method.label!r}, got none; pass the sequences to "
            "take the heads' usual output from, such as reference=text"
        )
    check_weights(model)
    prove_writes_land(model, list(grouped), vocabulary=sizes.d_vocab)
    if method.removes:
        check_zero_removes(model, list(grouped))
    outputs = NO_OUTPUTS
    if method.needs != "nothing" and taken_from is not None:
        outputs = keep_outputs(model, grouped, taken_from, each=method.needs == "each sequence")
    ablation = Ablation(model, parsed, method, outputs=outputs)
    with exclusive(model, block=True), _listed(model, method), _entered(ablation):
        yield model


def _entered(ablation: Ablation) -> AbstractContextManager[None]:
    """The hooks of an ablation, with what they have to know of every forward pass."""
    return _frozen(ablation) if ablation.freezes else _located(ablation)


_OPEN: weakref.WeakKeyDictionary[Any, list[AblationMethod]] = weakref.WeakKeyDictionary()


@contextmanager
def _listed(model: Model, method: AblationMethod) -> Iterator[None]:
    """List an ablation among those that are open on a model."""
    methods = _OPEN.setdefault(model, [])
    before = list(methods)

    def remove() -> None:
        methods[:] = before

    with undone(remove):
        methods.append(method)
        yield


def check_nesting(model: Model, method: AblationMethod) -> None:
    """Check that an ablation inside others does what one of all their heads would do.

    Raises:
        ValueError: If it need not: what the inner one takes from a run, it would take from a model
            that lacks heads already.
    """
    outer = _OPEN.get(model, [])
    writes_the_same = method.removes and not method.preserves_patterns
    if outer and (not writes_the_same or any(one.preserves_patterns for one in outer)):
        raise ValueError(
            f"expected no other ablation around one by {method.label!r} ablation, got one by "
            f"{outer[-1].label!r}; name the heads of both in one call"
        )


def _check_positions(method: AblationMethod, call: Call) -> None:
    """Check that columns are positions, where a method looks at positions.

    Raises:
        InterventionError: If they are not.
    """
    looks = method.reads_positions or not method.position_wise
    if looks and not call.columns_are_positions:
        raise InterventionError(
            "expected sequences without padding, to know which position each token is at, got "
            "masked tokens or positions of the caller's; run sequences of one length, or use "
            "zero or mean ablation"
        )


@contextmanager
def _located(ablation: Ablation) -> Iterator[None]:
    """Every forward pass in the block says which positions of its sequences it is of: generation
    with a key/value cache runs the last one alone."""
    model, method, n_cached = ablation.model, ablation.method, 0

    def expect(call: Call) -> None:
        nonlocal n_cached
        n_cached = call.n_earlier
        if not method.position_wise and n_cached > 0:
            raise InterventionError(
                f"expected forward passes over whole sequences, since {method.label} ablation may "
                "look at several positions, got one with a key/value cache; generate with "
                "use_past_kv_cache=False, or set position_wise = True if it does not"
            )
        _check_positions(method, call)

    def locate(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
        n_before = pattern.shape[3] - pattern.shape[2]
        if n_before < n_cached:
            raise InterventionError(
                f"expected attention to the {n_cached} positions in the key/value cache, but this "
                f"{type(model).__name__} leaves them out; generate with use_past_kv_cache=False"
            )
        ablation.n_before = n_before

    look = [(hook_name("pattern", layer), locate) for layer in ablation.heads]
    with (
        ablation.watching(),
        installed(model, look, all_fire=method.reads_positions),
        installed(model, ablation.hooks()),
        before_forward(model, expect),
    ):
        yield


@contextmanager
def _frozen(ablation: Ablation) -> Iterator[None]:
    """Every forward pass in the block is preceded by a clean one that gives the patterns."""
    model, paused = ablation.model, False

    def unless_paused(hook: HookFunction) -> HookFunction:
        return lambda activation: None if paused else hook(activation)

    def freeze(call: Call) -> None:
        nonlocal paused
        if call.uses_cache:
            raise InterventionError(
                "expected a forward pass over whole sequences, to freeze the patterns of a clean "
                "one, got one with a key/value cache; generate with use_past_kv_cache=False"
            )
        _check_positions(ablation.method, call)
        paused, clean = True, CleanAttention()
        hooks = clean.hooks(range(shape(model).n_layers))
        try:
            with running(model), installed(model, hooks, all_fire=False):
                call.again()
        finally:
            paused = False
        clean.check()
        ablation.freeze(clean.patterns)

    hooks = [(name, unless_paused(hook)) for name, hook in ablation.hooks()]
    with installed(model, hooks), before_forward(model, freeze):
        yield
