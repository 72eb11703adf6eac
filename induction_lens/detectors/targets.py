"""Where a perfect head attends: the targets of the built-in detectors of attention.

Each function takes tokens [batch pos] with BOS, which is never a target, at position 0, and returns
the rows, queries and keys of its targets: three int64 tensors [target], on the tokens' device. No
table of queries by keys is made.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens.detectors.detector import Targets


def previous_token(tokens: Int[Tensor, "batch pos"]) -> Targets:
    """The key `q - 1`, for queries `q >= 2`: at `q = 1` the previous token is BOS."""
    n_rows, n_pos = tokens.shape
    row = torch.arange(n_rows, device=tokens.device).repeat_interleave(max(n_pos - 2, 0))
    query = torch.arange(2, max(n_pos, 2), device=tokens.device).repeat(n_rows)
    return row, query, query - 1


def induction(tokens: Int[Tensor, "batch pos"]) -> Targets:
    """Every key `k <= q` whose previous token is the current one: `x[k - 1] == x[q]`, `k >= 2`.

    Source: the "prefix matching" of Olsson et al. 2022, "Head activation evaluators": the token
    after *every* earlier occurrence of the current token.
    """
    row, earlier, query = _equal_pairs(tokens)
    return row, query, earlier + 1


def duplicate_token(tokens: Int[Tensor, "batch pos"]) -> Targets:
    """Every key `k < q` with the current token: `x[k] == x[q]`, `k >= 1`."""
    row, earlier, query = _equal_pairs(tokens)
    return row, query, earlier


def two_token_match(tokens: Int[Tensor, "batch pos"]) -> Targets:
    """Every key `k <= q` after an earlier copy of the last two tokens: `x[k - 1] == x[q]` and
    `x[k - 2] == x[q - 1]`, `k >= 3`.

    Source: the n-gram heads of Akyürek et al. 2024 ("In-Context Language Learning"), for `n = 3`.
    """
    row, query, key = induction(tokens)
    far = key >= 3
    row, query, key = row[far], query[far], key[far]
    same = tokens[row, query - 1] == tokens[row, key - 2]
    return row[same], query[same], key[same]


def _equal_pairs(tokens: Tensor) -> Targets:
    """Every pair of positions 1 <= i < q of a row with equal tokens: rows, `i` and `q`.

    The pairs of one `q` lie together, the earliest `i` first.
    """
    n_rows, n_pos = tokens.shape
    rows = torch.arange(n_rows, device=tokens.device)[:, None]
    ids = tokens.long() - tokens.min().long()
    keys = (ids[:, 1:] + rows * (int(ids.max()) + 1)).flatten()  # equal in a row alone
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
