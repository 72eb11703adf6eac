"""A model run layer by layer, with fused attention and no pattern in memory.

1. `enter`: the model runs its own code up to its first block, and we keep how it calls blocks.
2. `attention_inputs`: a layer's queries, keys and values, in one of two ways. Where that gives the
   same logits, they are projected from the normed residual stream, and go through the model's
   hook points (smeared keys) and rotation. Otherwise the block is called and stopped as
   soon as they are there.
3. `attend`: fused attention from these, at all positions or only where the result is read.
4. `attention_out`, `after_attention`, `final_norm`, `unembed`: `W_O`, and the model's own modules.

Not every architecture is put together like this: see `roads`, which says which models are run so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.attention import (
    Attention,
    FusedAttention,
    attended,
    attended_with_totals,
    takes_totals,
)
from induction_lens.models.exclusive import undone
from induction_lens.models.hooks import HookFunction, Model, forward, untyped
from induction_lens.models.passes import Stop, Unembedder, unembedded_losses
from induction_lens.models.projections import (
    AttentionInputs,
    Repeats,
    Weights,
    projected,
    projections,
    repeats,
)
from induction_lens.models.rotary import rotate, rotate_halves
from induction_lens.models.run import Run


class LayerByLayer(Run):
    """The layers of a model, one at a time; made by `run`."""

    takes_known_outputs = True

    def __init__(self, model: Model, sites: tuple[str, str, str] | None) -> None:
        """`sites`: where queries, keys and values are seen when a block is called; None projects
        them here."""
        super().__init__(model)
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

    def hooks(self) -> list[tuple[str, HookFunction]]:
        """The hooks that stop each block, for the life of the run."""
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
            self.called_with(args[1:], kwargs)
            raise Stop

        first, handles = self._model.blocks[0], []

        def remove() -> None:
            for handle in handles:
                handle.remove()

        with undone(remove), suppress(Stop):
            handles.append(first.register_forward_pre_hook(keep_call, with_kwargs=True))
            forward(self._model, tokens)
        [residual] = entered
        repeated = repeats(residual, tokens)
        self._entered = None if repeated is None else (residual, repeated)
        return residual

    def called_with(self, rest: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Keep how the model calls its blocks, beside the residual stream, caches left out."""
        off = {"use_cache": False} if "use_cache" in named else {}
        self._call = tuple(map(_forget, rest)), {name: _forget(named[name]) for name in named} | off

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
        """Queries, keys and values of a layer, from the residual stream that enters it; queries
        only at some positions, if these are given; `values`: whether values are read."""
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
        return attended(inputs, positions, scale=self.scale(layer))

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
        if layer not in self._outputs:  # bridges make them again on every access
            attention = self._model.blocks[layer].attn
            weight, bias = attention.W_O.detach().contiguous(), attention.b_O
            none = weight.new_zeros(weight.shape[-1])
            self._outputs[layer] = weight, none if bias is None else bias.detach()
        return self._outputs[layer]

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
        if getattr(cfg, "parallel_attn_mlp", False):
            norm = getattr(block, "ln2", block.ln1)  # some have one norm, which is attention's too
            return middle + _mlp(block.mlp, norm(before))
        return middle + _mlp(block.mlp, block.ln2(middle))

    def final_norm(
        self, residual: Float[Tensor, "batch read_pos d_model"]
    ) -> Float[Tensor, "batch read_pos d_model"]:
        """What is unembedded."""
        norm = getattr(self._model, "ln_final", None)  # not in models without norms
        return residual if norm is None else norm(residual)

    def losses(
        self, tokens: Int[Tensor, "batch pos"], positions: Sequence[int] | None = None
    ) -> Float[Tensor, "batch read_pos"]:
        """As `Run.losses`; the pass ends at the last position that is read."""
        if positions is None:
            final = self.final_norm(self.through(tokens[:, :-1]))
            return unembedded_losses(self.unembed, final, tokens[:, 1:])
        before = [position - 1 for position in positions]
        residual = self.through(tokens[:, : max(positions)])[:, before]
        return unembedded_losses(self.unembed, self.final_norm(residual), tokens[:, positions])

    def outputs(
        self, tokens: Int[Tensor, "batch pos"], last: int
    ) -> Mapping[int, Float[Tensor, "batch pos head d_head"]]:
        """As `Run.outputs`."""
        return {layer.index: layer.z for layer in self.layers(tokens, last=last)}

    def attention(
        self, tokens: Int[Tensor, "batch pos"], look: Callable[[int, Attention], None]
    ) -> None:
        """As `Run.attention`, with no pattern in memory."""
        for layer in self.layers(tokens):
            look(layer.index, layer.attention())

    def through(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that leaves the last layer."""
        *_, last = self.layers(tokens)
        return last.leaving

    def layers(
        self, tokens: Int[Tensor, "batch pos"], *, read: list[int] | None = None, last: int = -1
    ) -> Iterator[Layer]:
        """One pass through the layers: what is changed in one goes into the next.

        Args:
            tokens: The batch.
            read: Positions where the model's last layer is computed; None: everywhere.
            last: The layer to end at; -1: the model's last.
        """
        yield from self.layers_from(0, self.enter(tokens), read=read, last=last)

    def layers_from(
        self, first: int, residual: Tensor, *, read: list[int] | None = None, last: int = -1
    ) -> Iterator[Layer]:
        """The layers from `first` on, which this residual stream [batch pos d_model] enters."""
        for index in range(first, 1 + last % self.n_layers):
            layer = Layer(self, index, residual, read if index == self.n_layers - 1 else None)
            yield layer
            residual = layer.leaving if index < last % self.n_layers else residual


class Layer:
    """One layer of a pass. Each part is computed from those before it when it is first read; a part
    that is set stays as it is set."""

    def __init__(
        self,
        run: LayerByLayer,
        index: int,
        entering: Float[Tensor, "batch pos d_model"],
        read: list[int] | None = None,
    ) -> None:
        """Of a residual stream that enters; `read`: where it is computed; None: everywhere."""
        self._run = run
        self.index = index
        """Which layer this is."""
        self.entering = entering
        """The residual stream that enters."""
        self.read = read
        """Positions where the layer is computed; None: everywhere."""

    @cached_property
    def inputs(self) -> AttentionInputs:
        """Queries, keys and values."""
        return self._run.attention_inputs(self.index, self.entering)

    @cached_property
    def z(self) -> Float[Tensor, "batch read_pos head d_head"]:
        """What the heads put out."""
        return self._run.attend(self.index, self.inputs, self.read)

    @cached_property
    def before(self) -> Float[Tensor, "batch read_pos d_model"]:
        """The residual stream that enters, where it is read."""
        return _at(self.entering, self.read)

    @cached_property
    def middle(self) -> Float[Tensor, "batch read_pos d_model"]:
        """The residual stream after attention."""
        return self.before + self._run.attention_out(self.index, self.z)

    @cached_property
    def leaving(self) -> Float[Tensor, "batch read_pos d_model"]:
        """The residual stream that leaves."""
        return self._run.after_attention(self.index, self.before, self.middle)

    def attention(self) -> FusedAttention:
        """What the heads attend to, at all positions. Where the kernel can, it gives `z` too."""
        last = self.index + 1 == self._run.n_layers
        scale = self._run.scale(self.index)
        inputs = self._run.attention_inputs(self.index, self.entering, values=not last)
        totals = None
        if takes_totals(inputs):
            z, totals = attended_with_totals(inputs, scale=scale)
            if not last:  # whose values were left out, and whose outputs nobody reads
                self.z = z
        elif not last:
            self.inputs = inputs
        return FusedAttention(inputs, totals, scale=scale)


def _forget(value: Any) -> Any:
    """None for a cache of keys: blocks are called more than once, each time without one."""
    return None if hasattr(value, "get_seq_length") else value


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
