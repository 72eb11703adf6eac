"""A layer's attention, read only on some targets: off its pattern, or from queries and keys.

Without a pattern in memory, attention is `exp(q·k - total)`, where `total` is the logarithm of what
the softmax divides by. Torch's fused kernels know the totals. The operators that give them are
private, so they are compared with plain attention before their first use; where they fall short,
all scores are computed, one block of queries at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.projections import AttentionInputs

Targets = tuple[Int[Tensor, " target"], Int[Tensor, " target"], Int[Tensor, " target"]]
"""Rows, queries and keys."""
Totals = Float[Tensor, "batch head query_pos"]
Lists = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Several `Targets`, each of a length of its own."""
Parts = Iterator[tuple[int, Tensor, Tensor]]
"""Which of the lists, rows [part], and attention [part head]."""
_ALIGNED = 8  # CUDA's kernel takes heads of multiples of this size
# torch's kernel for CPUs leaves future keys out in blocks of 512. With queries in blocks of 64, 510
# positions took 0.7 times as long where d_head is 64, and as long where it is 32.
_QUERIES, _FEWEST_QUERIES, _NARROW = 64, 256, 64
# Numbers in memory at a time, scores or coordinates. On a CPU 8 MiB took 1.1 times as long as 2; an
# H200 took 31 times as long as with patterns, in blocks as small.
_BLOCK, _BLOCK_ELSEWHERE = 2**19, 2**26


