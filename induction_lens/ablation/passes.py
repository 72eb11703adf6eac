"""The passes of one batch, clean and with each of several ablations, on either road.

Each kind of `Run` has an implementation of its own: `layerwise` shares what ablations share,
`whole` runs each with hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.hooks import Ablation
from induction_lens.models import Run

Passes = Iterator[tuple[list[int], Float[Tensor, "job batch read_pos"]]]
"""Indices into what is measured (0 is clean, ablation `i` is at `i + 1`), and losses in nats."""


@dataclass(frozen=True)
class Batch:
    """Sequences of one length, and what is measured on them."""

    tokens: Int[Tensor, "batch pos"]
    """The sequences."""
    rows: Int[Tensor, " batch"]
    """Which rows of the whole set they are."""
    ablations: Sequence[Ablation]
    """The ablations."""
    wanted: Sequence[list[int]]
    """For each, the positions of the tokens whose losses are read, in order."""
    read: list[int]
    """The positions of the tokens whose clean losses are read, in order: all that any ablation
    reads are among them."""
    known: Mapping[int, Float[Tensor, "sequence longest head d_head"]]
    """By layer, the clean outputs of all heads on the whole set, where they are known."""

    def part(self, some: slice, device: torch.device) -> Batch:
        """Some of the sequences, on a device."""
        return replace(self, tokens=self.tokens[some].to(device), rows=self.rows[some])

    def only(self, chosen: Sequence[int], read: list[int]) -> Batch:
        """With some of the ablations, and clean losses at `read`."""
        ablations = [self.ablations[index] for index in chosen]
        wanted = [self.wanted[index] for index in chosen]
        return replace(self, ablations=ablations, wanted=wanted, read=read)


@singledispatch
def passes(run: Run, batch: Batch) -> Passes:
    """Losses of a batch, clean and after each ablation.

    Args:
        run: The model.
        batch: The batch.

    Yields:
        The clean losses at `batch.read`; then those of each ablation at its own positions, one or
        several at a time.
    """
    raise NotImplementedError(f"ablations on a {type(run).__name__}")
