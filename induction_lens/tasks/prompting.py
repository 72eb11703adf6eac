"""Prompts: items of a task as tokens, with worked examples before them.

Nothing is padded: prompts of one length are run together, so that every number is that of the
prompt alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models import (
    Model,
    Sequences,
    bos_id,
    device_of,
    model_name,
    shape,
    tokenizer_of,
)
from induction_lens.models.encoding import PlacedEncoder
from induction_lens.tasks.task import Item, Span, Target, Task, checked_task

SHOTS = 10
"""Worked examples in a prompt, as in Todd et al. 2024 and Yin and Steinhardt 2025."""


@dataclass(frozen=True)
class Line:
    """One item in the text of a prompt."""

    item: Item
    """The item."""
    due: Span
    """The last character before its answer."""
    answer: Span | None
    """Its answer; None where that is asked for."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that end where an answer is due, as tokens."""

    task: Task
    """What is asked."""
    items: tuple[Item, ...]
    """The item that each prompt asks."""
    examples: tuple[tuple[Item, ...], ...]
    """The worked examples before it."""
    texts: tuple[str, ...]
    """Each prompt as text, up to where the answer is due."""
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    """Their tokens, BOS first."""
    spans: tuple[tuple[Span, ...], ...] = field(repr=False)
    """The first and last character of each token of `texts`, without BOS."""
    answers: Int[Tensor, " item"]
    """The first token of the right answer."""
    choices: Int[Tensor, " choice"]
    """The first token of each of the task's answers, after the first prompt."""
    tokenizer: Any = field(repr=False)
    """What made and reads the tokens."""

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.items)

    @cached_property
    def sequences(self) -> Sequences:
        """The tokens as rows, padded on the right, with how long each is."""
        lengths = torch.tensor([len(ids) for ids in self.ids], device="cpu")
        tokens = torch.full((len(self), int(lengths.max())), self.ids[0][0], device="cpu")
        for row, ids in enumerate(self.ids):
            tokens[row, : len(ids)] = torch.tensor(ids, device="cpu")
        return Sequences(tokens, torch.zeros_like(lengths), lengths)

    @property
    def chance(self) -> float:
        """What the best constant answer scores on these prompts: where several answers begin with
        one token, more than on the words."""
        return self.task.scoring.chance(self.task.scoring.right(self))

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return self.tokenizer.decode(ids)

    def positions(self, row: int, span: Span) -> list[int]:
        """The positions, BOS included, of the tokens that a span of characters falls on."""
        first, last = span
        places = enumerate(self.spans[row], start=1)
        return [place for place, (start, end) in places if start < last and end > first]

    def lines(self, row: int) -> list[Line]:
        """The examples of a prompt and what it asks, with where they are in its text."""
        found, start = [], len(self.task.instruction)
        for item in (*self.examples[row], self.items[row]):
            text = self.task.asked(item)
            end = start + len(text)
            is_asked = len(found) == len(self.examples[row])
            answer = None if is_asked else (end + 1, end + 1 + len(item.answer))
            found.append(Line(item, (end - 1, end), answer))
            start += len(self.task.written([item]))
        return found

    def targets(self, row: int) -> tuple[Target, ...]:
        """Where a head that does the task would attend, in characters of the whole prompt."""
        before = self.task.instruction + self.task.written(self.examples[row])
        start = len(before) + self.task.template.index("{prompt}")
        return tuple(_moved(target, start) for target in self.items[row].targets)


def _moved(target: Target, by: int) -> Target:
    def moved(span: Span) -> Span:
        return span[0] + by, span[1] + by

    keys, others = tuple(map(moved, target.keys)), tuple(map(moved, target.others))
    return Target(moved(target.query), keys, others)


def few_shot_prompts(
    model: Model,
    task: Task,
    *,
    shots: int = SHOTS,
    n_items: int = 100,
    shuffled_answers: bool = False,
    seed: int = 0,
) -> Prompts:
    """Prompts of worked examples, and one item of the task whose answer is due.

    Which items are asked, and which are the examples of each, is drawn by the seed alone, so that
    all models get the same. Of a choice, every class comes as often as the others, among what is
    asked and among the examples (up to one, where they do not divide). Of other tasks, examples
    never have the answer that is asked for. Items that are whole texts are asked without examples.

    Args:
        model: A model with a tokenizer that knows where tokens are in a text.
        task: What is asked.
        shots: Worked examples in each prompt.
        n_items: Items to ask: this many, or all there are.
        shuffled_answers: Whether the examples' answers are put into random order, in which they
            teach nothing (the corrupted prompts of Todd et al. 2024).
        seed: Seed of the draws.

    Raises:
        ValueError: If there are too few items for as many examples, a prompt is longer than the
            model's context, or the tokenizer does not put a token's end before an answer.

    Examples:
        >>> model = il.load("toy-2l")
        >>> task = il.tasks.Task.from_pairs("plurals", {"dog": "dogs", "cat": "cats"})
        >>> prompts = il.tasks.few_shot_prompts(model, task, shots=1)
        >>> sorted(text.splitlines()[0] for text in prompts.texts)
        ['Q: cat', 'Q: dog']
        >>> [text.splitlines()[-1] for text in prompts.texts]
        ['A:', 'A:']
    """
    checks.model(model)
    checked_task("task", task)
    shots = checks.whole_number("shots", shots, least=0, most=1000, remedy="for instance 10")
    n_items = checks.whole_number("n_items", n_items, least=1, most=10**5)
    shuffled_answers = checks.flag("shuffled_answers", shuffled_answers)
    generator = torch.Generator(device="cpu").manual_seed(checks.seed(seed))
    shots = 0 if task.of_whole_texts else shots
    asked = _drawn(task, task.items, n_items, generator)
    examples = [_examples(task, item, shots, generator) for item in asked]
    if shuffled_answers:
        examples = [_with_answers_shuffled(some, generator) for some in examples]
    return encoded(model, task, asked, examples)


