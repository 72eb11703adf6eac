"""A set of heads knocked out by a method, as hooks on a model that is run whole.

Writes go to `z` of query heads, [batch pos head d_head], so grouped-query models need no case of
their own. Where patterns are frozen, `z` is computed from the frozen pattern and the live values,
because some bridges ignore writes to the pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.methods import AblationMethod, Place
from induction_lens.ablation.outputs import NO_OUTPUTS, Outputs, Rows, by_layer
from induction_lens.ablation.seen import HeadAttention, Seen
from induction_lens.heads import Head
from induction_lens.models import (
    HookFunction,
    InterventionError,
    Model,
    hook_name,
    keep,
    shape,
    tolerance,
)

Z = Float[Tensor, "batch pos head d_head"]


class Ablation:
    """A prepared ablation of a set of heads: hooks for any batch."""

    def __init__(
        self,
        model: Model,
        heads: Sequence[Head],
        method: AblationMethod,
        *,
        outputs: Outputs = NO_OUTPUTS,
        only_at: Int[Tensor, " row"] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: A hooked model.
            heads: The heads.
            method: What is written in their place.
            outputs: Those of these heads, from `keep_outputs`, where the method needs them.
            only_at: The one position of each row of the whole set that is written to, which the
                method then takes for position 0; None: every position.
        """
        self.model = model
        self.method = method
        self.heads = by_layer(heads)
        self.n_before = 0
        """Positions of the current sequences that came before those of the forward pass."""
        self._outputs = outputs
        self._only_at = only_at
        self._patterns: Mapping[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._seen: Seen | None = None
        method.check(outputs)
        if method.reads_attention:
            self._seen = Seen(model, list(self.heads), method.leaves_out)

    def watching(self) -> AbstractContextManager[None]:
        """Around every forward pass that the hooks act on."""
        return nullcontext() if self._seen is None else self._seen.watching()

    @property
    def freezes(self) -> bool:
        """Whether attention patterns are frozen to those of a clean run."""
        return self.method.preserves_patterns

    @property
    def reads(self) -> bool:
        """Whether what is written is made from where the heads attend."""
        return self.method.reads_attention

    @property
    def by_layers(self) -> bool:
        """Whether what is written is known where layers are run one by one."""
        return self.method.position_wise or self.reads

    @property
    def sending(self) -> set[int]:
        """Layers of the heads whose outputs may be left out of what later ones read."""
        return {head.layer for head in self.method.leaves_out}

    @property
    def first_layer(self) -> int:
        """The first layer that is written to: what comes before it is as in a clean run."""
        return min(self.heads, default=0)

    def hooks(self, rows: Rows | None = None) -> list[tuple[str, HookFunction]]:
        """Hooks that knock the heads out; `rows`: which rows of the whole set the batch holds."""
        layers = list(self.heads)
        if self.freezes:
            layers = list(range(self.first_layer, shape(self.model).n_layers))
        hooks = [(hook_name("z", layer), self._write(layer, rows)) for layer in layers]
        if self.freezes:
            hooks += [(hook_name("v", layer), self._keep_value(layer)) for layer in layers]
        return hooks if self._seen is None else [*hooks, *self._seen.hooks()]

    def replaced(
        self,
        layer: int,
        z: Float[Tensor, "batch read_pos chosen d_head"],
        rows: Rows,
        positions: Sequence[int],
        attention: HeadAttention | None = None,
    ) -> Float[Tensor, "batch read_pos chosen d_head"]:
        """What is written for the chosen heads of a layer, at these rows and positions."""
        if self._only_at is not None:
            return self._replaced_at_one(layer, z, rows, positions, self._only_at)
        return self._written(layer, z, rows, positions, attention)

    def _replaced_at_one(
        self, layer: int, z: Z, rows: Rows, positions: Sequence[int], only_at: Tensor
    ) -> Z:
        """The same, where each row is written to at one position alone."""
        places = torch.tensor(list(positions), device="cpu")
        row, column = (only_at[rows][:, None] == places).nonzero(as_tuple=True)
        z = z.clone()
        if len(row):
            of_set = torch.arange(len(only_at), device="cpu")[rows][row]
            at = (row.to(z.device), column.to(z.device))
            z[at] = self._written(layer, z[at][:, None], of_set, [0], None)[:, 0]
        return z

    def _written(
        self,
        layer: int,
        z: Z,
        rows: Rows,
        positions: Sequence[int],
        attention: HeadAttention | None,
    ) -> Z:
        """What the method writes."""
        place = Place(layer, self.heads[layer], rows, positions, self._outputs, attention)
        written = self.method.replacement(z, place)
        if written.shape != z.shape:
            raise InterventionError(
                f"expected {self.method.label} ablation to write outputs of shape {list(z.shape)}, "
                f"got {list(written.shape)}; return a tensor like z"
            )
        return written

    def freeze(self, patterns: Mapping[int, Tensor]) -> None:
        """Take every layer's attention pattern from a clean run on the next batch."""
        self._patterns = patterns

    def _keep_value(self, layer: int) -> HookFunction:
        def hook(value: Float[Tensor, "batch pos kv_head d_head"]) -> None:
            self._values[layer] = value

        return hook

    def _write(self, layer: int, rows: Rows | None) -> HookFunction:
        chosen = self.heads.get(layer, [])

        def hook(z: Z) -> Z:
            z = self._from_frozen_pattern(layer, z) if self.freezes else z.clone()
            if chosen:
                positions = range(self.n_before, self.n_before + z.shape[1])
                of_set = slice(0, len(z)) if rows is None else rows
                seen = None if self._seen is None else self._seen.of(layer, chosen, z)
                z[:, :, chosen] = self.replaced(layer, z[:, :, chosen], of_set, positions, seen)
            return z

        return hook

    def _from_frozen_pattern(self, layer: int, z: Z) -> Z:
        pattern, value = self._patterns.get(layer), self._values.pop(layer)
        if pattern is None or pattern.shape[::2] != (z.shape[0], z.shape[1]):
            raise InterventionError(
                "expected attention patterns of a clean run on the same tokens, got none; "
                "call the model itself on the tokens inside the `with` block"
            )
        return attended(pattern, value, z)


def attended(pattern: Tensor, value: Tensor, z: Z) -> Z:
    """What heads put out that attend by `pattern` to `value`, in the type of `z`."""
    value = value.repeat_interleave(z.shape[2] // value.shape[2], dim=2)
    return torch.einsum("bhqk,bkhe->bqhe", pattern.to(value), value).to(z)


@dataclass
class CleanAttention:
    """What every layer's attention did in a clean run, for patterns to be frozen to."""

    patterns: dict[int, Float[Tensor, "batch head query_pos key_pos"]] = field(default_factory=dict)
    """By layer."""
    values: dict[int, Float[Tensor, "batch pos kv_head d_head"]] = field(default_factory=dict)
    """By layer."""
    outputs: dict[int, Z] = field(default_factory=dict)
    """By layer: `z`."""

    def hooks(self, layers: Iterable[int]) -> list[tuple[str, HookFunction]]:
        """Hooks that keep it, for `installed`."""
        layers = list(layers)
        return [
            *keep("pattern", layers, into=self.patterns),
            *keep("v", layers, into=self.values),
            *keep("z", layers, into=self.outputs),
        ]

    def check(self) -> None:
        """Check that heads put out what their patterns give of their values, and nothing else.

        Raises:
            InterventionError: Naming the first layer where something acts between.
        """
        for layer, z in self.outputs.items():
            expected = attended(self.patterns[layer], self.values[layer], z)
            bound = tolerance(z.dtype) * (1 + float(z.abs().max()))
            if not float((expected - z).abs().max()) <= bound:
                raise InterventionError(
                    f"expected heads of layer {layer} to put out their pattern times their values, "
                    "but something acts between, such as a gate, a sink or a clip; use zero, mean "
                    "or resample ablation"
                )
