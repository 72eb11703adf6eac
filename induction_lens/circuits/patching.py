"""One batch with edges between heads patched: what of a sender reaches one input of a receiver.

1. The model runs clean, and beside it on the tokens of the other run, up to the last sender.
2. What the sender would have put out instead, minus what it did, goes through `W_O` to the residual
   stream that a receiver reads, and to nothing else: all other heads are as in the clean run, and
   so are the MLPs between, or, with `through_mlps`, these are computed again. The receiver's
   queries, keys or values are computed from that.
3. The model runs with that one input of the receivers replaced. Everything after them, and their
   other inputs, are live.

A receiver that shares its keys and values with other heads gets a copy of its own: only the query
head that is named sees the patched ones.

Sources: Wang et al. 2022, "Interpretability in the Wild" (path patching, the version with
recomputed MLPs); Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits.other_runs import OtherRun, Outputs
from induction_lens.heads import Head, names_of
from induction_lens.models import (
    AttentionInputs,
    FusedAttention,
    Layer,
    LayerByLayer,
    Targets,
    unembedded_losses,
)
from induction_lens.packing import packable

Input = Literal["q", "k", "v"]
INPUTS: tuple[Input, ...] = get_args(Input)
"""The inputs of a head: what its queries, its keys or its values are computed from."""


@packable
@dataclass(frozen=True)
class Edge:
    """From what some heads write to one input of later heads.

    Examples:
        >>> edge = il.circuits.Edge((il.Head(0, 2),), (il.Head(1, 6),), "k")
        >>> print(edge)
        0.2 -> 1.6 (K)
    """

    senders: tuple[Head, ...]
    """The heads whose output is exchanged."""
    receivers: tuple[Head, ...]
    """The heads that see it exchanged."""
    input: Input
    """Where: the receivers' queries, keys or values."""

    def __post_init__(self) -> None:
        """Check that something can go from some of the senders to each of the receivers.

        Raises:
            ValueError: If there are none, or a receiver is in no later layer than a sender.
        """
        checks.one_of("input", self.input, INPUTS)
        if not (self.senders and self.receivers):
            raise ValueError("expected a sender and a receiver, got none; name one of each")
        first = min(self.senders).layer
        early = [head for head in self.receivers if head.layer <= first]
        if early:
            raise ValueError(
                f"expected receivers in layers after {first}, where the first sender is, got "
                f"{names_of(early)}; name later heads"
            )

    def __str__(self) -> str:
        """For instance `0.2 -> 1.6 (K)`."""
        sent, received = names_of(self.senders, between="+"), names_of(self.receivers, between="+")
        return f"{sent} -> {received} ({self.input.upper()})"

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """The receivers' head indices by layer."""
        grouped: dict[int, list[int]] = {}
        for head in sorted(self.receivers):
            grouped.setdefault(head.layer, []).append(head.head)
        return grouped


@dataclass(frozen=True)
class Patches:
    """How edges are patched: in place of what, and along which paths."""

    other: OtherRun
    """What senders put out instead."""
    through_mlps: bool = False
    """Whether MLPs between sender and receiver are computed again, so that the paths through them
    count; without, only what a receiver reads of the sender directly."""


