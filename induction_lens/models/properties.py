"""What a model is: its shape, its special tokens, its weights as the detectors need them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models.from_scratch import toy_weights
from induction_lens.models.hooks import (
    Model,
    device_of,
    forward,
    hook_name,
    installed,
    running,
    untyped,
)

# Patterns of 16 MiB: larger tensors go back to the system when they are freed, and page faults then
# take as long as the arithmetic (on two cores, 32 MiB took 1.9 times as long). Accelerators keep
# their memory.
_PATTERNS_ON_CPU, _PATTERNS_ELSEWHERE = 48 * 2**20, 2**30


_LARGE = 50_000_000  # weights in the layers: GPT-2 small has 85 million


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

    @property
    def is_large(self) -> bool:
        """Whether it has GPT-2 small's size or more, so that passes are saved where they can be."""
        return 12 * self.n_layers * self.d_model**2 > _LARGE


def shape(model: Any) -> ModelShape:
    """The sizes of a model.

    Raises:
        ValueError: If this is not a decoder-only transformer with hooks.
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
    """The model's tokenizer, or None. It may know ids that the model does not.

    Raises:
        ValueError: If it is not a Hugging Face tokenizer.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None
    if not (callable(tokenizer) and hasattr(tokenizer, "all_special_ids")):
        raise ValueError(
            f"expected a Hugging Face tokenizer, got {type(tokenizer).__name__}; wrap it in "
            "transformers.PreTrainedTokenizerFast(tokenizer_object=...)"
        )
    return tokenizer


def bos_id(model: Model) -> int:
    """The token put at position 0.

    The tokenizer's BOS, else the checkpoint's configured BOS, else its EOS, else id 0: the first of
    these that the model's vocabulary holds. If a configuration lists several, they are tried in
    their order.
    """
    d_vocab = shape(model).d_vocab
    config = getattr(getattr(model, "original_model", None), "config", None)
    sources = [tokenizer_of(model), config]
    for attribute in ("bos_token_id", "eos_token_id"):
        for source in sources:
            named = getattr(source, attribute, None)
            for token in named if isinstance(named, (list, tuple)) else [named]:
                if isinstance(token, int) and 0 <= token < d_vocab:
                    return token
    return 0


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The added tokens that a tokenizer marks as special or uses as one, with their ids."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    used = set(tokenizer.all_special_tokens)  # not all are marked, and an ordinary one may be used
    return {
        token.content: i for i, token in added.items() if token.special or token.content in used
    }


def ordinary_ids(model: Model, *, exclude_fraction: float = 0.04) -> Int[Tensor, " id"]:
    """Token ids without the special ones and without the most and least frequent.

    These are ids that the tokenizer has and the model can read; without a tokenizer, all of the
    model's. Byte-pair and most other tokenizers number tokens by the frequency of their merge, so
    `exclude_fraction` of the ids is cut at each end of the order of ids.

    Raises:
        ValueError: If `exclude_fraction` is not from 0 to below 0.5.
    """
    exclude_fraction = checks.real_number(
        "exclude_fraction", exclude_fraction, least=0, below=0.5, remedy="it is cut at each end"
    )
    tokenizer, d_vocab = tokenizer_of(model), shape(model).d_vocab
    known, special = set(range(d_vocab)), {bos_id(model)}
    if tokenizer is not None:
        known &= set(tokenizer.get_vocab().values())
        special |= {*tokenizer.all_special_ids, *special_tokens(tokenizer).values()}
    ids = torch.tensor(sorted(known - special), dtype=torch.long, device="cpu")
    cut = int(len(ids) * exclude_fraction)
    return ids[cut : len(ids) - cut]


def batch_size_for(model: Model, seq_len: int, *, fused: bool = False) -> int:
    """How many sequences fit a fixed memory budget: three copies of one layer's patterns, or, if
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
        ValueError: If they are not a tensor of ids, there are none, they are longer than the
            context, or an id is out of range.
    """
    sizes = shape(model)
    whole = isinstance(tokens, Tensor) and not (tokens.is_floating_point() or tokens.is_complex())
    if not whole or tokens.dtype == torch.bool:
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
            f"{tokens.shape[1]}; cut them, or draw text with a smaller seq_len"
        )
    tokens = tokens.long()  # of unsigned numbers torch finds no least
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= sizes.d_vocab:
        raise ValueError(
            f"expected token ids from 0 to {sizes.d_vocab - 1}, got ids from {low} to {high}; "
            "use the tokenizer that belongs to the model"
        )
    return tokens


