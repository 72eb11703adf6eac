"""Ready tasks on words: the paper's pattern task, letter patterns, word classes, word pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise, product
from string import ascii_uppercase
from typing import Any

import torch

from induction_lens import checks
from induction_lens.tasks.scoring import Choice
from induction_lens.tasks.task import LABELLED, Item, Task
from induction_lens.tasks.texts import literal_copying, translated_sentences
from induction_lens.tasks.words import CODES, pairs, words

LETTERS = "BCDFGHJKLMNPQRSTVWXYZ"
"""Letters that are no words of English by themselves."""
TEMPLATES = {
    ("month", "animal"): "0",
    ("month", "fruit"): "1",
    ("colour", "animal"): "2",
    ("colour", "fruit"): "3",
}
"""The paper's four templates, and their labels."""
CLDR = ("months", "days", "territories", "languages")
"""The lists of Unicode's Common Locale Data that Babel carries."""


def pattern(*, n_items: int = 400, seed: int = 0) -> Task:
    """The paper's pattern task: two words, and a label that says which kinds they are of.

    "June grape: 1": a month and an animal are 0, a month and a fruit 1, a colour and an animal 2, a
    colour and a fruit 3. To find the label, both words' kinds have to be put together.

    Args:
        n_items: Lines to draw, as many of each template.
        seed: Seed of the draw.

    Source: Olsson et al. 2022, "Argument 4", the "month-animal-color-fruit" task of C. Olah; the
    words are ours.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> task = il.tasks.pattern()
        >>> task
        Task(pattern: 400 items, choice, chance 0.25)
        >>> task.items[0].kinds
        ('month', 'animal')
    """
    n_each = _per_class(n_items, len(TEMPLATES))
    generator = _generator(seed)
    items = [
        Item(" ".join(chosen), label, kinds=kinds)
        for kinds, label in TEMPLATES.items()
        for chosen in some_of(list(product(*map(words, kinds))), n_each, generator)
    ]
    source = 'Olsson et al. 2022, "Argument 4"'
    return Task("pattern", tuple(items), template=LABELLED, scoring=Choice(), source=source)


def letter_pattern(form: str = "ABAB", *, n_items: int = 200, seed: int = 0) -> Task:
    """Sequences of letters that repeat themselves in one form, against sequences that do not.

    Each letter of the form stands for a random one. The answer is "Foo" for the form, and "Bar" for
    random letters that are all different.

    Args:
        form: `ABAB` (repetition), `ABBB` (recursion), `ABCBA` (centre embedding), or another.
        n_items: Sequences, half of each class.
        seed: Seed of the draw.

    Source: Crosbie and Shutova 2024, "Induction Heads as an Essential Mechanism for Pattern
    Matching in In-context Learning".

    Raises:
        ValueError: If no letter comes twice in the form, or an option is out of range.

    Examples:
        >>> task = il.tasks.letter_pattern("ABAB")
        >>> [len(set(item.prompt.split())) for item in task.items if item.answer == "Foo"][:3]
        [2, 2, 2]
    """
    form = checks.text("form", form)
    n_different = len(set(form))
    if n_different == len(form) or len(form) > len(LETTERS) or not form.strip():
        remedy = "for instance 'ABAB'"
        raise checks.refuse("form", "letters of which one comes twice", form, remedy)
    n_each = min(_per_class(n_items, 2), math.perm(len(LETTERS), n_different))
    generator = _generator(seed)
    items = [
        Item(sequence, label)
        for letters, label in ((form, "Foo"), (LETTERS[: len(form)], "Bar"))
        for sequence in letter_sequences(letters, n_each, generator)
    ]
    source = "Crosbie and Shutova 2024"
    options = {"template": LABELLED, "scoring": Choice(), "source": source}
    return Task(f"letters {form}", tuple(items), **options)


def letter_sequences(letters: str, n: int, generator: torch.Generator) -> list[str]:
    """Different sequences of one form, each of its letters another random one."""
    names = sorted(set(letters))
    found: dict[str, None] = {}  # a dictionary keeps the order of the draws
    while len(found) < n:
        order = torch.randperm(len(LETTERS), generator=generator, device="cpu").tolist()
        found[" ".join(LETTERS[order[names.index(letter)]] for letter in letters)] = None
    return list(found)


def word_classes(ways: int = 2, *, n_items: int = 400, seed: int = 0) -> Task:
    """Pairs of words whose kinds decide the label.

    Two ways: a fruit and an animal are "Foo", furniture and a profession "Bar". Four: a fruit or
    furniture, and an animal or a profession, in all crossings: "Foo", "Bar", "Mur", "Res".

    Args:
        ways: 2 or 4.
        n_items: Pairs, as many of each class.
        seed: Seed of the draw.

    Source: Crosbie and Shutova 2024; the words are ours.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> il.tasks.word_classes(4)
        Task(word classes, 4 ways: 400 items, choice, chance 0.25)
    """
    checks.whole_number("ways", ways, least=2, most=4, remedy="2 or 4")
    two = [("fruit", "animal"), ("furniture", "profession")]
    four = [two[0], ("furniture", "animal"), ("fruit", "profession"), two[1]]
    if ways == 3:
        raise checks.refuse("ways", "2 or 4", ways, "choose one of the two")
    classes = two if ways == 2 else four
    generator = _generator(seed)
    items = [
        Item(" ".join(chosen), label, kinds=kinds)
        for kinds, label in zip(classes, ("Foo", "Bar", "Mur", "Res"), strict=False)
        for chosen in some_of(
            list(product(*map(words, kinds))), _per_class(n_items, ways), generator
        )
    ]
    name, source = f"word classes, {ways} ways", "Crosbie and Shutova 2024"
    return Task(name, tuple(items), template=LABELLED, scoring=Choice(), source=source)


