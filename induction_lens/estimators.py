"""The two ways to estimate the in-context learning score, as objects.

Each says at which positions it reads the losses of sequences and of their short cuts, and makes
the score of each sequence from them. `metrics` has the formulas and what they mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.metrics import Positions, icl_per_sequence, matched_per_sequence

Estimator = Literal["matched-target", "paper"]


@dataclass(frozen=True)
class Losses:
    """Losses of sequences and of their short cuts, in nats."""

    long: Float[Tensor, "*job batch pos"]
    """Of the sequences, at their positions; NaN where nothing was measured."""
    short: Float[Tensor, "*job batch short_pos"] | None = None
    """Of the short cuts (`metrics.short_cuts`), at the positions of the cuts."""

    def __getitem__(self, jobs: int | slice | list[int]) -> Losses:
        """Those of one run, or of some, where there are several."""
        return Losses(self.long[jobs], None if self.short is None else self.short[jobs])

    def of_sequences(self, rows: slice) -> Losses:
        """Those on some of the sequences."""
        short = None if self.short is None else self.short[..., rows, :]
        return Losses(self.long[..., rows, :], short)

    def forget(self, rows: slice) -> None:
        """Say of some of the sequences that nothing was measured on them."""
        for losses in (self.long, self.short):
            if losses is not None:
                losses[..., rows, :] = math.nan

    def before(self, others: Losses) -> Losses:
        """Those of one run, and then those of others, together."""
        long = torch.cat([self.long[None], others.long])
        if self.short is None or others.short is None:
            return Losses(long)
        return Losses(long, torch.cat([self.short[None], others.short]))


@dataclass(frozen=True)
class ICLEstimator(ABC):
    """A way to estimate the ICL score."""

    name: Estimator
    """What it is called in calls and in files."""

    @abstractmethod
    def reads(self, at: Positions) -> tuple[list[int], list[int]]:
        """The positions of sequences, and of their short cuts, that the score is made from."""

    @abstractmethod
    def per_sequence(self, losses: Losses, at: Positions) -> Float[Tensor, " batch"]:
        """The score of each sequence, in nats; NaN where it was not measured."""


class _Paper(ICLEstimator):
    def reads(self, at: Positions) -> tuple[list[int], list[int]]:
        return sorted({*at.around(at.early), *at.around(at.late)}), []

    def per_sequence(self, losses: Losses, at: Positions) -> Float[Tensor, " batch"]:
        return icl_per_sequence(losses.long, at.early, at.late, window=at.window)


class _MatchedTarget(ICLEstimator):
    def reads(self, at: Positions) -> tuple[list[int], list[int]]:
        return at.around(at.late), at.around(at.early)

    def per_sequence(self, losses: Losses, at: Positions) -> Float[Tensor, " batch"]:
        if losses.short is None:
            raise ValueError(
                "expected losses of short cuts for the matched-target score, got none; run ablate "
                "again with estimator='matched-target'"
            )
        where = {"early": at.early, "late": at.late, "window": at.window}
        return matched_per_sequence(losses.long, losses.short, **where)


PAPER = _Paper("paper")
"""`loss[late] - loss[early]` of one sequence: two different tokens (Olsson et al. 2022)."""
MATCHED_TARGET = _MatchedTarget("matched-target")
"""`loss[late]` minus the loss of the same token in a short cut of the text (see `metrics`)."""
ESTIMATORS: dict[str, ICLEstimator] = {one.name: one for one in (MATCHED_TARGET, PAPER)}
"""Both, by name."""


def as_estimator(given: ICLEstimator | str | None, *, at_beginnings: bool = False) -> ICLEstimator:
    """The estimator that a caller names; None: matched targets, where they estimate the same.

    Args:
        given: An estimator, its name, or None.
        at_beginnings: Whether sequences are beginnings of documents: a token there has fewer than
            `early` tokens before it in its document, and a short cut always has as many.

    Raises:
        ValueError: For an unknown name, or matched targets on beginnings of documents.
    """
    if given is None:
        return PAPER if at_beginnings else MATCHED_TARGET
    if not isinstance(given, ICLEstimator):
        given = ESTIMATORS[checks.one_of("estimator", given, ESTIMATORS)]
    if at_beginnings and given is MATCHED_TARGET:
        raise ValueError(
            "expected the paper's estimator on beginnings of documents, got matched-target, which "
            "would compare the beginning of a document with its middle; pass estimator='paper' or "
            "text with short_documents='pack'"
        )
    return given
