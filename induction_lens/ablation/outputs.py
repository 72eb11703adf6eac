"""What heads usually put out: their clean outputs `z` on a reference set, for others to borrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.metrics import batches
from induction_lens.models import (
    Model,
    Sequences,
    Tokens,
    device_of,
    run,
    sequences_of,
    shape,
)

# What outputs of all heads may take to be kept: the clean pass is then spared its attention.
_WHOLE_BYTES = 2**28
ByLayer = Mapping[int, list[int]]
Rows = slice | Int[Tensor, " row"]
"""Which rows of a whole set of sequences a batch holds."""


def by_layer(heads: Iterable[Head]) -> dict[int, list[int]]:
    """Head indices per layer."""
    grouped: dict[int, list[int]] = {}
    for head in sorted(heads):
        grouped.setdefault(head.layer, []).append(head.head)
    return grouped


@dataclass(frozen=True)
class Outputs:
    """Clean outputs `z` of some heads on a set of sequences."""

    heads: ByLayer
    """Whose: head indices by layer."""
    means: Mapping[int, Float[Tensor, "pos head d_head"]]
    """By layer: their mean over sequences at every position."""
    counts: Int[Tensor, " pos"]
    """Sequences that reach each position."""
    each: Mapping[int, Float[Tensor, "batch pos head d_head"]]
    """By layer: those of every sequence, where they were kept."""
    whole: Mapping[int, Float[Tensor, "batch pos all_heads d_head"]]
    """By layer: those of all heads of the model, not only of `heads`, where they were kept."""

    def of(self, heads: ByLayer, *, each: bool = True) -> Outputs:
        """The same for fewer heads; `each`: with those of every sequence, which are copied."""
        index = {n: [self.heads[n].index(head) for head in chosen] for n, chosen in heads.items()}
        return Outputs(
            heads,
            {layer: self.means[layer][:, chosen] for layer, chosen in index.items()},
            self.counts,
            {n: self.each[n][:, :, i] for n, i in index.items() if each and n in self.each},
            self.whole,
        )

    @cached_property
    def overall(self) -> dict[int, Float[Tensor, "head d_head"]]:
        """By layer: the mean over all sequences and positions."""
        counts = self.counts.double()[:, None, None]
        shares = counts / counts.sum()
        return {n: (mean.double() * shares).sum(0).float() for n, mean in self.means.items()}

    def mean_at(
        self, layer: int, positions: Sequence[int]
    ) -> Float[Tensor, "read_pos head d_head"]:
        """The mean over sequences at some positions.

        Raises:
            ValueError: If no sequence of the reference reaches one of them.
        """
        means = self.means[layer]
        if positions[-1] >= len(means):
            raise ValueError(
                f"expected sequences of at most {len(means)} tokens, the reference's, to have a "
                f"mean at every position, got {positions[-1] + 1}; pass a longer reference"
            )
        return means[list(positions)]

    def of_other_sequences(
        self, layer: int, rows: Rows, positions: Sequence[int], *, seed: int
    ) -> Float[Tensor, "row read_pos head d_head"]:
        """For each row, the outputs on another sequence of the reference, at the same positions.

        Raises:
            ValueError: If the reference has fewer rows or positions.
        """
        each = self.each[layer]
        n, length = each.shape[:2]
        n_rows = rows.stop if isinstance(rows, slice) else int(rows.max()) + 1
        if n_rows > n or positions[-1] >= length:
            raise ValueError(
                f"expected at most {n} sequences of {length} tokens, as in the reference, got "
                f"{n_rows} of {positions[-1] + 1}; pass a larger reference"
            )
        return each[other_rows(n, seed=seed)[rows]][:, list(positions)]


NO_OUTPUTS = Outputs({}, {}, torch.zeros(0, dtype=torch.long, device="cpu"), {}, {})
"""Of methods that borrow nothing."""


def other_rows(n: int, *, seed: int) -> Int[Tensor, " batch"]:
    """A random permutation of `range(n)` that leaves no index in place (a random cycle).

    Raises:
        ValueError: If there are fewer than two.
    """
    if n < 2:
        raise ValueError(
            f"expected at least two reference sequences to resample from, got {n}; pass a larger "
            "reference"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
    donors = torch.empty_like(order)
    donors[order] = order.roll(1)
    return donors


def keep_outputs(
    model: Model,
    heads: ByLayer,
    reference: Tokens | Sequences,
    *,
    each: bool,
    whole: bool = False,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Outputs:
    """The clean outputs `z` of some heads on a set of sequences, on the CPU.

    Args:
        model: A hooked model.
        heads: Head indices by layer.
        reference: The sequences.
        each: Keep those of every sequence too, not only their mean.
        whole: Keep those of all heads up to the last layer too, where the model can be run layer
            by layer and they fit a memory budget, on the model's device.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Title of a progress bar.

    Raises:
        ValueError: If the sequences do not fit the model, or those of every sequence are wanted and
            sequences differ in length.
    """
    sequences = sequences_of(model, reference)
    if each:
        sequences.one_length("resample ablation")
    whole = whole and len(sequences.lengths.unique()) == 1
    kept: dict[int, list[Tensor]] = {layer: [] for layer in heads}
    sums: dict[int, Tensor] = {}
    all_heads: dict[int, list[Tensor]] = {}
    sizes = shape(model)
    counts = torch.zeros(sequences.longest, dtype=torch.long, device="cpu")
    n_bytes = 4 * sequences.tokens.numel() * (max(heads) + 1) * sizes.n_heads * sizes.d_head
    for _, tokens in sequences.groups():
        n_pos = tokens.shape[1]
        counts[:n_pos] += len(tokens)
        with run(model, tokens[:1].to(device_of(model))) as road:
            size = road.batch_size(n_pos) if batch_size is None else batch_size
            for rows in batches(len(tokens), size, progress=progress):
                outputs = road.outputs(tokens[rows].to(device_of(model)), max(heads))
                for layer, chosen in heads.items():
                    z = outputs[layer][:, :, chosen]
                    part = z.sum(0).double().cpu()
                    total = sums.setdefault(layer, part.new_zeros(len(counts), *part.shape[1:]))
                    total[:n_pos] += part
                    if each:
                        kept[layer].append(z.cpu())
                if whole and road.takes_known_outputs and n_bytes <= _WHOLE_BYTES:
                    for layer, z in outputs.items():
                        all_heads.setdefault(layer, []).append(z)
    means = {layer: (total / counts[:, None, None]).float() for layer, total in sums.items()}
    return Outputs(heads, means, counts, _joined(kept), _joined(all_heads))


def _joined(parts: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    return {layer: torch.cat(pieces) for layer, pieces in parts.items() if pieces}
