"""How much of what a model does goes: of its prefix matching, its copying, its ICL score."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.estimates import Estimate, bootstrap_mean, ratio_of_means
from induction_lens.packing import Comparable

Quantity = Literal["prefix", "copying", "icl"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
"""What is measured: the receivers' prefix-matching score, how much better copied tokens are
predicted than new ones, and the ICL score."""


@dataclass(frozen=True, eq=False)
class Share(Comparable):
    """What an intervention takes away of one quantity, paired by sequence."""

    lost: Float[Tensor, " batch"]
    """What is lost in each sequence."""
    whole: Float[Tensor, " batch"]
    """What there is to lose in each."""
    documents: Int[Tensor, " batch"] | None = field(default=None, repr=False)
    """What intervals are over, where that is not the sequences."""

    @cached_property
    def loss(self) -> Estimate:
        """What is lost, in attention or nats."""
        return bootstrap_mean(self.lost, documents=self.documents)

    @cached_property
    def share(self) -> Estimate:
        """Which part that is of the whole, with Fieller's interval; its ends are infinite where the
        whole is not told from zero."""
        return ratio_of_means(self.lost, self.whole, documents=self.documents)

    def minus(self, other: Share) -> Estimate:
        """How much more is lost here than there, paired by sequence, as a share of the whole."""
        return ratio_of_means(self.lost - other.lost, self.whole, documents=self.documents)
