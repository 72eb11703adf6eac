"""Toy models: small transformers with random weights, to train and to study.

1. `ToyConfig` says what to build; it is frozen, validated, and goes to JSON and back.
2. `build_toy` builds it as a TransformerLens model and draws the weights from an explicit
   generator, so that one seed gives one model, whichever class holds it.
3. With `smeared_keys` each head's keys are mixed with the keys one position before
   (paper, section "Argument 2"; `SmearedKey`); with `canon` keys, or the residual stream, go
   through causal convolutions (`toys.canon`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from induction_lens import checks
from induction_lens.models import rotate
from induction_lens.models.from_scratch import (
    attach_to_keys,
    attach_to_residual,
    new_transformer,
    toy_weights,
)
from induction_lens.toys.canon import WIDTHS, Canon, CanonLayer

Positions = Literal["rotary", "standard", "shortformer"]


# Largest widths: more is a slip of the keyboard, and takes all memory before it is noticed.
_WIDEST, _LONGEST = 2**16, 2**20
_WHOLE = {
    "n_layers": (1, 48),
    "d_model": (1, _WIDEST),
    "n_heads": (1, _WIDEST),
    "d_vocab": (1, _LONGEST),
    "n_ctx": (1, _LONGEST),
    "canon_width": WIDTHS,
}
_REAL = {"smear_init": (-1000, 1000), "distance_bias": (0, 1000), "aligned_unembed": (0, 1)}


@dataclass(frozen=True)
class ToyConfig:
    """What a toy model is.

    The toys have parameter-free layer norm (`LNPre`, eps 1e-5), biases on every matrix except the
    unembedding, an untied unembedding, and `gelu_new` in their MLPs.

    Examples:
        >>> config = il.toys.ToyConfig(n_layers=1, d_model=64, smeared_keys=True)
        >>> config.d_head, config.attn_only
        (16, True)
    """

    n_layers: int = 2
    """Number of blocks, 1 to 48."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Heads in each block."""
    d_head: int | None = None
    """Width of a head; None: `d_model / n_heads`. Even for rotary positions."""
    d_vocab: int = 2048
    """Number of token ids."""
    n_ctx: int = 512
    """Longest sequence, in tokens."""
    attn_only: bool = True
    """Whether the blocks have attention only, no MLP."""
    d_mlp: int | None = None
    """Width of the MLPs; None: `4 * d_model`, or no MLP where `attn_only`."""
    positions: Positions = "rotary"
    """How the model knows positions: rotated queries and keys, a learned embedding added to the
    residual stream ("standard"), or one added only to the inputs of queries and keys
    ("shortformer", as in the paper's small models; `HookedTransformer` only)."""
    smeared_keys: bool = False
    """Whether every head's keys are smeared over two positions (paper, "Argument 2")."""
    smear_init: float = 0.0
    """First value of every smear parameter α; the weight of a key's own position is σ(α)."""
    canon: Canon | None = None
    """Where causal convolutions stand (`toys.canon`): on every head's keys, or on the residual
    stream that enters each block; None: nowhere."""
    canon_width: int = 4
    """Positions that a canon layer mixes, its own included: 2 to 4."""
    distance_bias: float = 0.0
    """Standard deviation of the first biases of queries; those of keys are the same, turned so that
    head h of every layer begins with a preference for the token h positions back. Rotary positions
    only. A head whose biases are zero prefers no distance, and takes long to."""
    aligned_unembed: float = 0.0
    """Share of the embedding, transposed, in the first unembedding, the rest being random. Where
    the two have nothing in common, a head that copies has to learn it for each token separately."""
    seed: int = 0
    """Seed of the generator that draws the weights."""

    def __post_init__(self) -> None:
        """Fill in the widths that follow from others, and check everything.

        Raises:
            ValueError: A field is of another type or out of range, or two do not go together.
        """
        self._check_fields()
        if self.distance_bias and self.positions != "rotary":
            raise ValueError(
                f"expected rotary positions with distance_bias, got {self.positions!r}; biases "
                "prefer a distance only where queries and keys are rotated"
            )
        if self.canon == "keys" and self.smeared_keys:
            raise ValueError(
                "expected smeared keys or canon layers on keys, got both; canon layers of width 2 "
                "can do what smearing does"
            )
        if self.d_head is None:
            if self.d_model % self.n_heads:
                raise ValueError(
                    f"expected d_model to be a multiple of n_heads, got {self.d_model} and "
                    f"{self.n_heads}; change one of them, or give d_head"
                )
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if self.head_width < 1 or (self.positions == "rotary" and self.head_width % 2):
            raise ValueError(
                "expected d_head to be positive, and even for rotary positions, got "
                f"{self.d_head}; change d_model or n_heads, or give d_head"
            )
        if self.attn_only and self.d_mlp is not None:
            raise ValueError(
                f"expected no d_mlp with attn_only=True, got {self.d_mlp}; set attn_only=False "
                "for a model with MLPs"
            )
        if not self.attn_only and self.d_mlp is None:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)

    def _check_fields(self) -> None:
        """Check every field by itself, and keep it as a plain Python value."""
        checked: dict[str, object] = {
            name: checks.whole_number(name, getattr(self, name), least=least, most=most)
            for name, (least, most) in _WHOLE.items()
        }
        for name in ("d_head", "d_mlp"):
            value = getattr(self, name)
            checked[name] = checks.whole_number(name, value, least=1, most=_LONGEST, optional=True)
        for name, (least, most) in _REAL.items():
            checked[name] = checks.real_number(name, getattr(self, name), least=least, most=most)
        for name in ("attn_only", "smeared_keys"):
            checked[name] = checks.flag(name, getattr(self, name))
        checked["positions"] = checks.one_of("positions", self.positions, get_args(Positions))
        if self.canon is not None:
            checked["canon"] = checks.one_of("canon", self.canon, get_args(Canon))
        checked["seed"] = checks.seed(self.seed)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def head_width(self) -> int:
        """`d_head`, which is never None once the configuration exists."""
        assert self.d_head is not None
        return self.d_head

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ToyConfig:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: A name is unknown, or a value is out of range.
        """
        checks.instance("values", values, Mapping, "pass what ToyConfig.to_dict gives")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            near = checks.closest(unknown[0], known) or "remove them"
            listed = ", ".join(map(str, unknown))
            raise ValueError(f"expected fields of ToyConfig, got {listed}; {near}")
        return cls(**values)


class SmearedKey(nn.Module):
    """Mixes each head's keys with the keys of the position before.

    For head h and every position j ≥ 1, `k_j := σ(α_h) k_j + (1 − σ(α_h)) k_{j−1}`; `k_0` stays.
    Acts before any rotary rotation. Source: paper, "Argument 2: Macroscopic co-perturbation".
    """

    def __init__(
        self,
        n_heads: int,
        *,
        init: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        """Start every head's α at `init`."""
        super().__init__()
        self.alpha = nn.Parameter(torch.full((n_heads,), init, device=device, dtype=dtype))

    def forward(
        self, keys: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The smeared keys."""
        return smear(keys, self.alpha)


def smear(
    keys: Float[Tensor, "batch pos head d_head"], alpha: Float[Tensor, " head"]
) -> Float[Tensor, "batch pos head d_head"]:
    """Keys mixed with the keys of the position before, as in `SmearedKey`."""
    own = torch.sigmoid(alpha)[:, None]
    mixed = own * keys[:, 1:] + (1 - own) * keys[:, :-1]
    return torch.cat([keys[:, :1], mixed], dim=1)


def build_toy(
    config: ToyConfig,
    *,
    implementation: Literal["hooked", "bridge"] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: Any = None,
) -> Any:
    """Build a toy model with random weights.

    Matrices and embeddings are drawn from a normal distribution with standard deviation
    `0.8 / sqrt(d_model)`; biases are zero, except those of `distance_bias`. The same configuration
    gives the same weights in both classes and on every device.

    Args:
        config: What to build.
        implementation: "hooked" for a `HookedTransformer` (TransformerLens 3.9 only), "bridge" for
            a `TransformerBridge`; None takes the first if it exists.
        device: Where the weights go; None picks CUDA if there is one, else the CPU.
        dtype: Type of the weights.
        tokenizer: Becomes `model.tokenizer`.

    Returns:
        The model, with the configuration as `model.toy_config`. Keys are smeared, and canon layers
        mix, over the positions of one call, so generate from such a model without a key-value
        cache.

    Raises:
        ValueError: The installed TransformerLens cannot build it, an argument is of another type.

    Examples:
        >>> config = il.toys.ToyConfig(n_layers=2, d_model=64, n_heads=4)
        >>> model = il.toys.build_toy(config, device="cpu")
        >>> model.W_Q.shape
        torch.Size([2, 4, 64, 16])
    """
    _check_build(config, implementation, dtype, tokenizer)
    model = new_transformer(
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        d_head=config.head_width,
        d_vocab=config.d_vocab,
        n_ctx=config.n_ctx,
        d_mlp=config.d_mlp,
        positions=config.positions,
        implementation=implementation,
        device=device,
        dtype=dtype,
    )
    if config.smeared_keys:
        where = toy_weights(model)["embed.W_E"].device
        for layer in range(config.n_layers):
            smeared = SmearedKey(config.n_heads, init=config.smear_init, device=where, dtype=dtype)
            attach_to_keys(model, layer, "smear", smeared)
    if config.canon is not None:
        _attach_canon(model, config, dtype)
    set_weights(model, _draw_weights(model, config))
    model.tokenizer = tokenizer
    model.toy_config = config
    return model


def _attach_canon(model: Any, config: ToyConfig, dtype: torch.dtype) -> None:
    """Put a canon layer into every block."""
    where = toy_weights(model)["embed.W_E"].device
    on_keys = config.canon == "keys"
    sizes = (config.n_heads, config.head_width) if on_keys else (config.d_model,)
    attach = attach_to_keys if on_keys else attach_to_residual
    for layer in range(config.n_layers):
        made = CanonLayer(sizes, config.canon_width, device=where, dtype=dtype)
        attach(model, layer, "canon", made)


def _check_build(
    config: ToyConfig, implementation: str | None, dtype: torch.dtype, tokenizer: Any
) -> None:
    """Check the arguments of `build_toy`, except the device, which `new_transformer` checks."""
    checks.instance("config", config, ToyConfig, "pass ToyConfig(...)")
    if implementation is not None:
        checks.one_of("implementation", implementation, ("hooked", "bridge"))
    checks.instance("dtype", dtype, torch.dtype, "for instance torch.float32")
    if not dtype.is_floating_point:
        raise checks.refuse(
            "dtype", "a floating-point type", dtype, "for instance torch.float32", given=str(dtype)
        )
    if tokenizer is None:
        return
    try:
        n_ids = None if isinstance(tokenizer, (str, bytes)) else len(tokenizer)
    except TypeError:
        n_ids = None
    if n_ids is None:
        remedy = "load one with transformers.AutoTokenizer.from_pretrained, or pass None"
        raise checks.refuse("tokenizer", "a tokenizer", tokenizer, remedy)


def _draw_weights(model: Any, config: ToyConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    std = 0.8 / config.d_model**0.5
    drawn = {}
    for name, weight in toy_weights(model).items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "smear":
            drawn[name] = torch.full(weight.shape, config.smear_init, **plain)
        elif kind == "canon":  # as wide as torch draws a convolution's
            spread = (3 * config.canon_width) ** -0.5
            drawn[name] = torch.randn(weight.shape, generator=generator, **plain) * spread
        elif kind.startswith("b_"):
            drawn[name] = torch.zeros(weight.shape, **plain)
        else:
            drawn[name] = torch.randn(weight.shape, generator=generator, **plain) * std
    if config.distance_bias:
        for layer in range(config.n_layers):
            shape = drawn[f"blocks.{layer}.attn.b_Q"].shape
            query = torch.randn(shape, generator=generator, **plain) * config.distance_bias
            drawn[f"blocks.{layer}.attn.b_Q"] = query
            # `rotate` counts positions along its second axis: here head h stands at position h
            drawn[f"blocks.{layer}.attn.b_K"] = rotate(query[None, :, None])[0, :, 0]
    if share := config.aligned_unembed:
        aligned = share * drawn["embed.W_E"].T + (1 - share) * drawn["unembed.W_U"]
        drawn["unembed.W_U"] = aligned
    return drawn


def set_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Copy weights, named and shaped as `toy_weights` names them, into a toy model.

    Raises:
        ValueError: A weight is missing, left over, or of the wrong shape.
    """
    own = toy_weights(model)
    if own.keys() != weights.keys():
        missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        raise ValueError(
            f"expected this model's weights, got missing {missing} and unknown {extra}; "
            "load them with the configuration that they were saved with"
        )
    with torch.no_grad():
        for name, weight in own.items():
            if weight.shape != weights[name].shape:
                raise ValueError(
                    f"expected {name} of shape {tuple(weight.shape)}, got "
                    f"{tuple(weights[name].shape)}; load it with the configuration that it was "
                    "saved with"
                )
            weight.copy_(weights[name])


def toy_config(model: Any) -> ToyConfig:
    """The configuration of a toy model.

    Raises:
        ValueError: The model was not made by `build_toy`.
    """
    config = getattr(model, "toy_config", None)
    if not isinstance(config, ToyConfig):
        raise ValueError(
            f"expected a toy model, got {type(model).__name__}; make one with "
            "build_toy(ToyConfig())"
        )
    return config
