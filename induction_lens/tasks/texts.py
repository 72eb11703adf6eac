"""Tasks of whole texts, with where a head would attend: literal copying, and translation.

Both ask for the last word of a text. In both, a query is the last token of a word, and its targets
are all tokens of the word that comes next, in an earlier place: where the same words stand, or
where words of the same meaning stand. The paper shows single heads and gives no score; these are as
we operationalise it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from induction_lens import checks
from induction_lens.tasks.task import AS_IT_IS, Item, Span, Target, Task
from induction_lens.tasks.words import CODES, LANGUAGES, AlignedSentence, aligned_sentences

_WORD = re.compile(r"\S+")
_FEWEST = 12  # words of a passage: half of them are repeated
_PER_PASSAGE = 4  # aligned sentences
_SHARED = 4  # words in a row that tell a passage


def literal_copying(
    passages: Sequence[str] | None = None, *, different: bool = False, seed: int = 0
) -> Task:
    """Passages followed by their own beginning, up to a word that is asked for.

    The second part is the first half of the passage's words. A query is the last token of a word
    in it; its targets are the tokens of the word that followed in the passage, and its control is
    another word of the passage.

    Args:
        passages: Texts of at least 12 words; None takes our English sentences, four at a time.
        different: The control: the second part is the beginning of a *different* passage, of as
            many words, while the targets stay where they would be: one that shares least with the
            passage, where several share some words in a row.
        seed: Seed of the control words, and of which passage is the other.

    Source: Olsson et al. 2022, "Argument 4": literal copying.

    Raises:
        ValueError: If a passage is too short, or there is no different one where one is needed.

    Examples:
        >>> text = "one two three four five six seven eight nine ten eleven twelve"
        >>> task = il.tasks.literal_copying([text])
        >>> task.items[0].prompt.split()[-3:], task.items[0].answer
        (['three', 'four', 'five'], 'six')
    """
    listed = _own_passages() if passages is None else _checked(passages)
    different = checks.flag("different", different)
    if different and len(listed) < 2:
        remedy = "pass another passage"
        raise checks.refuse("passages", "two or more", passages, remedy, given="one")
    generator = torch.Generator(device="cpu").manual_seed(checks.seed(seed))
    shift = 1 + int(torch.randint(max(1, len(listed) - 1), (1,), generator=generator, device="cpu"))
    items = []
    for index, passage in enumerate(listed):
        first = (index + shift) % len(listed)
        others = [*listed[first:], *listed[:first]]
        again = _different_words(passage, others) if different else passage.split()
        n_words = min(len(_WORD.findall(passage)) // 2, len(again))
        items.append(_copied(passage, again[:n_words], generator))
    name = "literal, different passage" if different else "literal"
    source = 'Olsson et al. 2022, "Argument 4"'
    return Task(name, tuple(items), template=AS_IT_IS, source=source)


def translated_sentences(
    languages: Sequence[str] = ("English", "French", "German"), *, diagonal: bool = False
) -> Task:
    """The same sentence in several languages, one after another, up to the last word.

    A query is the last token of a word in a later language; its targets are the tokens of those
    words in earlier languages that mean what comes *next*; its control is as many words, half a
    sentence on: the same alignment, permuted within the sentence.

    Args:
        languages: Two or more of English, French, German and Spanish, in the order of the text.
        diagonal: Targets by place instead of meaning: in earlier languages, the words that have the
            place of the word that comes next. The control is half a sentence on.

    Source: Olsson et al. 2022, "Argument 4": translation. Sentences and alignments are ours.

    Raises:
        ValueError: For fewer languages, or others.

    Examples:
        >>> task = il.tasks.translated_sentences(["English", "French"])
        >>> print(task.items[0].prompt)
        The black cat sleeps on the bed.
        Le chat noir dort sur le
        >>> prompt, target = task.items[0].prompt, task.items[0].targets[1]
        >>> prompt[slice(*target.query)], [prompt[slice(*key)] for key in target.keys]
        ('chat', ['black'])
    """
    chosen = checks.some_of("languages", languages, CODES)
    if len(chosen) < 2:
        remedy = f"out of {', '.join(LANGUAGES)}"
        raise checks.refuse("languages", "two or more", languages, remedy)
    by_place = checks.flag("diagonal", diagonal)
    items = tuple(
        _translated([some[name] for name in chosen], by_place=by_place)
        for some in aligned_sentences()
    )
    source = 'Olsson et al. 2022, "Argument 4"; our sentences'
    name = f"sentences{', by place' * by_place}, {', '.join(chosen)}"
    return Task(name, items, template=AS_IT_IS, source=source)


def _own_passages() -> list[str]:
    english = [some["English"].text for some in aligned_sentences()]
    starts = range(0, len(english) - _PER_PASSAGE + 1, _PER_PASSAGE)
    # each sentence begins two passages, so that there are enough
    passages = [english[n : n + _PER_PASSAGE] for n in starts]
    passages += [english[n + 2 : n + 2 + _PER_PASSAGE] for n in starts[:-1]]
    return [" ".join(some) for some in passages]


def _checked(passages: object) -> list[str]:
    listed = [checks.text("each of passages", one) for one in checks.several("passages", passages)]
    short = next((one for one in listed if len(_WORD.findall(one)) < _FEWEST), None)
    if short is not None or not listed:
        condition = f"texts of at least {_FEWEST} words"
        raise checks.refuse("passages", condition, short, "pass longer ones")
    return listed


def _different_words(passage: str, others: Sequence[str]) -> list[str]:
    """The words of another passage: the first of those whose beginning shares least with this one.

    Raises:
        ValueError: If all begin alike.
    """
    own = passage.split()
    n_half, whole = len(own) // 2, " ".join(own)

    def shared(words: Sequence[str]) -> int:
        """How many runs of a few words of its beginning are in this passage."""
        starts = range(max(1, min(n_half, len(words)) - _SHARED + 1))
        return sum(" ".join(words[n : n + _SHARED]) in whole for n in starts)

    listed = [other.split() for other in others]
    different = [words for words in listed if words[:n_half] != own[:n_half]]
    if not different:
        remedy = "pass another passage"
        condition = "two or more that begin differently"
        raise checks.refuse("passages", condition, None, remedy, given="some that begin alike")
    return min(different, key=shared)


def _copied(passage: str, again: Sequence[str], generator: torch.Generator) -> Item:
    """A passage and the words after it, the last of which is asked for."""
    earlier = [match.span() for match in _WORD.finditer(passage)]
    begin = f"{passage}\n\n"
    prompt = begin + " ".join(again[:-1])
    later = [(a + len(begin), b + len(begin)) for a, b in _spans(again[:-1])]
    targets = []
    for index, query in enumerate(later):
        step = 2 + int(torch.randint(len(earlier) - 3, (1,), generator=generator, device="cpu"))
        other = earlier[(index + step) % len(earlier)]
        targets.append(Target(query, (earlier[index + 1],), (other,)))
    return Item(prompt, again[-1], targets=tuple(targets))


def _spans(some: Sequence[str]) -> list[Span]:
    """Where words are that are joined by spaces."""
    spans, start = [], 0
    for word in some:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


@dataclass(frozen=True)
class _Placed:
    """A sentence in its text."""

    sentence: AlignedSentence
    spans: list[Span]

    def of(self, english: Sequence[int]) -> list[Span]:
        """Where the words are that stand for some English ones."""
        wanted = set(english)
        pairs = zip(self.spans, self.sentence.english, strict=True)
        return [span for span, means in pairs if wanted & set(means)]

    def at(self, place: int, *, half_on: bool = False) -> list[Span]:
        """The word at a place, if there is one, or that half a sentence on."""
        if half_on:
            place = (place + len(self.spans) // 2) % len(self.spans)
        return self.spans[place : place + 1]


def _translated(sentences: Sequence[AlignedSentence], *, by_place: bool = False) -> Item:
    text, placed = "", []
    for sentence in sentences:
        begin = len(text)
        spans = [(a + begin, b + begin) for a, b in _spans(sentence.words)]
        placed.append(_Placed(sentence, [_bare(text + sentence.text, span) for span in spans]))
        text += sentence.text + "\n"
    n_english = 1 + max(max(means, default=0) for one in sentences for means in one.english)
    targets = []
    for index, later in enumerate(placed[1:], start=1):
        following = zip(later.spans, later.sentence.english[1:], strict=False)
        for place, (query, means) in enumerate(following, start=1):
            shifted = [(word + n_english // 2) % n_english for word in means]
            keys = [span for one in placed[:index] for span in one.of(means)]
            others = [span for one in placed[:index] for span in one.of(shifted)]
            if by_place:
                keys = [span for one in placed[:index] for span in one.at(place)]
                others = [span for one in placed[:index] for span in one.at(place, half_on=True)]
            if keys and others and not set(keys) & set(others):
                targets.append(Target(query, tuple(keys), tuple(others)))
    last = sentences[-1].words[-1]
    prompt = text.rstrip("\n").removesuffix(f" {last}")
    return Item(prompt, last, targets=tuple(targets))


def _bare(text: str, span: Span) -> Span:
    """A word without the mark that ends its sentence."""
    start, end = span
    return (start, end - 1) if text[end - 1] in ".,!?" else span
