"""What heads do on one forward pass, for methods that change where heads attend.

Such a method reads the heads' pattern and values, and writes what they put out by another pattern.
That they put out their pattern times their values is checked on every pass of a model that runs its
own code; one that is run layer by layer was compared with the model before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.models import (
    AttentionInputs,
    HookFunction,
    InterventionError,
    Model,
    Projector,
    Site,
    hook_name,
    pattern_of,
    reading,
    tolerance,
)


@dataclass(frozen=True)
class HeadAttention:
    """What the chosen heads of a layer do on one batch."""

    tokens: Int[Tensor, "batch pos"]
    """The batch."""
    pattern: Float[Tensor, "batch chosen query_pos key_pos"]
    """Where they attend."""
    value: Float[Tensor, "batch key_pos chosen d_head"]
    """Their values."""
    inputs_without: Callable[[], tuple[AttentionInputs, AttentionInputs]] | None = None
    """Their inputs, and what these would be if the senders had written nothing."""
    attend: Callable[[AttentionInputs], Tensor] | None = None
    """What they put out by such inputs."""

    def by(
        self, pattern: Float[Tensor, "batch chosen query_pos key_pos"]
    ) -> Float[Tensor, "batch query_pos chosen d_head"]:
        """What they put out by another pattern."""
        return torch.einsum("bhqk,bkhe->bqhe", pattern.to(self.value), self.value)


@runtime_checkable
class Layers(Protocol):
    """The layers of a model that are run one by one, by `LayerByLayer` or inside a caller's pass
    by `Projector`."""

    def attention_inputs(self, layer: int, residual: Tensor) -> AttentionInputs:
        """Queries, keys and values of a layer, from the residual stream that enters it."""
        ...

    def attend(self, layer: int, inputs: AttentionInputs) -> Tensor:
        """What heads put out that have these inputs."""
        ...

    def change(self, layer: int, z: Tensor, heads: list[int]) -> Tensor:
        """What some heads' outputs add to the residual stream."""
        ...

    def scale(self, layer: int) -> float:
        """What attention scores are multiplied with."""
        ...


def attention_of(
    layers: Layers,
    tokens: Int[Tensor, "batch pos"],
    *,
    layer: int,
    heads: Sequence[int],
    inputs: AttentionInputs,
    entering: Float[Tensor, "batch pos d_model"],
    sent: Mapping[int, Float[Tensor, "batch pos head d_head"]],
    senders: Sequence[Head],
) -> HeadAttention:
    """What chosen heads of a layer do, from what its attention is computed from.

    Args:
        layers: The model.
        tokens: The batch.
        layer: Which layer.
        heads: Which of its heads.
        inputs: Queries, keys and values of all of its heads.
        entering: The residual stream that these are computed from.
        sent: By layer, what all heads put out on this pass, where there are senders.
        senders: Heads whose outputs may be left out of what they read.
    """
    live = inputs.of_heads(heads)

    def inputs_without() -> tuple[AttentionInputs, AttentionInputs]:
        left = entering
        for index in sorted({head.layer for head in senders if head.layer < layer}):
            of_layer = [head.head for head in senders if head.layer == index]
            left = left - layers.change(index, sent[index][:, :, of_layer], of_layer)
        return live, layers.attention_inputs(layer, left).of_heads(heads)

    def attend(changed: AttentionInputs) -> Tensor:
        return layers.attend(layer, changed)

    assert live.value is not None
    pattern = pattern_of(live, scale=layers.scale(layer))
    return HeadAttention(tokens, pattern, live.value, inputs_without, attend)


class Seen:
    """What an ablation sees of each forward pass before it writes.

    Patterns are computed from queries and keys where layers can be run one by one, and taken from
    the model elsewhere: some bridges show them only after what heads put out.
    """

    def __init__(self, model: Model, layers: Sequence[int], senders: Sequence[Head]) -> None:
        """In these layers; `senders`: heads whose outputs may be left out of what they read.

        Raises:
            InterventionError: If there are senders, and the model's layers cannot be run alone.
        """
        self._model = model
        self._layers = list(layers)
        self._senders = list(senders)
        self._tokens: Tensor | None = None
        self._kept: dict[str, Tensor] = {}
        try:
            self._projector = Projector(model)
        except InterventionError:
            if senders:
                raise
            self._projector = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow every forward pass inside the block."""
        with ExitStack() as stack:
            stack.enter_context(reading(self._model, self._see))
            if self._projector is not None:
                stack.enter_context(self._projector.following())
            yield

    def hooks(self) -> list[tuple[str, HookFunction]]:
        """Hooks that keep what is read, to be installed after those that write."""
        sites: list[Site] = ["pattern", "v"] if self._projector is None else ["resid_pre"]
        names = [hook_name(site, layer) for site in sites for layer in self._layers]
        names += [hook_name("z", layer) for layer in {head.layer for head in self._senders}]
        return [(name, self._keep(name)) for name in names]

    def of(
        self, layer: int, heads: Sequence[int], z: Float[Tensor, "batch pos head d_head"]
    ) -> HeadAttention:
        """What chosen heads of a layer do on this pass, in which all put out `z`.

        Raises:
            InterventionError: If a head does not put out its pattern times its values.
        """
        chosen = list(heads)
        if self._projector is None:
            found = self._shown(layer, chosen, z.shape[2])
        else:
            found = self._computed(self._projector, layer, chosen)
        bound = tolerance(z.dtype) * (1 + float(z.detach().abs().max()))
        expected = found.by(found.pattern)
        apart = (expected - z[:, :, chosen]).detach().abs().max()
        if not float(apart) <= bound:
            raise InterventionError(
                f"expected heads of layer {layer} to put out their pattern times their values, but "
                "something acts between, such as a gate, a sink or a hook; use zero, mean or "
                "resample ablation"
            )
        return found

    def _shown(self, layer: int, heads: list[int], n_heads: int) -> HeadAttention:
        """By the pattern and the values that the model shows."""
        pattern = self._kept.pop(hook_name("pattern", layer), None)
        value = self._kept.pop(hook_name("v", layer), None)
        if pattern is None or value is None:
            raise InterventionError(
                f"expected the pattern of layer {layer} before what its heads put out, but this "
                f"{type(self._model).__name__} shows it later; use zero, mean or resample ablation"
            )
        value = value.repeat_interleave(n_heads // value.shape[2], dim=2)
        assert self._tokens is not None
        return HeadAttention(self._tokens, pattern[:, heads], value[:, :, heads])

    def _computed(self, projector: Projector, layer: int, heads: list[int]) -> HeadAttention:
        """By queries, keys and values from the residual stream that enters the layer."""
        residual = self._kept.pop(hook_name("resid_pre", layer))
        sent = {head.layer: self._kept[hook_name("z", head.layer)] for head in self._before(layer)}
        assert self._tokens is not None
        return attention_of(
            projector,
            self._tokens,
            layer=layer,
            heads=heads,
            inputs=projector.attention_inputs(layer, residual),
            entering=residual,
            sent=sent,
            senders=self._senders,
        )

    def _before(self, layer: int) -> list[Head]:
        return [head for head in self._senders if head.layer < layer]

    def _see(self, tokens: Tensor) -> None:
        self._tokens = torch.atleast_2d(tokens)

    def _keep(self, name: str) -> HookFunction:
        def hook(activation: Tensor) -> None:
            if self._projector is None or not self._projector.is_projecting:
                self._kept[name] = activation

        return hook
