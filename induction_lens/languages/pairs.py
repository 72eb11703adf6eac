"""Pairs that hold within one sequence: words of a class and their label, triggers and partners."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages.language import SolvedLanguage, check_sequences, with_bos


@dataclass(frozen=True)
class WordClasses(SolvedLanguage):
    """Two words and a label: the label depends on both words' classes, differently each sequence.

    The pattern-matching task of Olsson et al. 2022 ("Argument 4") as a language: `June grape 1,
    blue pear 3, July bird 0`. The first word is of one of `n_first` classes, the second of one of
    `n_second`, and each pair of classes has its own label, drawn for each sequence without
    replacement. To predict a label, a head has to find an earlier item whose words are others of
    the same classes.
    """

    n_first: int = 2
    """Classes of first words."""
    n_second: int = 2
    """Classes of second words."""
    n_words: int = 12
    """Words in each class."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("n_first", "n_second", "n_words"):
            checks.whole_number(name, getattr(self, name), least=1)

    @property
    def n_labels(self) -> int:
        """One for each pair of classes."""
        return self.n_first * self.n_second

    @property
    def _n_all(self) -> tuple[int, int]:
        return self.n_first * self.n_words, self.n_second * self.n_words

    @property
    def d_vocab(self) -> int:
        """BOS, first words by class, second words by class, and the labels."""
        return 1 + sum(self._n_all) + self.n_labels

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        n_items = seq_len // 3 + 1
        first, second = (
            torch.randint(size, (n, n_items), generator=rng, device="cpu") for size in self._n_all
        )
        pairs = self._pairs(first, second)
        scores = torch.rand(n, self.n_labels, generator=rng, dtype=torch.float32, device="cpu")
        labels = scores.argsort(1).gather(1, pairs)
        starts = (1, 1 + self._n_all[0], 1 + sum(self._n_all))
        items = [x + start for x, start in zip((first, second, labels), starts, strict=True)]
        return torch.stack(items, dim=2).flatten(1)[:, :seq_len]

    def _pairs(self, first: Tensor, second: Tensor) -> Tensor:
        return first // self.n_words * self.n_second + second // self.n_words

    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """ln(words) for words, zero for a label whose pair of classes came before, and else
        ln(labels that are left).

        Examples:
            >>> language = il.languages.WordClasses(n_words=1)
            >>> tokens = torch.tensor([[0, 1, 3, 6, 1, 4, 5, 1, 3, 6]])
            >>> (-language.optimal_loss(tokens)).exp()[0, 3::3]
            tensor([0.2500, 0.3333, 1.0000])
        """
        body = check_sequences(tokens, least=1, most=self.d_vocab - 1)
        sizes = torch.tensor([*self._n_all, 1], dtype=torch.float32, device="cpu")
        losses = sizes.log().repeat(body.shape[1] // 3 + 1)[: body.shape[1]].repeat(len(body), 1)
        n_items = body.shape[1] // 3
        first, second, _ = body[:, : 3 * n_items].view(len(body), n_items, 3).unbind(2)
        pairs = self._pairs(first - 1, second - 1 - self._n_all[0])
        if not bool(((pairs >= 0) & (pairs < self.n_labels)).all()):
            raise ValueError(
                "expected items of a first word, a second word and a label, got others; pass "
                "sequences of this language"
            )
        seen = torch.zeros(len(body), self.n_labels, dtype=torch.bool, device="cpu")
        for item, pair in enumerate(pairs.unbind(1)):
            left = (self.n_labels - seen.sum(1)).double()
            known = seen.gather(1, pair[:, None])[:, 0]
            losses[:, 3 * item + 2] = torch.where(known, 0.0, left.log()).float()
            seen.scatter_(1, pair[:, None], True)
        return with_bos(losses)


@dataclass(frozen=True)
class RepeatedBigrams(SolvedLanguage):
    """Random tokens, among them triggers that a partner follows, another one in each sequence.

    A trigger comes with probability `frequency`, and its partner of this sequence follows with
    probability `reliability`; otherwise any ordinary token does. How often a pattern comes and how
    far it can be relied upon decide whether a model learns it from its context or not at all.
    """

    n_tokens: int = 64
    """Ordinary tokens: 1 to `n_tokens`; triggers come after them."""
    n_triggers: int = 4
    """Triggers."""
    frequency: float = 0.2
    """How often a trigger stands where none stood before."""
    reliability: float = 0.9
    """How often its partner follows."""

    def __post_init__(self) -> None:
        """Check the sizes and shares."""
        checks.whole_number("n_tokens", self.n_tokens, least=2)
        checks.whole_number("n_triggers", self.n_triggers, least=1)
        for name in ("frequency", "reliability"):
            value = getattr(self, name)
            checks.real_number(name, value, above=0, most=1, remedy="a share, such as 0.5")

    @property
    def d_vocab(self) -> int:
        """BOS, ordinary tokens and triggers."""
        return 1 + self.n_tokens + self.n_triggers

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        on = {"generator": rng, "device": "cpu"}
        partners = torch.randint(1, 1 + self.n_tokens, (n, self.n_triggers), **on)
        ordinary = torch.randint(1, 1 + self.n_tokens, (n, seq_len), **on)
        trigger = torch.randint(self.n_triggers, (n, seq_len), **on)
        begins = torch.rand(n, seq_len, dtype=torch.float32, **on) < self.frequency
        follows = torch.rand(n, seq_len, dtype=torch.float32, **on) < self.reliability
        tokens, after = ordinary.clone(), torch.zeros(n, dtype=torch.bool, device="cpu")
        for position in range(seq_len):
            now = begins[:, position] & ~after
            tokens[now, position] = 1 + self.n_tokens + trigger[now, position]
            paired = after & follows[:, position]
            if position:
                its = partners.gather(1, trigger[:, position - 1, None])[:, 0]
                tokens[paired, position] = its[paired]
            after = now
        return tokens

    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """Of the Bayes-optimal predictor.

        After a trigger, a token `y` has probability `r * w(y) + (1 - r) / tokens`, where `r` is the
        reliability and `w(y)` the probability that `y` is the partner given what followed the
        trigger before: each time that `y` did, its odds grow by `1 + r * tokens / (1 - r)`.
        """
        body = check_sequences(tokens, least=1, most=self.d_vocab - 1)
        batch = torch.arange(len(body), device="cpu")
        r, v, f = self.reliability, self.n_tokens, self.frequency
        size = (len(body), self.n_triggers, v)
        log_odds = torch.zeros(size, dtype=torch.float64, device="cpu")
        gain = math.log1p(r * v / (1 - r)) if r < 1 else 1e3  # one sight is certain then
        of_trigger = -math.log(f / self.n_triggers)
        of_ordinary = -math.log((1 - f) / v) if f < 1 else math.inf
        losses, after = [], torch.full((len(body),), -1, dtype=torch.long, device="cpu")
        for now in body.unbind(1):
            is_trigger = now > v
            free = torch.where(is_trigger, of_trigger, of_ordinary).double()
            place = (now - 1).clamp(0, v - 1)
            row = log_odds[batch, after.clamp(min=0)]
            likely = r * row.softmax(1)[batch, place] + (1 - r) / v
            losses.append(torch.where(after >= 0, -likely.log(), free))
            paired = (after >= 0) & ~is_trigger
            log_odds[batch[paired], after[paired], place[paired]] += gain
            after = torch.where(is_trigger, now - 1 - v, -1)
        return with_bos(torch.stack(losses, dim=1).float())
