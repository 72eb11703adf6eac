"""Loss masks: which tokens a run is trained on.

A mask is an object: from tokens to those that count. Tokens that do not count are read as ever, and
others are predicted from them; only that they themselves be predicted is not trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lens import checks


class LossMask(ABC):
    """Which tokens count in the loss."""

    @abstractmethod
    def counts(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """True for the tokens that are to be predicted; what it says of position 0 is not used."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The mask as a JSON-ready dictionary: a checkpoint is continued with an equal one."""


@dataclass(frozen=True)
class Hapax(LossMask):
    """Leaves out every token that could be copied: one that ends an n-gram which came before.

    With `n=2`, a token counts where the pair of it and the token before is new in its sequence (a
    hapax so far). An induction head predicts exactly the others, so that nothing in the loss asks
    for one. BOS at position 0 is a token like others here: a sequence has one.

    Source: Sahin et al. 2025, "In-Context Learning Without Copying".

    Examples:
        >>> import torch
        >>> tokens = torch.tensor([[0, 5, 6, 7, 5, 6, 8]])
        >>> il.training.Hapax().counts(tokens).tolist()
        [[True, True, True, True, True, False, True]]
    """

    n: int = 2
    """Tokens of an n-gram, the predicted one included; 1 leaves out every token seen before."""

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            ValueError: It is no whole number, or below 1.
        """
        n = checks.whole_number("n", self.n, least=1, remedy="2 is what an induction head copies")
        object.__setattr__(self, "n", n)

    def counts(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """True where the last `n` tokens come together for the first time in their sequence.

        Raises:
            ValueError: These are no sequences of token ids.
        """
        remedy = "pass sequences of token ids"
        checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy=remedy)
        counted = torch.ones_like(tokens, dtype=torch.bool)
        if tokens.shape[1] < self.n:
            return counted
        for row, grams in zip(counted, tokens.unfold(1, self.n, 1), strict=True):
            _, kind = torch.unique(grams, dim=0, return_inverse=True)
            order = kind.argsort(stable=True)
            again = kind[order][1:] == kind[order][:-1]
            row[order[1:][again] + self.n - 1] = False
        return counted

    def to_dict(self) -> dict[str, Any]:
        """Its name and length."""
        return {"hapax": self.n}
