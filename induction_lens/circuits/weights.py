"""What a head reads and writes, as weights: the factors of `W_OV` and `W_QK`.

Row vectors multiply from the left: `W_OV = W_V W_O`, `W_QK = W_Q W_Kᵀ`, both `d_model × d_model`
of rank `d_head`. The norm before attention is folded into what reads (its weight, and its
centring), not its scale. Where norms centre, what is written is centred too: nothing reads the mean
over the residual stream, and some ways to load a model leave it out. Grouped queries: query head
`h` has the keys and values of head `h // (n_heads / n_kv_heads)`.

Not every model reads its residual stream by such products. `check_bilinear` refuses those that do
not, by their parts, and by comparing the values of a short run with what the weights say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.models import (
    Model,
    centres,
    check_weights,
    device_of,
    hook_name,
    installed,
    is_set,
    keep,
    key_weights,
    ordinary_ids,
    output_weights,
    query_weights,
    residual_scale,
    rewritten_residual,
    run_until,
    running,
    shape,
    tolerance,
    untyped,
    value_weights,
)

Factor = Float[Tensor, "head d_model d_head"]
_NORMS_OF_QUERIES = ("q_norm.", "k_norm.")
_NORM_AFTER = ".ln1_post."


@dataclass(frozen=True)
class HeadWeights:
    """The weights of one layer's heads, in float32, the norm before attention folded in."""

    W_Q: Factor
    """From the residual stream to queries."""
    W_K: Factor
    """From the residual stream to keys, for each query head."""
    W_V: Factor
    """From the residual stream to values, for each query head."""
    W_O: Float[Tensor, "head d_head d_model"]
    """From what a head puts out to the residual stream; centred where norms centre."""


def head_weights(model: Model, layer: int) -> HeadWeights:
    """The weights of a layer's heads.

    Args:
        model: A hooked model, which `check_bilinear` let through.
        layer: Which layer.

    Raises:
        ValueError: If there is no such layer.

    Examples:
        >>> weights = il.circuits.head_weights(il.load("toy-2l"), 1)
        >>> weights.W_Q.shape, weights.W_O.shape
        (torch.Size([8, 256, 32]), torch.Size([8, 32, 256]))
    """
    checks.model(model)
    last = shape(model).n_layers - 1
    layer = checks.whole_number("layer", layer, least=0, most=last, remedy="name one it has")
    W_O = output_weights(model, layer).float()
    return HeadWeights(
        W_Q=query_weights(model, layer).float(),
        W_K=key_weights(model, layer).float(),
        W_V=value_weights(model, layer).float(),
        W_O=W_O - W_O.mean(dim=-1, keepdim=True) if centres(model) else W_O,
    )


def check_bilinear(model: Model) -> None:
    """Check that queries, keys and values are products of weights with the normed residual stream.

    Raises:
        ValueError: If the model normalises its queries and keys, as OLMo 2, Qwen 3 and Gemma 3 do,
            so that `W_QK` says neither which keys match nor how well; if it norms what attention
            puts out; if it clips queries and keys; if it has no such weights; or if its values are
            not what they give.

    Examples:
        >>> il.circuits.check_bilinear(il.load("toy-2l"))
    """
    checks.model(model)
    check_weights(model)
    names = [name for name in model.hook_dict if name.startswith("blocks.")]
    if any(part in name for name in names for part in _NORMS_OF_QUERIES):
        raise ValueError(
            "expected queries and keys that are products of weights with the residual stream, got "
            "a model that normalises them, where W_QK is not bilinear; use what is measured in "
            "runs, such as path patching"
        )
    if any(_NORM_AFTER in name for name in names):
        raise ValueError(
            "expected heads that write to the residual stream by W_O, got a model that norms what "
            "attention puts out; use what is measured in runs, such as path patching"
        )
    rewritten = rewritten_residual(model)
    if rewritten is not None:
        raise ValueError(
            "expected a residual stream that is the sum of what was written to it, got a model "
            f"with a canon layer that rewrites {rewritten}; use what is measured in runs, such as "
            "score_heads and ablations"
        )
    if is_set(model, "clip_qkv"):
        raise ValueError(
            "expected queries and keys that are products of weights with the residual stream, got "
            "a model that clips them (clip_qkv); use what is measured in runs, such as path "
            "patching"
        )
    for layer in range(shape(model).n_layers):
        try:
            head_weights(model, layer)
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"expected weights W_Q, W_K, W_V and W_O in each layer, got none in layer {layer}; "
                "pass a model whose attention has them"
            ) from error
    _check_values(model)


def _check_values(model: Model) -> None:
    """Check that values are `normed residual stream × W_V + bias`, on a few tokens."""
    sizes = shape(model)
    n_tokens = min(8, sizes.n_ctx)
    ids = ordinary_ids(model)
    chosen = torch.linspace(0, len(ids) - 1, n_tokens, dtype=torch.float32, device="cpu").long()
    tokens = ids[chosen][None].to(device_of(model))
    layers = range(sizes.n_layers)
    entering: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    hooks = keep("resid_pre", layers, into=entering) + keep("v", layers, into=values)
    with running(model), installed(model, hooks):
        run_until(model, tokens, hook_name("v", sizes.n_layers - 1))
    bound = tolerance(next(untyped(model).parameters()).dtype)
    for layer in layers:
        value = values[layer][0].float()
        groups = sizes.n_heads // value.shape[1]
        W_V = value_weights(model, layer).float()[::groups]
        x = entering[layer][0].float()
        made = torch.einsum("pd,hde->phe", x / residual_scale(model, x), W_V)
        rest = value - made  # the bias, the same at each position
        if not torch.allclose(rest, rest[:1].expand_as(rest), atol=10 * bound * _size(value)):
            raise ValueError(
                f"expected values that are the normed residual stream times W_V, got others in "
                f"layer {layer}; pass a model that norms before attention and changes them no more"
            )


def read_width(model: Model) -> int:
    """Dimensions of the residual stream that heads can read: all, or all but the mean.

    Raises:
        ValueError: This is no hooked model.

    Examples:
        >>> il.circuits.read_width(il.load("toy-2l"))  # LayerNorm centres its 256 dimensions
        255
    """
    checks.model(model)
    return shape(model).d_model - int(centres(model))


def _size(x: Tensor) -> float:
    return max(1.0, float(x.abs().max()))
