"""Function-vector heads: what one head's usual output at the last token does for a task.

The causal indirect effect of Todd et al. 2024 ("Function Vectors in Large Language Models"):

1. A head's mean output at the last token, over prompts of the task with right examples.
2. Prompts whose examples have their answers in random order, so that they teach nothing.
3. In these, that mean is written in place of the head's output at the last token: the score is how
   much likelier the first token of the right answer gets, in the mean over prompts and tasks.

The null writes the head's mean over the shuffled prompts instead: what any mean output does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.methods import Mean
from induction_lens.detectors.kinds import HeadKind
from induction_lens.detectors.measure import ratio_and_error
from induction_lens.heads import Head, HeadScores
from induction_lens.models import Model, check_written, output_weights, shape
from induction_lens.tasks.asking import Asking, Without, last_outputs
from induction_lens.tasks.few_shot import parsed
from induction_lens.tasks.prompting import SHOTS, few_shot_prompts
from induction_lens.tasks.ready import ready
from induction_lens.tasks.task import Task

TRIALS = 25
"""Prompts of each task, as in Todd et al. 2024."""
SCORED_ON = ("antonyms", "capitals", "successors", "english-french")
"""The ready tasks that heads are scored on by default."""


@dataclass(frozen=True, eq=False)
class FunctionVectorHeads(HeadKind):
    """Heads whose mean output at the last token carries a task.

    Choose heads on some tasks, and measure accuracy without them on others.
    """

    tasks: Sequence[Task] | None = None
    """The tasks; None takes `SCORED_ON`. Those that the model cannot do say little."""
    shots: int = SHOTS
    """Worked examples in each prompt."""
    n_items: int = TRIALS
    """Prompts of each task."""
    name: ClassVar[str] = "function_vector"
    title: ClassVar[str] = "Function-vector heads"
    caption: ClassVar[str] = (
        "How much likelier the right answer gets where shuffled examples are shown and one head's "
        "output at the last token is its mean over right examples: 1 at most; chance is the same "
        "with its mean over shuffled ones."
    )
    source: ClassVar[str] = "Todd et al. 2024, Function Vectors in Large Language Models"

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`."""
        tasks = ready(*SCORED_ON) if self.tasks is None else checks.several("tasks", self.tasks)
        parts = [
            effects(
                model,
                checks.instance("each of tasks", task, Task, "make one with Task.from_pairs"),
                shots=self.shots,
                n_items=self.n_items,
                seed=seed,
                progress=progress,
            )
            for task in tasks
        ]
        if not parts:
            raise checks.refuse("tasks", "at least one", tasks, "pass some", given="none")
        # every task counts the same, whatever its number of items
        n_most = max(part.shape[-1] for part in parts)
        weights = torch.cat(
            [
                torch.full((n,), n_most / n, dtype=torch.float64, device="cpu")
                for n in (part.shape[-1] for part in parts)
            ]
        )
        taught, null = torch.cat(parts, dim=-1).double() * weights
        values, sem = ratio_and_error(taught, weights)
        _, over_null_sem = ratio_and_error(taught - null, weights)
        return HeadScores(
            self.name,
            values.float(),
            unit="copying",
            ceiling=1.0,
            uniform=0.0,
            null=ratio_and_error(null, weights)[0].float(),
            sem=sem.float(),
            over_null_sem=over_null_sem.float(),
            n_sequences=len(weights),
        )


def effects(
    model: Model,
    task: Task,
    *,
    shots: int = SHOTS,
    n_items: int = TRIALS,
    seed: int = 0,
    progress: bool = True,
) -> Float[Tensor, "2 layer head item"]:
    """What each head does to the probability of each answer: by its mean output over right
    examples, and by that over shuffled ones.

    Raises:
        ValueError: As `few_shot`.
        InterventionError: If the model drops the writes.
    """
    right, shuffled = (
        few_shot_prompts(
            model, task, shots=shots, n_items=n_items, shuffled_answers=mixed, seed=seed
        )
        for mixed in (False, True)
    )
    sizes = shape(model)
    heads = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    each = [Without((head,), Mean(), "last") for head in heads]
    title = f"function vectors, {task.name}" if progress else None
    found = []
    for usual in (right, shuffled):
        before, *after = Asking(model, shuffled, usual=usual).probabilities(each, progress=title)
        found.append(torch.stack(after) - before)
    return torch.stack(found).unflatten(1, (sizes.n_layers, sizes.n_heads))


def function_vector(
    model: Model,
    task: Task,
    heads: Sequence[Head],
    *,
    shots: int = SHOTS,
    n_items: int = 100,
    seed: int = 0,
) -> Float[Tensor, " d_model"]:
    """The sum of what some heads write in the mean at the last token of a task's prompts.

    Args:
        model: A hooked model with a tokenizer.
        task: The task.
        heads: Its function-vector heads, ten in Todd et al. 2024.
        shots: Worked examples in each prompt.
        n_items: Prompts to take the mean over.
        seed: Seed of the draws.

    Raises:
        ValueError: As `few_shot`, or if heads do not add what they put out, through `W_O`, to the
            residual stream.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> task = il.tasks.letter_pattern("ABAB")
        >>> vector = il.tasks.function_vector(model, task, [il.Head(1, 1)], n_items=10)
        >>> vector.shape
        torch.Size([128])
    """
    checks.model(model)
    chosen = parsed(model, heads)
    check_written(model, what="a function vector", scaled=False)
    prompts = few_shot_prompts(model, task, shots=shots, n_items=n_items, seed=seed)
    outputs = last_outputs(model, prompts.sequences)
    written = [
        outputs[one.layer][:, one.head].mean(0)
        @ output_weights(model, one.layer)[one.head].float().cpu()
        for one in chosen
    ]
    return torch.stack(written).sum(0)
