"""Scores from attention patterns: how much of its attention a head puts where it should.

1. A detector marks, for every query position, the keys that a perfect head would attend to
   (`target_mask`).
2. A query counts when at least one key is marked.
3. The score is the attention on marked keys: summed over keys, averaged over the queries that
   count.

`TargetMass` reads the attention either off the model's patterns, inside hooks, or, without a
pattern in memory, from queries and keys: `exp(q·k - total)`, where `total` is the logarithm of what
the softmax divides by. Fused attention gives the totals; where it does not, they come from all
scores, one block of queries at a time.

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
from induction_lens.models import AttentionInputs, HookFunction, Model, hook_name, shape

AttentionDetector = Literal["previous_token", "induction", "duplicate_token"]
# Numbers in memory at a time, scores or coordinates. On a CPU 8 MiB took 1.1 times as long as 2; an
# H200 took 31 times as long as with patterns, in blocks as small.
_BLOCK, _BLOCK_ELSEWHERE = 2**19, 2**26


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


Targets = tuple[Int[Tensor, " target"], Int[Tensor, " target"], Int[Tensor, " target"]]


def targets(tokens: Int[Tensor, "batch pos"], detector: AttentionDetector) -> Targets:
    """The marks of `target_mask` as a list: rows, queries and keys, without a mask in memory.

    For `induction` and `duplicate_token` they come from pairs of equal tokens: a token at `i` and
    again at `q` makes the key `i` a duplicate, and the key `i + 1` one that follows.
    """
    n_rows, n_pos = tokens.shape
    if detector == "previous_token":
        row = torch.arange(n_rows, device=tokens.device).repeat_interleave(max(n_pos - 2, 0))
        query = torch.arange(2, max(n_pos, 2), device=tokens.device).repeat(n_rows)
        return row, query, query - 1
    row, earlier, query = _equal_pairs(tokens)
    return row, query, earlier if detector == "duplicate_token" else earlier + 1


def _equal_pairs(tokens: Tensor) -> Targets:
    """Every pair of positions 1 <= i < q of a row with equal tokens: rows, `i` and `q`."""
    n_rows, n_pos = tokens.shape
    rows = torch.arange(n_rows, device=tokens.device)[:, None]
    keys = (tokens[:, 1:] + rows * (int(tokens.max()) + 1)).flatten()  # equal in a row alone
    order = keys.argsort(stable=True)  # equal ones lie together, in the order of their positions
    ordered = keys[order]
    place = torch.arange(len(ordered), device=tokens.device)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = torch.where(new, place, 0).cummax(0).values
    n_before = place - first  # how many equal tokens come before, each of which makes a pair
    later = place.repeat_interleave(n_before)
    nth = torch.arange(len(later), device=tokens.device)
    nth = nth - (n_before.cumsum(0) - n_before).repeat_interleave(n_before)
    earlier = order[first[later] + nth]
    query = order[later]
    width = n_pos - 1
    return query // width, earlier % width + 1, query % width + 1


class TargetMass:
    """Reduces every layer's attention to what falls on a detector's targets."""

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
        self._targets: dict[AttentionDetector, Targets] = {}
        self._rows = slice(0, 0)

    @property
    def last_hook(self) -> str:
        """Nothing after the last layer's pattern is looked at."""
        return hook_name("pattern", self._shape.n_layers - 1)

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        """One hook on each layer's pattern."""
        self.begin(tokens, rows)

        def on(layer: int) -> HookFunction:
            def hook(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
                for name, (row, query, key) in self._targets.items():
                    self._add(layer, name, row, pattern[row, :, query, key])

            return hook

        return [(hook_name("pattern", layer), on(layer)) for layer in range(self._shape.n_layers)]

    def begin(self, tokens: Int[Tensor, "batch pos"], rows: slice) -> None:
        """Find the targets of one batch: these rows of the whole."""
        marked = self._marked[rows].to(tokens.device)
        self._rows = rows
        self._targets = {name: targets(marked, name) for name in self._detectors}
        for name, (row, query, _) in self._targets.items():
            n_rows, n_pos = marked.shape
            counted = torch.unique(row * n_pos + query) // n_pos
            self._queries[name][rows] = torch.bincount(counted, minlength=n_rows).double().cpu()
            share = 1 / (query + 1).double()  # of each key that the query sees
            self._uniform[name][rows] = share.new_zeros(n_rows).index_add_(0, row, share).cpu()

    def _add(
        self, layer: int, name: AttentionDetector, row: Tensor, attention: Float[Tensor, "_ head"]
    ) -> None:
        """Count the attention on some targets."""
        n_rows, n_heads = self._rows.stop - self._rows.start, attention.shape[1]
        total = attention.new_zeros(n_rows * n_heads, dtype=torch.float64)
        cell = row[:, None] * n_heads + torch.arange(n_heads, device=row.device)
        # flat, because whole rows are added one by one, each by a call of its own
        total.index_add_(0, cell.flatten(), attention.double().flatten())
        self._mass[name][layer, :, self._rows] += total.view(n_rows, n_heads).T.cpu()

    def look(
        self,
        layer: int,
        inputs: AttentionInputs,
        totals: Float[Tensor, "batch head query_pos"] | None,
        *,
        scale: float,
    ) -> None:
        """Count a layer's attention on targets from its queries and keys; `totals`: what the
        scores of each query come to, by `logsumexp`, where that is known."""
        if totals is None:
            self._look_at_all(layer, inputs.for_each_head(), scale=scale)
        else:
            self._look_at_targets(layer, inputs.for_each_head(), totals, scale=scale)

    def _look_at_targets(
        self, layer: int, inputs: AttentionInputs, totals: Tensor, *, scale: float
    ) -> None:
        """Scores of the targets alone, in blocks of targets."""
        n_pos, n_heads, d_head = inputs.query.shape[1:]
        queries, keys = (x.flatten(0, 1) for x in (inputs.query, inputs.key))
        total_of = totals.transpose(1, 2).flatten(0, 1)
        size = max(1, _block(keys) // (n_heads * d_head))
        for name, marked in self._targets.items():
            for row, query, key in zip(*(part.split(size) for part in marked), strict=True):
                at = row * n_pos + query
                product = queries.index_select(0, at)
                product *= keys.index_select(0, row * n_pos + key)
                scores = product.sum(-1) * scale
                self._add(layer, name, row, (scores - total_of.index_select(0, at)).exp())

    def _look_at_all(self, layer: int, inputs: AttentionInputs, *, scale: float) -> None:
        """All scores, in blocks of queries."""
        n_rows, n_pos, n_heads, _ = inputs.query.shape
        keys = inputs.key.permute(0, 2, 3, 1).float()
        size = max(1, _block(keys) // (n_rows * n_heads * n_pos))
        for start in range(0, n_pos, size):
            stop = min(start + size, n_pos)
            block = inputs.query[:, start:stop].transpose(1, 2).float() * scale
            scores = block @ keys[..., :stop]
            future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=keys.device)
            scores[..., start:].masked_fill_(future.triu(1), -torch.inf)
            total = scores.logsumexp(-1)
            for name, (row, query, key) in self._targets.items():
                inside = (start <= query) & (query < stop)
                at, q, k = row[inside], query[inside] - start, key[inside]
                self._add(layer, name, at, (scores[at, :, q, k] - total[at, :, q]).exp())

    def finish(self, rows: slice) -> None:
        """Nothing is left to do after the pass."""

    def by_sequence(self, detector: AttentionDetector) -> Float[Tensor, "layer head batch"]:
        """The score of every head on each sequence alone; 0 where no query of it counts."""
        return (self._mass[detector] / self._queries[detector].clamp(min=1)).float()

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


def _block(x: Tensor) -> int:
    """How many numbers to have in memory at a time, where `x` is."""
    return _BLOCK if x.device.type == "cpu" else _BLOCK_ELSEWHERE
