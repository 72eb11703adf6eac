"""Tasks as a language: documents of worked examples, written as `few_shot` asks them.

A model that is trained on them, in a mixture with text, learns to read a task from examples. Every
document is of one task, drawn for it alone, and so are its labels: they have to be read from the
document. No prompt of a ready task with labels (`pattern`, `ABAB`, `classes-2` and
the like) is ever drawn, nor any pair of the list of plurals: on these, a model that was trained so
is asked what it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations, product
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages import Language
from induction_lens.languages.language import BOS
from induction_lens.models.encoding import PlacedEncoder
from induction_lens.tasks.ready import LETTERS, letter_sequences, ready, some_of, successors
from induction_lens.tasks.scoring import Choice
from induction_lens.tasks.task import LABELLED, Item, Task
from induction_lens.tasks.words import pairs, words

HELD_OUT = ("pattern", "ABAB", "ABBB", "ABCBA", "classes-2", "classes-4")
"""The ready tasks none of whose prompts is ever written."""
KINDS = ("month", "animal", "colour", "fruit", "furniture", "profession", "day", "number")
"""The kinds of words that labels stand for."""
FORMS = ("ABAB", "ABBB", "ABCBA", "AABB", "ABBA", "ABA", "AAB", "ABCABC")
"""The forms that letters are written in."""
_WORDS = ("Foo", "Bar", "Mur", "Res", "Dax", "Wug", "Lem", "Nob", "Tim", "Gul", "Hap", "Vex", "Pim")
LABELS = (*_WORDS, "0", "1", "2", "3", "4")
"""The labels that are drawn from, among them those of the ready tasks."""
LISTS = ("antonyms", "past tense", "capitals")
"""The lists of pairs that are written, beside successors; plurals are kept apart."""
Maker = Callable[[torch.Generator, int], Task]
"""What makes a task of so many items."""


@dataclass(frozen=True, eq=False)
class WrittenTasks(Language):
    """Documents of worked examples, one task each, with BOS between them.

    Its best predictor is not known.

    Examples:
        >>> language = il.tasks.WrittenTasks(il.load("toy-2l").tokenizer)
        >>> import torch
        >>> print(language.document(torch.Generator().manual_seed(3))[:25])
        Z Q Q Q: Res
        L V V V: Res
    """

    tokenizer: Any = field(repr=False)
    """What the documents are written with; its BOS has id 0."""
    makers: Sequence[Maker] | None = field(default=None, repr=False)
    """What makes a task; each is drawn equally often. None: `labelled_words` twice,
    `labelled_letters`, and `listed_pairs`."""
    least: int = 8
    """Items in a document at least."""
    most: int = 32
    """Items in a document at most."""

    def __post_init__(self) -> None:
        """Check the options."""
        if getattr(self.tokenizer, "bos_token_id", None) != BOS:
            remedy = "for instance that of a model that ships with the package"
            raise checks.refuse("tokenizer", f"one with BOS {BOS}", self.tokenizer, remedy)
        checks.whole_number("least", self.least, least=1)
        checks.whole_number("most", self.most, least=self.least)

    @property
    def d_vocab(self) -> int:
        """That of the tokenizer."""
        return len(self.tokenizer)

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        encode = PlacedEncoder(self.tokenizer)  # whatever the tokenizer was used for before
        rows = []
        for _ in range(n):
            row: list[int] = []
            while len(row) < seq_len:
                text = self.document(rng)
                row += [BOS] if row else []
                row += encode(text)[0]
            rows.append(row[:seq_len])
        return torch.tensor(rows, dtype=torch.long, device="cpu")

    def document(self, generator: torch.Generator) -> str:
        """One document: a task's items with their answers, one after another."""
        makers = self.makers or (labelled_words, labelled_words, labelled_letters, listed_pairs)
        maker = makers[_below(len(makers), generator)]
        n_items = self.least + _below(self.most - self.least + 1, generator)
        task = maker(generator, n_items)
        return task.instruction + task.written(task.items)


