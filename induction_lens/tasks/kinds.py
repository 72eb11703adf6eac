"""Kinds of heads that tasks show: translation, pattern and literal-copying heads.

Their score is attention: from the last token of a word, or of a line's question, to where a head
that does the task would look. Each stands beside its control. The paper shows single heads and
gives no score; these are ours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from induction_lens import checks
from induction_lens.detectors.aimed import Aim, attention_on_aims
from induction_lens.detectors.kinds import KINDS as OF_TOKENS
from induction_lens.detectors.kinds import HeadKind
from induction_lens.heads import HeadScores
from induction_lens.models import Model
from induction_lens.tasks.concept_copying import ConceptCopyingHeads
from induction_lens.tasks.function_vectors import FunctionVectorHeads
from induction_lens.tasks.prompting import Prompts, few_shot_prompts
from induction_lens.tasks.ready import pattern
from induction_lens.tasks.task import Item, Task
from induction_lens.tasks.texts import literal_copying, translated_sentences

FIRST_LINE = 9
"""The line from which on lines of patterns are read, counted from 1: before, there are too few
earlier lines."""
N_LINES = 20
N_PROMPTS = 32


class _OnTexts(HeadKind):
    """A kind that is scored on items with targets of their own."""

    task: Task | None

    @staticmethod
    @abstractmethod
    def usual() -> Task:
        """The task that heads are scored on where none is given."""

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        task = self.usual() if self.task is None else self.task
        if not checks.instance("task", task, Task, "for instance literal_copying()").of_whole_texts:
            remedy = "for instance tasks.literal_copying(passages)"
            raise checks.refuse("task", "one whose items have targets", task, remedy)
        prompts = few_shot_prompts(model, task, n_items=N_PROMPTS, seed=seed)
        aims = [aims_of(prompts, row) for row in range(len(prompts))]
        title = self.title if progress else None
        return attention_on_aims(model, prompts.sequences, aims, name=self.name, progress=title)


def aims_of(prompts: Prompts, row: int) -> list[Aim]:
    """The targets of a whole text as positions: from the last token of a word to all tokens of
    those that ought to be attended to. A query whose keys are also its control's is left out."""
    found = []
    for target in prompts.targets(row):
        at = prompts.positions(row, target.query)
        keys, others = (
            tuple(sorted({p for span in spans for p in prompts.positions(row, span)}))
            for spans in (target.keys, target.others)
        )
        if at and keys and others and not set(keys) & set(others):
            found.append(Aim(at[-1], keys, others))
    return found


@dataclass(frozen=True, eq=False)
class LiteralHeads(_OnTexts):
    """Heads that copy natural passages literally."""

    task: Task | None = None
    """Whole texts with targets; None takes `literal_copying()`."""
    name: ClassVar[str] = "literal"
    title: ClassVar[str] = "Literal-copying heads"
    caption: ClassVar[str] = (
        "Attention, in a passage's repeat, on the word that followed in the passage: 1 for a "
        "perfect head; chance is attention on another word of the passage."
    )
    source: ClassVar[str] = 'ours, after Olsson et al. 2022, "Argument 4"'

    @staticmethod
    def usual() -> Task:
        """Our passages."""
        return literal_copying()


@dataclass(frozen=True, eq=False)
class TranslationHeads(_OnTexts):
    """Heads that attend to what comes next in another language."""

    task: Task | None = None
    """Aligned sentences; None takes `translated_sentences()`."""
    name: ClassVar[str] = "translation"
    title: ClassVar[str] = "Translation heads"
    caption: ClassVar[str] = (
        "Attention, in a sentence's translation, on the words of earlier languages that mean what "
        "comes next: 1 for a perfect head; chance is the same with alignments permuted in the "
        "sentence."
    )
    source: ClassVar[str] = 'ours, after Olsson et al. 2022, "Argument 4"'

    @staticmethod
    def usual() -> Task:
        """Our sentences in English, French and German."""
        return translated_sentences()


@dataclass(frozen=True, eq=False)
class DiagonalHeads(_OnTexts):
    """Heads that look along the literal diagonal of a translation: at the next word by its place.

    To stand beside `TranslationHeads`. Where languages have the same order of words, the two look
    at the same words.
    """

    task: Task | None = None
    """Sentences with targets by place; None takes `translated_sentences(diagonal=True)`."""
    name: ClassVar[str] = "diagonal"
    title: ClassVar[str] = "Heads on the literal diagonal"
    caption: ClassVar[str] = (
        "Attention, in a sentence's translation, on the words of earlier languages that stand "
        "where the next word will, whatever they mean; chance is the same half a sentence on."
    )
    source: ClassVar[str] = 'ours, after Olsson et al. 2022, "Argument 4"'

    @staticmethod
    def usual() -> Task:
        """Our sentences, by place."""
        return translated_sentences(diagonal=True)


