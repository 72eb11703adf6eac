"""Attention that is computed in blocks of queries, against one that is written out."""

from __future__ import annotations

import pytest
import torch

from induction_lens.models.attention import attended
from induction_lens.models.projections import AttentionInputs


def _inputs(n_pos, d_head, *, n_keys=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, n_pos, 3, d_head), *[(2, n_pos, n_keys, d_head)] * 2)
    query, key, value = (torch.randn(some, generator=generator).to(dtype) for some in sizes)
    return AttentionInputs(query, key, value)


def _written_out(inputs, scale):
    """In float64, one query at a time."""
    groups = inputs.query.shape[2] // inputs.key.shape[2]
    z = torch.zeros(inputs.query.shape, dtype=torch.float64)
    for row, pos, head in torch.cartesian_prod(*map(torch.arange, inputs.query.shape[:3])).tolist():
        query = inputs.query[row, pos, head].double()
        keys = inputs.key[row, : pos + 1, head // groups].double()
        values = inputs.value[row, : pos + 1, head // groups].double()
        z[row, pos, head] = (scale * keys @ query).softmax(0) @ values
    return z


@pytest.mark.parametrize("n_pos", [255, 256, 321])  # 321: the last block holds one query
@pytest.mark.parametrize("d_head", [32, 64])
def test_blocks_of_queries_attend_as_all_at_once(n_pos, d_head):
    inputs = _inputs(n_pos, d_head)
    z = attended(inputs, scale=0.3)
    assert torch.allclose(z.double(), _written_out(inputs, 0.3), atol=1e-5)


def test_blocks_of_queries_attend_to_shared_keys():
    inputs = _inputs(260, 64, n_keys=1)
    assert torch.allclose(
        attended(inputs, scale=0.2).double(), _written_out(inputs, 0.2), atol=1e-5
    )


def test_some_positions_are_those_of_all():
    inputs = _inputs(300, 64)
    at = [0, 63, 64, 299]
    whole = attended(inputs, scale=0.3)
    assert torch.allclose(attended(inputs, at, scale=0.3), whole[:, at], atol=1e-6)
    read = AttentionInputs(inputs.query[:, at], inputs.key, inputs.value)
    assert torch.allclose(attended(read, at, scale=0.3), whole[:, at], atol=1e-6)


def test_slopes_go_through_blocks():
    """First order is taken from them: against the slope of attention that is written out."""
    inputs = _inputs(258, 64)
    for x in (inputs.query, inputs.key, inputs.value):
        x.requires_grad_()
    weights = torch.randn(inputs.query.shape, generator=torch.Generator().manual_seed(1))
    parts = (inputs.query, inputs.key, inputs.value)
    slopes = torch.autograd.grad((attended(inputs, scale=0.2) * weights).sum(), parts)
    query, key, value = (x.transpose(1, 2) for x in parts)
    future = torch.ones(258, 258, dtype=torch.bool).triu(1)
    pattern = (0.2 * query @ key.mT).masked_fill(future, -torch.inf).softmax(-1)
    z = (pattern @ value).transpose(1, 2)
    expected = torch.autograd.grad((z * weights).sum(), parts)
    for slope, by_hand in zip(slopes, expected, strict=True):
        assert torch.allclose(slope, by_hand, atol=1e-4)
