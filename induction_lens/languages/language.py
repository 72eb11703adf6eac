"""What a language is: something that draws sequences.

Of a *solved* language the best predictor is known. The *optimal* loss of a token is minus the
log-probability that it gives the token, knowing the language and the sequence up to there. A model
that reaches it in training has learnt all there is; other predictors, such as one that knows the
words' frequencies alone, are lines between (see each language). Of text, and of mixtures, nobody
knows the best predictor: they are languages, and no solved ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens import checks

BOS = 0
"""The first token of every sequence; no language uses it otherwise."""


class Language(ABC):
    """A distribution over sequences of tokens, BOS first."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Tokens in its vocabulary, BOS included."""

    @abstractmethod
    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Sequences without BOS."""

    def token_groups(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Which tokens are of which kind, by the kind's name; BOS is of none."""
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        everywhere[:, 0] = False
        return {"all": everywhere}

    def matches(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What a head attends to that solves the language by matching, by the match's name: rows,
        queries and keys, as an `AttentionDetector` has them. None where no match is known."""
        return {}

    def sample(
        self, n_sequences: int, *, seq_len: int = 128, seed: int = 0
    ) -> Int[Tensor, "batch pos"]:
        """Draw sequences of `seq_len` tokens, BOS included.

        Raises:
            ValueError: If an option is out of range.

        Examples:
            >>> language = il.languages.TwoAlphabets(n_letters=8, length=4)
            >>> language.sample(1, seq_len=9).tolist()
            [[0, 3, 4, 5, 7, 12, 11, 10, 11]]
        """
        n = checks.whole_number("n_sequences", n_sequences, least=1)
        seq_len = checks.whole_number("seq_len", seq_len, least=2)
        generator = torch.Generator().manual_seed(checks.seed(seed))
        bos = torch.full((n, 1), BOS, dtype=torch.long, device="cpu")
        return torch.cat([bos, self._sampled(n, seq_len - 1, generator)], dim=1)


class SolvedLanguage(Language):
    """A language whose best predictor is known."""

    @abstractmethod
    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The loss of the best predictor for each token, in nats; NaN at BOS.

        Raises:
            ValueError: If the tokens are no sequences of the language.
        """

    def reference_losses(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Float[Tensor, "batch pos"]]:
        """Losses of predictors to compare a model with, by name: the best one, and lesser ones.

        Raises:
            ValueError: If the tokens are no sequences of the language.

        Examples:
            >>> language = il.languages.MarkovChains(n_states=2)
            >>> tokens = language.sample(100, seed=1)
            >>> losses = language.reference_losses(tokens)
            >>> {name: round(loss.nanmean().item(), 2) for name, loss in losses.items()}
            {'optimal': 0.49, 'unigram': 0.57}
        """
        return {"optimal": self.optimal_loss(tokens)}


@dataclass(frozen=True)
class Mixture(Language):
    """Sequences of several languages, each whole sequence from one; the vocabulary is shared.

    Its best predictor is not known: which language a sequence is from has to be predicted too. Ask
    the language of each sequence (`parts`).

    Examples:
        >>> languages = [il.languages.MarkovChains(n_states=10), il.languages.Copies()]
        >>> il.languages.Mixture(languages).d_vocab
        65
    """

    languages: Sequence[Language]
    """What it is mixed of."""
    weights: Sequence[float] | None = None
    """How often each is drawn, up to a factor; None: equally."""

    def __post_init__(self) -> None:
        """Check the parts."""
        if not self.languages:
            raise ValueError("expected at least one language to mix, got none")
        if self.weights is not None and (
            len(self.weights) != len(self.languages) or min(self.weights) <= 0
        ):
            raise ValueError(
                f"expected a weight above zero for each of {len(self.languages)} languages, got "
                f"{list(self.weights)}"
            )

    @property
    def d_vocab(self) -> int:
        """That of the largest."""
        return max(language.d_vocab for language in self.languages)

    def parts(self, n_sequences: int, *, seed: int = 0) -> Int[Tensor, " batch"]:
        """Which language each sequence of `sample` with this seed comes from."""
        generator = torch.Generator().manual_seed(checks.seed(seed))
        return self._parts(n_sequences, generator)

    def _parts(self, n: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
        weights = torch.tensor(
            self.weights or [1.0] * len(self.languages), dtype=torch.float64, device="cpu"
        )
        return torch.multinomial(weights, n, replacement=True, generator=generator)

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        parts = self._parts(n, rng)
        tokens = torch.empty(n, seq_len, dtype=torch.long, device="cpu")
        for index, language in enumerate(self.languages):
            rows = parts == index
            if rows.any():
                tokens[rows] = language._sampled(int(rows.sum()), seq_len, rng)
        return tokens


@dataclass(frozen=True)
class Packed(Language):
    """Short sequences of another language, several in one, with BOS between them.

    Examples:
        >>> language = il.languages.Packed(il.languages.Copies(n_letters=8, length=3), 5)
        >>> language.sample(1, seq_len=12).tolist()
        [[0, 3, 4, 5, 5, 0, 5, 6, 7, 5, 0, 3]]
    """

    language: Language
    """What they are of."""
    piece: int
    """Tokens of each, BOS included."""

    def __post_init__(self) -> None:
        """Check the options."""
        checks.instance("language", self.language, Language, "for instance Copies()")
        checks.whole_number("piece", self.piece, least=2)

    @property
    def d_vocab(self) -> int:
        """That of the language."""
        return self.language.d_vocab

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        n_pieces = -(-(1 + seq_len) // self.piece)
        drawn = self.language._sampled(n * n_pieces, self.piece - 1, rng)
        bos = drawn.new_full((len(drawn), 1), BOS)
        return torch.cat([bos, drawn], dim=1).view(n, -1)[:, 1 : 1 + seq_len]


def check_sequences(
    tokens: Int[Tensor, "batch pos"], *, least: int, most: int
) -> Int[Tensor, "batch later_pos"]:
    """Sequences without their BOS, whose tokens must lie in a range.

    Raises:
        ValueError: If they do not, or do not begin with BOS.
    """
    remedy = "pass what `sample` returns"
    checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy=remedy)
    body = tokens[:, 1:].cpu()
    if not bool((tokens[:, 0] == BOS).all()):
        raise ValueError(f"expected sequences that begin with BOS ({BOS}), got others")
    if body.numel() and not (least <= int(body.min()) and int(body.max()) <= most):
        raise ValueError(
            f"expected tokens from {least} to {most} after BOS, got {int(body.min())} to "
            f"{int(body.max())}; pass sequences of this language"
        )
    return body


def with_bos(losses: Float[Tensor, "batch later_pos"]) -> Float[Tensor, "batch pos"]:
    """Losses with NaN in front, for BOS, which nothing predicts."""
    bos = losses.new_full((len(losses), 1), torch.nan)
    return torch.cat([bos, losses], dim=1)
