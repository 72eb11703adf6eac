"""Markov chains whose transitions are drawn for each sequence, and have to be read from it.

A transformer learns them in stages (Edelman et al. 2024, "The Evolution of Statistical Induction
Heads"): first the states' frequencies in the sequence, then what follows what, which takes an
induction head that averages over all earlier occurrences. Both predictors are known exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages.language import SolvedLanguage, check_sequences, with_bos


@dataclass(frozen=True)
class MarkovChains(SolvedLanguage):
    """A chain with transitions of its own in each sequence: rows are Dirichlet(`concentration`)."""

    n_states: int = 8
    """States: tokens 1 to `n_states`."""
    concentration: float = 1.0
    """Of each row of the transition matrix: 1 is uniform over all rows; less makes rows sharper."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        checks.whole_number("n_states", self.n_states, least=2)
        checks.real_number("concentration", self.concentration, above=0, remedy="for instance 1.0")

    @property
    def lag(self) -> int:
        """How far back the token is that the next one depends on."""
        return 1

    @property
    def d_vocab(self) -> int:
        """BOS and the states."""
        return 1 + self.n_states

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        return _drawn(n, seq_len, self.n_states, self.concentration, lag=self.lag, rng=rng)

    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """Of the Bayes-optimal predictor: counts of what followed the state, plus the prior's.

        The probability of `y` after `x` is `(n(x, y) + a) / (n(x) + a * states)`, with the counts
        of the sequence so far and `a` the concentration; of the first `lag` tokens 1/states.

        Examples:
            >>> language = il.languages.MarkovChains(n_states=2)
            >>> tokens = torch.tensor([[0, 1, 2, 1, 2, 1]])
            >>> (-language.optimal_loss(tokens)[0, 1:]).exp().tolist() # 1/2, 1/2, 1/2, 2/3, 2/3
            [0.5, 0.5, 0.5, 0.6666666865348816, 0.6666666865348816]
        """
        body = check_sequences(tokens, least=1, most=self.n_states) - 1
        batch = torch.arange(len(body), device="cpu")
        counts = torch.zeros(
            len(body), self.n_states, self.n_states, dtype=torch.float64, device="cpu"
        )
        a, losses = self.concentration, []
        for position in range(body.shape[1]):
            if position < self.lag:
                losses.append(torch.full_like(counts[:, 0, 0], math.log(self.n_states)))
                continue
            before, now = body[:, position - self.lag], body[:, position]
            row = counts[batch, before] + a
            losses.append(row.sum(1).log() - row[batch, now].log())
            counts[batch, before, now] += 1
        return with_bos(torch.stack(losses, dim=1).float())

    def reference_losses(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Float[Tensor, "batch pos"]]:
        """Of the Bayes-optimal predictor, and of one that counts states alone (`unigram`)."""
        return {**super().reference_losses(tokens), "unigram": self.unigram_loss(tokens)}

    def matches(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """`chain`: every key that came `lag` tokens after an earlier token like the one on which
        the next depends, `x[k - lag] == x[q + 1 - lag]`: where that state's followers are read.

        With a lag of 1 these are the targets of induction.

        Examples:
            >>> language = il.languages.InterleavedChains(n_states=3, n_chains=2)
            >>> row, query, key = language.matches(torch.tensor([[0, 1, 2, 3, 2, 1]]))["chain"]
            >>> list(zip(query.tolist(), key.tolist()))
            [(5, 4)]
        """
        body = check_sequences(tokens, least=1, most=self.n_states)
        n_later, lag = body.shape[1], self.lag
        # position p of the whole sequence is p - 1 of the body
        depends = body[:, : max(n_later + 1 - lag, 0)]  # of query q, at q - lag of the body
        same = depends[:, :, None] == depends[:, None, :]
        row, now, then = same.tril(-1).nonzero(as_tuple=True)
        return {"chain": (row, now + lag, then + lag + 1)}

    def unigram_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """Of a predictor that counts how often each state came, and not after what, in nats.

        The probability of `y` is `(n(y) + 1) / (n + states)`. NaN at BOS.
        """
        body = check_sequences(tokens, least=1, most=self.n_states) - 1
        of_each = torch.nn.functional.one_hot(body, self.n_states).double()
        before = of_each.cumsum(1) - of_each + 1
        losses = before.sum(2).log() - before.gather(2, body[:, :, None])[:, :, 0].log()
        return with_bos(losses.float())


@dataclass(frozen=True)
class InterleavedChains(MarkovChains):
    """Several chains with the same transitions, a token of each in turn: the next token depends on
    the one `n_chains` back.

    A head that attends one back is of no use here: what is matched lies further back, and a model
    may need one more step to bring it together. With one chain it is `MarkovChains`.
    """

    n_chains: int = 3
    """How many take turns."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        super().__post_init__()
        checks.whole_number("n_chains", self.n_chains, least=1)

    @property
    def lag(self) -> int:
        """As many as there are chains."""
        return self.n_chains


def _drawn(
    n: int, seq_len: int, n_states: int, concentration: float, *, lag: int, rng: torch.Generator
) -> Int[Tensor, "batch pos"]:
    own = np.random.default_rng(int(torch.randint(2**62, (), generator=rng, device="cpu")))
    drawn = own.dirichlet([concentration] * n_states, size=(n, n_states))
    transitions = torch.as_tensor(drawn, dtype=torch.float64, device="cpu")
    batch = torch.arange(n, device="cpu")
    states = [
        torch.randint(n_states, (n,), generator=rng, device="cpu") for _ in range(min(lag, seq_len))
    ]
    while len(states) < seq_len:
        rows = transitions[batch, states[-lag]]
        states.append(torch.multinomial(rows, 1, generator=rng)[:, 0])
    return 1 + torch.stack(states, dim=1)
