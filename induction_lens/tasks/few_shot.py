"""Few-shot accuracy: how often a model answers rightly after worked examples, with heads and
without.

This is the other kind of in-context learning: the ICL score says how much context lowers the loss
of any token, few-shot accuracy whether a task is understood from examples. Different heads may
carry them (Yin and Steinhardt 2025).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.estimates import Estimate, bounded_mean, columns
from induction_lens.heads import Head, HeadLike, HeadScores, names_of, parse_heads
from induction_lens.models import Model, provenance_of, shape
from induction_lens.results import Provenance, Result, with_model
from induction_lens.style import (
    CLEAN,
    CONTROL,
    MARKED,
    TEXT,
    Theme,
    add_estimate,
    new_figure,
    plain,
    themed,
)
from induction_lens.tasks.asking import Asking, At, Without
from induction_lens.tasks.prompting import SHOTS, few_shot_prompts
from induction_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EXCLUDED = 0.02
"""The share of the other kind's heads that is left out of a ranking (Yin and Steinhardt 2025)."""


@dataclass(frozen=True, eq=False)
class FewShot(Result):
    """A model's answers to a task, and those without some heads, item by item."""

    task: str
    """The name of the task."""
    shots: int
    """Worked examples in each prompt."""
    scoring: str
    """How answers are scored: `first-token`, `choice`, `f1`."""
    chance: float
    """What the best constant answer scores on these items."""
    clean: Float[Tensor, " item"] = field(repr=False)
    """The score of each answer, from 0 to 1."""
    ablated: Float[Tensor, " item"] | None = field(default=None, repr=False)
    """The score without the heads; None where none were knocked out."""
    heads: tuple[Head, ...] = ()
    """The heads that were knocked out together."""
    method: str = ""
    """By which method."""
    at: At = "all"
    """Where: at all positions, or at the last one of each prompt."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens it is of, where that is known."""

    @property
    def accuracy(self) -> Estimate:
        """The mean score of the whole model, with an interval over items."""
        return bounded_mean(self.clean)

    @property
    def without(self) -> Estimate | None:
        """The mean score without the heads."""
        return None if self.ablated is None else bounded_mean(self.ablated)

    @property
    def effect(self) -> Estimate | None:
        """The score without the heads minus that with them, paired by item: negative where the task
        needs them."""
        return None if self.ablated is None else bounded_mean(self.ablated - self.clean, least=-1.0)

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval of the model's accuracy is above chance."""
        return self.accuracy.low > self.chance

    def __repr__(self) -> str:
        """In one or two lines: how the model does, and how without the heads."""
        asked = f"{self.shots} shots, {len(self.clean)} items"
        line = f"FewShot({self.task}, {asked}: {self.accuracy}, chance {self.chance:.2f})"
        if self.ablated is None:
            return line
        where = "" if self.at == "all" else " at the last position"
        named = f"{names_of(self.heads, between=' ')} by {self.method}{where}"
        return f"{line}\n  without {named}: {self.without}, effect {self.effect}"

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Accuracy with its interval, also without the heads; dotted: chance.

        Raises:
            ValueError: If there is no such theme.
        """
        figure = new_figure([], height=110 if self.ablated is None else 150)
        add_estimate(figure, "whole model", self.accuracy, color=CLEAN)
        if self.without is not None:
            add_estimate(figure, "without heads", self.without, color=MARKED)
        figure.add_vline(x=self.chance, line={"dash": "dot", "color": TEXT, "width": 1})
        figure.update_xaxes(title_text=f"{plain(self.task)}: accuracy")
        figure.update_yaxes(showgrid=False, autorange="reversed")
        return themed(figure, theme)

    def to_frame(self) -> pd.DataFrame:
        """One row: `task`, `shots`, `scoring`, `n_items`, `chance`, `heads`, `method`, `at`, and
        with the ends of their intervals (`_low`, `_high`) `accuracy`, `without` and `effect`."""
        import pandas as pd

        row: dict[str, object] = {
            "task": self.task,
            "shots": self.shots,
            "scoring": self.scoring,
            "n_items": len(self.clean),
            "chance": self.chance,
            "heads": names_of(self.heads, between=" "),
            "method": self.method,
            "at": self.at,
        }
        for name in ("accuracy", "without", "effect"):
            row |= columns(name, getattr(self, name))
        return with_model(pd.DataFrame([row]), self.provenance)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def few_shot(
    model: Model,
    task: Task,
    *,
    shots: int = SHOTS,
    heads: Iterable[HeadLike] | HeadLike | None = None,
    method: AblationMethod | Method | str = "mean",
    at: At | str = "all",
    n_items: int = 100,
    seed: int = 0,
) -> FewShot:
    """How well a model does a task after worked examples, and how well without some heads.

    It can be called inside `knocked_out` too: then the whole model lacks these heads already.

    Args:
        model: A hooked model with a tokenizer.
        task: What is asked; `task.scored("f1")` for the F1 of Yin and Steinhardt 2025.
        shots: Worked examples in each prompt.
        heads: Heads to knock out for comparison; None for none.
        method: `zero`, `mean`, `resample`, `pattern-preserving` or an `AblationMethod`. Without a
            reference of its own, one takes outputs from the prompts.
        at: `all` positions, or the `last` of each prompt alone, where `mean` writes the mean output
            at the last position of all prompts (Todd et al. 2024).
        n_items: Items to ask: this many, or all there are.
        seed: Seed of the draws.

    Raises:
        ValueError: If a prompt does not fit the model, the task has too few items, a method lacks a
            reference, or an option is out of range.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> task = il.tasks.letter_pattern("ABAB")
        >>> result = il.tasks.few_shot(model, task, shots=4, heads="1.1", n_items=20)
        >>> len(result.clean), result.chance, result.accuracy.low <= 0.5
        (20, 0.5, True)
    """
    checks.model(model)
    chosen, place = as_method(method, seed=checks.seed(seed)), _place(at)
    without = None if heads is None else Without(parsed(model, heads), chosen, place)
    prompts = few_shot_prompts(model, task, shots=shots, n_items=n_items, seed=seed)
    asking = Asking(model, prompts)
    clean = asking.scores()
    result = FewShot(
        task=task.name,
        shots=len(prompts.examples[0]),
        scoring=task.scoring.name,
        chance=prompts.chance,
        clean=clean,
        provenance=provenance_of(model, prompts.sequences),
    )
    if without is None:
        return result
    return ablated(result, without, asking.scores(without))


def ablated(result: FewShot, without: Without, scores: Float[Tensor, " item"]) -> FewShot:
    """The same answers beside those without some heads."""
    return dataclasses.replace(
        result,
        ablated=scores,
        heads=without.heads,
        method=without.method.label,
        at=without.at,
    )


@dataclass(frozen=True, eq=False)
class DoseResponse:
    """Few-shot accuracy without ever more heads."""

    ranked: tuple[FewShot, ...]
    """Without the first heads of a ranking: more and more of them."""
    random: tuple[FewShot, ...]
    """Without as many random others, one draw for each number of heads."""

    def to_frame(self) -> pd.DataFrame:
        """One row for each number of heads: `n_heads`, `is_random`, and `FewShot.to_frame`."""
        import pandas as pd

        frames = []
        for which, results in ((False, self.ranked), (True, self.random)):
            for one in results:
                frame = one.to_frame()
                frame.insert(0, "is_random", which)
                frame.insert(0, "n_heads", len(one.heads))
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Accuracy by how many heads are knocked out, with intervals; dotted: chance.

        Raises:
            ValueError: If there is no such theme.
        """
        import plotly.graph_objects as go

        figure = new_figure([], height=360)
        lines = (("ranked heads", self.ranked, MARKED), ("random heads", self.random, CONTROL))
        for name, results, color in lines:
            found = [(len(one.heads), one.without) for one in results]
            means = [(n_heads, mean) for n_heads, mean in found if mean is not None]
            figure.add_trace(
                go.Scatter(
                    x=[n_heads for n_heads, _ in means],
                    y=[mean.value for _, mean in means],
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": [mean.high - mean.value for _, mean in means],
                        "arrayminus": [mean.value - mean.low for _, mean in means],
                        "color": color,
                        "thickness": 1.5,
                        "width": 0,
                    },
                    line={"color": color},
                    name=name,
                )
            )
        figure.add_hline(y=self.ranked[0].chance, line={"dash": "dot", "color": TEXT, "width": 1})
        figure.update_xaxes(title_text="heads knocked out")
        figure.update_yaxes(title_text="accuracy")
        return themed(figure, theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def dose_response(
    model: Model,
    task: Task,
    ranking: HeadScores | Sequence[HeadLike],
    *,
    counts: Sequence[int] | None = None,
    shots: int = SHOTS,
    method: AblationMethod | Method | str = "mean",
    at: At | str = "all",
    seed: int = 0,
) -> DoseResponse:
    """Few-shot accuracy without the first heads of a ranking, in growing numbers, and without as
    many random heads out of all others.

    Args:
        model: A hooked model with a tokenizer.
        task: What is asked, up to 100 items.
        ranking: Scores, highest first, or heads in order, such as `top_heads` gives.
        counts: How many heads, in growing numbers, up to half of the model's; None: 1, 2, 4, … up
            to half of these, or of those ranked.
        shots: Worked examples in each prompt.
        method: As in `few_shot`.
        at: As in `few_shot`.
        seed: Seed of the draws.

    Raises:
        ValueError: As `few_shot`, or if more heads are asked for than are ranked, or than there are
            others.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> scores = il.score_heads(model, detectors="induction")["induction"]
        >>> task = il.tasks.letter_pattern("ABAB")
        >>> found = il.tasks.dose_response(model, task, scores, counts=[1, 2], shots=2)
        >>> [len(one.heads) for one in found.ranked], [len(one.heads) for one in found.random]
        ([1, 2], [1, 2])
    """
    checks.model(model)
    sizes = shape(model)
    total = sizes.n_layers * sizes.n_heads
    order = tuple(top_heads(ranking, total)) if isinstance(ranking, HeadScores) else ()
    if not order:
        given = checks.several("ranking", ranking)
        parsed(model, given)
        order = tuple(map(Head.parse, given))
    # as many others have to be left to draw from
    numbers = _doses(counts, min(len(order), total // 2))
    chosen, place = as_method(method, seed=checks.seed(seed)), _place(at)
    prompts = few_shot_prompts(model, task, shots=shots, seed=seed)
    asking = Asking(model, prompts)
    n_shots = len(prompts.examples[0])
    clean = FewShot(task.name, n_shots, task.scoring.name, prompts.chance, asking.scores())
    everything = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def without(heads: Iterable[Head]) -> FewShot:
        one = Without(tuple(sorted(heads)), chosen, place)
        return ablated(clean, one, asking.scores(one))

    ranked, random = [], []
    for n in numbers:
        ranked.append(without(order[:n]))
        others = [head for head in everything if head not in order[:n]]
        drawn = torch.randperm(len(others), generator=generator, device="cpu")[:n].tolist()
        random.append(without(others[i] for i in drawn))
    return DoseResponse(tuple(ranked), tuple(random))


def top_heads(
    scores: HeadScores, n: int, *, without: HeadScores | None = None, excluded: float = EXCLUDED
) -> list[Head]:
    """The heads with the highest scores, highest first, without the top heads of another kind.

    Args:
        scores: What heads are ranked by.
        n: How many, or all there are.
        without: Scores of another kind, whose highest heads are left out of the ranking.
        excluded: Which share of all heads these are, one head at least.

    Raises:
        ValueError: If the scores are of different models, or an option is out of range.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"), detectors=["previous_token", "induction"])
        >>> il.tasks.top_heads(scores["induction"], 2)
        [Head(layer=1, head=6), Head(layer=1, head=7)]
        >>> il.tasks.top_heads(scores["induction"], 1, without=scores["induction"])
        [Head(layer=1, head=7)]
    """
    checks.instance("scores", scores, HeadScores, "for instance from score_heads")
    n = checks.whole_number("n", n, least=1, remedy="for instance 10")
    excluded = checks.real_number("excluded", excluded, least=0, below=1)
    left_out: list[Head] = []
    if without is not None:
        checks.instance("without", without, HeadScores, "for instance from score_heads")
        if without.values.shape != scores.values.shape:
            remedy = "score the same model"
            raise checks.refuse("without", "scores of as many heads", without, remedy)
        n_excluded = max(1, math.ceil(excluded * scores.values.numel()))
        left_out = [head for head, _ in without.top(n_excluded)]
    ranked = [head for head, _ in scores.top(scores.values.numel())]
    return [head for head in ranked if head not in left_out][:n]


def parsed(model: Model, heads: Iterable[HeadLike] | HeadLike) -> tuple[Head, ...]:
    """Heads of this model.

    Raises:
        ValueError: If it does not have them.
    """
    sizes = shape(model)
    return tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))


def _doses(counts: Sequence[int] | None, most: int) -> list[int]:
    if counts is None:
        return [2**i for i in range(most.bit_length()) if 2**i <= max(1, most // 2)]
    given = checks.several("counts", counts)
    remedy = "numbers of heads, for instance [1, 2, 4]"
    numbers = [checks.whole_number("each of counts", n, least=1, most=most) for n in given]
    if not numbers:
        raise checks.refuse("counts", "at least one number", counts, remedy, given="none")
    return sorted(set(numbers))


def _place(at: object) -> At:
    options: tuple[At, ...] = ("all", "last")
    return checks.one_of("at", at, options)
