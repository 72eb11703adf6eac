"""Measures what a report is about, in stages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from induction_lens.ablation.controls import control_sets, n_possible_controls
from induction_lens.ablation.jointly import studies_and_single_heads
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import Mean
from induction_lens.ablation.precision import compares_in_bfloat16
from induction_lens.ablation.sets import StudiedSets
from induction_lens.ablation.stopping import Stopping
from induction_lens.ablation.study import AblationStudy
from induction_lens.circuits import Circuit, Material
from induction_lens.circuits import circuit as find_circuit
from induction_lens.circuits.material import N_SEQUENCES, N_SEQUENCES_OF_LARGE
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.models import Model, provenance_of, shape
from induction_lens.progress import wanted
from induction_lens.reports.model import sentences
from induction_lens.reports.model.asked import Asked
from induction_lens.reports.model.card import card_of, short_name
from induction_lens.reports.model.evaluation import Data, example_of, is_large
from induction_lens.reports.model.findings import Example, Findings, Why
from induction_lens.reports.model.plan import Costs, Plan, spoken
from induction_lens.views import AttentionView, attention
from induction_lens.views.view import most_heads

_N_SCORED_TEXT = 32  # sequences of text for the previous-token score


def findings(model: Model, data: Data, asked: Asked, *, text: object) -> Findings:
    """Everything that a report says; `text`: what the caller passed as such."""
    stopping = asked.stopping()
    with _stages(asked.progress, total=3 + (asked.circuit is True)) as stage:
        stage("scoring heads")
        scores = _scores(model, data, asked)
        found = tuple(scores["induction"].above(asked.threshold))
        studied, why = _studied(asked.heads, found, scores["induction"])
        plan = _plan(model, data, asked, studied)
        data = data.cut(plan.n_sequences)
        stage(f"knocking out {' '.join(map(str, studied))}, and each head alone")
        windowed, effects = _knocked_out(model, data, asked, studied, plan=plan, stopping=stopping)
        planned = len(data.tokens)
        data = data.cut(len(windowed[asked.methods[0].label].clean_losses))
        if asked.circuit is True:
            stage("measuring the circuit")
        circuit, why_none = _circuit(asked, model, data)
        stage("writing the report")
        n_measured = len(data.tokens)
        options = asked.for_card(
            n_controls=plan.n_controls,
            n_sequences=n_measured,
            stopped=stopping.reason is not None,
        )
        possible = n_possible_controls(model, studied)
        example = example_of(model, scores["induction"].top(1)[0][0], data)
        of = provenance_of(model, data.tokens)
        windowed = {name: replace(study, provenance=of) for name, study in windowed.items()}
        return Findings(
            name=short_name(model),
            card=card_of(model, data, text=text, options=options),
            scores=scores,
            threshold=asked.threshold,
            heads=found,
            studied=studied,
            why=why,
            studies={m: study.at(window=0, estimator="paper") for m, study in windowed.items()},
            matched={
                method: study.at(window=0)
                for method, study in windowed.items()
                if study.short_losses is not None
            },
            windowed=windowed,
            effects=replace(effects, provenance=of),
            n_alone=plan.n_alone,
            tokens=data.tokens.cpu(),
            example=example,
            is_text=data.is_text,
            notes=(
                *data.notes,
                *sentences.notes_on_scores(scores),
                *sentences.notes_on_controls(studied, asked.n_controls, possible),
                *sentences.notes_on_rounding(compares_in_bfloat16(model)),
                *sentences.notes_on_first_order(plan.by_first_order),
                *sentences.notes_on_stopping(stopping, n_measured, planned),
                *why_none,
            ),
            own_detectors=asked.detectors,
            circuit=circuit,
            attention=_attention(model, example, scores["induction"]),
            provenance=of,
        )


def _scores(model: Model, data: Data, asked: Asked) -> ScoreTable:
    text = data.tokens[:_N_SCORED_TEXT] if data.is_text else None
    detectors = [*DETECTORS, *asked.detectors]
    options = {"seed": asked.seed, "progress": asked.progress}
    return score_heads(model, text=text, detectors=detectors, **options)


def _studied(
    heads: tuple[Head, ...] | None, found: tuple[Head, ...], induction: HeadScores
) -> tuple[tuple[Head, ...], Why]:
    if heads is not None:
        return heads, "chosen"
    if found:
        return tuple(sorted(found)), "induction"
    return (induction.top(1)[0][0],), "strongest"


def _plan(model: Model, data: Data, asked: Asked, studied: tuple[Head, ...]) -> Plan:
    """How much to measure; said where it takes long."""
    sizes = shape(model)
    plan = Plan(
        n_sequences=len(data.tokens),
        n_controls=min(asked.n_controls, n_possible_controls(model, studied)),
        n_methods=len(asked.methods),
        n_controlled=len(asked.controlled),
        n_heads=sizes.n_layers * sizes.n_heads,
        costs=Costs.measure(model, data, studied),
    ).within(asked.budget)
    said = plan.announcement(asked.budget)
    if said and wanted(asked.progress):
        print(said, file=sys.stderr)
    return plan


def _knocked_out(
    model: Model,
    data: Data,
    asked: Asked,
    studied: tuple[Head, ...],
    *,
    plan: Plan,
    stopping: Stopping,
) -> tuple[dict[str, AblationStudy], HeadScores]:
    """The studies by method, averaged over windows, and the effects of single heads."""
    controls = tuple(control_sets(model, studied, n=plan.n_controls, seed=asked.seed))
    of_method = {m.label: controls if m in asked.controlled else () for m in asked.methods}
    return studies_and_single_heads(
        model,
        StudiedSets(studied, of_method, asked.main.label),
        asked.methods,
        MeasuredText.of(model, data.first(), None, where=data.positions, estimator=None),
        alone_by=Mean(),
        rough=compares_in_bfloat16(model),
        stopping=stopping,
        progress=asked.progress,
    )


def _attention(model: Model, example: Example, induction: HeadScores) -> AttentionView:
    """All heads on the passage that the page shows; the strongest, where a view holds no more."""
    most = min(most_heads(len(example.ids)), induction.values.numel())
    heads = [head for head, _ in induction.top(most)]
    ids = example.ids[None]
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # none of it is padding
    return attention(model, prompt, heads, scores=induction)


def _circuit(asked: Asked, model: Model, data: Data) -> tuple[Circuit | None, tuple[str, ...]]:
    """The circuit, and a sentence where there is none."""
    if isinstance(asked.circuit, Circuit) or not asked.circuit:
        return asked.circuit or None, ()
    n = N_SEQUENCES_OF_LARGE if is_large(model) else N_SEQUENCES
    text = data.cut(n).first() if data.is_text else None
    try:
        found = find_circuit(
            model,
            threshold=asked.threshold,
            material=Material.of(model, text=text, n_texts=0, seed=asked.seed),
            announce=_say_time if wanted(asked.progress) else None,
            seed=asked.seed,
        )
        return found, ()
    except ValueError as error:
        return None, (f"The induction circuit was not measured: {error}.",)


def _say_time(seconds: float) -> None:
    print(f"The circuit: about {spoken(seconds)}.", file=sys.stderr)


@contextmanager
def _stages(show: bool, *, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr over named stages; yields what to call as each begins."""
    from tqdm.auto import tqdm

    with tqdm(total=total, disable=not wanted(show), leave=False, file=sys.stderr) as bar:
        started = False

        def stage(name: str) -> None:
            nonlocal started
            bar.update(int(started))
            bar.set_description(name)
            started = True

        yield stage
