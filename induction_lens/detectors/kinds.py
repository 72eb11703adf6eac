"""Kinds of heads beyond the built-in detectors, each on material of its own.

A kind is an object with a name, words, and `score(model)`, which gives a score to every head. The
built-in detectors share one pass over the same tokens; these do not, so they are asked for one by
one. Tasks have more of them (`tasks.KINDS`).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors.aimed import Aim, attention_on_aims
from induction_lens.detectors.detector import AttentionDetector, Targets
from induction_lens.detectors.registry import COPYING, INDUCTION
from induction_lens.detectors.scoring import prompts, score_heads
from induction_lens.detectors.targets import induction, two_token_match
from induction_lens.detectors.token_copying import TOKEN_COPYING
from induction_lens.heads import HeadScores, unmeasured
from induction_lens.models import Model, Sequences, bos_id, device_of, ordinary_ids, shape

N_TOKENS = 6
"""Different tokens in a sequence for n-gram heads: a token has come before about 16 times in 100,
the pair of two about 3 times."""


class HeadKind(ABC):
    """A kind of head, and how every head is scored for it."""

    name: ClassVar[str]
    """Its name in tables and on the command line."""
    title: ClassVar[str]
    """Its name on a page: what its heads are called."""
    caption: ClassVar[str]
    """What its score is, in a sentence, with its ceiling and chance."""
    source: ClassVar[str] = ""
    """Where the definition comes from."""

    @abstractmethod
    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """The score of every head.

        Raises:
            ValueError: If the model cannot be scored.
        """


@dataclass(frozen=True)
class InductionHeads(HeadKind):
    """Heads that match prefixes: the built-in detector, on random tokens."""

    name: ClassVar[str] = "induction"
    title: ClassVar[str] = "Induction heads"
    caption: ClassVar[str] = (
        "Attention on the tokens that followed earlier copies of the current one, on repeated "
        "random tokens: 1 for a perfect head; chance is the head's own score on shuffled tokens."
    )
    source: ClassVar[str] = INDUCTION.source

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        table = score_heads(model, detectors=[INDUCTION], seed=seed, progress=progress)
        return table[INDUCTION.name]


NGRAM = AttentionDetector(
    "ngram",
    two_token_match,
    title="N-gram (two-token match)",
    caption="Attention on the tokens that followed earlier copies of the last two.",
    unmeasured="no two tokens come twice in a row",
    source="Akyürek et al. 2024, In-Context Language Learning",
)
"""Two-token match as a detector, for tokens of a user's own."""


@dataclass(frozen=True)
class NGramHeads(HeadKind):
    """Heads that match the last two tokens, not one.

    On random tokens that never come twice in a copy, every induction head would pass. Here each
    sequence is drawn from six tokens, so that one token has matched many times where two have
    matched a few times. The null is what the head puts on one-token matches that are no two-token
    matches, as if there were as many: a head that matches one token alone has a score equal to it.
    """

    n_sequences: int = 32
    """Sequences to draw."""
    name: ClassVar[str] = "ngram"
    title: ClassVar[str] = "N-gram heads"
    caption: ClassVar[str] = (
        "Attention on what followed earlier copies of the last two tokens, in sequences of six "
        "different tokens: 1 for a perfect head; chance is what it puts on as many one-token "
        "matches."
    )
    source: ClassVar[str] = NGRAM.source

    def __post_init__(self) -> None:
        """Check the number."""
        checks.whole_number("n_sequences", self.n_sequences, least=1, most=10**6)

    def tokens(self, model: Model, *, seed: int = 0) -> Int[Tensor, "batch pos"]:
        """BOS, then up to 100 tokens, each drawn from six.

        Raises:
            ValueError: If the model has fewer ordinary tokens.
        """
        ids, length = ordinary_ids(model), min(100, shape(model).n_ctx - 1)
        if len(ids) < N_TOKENS:
            remedy = "pass another model"
            raise checks.refuse("the model", f"one of {N_TOKENS} ordinary tokens", model, remedy)
        generator = torch.Generator(device="cpu").manual_seed(checks.seed(seed))
        orders = [
            torch.randperm(len(ids), generator=generator, device="cpu")[:N_TOKENS]
            for _ in range(self.n_sequences)
        ]
        drawn = torch.randint(
            N_TOKENS, (self.n_sequences, length), generator=generator, device="cpu"
        )
        tokens = ids[torch.stack(orders)].gather(1, drawn)
        bos = torch.full((self.n_sequences, 1), bos_id(model), device="cpu")
        return torch.cat([bos, tokens], dim=1).to(device_of(model))

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        tokens = self.tokens(model, seed=seed)
        aims = match_aims(tokens)
        title = "n-gram heads" if progress else None
        sequences = Sequences.unpadded(tokens)
        return attention_on_aims(model, sequences, aims, name=self.name, progress=title)


