"""What is known of the effects of ablations, whatever each was measured on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.control_variates import control_variate_mean, error_of_all
from induction_lens.estimates import Estimate, simultaneous_quantile, standard_error
from induction_lens.models import units_of


@dataclass
class EffectEstimates:
    """Means over sequences of the effects of ablations, with their errors."""

    documents: Int[Tensor, "batch pos"] | None
    """The document of each token, where that is known."""
    late: int
    """The position whose documents are the units of errors."""
    n_sequences: int | None = None
    """How many sequences there are, where that is known."""
    first_order: dict[int, Float[Tensor, " batch"]] = field(default_factory=dict)
    """The effects to first order on the first sequences, of the ablations where these are known."""

    def of(
        self, ablation: int, effects: Float[Tensor, " n"], *, less: int | None = None
    ) -> tuple[float, float, int]:
        """The mean effect, its standard error, and how many units were measured.

        Args:
            ablation: Which it is.
            effects: On the first `n` sequences.
            less: The ablation whose effects were taken off `effects`, pairwise.
        """
        n, cheap = len(effects), self._cheap(ablation, less)
        if cheap is not None and n >= len(cheap):
            cheap = None
        units = self._units(n if cheap is None else len(cheap))
        n_units = n if units is None else len(units[:n].unique())
        if cheap is None:
            return float(effects.mean()), float(standard_error(effects, units)), n_units
        return *control_variate_mean(effects, cheap, documents=units), n_units

    def corrected(self, ablation: int, effects: Float[Tensor, " n"], plain: Estimate) -> Estimate:
        """The mean effect with an interval, by the first order of more sequences than `effects` are
        of; as it is where that is not known, or there are too few units."""
        cheap = self.first_order.get(ablation)
        if cheap is None or len(effects) >= len(cheap):
            return plain
        mean, error, n_units = self.of(ablation, effects)
        reach = simultaneous_quantile(1, n_units) * error
        if not math.isfinite(reach):
            return plain
        n_documents = None if self._units(len(cheap)) is None else n_units
        ends = {"low": mean - reach, "high": mean + reach, "n_documents": n_documents}
        return replace(plain, value=mean, **ends)

    def of_all(
        self, ablation: int, effects: Float[Tensor, " n"], *, less: int
    ) -> tuple[float, float, int]:
        """The mean as it would be on all the sequences, how far it may be from that, and how many
        units were measured; where the first order is known of some only, the error is that of `of`.
        """
        n, cheap = len(effects), self._cheap(ablation, less)
        mean, error, n_units = self.of(ablation, effects, less=less)
        if cheap is None and self.n_sequences is not None:
            error *= math.sqrt(1 - n / self.n_sequences)
        elif cheap is not None and n < len(cheap) == self.n_sequences:
            error = error_of_all(effects, cheap, documents=self._units(len(cheap)))
        return mean, error, n_units

    def gained(self, ablation: int, effects: Float[Tensor, " n"]) -> bool:
        """Whether the first order spares half of the exact passes or more."""
        _, error, _ = self.of(ablation, effects)
        return error**2 <= 0.5 * float(standard_error(effects, self._units(len(effects)))) ** 2

    def first_orders(self, ablations: Iterable[int]) -> Float[Tensor, "ablation batch"] | None:
        """The effects to first order of some ablations; None unless all are known."""
        found = [self.first_order.get(ablation) for ablation in ablations]
        known = [effects for effects in found if effects is not None]
        return torch.stack(known) if known and len(known) == len(found) else None

    def _cheap(self, ablation: int, less: int | None) -> Float[Tensor, " batch"] | None:
        cheap = self.first_orders([ablation] if less is None else [ablation, less])
        return None if cheap is None else cheap[0] - cheap[1:].sum(0)

    def _units(self, n: int) -> Tensor | None:
        return units_of(None if self.documents is None else self.documents[:n], self.late)
