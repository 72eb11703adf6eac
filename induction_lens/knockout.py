"""Knocking heads out: what is written at a head's output `z` in the place of what it computed.

Four methods, each a small function that prepares, for every layer, a replacement of `z`:

- **zero**: zeros.
- **mean**: the head's mean output over a reference set, over all positions or per position.
- **resample**: the head's output on another sequence of the reference set, at the same position.
- **pattern-preserving** (Olsson et al. 2022, "Argument 3"): a first run keeps every head's
  attention pattern; in the second, all patterns are frozen to the first run's and the chosen heads
  put out zero. So only what the heads write to the residual stream is cut, not its effect on the
  attention of later heads. It is computed from the frozen pattern and the live values, and written
  at `z`, because some bridges ignore writes to the pattern.

Writes go to `z` of query heads, [batch pos head d_head], so grouped-query models need no case of
their own. Before anything runs, every layer is shown to pass such a write on.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.metrics import batches
from induction_lens.models import (
    HookFunction,
    InterventionError,
    Model,
    Stream,
    batch_size_for,
    before_forward,
    check_weights,
    checked_tokens,
    device_of,
    hook_name,
    installed,
    keep,
    prove_writes_land,
    run_until,
    running,
    shape,
    streaming,
)

Method = Literal["zero", "mean", "resample", "pattern-preserving"]
METHODS: tuple[Method, ...] = get_args(Method)

Z = Float[Tensor, "batch pos head d_head"]
# What outputs of all heads may take to be kept: the clean pass is then spared its attention.
_WHOLE_BYTES = 2**28
# (layer, z of the chosen heads, which rows of the whole set and which positions it holds)
# -> their replacement
Replacement = Callable[[int, Tensor, slice, Sequence[int]], Tensor]
ByLayer = Mapping[int, list[int]]


def by_layer(heads: Iterable[Head]) -> dict[int, list[int]]:
    """Head indices per layer."""
    grouped: dict[int, list[int]] = {}
    for head in sorted(heads):
        grouped.setdefault(head.layer, []).append(head.head)
    return grouped


def checked_method(method: str) -> Method:
    """The ablation method of this name.

    Raises:
        ValueError: with the closest name there is.
    """
    for known in METHODS:
        if method == known:
            return known
    [close] = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.0)
    raise ValueError(
        f"expected a method out of {', '.join(METHODS)}, got {method!r}; did you mean {close!r}?"
    )


@dataclass(frozen=True)
class Outputs:
    """Clean outputs `z` of some heads on a set of sequences."""

    heads: ByLayer
    """Whose: head indices by layer."""
    means: Mapping[int, Float[Tensor, "pos head d_head"]]
    """By layer: their mean over sequences at every position."""
    each: Mapping[int, Float[Tensor, "batch pos head d_head"]]
    """By layer: those of every sequence, where they were kept."""
    whole: Mapping[int, Float[Tensor, "batch pos all_heads d_head"]]
    """By layer: those of all heads of the model, not of `heads` alone, where they were kept."""

    def of(self, heads: ByLayer) -> Outputs:
        """The same for fewer heads."""
        index = {n: [self.heads[n].index(head) for head in chosen] for n, chosen in heads.items()}
        return Outputs(
            heads,
            {layer: self.means[layer][:, chosen] for layer, chosen in index.items()},
            {n: self.each[n][:, :, chosen] for n, chosen in index.items() if n in self.each},
            self.whole,
        )


def keep_outputs(
    model: Model,
    heads: ByLayer,
    reference: Int[Tensor, "reference_batch reference_pos"],
    *,
    each: bool,
    whole: bool = False,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Outputs:
    """The clean outputs `z` of some heads on a set of sequences, on the CPU.

    Args:
        model: a hooked model.
        heads: head indices by layer.
        reference: the sequences.
        each: keep those of every sequence too, not their mean alone.
        whole: keep those of all heads up to the last layer too, where the model can be taken apart
            and they fit a memory budget, on the model's device.
        batch_size: sequences per forward pass; None chooses by a memory budget.
        progress: title of a progress bar.
    """
    reference = checked_tokens(model, reference)
    kept: dict[int, list[Tensor]] = {layer: [] for layer in heads}
    sums: dict[int, Tensor] = {}
    all_heads: dict[int, list[Tensor]] = {}
    sizes = shape(model)
    n_bytes = 4 * reference.numel() * (max(heads) + 1) * sizes.n_heads * sizes.d_head
    with streaming(model, reference[:1].to(device_of(model))) as stream:
        fitting = batch_size_for(model, reference.shape[1], fused=stream is not None)
        for rows in batches(len(reference), batch_size or fitting, progress=progress):
            outputs = _outputs(model, stream, max(heads), reference[rows].to(device_of(model)))
            for layer, chosen in heads.items():
                z = outputs[layer][:, :, chosen]
                part = z.sum(0).double().cpu()
                sums[layer] = sums[layer] + part if layer in sums else part
                if each:
                    kept[layer].append(z.cpu())
            if whole and stream is not None and n_bytes <= _WHOLE_BYTES:
                for layer, z in outputs.items():
                    all_heads.setdefault(layer, []).append(z)
    means = {layer: (total / len(reference)).float() for layer, total in sums.items()}
    return Outputs(heads, means, _joined(kept), _joined(all_heads))


def _joined(parts: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    return {layer: torch.cat(some) for layer, some in parts.items() if some}


def _outputs(model: Model, stream: Stream | None, last: int, batch: Tensor) -> Mapping[int, Tensor]:
    """`z` of every layer up to `last`."""
    outputs: dict[int, Tensor] = {}
    if stream is None:
        with running(model), installed(model, keep("z", range(last + 1), into=outputs)):
            run_until(model, batch, hook_name("z", last))
        return outputs
    residual = stream.enter(batch)
    for layer in range(last + 1):
        outputs[layer] = stream.attend(layer, stream.attention_inputs(layer, residual))
        if layer < last:
            residual = stream.leave(layer, residual, outputs[layer])
    return outputs


def other_rows(n: int, *, seed: int) -> Int[Tensor, " batch"]:
    """A random permutation of `range(n)` that leaves no index in place (a random cycle).

    Raises:
        ValueError: if there are fewer than two.
    """
    if n < 2:
        raise ValueError(
            f"expected at least two reference sequences to resample from, got {n}; pass a larger "
            "reference"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    donors = torch.empty(n, dtype=torch.long)
    donors[order] = order.roll(1)
    return donors


def _zero(layer: int, z: Tensor, rows: slice, positions: Sequence[int]) -> Tensor:
    return torch.zeros_like(z)


def _mean(means: Mapping[int, Tensor], *, per_position: bool) -> Replacement:
    overall = {layer: mean.double().mean(0).float() for layer, mean in means.items()}

    def replace(layer: int, z: Tensor, rows: slice, positions: Sequence[int]) -> Tensor:
        if not per_position:
            return overall[layer].to(z).expand_as(z)
        length = len(means[layer])
        if positions[-1] >= length:
            raise ValueError(
                f"expected sequences of at most {length} tokens, the reference's, to have a "
                f"mean at every position, got {positions[-1] + 1}; pass a longer reference"
            )
        return means[layer][list(positions)].to(z).expand_as(z)

    return replace


def _resample(outputs: Mapping[int, Tensor], *, seed: int) -> Replacement:
    n, length = next(iter(outputs.values())).shape[:2]
    donors = other_rows(n, seed=seed)

    def replace(layer: int, z: Tensor, rows: slice, positions: Sequence[int]) -> Tensor:
        if rows.stop > n or positions[-1] >= length:
            raise ValueError(
                f"expected at most {n} sequences of {length} tokens, as in the reference, got "
                f"{rows.stop} of {positions[-1] + 1}; pass a larger reference"
            )
        return outputs[layer][donors[rows]][:, list(positions)].to(z)

    return replace


class Knockout:
    """A prepared knock-out of a set of heads: hooks for any batch."""

    def __init__(
        self,
        model: Model,
        heads: Sequence[Head],
        method: Method,
        *,
        outputs: Outputs | None = None,
        per_position: bool = False,
        seed: int = 0,
    ) -> None:
        """Prepare; `outputs`: of these heads, from `keep_outputs`, for `mean` and `resample`."""
        self.model, self.method, self.heads = model, method, by_layer(heads)
        self._patterns: Mapping[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        if method in ("mean", "resample"):
            assert outputs is not None
            mean = method == "mean"
            self._replace = (
                _mean(outputs.means, per_position=per_position)
                if mean
                else _resample(outputs.each, seed=seed)
            )
        else:
            self._replace = _zero

    @property
    def freezes(self) -> bool:
        """Whether attention patterns are frozen to those of a clean run."""
        return self.method == "pattern-preserving"

    @property
    def first_layer(self) -> int:
        """The first layer that is written to: what comes before it is as in a clean run."""
        return min(self.heads, default=0)

    def hooks(self, rows: slice | None = None) -> list[tuple[str, HookFunction]]:
        """Hooks that knock the heads out; `rows`: which rows of the whole set the batch holds."""
        layers = list(self.heads)
        if self.freezes:
            layers = list(range(self.first_layer, shape(self.model).n_layers))
        hooks = [(hook_name("z", layer), self._write(layer, rows)) for layer in layers]
        if self.freezes:
            hooks += [(hook_name("v", layer), self._keep_value(layer)) for layer in layers]
        return hooks

    def replaced(
        self,
        layer: int,
        z: Float[Tensor, "batch read_pos chosen d_head"],
        rows: slice,
        positions: Sequence[int],
    ) -> Float[Tensor, "batch read_pos chosen d_head"]:
        """What is written for the chosen heads of a layer, at these rows and positions."""
        return self._replace(layer, z, rows, positions)

    def freeze(self, patterns: Mapping[int, Tensor]) -> None:
        """Take every layer's attention pattern from a clean run on the next batch."""
        self._patterns = patterns

    def _keep_value(self, layer: int) -> HookFunction:
        def hook(value: Float[Tensor, "batch pos kv_head d_head"]) -> None:
            self._values[layer] = value

        return hook

    def _write(self, layer: int, rows: slice | None) -> HookFunction:
        chosen = self.heads.get(layer, [])

        def hook(z: Z) -> Z:
            z = self._from_frozen_pattern(layer, z) if self.freezes else z.clone()
            if chosen:
                at = range(z.shape[1])
                z[:, :, chosen] = self.replaced(
                    layer, z[:, :, chosen], rows or slice(0, len(z)), at
                )
            return z

        return hook

    def _from_frozen_pattern(self, layer: int, z: Z) -> Z:
        pattern, value = self._patterns.get(layer), self._values.pop(layer)
        if pattern is None or pattern.shape[::2] != (z.shape[0], z.shape[1]):
            raise InterventionError(
                "expected attention patterns of a clean run on the same tokens, got none; "
                "call the model itself on the tokens inside the `with` block"
            )
        value = value.repeat_interleave(z.shape[2] // value.shape[2], dim=2)
        return torch.einsum("bhqk,bkhe->bqhe", pattern.to(value), value).to(z)


@contextmanager
def knocked_out(
    model: Model,
    heads: Iterable[HeadLike] | HeadLike,
    *,
    method: Method | str = "mean",
    reference: Int[Tensor, "reference_batch reference_pos"] | None = None,
    per_position: bool = False,
    seed: int = 0,
) -> Iterator[Model]:
    """Knock heads out of every forward pass inside a `with` block.

    Inside the block the model is the caller's, who may call it or run it with hooks of their own.
    With `resample`, row `i` of a batch gets the outputs of a row other than `i` of the reference.

    Args:
        model: a hooked model.
        heads: heads such as `"1.6"`, `(1, 6)` or `Head(1, 6)`.
        method: `zero`, `mean`, `resample` or `pattern-preserving`.
        reference: sequences to take outputs from; needed by `mean` and `resample`.
        per_position: for `mean`, a mean for each position instead of one over all.
        seed: seed of the permutation of `resample`.

    Raises:
        ValueError: for an unknown method or head, or a missing or too small reference.
        InterventionError: if the model drops the writes, or no forward pass came through them.
    """
    method = checked_method(method)
    sizes = shape(model)
    parsed = parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
    grouped = by_layer(parsed)
    outputs = None
    if method in ("mean", "resample"):
        if reference is None:
            raise ValueError(
                f"expected a reference for method {method!r}, got none; pass the sequences to take "
                "the heads' usual output from, such as reference=text"
            )
        outputs = keep_outputs(model, grouped, reference, each=method == "resample")
    check_weights(model)
    prove_writes_land(model, list(grouped), vocabulary=sizes.d_vocab)
    knockout = Knockout(
        model, parsed, method, outputs=outputs, per_position=per_position, seed=seed
    )
    if not knockout.freezes:
        with installed(model, knockout.hooks()):
            yield model
        return
    with _frozen(knockout):
        yield model


@contextmanager
def _frozen(knockout: Knockout) -> Iterator[None]:
    """Every forward pass in the block is preceded by a clean one that gives the patterns."""
    paused = False

    def unless_paused(hook: HookFunction) -> HookFunction:
        return lambda activation: None if paused else hook(activation)

    def freeze(tokens: Tensor) -> None:
        nonlocal paused
        paused, patterns = True, dict[int, Tensor]()
        layers = range(shape(knockout.model).n_layers)
        try:
            with (
                running(knockout.model),
                installed(knockout.model, keep("pattern", layers, into=patterns)),
            ):
                knockout.model(tokens)
        finally:
            paused = False
        knockout.freeze(patterns)

    hooks = [(name, unless_paused(hook)) for name, hook in knockout.hooks()]
    with installed(knockout.model, hooks), before_forward(knockout.model, freeze):
        yield
