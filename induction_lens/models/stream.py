"""A forward pass taken apart: layer by layer, with fused attention and no pattern in memory.

1. `enter`: the model runs its own code up to its first block, and we keep how it calls blocks.
2. `attention_inputs`: a layer's queries, keys and values, in one of two ways. Where that gives the
   same logits, they are projected from the normed residual stream, and go through the model's
   hook points (smeared keys) and rotation. Otherwise the block is called and stopped as
   soon as they are there.
3. `attend`: fused attention from these, at all positions or only where it is read.
4. `attention_out`, `after_attention`, `final_norm`, `unembed`: `W_O`, and the model's own modules.

Not every architecture is put together like this, and a caller's hooks may look at what is left out.
`streaming` therefore checks on the beginning of a sequence that it ends where the model does, and
gives None where it does not, where hooks are in the way, and where attention is local or capped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.describe import attends_plainly, check_weights
from induction_lens.models.hooks import (
    HookFunction,
    InterventionError,
    Model,
    hook_name,
    installed,
    running,
    untyped,
)
from induction_lens.models.passes import (
    UNEMBED,
    Stop,
    Unembedder,
    logits_at,
    run_until,
    unembedded_losses,
)
from induction_lens.models.projecting import (
    AttentionInputs,
    Repeats,
    Weights,
    projected,
    projections,
    repeats,
)
from induction_lens.models.rotary import rotate, rotate_halves

_CHECKED = 64  # tokens on which a stream is compared with the model
_PUT_TOGETHER_IN_ANOTHER_WAY = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Stream:
    """The layers of a model, one at a time; made by `streaming`."""

    def __init__(self, model: Model, sites: tuple[str, str, str] | None) -> None:
        """Take the model apart; `sites`: where queries, keys and values are seen when a block is
        called; None projects them here."""
        self._model = untyped(model)
        self._points = model.hook_dict
        self._sites = sites
        self._projections: dict[int, Weights] = {}
        self._entered: tuple[Tensor, Repeats] | None = None
        self._seen: dict[str, Tensor] = {}
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._outputs: dict[int, tuple[Tensor, Tensor]] = {}
        self.unembed = Unembedder(model)
        """From what `final_norm` gives to logits."""
        self.n_layers: int = self._model.cfg.n_layers
        """Layers of the model."""

    def hooks(self) -> list[tuple[str, HookFunction]]:
        """The hooks that stop each block, for the life of the stream."""
        sites = self._sites or ()

        def on(site: str) -> HookFunction:
            def hook(activation: Tensor) -> None:
                self._seen[site] = activation
                if len(self._seen) == len(sites):
                    raise Stop

            return hook

        return [
            (f"blocks.{layer}.attn.{site}", on(site))
            for layer in range(self.n_layers)
            for site in sites
        ]

    def enter(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters the first layer."""
        entered: list[Tensor] = []

        def keep_call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append(args[0])
            named = {name: _forget(value) for name, value in kwargs.items()}
            if "use_cache" in named:
                named["use_cache"] = False
            self._call = tuple(map(_forget, args[1:])), named
            raise Stop

        handle = self._model.blocks[0].register_forward_pre_hook(keep_call, with_kwargs=True)
        try:
            with suppress(Stop):
                self._model(tokens)
        finally:
            handle.remove()
        [residual] = entered
        repeated = repeats(residual, tokens)
        self._entered = None if repeated is None else (residual, repeated)
        return residual

    @property
    def stacks(self) -> bool:
        """Whether layers can be run on another number of sequences than entered."""
        rest, named = self._call
        return self._sites is None or not any(
            isinstance(value, Tensor) for value in (*rest, *named.values())
        )

    def attention_inputs(
        self,
        layer: int,
        residual: Float[Tensor, "batch pos d_model"],
        positions: list[int] | None = None,
        *,
        values: bool = True,
    ) -> AttentionInputs:
        """Queries, keys and values of a layer, from the residual stream that enters it; queries at
        some positions alone, if they are given; `values`: whether values are read."""
        if self._sites is None:
            return self._projected(layer, residual, positions, "qkv" if values else "qk")
        self._seen.clear()
        rest, named = self._call
        with suppress(Stop):
            self._model.blocks[layer](residual, *rest, **named)
        query, key, value = (self._seen[site] for site in self._sites)
        assert query.shape[1] == key.shape[1] == residual.shape[1]
        if self._sites[0] == "hook_q":
            query, key = self._located(query), self._located(key)
        return AttentionInputs(query if positions is None else query[:, positions], key, value)

    def _projected(
        self, layer: int, residual: Tensor, positions: list[int] | None, names: str
    ) -> AttentionInputs:
        if layer not in self._projections:
            self._projections[layer] = projections(self._model.blocks[layer].attn)
        repeated = self._entered[1] if self._entered and residual is self._entered[0] else None
        normal = self._model.blocks[layer].ln1(residual if repeated is None else repeated.rows)
        shortformer = self._call[1].get("shortformer_pos_embed")
        made: dict[str, Tensor] = {}
        for name, weights in zip(names, self._projections[layer], strict=False):
            flat = projected(
                normal,
                weights,
                added=shortformer[:1] if shortformer is not None and name != "v" else None,
                positions=positions if name == "q" else None,
                repeated=repeated,
            )
            heads = flat.unflatten(-1, (-1, self._model.cfg.d_head))
            made[name] = self._points[f"blocks.{layer}.attn.hook_{name}"](heads)
        query, key = self._located(made["q"], positions), self._located(made["k"])
        return AttentionInputs(query, key, made.get("v"))

    def _located(self, x: Tensor, positions: list[int] | None = None) -> Tensor:
        """Queries or keys with their positions in them, where no hook shows them."""
        angles = self._call[1].get("position_embeddings")
        if angles is not None:  # Hugging Face: cosines and sines, for halves of the head
            cos, sin = (_at(part[:1], positions) for part in angles)
            return rotate_halves(x, (cos, sin))
        config = getattr(self._model, "toy_config", None)
        if getattr(config, "positions", None) == "rotary":
            return rotate(x, positions)
        return x

    def scale(self, layer: int) -> float:
        """What attention scores are multiplied with."""
        attention = self._model.blocks[layer].attn
        divisor = getattr(attention, "attn_scale", None)
        return 1 / float(divisor if divisor is not None else self._model.cfg.d_head**0.5)

    def attend(
        self, layer: int, inputs: AttentionInputs, positions: Sequence[int] | None = None
    ) -> Float[Tensor, "batch read_pos head d_head"]:
        """The heads' outputs `z`, at all positions or at some, which queries may be reduced to."""
        inputs = inputs.for_each_head()
        query, key, value = inputs.query, inputs.key, inputs.value
        assert value is not None
        mask = None
        if positions is not None:
            at = torch.tensor(list(positions), device=query.device)
            query = query if query.shape[1] == len(at) else query[:, at]
            mask = torch.arange(key.shape[1], device=query.device)[None, :] <= at[:, None]
        z = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale(layer),
        )
        return z.transpose(1, 2)

    def attention_out(
        self, layer: int, z: Float[Tensor, "batch read_pos head d_head"]
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """What attention adds to the residual stream."""
        _, bias = self._output(layer)
        return self.change(layer, z, list(range(z.shape[2]))) + bias

    def change(
        self, layer: int, z: Float[Tensor, "batch read_pos chosen d_head"], heads: list[int]
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """What some heads' outputs add to the residual stream, the bias left out."""
        weight, _ = self._output(layer)
        chosen = weight if len(heads) == len(weight) else weight[heads]
        return z.flatten(2) @ chosen.flatten(0, 1)

    def _output(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self._outputs:  # bridges make them anew on every access
            attention = self._model.blocks[layer].attn
            weight, bias = attention.W_O.detach().contiguous(), attention.b_O
            none = weight.new_zeros(weight.shape[-1])
            self._outputs[layer] = weight, none if bias is None else bias.detach()
        return self._outputs[layer]

    def leave(
        self,
        layer: int,
        before: Float[Tensor, "batch read_pos d_model"],
        z: Float[Tensor, "batch read_pos head d_head"],
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """The residual stream that leaves a layer whose heads put out `z`."""
        return self.after_attention(layer, before, before + self.attention_out(layer, z))

    def after_attention(
        self,
        layer: int,
        before: Float[Tensor, "batch read_pos d_model"],
        middle: Float[Tensor, "batch read_pos d_model"],
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """The residual stream that leaves a layer, from those before and after its attention."""
        block, cfg = self._model.blocks[layer], self._model.cfg
        if getattr(cfg, "attn_only", False):
            return middle
        parallel = getattr(cfg, "parallel_attn_mlp", False)
        return middle + _mlp(block.mlp, block.ln2(before if parallel else middle))

    def final_norm(
        self, residual: Float[Tensor, "batch read_pos d_model"]
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """What is unembedded."""
        norm = getattr(self._model, "ln_final", None)  # not in models without norms
        return residual if norm is None else norm(residual)

    def losses(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch predicted_pos"]:
        """The losses, in nats, of the tokens at positions 1 and later."""
        final = self.final_norm(self.through(tokens[:, :-1]))
        return unembedded_losses(self.unembed, final, tokens[:, 1:])

    def through(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that leaves the last layer."""
        residual = self.enter(tokens)
        for layer in range(self.n_layers):
            z = self.attend(layer, self.attention_inputs(layer, residual))
            residual = self.leave(layer, residual, z)
        return residual


@contextmanager
def streaming(
    model: Model, tokens: Int[Tensor, "batch pos"], *, unembeds: bool = False
) -> Iterator[Stream | None]:
    """The model taken apart, for sequences of this length, or None where it cannot be.

    Gradients and dropout are off inside the block, and the model itself cannot be called.
    `unembeds`: logits will be asked for, so that they are what is compared with the model's;
    otherwise it is what the unembedding reads.

    Raises:
        ValueError: if a weight is not finite.
    """
    with running(model):
        plain = attends_plainly(model, tokens.shape[1])
        stream = _checked_stream(model, tokens[:1, :_CHECKED], unembeds) if plain else None
        if stream is None:
            check_weights(model)  # such a model may be broken, rather than unusual
            yield None
            return
        with installed(model, stream.hooks(), all_fire=False):
            yield stream


def _checked_stream(model: Model, tokens: Tensor, unembeds: bool) -> Stream | None:
    """A stream that ends like the model on these tokens, the fastest there is."""
    points = model.hook_dict
    if any(not handle.is_permanent for point in points.values() for handle in point.fwd_hooks):
        return None  # a caller's hook may look at, or write, what a stream leaves out
    spread = _spread(tokens.shape[1])
    expected = logits_at(model, tokens, spread) if unembeds else _final(model, tokens)[:, spread]
    for sites in (None, *_sites(model, tokens)):
        stream = Stream(model, sites)
        if _reproduces(stream, model, tokens, expected.float(), unembeds):
            return stream
    return None


def _final(model: Model, tokens: Tensor) -> Tensor:
    """What the unembedding reads."""
    kept: list[Tensor] = []
    with installed(model, [(UNEMBED, kept.append)]):
        run_until(model, tokens, UNEMBED)
    return kept[0]


def _reproduces(
    stream: Stream, model: Model, tokens: Tensor, expected: Tensor, unembeds: bool
) -> bool:
    """Whether the stream ends where the model does, to the precision of the weights."""
    try:
        with installed(model, stream.hooks(), all_fire=False):
            final = _run(stream, tokens)
            ends = (stream.unembed(final) if unembeds else final).float()
    except _PUT_TOGETHER_IN_ANOTHER_WAY:
        return False
    dtype = next(untyped(model).parameters()).dtype
    precise = dtype in (torch.float32, torch.float64)
    bound = (1e-4 if precise else 3e-2) * max(1.0, float(expected.abs().max()))
    return ends.shape == expected.shape and bool(((ends - expected).abs() <= bound).all())


def _forget(value: Any) -> Any:
    """None for a cache of keys: blocks are called more than once, each time from nothing."""
    return None if hasattr(value, "get_seq_length") else value


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


def _mlp(mlp: Any, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """What a model's own MLP puts out. TransformerLens writes the GELU of GPT-2 out in seven steps,
    which took 3.6 times as long as torch's single one."""
    activation = getattr(getattr(mlp, "act_fn", None), "__name__", None)
    if type(mlp).__name__ != "MLP" or activation != "gelu_new":
        return mlp(x)
    inside = torch.addmm(mlp.b_in, x.flatten(0, 1), mlp.W_in)
    return torch.addmm(mlp.b_out, F.gelu(inside, approximate="tanh"), mlp.W_out).view_as(x)


def _at(x: Tensor, positions: list[int] | None) -> Tensor:
    return x if positions is None else x[:, positions]


def _spread(n: int) -> list[int]:
    """About sixteen positions, the last one included."""
    return sorted({*range(0, n, max(1, n // 16)), n - 1})


def _run(stream: Stream, tokens: Tensor) -> Tensor:
    """What the unembedding would read at `_spread` positions."""
    return stream.final_norm(stream.through(tokens)[:, _spread(tokens.shape[1])])