@dataclass(frozen=True, eq=False)
class PatternHeads(HeadKind):
    """Heads that attend to the labels of earlier lines of the same pattern."""

    task: Task | None = None
    """Lines with labels; None takes `pattern()`."""
    n_lines: int = N_LINES
    """Lines in a prompt."""
    n_prompts: int = N_PROMPTS
    """Prompts."""
    name: ClassVar[str] = "pattern"
    title: ClassVar[str] = "Pattern heads"
    caption: ClassVar[str] = (
        "Attention, where a line's label is due, on the labels of earlier lines of the same "
        "pattern: 1 for a perfect head; chance is attention on as many labels of lines that match "
        "by half."
    )
    source: ClassVar[str] = 'ours, after Olsson et al. 2022, "Argument 4"'

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`.

        Raises:
            ValueError: If answers are no classes, or lines do not fit the model's context.
        """
        task = pattern() if self.task is None else self.task
        if not checks.instance("task", task, Task, "for instance pattern()").is_choice:
            remedy = "for instance tasks.pattern()"
            raise checks.refuse("task", "one whose answers are classes", task, remedy)
        least = FIRST_LINE
        n_lines = checks.whole_number("n_lines", self.n_lines, least=least)
        prompts = few_shot_prompts(
            model, task, shots=n_lines - 1, n_items=self.n_prompts, seed=seed
        )
        aims = [line_aims(prompts, row) for row in range(len(prompts))]
        title = self.title if progress else None
        return attention_on_aims(model, prompts.sequences, aims, name=self.name, progress=title)


def line_aims(prompts: Prompts, row: int) -> list[Aim]:
    """From where each line's label is due, line 9 on, to the labels of earlier lines: those of the
    same answer, and those that match by half."""
    found, lines = [], prompts.lines(row)
    labels = [
        () if line.answer is None else tuple(prompts.positions(row, line.answer)) for line in lines
    ]
    for index, line in list(enumerate(lines))[FIRST_LINE - 1 :]:
        earlier = list(zip(lines[:index], labels, strict=False))
        keys = [p for one, at in earlier for p in at if one.item.answer == line.item.answer]
        others = [p for one, at in earlier for p in at if matches_by_half(one.item, line.item)]
        at = prompts.positions(row, line.due)
        if keys and others and at:
            found.append(Aim(at[-1], tuple(keys), tuple(others)))
    return found


def matches_by_half(one: Item, other: Item) -> bool:
    """Whether two lines of different answers share one of their words' kinds, or a word; where
    there are no kinds, whether answers differ."""
    if one.answer == other.answer:
        return False
    if not (one.kinds and other.kinds):
        return True
    same_kind = any(a == b for a, b in zip(one.kinds, other.kinds, strict=False))
    return same_kind or bool(set(one.prompt.split()) & set(other.prompt.split()))


KINDS: tuple[HeadKind, ...] = (
    *OF_TOKENS,
    ConceptCopyingHeads(),
    FunctionVectorHeads(),
    LiteralHeads(),
    TranslationHeads(),
    PatternHeads(),
)
"""Every kind of head, with its usual material."""


def chosen_kinds(kinds: Sequence[HeadKind | str] | HeadKind | str) -> list[HeadKind]:
    """Kinds of heads from names and objects.

    Raises:
        ValueError: If there is none, one is unknown, or two have one name.

    Examples:
        >>> [kind.name for kind in il.tasks.chosen_kinds(["induction", il.tasks.PatternHeads()])]
        ['induction', 'pattern']
    """
    alone = isinstance(kinds, (str, HeadKind))
    by_name = {kind.name: kind for kind in KINDS}
    given = checks.several("kinds", [kinds] if alone else kinds)
    found = [
        kind if isinstance(kind, HeadKind) else by_name[checks.one_of("kind", kind, by_name)]
        for kind in given
    ]
    names = [kind.name for kind in found]
    listed = ", ".join(by_name)
    if not found:
        raise checks.refuse("kinds", f"at least one of {listed}", kinds, "name one", given="none")
    if len(set(names)) < len(names):
        raise checks.refuse("kinds", f"different ones of {listed}", kinds, "name each once")
    return found
