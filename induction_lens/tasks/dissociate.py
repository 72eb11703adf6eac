"""Which heads carry which kind of in-context learning: kinds of heads, knocked out by each method.

1. Every head is scored for each kind, on material of its own. The heads of a kind are the highest
   that exceed what chance explains.
2. Each kind's heads are knocked out together, and so are those that no other kind shares, by each
   method; by the main one random sets with as many heads in each layer are too.
3. What is lost of the ICL score, on text, and of few-shot accuracy, on tasks on which no head was
   chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation import control_sets
from induction_lens.ablation.controls import checked_n_controls
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import (
    MAIN_METHOD,
    METHODS,
    AblationMethod,
    Methods,
    Resample,
    as_methods,
)
from induction_lens.ablation.sweep import Job
from induction_lens.detectors.kinds import HeadKind
from induction_lens.estimates import bootstrap_mean
from induction_lens.estimators import Losses
from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.inputs import sample_text
from induction_lens.metrics import choose_positions, per_token_loss
from induction_lens.models import Model, Tokens, model_name, provenance_of, sequences_of, shape
from induction_lens.progress import progress_bar
from induction_lens.tasks.asking import Asking, Without
from induction_lens.tasks.dissociation import Dissociation, KnockedOut, Lost
from induction_lens.tasks.few_shot import FewShot
from induction_lens.tasks.function_vectors import SCORED_ON, TRIALS, FunctionVectorHeads
from induction_lens.tasks.kinds import chosen_kinds
from induction_lens.tasks.prompting import few_shot_prompts
from induction_lens.tasks.ready import READY, ready
from induction_lens.tasks.task import Task, checked_task

EVALUATED = ("literal", "ABAB", "classes-2", "pattern", "plurals")
"""The ready tasks that accuracy is measured on by default; heads are chosen on others."""
USUAL_KINDS = ("induction", "function_vector", "concept_copying")
"""The kinds that are told apart by default."""
_LONGEST = 512
HeadSet = tuple[str, bool, tuple[Head, ...]]
"""A kind, whether shared heads are left in, and the heads."""


@dataclass(frozen=True)
class Extent:
    """How much to measure."""

    n_heads: int | None = None
    """Heads of each kind at most; None: 2% of all, two at least."""
    shots: int = 8
    """Worked examples in a prompt."""
    n_items: int = 40
    """Items of each task."""
    n_controls: int = 5
    """Control sets of each set; fewer where there are no more."""
    n_texts: int = 64
    """Sequences of text, where none are given."""

    def __post_init__(self) -> None:
        """Check the options."""
        checks.whole_number("n_heads", self.n_heads, least=1, optional=True)
        checks.whole_number("shots", self.shots, least=0, most=1000)
        checks.whole_number("n_items", self.n_items, least=2, most=10**5)
        checked_n_controls(self.n_controls)
        checks.whole_number("n_texts", self.n_texts, least=2, most=10**6)


def dissociate(
    model: Model,
    tasks: Sequence[Task] | Task | None = None,
    text: Tokens | None = None,
    *,
    kinds: Sequence[HeadKind | str] = USUAL_KINDS,
    methods: Methods = METHODS,
    extent: Extent | None = None,
    announce: Callable[[float], None] | None = None,
    seed: int = 0,
) -> Dissociation:
    """Find heads of several kinds, and measure what each carries of two kinds of in-context
    learning.

    Args:
        model: A hooked model with a tokenizer.
        tasks: What few-shot accuracy is measured on; None takes `EVALUATED`. Function-vector heads,
            called by their name, are scored on ready tasks that are not among these.
        text: What the ICL score is measured on, of one length; None draws held-out text.
        kinds: Kinds of heads: names out of `tasks.KINDS`, or objects.
        methods: How heads are knocked out, at all positions. The first is quoted and has controls,
            or `mean` if it is among them.
        extent: How much to measure.
        announce: Told about how many seconds it will take at most, before it starts.
        seed: Seed of the draws.

    Raises:
        ValueError: If the model has no tokenizer, a prompt does not fit it, or an option is out of
            range.
        InterventionError: If the model drops the writes.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> extent = il.tasks.Extent(n_items=10, shots=2, n_controls=1, n_texts=8)
        >>> found = il.tasks.dissociate(
        ...     model, il.tasks.letter_pattern("ABAB"), kinds=["induction"], methods=["mean"],
        ...     extent=extent)
        >>> found.heads
        {'induction': (Head(layer=1, head=1),)}
        >>> found.of("induction").lost.icl.value > 0
        True
    """
    checks.model(model)
    seed, extent = checks.seed(seed), Extent() if extent is None else extent
    checks.instance("extent", extent, Extent, "for instance tasks.Extent(n_items=100)")
    asked = _tasks(tasks)
    wanted = [_unseen(kind, asked) for kind in chosen_kinds(kinds)]
    measured_on = _text(model, text, extent, seed)
    chosen = as_methods(methods, seed=seed)
    main = next((one for one in chosen if one.label == MAIN_METHOD), chosen[0])
    askings = _askings(model, asked, extent, seed)
    if announce is not None:
        n_each = len(chosen) + extent.n_controls
        announce(estimated_seconds(model, wanted, askings, measured_on, n_each=n_each))
    scores = ScoreTable({kind.name: kind.score(model, seed=seed) for kind in wanted})
    heads = {name: _heads_of(one, extent, model) for name, one in scores.items()}
    sets = list(_sets(heads))
    jobs, controls = _jobs(model, sets, chosen, main=main, n_controls=extent.n_controls, seed=seed)
    clean, lost = _losses(model, jobs, askings, measured_on)
    knocked_out = [
        KnockedOut(
            kind,
            without_overlap,
            lost[some, method.label],
            tuple(lost[one, method.label] for one in controls[some]) if method is main else (),
        )
        for kind, without_overlap, some in sets
        for method in chosen
    ]
    units = measured_on.sequences.units(measured_on.at.late)
    return Dissociation(
        model=model_name(model),
        scores=scores,
        heads=heads,
        few_shot=clean[1],
        icl=bootstrap_mean(clean[0], documents=units),
        knocked_out=tuple(knocked_out),
        main_method=main.label,
        notes=tuple(_notes(scores, heads, controls, extent)),
        provenance=provenance_of(
            model, measured_on.sequences, *(asking.prompts.sequences for asking in askings)
        ),
    )


def estimated_seconds(
    model: Model,
    kinds: Sequence[HeadKind],
    askings: Sequence[Asking],
    measured_on: MeasuredText,
    *,
    n_each: int,
) -> float:
    """About how long `dissociate` takes at most, from clean passes over a part of its material.

    As if every kind had heads, half of them shared by another.

    Args:
        model: The model.
        kinds: Kinds of heads.
        askings: The tasks.
        measured_on: The text.
        n_each: Methods and control sets for each set of heads.
    """
    sizes = shape(model)
    n_sets = len(kinds) + (len(kinds) > 1) * len(kinds) / 2
    n_jobs = 1 + n_sets * n_each
    few = measured_on.sequences.tokens[:2]
    per_token_loss(model, few, progress=False)
    start = time.perf_counter()
    per_token_loss(model, few, progress=False)
    per_text = (time.perf_counter() - start) / len(few)
    start = time.perf_counter()
    askings[0].scores()
    per_prompt = (time.perf_counter() - start) / len(askings[0].prompts)
    n_prompts = sum(len(asking.prompts) for asking in askings)
    per_token = per_text / few.shape[1]
    n_heads = sizes.n_layers * sizes.n_heads
    # by name: what scoring a kind takes beyond one or two passes
    patched = {"function_vector": 2 * TRIALS * len(SCORED_ON) * 100, "concept_copying": 32 * 60}
    scoring = sum(patched.get(kind.name, 0) for kind in kinds) * n_heads * per_token
    return n_jobs * (1.3 * per_text * len(measured_on.sequences) + per_prompt * n_prompts) + scoring


def _tasks(tasks: Any) -> list[Task]:
    if tasks is None:
        return ready(*EVALUATED)
    alone = isinstance(tasks, (Task, str)) or hasattr(tasks, "columns")
    listed = [tasks] if alone else checks.several("tasks", tasks)
    given = [checked_task("each of tasks", task) for task in listed]
    names = [task.name for task in given]
    if not given or len(set(names)) < len(names):
        raise checks.refuse("tasks", "tasks of different names", tasks, "pass each once")
    return given


def _unseen(kind: HeadKind, asked: Sequence[Task]) -> HeadKind:
    """Function-vector heads are scored on tasks that accuracy is not measured on."""
    if not isinstance(kind, FunctionVectorHeads) or kind.tasks is not None:
        return kind
    names = {task.name for task in asked}
    left = [task for task in ready(*SCORED_ON) if task.name not in names]
    left = left or [task for task in ready(*READY) if task.name not in names][:4]
    return FunctionVectorHeads(left, shots=kind.shots, n_items=kind.n_items)


def _text(model: Model, text: Tokens | None, extent: Extent, seed: int) -> MeasuredText:
    if text is None:
        seq_len = min(_LONGEST, shape(model).n_ctx)
        text = sample_text(model, n_sequences=extent.n_texts, seq_len=seq_len, seed=seed)
    sequences = sequences_of(model, text)
    sequences.one_length("dissociate")
    where = choose_positions(int(sequences.lengths.min()), window=10)
    return MeasuredText.of(model, text, None, where=where, estimator=None)


def _for_prompts(method: AblationMethod, text: Tensor, n_items: int) -> AblationMethod:
    """On prompts, `resample` takes outputs from the text, whose sequences reach every position of
    one; where there are more prompts than sequences, several take from the same."""
    if not isinstance(method, Resample) or method.reference is not None:
        return method
    return Resample(text.repeat(-(-n_items // len(text)), 1), method.seed)


def _askings(model: Model, tasks: Sequence[Task], extent: Extent, seed: int) -> list[Asking]:
    prompts = (
        few_shot_prompts(model, task, shots=extent.shots, n_items=extent.n_items, seed=seed)
        for task in tasks
    )
    return [Asking(model, some) for some in prompts]


def _heads_of(scores: HeadScores, extent: Extent, model: Model) -> tuple[Head, ...]:
    """The highest heads that exceed what chance explains, in the order of the model."""
    sizes = shape(model)
    most = extent.n_heads or max(2, math.ceil(0.02 * sizes.n_layers * sizes.n_heads))
    return tuple(sorted(scores.above(0.0)[:most]))


def _sets(heads: dict[str, tuple[Head, ...]]):
    """Each kind's heads, and those that no other kind shares, where that is another set."""
    for kind, some in heads.items():
        if not some:
            continue
        yield kind, False, some
        shared = {head for other, own in heads.items() if other != kind for head in own}
        alone = tuple(head for head in some if head not in shared)
        if alone and alone != some:
            yield kind, True, alone


