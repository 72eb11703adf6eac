"""Word lists and aligned sentences that ship with the package: all of our own making."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from induction_lens import checks

DATA = Path(__file__).parents[1] / "data" / "tasks"
LANGUAGES = ("English", "French", "German", "Spanish")
"""The languages of the aligned sentences, in the order of their lines."""
CODES = dict(zip(LANGUAGES, ("en", "fr", "de", "es"), strict=True))


@cache
def _sections(file: str) -> dict[str, str]:
    """The line below each heading of a file."""
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    headings = [line.removeprefix("# ") for line in lines[::2]]
    return dict(zip(headings, lines[1::2], strict=True))


def words(kind: str) -> list[str]:
    """The words of a kind: month, animal, colour, fruit, furniture, profession, day,
    number; or entity and identifier, of several tokens each.

    Raises:
        ValueError: For another kind.

    Examples:
        >>> il.tasks.words("fruit")[:3]
        ['apple', 'pear', 'grape']
    """
    listed = _sections("words.txt")
    line = listed[checks.one_of("kind", kind, listed)]
    return line.split("|") if "|" in line else line.split()


def pairs(kind: str) -> list[tuple[str, str]]:
    """Pairs of words: antonyms, plurals, past tense, capitals.

    Raises:
        ValueError: For another kind.

    Examples:
        >>> il.tasks.pairs("capitals")[0]
        ('France', 'Paris')
    """
    listed = _sections("pairs.txt")
    line = listed[checks.one_of("kind", kind, listed)]
    split = [one.split(" ", 1) for one in line.split("|")]
    return [(left, right) for left, right in split]


@dataclass(frozen=True)
class AlignedSentence:
    """A sentence in one of the languages, and which English words each of its words stands for."""

    words: tuple[str, ...]
    """Its words, the last one with its full stop."""
    english: tuple[tuple[int, ...], ...]
    """For each word, the English words that it translates, counted from 0."""

    @property
    def text(self) -> str:
        """The sentence."""
        return " ".join(self.words)


@cache
def aligned_sentences() -> tuple[dict[str, AlignedSentence], ...]:
    """Sentences of our own in English, French, German and Spanish, aligned word by word by hand.

    Examples:
        >>> first = il.tasks.aligned_sentences()[0]
        >>> first["French"].text, first["French"].english[2]
        ('Le chat noir dort sur le lit.', (1,))
    """
    text = (DATA / "sentences.txt").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return tuple(
        {name: _aligned(line) for name, line in zip(LANGUAGES, block, strict=True)}
        for block in blocks
    )


def _aligned(line: str) -> AlignedSentence:
    """A line: a sentence, and after a bar the numbers of English words, 0 for none; without a bar
    they are in order."""
    sentence, _, numbers = line.partition("|")
    found = tuple(sentence.split())
    if not numbers:
        return AlignedSentence(found, tuple((index,) for index in range(len(found))))
    listed = [[int(number) - 1 for number in part.split("+")] for part in numbers.split()]
    english = tuple(tuple(index for index in some if index >= 0) for some in listed)
    return AlignedSentence(found, english)
