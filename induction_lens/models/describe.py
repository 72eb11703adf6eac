"""What a model is: its shape, its special tokens, its weights as the detectors need them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.hooks import (
    Model,
    device_of,
    hook_name,
    installed,
    running,
    untyped,
)
from induction_lens.models.native import toy_weights

# Patterns of 16 MiB: larger tensors go back to the system when they are freed, and page faults then
# take as long as the arithmetic (on two cores, 32 MiB took 1.9 times as long). Accelerators keep
# their memory.
_PATTERNS_ON_CPU, _PATTERNS_ELSEWHERE = 48 * 2**20, 2**30


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model."""

    n_layers: int
    """Layers."""
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key and value heads per layer: fewer than `n_heads` with grouped-query attention."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_vocab: int
    """Tokens the model can read and predict."""
    n_ctx: int
    """Longest sequence, in tokens."""


def shape(model: Any) -> ModelShape:
    """The sizes of a model.

    Raises:
        ValueError: if this is not a decoder-only transformer with hooks.
    """
    if not isinstance(model, Model):
        raise ValueError(
            "expected a HookedTransformer or a TransformerBridge, got "
            f"{type(model).__name__}; load one with induction_lens.load"
        )
    cfg = model.cfg
    return ModelShape(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_kv_heads=getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
    )


def class_name(model: Model) -> str:
    """`HookedTransformer` or `TransformerBridge`."""
    return type(model).__name__


def model_name(model: Model) -> str:
    """The name the model was loaded under, or its configuration's."""
    return getattr(model, "induction_lens_name", None) or str(
        getattr(model.cfg, "model_name", None) or "model"
    )