Jobs = list[tuple[tuple[Head, ...], AblationMethod]]


def _jobs(
    model: Model,
    sets: Sequence[HeadSet],
    methods: Sequence[AblationMethod],
    *,
    main: AblationMethod,
    n_controls: int,
    seed: int,
) -> tuple[Jobs, dict[tuple[Head, ...], list[tuple[Head, ...]]]]:
    """What to knock out, each once, and the control sets of each set."""
    different = dict.fromkeys(some for _, _, some in sets)
    controls = {
        some: control_sets(model, some, n=n_controls, seed=seed) if n_controls else []
        for some in different
    }
    jobs = {(some, method.label): (some, method) for some in different for method in methods}
    for some in controls.values():
        jobs |= {(one, main.label): (one, main) for one in some}
    return list(jobs.values()), controls


def _losses(
    model: Model, jobs: Jobs, askings: Sequence[Asking], measured_on: MeasuredText
) -> tuple[tuple[Tensor, tuple[FewShot, ...]], dict[tuple[tuple[Head, ...], str], Lost]]:
    """The clean ICL scores and answers, and what is lost by each job."""
    around = measured_on.around
    text_jobs = [Job(heads, method, *around) for heads, method in jobs]
    if text_jobs:
        whole, ablated = measured_on.losses(model, text_jobs, batch_size=None, progress=True)
    else:
        whole = ablated = _whole(model, measured_on)
    before = measured_on.scores(whole)
    n_items = max(len(asking.prompts) for asking in askings)
    text = measured_on.sequences.tokens
    by_method = {method: _for_prompts(method, text, n_items) for _, method in jobs}
    on_prompts = [(heads, by_method[method]) for heads, method in jobs]
    results, right_lost = _answers(on_prompts, askings)
    above = torch.cat([one.clean - one.chance for one in results])
    units = measured_on.sequences.units(measured_on.at.late)
    found = {}
    for index, (heads, method) in enumerate(jobs):
        icl_lost = measured_on.scores(ablated[index]) - before
        found[heads, method.label] = Lost(
            heads, method.label, icl_lost, -before, units, right_lost[index], above
        )
    return (before, tuple(results)), found


