"""How answers are scored: by their first token, as a choice between classes, or by F1.

The first token needs one pass and no generation, so it is the default. F1 is what Yin and
Steinhardt 2025 use ("Which Attention Heads Matter for In-Context Learning?"): up to five tokens are
generated, and the words are compared as SQuAD does.
"""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks

if TYPE_CHECKING:
    from induction_lens.tasks.prompting import Prompts

Read = Callable[[Tensor], Tensor]
"""From tokens [row pos] to the logits [row d_vocab] of what comes next."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANSWERED = re.compile(r"[\w .]*")  # up to a line break, or whatever is no word
_CAPITAL_Q = re.compile(r"Q")


class Scoring(ABC):
    """A way to score the answers to prompts, from 0 to 1 each."""

    name: ClassVar[str]
    """What it is asked for by."""
    n_new: int = 1
    """Tokens after a prompt that it needs room for."""

    @abstractmethod
    def measure(
        self,
        prompts: Prompts,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        read: Read,
    ) -> Float[Tensor, " row"]:
        """The score of each prompt.

        Args:
            prompts: All prompts.
            rows: Which of them these are.
            tokens: Their tokens, of one length.
            read: What gives the logits after the last token, as often as it is wanted.
        """

    @abstractmethod
    def chance(self, answers: Sequence[Any]) -> float:
        """What the best constant answer scores, if these are right."""

    def right(self, prompts: Prompts) -> Sequence[Any]:
        """What is right of each prompt, as it is compared: the answer's first token."""
        return prompts.answers.tolist()


@dataclass(frozen=True)
class FirstToken(Scoring):
    """1 where the likeliest next token is the first of the answer."""

    name: ClassVar[str] = "first-token"

    def measure(
        self,
        prompts: Prompts,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        read: Read,
    ) -> Float[Tensor, " row"]:
        """As `Scoring.measure`."""
        return (read(tokens).argmax(-1) == prompts.answers[rows].to(tokens.device)).float()

    def chance(self, answers: Sequence[Any]) -> float:
        """The share of the commonest answer."""
        return max(Counter(answers).values()) / len(answers)


@dataclass(frozen=True)
class Choice(Scoring):
    """1 where the answer's first token is the likeliest of the classes' (a restricted softmax)."""

    name: ClassVar[str] = "choice"

    def measure(
        self,
        prompts: Prompts,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        read: Read,
    ) -> Float[Tensor, " row"]:
        """As `Scoring.measure`.

        Raises:
            ValueError: If the first tokens of two classes are the same.
        """
        choices = prompts.choices.to(tokens.device)
        if len(choices.unique()) < len(choices):
            raise ValueError(
                f"expected classes of {prompts.task.name} that begin with different tokens, got "
                f"two that begin alike in {', '.join(prompts.task.answers)}; name them otherwise"
            )
        chosen = choices[read(tokens)[:, choices].argmax(-1)]
        return (chosen == prompts.answers[rows].to(tokens.device)).float()

    def chance(self, answers: Sequence[Any]) -> float:
        """The share of the commonest class."""
        return FIRST_TOKEN.chance(answers)


@dataclass(frozen=True)
class Probability(Scoring):
    """How likely the first token of the answer is."""

    name: ClassVar[str] = "probability"

    def measure(
        self,
        prompts: Prompts,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        read: Read,
    ) -> Float[Tensor, " row"]:
        """As `Scoring.measure`."""
        likely = read(tokens).softmax(-1)
        return likely.gather(1, prompts.answers[rows, None].to(tokens.device))[:, 0]

    def chance(self, answers: Sequence[Any]) -> float:
        """The share of the commonest answer, which is the best constant guess in the mean."""
        return FIRST_TOKEN.chance(answers)


@dataclass(frozen=True)
class F1(Scoring):
    """Overlap in words between what is generated, greedily, and the answer."""

    n_new: int = 5
    """Tokens to generate."""
    name: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        """Check the option."""
        checks.whole_number("n_new", self.n_new, least=1, most=100)

    def measure(
        self,
        prompts: Prompts,
        rows: Int[Tensor, " row"],
        tokens: Int[Tensor, "row pos"],
        read: Read,
    ) -> Float[Tensor, " row"]:
        """As `Scoring.measure`."""
        n_before = tokens.shape[1]
        for _ in range(self.n_new):
            tokens = torch.cat([tokens, read(tokens).argmax(-1, keepdim=True)], dim=1)
        scores = [
            f1(answered(prompts.decode(new)), prompts.items[row].answer)
            for row, new in zip(rows.tolist(), tokens[:, n_before:].tolist(), strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32, device=tokens.device)

    def chance(self, answers: Sequence[Any]) -> float:
        """The mean F1 of the best constant answer."""
        counts = Counter(answers)
        means = (sum(n * f1(one, other) for other, n in counts.items()) for one in counts)
        return max(means) / len(answers)

    def right(self, prompts: Prompts) -> Sequence[Any]:
        """The answers as text."""
        return [item.answer for item in prompts.items]


FIRST_TOKEN = FirstToken()
SCORINGS: dict[str, Scoring] = {
    one.name: one for one in (FIRST_TOKEN, Choice(), Probability(), F1())
}
"""By name."""


def as_scoring(given: Scoring | str) -> Scoring:
    """The scoring that a name stands for; an object is returned as it is.

    Raises:
        ValueError: With the closest name there is.
    """
    if isinstance(given, Scoring):
        return given
    return SCORINGS[checks.one_of("scoring", given, SCORINGS)]


def answered(generated: str) -> str:
    """What of a generated text is the answer: its first run of word characters, spaces and dots, up
    to a line break or a capital Q (Yin and Steinhardt 2025, in their code)."""
    run = _ANSWERED.match(generated.lstrip(" \t"))
    assert run is not None
    return _CAPITAL_Q.split(run[0])[0].strip()


def f1(predicted: str, right: str) -> float:
    """Overlap of two texts as bags of words: in lower case, without punctuation and articles.

    Source: the evaluation of SQuAD (Rajpurkar et al. 2016).

    Examples:
        >>> round(il.tasks.f1("the New York.", "New York City"), 2)
        0.8
    """
    ours, theirs = (Counter(_words(text)) for text in (predicted, right))
    shared = sum((ours & theirs).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / sum(ours.values()), shared / sum(theirs.values())
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", bare).split()