def attended(
    inputs: AttentionInputs, positions: Sequence[int] | None = None, *, scale: float
) -> Float[Tensor, "batch read_pos head d_head"]:
    """What heads put out, at all positions or at some, which queries may be reduced to; `scale`:
    what scores are multiplied with."""
    each = inputs.for_each_head()
    assert each.value is not None
    query, key, value = (x.transpose(1, 2) for x in (each.query, each.key, each.value))
    if positions is not None:
        at = torch.tensor(list(positions), device=query.device)
        query = query if query.shape[2] == len(at) else query[:, :, at]
        mask = torch.arange(key.shape[2], device=query.device)[None, :] <= at[:, None]
        z = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return z.transpose(1, 2)
    blocks = [
        F.scaled_dot_product_attention(
            some, *seen, attn_mask=mask, is_causal=mask is None, scale=scale
        ).transpose(1, 2)
        for some, *seen, mask in _blocks(query, key, value)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def _blocks(
    query: Tensor, key: Tensor, value: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Queries [batch head pos d_head], in blocks where that is faster, each with the keys and
    values that it sees, and what is added to its scores so that it sees no more; None: the usual.
    """
    n_pos, d_head = query.shape[2:]
    if query.device.type != "cpu" or n_pos < _FEWEST_QUERIES or d_head < _NARROW:
        yield query, key, value, None
        return
    future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=query.device).triu(1)
    added = torch.zeros(n_pos, n_pos, dtype=query.dtype, device=query.device)
    added.masked_fill_(future, -torch.inf)
    for start in range(0, n_pos, _QUERIES):
        stop = min(start + _QUERIES, n_pos)
        mask = added[start:stop, :stop]
        yield query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop], mask


@runtime_checkable
class Attention(Protocol):
    """A layer's attention on one batch."""

    def on(self, targets: Lists) -> Parts:
        """The attention of every head on several lists of targets, in parts.

        Args:
            targets: Lists of rows, queries and keys.

        Yields:
            Which list, the rows of some of its targets, and the attention on these.
        """
        ...


class PatternAttention:
    """Attention in a pattern."""

    def __init__(self, pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
        """Of one layer."""
        self._pattern = pattern

    def on(self, targets: Lists) -> Parts:
        """As `Attention.on`, each list as one part."""
        for index, (row, query, key) in enumerate(targets):
            yield index, row, self._pattern[row, :, query, key]


def pattern_of(
    inputs: AttentionInputs, *, scale: float
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """A whole pattern, from the queries of all positions; `scale`: what scores are multiplied
    with."""
    each = inputs.for_each_head()
    scores = each.query.transpose(1, 2) @ each.key.transpose(1, 2).mT * scale
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


class FusedAttention:
    """Attention from queries and keys, with no pattern in memory."""

    def __init__(self, inputs: AttentionInputs, totals: Totals | None, *, scale: float) -> None:
        """Of one layer.

        Args:
            inputs: Queries and keys.
            totals: What the scores of each query come to, by `logsumexp`, where that is known.
            scale: What scores are multiplied with.
        """
        self._inputs = inputs.for_each_head()
        self._totals = totals
        self._scale = scale

    def on(self, targets: Lists) -> Parts:
        """As `Attention.on`, in parts of a memory budget."""
        if self._totals is None:
            return self._from_all_scores(targets)
        return self._from_their_scores(targets, self._totals)

    def _from_their_scores(self, targets: Lists, totals: Totals) -> Parts:
        """Scores of the targets alone, in blocks of targets."""
        n_pos, n_heads, d_head = self._inputs.query.shape[1:]
        queries, keys = (x.flatten(0, 1) for x in (self._inputs.query, self._inputs.key))
        total_of = totals.transpose(1, 2).flatten(0, 1)
        size = max(1, _block(keys) // (n_heads * d_head))
        for index, of_list in enumerate(targets):
            for row, query, key in zip(*(part.split(size) for part in of_list), strict=True):
                at = row * n_pos + query
                product = queries.index_select(0, at)
                product *= keys.index_select(0, row * n_pos + key)
                scores = product.sum(-1) * self._scale
                yield index, row, (scores - total_of.index_select(0, at)).exp()

    def _from_all_scores(self, targets: Lists) -> Parts:
        """All scores, in blocks of queries."""
        n_rows, n_pos, n_heads, _ = self._inputs.query.shape
        keys = self._inputs.key.permute(0, 2, 3, 1).float()
        size = max(1, _block(keys) // (n_rows * n_heads * n_pos))
        for start in range(0, n_pos, size):
            stop = min(start + size, n_pos)
            block = self._inputs.query[:, start:stop].transpose(1, 2).float() * self._scale
            scores = block @ keys[..., :stop]
            future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=keys.device)
            scores[..., start:].masked_fill_(future.triu(1), -torch.inf)
            total = scores.logsumexp(-1)
            for index, (row, query, key) in enumerate(targets):
                inside = (start <= query) & (query < stop)
                at, q, k = row[inside], query[inside] - start, key[inside]
                yield index, at, (scores[at, :, q, k] - total[at, :, q]).exp()


def takes_totals(inputs: AttentionInputs) -> bool:
    """Whether fused attention gives the totals of such queries."""
    query = inputs.query
    aligned = query.device.type == "cpu" or query.shape[-1] % _ALIGNED == 0
    return query.dtype == torch.float32 and aligned and knows_totals(query.device.type)


def attended_with_totals(
    inputs: AttentionInputs, *, scale: float
) -> tuple[Float[Tensor, "batch pos head d_head"], Totals]:
    """What heads put out, and the totals of their scores. Without values, as where the totals alone
    are read, what is put out means nothing."""
    each = inputs.for_each_head()
    value = each.key if each.value is None else each.value  # the kernel wants some of this width
    by_head = (x.transpose(1, 2) for x in (each.query, each.key, value))
    z, totals = _fused(*by_head, scale=scale)
    return z.transpose(1, 2), totals


def _fused(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention [batch head pos d_head] and `logsumexp` of its scores [batch head pos]."""
    if query.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        blocks = [
            kernel(some, *seen, 0.0, mask is None, attn_mask=mask, scale=scale)
            for some, *seen, mask in _blocks(query, key, value)
        ]
        if len(blocks) == 1:
            return blocks[0]
        z, totals = (torch.cat(parts, dim=2) for parts in zip(*blocks, strict=True))
        return z, totals
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    z, totals, *_ = kernel(query, key, value, None, True, 0.0, True, scale=scale)
    return z, totals[..., : query.shape[2]]


@cache
def knows_totals(device: str) -> bool:
    """Whether this version of torch gives the totals on this kind of device, and the right ones."""
    sizes = [(37, 8)]
    if device == "cpu":
        sizes.append((_FEWEST_QUERIES + 1, _NARROW))  # in blocks
    return all(_totals_are_right(device, n_pos, d_head) for n_pos, d_head in sizes)


def _totals_are_right(device: str, n_pos: int, d_head: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(
        3, 2, 3, n_pos, d_head, generator=generator, dtype=torch.float32, device="cpu"
    ).to(device)
    future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=device).triu(1)
    scores = (0.3 * query @ key.mT).masked_fill(future, -torch.inf)
    try:
        z, totals = _fused(query, key, value, scale=0.3)
        right = torch.allclose(z, scores.softmax(-1) @ value, atol=1e-5)
        return right and torch.allclose(totals, scores.logsumexp(-1), atol=1e-5)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


def _block(x: Tensor) -> int:
    """How many numbers to have in memory at a time, where `x` is."""
    return _BLOCK if x.device.type == "cpu" else _BLOCK_ELSEWHERE