def tokenizer_of(model: Model) -> Any:
    """The model's tokenizer, or None.

    Raises:
        ValueError: if the tokenizer can produce ids that the model cannot read.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None
    highest, d_vocab = len(tokenizer), shape(model).d_vocab
    if highest > d_vocab:
        raise ValueError(
            f"expected a tokenizer with at most the model's {d_vocab} tokens, got one with "
            f"{highest}; load the tokenizer that the model was trained with"
        )
    return tokenizer


def bos_id(model: Model) -> int:
    """The token put at position 0.

    The tokenizer's BOS, else the checkpoint's configured BOS, else its EOS, else id 0: the first of
    these that the model's vocabulary holds.
    """
    d_vocab = shape(model).d_vocab
    config = getattr(getattr(model, "original_model", None), "config", None)
    sources = [tokenizer_of(model), config]
    for attribute in ("bos_token_id", "eos_token_id"):
        for source in sources:
            token = getattr(source, attribute, None)
            if isinstance(token, int) and 0 <= token < d_vocab:
                return token
    return 0


def ordinary_ids(model: Model, *, exclude_fraction: float = 0.04) -> Int[Tensor, " id"]:
    """Token ids without the special ones and without the most and least frequent.

    Byte-pair and most other tokenizers number tokens by the frequency of their merge, so
    `exclude_fraction` of the ids is cut at each end of the order of ids.
    """
    tokenizer = tokenizer_of(model)
    n_ids = shape(model).d_vocab if tokenizer is None else len(tokenizer)
    special = {bos_id(model)}
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids)
    ids = torch.tensor([i for i in range(n_ids) if i not in special], dtype=torch.long)
    cut = int(len(ids) * exclude_fraction)
    return ids[cut : len(ids) - cut]


def attends_plainly(model: Model, n_pos: int) -> bool:
    """Whether attention is a softmax over all earlier positions, as far as the settings tell: what
    begins at some length or score may not show on the tokens that are checked."""
    cfg = model.cfg
    config = getattr(getattr(model, "original_model", None), "config", None)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(cfg, "use_local_attn", False):
        windows.append(cfg.window_size)
    caps = (
        getattr(cfg, "attn_scores_soft_cap", 0),
        getattr(config, "attn_logit_softcapping", 0),
        getattr(cfg, "use_logn_attn", False),
    )
    capped = any(isinstance(cap, (int, float)) and cap > 0 for cap in caps)
    return not capped and all(n_pos <= window for window in windows if isinstance(window, int))


def batch_size_for(model: Model, seq_len: int, *, fused: bool = False) -> int:
    """How many sequences fit a fixed memory budget: three copies of one layer's patterns, or, where
    attention is fused, `positions_for` positions."""
    if fused:
        return max(1, positions_for(model) // seq_len)
    per_sequence = 4 * seq_len * 3 * shape(model).n_heads * seq_len
    on_cpu = device_of(model).type == "cpu"
    return max(1, (_PATTERNS_ON_CPU if on_cpu else _PATTERNS_ELSEWHERE) // per_sequence)


def positions_for(model: Model) -> int:
    """How many positions to run a layer on at once where attention is fused: the widest activation
    takes 4 MiB on a CPU, near its caches, and 256 MiB on an accelerator."""
    sizes = shape(model)
    width = max(getattr(model.cfg, "d_mlp", None) or 0, sizes.n_heads * sizes.d_head, sizes.d_model)
    on_cpu = device_of(model).type == "cpu"
    return (4 if on_cpu else 256) * 2**20 // (4 * width)


def checked_tokens(model: Model, tokens: Any) -> Int[Tensor, "batch pos"]:
    """Sequences that the model can read, as int64.

    Raises:
        ValueError: if they are no tensor of ids, there are none, they are longer than the context,
            or an id is out of range.
    """
    sizes = shape(model)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.is_complex():
        got = f"{tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(
            f"expected a tensor of token ids, got {got}; pass torch.tensor(ids) of shape "
            "[batch pos], with BOS at position 0, or see text_tokens"
        )
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(
            f"expected tokens of shape [batch pos], at least one of each, got "
            f"{list(tokens.shape)}; add a batch dimension, or supply more text"
        )
    if tokens.shape[1] > sizes.n_ctx:
        raise ValueError(
            f"expected sequences of at most {sizes.n_ctx} tokens (the model's context), got "
            f"{tokens.shape[1]}; pass a smaller seq_len"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= sizes.d_vocab:
        raise ValueError(
            f"expected token ids from 0 to {sizes.d_vocab - 1}, got ids from {low} to {high}; "
            "use the tokenizer that belongs to the model"
        )
    return tokens.long()


def check_weights(model: Model) -> None:
    """Check that a model's weights are numbers: an attention pattern may hide that they are not.

    Raises:
        ValueError: if one is NaN or infinite.
    """
    for name, weight in untyped(model).named_parameters():
        # a sum takes a tenth of the time, but may overflow
        if not torch.isfinite(weight.detach().sum()) and not torch.isfinite(weight).all():
            raise ValueError(
                f"expected finite weights, got NaN or infinite ones in {name}; train or load the "
                "model anew, in float32 if it was in half precision"
            )


def first_nan_layer(model: Model, tokens: Int[Tensor, "batch pos"]) -> str:
    """Where NaN first appears in a forward pass: the embedding, a layer, or the unembedding."""
    nan: list[str] = []

    def look(where: str):
        def hook(activation: Tensor) -> None:
            if not torch.isfinite(activation).all():
                nan.append(where)

        return hook

    n_layers = shape(model).n_layers
    hooks = [(hook_name("resid_pre", 0), look("the embedding"))]
    hooks += [(hook_name("resid_post", n), look(f"layer {n}")) for n in range(n_layers)]
    with running(model), installed(model, hooks):
        model(tokens)
    return nan[0] if nan else "the unembedding"


def norm_weight(model: Model, layer: int | None) -> Tensor | None:
    """The scale of the norm before a layer's attention (None: of the final norm).

    None where the norm has no weight, or there is no norm. Where it was folded into the next
    matrix it is all ones.
    """
    module = untyped(model)
    norm = getattr(module, "ln_final", None) if layer is None else module.blocks[layer].ln1
    weights = (getattr(norm, name, None) for name in ("w", "weight"))
    return next((weight for weight in weights if isinstance(weight, Tensor)), None)


def centres(model: Model) -> bool:
    """Whether the model's norms subtract the mean (LayerNorm does, RMSNorm does not)."""
    kind = str(getattr(model.cfg, "normalization_type", None) or "").upper()
    return kind.startswith("LN")


def value_weights(model: Model, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """`W_V` of each query head, the norm before attention folded in (scale, and centring)."""
    W_V = untyped(model).blocks[layer].attn.W_V.detach()
    sizes = shape(model)
    if W_V.shape[0] != sizes.n_heads:  # grouped-query: consecutive query heads share a value head
        W_V = W_V.repeat_interleave(sizes.n_heads // W_V.shape[0], dim=0)
    return _fold(W_V, norm_weight(model, layer), centred=centres(model))


def output_weights(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """`W_O` of each head."""
    return untyped(model).blocks[layer].attn.W_O.detach()


def embedding(model: Model) -> Float[Tensor, "d_vocab d_model"]:
    """`W_E`."""
    return untyped(model).W_E.detach()


def unembedding(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """`W_U` with the final norm folded in (scale, and centring)."""
    W_U = untyped(model).W_U.detach()
    return _fold(W_U, norm_weight(model, None), centred=centres(model))


def _fold(weights: Tensor, scale: Tensor | None, *, centred: bool) -> Tensor:
    if scale is not None:
        weights = scale.detach()[:, None].to(weights) * weights
    if centred:
        weights = weights - weights.mean(dim=-2, keepdim=True)
    return weights


def weights_hash(model: Any) -> str:
    """SHA-256 over the names, shapes and float32 values of a model's weights, in hexadecimal.

    For toys it is the same for the same weights in either class, and on any device.
    """
    is_toy = hasattr(model, "toy_config")
    weights = toy_weights(model) if is_toy else dict(model.named_parameters())
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
