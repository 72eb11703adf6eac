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
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.outputs import Rows
from induction_lens.ablation.passes import Passes, passes
from induction_lens.models import Model, Run, has_bfloat16, rounded, shape

MOST_ROUNDED = 0.05
"""Mean absolute change of a token's clean loss, in nats: bfloat16 holds two to three digits."""
_LOGGER = logging.getLogger("induction_lens")


def compares_in_bfloat16(model: Model) -> bool:
    """Whether what a tested set is compared with is run in bfloat16: of large models that gain by
    it."""
    return shape(model).is_large and has_bfloat16(model)


def mixed_passes(
    run: Run,
    ablations: Sequence[Ablation],
    wanted: Sequence[list[int]],
    batch: Tensor,
    rows: Rows,
    *,
    known: Mapping[int, Tensor],
    rough: Sequence[bool],
) -> Passes:
    """Like `passes`, some of the ablations in bfloat16.

    Args:
        run: The model.
        ablations: The ablations.
        wanted: For each, the positions of the tokens whose losses are read, in order.
        batch: The tokens, [batch pos].
        rows: Which rows of the whole set they are.
        known: By layer, the clean outputs of all heads on the whole set, where they are known.
        rough: For each, whether it is run in bfloat16.
    """
    everywhere = sorted({position for positions in wanted for position in positions})
    exact = [index for index, is_rough in enumerate(rough) if not is_rough]
    others = [index for index, is_rough in enumerate(rough) if is_rough]
    options = {"batch": batch, "rows": rows, "known": known}
    clean = None
    for indices, loss in _some(run, ablations, wanted, exact, read=everywhere, **options):
        clean = loss if clean is None else clean
        yield indices, loss
    if not others:
        return
    assert clean is not None
    place = {position: index for index, position in enumerate(everywhere)}
    read = sorted({position for index in others for position in wanted[index]})
    shift: dict[int, Tensor] = {}
    for indices, loss in _rounded(run, _some(run, ablations, wanted, others, read=read, **options)):
        if not shift:  # the clean pass
            moved = clean[0][:, [place[position] for position in read]] - loss[0]
            if not float(moved.abs().mean()) <= MOST_ROUNDED:
                break
            shift = {position: moved[:, index] for index, position in enumerate(read)}
            continue
        positions = wanted[indices[0] - 1]  # those that go together are read alike
        yield indices, loss + torch.stack([shift[position] for position in positions], dim=1)
    if not shift:
        _LOGGER.info(
            "run in float32, because bfloat16 moves losses by over %.2g nats", MOST_ROUNDED
        )
        together = _some(run, ablations, wanted, others, read=read, **options)
        yield from (item for item in together if item[0] != [0])


def _rounded(run: Run, found: Passes) -> Passes:
    """The same passes in bfloat16. Nothing is between passes: whoever reads them may stop there."""
    while True:
        with rounded(run.model):
            item = next(found, None)
        if item is None:
            return
        yield item


def _some(
    run: Run,
    ablations: Sequence[Ablation],
    wanted: Sequence[list[int]],
    chosen: Sequence[int],
    *,
    read: list[int],
    batch: Tensor,
    rows: Rows,
    known: Mapping[int, Tensor],
) -> Passes:
    """The clean pass, and those of the chosen ablations, by their places among all."""
    of_chosen = ([ablations[index] for index in chosen], [wanted[index] for index in chosen])
    for indices, loss in passes(run, *of_chosen, batch, rows, known=known, read=read):
        yield [0 if index == 0 else 1 + chosen[index - 1] for index in indices], loss