def labelled_words(generator: torch.Generator, n_items: int) -> Task:
    """Words of two to four classes with a label each: single words by their kind, pairs of words by
    both kinds, or by all crossings of two first and two second kinds.

    Args:
        generator: What the draws are from.
        n_items: Items to draw, with replacement.

    Examples:
        >>> import torch
        >>> task = il.tasks.labelled_words(torch.Generator().manual_seed(1), 3)
        >>> [(item.prompt, item.answer) for item in task.items]
        [('January writer', 'Tim'), ('snake grey', 'Dax'), ('lizard purple', 'Dax')]
    """
    classes = _classes(generator)
    labels = some_of(list(LABELS), len(classes), generator)
    items = []
    for _ in range(n_items):
        which = _below(len(classes), generator)
        items.append(Item(_unseen(classes[which], generator), labels[which], kinds=classes[which]))
    return Task("labelled words", tuple(items), template=LABELLED, scoring=Choice())


def _classes(generator: torch.Generator) -> list[tuple[str, ...]]:
    how = _below(3, generator)
    if how == 0:
        chosen = some_of(list(KINDS), 2 + _below(3, generator), generator)
        return [(kind,) for kind in chosen]
    if how == 1:
        return some_of(list(permutations(KINDS, 2)), 2 + _below(3, generator), generator)
    chosen = some_of(list(KINDS), 4, generator)
    return list(product(chosen[:2], chosen[2:]))


def _unseen(kinds: Sequence[str], generator: torch.Generator) -> str:
    """Words of these kinds that are no prompt of a ready task."""
    while True:
        drawn = [words(kind)[_below(len(words(kind)), generator)] for kind in kinds]
        if (prompt := " ".join(drawn)) not in held_out():
            return prompt


def labelled_letters(generator: torch.Generator, n_items: int) -> Task:
    """Letters that repeat themselves in one form, and letters that are all different, with a label
    each.

    Args:
        generator: What the draws are from.
        n_items: Items to draw, with replacement.

    Examples:
        >>> import torch
        >>> task = il.tasks.labelled_letters(torch.Generator().manual_seed(1), 3)
        >>> [(item.prompt, item.answer) for item in task.items]
        [('C P C', 'Wug'), ('F N F', 'Wug'), ('G Z G', 'Wug')]
    """
    form = FORMS[_below(len(FORMS), generator)]
    labels = some_of(list(LABELS), 2, generator)
    items = []
    while len(items) < n_items:
        which = _below(2, generator)
        [prompt] = letter_sequences((form, LETTERS[: len(form)])[which], 1, generator)
        if prompt not in held_out():
            items.append(Item(prompt, labels[which]))
    return Task(f"labelled {form}", tuple(items), template=LABELLED, scoring=Choice())


def listed_pairs(generator: torch.Generator, n_items: int) -> Task:
    """Pairs of one list of words, half of the time as they are, else the other way round, or each
    word with itself: which it is has to be read from the document.

    Args:
        generator: What the draws are from.
        n_items: Items to draw, with replacement.

    Examples:
        >>> import torch
        >>> task = il.tasks.listed_pairs(torch.Generator().manual_seed(5), 2)
        >>> [(item.prompt, item.answer) for item in task.items]
        [('September', 'August'), ('18', '17')]
    """
    lists = _lists()
    name = list(lists)[_below(len(lists), generator)]
    how = _below(4, generator)
    items = []
    for _ in range(n_items):
        left, right = lists[name][_below(len(lists[name]), generator)]
        items.append(Item(*((left, right), (left, right), (right, left), (left, left))[how]))
    return Task(name, tuple(items))


@cache
def _lists() -> dict[str, list[tuple[str, str]]]:
    following = [(item.prompt, item.answer) for item in successors().items]
    return {**{name: pairs(name) for name in LISTS}, "successors": following}


@cache
def held_out() -> frozenset[str]:
    """The prompts that are never written with a label: those of the tasks in `HELD_OUT`."""
    return frozenset(item.prompt for task in ready(*HELD_OUT) for item in task.items)


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator, device="cpu"))
