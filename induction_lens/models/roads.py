"""Which road a model takes: layer by layer where that is exact, and whole where it is not.

Not every architecture is put together like `LayerByLayer`, and a caller's hooks may look at what is
left out. `run` therefore gives `Whole` where the model's settings, or what hangs on its parts, say
that something else acts (`fitness`), and, of what acts on every token, where the layers do not end
where the model does on the beginning of a sequence. The reason is logged, and kept with the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Int
from torch import Tensor

from induction_lens.models.fitness import unfit_for_layers, unfit_for_unembedding
from induction_lens.models.hooks import (
    InterventionError,
    Model,
    hook_name,
    installed,
    running,
    untyped,
)
from induction_lens.models.layerwise import LayerByLayer
from induction_lens.models.passes import UNEMBED, logits_at, run_until, tolerance
from induction_lens.models.properties import check_weights
from induction_lens.models.remembered import remembered
from induction_lens.models.run import Run, Whole

_LOGGER = logging.getLogger("induction_lens")
_CHECKED = 64  # tokens on which layers are compared with the model
_TELLING = 4  # different tokens that a proof is remembered of
_PUT_TOGETHER_IN_ANOTHER_WAY = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def run(
    model: Model, tokens: Int[Tensor, "batch pos"], *, unembeds: bool = False, why_whole: str = ""
) -> Iterator[Run]:
    """The model ready to run on sequences of this length: layer by layer where that is exact.

    Gradients and dropout are off inside the block.

    Args:
        model: A hooked model.
        tokens: An example of the sequences: layers are compared with the model on its beginning.
        unembeds: Whether logits will be asked for, so that these are compared.
        why_whole: A reason of the caller's to run the model whole.

    Raises:
        ValueError: If a weight is not finite.
    """
    with running(model):
        reason = why_whole or unfit_for_layers(model, tokens.shape[1])
        if reason is None and unembeds:
            reason = unfit_for_unembedding(model)
        layers = None if reason else _checked_layers(model, tokens[:1, :_CHECKED], unembeds)
        if layers is None:
            reason = reason or "its layers, run one by one, do not give what it gives"
            _LOGGER.info("run whole, because %s", reason)
            check_weights(model)  # such a model may be broken, rather than unusual
            yield Whole(model, reason)
            return
        with installed(model, layers.hooks(), all_fire=False):
            yield layers


def _checked_layers(model: Model, tokens: Tensor, unembeds: bool) -> LayerByLayer | None:
    """The fastest way through the layers that ends like the model on these tokens, or on as many
    others that were read when the model was what it is now."""

    def find() -> tuple[tuple[str, str, str] | None] | None:
        spread = _spread(tokens.shape[1])
        ends = logits_at(model, tokens, spread) if unembeds else _final(model, tokens)[:, spread]
        for sites in (None, *_sites(model, tokens)):
            layers = LayerByLayer(model, sites)
            if _reproduces(layers, model, tokens, ends.float(), unembeds):
                return (sites,)
        return None

    if len(tokens.unique()) < min(_TELLING, tokens.shape[1]):
        # where all tokens are alike, so is what any pattern reads: that proves nothing of others
        found = find()
    else:
        found = remembered(model, ("layers", tokens.shape[1], unembeds), find)
    return None if found is None else LayerByLayer(model, *found)


def _final(model: Model, tokens: Tensor) -> Tensor:
    """What the unembedding reads."""
    kept: list[Tensor] = []
    with installed(model, [(UNEMBED, kept.append)]):
        run_until(model, tokens, UNEMBED)
    return kept[0]


def _reproduces(
    layers: LayerByLayer, model: Model, tokens: Tensor, expected: Tensor, unembeds: bool
) -> bool:
    """Whether the layers end where the model does, to the precision of the weights."""
    try:
        with installed(model, layers.hooks(), all_fire=False):
            final = _run(layers, tokens)
            ends = (layers.unembed(final) if unembeds else final).float()
    except _PUT_TOGETHER_IN_ANOTHER_WAY:
        return False
    dtype = next(untyped(model).parameters()).dtype
    bound = tolerance(dtype) * max(1.0, float(expected.abs().max()))
    return ends.shape == expected.shape and bool(((ends - expected).abs() <= bound).all())


def _sites(model: Model, tokens: Tensor) -> Iterator[tuple[str, str, str]]:
    """Where queries and keys that know their positions, and values, may be seen."""
    points = model.hook_dict
    for query, key in (("hook_rot_q", "hook_rot_k"), ("hook_q", "hook_k")):
        names = [f"blocks.0.attn.{site}" for site in (query, key, "hook_v")]
        if not all(name in points for name in names):
            continue
        try:
            with installed(model, [(name, lambda activation: None) for name in names]):
                run_until(model, tokens[:, :2], hook_name("resid_post", 0))
        except InterventionError:  # rotated ones exist on some bridges, but are never seen
            continue
        yield query, key, "hook_v"


def _spread(n: int) -> list[int]:
    """About sixteen positions, the last one included."""
    return sorted({*range(0, n, max(1, n // 16)), n - 1})


def _run(layers: LayerByLayer, tokens: Tensor) -> Tensor:
    """What the unembedding would read at `_spread` positions."""
    return layers.final_norm(layers.through(tokens)[:, _spread(tokens.shape[1])])
