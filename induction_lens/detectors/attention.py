"""Scores from attention patterns: how much of its attention a head puts where it should.

1. A detector marks, for every query position, the keys that a perfect head would attend to
   (`target_mask`).
2. A query counts when at least one key is marked.
3. The score is the attention on marked keys: summed over keys, averaged over the queries that
   count.

A perfect head scores 1, a head that rests on BOS scores 0. The marks of the induction detector are
the "prefix matching" of Olsson et al. 2022 ("Head activation evaluators"): the token after *every*
earlier occurrence of the current token.

What the scores leave out: what the head does with what it attends to (see `copying`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens.detectors.measure import ratio_and_error
from induction_lens.heads import HeadScores
from induction_lens.models import HookFunction, Model, hook_name, shape

AttentionDetector = Literal["previous_token", "induction", "duplicate_token"]


def target_mask(
    tokens: Int[Tensor, "batch pos"], detector: AttentionDetector
) -> Bool[Tensor, "batch query_pos key_pos"]:
    """The keys that a perfect head attends to, for every query. Position 0 is BOS, never a target.

    - `previous_token`: the key `q - 1`, for queries `q >= 2` (at `q = 1` the previous token is BOS,
      where idle heads rest).
    - `induction`: every key `k <= q` whose previous token is the current one,
      `x[k - 1] == x[q]`, `k - 1 >= 1`.
    - `duplicate_token`: every key `k < q` with the current token, `x[k] == x[q]`, `k >= 1`.
    """
    n = tokens.shape[1]
    query = torch.arange(n, device=tokens.device)[:, None]
    key = torch.arange(n, device=tokens.device)[None, :]
    if detector == "previous_token":
        return ((key == query - 1) & (key >= 1)).expand(len(tokens), n, n)
    # same[b, q, k]: the token at k is the one at q
    same = tokens[:, :, None] == tokens[:, None, :]
    if detector == "duplicate_token":
        return same & (key < query) & (key >= 1)
    follows = torch.zeros_like(same)
    follows[:, :, 1:] = same[:, :, :-1]  # the token at k - 1 is the one at q
    return follows & (key <= query) & (key >= 2)


class TargetMass:
    """Reduces every layer's pattern to the attention on a detector's targets, inside the hook."""

    def __init__(
        self,
        model: Model,
        marked: Int[Tensor, "batch pos"],
        detectors: Sequence[AttentionDetector],
    ) -> None:
        """Measure these detectors, with targets marked on the tokens `marked`."""
        self._shape = shape(model)
        self._marked, self._detectors = marked, detectors
        sizes = (self._shape.n_layers, self._shape.n_heads, len(marked))
        self._mass = {name: torch.zeros(sizes, dtype=torch.float64) for name in detectors}
        self._queries = {name: torch.zeros(len(marked), dtype=torch.float64) for name in detectors}
        self._uniform = {name: torch.zeros(len(marked), dtype=torch.float64) for name in detectors}

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        """One hook on each layer's pattern."""
        marked = self._marked[rows].to(tokens.device)
        masks = {name: target_mask(marked, name) for name in self._detectors}
        visible = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        for name, mask in masks.items():
            self._queries[name][rows] = mask.any(-1).sum(-1).double().cpu()
            self._uniform[name][rows] = (mask.sum(-1) / visible).sum(-1).double().cpu()
        weights = {name: mask.float() for name, mask in masks.items()}

        def on(layer: int) -> HookFunction:
            def hook(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
                for name, weight in weights.items():
                    mass = torch.einsum("bhqk,bqk->hb", pattern.float(), weight)
                    self._mass[name][layer, :, rows] = mass.double().cpu()

            return hook

        return [(hook_name("pattern", layer), on(layer)) for layer in range(self._shape.n_layers)]

    def finish(self, rows: slice) -> None:
        """Nothing is left to do after the pass."""

    def scores(self, detector: AttentionDetector, *, null: TargetMass | None) -> HeadScores:
        """The scores of one detector; `null` is the same measure on shuffled tokens."""
        values, sem = ratio_and_error(self._mass[detector], self._queries[detector])
        bound = None
        if null is not None:
            chance, chance_sem = ratio_and_error(null._mass[detector], null._queries[detector])
            bound = (chance + 1.96 * chance_sem).float()
        queries = float(self._queries[detector].sum())
        return HeadScores(
            name=detector,
            values=values.float(),
            unit="attention",
            ceiling=1.0,
            uniform=float(self._uniform[detector].sum()) / max(queries, 1.0),
            null=bound,
            sem=sem.float(),
        )
