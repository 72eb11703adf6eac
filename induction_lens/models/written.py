"""What single heads write, from each position that they attend to.

A head's output at a query is a sum over keys: `pattern[q, k] · v[k] W_O`. Not every architecture
adds it like this: some norm or scale it first, some attend to more than the keys. So both sums are
compared with what the model itself has, and so is the last step, from the residual stream to
logits. What differs is given as a reason, and nothing is read off it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.fitness import is_set, unfit_for_unembedding
from induction_lens.models.hooks import (
    FINAL_SCALE,
    HookFunction,
    Model,
    Site,
    device_of,
    forward,
    hook_name,
    installed,
    keep,
    running,
    untyped,
)
from induction_lens.models.passes import run_until, tolerance
from induction_lens.models.properties import (
    centres,
    check_weights,
    ordinary_ids,
    output_weights,
    residual_scale,
    shape,
    unembedding,
)
from induction_lens.models.remembered import remembered

_OTHER_SITES: tuple[Site, ...] = ("v", "z", "attn_out")
_COMPARED = 64  # positions on which whole vectors are compared
_FEW = 16  # tokens that show whether heads write by plain products


@dataclass(frozen=True)
class WrittenByHeads:
    """Some heads of one layer on one sequence: where they attend, and what they move from there."""

    layer: int
    """The layer."""
    heads: tuple[int, ...]
    """The heads, in the order of the axis `chosen`."""
    pattern: Float[Tensor, "chosen query_pos key_pos"]
    """Their attention."""
    written: Float[Tensor, "chosen key_pos d_model"] | None
    """`v W_O` of each key: what the head would write if it attended to that key alone. Where the
    model's norms take the mean over `d_model` out, it is taken out here too. None where this is not
    what these heads add to the residual stream."""
    why_not: str | None = None
    """Why it is not, as a clause."""


def heads_written(
    model: Model,
    tokens: Int[Tensor, "1 pos"],
    heads: Mapping[int, Sequence[int]],
    *,
    scaled: bool = False,
) -> Iterator[WrittenByHeads]:
    """Run a model on one sequence, and give heads of each layer, from the first on.

    Gradients and dropout are the caller's to turn off (`running`).

    Args:
        model: A hooked model.
        tokens: The sequence, on the model's device.
        heads: Heads by layer.
        scaled: Whether what a layer's heads add may be all that times one positive number.

    Raises:
        InterventionError: If the model does not run through a layer's pattern.
        ValueError: If activations are not finite.
    """
    seen: dict[tuple[Site, int], Tensor] = {}

    def on(site: Site, layer: int) -> HookFunction:
        def hook(activation: Tensor) -> None:
            of_heads = activation.detach()[0]
            seen[site, layer] = of_heads[list(heads[layer])] if site == "pattern" else of_heads

        return hook

    known = model.hook_dict
    patterns = [(hook_name("pattern", layer), on("pattern", layer)) for layer in heads]
    others = [
        (hook_name(site, layer), on(site, layer))
        for layer in heads
        for site in _OTHER_SITES
        if hook_name(site, layer) in known
    ]
    with installed(model, patterns), installed(model, others, all_fire=False):
        run_until(model, tokens, hook_name("resid_post", max(heads)))
    for layer in sorted(heads):
        of_layer = [seen.pop((site, layer), None) for site in ("pattern", *_OTHER_SITES)]
        yield _written(model, layer, tuple(heads[layer]), of_layer, scaled=scaled)


def unlike_written(model: Model, *, scaled: bool = False) -> str | None:
    """Why heads do not add, to a residual stream that nothing else rewrites, their attention times
    values through `W_O`; None where they do.

    Found out on a few tokens without the hooks of others, and remembered while the model stays what
    it is.

    Args:
        model: A hooked model.
        scaled: Whether it may be all that times one positive number in each layer.

    Raises:
        ValueError: If weights or activations are not finite.
    """
    return remembered(model, ("written", scaled), lambda: _unlike_written(model, scaled))


def check_written(model: Model, *, what: str, scaled: bool = True) -> None:
    """Check that heads add their attention times values, through `W_O`, to the residual stream.

    Args:
        model: A hooked model.
        what: What needs it.
        scaled: As in `unlike_written`.

    Raises:
        ValueError: If they do not.
    """
    reason = unlike_written(model, scaled=scaled)
    if reason is not None:
        raise ValueError(
            f"expected, for {what}, heads that add attention times values to the residual stream, "
            f"got a model in which {reason}; use what is measured in runs, such as ablations"
        )


def _unlike_written(model: Model, scaled: bool) -> str | None:
    check_weights(model)
    if is_set(model, "clip_qkv"):
        return "values are clipped"  # where they are large, which a few tokens may not show
    norms = getattr(model.cfg, "normalization_type", None) is not None
    if norms and FINAL_SCALE not in model.hook_dict:
        return "no final norm is seen after its layers"
    sizes, ids = shape(model), ordinary_ids(model)
    n_tokens = min(_FEW, sizes.n_ctx)
    chosen = torch.linspace(0, len(ids) - 1, n_tokens, dtype=torch.float64, device="cpu").long()
    heads = {layer: range(sizes.n_heads) for layer in range(sizes.n_layers)}
    with running(model), _unhooked(model):
        tokens = ids[chosen][None].to(device_of(model))
        for seen in heads_written(model, tokens, heads, scaled=scaled):
            if seen.why_not is not None:
                return seen.why_not
    return None


@contextmanager
def _unhooked(model: Model) -> Iterator[None]:
    """Take the hooks of others off a model's hook points for the length of a block."""
    points = list(dict.fromkeys(model.hook_dict.values()))
    kept = [(point, point._forward_hooks, point.fwd_hooks) for point in points]
    try:
        for point in points:
            point._forward_hooks, point.fwd_hooks = OrderedDict(), []
        yield
    finally:
        for point, hooks, handles in kept:
            point._forward_hooks, point.fwd_hooks = hooks, handles


