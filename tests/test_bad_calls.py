"""Bad calls: each ends in one clear line, and none is taken for something else.

In Python the line is a `ValueError` "expected …, got …; what to do", whether a value has the wrong
type or the wrong size; on the command line it is on stderr, with exit code 2. Nothing is measured
before the arguments are checked, so that the whole table takes seconds.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import induction_lens as il
from induction_lens import cli, dynamics, metrics, plots
from induction_lens.toys.snapshots import write_snapshot
from tests.hf_folders import write_folder
from tests.reports.test_training_report import MIDDLE
from tests.reports.test_training_report import _run as synthetic_run
from tests.tasks.material import key_task, speaking_circuit

NAN = math.nan
FROM_1 = (0, -1, 2.5, "4", True, NAN, None, [3], 10**30)
NUMBERS_FROM_0 = (-1, 2.5, "4", True, NAN)
FROM_0 = (*NUMBERS_FROM_0, None)
POSITIONS = (1.0, "4", True, NAN, None, -3, 10**6)
SEEDS = (-1, 0.5, "a", True, None, NAN, 2**70)
BATCH_SIZES = (0, -1, 2.5, "4", True, NAN)
CONFIDENCES = (0, 1, 1.5, -0.1, NAN, "0.95", None, True, 1j)
FLAGS = (1, 0, "yes", None)
THRESHOLDS = (NAN, math.inf, "0.3", None, True, [0.3])
MODELS = ("toy-2l", None, 3, Path("model"), torch.nn.Linear(2, 2), il.toys.ToyConfig)
TOKENS = (
    *(None, "text", [[0, 1.5, 2]], np.zeros((2, 3)), {1, 2}),
    *(
        torch.zeros(2, 3),
        torch.zeros(0, 3).long(),
        torch.full((1, 3), 99),
        torch.zeros(1, 99).long(),
    ),
    torch.full((1, 3), -1),
)
TASKS = (None, 3, [("a", "b")], il.tasks.Task)
# what is wrong without a model that says what it can read
NO_IDS = (None, *TOKENS[1:7])
TABLES_OF_IDS = (None, [[0, 1, 2]], torch.zeros(3).long(), *TOKENS[1:7])
HEADS = (None, [], "1", "1.9", ["0.0", "0.0"], (0, -1), 1.1, {"0.0": 1}, [None], "9" * 99 + ".1")
BAD_DETECTORS = tuple(
    il.detectors.AttentionDetector("mine", targets)
    for targets in (
        *(lambda tokens: tokens, lambda tokens: None, lambda tokens: (tokens[0],) * 3),
        lambda tokens: tokens.nonzero(as_tuple=True),
        lambda tokens: torch.tensor([[0.0], [1.0], [1.0]]).unbind(),
        lambda tokens: torch.tensor([[99], [1], [1]]).unbind(),
        lambda tokens: torch.tensor([[0], [2], [3]]).unbind(),
        lambda tokens: torch.tensor([[0], [2], [0]]).unbind(),
        lambda tokens: torch.tensor([[0, 0], [2, 2], [1, 1]]).unbind(),
    )
)
DETECTORS = (
    *([detector] for detector in BAD_DETECTORS),
    *([3], 3, {"induction": 1}, [None], [il.detectors.Detector("mine")], [il.detectors]),
)
METHODS = ("meen", None, 3, b"zero", ["mean"])
LISTS_OF_METHODS = ([], "meen", None, ["mean", "mean"], [3], 3)
LOSSES = (
    None,
    [[1.0, 2.0]],
    torch.zeros(9),
    torch.zeros(2, 9).numpy(),
    torch.zeros(0, 9),
    "losses",
)


@dataclass(frozen=True)
class Case:
    """One bad call: everything fits but one argument."""

    name: str
    call: Callable[[], object]


def _cases(function: Callable[..., Any], good: dict[str, Any], **bad: tuple) -> Iterator[Case]:
    """A case for each bad value of each option, the others being good."""
    for option, values in bad.items():
        for number, value in enumerate(values):
            arguments = {**good, option: value}
            name = f"{function.__qualname__}({option}=…) #{number}: {_short(value)}"
            yield Case(name, lambda arguments=arguments: function(**arguments))


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:60]


@pytest.fixture(scope="module")
def given() -> SimpleNamespace:
    """A tiny model, tokens that it can read, losses, scores, studies and runs."""
    config = il.toys.ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=11, n_ctx=13)
    model = il.toys.build_toy(config, device="cpu")
    tokens = torch.randint(1, 11, (3, 13), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return SimpleNamespace(
        model=model,
        tokens=tokens,
        losses=il.per_token_loss(model, tokens),
        scores=il.score_heads(model, tokens=tokens),
        study=il.ablate(model, "0.0", tokens, early=2, late=9, n_controls=2),
        run=synthetic_run(MIDDLE),
        other=synthetic_run(None, n_layers=1),
    )


def _cases_of_models(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever takes a model."""
    model, tokens = given.model, given.tokens
    measured = {"batch_size": BATCH_SIZES, "progress": FLAGS}
    yield from _cases(
        il.score_heads,
        {"model": model, "tokens": tokens},
        model=MODELS,
        tokens=TOKENS[1:],
        text=TOKENS[1:],
        detectors=(*DETECTORS, [], "inductoin", [len], ["induction", "induction"]),
        attention=("stream", None, 3, True),
        shuffled_null=FLAGS,
        seed=SEEDS,
        **measured,
    )
    yield from _cases(
        il.circuits.composition,
        {"model": model, "n_draws": 2},
        model=MODELS,
        n_draws=(1, *FROM_1),
        seed=SEEDS,
    )
    yield from _cases(
        il.circuits.qk_matching,
        {"model": model, "text": tokens},
        model=MODELS,
        text=TOKENS,
        distances=([], None, 3, [13], [-1], [0.5], ["1"], "0"),
        mlp=FLAGS,
        progress=FLAGS,
    )
    yield from _cases(
        il.circuits.term_importance,
        {"model": model, "text": tokens},
        model=MODELS,
        text=(*TOKENS, torch.zeros(3, 1).long()),
        freeze_norms=FLAGS,
        freeze_mlps=FLAGS,
        **measured,
    )
    yield from _cases(
        il.detectors.published.published_scores,
        {"model": model, "definitions": ["olsson"]},
        model=MODELS,
        definitions=([], "olson", ["olsson", "olsson"], [3], 3, ["token_copying"]),
        n_sequences=FROM_1,
        seed=SEEDS,
        **measured,
    )
    yield from _cases(il.circuits.check_bilinear, {"model": model}, model=MODELS)
    yield from _cases(
        il.circuits.head_weights, {"model": model, "layer": 0}, model=MODELS, layer=(*FROM_0, 2)
    )
    composed = il.circuits.composition(model, n_draws=2)
    pair = {"earlier": "0.0", "later": "1.0", "kind": "K"}
    kinds = ("k", None, 3, ["K"])
    yield from _cases(composed.of, pair, earlier=(*HEADS, "1.1"), later=(*HEADS, "0.1"), kind=kinds)
    yield from _cases(composed.top, {}, k=FROM_1[:-1], kind=kinds[:1] + kinds[2:])
    yield from _cases(composed.above, {}, z=THRESHOLDS, kind=kinds[:1] + kinds[2:])
    yield from _cases(
        il.per_token_loss,
        {"model": model, "tokens": tokens},
        model=MODELS,
        tokens=(*TOKENS, torch.zeros(3, 1).long()),
        **measured,
    )
    places = {"early": POSITIONS, "late": POSITIONS, "window": (*FROM_0, 50)}
    good = {"model": model, "tokens": tokens, "early": 2, "late": 9}
    estimators = ("matched", 3, True, ["paper"])
    studied = {"seed": SEEDS, "method": METHODS, "estimator": estimators, **places, **measured}
    yield from _cases(
        il.ablate,
        {**good, "heads": "0.0"},
        model=MODELS,
        heads=HEADS,
        tokens=TOKENS,
        n_controls=(*FROM_0, 10**9),
        **studied,
    )
    yield from _cases(il.ablate_each_head, good, model=MODELS, tokens=TOKENS, **studied)
    yield from _cases(
        il.ablation.control_sets,
        {"model": model, "heads": "0.0"},
        model=MODELS,
        heads=HEADS,
        n=(*FROM_0, 10**9),
        seed=SEEDS,
    )
    yield from _cases(
        il.report,
        {"model": model},
        model=MODELS,
        heads=HEADS[1:],
        detectors=(*DETECTORS, None, ["induction"], [il.detectors.INDUCTION]),
        threshold=THRESHOLDS,
        methods=LISTS_OF_METHODS,
        n_controls=FROM_0,
        control_every_method=FLAGS,
        n_sequences=(1, *NUMBERS_FROM_0),
        budget=(0, -1.0, "soon", "2d", NAN, True, [3]),
        precision=(0, -0.1, "small", NAN, True),
        seed=SEEDS,
        early=(0, 2.5, "4", True),
        late=(0, 2.5, "4", True),
        window=FROM_0,
        progress=FLAGS,
    )
    yield from _cases(
        il.views.attention,
        {"model": model, "text_or_tokens": tokens[:1]},
        model=MODELS,
        # without a tokenizer there is no text; three rows are no prompt, nor is one token
        text_or_tokens=(
            *(*TOKENS[:4], *TOKENS[5:], tokens),
            *([0], [0, 99], [0, True], [0, 1.5], [], "", 3),
        ),
        heads=HEADS[1:],
        detector=("inductoin", 3, [], il.detectors.Detector("mine"), *BAD_DETECTORS),
        scores=(3, {}, given.scores, il.HeadScores("mine", torch.zeros(1, 3))),
    )


