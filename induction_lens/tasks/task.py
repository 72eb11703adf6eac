"""What a task is: items that are asked, how they are written into a prompt, how answers are scored.

A task of your own is one line: `Task.from_pairs("opposites", [("hot", "cold"), ...])`, or
`Task.from_frame("opposites", frame)`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.tasks.scoring import FIRST_TOKEN, Choice, Scoring, as_scoring

if TYPE_CHECKING:
    import pandas as pd

PROMPT, ANSWER = "{prompt}", "{answer}"
QUESTION = "Q: {prompt}\nA: {answer}\n\n"
"""The form of Todd et al. 2024."""
LABELLED = "{prompt}: {answer}\n"
"""The form of the paper's pattern task."""
AS_IT_IS = "{prompt} {answer}\n\n"
"""Of items that are whole texts."""
Span = tuple[int, int]
"""The first character, and the one after the last."""


@dataclass(frozen=True)
class Target:
    """Where a head that does the task would attend, in the characters of an item's prompt."""

    query: Span
    """The word that is read; its last token is the query."""
    keys: tuple[Span, ...]
    """The words that ought to be attended to: all their tokens are keys."""
    others: tuple[Span, ...] = ()
    """The control: as many words that ought not to be."""


@dataclass(frozen=True)
class Item:
    """One question with its answer."""

    prompt: str
    """What is asked."""
    answer: str
    """What is right."""
    _: KW_ONLY
    kinds: tuple[str, ...] = ()
    """What each word of the prompt is, such as `month` and `fruit`, where the answer goes by it."""
    targets: tuple[Target, ...] = ()
    """Where a head that does the task would attend within the prompt."""