def check_weights(model: Any) -> None:
    """Check that the weights of a model, also of transformers, are numbers: an attention pattern
    may hide that they are not.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    for name, weight in model.named_parameters():
        # a sum takes a tenth of the time, but may overflow
        if not torch.isfinite(weight.detach().sum()) and not torch.isfinite(weight).all():
            raise ValueError(
                f"expected finite weights, got NaN or infinite ones in {name}; train or load the "
                "model again, in float32 if it was in half precision"
            )


def check_zero_removes(model: Model, layers: Sequence[int]) -> None:
    """Check that a head whose output `z` is zero adds nothing to the residual stream.

    TransformerLens can fold the value biases, and the norm's bias through `W_V`, into the output
    bias: a constant part of each head is then there whatever `z` is. The models that `load` gives
    keep their value biases.

    Raises:
        ValueError: If that may have been done: value biases are all zero, output biases are not.
    """
    module = untyped(model)
    if getattr(module, "value_biases_kept", False) or not _comes_pretrained(module):
        return
    for layer in layers:
        b_V, b_O = (_bias(module.blocks[layer].attn, name) for name in ("b_V", "b_O"))
        if b_V is None or b_O is None or bool((b_V != 0).any()) or not bool((b_O != 0).any()):
            continue
        raise ValueError(
            f"expected value biases of layer {layer} where they were trained, got a model that has "
            "them folded into the output bias, where zeroing a head leaves them in; load it with "
            "induction_lens.load, or with fold_value_biases=False, or use mean ablation"
        )


def _bias(attention: Any, name: str) -> Tensor | None:
    """A bias of attention by TransformerLens's name; None where this kind of attention has none."""
    try:
        return getattr(attention, name, None)
    except NotImplementedError:
        return None


def _comes_pretrained(module: Any) -> bool:
    """Whether a model was made from pretrained weights, not from scratch."""
    wrapped = getattr(vars(module).get("original_model"), "config", None)
    return hasattr(wrapped, "to_dict") or bool(getattr(module.cfg, "original_architecture", None))


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
        forward(model, tokens)
    return nan[0] if nan else "the unembedding"


def norm_weight(model: Model, layer: int | None) -> Tensor | None:
    """What the norm before a layer's attention (None: the final norm) multiplies each dimension by.

    None where the norm has no weight, or there is no norm. If it was folded into the next matrix,
    it is all ones.
    """
    module = untyped(model)
    norm = getattr(module, "ln_final", None) if layer is None else module.blocks[layer].ln1
    weights = (getattr(norm, name, None) for name in ("w", "weight"))
    weight = next((weight for weight in weights if isinstance(weight, Tensor)), None)
    return 1 + weight if weight is not None and _adds_one(norm, weight) else weight


def _adds_one(norm: Any, weight: Float[Tensor, " d_model"]) -> bool:
    """Whether a norm multiplies by one plus its weight, as those of Gemma, Nemotron and Qwen3-Next
    do: seen from what the wrapped module makes of numbers whose mean is zero."""
    wrapped = getattr(norm, "original_component", None)
    if wrapped is None:
        return False
    x = torch.linspace(-1, 1, len(weight), dtype=torch.float32, device=weight.device)
    with torch.no_grad():
        both = wrapped(torch.stack([x, torch.zeros_like(x)])[None].to(weight.dtype))[0].float()
    made = (both[0] - both[1]) * x.square().mean().sqrt()
    plain = (made - x * weight.detach().float()).norm()
    return bool((made - x * (1 + weight.detach().float())).norm() < plain)


def centres(model: Model) -> bool:
    """Whether the model's norms subtract the mean (LayerNorm does, RMSNorm does not)."""
    kind = str(getattr(model.cfg, "normalization_type", None) or "").upper()
    return kind.startswith("LN")


def residual_scale(
    model: Model, x: Float[Tensor, "*row d_model"]
) -> Float[Tensor, "*row 1"] | Float[Tensor, ""]:
    """What the model's norms divide a residual stream by, centred first where they do that."""
    if getattr(model.cfg, "normalization_type", None) is None:
        return x.new_ones(())
    if centres(model):
        x = x - x.mean(dim=-1, keepdim=True)
    return (x.square().mean(dim=-1, keepdim=True) + float(model.cfg.eps)).sqrt()


def query_weights(model: Model, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """`W_Q` of each head, the norm before attention folded in (scale, and centring)."""
    return _read_from_residual(model, layer, "W_Q")


def key_weights(model: Model, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """`W_K` of each query head, the norm before attention folded in (scale, and centring)."""
    return _read_from_residual(model, layer, "W_K")


def value_weights(model: Model, layer: int) -> Float[Tensor, "head d_model d_head"]:
    """`W_V` of each query head, the norm before attention folded in (scale, and centring)."""
    return _read_from_residual(model, layer, "W_V")


def _read_from_residual(model: Model, layer: int, name: str) -> Tensor:
    weights = getattr(untyped(model).blocks[layer].attn, name).detach()
    sizes = shape(model)
    if weights.shape[0] != sizes.n_heads:  # consecutive query heads share a key and value head
        weights = weights.repeat_interleave(sizes.n_heads // weights.shape[0], dim=0)
    return _fold(weights, norm_weight(model, layer), centred=centres(model))


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
