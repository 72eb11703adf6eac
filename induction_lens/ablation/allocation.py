"""How many sequences each ablation is measured on, decided while they are measured.

Sequences are taken in parts that double: 16, 16, 32, 64 and so on. After each part an ablation goes
on only where more sequences can change what it is measured for:

- a control set, while it is not told from the tested set which of the two has the larger effect:
  their rank is known once it is. What both are to first order, on all sequences, takes part of
  the chance out of their difference, and what is left is told from what all would give;
- one head alone, while it may still be the one whose ablation has the largest effect, or has been
  measured on few sequences and its effect to first order says little (see `first_order`).

Both end too once what is undecided is known to be less than `NEGLIGIBLE`: in a model in which no
head matters, everything would go on to the last sequence.

Rank is decided by simultaneous t intervals of paired differences; place by those of the effects
themselves, so that heads whose effects are near the largest are all known as well as it is. What is
reported of an ablation that ended early is over the sequences that it was measured on, and says how
many they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.ablation.effect_estimates import EffectEstimates
from induction_lens.estimates import simultaneous_quantile
from induction_lens.estimators import Losses

FIRST_PART = 16
"""Sequences that everything is measured on."""
MOST_CANDIDATES = 8
"""Heads that go on as candidates for the largest effect, at most: a model in which no head matters
would keep them all."""

NEGLIGIBLE = 0.01
"""Nats: half of it is what the second decimal that is printed is rounded by."""


class Allocation(ABC):
    """Which ablations go on to the next sequences."""

    @abstractmethod
    def next_part(self, n_measured: int, n_sequences: int) -> slice | None:
        """The sequences that are measured next; None where it ends.

        Args:
            n_measured: How many have been measured, from the first on.
            n_sequences: How many there are.
        """

    @abstractmethod
    def going_on(self, losses: Losses, active: Sequence[int]) -> list[int]:
        """Which of the active ablations are measured on the next part.

        Args:
            losses: Of the sequences so far: clean at 0, of ablation `i` at `i + 1`.
            active: Those that were measured on all of them.
        """

    def keeps_what_is_measured(self, n_measured: int) -> bool:
        """Whether an interrupt ends the work with what was measured before it, or is raised."""
        return False


class Everything(Allocation):
    """Every ablation on every sequence."""

    def next_part(self, n_measured: int, n_sequences: int) -> slice | None:
        """All at once."""
        return slice(0, n_sequences) if n_measured == 0 else None

    def going_on(self, losses: Losses, active: Sequence[int]) -> list[int]:
        """All of them."""
        return list(active)


@dataclass(frozen=True)
class UntilDecided(Allocation):
    """Control sets until their rank is known, single heads while they may be the strongest."""

    scores: Callable[[Losses], Float[Tensor, " batch"]]
    """The ICL score of each sequence in one run."""
    estimates: EffectEstimates
    """What is known of each ablation besides, and of the text."""
    tested: Mapping[int, int] = field(default_factory=dict)
    """For each control set, the tested set that it is compared with."""
    heads: Sequence[int] = ()
    """The ablations of one head each."""
    first: int = FIRST_PART
    """Sequences in the first part."""
    least: int = 0
    """Sequences that heads are measured on at least whose first order says little."""

    def next_part(self, n_measured: int, n_sequences: int) -> slice | None:
        """The first part, and then as many as all before it."""
        if n_measured == n_sequences:
            return None
        return slice(n_measured, min(2 * n_measured or self.first, n_sequences))

    def going_on(self, losses: Losses, active: Sequence[int]) -> list[int]:
        """Those whose rank, or whose place as the strongest head, is not decided."""
        clean = self.scores(losses[0])
        effects = {index: self.scores(losses[index + 1]) - clean for index in active}
        few = len(clean) < self.least
        ended = {
            index
            for index, tested in self.tested.items()
            if index in effects and self._told(tested, index, effects[tested] - effects[index])
        }
        of_heads = {index: effects[index] for index in self.heads if index in effects}
        ended |= {
            index
            for index in self._beaten(of_heads)
            if not few or self._known(index, effects[index])
        }
        return [index for index in active if index not in ended]

    def _told(self, tested: int, control: int, difference: Float[Tensor, " batch"]) -> bool:
        """Whether it is known which of two sets has the larger effect on all the sequences, or that
        they differ by what is negligible, among as many as there are control sets."""
        mean, error, n_units = self.estimates.of_all(tested, difference, less=control)
        reach = simultaneous_quantile(len(self.tested), n_units) * error
        return abs(mean) > reach or abs(mean) + reach < NEGLIGIBLE

    def _beaten(self, effects: Mapping[int, Float[Tensor, " batch"]]) -> set[int]:
        """Heads that are not the one with the largest effect, or not by more than what is
        negligible."""
        if not effects:
            return set()
        known = [self.estimates.of(index, some) for index, some in effects.items()]
        numbers = torch.tensor(known, dtype=torch.float64, device="cpu")
        means, errors, n_units = numbers.unbind(1)
        reach = simultaneous_quantile(len(self.heads), int(n_units.min())) * errors
        may_be = means + reach >= (means - reach).max() + NEGLIGIBLE
        largest = means.argsort(descending=True)[:MOST_CANDIDATES].tolist()
        return {
            index
            for place, index in enumerate(effects)
            if not may_be[place] or place not in largest
        }

    def _known(self, index: int, effects: Float[Tensor, " n"]) -> bool:
        """Whether few exact passes are enough: the first order spares others, or what they would
        change is negligible."""
        _, error, n_units = self.estimates.of(index, effects)
        reach = simultaneous_quantile(1, n_units) * error
        return reach < NEGLIGIBLE or self.estimates.gained(index, effects)
