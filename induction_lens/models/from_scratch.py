"""Small transformers built from scratch, in the TransformerLens class that is available.

TransformerLens up to 3.9 has `HookedTransformer`; every supported version has
`TransformerBridge`, whose `boot_native` wraps a plain transformer of its own. The two keep the
same weights under different names and in different layouts. `toy_weights` is the one view of
both: a dictionary of *views* of the model's own parameters, named and shaped as TransformerLens
names them, so that one dictionary loads, saves, trains and reads either class.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn

from induction_lens import checks
from induction_lens.models.classes import (
    HAS_HOOKED_TRANSFORMER,
    bridge_class,
    bridge_config_class,
    hooked_class,
    hooked_config_class,
    is_bridge,
    usual_defaults,
)
from induction_lens.models.hooks import hook_name

Implementation = Literal["hooked", "bridge"]


def _identity(parameter: Tensor) -> Tensor:
    return parameter


def check_device(device: torch.device | str | None) -> None:
    """Check that tensors can be made on a device; None, the best there is, is allowed.

    Raises:
        ValueError: Torch knows no such device, or has none here.
    """
    if device is not None and not isinstance(device, (str, torch.device)):
        raise checks.refuse("device", "a device such as 'cpu' or 'cuda'", device, "pass its name")
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"expected a device of this machine, such as cpu, cuda or mps, got {str(device)!r}, "
            "which torch does not know or cannot find here; leave it out for the best there is"
        ) from error


def new_transformer(
    *,
    n_layers: int,
    d_model: int,
    n_heads: int,
    d_head: int,
    d_vocab: int,
    n_ctx: int,
    d_mlp: int | None,
    positions: str,
    implementation: Implementation | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Build a decoder-only transformer with uninitialised weights.

    Parameter-free layer norm before every sublayer and before the unembedding, `gelu_new` in the
    MLPs, biases on everything but the unembedding. Rotary positions rotate adjacent pairs over
    the whole head.

    Args:
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_heads: Heads in each block.
        d_head: Width of a head.
        d_vocab: Number of token ids.
        n_ctx: Longest sequence, in tokens.
        d_mlp: Width of the MLPs; None leaves them out (attention-only).
        positions: "rotary", "standard" or "shortformer".
        implementation: "hooked" (`HookedTransformer`), "bridge" (`TransformerBridge`), or None
            for the first of the two that this TransformerLens has.
        device: Where the weights go; None picks CUDA if there is one, else the CPU.
        dtype: Type of the weights.

    Raises:
        ValueError: The installed TransformerLens has no such class, or that class does not know
            these positions, or there is no such device.
    """
    chosen = _choose(implementation, positions)
    check_device(device)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    plain: dict[str, Any] = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "d_head": d_head,
        "d_vocab": d_vocab,
        "n_ctx": n_ctx,
        "attn_only": d_mlp is None,
        "d_mlp": d_mlp,
        "act_fn": "gelu_new",
        "normalization_type": "LNPre",
        "eps": 1e-5,
        "positional_embedding_type": positions,
        "rotary_adjacent_pairs": positions == "rotary",
        "rotary_dim": d_head if positions == "rotary" else None,
        "tokenizer_prepends_bos": False,
        "init_weights": False,
    }
    if chosen == "hooked":
        plain |= {"device": str(device), "default_prepend_bos": True}
        with usual_defaults():
            model = hooked_class()(hooked_config_class()(**plain, dtype=dtype))
        unembedding_bias = model.unembed.b_U
    else:
        config = bridge_config_class()(**plain, dtype=dtype)
        with (
            torch.random.fork_rng(devices=[]),
            usual_defaults(),
        ):  # its layers draw weights that nobody uses
            model = bridge_class().boot_native(config, device=device, dtype=dtype)
        unembedding_bias = getattr(_inner(model.original_model.head), "bias", None)
    if unembedding_bias is not None:  # some classes always have one: ours is zero and stays zero
        unembedding_bias.data.zero_()
        unembedding_bias.requires_grad_(False)
    return model


def attach_to_keys(model: Any, layer: int, name: str, module: nn.Module) -> None:
    """Make `module` part of a layer's attention and let it rewrite that layer's keys permanently.

    The module becomes the attention's submodule `name`, so that the model's parameters include its
    own, and a torch hook passes the keys [batch pos head d_head], before any rotary rotation,
    through it. It finds the module through the hook point that it is on, so that a deep copy of the
    model uses its own; and `reset_hooks` does not remove it.
    """
    _attention(model, layer).add_module(name, module)
    _rewritten_by(module, model.hook_dict[hook_name("k", layer)])


def attach_to_residual(model: Any, layer: int, name: str, module: nn.Module) -> None:
    """Make `module` part of a block, as its submodule `name`, and let it rewrite what enters the
    block, [batch pos d_model], permanently; otherwise as `attach_to_keys`."""
    _block(model, layer).add_module(name, module)
    _rewritten_by(module, model.hook_dict[hook_name("resid_pre", layer)])


def rewritten_residual(model: Any) -> str | None:
    """The first hook point of the residual stream that a part of the model rewrites, if any does:
    the stream is then no sum of what layers write."""
    points = model.hook_dict.items()
    return next((n for n, point in points if "resid" in n and "rewrite" in vars(point)), None)


def _rewritten_by(module: nn.Module, point: Any) -> None:
    vars(point)["rewrite"] = module  # not as a submodule: it has a place in the model already
    point.register_forward_hook(_rewrite)


def _rewrite(point: Any, args: tuple[Any, ...], keys: Tensor) -> Tensor:
    conversion = point.hook_conversion  # to one axis a head, where the model has none here
    if conversion is None:
        return point.rewrite(keys)
    return conversion.revert(point.rewrite(conversion.convert(keys)))


