"""What single heads write, from each position that they attend to.

A head's output at a query is a sum over keys: `pattern[q, k] · v[k] W_O`. Not every architecture
adds it like this: some norm or scale it first, some attend to more than the keys. So both sums are
compared with what the model itself has, and so is the last step, from the residual stream to
logits. What differs is given as a reason, and nothing is read off it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.fitness import unfit_for_unembedding
from induction_lens.models.hooks import (
    HookFunction,
    Model,
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
    written: Float[Tensor, "chosen key_pos d_model"]
    """`v W_O` of each key: what the head would write if it attended to that key alone. Where the
    model's norms take the mean over `d_model` out, it is taken out here too."""
    why_not: str | None
    """Why `written` is not what these heads add to the residual stream; None where it is."""


def heads_written(
    model: Model,
    tokens: Int[Tensor, "1 pos"],
    heads: Mapping[int, Sequence[int]],
    look: Callable[[WrittenByHeads], None],
) -> None:
    """Run a model on one sequence, and show heads to `look`, one layer after the other.

    Gradients and dropout are the caller's to turn off (`running`).

    Args:
        model: A hooked model.
        tokens: The sequence, on the model's device.
        heads: Heads by layer.
        look: What to call.

    Raises:
        InterventionError: If the model does not run through one of the hook points.
    """
    hooks: list[tuple[str, HookFunction]] = []
    for layer, chosen in sorted(heads.items()):
        hooks += _hooks_of_layer(model, layer, tuple(chosen), look)
    with installed(model, hooks):
        run_until(model, tokens, hook_name("resid_post", max(heads)))


def _hooks_of_layer(
    model: Model,
    layer: int,
    heads: tuple[int, ...],
    look: Callable[[WrittenByHeads], None],
) -> list[tuple[str, HookFunction]]:
    """Hooks that keep a layer's parts until attention ends, then show them."""
    seen: dict[str, Tensor] = {}
    chosen = list(heads)

    def on_value(value: Float[Tensor, "1 pos kv_head d_head"]) -> None:
        groups = shape(model).n_heads // value.shape[2]
        of_heads = value.detach()[0, :, [head // groups for head in chosen]]
        seen["value"] = of_heads.transpose(0, 1).float()

    def on_pattern(pattern: Float[Tensor, "1 head query_pos key_pos"]) -> None:
        seen["pattern"] = pattern.detach()[0, chosen].float()

    def on_z(z: Float[Tensor, "1 pos head d_head"]) -> None:
        seen["z"] = z.detach()[0]

    def on_attn_out(attn_out: Float[Tensor, "1 pos d_model"]) -> None:
        W_O = output_weights(model, layer)
        why_not = _unlike_products(layer, chosen, seen) or _unlike_added(
            model, layer, W_O, seen["z"], attn_out[0]
        )
        written = seen["value"] @ W_O[chosen].float()
        if centres(model):
            written -= written.mean(-1, keepdim=True)
        look(WrittenByHeads(layer, heads, seen["pattern"], written, why_not))
        seen.clear()

    functions = {"v": on_value, "pattern": on_pattern, "z": on_z, "attn_out": on_attn_out}
    return [(hook_name(site, layer), function) for site, function in functions.items()]  # type: ignore[arg-type]


def _unlike_products(layer: int, chosen: list[int], seen: Mapping[str, Tensor]) -> str | None:
    """Why heads put out something else than their pattern times the values."""
    z = seen["z"][:, chosen].transpose(0, 1)
    if seen["value"].shape != z.shape:
        return f"the values of layer {layer} are not as wide as what its heads put out"
    if _same(seen["pattern"] @ seen["value"], z):
        return None
    return f"heads of layer {layer} put out something else than attention times values"


def _unlike_added(model: Model, layer: int, W_O: Tensor, z: Tensor, attn_out: Tensor) -> str | None:
    """Why attention adds something else than the heads' outputs through `W_O`, and the bias."""
    z, attn_out = z[:_COMPARED], attn_out.detach()[:_COMPARED]
    bias = getattr(untyped(model).blocks[layer].attn, "b_O", None)
    added = z.flatten(1).float() @ W_O.flatten(0, 1).float()
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
    scale = residual_scale(model, residual.float())
    return (
        scale.expand(residual.shape[:2] + (1,))[0, :, 0]
        if scale.ndim
        else scale.expand(residual.shape[1])
    )
