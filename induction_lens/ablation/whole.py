"""Ablations on a model that runs its own code, with hooks (`models.Whole`)."""

from __future__ import annotations

from induction_lens.ablation.hooks import CleanAttention
from induction_lens.ablation.passes import Batch, Passes, passes
from induction_lens.models import Whole, installed


@passes.register
def _(run: Whole, batch: Batch) -> Passes:
    attention = CleanAttention()
    freezes = any(ablation.freezes for ablation in batch.ablations)
    layers = range(run.n_layers) if freezes else ()
    with installed(run.model, attention.hooks(layers)):
        clean = run.losses(batch.tokens, batch.read)
    attention.check()
    yield [0], clean[None]
    for index, (ablation, positions) in enumerate(zip(batch.ablations, batch.wanted, strict=True)):
        ablation.freeze(attention.patterns)
        with ablation.watching(), installed(run.model, ablation.hooks(batch.rows)):
            after = run.losses(batch.tokens, positions)
        yield [index + 1], after[None]