def toy_weights(model: Any, of: Callable[[Tensor], Any] = _identity) -> dict[str, Tensor]:
    """Views of every trainable weight of a model made by `new_transformer`.

    Names and layouts are TransformerLens's, the same for both classes: `embed.W_E` [vocab
    d_model], `pos_embed.W_pos` [pos d_model], `blocks.l.attn.W_Q`, `W_K`, `W_V` [head d_model
    d_head], `W_O` [head d_head d_model], `b_Q`, `b_K`, `b_V` [head d_head], `b_O` [d_model],
    `blocks.l.attn.smear` [head], `blocks.l.attn.canon` [head d_head width] or `blocks.l.canon`
    [d_model width], `blocks.l.mlp.W_in` [d_model d_mlp], `b_in`, `W_out`, `b_out`,
    `unembed.W_U` [d_model vocab].

    Args:
        model: The model.
        of: What to view of each parameter: itself by default; `lambda p: p.grad` views the
            gradients in the same layout.

    Returns:
        Tensors that share memory with the model: writing to one in place writes to the model, and
        autograd goes through them to the model's parameters.
    """
    if is_bridge(model):
        return _bridge_weights(model, of)
    return _hooked_weights(model, of)


def _choose(implementation: str | None, positions: str) -> str:
    if implementation is None:
        chosen = "hooked" if HAS_HOOKED_TRANSFORMER else "bridge"
    else:
        chosen = checks.one_of("implementation", implementation, ("hooked", "bridge"))
    if chosen == "hooked" and not HAS_HOOKED_TRANSFORMER:
        raise ValueError(
            f'expected implementation "bridge", got "hooked": transformer-lens '
            f"{transformer_lens_version()} has no HookedTransformer; "
            'install "transformer-lens<4" for one'
        )
    if chosen == "bridge" and positions == "shortformer":
        raise ValueError(
            'expected positions "rotary" or "standard" for a TransformerBridge, got "shortformer", '
            'which only HookedTransformer has; install "transformer-lens<4" for it'
        )
    return chosen


def transformer_lens_version() -> str:
    """Version of the installed TransformerLens."""
    return version("transformer-lens")


def _inner(module: Any) -> Any:
    """The plain module inside a bridge's wrapper."""
    return getattr(module, "original_component", None) or module


def _attention(model: Any, layer: int) -> Any:
    if is_bridge(model):
        native: Any = model.original_model
        return _inner(_inner(native.layers[layer]).attn)
    return model.blocks[layer].attn


def _block(model: Any, layer: int) -> Any:
    if is_bridge(model):
        return _inner(model.original_model.layers[layer])
    return model.blocks[layer]


def _hooked_weights(model: Any, of: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    found = {"embed.W_E": of(model.embed.W_E)}
    if hasattr(model, "pos_embed"):
        found["pos_embed.W_pos"] = of(model.pos_embed.W_pos)
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}"
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
            found[f"{at}.attn.{name}"] = of(getattr(block.attn, name))
        if hasattr(block.attn, "smear"):
            found[f"{at}.attn.smear"] = of(block.attn.smear.alpha)
        found |= _canon_weights(block, block.attn, at, of)
        if hasattr(block, "mlp"):
            for name in ("W_in", "b_in", "W_out", "b_out"):
                found[f"{at}.mlp.{name}"] = of(getattr(block.mlp, name))
    found["unembed.W_U"] = of(model.unembed.W_U)
    return found


def _canon_weights(
    block: Any, attention: Any, at: str, of: Callable[[Tensor], Any]
) -> dict[str, Tensor]:
    """The factors of a block's canon layer, wherever it stands."""
    places = ((f"{at}.canon", block), (f"{at}.attn.canon", attention))
    return {name: of(part.canon.factors) for name, part in places if hasattr(part, "canon")}


def _bridge_weights(model: Any, of: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    native = model.original_model
    n_heads, d_head = model.cfg.n_heads, model.cfg.d_head
    found = {"embed.W_E": of(_inner(native.tok_embed).weight)}
    if native.pos is not None:
        found["pos_embed.W_pos"] = of(_inner(native.pos).weight)
    for layer, wrapped in enumerate(native.layers):
        at, block, attention = f"blocks.{layer}", _inner(wrapped), _attention(model, layer)
        for letter in "QKV":
            linear = _inner(getattr(attention, letter.lower()))
            # nn.Linear keeps [head*d_head, d_model].
            by_head = of(linear.weight).view(n_heads, d_head, -1)
            found[f"{at}.attn.W_{letter}"] = by_head.transpose(1, 2)
            found[f"{at}.attn.b_{letter}"] = of(linear.bias).view(n_heads, d_head)
        output = _inner(attention.o)
        found[f"{at}.attn.W_O"] = of(output.weight).view(-1, n_heads, d_head).permute(1, 2, 0)
        found[f"{at}.attn.b_O"] = of(output.bias)
        if hasattr(attention, "smear"):
            found[f"{at}.attn.smear"] = of(attention.smear.alpha)
        found |= _canon_weights(block, attention, at, of)
        if hasattr(block, "mlp"):
            first, second = _inner(_inner(block.mlp).fc_in), _inner(_inner(block.mlp).fc_out)
            found[f"{at}.mlp.W_in"] = of(first.weight).T
            found[f"{at}.mlp.b_in"] = of(first.bias)
            found[f"{at}.mlp.W_out"] = of(second.weight).T
            found[f"{at}.mlp.b_out"] = of(second.bias)
    found["unembed.W_U"] = of(_inner(native.head).weight).T
    return found
