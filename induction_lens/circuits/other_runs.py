"""What a sender puts out instead, when the path from it is patched: its output of another run.

- `PreviousTokenChanged`: every token kept, the one before it changed. What a head passes on about
  the token before is then wrong, and nothing else is: the built-in one for induction.
- `OtherTokens`: the run on sequences of the caller's.
- `Nothing`: zeros, as if the sender had never written to what reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models import Model, Tokens, ordinary_ids, sequences_of

Outputs = Mapping[int, Float[Tensor, "batch pos head d_head"]]
"""By layer: what all heads put out, `z`."""


class OtherRun(ABC):
    """Where the patched output of a sender comes from."""

    def tokens(
        self, model: Model, tokens: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "run batch pos"]:
        """The sequences to run beside the clean ones; by default there are none.

        Raises:
            ValueError: If they cannot be made from these.
        """
        del model
        return tokens.new_zeros(0, *tokens.shape)

    @abstractmethod
    def outputs(self, clean: Outputs, runs: Sequence[Outputs]) -> Outputs:
        """What heads put out instead, by layer, from the clean run and from those beside it."""


@dataclass(frozen=True)
class PreviousTokenChanged(OtherRun):
    """At every position the run in which the token there is kept, and the one before it changed.

    One run changes every `spacing`-th token, and is read just after those. BOS is not changed, so
    that positions 0 and 1 stay as they are. With `spacing` as large as the sequence one token is
    changed at a time, which takes as many runs as there are positions.
    """

    spacing: int = 8
    """Every how many tokens one is changed in one run."""
    seed: int = 0
    """Seed of the tokens that are put there: ordinary ones that the sequence does not hold."""

    def __post_init__(self) -> None:
        """Check the options."""
        checks.whole_number("spacing", self.spacing, least=2, remedy="for instance 8")
        checks.seed(self.seed)

    def tokens(
        self, model: Model, tokens: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "run batch pos"]:
        """The sequences with every `spacing`-th token changed, in each run other ones.

        Raises:
            ValueError: If a sequence holds all ordinary tokens there are.
        """
        others = self._others(model, tokens)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        runs = [
            tokens.where((position % self.spacing != run) | (position == 0), others)
            for run in range(self._n_runs(tokens.shape[1]))
        ]
        return torch.stack(runs)

    def outputs(self, clean: Outputs, runs: Sequence[Outputs]) -> Outputs:
        """At each position those of the run in which the token before it is changed."""
        made = {}
        for layer, z in clean.items():
            mixed = z.clone()
            for run, other in enumerate(runs):
                after = slice(run + 1 if run else self.spacing + 1, None, self.spacing)
                mixed[:, after] = other[layer][:, after]
            made[layer] = mixed
        return made

    def _n_runs(self, n_pos: int) -> int:
        return min(self.spacing, n_pos)

    def _others(self, model: Model, tokens: Tensor) -> Tensor:
        """For each position a token that its sequence does not hold."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        ids = ordinary_ids(model)
        rows = []
        for row in tokens.cpu():
            absent = ids[~torch.isin(ids, row)]
            if not len(absent):
                raise ValueError(
                    f"expected sequences without some of the {len(ids)} ordinary tokens, to put "
                    "these in place of others, got one that holds all; pass shorter sequences"
                )
            drawn = torch.randint(len(absent), row.shape, generator=generator, device="cpu")
            rows.append(absent[drawn])
        return torch.stack(rows).to(tokens)


@dataclass(frozen=True, eq=False)
class OtherTokens(OtherRun):
    """The run on other sequences, row by row."""

    other: Tokens
    """As many sequences of as many tokens as are measured on."""

    def tokens(
        self, model: Model, tokens: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "run batch pos"]:
        """Those sequences.

        Raises:
            ValueError: If they are not of the shape of those that are measured on.
        """
        other = sequences_of(model, self.other).one_length("the other run")
        if other.shape != tokens.shape:
            raise ValueError(
                f"expected other tokens of shape {list(tokens.shape)}, as are measured on, got "
                f"{list(other.shape)}; pass one other sequence for each"
            )
        return other.to(tokens.device)[None]

    def outputs(self, clean: Outputs, runs: Sequence[Outputs]) -> Outputs:
        """Those of that run."""
        [other] = runs
        return other


@dataclass(frozen=True)
class Nothing(OtherRun):
    """Zeros: the receiver's input is computed as if the sender had written nothing."""

    def outputs(self, clean: Outputs, runs: Sequence[Outputs]) -> Outputs:
        """Zeros."""
        return {layer: torch.zeros_like(z) for layer, z in clean.items()}