class BasePass:
    """One batch through the clean model, and with any edge patched."""

    def __init__(
        self,
        run: LayerByLayer,
        tokens: Int[Tensor, "batch pos"],
        *,
        n_pos: int,
        last_sender: int,
        patches: Patches,
        other_tokens: Int[Tensor, "run batch pos"],
    ) -> None:
        """Run it clean, and the other run up to the last sender.

        Args:
            run: The model.
            tokens: The batch.
            n_pos: Positions that are run: up to the last that is read.
            last_sender: The last layer that holds a sender.
            patches: How edges are patched.
            other_tokens: The sequences that the other run takes beside these.
        """
        self._run = run
        self._tokens = tokens
        self._through_mlps = patches.through_mlps
        # before the clean pass: a run knows how blocks are called from the last pass it entered
        runs = [dict(run.outputs(some[:, :n_pos], last_sender)) for some in other_tokens]
        self.layers: list[Layer] = list(run.layers(tokens[:, :n_pos]))
        """The layers of the clean pass."""
        clean = {layer.index: layer.z for layer in self.layers[: last_sender + 1]}
        self._other: Outputs = patches.other.outputs(clean, runs)
        self._inputs: dict[tuple[tuple[Head, ...], int], AttentionInputs] = {}
        self._written: dict[tuple[Head, ...], list[Tensor | None]] = {}

    def attention(self, edge: Edge, *, patched: bool) -> list[FusedAttention]:
        """What the receivers of each layer attend to by their own inputs, the others clean."""
        found = []
        for layer, heads in edge.by_layer.items():
            inputs = _of_heads(self.layers[layer].inputs, heads)
            if patched:
                inputs = self._patched(edge, self.layers[layer].inputs, layer)
            found.append(FusedAttention(inputs, None, scale=self._run.scale(layer)))
        return found

    def clean_losses(self, positions: list[int]) -> Float[Tensor, "batch read_pos"]:
        """The losses, in nats, of the tokens at some positions, of the clean model."""
        return self._losses(_at(self.layers[-1].leaving, _before(positions)), positions)

    def losses(self, edge: Edge, positions: list[int]) -> Float[Tensor, "batch read_pos"]:
        """The same with an edge patched."""
        read = _before(positions)
        first, *later = edge.by_layer
        start = self.layers[first]
        residual = self._leaving(edge, start, read if first == len(self.layers) - 1 else None)
        for layer in self._run.layers_from(first + 1, residual, read=read):
            if layer.index in later:
                layer.leaving = self._leaving(edge, layer, layer.read)
            residual = layer.leaving
        return self._losses(residual, positions)

    def _losses(self, residual: Tensor, positions: list[int]) -> Tensor:
        final = self._run.final_norm(residual)
        return unembedded_losses(self._run.unembed, final, self._tokens[:, positions])

    def _leaving(self, edge: Edge, layer: Layer, at: list[int] | None) -> Tensor:
        """What leaves a layer that holds receivers, at some positions; None: at all."""
        run, index, heads = self._run, layer.index, edge.by_layer[layer.index]
        patched = self._patched(edge, layer.inputs, index)
        z, middle = layer.z, layer.middle
        if layer.read is None:  # the layer is computed everywhere
            z, middle = _at(z, at), _at(middle, at)
        change = run.attend(index, patched, at) - z[:, :, heads]
        changed = middle + run.change(index, change, heads)
        return run.after_attention(index, _at(layer.entering, at), changed)

    def _patched(self, edge: Edge, live: AttentionInputs, layer: int) -> AttentionInputs:
        """The inputs of the receivers in a layer, one of them patched, the others live."""
        senders = tuple(head for head in edge.senders if head.layer < layer)
        heads = edge.by_layer[layer]
        own = _of_heads(live, heads)
        if not senders:
            return own
        new = _of_heads(self._inputs_after(senders, layer), heads)
        parts = {"q": own.query, "k": own.key, "v": own.value}
        parts[edge.input] = {"q": new.query, "k": new.key, "v": new.value}[edge.input]
        query, key, value = parts["q"], parts["k"], parts["v"]
        assert query is not None
        assert key is not None
        return AttentionInputs(query, key, value)

    def _inputs_after(self, senders: tuple[Head, ...], layer: int) -> AttentionInputs:
        """Queries, keys and values of a layer, once what the senders write is exchanged."""
        if (senders, layer) not in self._inputs:
            written = self._change_entering(senders, layer)
            entering = self.layers[layer].entering + written
            self._inputs[senders, layer] = self._run.attention_inputs(layer, entering)
        return self._inputs[senders, layer]

    def _change_entering(self, senders: tuple[Head, ...], layer: int) -> Tensor:
        """By how much the residual stream that enters a layer changes."""
        change = torch.zeros_like(self.layers[0].entering)
        for index in range(min(senders).layer, layer):
            before, middle = self.layers[index].entering, self.layers[index].middle
            heads = [head.head for head in senders if head.layer == index]
            after = change
            if heads:
                new, old = self._other[index], self.layers[index].z
                after = change + self._run.change(index, (new - old)[:, :, heads], heads)
            if self._through_mlps:
                leaving = self._run.after_attention(index, before + change, middle + after)
                after = leaving - self.layers[index].leaving
            change = after
        return change


def attended(
    attention: Sequence[FusedAttention], targets: Targets, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """The attention on targets, summed over keys and heads, averaged over queries that have some;
    NaN for a sequence without targets."""
    row, query, _ = targets
    has_targets = torch.zeros(tokens.shape, device=row.device, dtype=torch.float32)
    mass = has_targets.sum(1)
    has_targets[row, query] = 1
    for one in attention:
        for _, rows, parts in one.on([targets]):
            mass.index_add_(0, rows, parts.sum(1).to(mass))
    return mass / has_targets.sum(1)


def _of_heads(inputs: AttentionInputs, heads: list[int]) -> AttentionInputs:
    """The inputs of some query heads, with keys and values of their own."""
    each = inputs.for_each_head()
    value = None if each.value is None else each.value[:, :, heads]
    return AttentionInputs(each.query[:, :, heads], each.key[:, :, heads], value)


def _before(positions: list[int]) -> list[int]:
    """Where the logits are that predict the tokens at some positions."""
    return [position - 1 for position in positions]


def _at(x: Tensor, positions: list[int] | None) -> Tensor:
    return x if positions is None else x[:, positions]
