"""What single heads write, from each position that they attend to.

A head's output at a query is a sum over keys: `pattern[q, k] · v[k] W_O`. Not every architecture
adds it like this: some norm or scale it first, some attend to more than the keys. So both sums are
compared with what the model itself has, and so is the last step, from the residual stream to
logits. What differs is given as a reason, and nothing is read off it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.fitness import unfit_for_unembedding
from induction_lens.models.hooks import (
    HookFunction,
    Model,
    Site,
    forward,
    hook_name,
    installed,
    keep,
    untyped,
)
from induction_lens.models.passes import run_until, tolerance
from induction_lens.models.properties import (
    centres,
    output_weights,
    residual_scale,
    shape,
    unembedding,
)

_OTHER_SITES: tuple[Site, ...] = ("v", "z", "attn_out")
_COMPARED = 64  # positions on which whole vectors are compared


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
    model: Model, tokens: Int[Tensor, "1 pos"], heads: Mapping[int, Sequence[int]]
) -> Iterator[WrittenByHeads]:
    """Run a model on one sequence, and give heads of each layer, from the first on.

    Gradients and dropout are the caller's to turn off (`running`).

    Args:
        model: A hooked model.
        tokens: The sequence, on the model's device.
        heads: Heads by layer.

    Raises:
        InterventionError: If the model does not run through a layer's pattern.
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
        yield _written(model, layer, tuple(heads[layer]), of_layer)


def _written(
    model: Model, layer: int, heads: tuple[int, ...], seen: Sequence[Tensor | None]
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
    why_not = why_not or _unlike_added(model, layer, weight, z, attn_out)
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
    if _same(pattern @ value, z):
        return None
    return f"heads of layer {layer} put out something else than attention times values"


def _unlike_added(
    model: Model, layer: int, weight: Tensor, z: Tensor, attn_out: Tensor
) -> str | None:
    """Why attention adds something else than the heads' outputs through `W_O`, and the bias."""
    z, attn_out = z[:_COMPARED], attn_out[:_COMPARED]
    bias = getattr(untyped(model).blocks[layer].attn, "b_O", None)
    added = z.flatten(1).float() @ weight.flatten(0, 1).float()
    added = added if bias is None else added + bias.detach().float()
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