def _whole(model: Model, measured_on: MeasuredText) -> Losses:
    """Losses of the whole model alone."""
    short = None if measured_on.short is None else measured_on.short.tokens
    of_short = None if short is None else per_token_loss(model, short)
    return Losses(per_token_loss(model, measured_on.sequences.tokens), of_short)


def _answers(
    jobs: Jobs, askings: Sequence[Asking]
) -> tuple[list[FewShot], Float[Tensor, "job item"]]:
    """The whole model's answers to each task, and what each job loses over all of them."""
    results, parts = [], []
    n_total = sum(len(asking.prompts) for asking in askings) * (1 + len(jobs))
    with progress_bar("few-shot prompts", n_total, unit="prompt") as done:
        for asking in askings:
            prompts = asking.prompts
            clean = asking.scores()
            done(len(prompts))
            shots, task = len(prompts.examples[0]), prompts.task
            results.append(FewShot(task.name, shots, task.scoring.name, prompts.chance, clean))
            lost = []
            for heads, method in jobs:
                lost.append(clean - asking.scores(Without(heads, method)))
                done(len(prompts))
            parts.append(torch.stack(lost) if lost else clean.new_zeros(0, len(clean)))
    return results, torch.cat(parts, dim=1)


def _notes(scores: ScoreTable, heads: dict, controls: dict, extent: Extent):
    for name, some in heads.items():
        if not some:
            yield f"No head exceeds what chance explains as a head of the kind {name}."
        elif scores[name].note is not None:
            yield f"{name} was not measured: {scores[name].note}."
    for some, found in controls.items():
        if len(found) < extent.n_controls:
            named = " ".join(map(str, some))
            yield f"There are {len(found)} control sets for {named}: layers have no more heads."
