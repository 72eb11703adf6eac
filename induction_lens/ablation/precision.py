"""Passes of which some are run in bfloat16, where that is faster and its errors cancel.

An effect is a difference of two losses of the same token. Where an ablation is run in bfloat16, so
is a clean pass beside it, and the change between the two is added to the clean loss in float32.
What rounding does to every token alike is gone from the change then; what it does at random is
noise that the change's interval knows, because the interval is made from such changes. On the toys
changes differ by 0.003 nats at most from those in float32, a quarter of their standard errors.

Norms, the residual stream, logits and losses stay in float32: products with weights and attention
are what is rounded (`torch.autocast`). A model whose clean losses are moved by more than
`MOST_ROUNDED` nats is run in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from induction_lens.ablation.passes import Batch, Passes, passes
from induction_lens.models import Model, Run, has_bfloat16, rounded, shape

MOST_ROUNDED = 0.05
"""Mean absolute change of a token's clean loss, in nats: bfloat16 holds two to three digits."""
_LOGGER = logging.getLogger("induction_lens")


def compares_in_bfloat16(model: Model) -> bool:
    """Whether what a tested set is compared with is run in bfloat16: of large models that gain by
    it."""
    return shape(model).is_large and has_bfloat16(model)


def mixed_passes(run: Run, batch: Batch, *, rough: Sequence[bool]) -> Passes:
    """Like `passes`, some of the ablations in bfloat16.

    Args:
        run: The model.
        batch: The batch.
        rough: For each of its ablations, whether it is run in bfloat16.
    """
    exact = [index for index, is_rough in enumerate(rough) if not is_rough]
    others = [index for index, is_rough in enumerate(rough) if is_rough]
    clean = None
    for indices, loss in _some(run, batch, exact, read=batch.read):
        clean = loss if clean is None else clean
        yield indices, loss
    if not others:
        return
    assert clean is not None
    place = {position: index for index, position in enumerate(batch.read)}
    read = sorted({position for index in others for position in batch.wanted[index]})
    shift: dict[int, Tensor] = {}
    for indices, loss in _rounded(run, _some(run, batch, others, read=read)):
        if not shift:  # the clean pass
            moved = clean[0][:, [place[position] for position in read]] - loss[0]
            if not float(moved.abs().mean()) <= MOST_ROUNDED:
                break
            shift = {position: moved[:, index] for index, position in enumerate(read)}
            continue
        positions = batch.wanted[indices[0] - 1]  # those that go together are read alike
        yield indices, loss + torch.stack([shift[position] for position in positions], dim=1)
    if not shift:
        _LOGGER.info(
            "run in float32, because bfloat16 moves losses by over %.2g nats", MOST_ROUNDED
        )
        yield from (item for item in _some(run, batch, others, read=read) if item[0] != [0])


def _rounded(run: Run, found: Passes) -> Passes:
    """The same passes in bfloat16. Nothing is between passes: whoever reads them may stop there."""
    while True:
        with rounded(run.model):
            item = next(found, None)
        if item is None:
            return
        yield item


def _some(run: Run, batch: Batch, chosen: Sequence[int], *, read: list[int]) -> Passes:
    """The clean pass, and those of the chosen ablations, by their places among all."""
    for indices, loss in passes(run, batch.only(chosen, read)):
        yield [0 if index == 0 else 1 + chosen[index - 1] for index in indices], loss
