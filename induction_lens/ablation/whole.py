"""Ablations on a model that runs its own code, with hooks (`models.Whole`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from induction_lens.ablation.hooks import Ablation, CleanAttention
from induction_lens.ablation.outputs import Rows
from induction_lens.ablation.passes import Passes, passes
from induction_lens.models import Whole, installed


@passes.register
def _(
    run: Whole,
    ablations: Sequence[Ablation],
    wanted: Sequence[list[int]],
    batch: Tensor,
    rows: Rows,
    *,
    known: Mapping[int, Tensor],
    read: list[int],
) -> Passes:
    del known  # the model's own code computes every layer
    attention = CleanAttention()
    freezes = any(ablation.freezes for ablation in ablations)
    layers = range(run.n_layers) if freezes else ()
    with installed(run.model, attention.hooks(layers)):
        clean = run.losses(batch, read)
    attention.check()
    yield [0], clean[None]
    for index, (ablation, positions) in enumerate(zip(ablations, wanted, strict=True)):
        ablation.freeze(attention.patterns)
        with ablation.watching(), installed(run.model, ablation.hooks(rows)):
            after = run.losses(batch, positions)
        yield [index + 1], after[None]
