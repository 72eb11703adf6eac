"""What is known of the effect of each head alone, whatever it was measured on."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.control_variates import control_variate_mean
from induction_lens.estimates import standard_error
from induction_lens.models import units_of


@dataclass
class HeadEstimates:
    """Means over sequences of the effects of single heads, with their errors."""

    documents: Int[Tensor, "batch pos"] | None
    """The document of each token, where that is known."""
    late: int
    """The position whose documents are the units of errors."""
    first_order: Float[Tensor, "head batch"] | None = None
    """The effects to first order on the first sequences, where these are known."""

    def of(self, head: int, effects: Float[Tensor, " n"]) -> tuple[float, float, int]:
        """The mean effect, its standard error, and how many units were measured.

        Args:
            head: Its place among all.
            effects: On the first `n` sequences.
        """
        n, cheap = len(effects), None
        if self.first_order is not None and n < self.first_order.shape[1]:
            cheap = self.first_order[head]
        units = self._units(n if cheap is None else len(cheap))
        n_units = n if units is None else len(units[:n].unique())
        if cheap is None:
            return float(effects.mean()), float(standard_error(effects, units)), n_units
        return *control_variate_mean(effects, cheap, documents=units), n_units

    def gained(self, head: int, effects: Float[Tensor, " n"]) -> bool:
        """Whether the first order spares half of the exact passes or more."""
        _, error, _ = self.of(head, effects)
        return error**2 <= 0.5 * float(standard_error(effects, self._units(len(effects)))) ** 2

    def _units(self, n: int) -> Tensor | None:
        return units_of(None if self.documents is None else self.documents[:n], self.late)
