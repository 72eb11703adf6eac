"""Scores from attention patterns: how much of its attention a head puts where it should.

1. A detector lists, for every query position, the keys that a perfect head would attend to: its
   targets (`AttentionDetector`).
2. A query counts when it has at least one target.
3. The score is the attention on targets: summed over keys, averaged over the queries that count.

`TargetMass` sums the attention on targets that `models.Attention` gives: off the model's patterns,
or from queries and keys, with no pattern in memory.

A perfect head scores 1, a head that rests on BOS scores 0. The targets of induction are the "prefix
matching" of Olsson et al. 2022 ("Head activation evaluators"): the token after *every* earlier
occurrence of the current token.

What the scores leave out: what the head does with what it attends to (see `copying`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens.detectors.detector import AttentionDetector
from induction_lens.detectors.measure import ratio_and_error
from induction_lens.detectors.registry import attention_detector
from induction_lens.heads import HeadScores
from induction_lens.metrics import batches
from induction_lens.models import (
    Attention,
    HookFunction,
    Model,
    PatternAttention,
    Run,
    Targets,
    device_of,
    hook_name,
    shape,
)


def target_mask(
    tokens: Int[Tensor, "batch pos"], detector: AttentionDetector | str
) -> Bool[Tensor, "batch query_pos key_pos"]:
    """The keys that a perfect head attends to, for every query. Position 0 is BOS, never a target.

    - `previous_token`: the key `q - 1`, for queries `q >= 2` (at `q = 1` the previous token is BOS,
      where idle heads rest).
    - `induction`: every key `k <= q` whose previous token is the current one,
      `x[k - 1] == x[q]`, `k - 1 >= 1`.
    - `duplicate_token`: every key `k < q` with the current token, `x[k] == x[q]`, `k >= 1`.

    Args:
        tokens: Ids, with BOS at position 0.
        detector: One of these names, or a detector of your own.

    Raises:
        ValueError: For another name, tokens that are no table of ids, or a detector whose targets
            are not keys that a query sees.

    Examples:
        >>> import torch
        >>> tokens = torch.tensor([[0, 5, 6, 7, 5, 6]])
        >>> il.detectors.target_mask(tokens, "induction").nonzero().tolist()
        [[0, 4, 2], [0, 5, 3]]
    """
    return attention_detector(detector).mask(tokens)


class TargetMass:
    """Reduces every layer's attention to what falls on a detector's targets."""

    def __init__(
        self,
        model: Model,
        marked: Int[Tensor, "batch pos"],
        detectors: Sequence[AttentionDetector | str],
    ) -> None:
        """Measure these detectors, by name or as they are, with the targets of `marked` tokens."""
        self._shape = shape(model)
        self._marked = marked
        self._detectors = {one.name: one for one in map(attention_detector, detectors)}
        n_rows = len(marked)
        self._mass = self._zeros(self._shape.n_layers, self._shape.n_heads, n_rows)
        self._queries = self._zeros(n_rows)
        self._uniform = self._zeros(n_rows)
        self._targets: dict[str, Targets] = {}
        self._rows = slice(0, 0)

    def _zeros(self, *sizes: int) -> dict[str, Tensor]:
        """A table of sums for each detector."""
        zeros = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        return {name: zeros.clone() for name in self._detectors}

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
                self.look(layer, PatternAttention(pattern))

            return hook

        return [(hook_name("pattern", layer), on(layer)) for layer in range(self._shape.n_layers)]

    def begin(self, tokens: Int[Tensor, "batch pos"], rows: slice) -> None:
        """Find the targets of one batch: these rows of the whole."""
        marked = self._marked[rows].to(tokens.device)
        self._rows = rows
        self._targets = {name: one.find(marked) for name, one in self._detectors.items()}
        for name, (row, query, _) in self._targets.items():
            n_rows, n_pos = marked.shape
            counted = torch.unique(row * n_pos + query) // n_pos
            self._queries[name][rows] = torch.bincount(counted, minlength=n_rows).double().cpu()
            share = 1 / (query + 1).double()  # of each key that the query sees
            self._uniform[name][rows] = share.new_zeros(n_rows).index_add_(0, row, share).cpu()

    def _add(self, layer: int, name: str, row: Tensor, attention: Float[Tensor, "_ head"]) -> None:
        """Count the attention on some targets."""
        n_rows, n_heads = self._rows.stop - self._rows.start, attention.shape[1]
        total = attention.new_zeros(n_rows * n_heads, dtype=torch.float64)
        cell = row[:, None] * n_heads + torch.arange(n_heads, device=row.device)
        # flat, because whole rows are added one by one, each by a call of its own
        total.index_add_(0, cell.flatten(), attention.double().flatten())
        self._mass[name][layer, :, self._rows] += total.view(n_rows, n_heads).T.cpu()

    def look(self, layer: int, attention: Attention) -> None:
        """Count a layer's attention on the targets of the batch."""
        names = list(self._targets)
        for index, row, on_targets in attention.on(list(self._targets.values())):
            self._add(layer, names[index], row, on_targets)

    def finish(self, rows: slice) -> None:
        """Nothing is left to do after the pass."""

    def join(self, other: TargetMass) -> TargetMass:
        """Add what was measured on more sequences, which may be of another length."""
        for ours, theirs in (
            (self._mass, other._mass),
            (self._queries, other._queries),
            (self._uniform, other._uniform),
        ):
            for name, values in theirs.items():
                ours[name] = torch.cat([ours[name], values], dim=-1)
        return self

    def by_sequence(self, detector: str) -> Float[Tensor, "layer head batch"]:
        """Every head's score on each sequence alone; 0 where no query of it counts."""
        return (self._mass[detector] / self._queries[detector].clamp(min=1)).float()

    def scores(self, detector: str, *, null: TargetMass | None) -> HeadScores:
        """The scores of one detector, by name.

        `null` is the same measure on the same sequences in random order, with the targets left in
        place. So both are over the same queries, and the error of their difference is that of the
        differences of sequences.
        """
        mass, queries = self._mass[detector], self._queries[detector]
        values, sem = ratio_and_error(mass, queries)
        n_sequences = int((queries > 0).sum())
        chance, over_null_sem = None, None
        if null is not None:
            on_shuffled = null._mass[detector]
            chance = ratio_and_error(on_shuffled, queries)[0].float()
            over_null_sem = ratio_and_error(mass - on_shuffled, queries)[1].float()
        return HeadScores(
            name=detector,
            values=values.float(),
            unit=self._detectors[detector].unit,
            ceiling=1.0,
            uniform=float(self._uniform[detector].sum()) / max(float(queries.sum()), 1.0),
            null=chance,
            sem=sem.float(),
            over_null_sem=over_null_sem,
            n_sequences=n_sequences or None,
        )


def measure_attention(
    run: Run,
    tokens: Int[Tensor, "batch pos"],
    masses: Sequence[TargetMass],
    *,
    batch_size: int | None = None,
    progress: str | None = None,
) -> None:
    """Run a model once over some tokens, and let every mass look at its attention.

    Args:
        run: The model, ready to run on sequences of this length.
        tokens: The sequences, checked.
        masses: What to measure.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Title of a progress bar.
    """

    def look(layer: int, attention: Attention) -> None:
        for mass in masses:
            mass.look(layer, attention)

    size = run.batch_size(tokens.shape[1]) if batch_size is None else batch_size
    for rows in batches(len(tokens), size, progress=progress):
        batch = tokens[rows].to(device_of(run.model))
        for mass in masses:
            mass.begin(batch, rows)
        run.attention(batch, look)