def encoded(
    model: Model, task: Task, asked: Sequence[Item], examples: Sequence[Sequence[Item]]
) -> Prompts:
    """Items with the examples before each as tokens.

    Raises:
        ValueError: As `few_shot_prompts`.
    """
    tokenizer = _tokenizer(model)
    encode = PlacedEncoder(tokenizer)
    texts, ids, spans, answers = [], [], [], []
    for item, some in zip(asked, examples, strict=True):
        text = task.instruction + task.written(some) + task.asked(item)
        tokens, places = encode(text)
        texts.append(text)
        ids.append((bos_id(model), *tokens))
        spans.append(tuple(places))
        answers.append(_first_token(encode, text, tokens, item.answer))
    first = list(ids[0][1:])
    choices = [_first_token(encode, texts[0], first, answer) for answer in task.answers]
    _check_fit(model, task, ids)
    return Prompts(
        task=task,
        items=tuple(asked),
        examples=tuple(map(tuple, examples)),
        texts=tuple(texts),
        ids=tuple(ids),
        spans=tuple(spans),
        answers=torch.tensor(answers, device="cpu"),
        choices=torch.tensor(choices, device="cpu"),
        tokenizer=tokenizer,
    )


def groups(
    model: Model, prompts: Prompts
) -> Iterable[tuple[Int[Tensor, " row"], Int[Tensor, "row pos"]]]:
    """Prompts of one length: which they are, and their tokens on the model's device."""
    for rows, tokens in prompts.sequences.groups():
        yield rows, tokens.to(device_of(model))


def _tokenizer(model: Model) -> Any:
    """The model's tokenizer, which has to know where tokens are.

    Raises:
        ValueError: If there is none, or it does not.
    """
    tokenizer = tokenizer_of(model)
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        got = "none" if tokenizer is None else type(tokenizer).__name__
        raise ValueError(
            f"expected {model_name(model)} to have a fast tokenizer, which knows where tokens are "
            f"in a text, got {got}; set model.tokenizer to a PreTrainedTokenizerFast"
        )
    return tokenizer


def _first_token(encode: PlacedEncoder, text: str, tokens: list[int], answer: str) -> int:
    """The first token of an answer after a prompt.

    Raises:
        ValueError: If the prompt's last tokens change when the answer follows.
    """
    whole, _ = encode(f"{text} {answer}")
    if whole[: len(tokens)] == tokens and len(whole) > len(tokens):
        return whole[len(tokens)]
    raise ValueError(
        f"expected a token to end where an answer is due, got {text[-12:]!r}, which the tokenizer "
        f"cuts otherwise before {answer!r}; end the template's question with a mark such as ':'"
    )


def _check_fit(model: Model, task: Task, ids: Sequence[Sequence[int]]) -> None:
    sizes = shape(model)
    longest, highest = max(map(len, ids)), max(map(max, ids))
    room = sizes.n_ctx - task.scoring.n_new  # the answer follows
    if longest > room:
        raise ValueError(
            f"expected prompts of {task.name} of at most {room} tokens (the model's context, less "
            f"{task.scoring.n_new} for the answer), got {longest}; pass fewer shots"
        )
    if highest >= sizes.d_vocab:
        raise ValueError(
            f"expected prompts of {task.name} in the model's {sizes.d_vocab} tokens, got token "
            f"{highest} of its tokenizer; load the tokenizer that the model was trained with"
        )


def _drawn(task: Task, items: Sequence[Item], n: int, generator: torch.Generator) -> list[Item]:
    """Up to `n` of the items in random order; of a choice, the classes in turns."""
    order = torch.randperm(len(items), generator=generator, device="cpu").tolist()
    mixed = [items[i] for i in order]
    if not task.is_choice:
        return mixed[:n]
    by_class = [[item for item in mixed if item.answer == one] for one in task.answers]
    n_rounds = min(len(some) for some in by_class if some)
    turns = [some[turn] for turn in range(n_rounds) for some in by_class if some]
    return turns[:n]


def _examples(task: Task, asked: Item, shots: int, generator: torch.Generator) -> list[Item]:
    """Worked examples before an item, in random order.

    Raises:
        ValueError: If there are not as many.
    """
    others = [item for item in task.items if item.prompt != asked.prompt]
    if not task.is_choice:
        others = [item for item in others if item.answer != asked.answer]
    drawn = _drawn(task, others, shots, generator)
    if len(drawn) < shots:
        raise ValueError(
            f"expected at most {len(drawn)} shots of {task.name}, which has no more other items "
            f"(as many of each class, where it is a choice), got {shots}; add items"
        )
    order = torch.randperm(len(drawn), generator=generator, device="cpu").tolist()
    return [drawn[i] for i in order]


def _with_answers_shuffled(some: Sequence[Item], generator: torch.Generator) -> list[Item]:
    order = torch.randperm(len(some), generator=generator, device="cpu").tolist()
    mixed = [some[i].answer for i in order]
    return [dataclasses.replace(item, answer=a) for item, a in zip(some, mixed, strict=True)]
