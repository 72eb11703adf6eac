"""Calls are checked against their types in tests, however often a function is made."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from induction_lens import heads
from tests import _CHECKED, beartype_once


def _made(scale):
    @jaxtyped(typechecker=beartype_once)
    def scaled(
        x: Float[Tensor, "row column"], y: Float[Tensor, " column"]
    ) -> Float[Tensor, " row"]:
        return scale * (x @ y)

    return scaled


def test_a_function_that_is_made_again_is_checked_again():
    x, y = torch.ones(3, 5), torch.ones(5)
    assert _made(1)(x, y).tolist() == [5, 5, 5]
    n_checks = len(_CHECKED)
    again = _made(2)
    assert len(_CHECKED) == n_checks
    assert again(x, y).tolist() == [10, 10, 10]
    for wrong in ((x, torch.ones(3)), (x[0], y), (x.int(), y)):
        with pytest.raises(TypeCheckError):
            again(*wrong)
    with pytest.raises(TypeCheckError):
        _made(torch.ones(7, 3))(x, y)  # returns seven rows


def test_of_one_name_those_with_another_signature_have_another_check():
    def made(kind):
        if kind is int:

            @jaxtyped(typechecker=beartype_once)
            def same(x: int) -> int:
                return x
        else:

            @jaxtyped(typechecker=beartype_once)
            def same(x: str) -> str:
                return x

        return same

    assert (made(int)(3), made(str)("3")) == (3, "3")
    for kind, wrong in ((int, "3"), (str, 3)):
        with pytest.raises(TypeCheckError):
            made(kind)(wrong)


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError):
        heads.Head("0", 1)