def match_aims(tokens: Int[Tensor, "batch pos"]) -> list[list[Aim]]:
    """Of each sequence: the queries that have two-token matches and other one-token matches."""
    one, two = (_by_query(found(tokens)) for found in (induction, two_token_match))
    aims: list[list[Aim]] = [[] for _ in tokens]
    for (row, query), keys in sorted(two.items()):
        others = [key for key in one[row, query] if key not in keys]
        if others:
            aims[row].append(Aim(query, tuple(keys), tuple(others)))
    return aims


def _by_query(targets: Targets) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for row, query, key in zip(*(part.tolist() for part in targets), strict=True):
        found.setdefault((row, query), []).append(key)
    return found


@dataclass(frozen=True)
class AntiCopyingHeads(HeadKind):
    """Heads that find the prefix, and lower the logits of what followed it.

    The score is the induction score times minus the copying score, on the same random tokens. It is
    1 for a head that always attends to what followed and never raises it, 0 for one that does
    neither, and below 0 for an induction head. Ours; what it names are the negative heads of
    McDougall et al. 2023 ("Copy Suppression"), where they match prefixes.
    """

    name: ClassVar[str] = "anti_copying"
    title: ClassVar[str] = "Anti-copying heads"
    caption: ClassVar[str] = (
        "Induction score times minus copying score: 1 for a head that finds what followed and "
        "never raises it, below 0 for an induction head; chance is by shuffled tokens."
    )
    source: ClassVar[str] = "ours, after McDougall et al. 2023, Copy Suppression"

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        tokens = prompts(model, seed=seed)
        table = score_heads(
            model,
            tokens=tokens,
            mask=torch.ones_like(tokens),
            detectors=[INDUCTION, COPYING],
            seed=seed,
            progress=progress,
        )
        matching, copying = table[INDUCTION.name], table[COPYING.name]
        if copying.note is not None:
            return dataclasses.replace(
                unmeasured(matching, copying.note), name=self.name, unit="copying"
            )
        assert matching.sem is not None
        assert copying.sem is not None
        assert matching.null is not None
        assert matching.over_null_sem is not None
        against = -copying.values
        of_copying = (matching.values * copying.sem).square()
        return dataclasses.replace(
            matching,
            name=self.name,
            values=matching.values * against,
            unit="copying",
            uniform=None,
            null=matching.null * against.clamp(min=0),
            sem=((matching.sem * against).square() + of_copying).sqrt(),
            over_null_sem=((matching.over_null_sem * against).square() + of_copying).sqrt(),
        )


@dataclass(frozen=True)
class TokenCopyingHeads(HeadKind):
    """Heads whose output at one token makes the next token of a repetition likelier."""

    n_sequences: int = 32
    """Sequences to draw."""
    name: ClassVar[str] = TOKEN_COPYING.name
    title: ClassVar[str] = "Token-copying heads"
    caption: ClassVar[str] = TOKEN_COPYING.caption + " 1 for a perfect head; chance is 0."
    source: ClassVar[str] = TOKEN_COPYING.source

    def __post_init__(self) -> None:
        """Check the number."""
        checks.whole_number("n_sequences", self.n_sequences, least=1, most=10**6)

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        scores = TOKEN_COPYING.score(
            model, n_sequences=self.n_sequences, seed=seed, progress=progress
        )
        return over_nothing(scores)


def over_nothing(scores: HeadScores) -> HeadScores:
    """Scores whose null is 0, for a change that one head makes: a head that does nothing."""
    n = scores.n_sequences or 0
    sem = scores.sem
    if n < 2 or sem is None:
        sem = torch.full_like(scores.values, math.inf)
    null = torch.zeros_like(scores.values)
    return dataclasses.replace(scores, null=null, over_null_sem=sem)


KINDS: tuple[HeadKind, ...] = (
    InductionHeads(),
    NGramHeads(),
    AntiCopyingHeads(),
    TokenCopyingHeads(),
)
"""The kinds of heads that random tokens show."""
