"""Attention on keys that are listed for each query, beside other keys as a control.

For detectors whose targets no function of the tokens gives: words that translate others, lines of
the same kind. The score of a head is the attention on a query's keys, summed over keys, averaged
over queries. Its null is the same on the control's keys, as if there were as many of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors.measure import ratio_and_error
from induction_lens.heads import HeadScores
from induction_lens.metrics import batches
from induction_lens.models import Attention, Model, Sequences, device_of, run, shape
from induction_lens.progress import progress_bar

_KEYS, _OTHERS = 0, 1


@dataclass(frozen=True)
class Aim:
    """Where a head that does the task would attend from one position."""

    query: int
    """The position that is read."""
    keys: tuple[int, ...]
    """The positions that ought to be attended to."""
    others: tuple[int, ...]
    """The control: positions that ought not to be."""


def attention_on_aims(
    model: Model,
    sequences: Sequences,
    aims: Sequence[Sequence[Aim]],
    *,
    name: str,
    progress: str | None = None,
) -> HeadScores:
    """How much every head attends to what it is to attend to.

    `uniform` is what even attention scores. Errors are over sequences; `null` and the error of what
    exceeds it are of the same queries.

    Args:
        model: A hooked model.
        sequences: What it reads.
        aims: Of each sequence: its queries with their keys. Every query needs both kinds.
        name: The name of the scores.
        progress: Title of a progress bar.

    Raises:
        ValueError: If there is no query, or a key is BOS, later than its query, or of both kinds.

    Examples:
        >>> from induction_lens.detectors.aimed import Aim
        >>> model = il.load("toy-2l-narrow")
        >>> tokens = il.repeated_random_tokens(model, n_tokens=20, n_repeats=2, n_sequences=8)
        >>> sequences = il.models.Sequences.unpadded(tokens)
        >>> aims = [[Aim(query, (query - 19,), (query - 18,)) for query in range(21, 40)]] * 8
        >>> scores = il.detectors.attention_on_aims(model, sequences, aims, name="next")
        >>> [str(head) for head in scores.above(0.3)]
        ['1.1']
    """
    _check(aims)
    sizes = shape(model)
    n_items = len(sequences)
    mass = torch.zeros(2, sizes.n_layers, sizes.n_heads, n_items, dtype=torch.float64, device="cpu")
    with progress_bar(progress, n_items) as done:
        for group, tokens in sequences.groups():
            with run(model, tokens[:1].to(device_of(model))) as road:
                for some in batches(len(group), road.batch_size(tokens.shape[1])):
                    rows = group[some]
                    if not any(aims[row] for row in rows.tolist()):
                        continue
                    lists = [
                        _Weighted.of([aims[row] for row in rows.tolist()], which)
                        for which in (_KEYS, _OTHERS)
                    ]
                    look = _Look(lists, rows, mass, device_of(model))
                    road.attention(tokens[some].to(device_of(model)), look)
                    done(len(rows))
    queries = torch.tensor([float(len(some)) for some in aims], dtype=torch.float64, device="cpu")
    even = [len(aim.keys) / (aim.query + 1) for some in aims for aim in some]
    values, sem = ratio_and_error(mass[_KEYS], queries)
    null, _ = ratio_and_error(mass[_OTHERS], queries)
    _, over_null_sem = ratio_and_error(mass[_KEYS] - mass[_OTHERS], queries)
    return HeadScores(
        name,
        values.float(),
        ceiling=1.0,
        uniform=sum(even) / len(even),
        null=null.float(),
        sem=sem.float(),
        over_null_sem=over_null_sem.float(),
        n_sequences=int((queries > 0).sum()),
    )


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Rows, queries and keys of a batch, ordered by query, so that parts come in this order."""

    row: Int[Tensor, " target"]
    query: Int[Tensor, " target"]
    key: Int[Tensor, " target"]
    weight: Float[Tensor, " target"]

    @classmethod
    def of(cls, aims: Sequence[Sequence[Aim]], which: int) -> _Weighted:
        listed = [
            (row, aim.query, key, 1.0 if which == _KEYS else len(aim.keys) / len(aim.others))
            for row, some in enumerate(aims)
            for aim in some
            for key in (aim.keys, aim.others)[which]
        ]
        listed.sort(key=lambda target: target[1])
        row, query, key, weight = (
            torch.tensor([target[part] for target in listed], device="cpu") for part in range(4)
        )
        return cls(row, query, key, weight.double())


class _Look:
    """Adds a layer's attention on the lists to the masses of their rows."""

    def __init__(
        self,
        lists: Sequence[_Weighted],
        rows: Int[Tensor, " row"],
        mass: Float[Tensor, "2 layer head item"],
        device: torch.device,
    ) -> None:
        self._weights = [one.weight for one in lists]
        self._lists = [
            (one.row.to(device), one.query.to(device), one.key.to(device)) for one in lists
        ]
        self._rows = rows
        self._mass = mass

    def __call__(self, layer: int, attention: Attention) -> None:
        seen = [0] * len(self._lists)
        for which, row, on_keys in attention.on(self._lists):
            weight = self._weights[which][seen[which] : seen[which] + len(row)]
            seen[which] += len(row)
            weighted = on_keys.detach().double().cpu() * weight[:, None]
            self._mass[which, layer].index_add_(1, self._rows[row.cpu()], weighted.T)


def _check(aims: Sequence[Sequence[Aim]]) -> None:
    listed = [aim for some in aims for aim in some]
    if not listed:
        raise checks.refuse("aims", "at least one query", aims, "pass longer texts", given="none")
    for aim in listed:
        both = (*aim.keys, *aim.others)
        right = bool(aim.keys) and bool(aim.others) and len(set(both)) == len(both)
        if not right or min(both) < 1 or max(both) > aim.query:
            condition = "keys and others from 1 up to their query, each once"
            raise checks.refuse("each of aims", condition, aim, "leave BOS and later keys out")