def _written(
    model: Model,
    layer: int,
    heads: tuple[int, ...],
    seen: Sequence[Tensor | None],
    *,
    scaled: bool,
) -> WrittenByHeads:
    """What was seen of a layer (pattern, values, `z`, what attention adds), put together and
    compared with the layer's own sums."""
    pattern, value, z, attn_out = seen
    assert pattern is not None
    pattern = pattern.float()
    n_heads = shape(model).n_heads
    hidden = f"layer {layer} does not show its values"
    if value is None or z is None or attn_out is None:
        return WrittenByHeads(layer, heads, pattern, None, hidden)
    if value.ndim != 3 or n_heads % value.shape[1]:
        return WrittenByHeads(layer, heads, pattern, None, hidden)
    groups = n_heads // value.shape[1]
    value = value[:, [head // groups for head in heads]].transpose(0, 1).float()
    weight = output_weights(model, layer)
    why_not = _unlike_products(layer, pattern, value, z[:, list(heads)].transpose(0, 1))
    why_not = why_not or _unlike_added(model, layer, weight, z, attn_out, scaled=scaled)
    if why_not is not None:
        return WrittenByHeads(layer, heads, pattern, None, why_not)
    written = value @ weight[list(heads)].float()
    if centres(model):
        written -= written.mean(-1, keepdim=True)
    return WrittenByHeads(layer, heads, pattern, written)


def _unlike_products(layer: int, pattern: Tensor, value: Tensor, z: Tensor) -> str | None:
    """Why heads put out something else than their pattern times the values."""
    if value.shape != z.shape:
        return f"the values of layer {layer} are not as wide as what its heads put out"
    if not bool(torch.isfinite(z).all()):
        raise ValueError(
            f"expected finite activations, got NaN or infinite ones in layer {layer}; load the "
            "model in float32"
        )
    if _same(pattern @ value, z):
        return None
    return f"heads of layer {layer} put out something else than attention times values"


def _unlike_added(
    model: Model, layer: int, weight: Tensor, z: Tensor, attn_out: Tensor, *, scaled: bool
) -> str | None:
    """Why attention adds something else than the heads' outputs through `W_O`, and the bias."""
    z, attn_out = z[:_COMPARED], attn_out[:_COMPARED]
    bias = getattr(untyped(model).blocks[layer].attn, "b_O", None)
    added = z.flatten(1).float() @ weight.flatten(0, 1).float()
    added = added if bias is None else added + bias.detach().float()
    if scaled:
        factor = float((added * attn_out).sum() / added.square().sum().clamp(min=1e-30))
        added = added * max(factor, 0.0)
    if _same(added, attn_out):
        return None
    return f"what heads of layer {layer} put out is normed or scaled before it is added"


def _same(ours: Tensor, models: Tensor) -> bool:
    """Whether two tensors agree, up to the rounding of the model's own."""
    largest = max(1e-6, float(models.abs().max()))
    difference = (ours - models.float()).abs().max()
    return bool(difference <= tolerance(models.dtype) * largest)


@dataclass(frozen=True)
class Readout:
    """How the final residual stream becomes logits, the scale of the final norm held fixed."""

    scale: Float[Tensor, " pos"]
    """What the final norm divides by at each position."""
    directions: Float[Tensor, "d_model read_token"]
    """For some tokens, the direction that raises their logit above the mean logit; the final norm's
    weight, and its centring, are in it."""


def readout(
    model: Model, tokens: Int[Tensor, "1 pos"], read: Int[Tensor, " read_token"]
) -> Readout | str:
    """How logits of the tokens `read` come about after each position of a sequence; or why that
    cannot be said, as a clause.

    Logits count above their mean over the vocabulary: what all share changes no prediction.
    """
    reason = unfit_for_unembedding(model)
    if reason is not None:
        return reason
    last = shape(model).n_layers - 1
    kept: dict[int, Tensor] = {}
    with installed(model, keep("resid_post", [last], into=kept)):
        run_until(model, tokens, hook_name("resid_post", last))
        scale = _scale(model, kept[last])
        logits = forward(model, tokens[:, :_COMPARED])[0].float()
    W_U = unembedding(model).float()
    directions = W_U[:, read] - W_U.mean(dim=1, keepdim=True)
    # the first positions again, in a pass of their own
    linear = kept[last][0].float() @ directions / _scale(model, kept[last])[:, None]
    rest = (logits - logits.mean(-1, keepdim=True))[:, read] - linear
    bound = tolerance(next(untyped(model).parameters()).dtype) * float(logits.abs().max())
    # biases alone may be left, which are the same everywhere
    if float((rest - rest[:1]).abs().max()) > max(bound, 1e-6):
        return "its logits are not the unembedding of its normed residual stream"
    return Readout(scale, directions)


def _scale(model: Model, residual: Float[Tensor, "1 pos d_model"]) -> Float[Tensor, " pos"]:
    """What the final norm divides each position by: 1 in a model without norms."""
    scale = residual_scale(model, residual.float())
    return scale.expand(1, residual.shape[1], 1)[0, :, 0]