@dataclass(frozen=True, repr=False)
class Task:
    """Items that are asked in one form.

    Examples:
        >>> task = il.tasks.Task.from_pairs("plurals", [("dog", "dogs"), ("cat", "cats")])
        >>> task
        Task(plurals: 2 items, first-token, chance 0.50)
        >>> print(task.written(task.items[:1]) + task.asked(task.items[1]))
        Q: dog
        A: dogs
        <BLANKLINE>
        Q: cat
        A:
    """

    name: str
    """What it is called in tables."""
    items: tuple[Item, ...]
    """What is asked."""
    _: KW_ONLY
    template: str = QUESTION
    """How an item is written, with `{prompt}` before `{answer}`. The answer follows a space."""
    instruction: str = ""
    """What stands before the first item."""
    scoring: Scoring = FIRST_TOKEN
    """How an answer is scored."""
    source: str = ""
    """Where the task, or its words, are from."""

    def __post_init__(self) -> None:
        """Check that there are items, and that the form has room for both parts.

        Raises:
            ValueError: If not.
        """
        checks.text("name", self.name)
        for item in self.items:
            checks.instance("each of items", item, Item, "pass Item(prompt, answer)")
            if not item.prompt.strip() or not item.answer.strip():
                raise checks.refuse(
                    "each of items", "a prompt and an answer", item, "leave empty ones out"
                )
        if not self.items:
            raise checks.refuse("items", "at least one", self.items, "pass some", given="none")
        first, _, second = checks.text("template", self.template).partition(ANSWER)
        if PROMPT not in first or not second or not first.endswith(" "):
            remedy = f"for instance {QUESTION!r}"
            condition = "{prompt}, then {answer} after a space, then what ends an item"
            raise checks.refuse("template", condition, self.template, remedy)
        checks.text("instruction", self.instruction)
        checks.instance("scoring", self.scoring, Scoring, "for instance tasks.FirstToken()")

    def __repr__(self) -> str:
        """In one line: how many items, how they are scored, and what chance is."""
        named = f"{self.name}: {len(self.items)} items, {self.scoring.name}"
        return f"Task({named}, chance {self.chance:.2f})"

    @classmethod
    def from_pairs(
        cls, name: str, pairs: Iterable[Sequence[str]] | Mapping[str, str], **options: Any
    ) -> Task:
        """A task from pairs of a prompt and an answer, or a dictionary; each pair counts once.

        Answers that all come three times or more are the classes of a choice, and only these are
        told apart; other answers are scored by their first token.

        Args:
            name: What it is called.
            pairs: What is asked, and what is right.
            options: Further fields of `Task`.

        Raises:
            ValueError: If one is no pair of texts, or there is none.
        """
        listed = pairs.items() if isinstance(pairs, Mapping) else checks.several("pairs", pairs)
        items: dict[Item, None] = {}  # a dictionary keeps the order
        for pair in listed:
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
                remedy = "for instance ('hot', 'cold')"
                raise checks.refuse("each of pairs", "a prompt and an answer", pair, remedy)
            prompt, answer = (checks.text("each of a pair", part).strip() for part in pair)
            items[Item(prompt, answer)] = None
        made = cls(name, tuple(items), **options)
        chosen = made.is_choice and "scoring" not in options
        return made.scored(Choice()) if chosen else made

    @classmethod
    def from_frame(
        cls,
        name: str,
        frame: pd.DataFrame,
        *,
        prompt: str | None = None,
        answer: str | None = None,
        **options: Any,
    ) -> Task:
        """A task from a data frame, one item a row; rows where one of the two is missing are left
        out.

        Args:
            name: What it is called.
            frame: The rows.
            prompt: The column of what is asked; None takes `prompt` where there are columns of that
                name and `answer`, else the first of two.
            answer: The column of what is right; None takes the other one.
            options: Further fields of `Task`.

        Raises:
            ValueError: If there is no such column, or it is not clear which are meant.
        """
        columns = [str(column) for column in getattr(frame, "columns", ())]
        if len(columns) < 2:
            remedy = "pass one with a column of prompts and one of answers"
            raise checks.refuse("frame", "a data frame of two columns or more", frame, remedy)
        asked, right = _columns(columns, prompt, answer)
        parts = [frame.iloc[:, columns.index(column)] for column in (asked, right)]
        known = parts[0].notna() & parts[1].notna()
        texts = [part[known].astype(str) for part in parts]
        return cls.from_pairs(name, list(zip(*texts, strict=True)), **options)

    @property
    def chance(self) -> float:
        """What the best constant answer scores: 1 over the classes, where they are balanced."""
        return self.scoring.chance([item.answer for item in self.items])

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer once, in the order of the items."""
        return tuple(dict.fromkeys(item.answer for item in self.items))

    @property
    def is_choice(self) -> bool:
        """Whether answers are classes, each of three items or more."""
        counts = Counter(item.answer for item in self.items)
        return len(counts) > 1 and min(counts.values()) >= 3

    @property
    def of_whole_texts(self) -> bool:
        """Whether an item is a text of its own, asked without others before it."""
        return any(item.targets for item in self.items)

    def scored(self, scoring: Scoring | str) -> Task:
        """The same task with answers scored otherwise: `first-token`, `choice` or `f1`."""
        return dataclasses.replace(self, scoring=as_scoring(scoring))

    def asked(self, item: Item) -> str:
        """An item up to its answer, without the space before it."""
        before, _, _ = self.template.partition(f" {ANSWER}")
        return before.replace(PROMPT, item.prompt)

    def written(self, items: Iterable[Item]) -> str:
        """Items with their answers, one after another."""
        _, _, after = self.template.partition(ANSWER)
        return "".join(f"{self.asked(item)} {item.answer}{after}" for item in items)


def checked_task(name: str, given: object) -> Task:
    """A task.

    Raises:
        ValueError: If it is something else, with how to make one of it.
    """
    remedy = "make one with tasks.Task.from_pairs(name, pairs)"
    if hasattr(given, "columns"):
        remedy = "make one with tasks.Task.from_frame(name, frame)"
    elif isinstance(given, str):
        remedy = f"tasks.ready({given!r}) makes ready ones, which tasks.READY lists"
    elif isinstance(given, list) and given and all(isinstance(one, Task) for one in given):
        remedy = "pass one of them, such as the first, [0]"
    return checks.instance(name, given, Task, remedy)


def _columns(columns: list[str], prompt: str | None, answer: str | None) -> tuple[str, str]:
    """Which columns of a data frame hold what is asked, and what is right.

    Raises:
        ValueError: There is no such column, or one name is that of several; both are the same; or
            neither names nor number say which are meant.
    """
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"expected columns of different names, got {twice!r} more than once; rename them"
        )
    chosen: dict[str, str | None] = {"prompt": prompt, "answer": answer}
    for name, column in chosen.items():
        if column is not None:
            checks.one_of(name, column, columns)
    named = {name: name if column is None else column for name, column in chosen.items()}
    if all(column in columns for column in named.values()):
        found = named
    elif len(columns) == 2:
        first, second = columns
        if (answer is None and prompt == second) or (prompt is None and answer == first):
            first, second = second, first
        found = {"prompt": prompt or first, "answer": answer or second}
    else:
        missing = " and ".join(f"{name}=" for name, column in chosen.items() if column is None)
        raise ValueError(
            f"expected a data frame with columns prompt and answer, or two columns, got "
            f"{', '.join(columns)}; name them with {missing}"
        )
    if found["prompt"] == found["answer"]:
        raise ValueError(
            f"expected two columns, got {found['prompt']!r} for both prompt and answer; name "
            "another"
        )
    return found["prompt"], found["answer"]
