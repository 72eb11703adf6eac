"""The passes of one batch, clean and with each of several ablations, on either road.

Each kind of `Run` has an implementation of its own: `layerwise` shares what ablations share,
`whole` runs each with hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch

from jaxtyping import Float
from torch import Tensor

from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.outputs import Rows
from induction_lens.models import Run

Passes = Iterator[tuple[list[int], Float[Tensor, "job batch read_pos"]]]
"""Indices into what is measured (0 is clean, ablation `i` is at `i + 1`), and losses in nats."""


@singledispatch
def passes(
    run: Run,
    ablations: Sequence[Ablation],
    wanted: Sequence[list[int]],
    batch: Tensor,
    rows: Rows,
    *,
    known: Mapping[int, Tensor],
    read: list[int],
) -> Passes:
    """Losses of a batch, clean and after each ablation.

    Args:
        run: The model.
        ablations: The ablations.
        wanted: For each, the positions of the tokens whose losses are read, in order.
        batch: The tokens, [batch pos].
        rows: Which rows of the whole set they are.
        known: By layer, the clean outputs of all heads on the whole set, where they are known.
        read: The positions of the tokens whose clean losses are read, in order: all that any
            ablation reads are among them.

    Yields:
        The clean losses; then those of each ablation at its
        own, one or several at a time.
    """
    raise NotImplementedError(f"ablations on a {type(run).__name__}")