def word_pairs(kind: str) -> Task:
    """Pairs of words from our lists: `antonyms`, `plurals`, `past tense`, `capitals`.

    Most plurals and past tenses are irregular: of regular ones the first token is often that of the
    word itself, which copying gets right.

    Raises:
        ValueError: For another kind.

    Examples:
        >>> il.tasks.word_pairs("antonyms").items[0]
        Item(prompt='hot', answer='cold', kinds=(), targets=())
    """
    return Task.from_pairs(kind, pairs(kind), source="our lists")


def successors() -> Task:
    """What comes next: of months, days, letters, and numbers in words and in figures.

    Examples:
        >>> task = il.tasks.successors()
        >>> [(item.prompt, item.answer) for item in task.items[:2]]
        [('January', 'February'), ('February', 'March')]
    """
    rows = [words("month"), words("day"), list(ascii_uppercase), words("number")]
    rows += [[str(number) for number in range(1, 31)]]
    following = [pair for row in rows for pair in pairwise(row)]
    return Task.from_pairs("successors", following)


def translated_words(
    language: str = "French", *, of: str = "English", lists: Iterable[str] = CLDR
) -> Task:
    """Names of months, days, countries and languages, to be translated.

    Names that are the same in both languages are left out: those can be copied.

    Args:
        language: English, French, German or Spanish: into this one.
        of: From this one.
        lists: Which of `months`, `days`, `territories`, `languages`.

    Source: Unicode's Common Locale Data, as the package Babel carries them.

    Raises:
        ValueError: For another language or list, or without Babel.

    Examples:
        >>> task = il.tasks.translated_words("German", lists=["months", "days"])
        >>> dict((item.prompt, item.answer) for item in task.items)["Tuesday"]
        'Dienstag'
    """
    into = checks.one_of("language", language, CODES)
    source = checks.one_of("of", of, CODES)
    chosen = checks.some_of("lists", lists, CLDR)
    ours, theirs = _cldr(CODES[source]), _cldr(CODES[into])
    listed = [
        (name, theirs[which][key])
        for which in chosen
        for key, name in ours[which].items()
        if key in theirs[which] and name.lower() != theirs[which][key].lower()
    ]
    once = dict(reversed(listed))  # of two names that are the same, the first counts
    return Task.from_pairs(
        f"{source} to {into}", dict(reversed(once.items())), source="CLDR, through Babel"
    )


def _cldr(code: str) -> Mapping[str, Mapping[Any, str]]:
    """The lists of one language, by name; names with brackets or signs are left out.

    Raises:
        ValueError: Without Babel.
    """
    try:
        from babel import Locale
    except ModuleNotFoundError as error:
        raise ValueError(
            "expected the package Babel, which has the word lists, got none; run "
            "pip install 'induction_lens[tasks]'"
        ) from error
    locale = Locale.parse(code)
    lists: dict[str, Mapping[Any, str]] = {
        "months": locale.months["format"]["wide"],
        "days": locale.days["format"]["wide"],
        "territories": {key: name for key, name in locale.territories.items() if len(key) == 2},
        "languages": {key: name for key, name in locale.languages.items() if len(key) == 2},
    }
    return {
        which: {key: name for key, name in names.items() if _is_plain(name)}
        for which, names in lists.items()
    }


def _is_plain(name: str) -> bool:
    return all(letter.isalpha() or letter == " " for letter in name)


READY: dict[str, Callable[[], Task]] = {
    "literal": literal_copying,
    "literal-control": lambda: literal_copying(different=True),
    "sentences": translated_sentences,
    "pattern": pattern,
    "ABAB": lambda: letter_pattern("ABAB"),
    "ABBB": lambda: letter_pattern("ABBB"),
    "ABCBA": lambda: letter_pattern("ABCBA"),
    "classes-2": lambda: word_classes(2),
    "classes-4": lambda: word_classes(4),
    "antonyms": lambda: word_pairs("antonyms"),
    "plurals": lambda: word_pairs("plurals"),
    "past-tense": lambda: word_pairs("past tense"),
    "capitals": lambda: word_pairs("capitals"),
    "successors": successors,
    "english-french": lambda: translated_words("French"),
    "english-german": lambda: translated_words("German"),
    "english-spanish": lambda: translated_words("Spanish"),
}
"""What makes each ready task, by its short name."""


def ready(*names: str) -> list[Task]:
    """Ready tasks by their short names, which `READY` lists.

    Raises:
        ValueError: For another name, with the closest.

    Examples:
        >>> [task.name for task in il.tasks.ready("ABAB", "capitals")]
        ['letters ABAB', 'capitals']
    """
    return [READY[name]() for name in checks.some_of("names", names, READY)]


def _per_class(n_items: object, n_classes: int) -> int:
    n_items = checks.whole_number("n_items", n_items, least=3 * n_classes, most=10**4)
    return math.ceil(n_items / n_classes)


def _generator(seed: object) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(checks.seed(seed))


def some_of(options: list[Any], n: int, generator: torch.Generator) -> list[Any]:
    """Up to `n` of the options, drawn without replacement."""
    order = torch.randperm(len(options), generator=generator, device="cpu")[:n].tolist()
    return [options[i] for i in order]