def _cases_of_numbers(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever takes losses, tokens or scores."""
    yield from _cases(
        il.icl_score,
        {"losses": given.losses, "early": 2, "late": 9},
        losses=LOSSES,
        early=POSITIONS,
        late=POSITIONS,
        window=(*FROM_0, 50),
        short_losses=(3, "x", torch.zeros(2), torch.zeros(1, 4), given.losses[:1]),
        documents=(3, "x", torch.zeros(2), given.losses[:, :4].long()),
        confidence=CONFIDENCES,
        n_resamples=FROM_1,
        seed=SEEDS,
    )
    yield from _cases(
        metrics.short_cuts,
        {"tokens": given.tokens, "early": 2, "late": 9},
        tokens=TABLES_OF_IDS,
        early=POSITIONS,
        late=POSITIONS,
        window=(*FROM_0, 50),
    )
    yield Case(
        "icl_score(losses with NaN)",
        lambda: il.icl_score(torch.full((2, 13), NAN), early=2, late=9),
    )
    yield Case(
        "icl_score(infinite losses)",
        lambda: il.icl_score(torch.tensor([[0.0, 1.0, math.inf]] * 3), early=1, late=2),
    )
    yield from _cases(
        il.detectors.target_mask,
        {"tokens": given.tokens, "detector": "induction"},
        tokens=TABLES_OF_IDS,
        detector=("inductoin", None, 3, "copying", ["induction"], *BAD_DETECTORS),
    )
    yield from _cases(
        il.detectors.AttentionDetector,
        {"name": "mine", "targets": len},
        name=(None, 3, "", "two words", "1st", "a-b", "é", "layer", "mine_null", ["mine"]),
        targets=(None, 3, "len"),
        title=(None, 3),
        caption=(None, 3),
        unmeasured=(None, 3),
        source=(None, 3),
        by_content=FLAGS,
        outlines_induction_heads=FLAGS,
    )
    scores = given.scores["induction"]
    yield from _cases(scores.top, {}, k=FROM_1[:-1])
    yield from _cases(scores.above, {}, threshold=THRESHOLDS)
    heads = ("9.0", (0, -1), None, 1.0, "one", (True, False))
    yield from _cases(scores.chance, {}, head=heads)
    yield from _cases(scores.__getitem__, {}, head=heads)
    table = torch.zeros(2, 3)
    other_shapes = (torch.zeros(3, 2), torch.zeros(6), [[0.0]], table.long())
    yield from _cases(
        il.HeadScores,
        {"name": "mine", "values": table},
        name=(None, 3),
        values=(None, torch.zeros(6), [[0.0]], table.long(), torch.zeros(0, 3)),
        unit=("nat", None, 3),
        ceiling=("1", NAN),
        uniform=(NAN, math.inf, True),
        null=other_shapes,
        sem=other_shapes,
        over_null_sem=other_shapes,
        n_sequences=(0, 1.0, True, "1"),
        note=(3,),
    )
    yield from _cases(
        il.ScoreTable,
        {},
        scores=({}, None, [scores], {"a": 3}, {3: scores}),
    )
    yield from _cases(
        given.study.at,
        {},
        early=(0, 2.5, "4", 11),
        late=(1, 2.5, "4", 99),
        window=(-1, 2.5, "1", 9),
    )
    yield from _cases(il.Head, {"layer": 0, "head": 0}, layer=FROM_0, head=FROM_0)
    yield from _cases(il.Head.parse, {}, head=("1", "1.-1", (1,), (-1, 0), None, 3.0, "L1H1"))
    yield from _cases(il.show_progress, {}, shown=FLAGS)


def _cases_of_toys(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever builds a model."""
    widths = (0, -1, 2.5, "64", True, NAN, 10**12)
    yield from _cases(
        il.toys.ToyConfig,
        {},
        n_layers=(*widths, 49, None),
        d_model=(*widths, None, 126),
        n_heads=(*widths, None, 5),
        d_head=(*widths, 7),
        d_vocab=(*widths, None),
        n_ctx=(*widths, None),
        attn_only=FLAGS,
        d_mlp=(*widths, 64),
        positions=("alibi", None, 3),
        smeared_keys=FLAGS,
        smear_init=THRESHOLDS,
        distance_bias=(*THRESHOLDS, -1),
        aligned_unembed=(*THRESHOLDS, 1.5),
        seed=SEEDS,
    )
    yield from _cases(il.toys.ToyConfig.from_dict, {}, values=({"layers": 2}, None, 3, {3: 4}))

    yield from _cases(
        il.toys.build_toy,
        {"config": il.toys.ToyConfig(n_layers=1, d_model=4, n_heads=1, d_vocab=5, n_ctx=6)},
        config=(None, {}, 3, "toy-2l", il.toys.ToyConfig),
        implementation=("flax", 3, True),
        device=("tpu", "cuda:99"),
        dtype=(None, "float32", torch.int64, torch.bool, float),
        tokenizer=("gpt2", 3),
    )
    yield from _cases(
        il.training.Clamp,
        {"heads": ["0.0"]},
        heads=("0.0", None, 3, ["one"], [(0, -1)], []),
        k_composition=FLAGS,
        start=FROM_0,
        end=(0, -1, 2.5, "4", True, NAN),
    )


def _cases_of_runs(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever takes runs."""
    run, other = given.run, given.other
    no_runs = ([], None, 3, "run", [run, run], [run, 3], {"run": run}, [run, other])
    resampled = {"confidence": CONFIDENCES, "n_resamples": FROM_1, "seed": SEEDS}
    yield from _cases(
        il.dynamics.phase_change,
        {"trajectories": run},
        trajectories=no_runs,
        of=("loss", None, 3),
        minimum=(-1, NAN, "0.1", None, True),
        **resampled,
    )
    not_one = (None, 3, "run", [], [run])
    yield from _cases(
        il.dynamics.co_occurrence, {"trajectory": run}, trajectory=not_one, **resampled
    )
    yield from _cases(
        il.dynamics.loss_derivative, {"trajectory": run}, trajectory=not_one, n_bins=FROM_1
    )
    yield from _cases(
        il.dynamics.loss_derivative(run).at, {}, position=(0, -1, 2.5, "4", None, 10**6)
    )
    yield from _cases(il.dynamics.loss_pca, {}, trajectories=no_runs[:-1])
    moments = (NAN, "1e6", None, True, -1, 1e12)
    yield from _cases(
        dynamics.model_order,
        {"trajectories": [run, other], "position": 5, "before": 1e6, "after": 2e6},
        trajectories=([run], *no_runs[:-1]),
        position=POSITIONS,
        before=(*moments, 3e6),
        after=(*moments, 5e5),
        by=("icl", None, 3),
        window=FROM_0,
    )
    derivative = {"trajectories": [run, other], "position": 5, "before": 1e6, "after": 2e6}
    yield from _cases(dynamics.model_order, {**derivative, "by": "derivative"}, n_bins=FROM_1)


def _cases_of_figures(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever draws."""
    losses, scores = given.losses, given.scores["induction"]
    others = (None, 3, {"mean": None}, {"mean": torch.zeros(1, 2)})
    for draw in (plots.loss_by_position, plots.cost_by_position):
        good = {"clean": losses, "ablated": {}, "early": 2, "late": 9}
        yield from _cases(draw, good, clean=LOSSES, ablated=others)
    yield from _cases(plots.binned, {"losses": losses}, losses=LOSSES, n_bins=FROM_1)
    yield from _cases(
        plots.head_map, {"scores": scores}, scores=(None, 3, scores.values), marked=(3,)
    )
    yield from _cases(
        plots.head_effects, {"effects": scores}, effects=(None, scores.values), k=FROM_1[:-1]
    )
    yield from _cases(plots.icl_scores, {}, studies=(None, {}, [given.study], {"mean": 3}))
    pattern = torch.eye(3)
    yield from _cases(
        plots.attention_map,
        {"pattern": pattern, "tokens": ["a", "b", "c"]},
        pattern=(None, torch.zeros(3), torch.eye(4), [[1.0]]),
        tokens=(None, "abc", ["a"]),
    )
    for draw in (
        plots.induction_over_training,
        plots.smear_over_training,
        plots.effects_over_training,
        plots.loss_curves,
    ):
        yield from _cases(draw, {}, run=(None, 3, [given.run]))
    yield from _cases(plots.loss_curves, {"run": given.run}, n_curves=FROM_1[:-1])
    yield from _cases(plots.loss_derivative_map, {}, derivative=(None, given.run))
    yield from _cases(
        plots.icl_over_training, {"changes": {}}, runs=(None, {}, {"a": [3]}, {"a": 3})
    )
    yield from _cases(
        plots.window_chart,
        {"changes": {"a": None}, "last": 1e6},
        changes=(None, {}, 3),
        last=(0, -1, NAN, "1e6", None),
    )


def _cases_of_tokens(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever makes tokens."""
    model, tokens = given.model, given.tokens
    yield from _cases(
        il.models.ordinary_ids,
        {"model": model},
        model=MODELS,
        exclude_fraction=(-0.1, 0.5, 1, NAN, "0", None, True),
    )
    yield from _cases(
        il.repeated_random_tokens,
        {"model": model, "n_tokens": 2},
        model=MODELS,
        n_tokens=(*FROM_1, (2, 1), (1, 2, 3), (0, 2), [2.0, 3], ()),
        n_repeats=FROM_1,
        seq_len=(1, 2.0, True, "9", 10**6),
        n_sequences=FROM_1,
        seed=SEEDS,
        ids=([], [1], [1, 1, 2], [99, 1, 2], [-1, 2, 3], "ab", 3, [0.5, 1, 2], tokens),
    )
    yield from _cases(il.inputs.shuffled, {"tokens": tokens}, tokens=NO_IDS, seed=SEEDS)
    yield from _cases(
        il.text_tokens,
        {"model": il.load("toy-1l", device="cpu"), "n_sequences": 2, "seq_len": 16},
        model=MODELS,
        n_sequences=(0, *NUMBERS_FROM_0),
        seq_len=(*FROM_1, 1),
        seed=SEEDS,
        source=(3, [], [3], "", True),
        short_documents=("x", None, 3),
    )


def _cases_of_tasks(given: SimpleNamespace) -> Iterator[Case]:
    """Tasks, few-shot accuracy, and kinds of heads."""
    model, task, tasks = speaking_circuit(), key_task(), il.tasks
    scores = il.score_heads(model, detectors="induction")["induction"]
    pairs = (None, 3, "ab", [], ["ab"], [("a",)], [("a", 1)], [("a", "")], [(" ", "b")])
    counts = (*FROM_1[:7], NAN, [3])
    asked = {"task": (*TASKS, "keys"), "model": MODELS, "seed": SEEDS}
    yield from _cases(
        tasks.Task.from_pairs,
        {"name": "mine", "pairs": {"a": "b"}},
        name=(None, 3),
        pairs=pairs,
        template=("x", "{prompt}{answer} ", "{prompt} {answer}", None, "{answer} {prompt} "),
        instruction=(None, 3),
        scoring=("choice", None, 3),
    )
    yield from _cases(
        tasks.Task.from_frame,
        {"name": "mine", "frame": pd.DataFrame({"a": ["x"], "b": ["y"]})},
        frame=(None, 3, [("a", "b")], pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": [], "b": []})),
        prompt=("c", 3),
        answer=("c", 3),
    )
    yield from _cases(task.scored, {"scoring": "f1"}, scoring=("f2", None, 3))
    yield from _cases(tasks.F1, {}, n_new=(0, -1, 2.5, "4", True, NAN, None, 1000))
    yield from _cases(
        tasks.few_shot,
        {"model": model, "task": task, "shots": 2, "n_items": 4},
        shots=(-1, 2.5, "4", True, NAN, None, 30),
        heads=HEADS[1:],
        method=METHODS,
        at=("first", None, 3),
        n_items=counts,
        **asked,
    )
    yield from _cases(
        tasks.dose_response,
        {"model": model, "task": task, "ranking": scores, "counts": [1], "shots": 2},
        ranking=(None, 3, "1.0", [], ["9.9"], ["1.0", "1.0"]),
        counts=([], [0], [7], 3, "1", [1.5]),
        method=METHODS,
        at=("first", None, 3),
        **asked,
    )
    yield from _cases(
        tasks.top_heads,
        {"scores": scores, "n": 1},
        scores=(None, 3, scores.values),
        n=FROM_1[:8],
        without=(3, il.HeadScores("other", torch.zeros(3, 3))),
        excluded=(-0.1, 1, NAN, "0.1", None),
    )
    yield from _cases(tasks.pattern, {}, n_items=counts, seed=SEEDS)
    yield from _cases(tasks.letter_pattern, {}, form=("ABCD", "", None, 3), n_items=counts)
    yield from _cases(tasks.word_classes, {}, ways=(1, 3, 5, "2", None), n_items=counts)
    yield from _cases(tasks.word_pairs, {"kind": "plurals"}, kind=("plural", None, 3))
    yield from _cases(
        tasks.translated_words,
        {"language": "German"},
        language=("Klingon", None, 3),
        of=("german", None),
        lists=([], ["colours"], 3),
    )
    yield from _cases(tasks.translated_sentences, {}, languages=(["English"], [], ["x", "y"], 3))
    yield from _cases(
        tasks.literal_copying, {}, passages=([], ["short"], 3, "text", [None]), different=FLAGS
    )
    yield from _cases(tasks.chosen_kinds, {"kinds": "ngram"}, kinds=([], "ngrams", None, 3, [3]))
    yield from _cases(tasks.PatternHeads().score, {"model": model}, model=MODELS)
    for kind in (tasks.PatternHeads, tasks.LiteralHeads, tasks.TranslationHeads):
        for bad in (*TASKS[1:], tasks.word_pairs("plurals")):
            name = f"{kind.__name__}({_short(bad)}).score"
            yield Case(name, lambda kind=kind, bad=bad: kind(bad).score(model))
    yield from _cases(
        tasks.dissociate,
        {"model": model, "tasks": task, "text": il.repeated_random_tokens(model, n_tokens=10)},
        model=MODELS,
        tasks=([], [3], [task, task], "keys", 3),
        text=TOKENS[1:],
        kinds=([], "inducton", None, 3),
        methods=LISTS_OF_METHODS,
        extent=(3, "large"),
        seed=SEEDS,
    )
    yield from _cases(
        tasks.Extent,
        {},
        n_heads=(*NUMBERS_FROM_0, 0),
        shots=(-1, 2.5, None),
        n_items=(1, 2.5, None),
        n_controls=NUMBERS_FROM_0,
        n_texts=(1, None),
    )
    yield from _cases(
        tasks.same_heads,
        {"model": model, "kinds": ["ngram"]},
        model=MODELS,
        kinds=([], ["induction"], "x", 3),
        threshold=THRESHOLDS,
        n_permutations=FROM_1[:6],
        seed=SEEDS,
    )
    yield from _cases(il.reports.save_dissociation, {"folder": "x"}, found=(None, 3, scores))


def _cases_of_mechanism(given: SimpleNamespace) -> Iterator[Case]:
    """What patches, cuts and replaces the edges of circuits."""
    model = given.model
    copies = il.repeated_random_tokens(model, n_tokens=4, n_repeats=3, n_sequences=3)
    material = il.circuits.Material.of(model, tokens=copies, n_texts=0)
    changed = {
        "model": MODELS,
        "material": (3, "text", copies),
        "n_controls": (*NUMBERS_FROM_0, 10**30),
    }
    changed["receivers"] = HEADS
    edge = {"model": model, "receivers": "1.0", "material": material, "n_controls": 0}
    yield from _cases(
        il.circuits.path_patch,
        {**edge, "senders": "0.0"},
        senders=(*HEADS, "1.1"),
        inputs=([], "x", None, 3, ["k", "k"], {"k": 1}),
        other=(3, "zero", copies, il.circuits.OtherTokens(copies[:1])),
        through_mlps=FLAGS,
        **changed,
    )
    yield from _cases(
        il.circuits.cut_edge,
        edge,
        senders=HEADS[1:],
        methods=(3, "masked", [None], ["masked"]),
        **changed,
    )
    yield from _cases(
        il.circuits.ideal_pattern,
        {"model": model, "heads": "1.0", "material": material},
        model=MODELS,
        heads=HEADS,
        kind=("inductoin", None, 3),
        ablation=METHODS,
        on_text=(*FLAGS, True),
        material=changed["material"],
    )
    yield from _cases(
        il.circuits.circuit,
        {"model": model, "previous": "0.0", "induction": "1.0", "material": material},
        model=MODELS,
        previous=(*HEADS[1:], "1.1"),
        induction=(*HEADS[1:], "0.1"),
        threshold=THRESHOLDS,
        n_random=(*NUMBERS_FROM_0, 10**30),
        material=changed["material"],
        seed=SEEDS,
    )
    yield from _cases(
        il.circuits.before_and_after,
        {"before": model, "after": model, "text": copies},
        before=MODELS,
        after=MODELS,
        text=(*TOKENS, copies),
        method=METHODS,
        seed=SEEDS,
    )
    yield from _cases(
        il.circuits.Material.of,
        {"model": model, "tokens": copies, "n_texts": 0},
        model=MODELS,
        tokens=(*TOKENS[1:], torch.arange(9)[None]),
        n_texts=NUMBERS_FROM_0,
    )
    yield from _cases(
        il.circuits.strongest_edges,
        {"model": model, "previous_token": torch.zeros(2, 3)},
        model=MODELS,
        previous_token=(None, 3, torch.zeros(2), torch.zeros(3, 2), [[0.0] * 3] * 2),
    )
    for method in (il.circuits.Masked, il.circuits.Zeroed):
        yield from _cases(method, {}, keys=(None, 3, "induction", il.circuits.TargetKeys))
    yield from _cases(il.circuits.TargetKeys, {}, detector=(None, 3, "induction"))
    yield from _cases(il.circuits.RandomKeys, {}, like=(None, 3, "induction"), seed=SEEDS)
    yield from _cases(il.circuits.PreviousTokenChanged, {}, spacing=(1, *FROM_1[:-1]), seed=SEEDS)
    yield from _cases(
        il.circuits.CompositionCut,
        {"senders": ["0.0"]},
        senders=(None, [], 3, ["1"], [None]),
        input=("z", None, 3),
    )


def _cases_of_knock_outs(given: SimpleNamespace) -> Iterator[Case]:
    """The context manager, and the tables of n-grams."""
    model, tokens = given.model, given.tokens

    def knocked_out(**options: Any) -> None:
        with il.knocked_out(**options):
            pass

    yield from _cases(
        knocked_out,
        {"model": model, "heads": "0.0", "reference": tokens},
        model=MODELS,
        heads=HEADS,
        method=METHODS,
        reference=TOKENS,
        seed=SEEDS,
    )
    yield from _cases(il.ablation.Mean, {"reference": tokens}, per_position=FLAGS)
    yield from _cases(il.ablation.Resample, {"reference": tokens}, seed=SEEDS)
    yield from _cases(
        il.tracking.count_ngrams,
        {"training": tokens, "d_vocab": 11},
        training=NO_IDS,
        d_vocab=(*FROM_1, 3),
    )
    tables = il.tracking.count_ngrams(tokens, d_vocab=11)
    known = {"model": model, "heads": ["0.0"], "text": tokens, "tables": tables}
    yield from _cases(
        il.tracking.ngram_control,
        {**known, "n_tokens": 3, "n_repeats": 2},
        model=MODELS,
        heads=HEADS,
        text=TOKENS,
        tables=(None, 3, {}),
        method=METHODS,
        n_tokens=FROM_1,
        n_repeats=FROM_1,
        confidence=CONFIDENCES,
        seed=SEEDS,
        progress=FLAGS,
    )


def _cases_of_training(given: SimpleNamespace) -> Iterator[Case]:
    """Whatever trains, or reads what was trained."""
    rates = (-1, NAN, "a", None, True)
    yield from _cases(
        il.train,
        {"model": given.model, "batches": given.tokens, "n_steps": 1, "batch_size": 1},
        model=MODELS,
        batches=TOKENS,
        n_steps=FROM_1[:-1],
        batch_size=FROM_1[:-1],
        out=(3, ""),
        optimizer=("sgd", None, 3),
        learning_rate=rates,
        muon_learning_rate=rates,
        weight_decay=rates,
        warmup=FROM_0,
        decay=(2, *rates),
        clip=(0, *rates[:3]),
        micro_batch=FROM_1[:6],
        fused=FLAGS,
        mixed_precision=(1, "yes"),
        clamp=(3, "0.0", [3]),
        snapshots=([-1], [2.5], [99], 3, "1"),
        checkpoint_every=FROM_1[:6],
        resume=FLAGS,
        progress=FLAGS,
        seed=SEEDS,
    )
    yield from _cases(il.load, {}, model=(None, 3, "", [], "toy-9l"))
    yield from _cases(
        il.load,
        {"model": "toy-1l"},
        device=("tpu", "", 3, "cuda:99"),
        dtype=("float32", torch.int64, 3),
        implementation=("flax", 3, True),
        revision=("main", 3, b"x"),
        checkpoint=(0, -1, 2.5, "x", True),
        device_map=("auto", 3, ["cpu"]),
    )
    nowhere = (None, 3, "")
    yield from _cases(il.track, {"out": "nowhere"}, run=(*nowhere, Path("none")))
    counts = (0, -1, 2.5, "4", True)
    yield from _cases(
        il.reports.make_runs,
        {"out": "nowhere"},
        out=nowhere,
        presets=([], "phase-9l", ["x"], None, 3),
        seeds=([], [-1], [0.5], 3, None, [0, 0]),
        n_tokens=counts,
        processes=counts,
        measured=FLAGS,
        progress=FLAGS,
    )
    yield from _cases(
        il.reports.reproduce,
        {"out": "nowhere"},
        out=nowhere,
        quick=FLAGS,
        processes=counts,
        progress=FLAGS,
    )
    yield from _cases(
        il.reports.training_report,
        {"runs": given.run},
        runs=([], 3, [3], "", [given.run, given.run], "none"),
        n_resamples=FROM_1,
        seed=SEEDS,
        progress=FLAGS,
    )
    yield from _cases(il.tracking.Trajectory.read, {}, path=(*nowhere, Path("none")))
    yield from _cases_of_suites(given)


def _cases_of_suites(given: SimpleNamespace) -> Iterator[Case]:
    yield from _cases(
        il.suites.suite,
        {"name": [(0, 0, "toy-1l", None)]},
        name=(None, 3, "", "pythia", [], [3], [(1, 2, 3)], [(-1, 0, "a/b", None)], Path("none")),
        tokens_per_step=(0, -1, 2.5, "4", True),
        progress=FLAGS,
    )
    yield from _cases(
        il.suites.family,
        {"models": ["toy-1l"], "n_sequences": 2, "n_controls": 0, "progress": False},
        models=(None, 3, [], [3], ["toy-1l", "toy-1l"], "toy-1"),
        n_sequences=(0, 1, -1, 2.5, "4", True),
        n_controls=(-1, 2.5, "4"),
        method=("meen", 3),
        threshold=("high", None, math.nan),
        trajectories=({"toy-2l": given.run}, 3),
        out=(3, ""),
        engine=("spark", 3, None),
        resume=FLAGS,
        seed=SEEDS,
        progress=FLAGS,
    )
    yield from _cases(
        il.suites.trend,
        {"sizes": [1e6, 1e7, 1e8], "values": [1.0, 2.0, 3.0]},
        sizes=([1e6], [0.0, 1e6, 1e7], ["a", "b", "c"], 3),
        values=([1.0], ["a", "b", "c"], 3, None),
        confidence=(0, 1, 2, "high"),
    )
    yield from _cases(
        il.tracking.chosen_steps,
        {"steps": [0, 1, 2], "how": "all"},
        how=("some", "log:0", [], [7], 3, [1.5]),
        steps=(3, ["a"], None),
    )
    yield from _cases(il.reports.save_family, {"folder": "nowhere"}, family=(None, 3, "toy-1l"))
    yield from _cases(
        il.compare,
        {"models": [given.study, given.study], "progress": False},
        models=(None, 3, [], [given.study], [given.study, 3], "toy-1l", given.study),
        text=("some text",),
        n_sequences=(0, 1, -1, 2.5, "4", True),
        n_controls=(-1, 2.5, "4"),
        method=("meen", 3),
        threshold=("high", None, math.nan),
        seed=SEEDS,
        progress=FLAGS,
    )
    yield from _cases(
        il.reports.save_comparison, {"folder": "nowhere"}, comparison=(None, 3, "toy-1l")
    )
    yield from _cases(il.results.load, {}, path=(None, 3, "", "nowhere", "a\0b", Path(__file__)))


def _outcome(case: Case) -> str:
    """`clear`, or what came instead."""
    try:
        result = case.call()
    except ValueError as error:
        said = str(error)
        clear = re.search(r"expected .*\bgot\b", said) and "\n" not in said and len(said) < 500
        return "clear" if clear else f"unclear: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"accepted: {_short(result)}"


GROUPS = [
    _cases_of_models,
    _cases_of_numbers,
    _cases_of_toys,
    _cases_of_runs,
    _cases_of_figures,
    _cases_of_tokens,
    _cases_of_knock_outs,
    _cases_of_mechanism,
    _cases_of_tasks,
    _cases_of_training,
]


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_bad_call_is_refused_in_one_clear_line(given, group):
    outcomes = {case.name: _outcome(case) for case in group(given)}
    assert {name: said for name, said in outcomes.items() if said != "clear"} == {}


def test_there_are_hundreds_of_them(given):
    cases = [case for group in GROUPS for case in group(given)]
    assert len(cases) >= 1300
    assert len({case.name for case in cases}) == len(cases)


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """A folder with a model of each kind, and with what is none."""
    folder = tmp_path_factory.mktemp("there")
    config = il.toys.ToyConfig(n_layers=1, d_model=4, n_heads=2, d_vocab=11, n_ctx=37)
    write_snapshot(il.toys.build_toy(config, device="cpu"), folder / "toy", step=0, tokens_seen=0)
    write_folder("gpt2", folder / "gpt2", tokenizer=True)
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("some words, and some words more")
    (folder / "empty.txt").write_text("")
    (folder / "binary").write_bytes(bytes(range(256)))
    for name, written in {
        "null": "null",
        "list": "[]",
        "unfinished": "{",
        "nothing": "",
        "unknown": '{"model_type": "unknown"}',
        "nested": "[" * 5000 + "]" * 5000,
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(written)
    return folder


# Command lines in which {there} is that folder; each is wrong in one thing.
LINES = """
--bogus
-x
nonsense
Report
heads --bogus
heads {there}/toy --top 0
heads {there}/toy --top -1
heads {there}/toy --top 2.5
heads {there}/toy --top many
heads {there}/toy --top
heads {there}/toy --detector inductoin
heads {there}/toy --detector 3
heads {there}/toy --detector ''
heads {there}/toy --detector induction --detector induction
heads {there}/toy --detector copying --sort induction
heads {there}/toy --sort inductoin
heads {there}/toy --sort ''
heads {there}/toy --threshold nan
heads {there}/toy --threshold inf
heads {there}/toy --threshold high
heads {there}/toy --seed -1
heads {there}/toy --seed 0.5
heads {there}/toy --seed 99999999999999999999999999
heads {there}/toy --device tpu
heads {there}/toy --device cuda:99
heads {there}/toy {there}/gpt2
heads {there}/text.txt
heads {there}/binary
heads {there}/empty
heads {there}
heads {there}/null
heads {there}/list
heads {there}/unfinished
heads {there}/nothing
heads {there}/unknown
heads {there}/nested
heads {there}/none/at/all
heads toy-9l
heads ''
heads --quiet=yes {there}/toy
attention {there}/toy --text words
attention {there}/gpt2 --text ''
attention {there}/gpt2 --text words --heads 9.9
attention {there}/gpt2 --text words --heads ''
attention {there}/gpt2 --text words --detector inductoin
attention {there}/gpt2 --text words --out {there}
attention {there}/gpt2 --text words --out {there}/text.txt/page.html
attention {there}/toy --seed -1
attention {there}/toy --device tpu
report {there}/toy --heads 9.9
report {there}/toy --heads one
report {there}/toy --heads 0
report {there}/toy --heads -1.0
report {there}/toy --heads 0.-1
report {there}/toy --heads ''
report {there}/toy --heads ,
report {there}/toy --heads 0.0,0.0
report {there}/toy --heads 0.0;0.1
report {there}/toy --heads 0.0-0.1
report {there}/toy --method meen
report {there}/toy --method ''
report {there}/toy --method zero --method zero
report {there}/toy --threshold nan
report {there}/toy --threshold -inf
report {there}/toy --controls -1
report {there}/toy --controls few
report {there}/toy --controls 999999999999
report {there}/toy --sequences 1
report {there}/toy --sequences -5
report {there}/toy --sequences 2.5
report {there}/toy --seed -1
report {there}/toy --seed a
report {there}/toy --early 0
report {there}/toy --early -3
report {there}/toy --early 1.5
report {there}/toy --late 0
report {there}/toy --late 36 --early 36
report {there}/toy --early 30 --late 5
report {there}/toy --late 99999
report {there}/toy --window -1
report {there}/toy --window wide
report {there}/toy --device tpu
report {there}/toy --text {there}/none
report {there}/toy --text ''
report {there}/gpt2 --text {there}/empty.txt
report {there}/gpt2 --text {there}/empty
report {there}/toy --text {there}/text.txt
report {there}/toy --out {there}/text.txt
report {there}/toy --out {there}/text.txt/sub
report {there}/toy --out {there}/text.txt/sub/deeper
report {there}/toy --out ''
dynamics --shipped --out ''
train --preset toy-1l --out ''
reproduce --out ''
report {there}/toy --out /proc/nothing/here
report {there}/empty
report {there}/null
report {there}/unfinished
report {there}/none
report {there}/toy extra
zoo extra
zoo --top 3
train
train extra
train --preset
train --preset toy-9l
train --preset ''
train --preset toy-1l --all-presets
train --preset toy-1l --tokens 0
train --preset toy-1l --tokens -1
train --preset toy-1l --tokens few
train --preset toy-1l --device tpu --out {there}/new
train --preset toy-1l --seed 0.5
train --preset toy-1l --out {there}/text.txt
train --preset toy-1l --out {there}/text.txt/sub
train --preset markov --tokens 0
train --preset markov --device tpu --out {there}/new
train --preset markov --text {there}
train --preset markov --out {there}/text.txt
train --preset markovs
train --all-presets --device cpu
train --all-presets --text {there}
train --all-presets --no-resume
train --all-presets --out {there}/text.txt/sub
dynamics
dynamics --bogus
dynamics {there} --shipped
dynamics {there}/none
dynamics {there}/empty
dynamics {there}/text.txt
dynamics {there}/empty.txt
dynamics {there}/binary
dynamics {there}/null
dynamics --shipped --out {there}/text.txt
dynamics --shipped --out {there}/text.txt/sub
reproduce extra
reproduce --processes 0
reproduce --processes -1
reproduce --processes many
reproduce --out {there}/text.txt
reproduce --out {there}/text.txt/sub
""".strip().splitlines()


def _line_outcome(line: str, there: Path) -> str:
    """`clear`, or what came instead."""
    arguments = shlex.split(line.replace("{there}", str(there)))
    result = CliRunner().invoke(cli.app, arguments)
    errors = [said for said in result.stderr.splitlines() if said.startswith("error: ")]
    clear = (result.exit_code, result.stdout, len(errors)) == (2, "", 1)
    return "clear" if clear else f"exit code {result.exit_code}: {result.output[-300:]}"


@pytest.mark.usefixtures("_as_users_call")
def test_every_bad_command_line_ends_in_one_line_with_exit_code_2(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes = {line: _line_outcome(line, there) for line in LINES}
    assert {line: said for line, said in outcomes.items() if said != "clear"} == {}
    assert len(outcomes) >= 100
    assert list(tmp_path.iterdir()) == []  # no folder is left of what did not begin
