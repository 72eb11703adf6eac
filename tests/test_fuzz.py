"""Random arguments of random types: a value that is right to read, or one clear line; never more.

Each function is called with good arguments of which one to three are replaced by odd ones, drawn
with a fixed seed. What is accepted must give finite numbers, or the NaN that its documentation
names: of what was not measured, at position 0 of losses, of the interval of a single sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import induction_lens as il
from induction_lens import dynamics, plots, progress
from tests.reports.test_training_report import MIDDLE
from tests.reports.test_training_report import _run as synthetic_run

pytestmark = pytest.mark.slow  # every public function with odd arguments

N_DRAWS = 400
SLOWEST = ("path_patch", "cut_edge", "ideal_pattern", "circuit")
SLOW = (
    *(*SLOWEST, "qk_matching", "before_and_after", "train", "load", "report"),
    *("training_report", "ngram_control", "text_tokens", "few_shot", "dose_response"),
)
ODD = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1000, 10**30, -(2**63), 0.5, 2.5, -0.0, 1e300),
    *(
        math.nan,
        math.inf,
        -math.inf,
        1j,
        "",
        "a",
        "mean",
        "induction",
        "0.0",
        "cpu",
        "\ud800",
        b"x",
    ),
    *([], [1], [1, 2], (), (0, 1), ["0.0"], ["mean"], [None], {}, {"a": 1}, set(), range(3)),
    *(object(), object, len, lambda: 3, Path(), np.int64(3), np.float32(0.5), np.bool_(True)),
    *(np.zeros((2, 3)), np.array(3), torch.tensor(3), torch.tensor(0.5), torch.tensor(math.nan)),
    *(torch.zeros(0), torch.zeros(2, 3), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1, 1]])),
    *(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(1, 2, 3), torch.full((2, 9), math.nan)),
    *(torch.zeros(2, 3, device="meta"), torch.zeros(2, 3).to_sparse(), torch.nn.Linear(2, 2)),
    *(
        il.Head(0, 1),
        il.toys.ToyConfig,
        il.detectors.DETECTORS,
        torch.float32,
        iter([1]),
        slice(3),
        Ellipsis,
    ),
]
Good = dict[str, Any]


def _mechanism(model: Any) -> list[tuple[Callable[..., Any], Good]]:
    """What patches, cuts and replaces the edges of circuits."""
    copies = il.repeated_random_tokens(model, n_tokens=3, n_repeats=3, n_sequences=3)
    material = il.circuits.Material.of(model, tokens=copies, n_texts=0)
    scores = il.score_heads(model, tokens=copies)["previous_token"].values
    before = il.toys.build_toy(
        il.toys.ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=11, n_ctx=13, seed=1),
        device="cpu",
    )

    def cut(method: il.ablation.AblationMethod) -> Tensor:
        with il.knocked_out(model, "1.0", method=method), torch.no_grad():
            return model(copies)

    def masked(**options: Any) -> Tensor:
        return cut(il.circuits.Masked(**options))

    def zeroed(**options: Any) -> Tensor:
        return cut(il.circuits.Zeroed(**options))

    def composition_cut(**options: Any) -> Tensor:
        return cut(il.circuits.CompositionCut(**options))

    keys = il.circuits.TargetKeys()
    edge = {"model": model, "receivers": "1.0", "material": material}
    return [
        (masked, {"keys": keys}),
        (zeroed, {"keys": keys}),
        (composition_cut, {"senders": ["0.0"], "input": "k"}),
        (
            il.circuits.path_patch,
            {**edge, "senders": "0.0", "inputs": "k", "other": None, "through_mlps": False}
            | {"n_controls": 1},
        ),
        (il.circuits.cut_edge, {**edge, "senders": ["0.0"], "methods": None, "n_controls": 1}),
        (
            il.circuits.ideal_pattern,
            {"model": model, "heads": "1.0", "kind": "induction", "ablation": "mean"}
            | {"on_text": False, "material": material},
        ),
        (
            il.circuits.circuit,
            {"model": model, "previous": "0.0", "induction": "1.0", "threshold": 0.3}
            | {"n_random": 1, "material": material, "announce": None, "seed": 0},
        ),
        (
            il.circuits.Material.of,
            {"model": model, "tokens": copies, "text": None, "n_sequences": 2, "n_texts": 0}
            | {"window": 1, "seed": 0},
        ),
        (
            il.circuits.before_and_after,
            {"before": before, "after": model, "text": copies, "method": "mean", "seed": 0},
        ),
        (il.circuits.strongest_edges, {"model": model, "previous_token": scores}),
    ]


def _tasks(model: Any) -> list[tuple[Callable[..., Any], Good]]:
    """What makes and asks tasks."""
    task = il.tasks.Task.from_pairs("again", {"red": "red", "blue": "blue", "green": "green"})
    asked = {"model": model, "task": task, "shots": 1, "seed": 0}
    ranked = il.HeadScores("mine", torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    passages = ["one two three four five six seven eight nine ten eleven twelve"] * 2
    drawn = {"n_items": 12, "seed": 0}
    return [
        (il.tasks.Task.from_pairs, {"name": "again", "pairs": {"red": "red"}}),
        (il.tasks.letter_pattern, {"form": "ABAB", **drawn}),
        (il.tasks.word_classes, {"ways": 2, **drawn}),
        (il.tasks.literal_copying, {"passages": passages, "different": False, "seed": 0}),
        (il.tasks.translated_sentences, {"languages": ["English", "French"], "diagonal": False}),
        (il.tasks.few_shot_prompts, {**asked, "n_items": 2, "shuffled_answers": False}),
        (il.tasks.few_shot, {**asked, "n_items": 2, "heads": "0.0", "method": "mean", "at": "all"}),
        (il.tasks.top_heads, {"scores": ranked, "n": 2, "without": None}),
        (
            il.tasks.dose_response,
            {**asked, "ranking": ranked, "counts": [1], "method": "mean", "at": "all"},
        ),
    ]


def _laboratory() -> list[tuple[Callable[..., Any], Good]]:
    """What toys are trained on."""
    language = il.languages.TwoAlphabets(n_letters=5, length=3)
    tokens = torch.tensor([[0, 1, 2, 1, 2, 3]])
    sizes = {"n_letters": 5, "length": 3, "restart": 0.1, "seed": 0}
    chains = {"n_states": 4, "concentration": 1.0, "n_chains": 2}
    return [
        (il.training.Hapax, {"n": 2}),
        (il.training.Hapax(2).counts, {"tokens": tokens}),
        (
            il.training.language_batches,
            {"language": language, "batch_size": 2, "seq_len": 9, "seed": 0},
        ),
        (il.languages.TwoAlphabets, sizes),
        (il.languages.InterleavedChains, chains),
    ]


@pytest.fixture(scope="module")
def functions() -> dict[str, tuple[Callable[..., Any], Good]]:
    """Public functions with arguments that they take, all of them named."""
    config = il.toys.ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=11, n_ctx=13)
    model = il.toys.build_toy(config, device="cpu")
    tokens = torch.randint(1, 11, (3, 13), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    losses = il.per_token_loss(model, tokens)
    scores = il.score_heads(model, tokens=tokens)["induction"]
    study = il.ablate(model, "0.0", tokens, early=2, late=9, n_controls=2)
    composed = il.circuits.composition(model, n_draws=2)
    run, other = synthetic_run(MIDDLE), synthetic_run(None, n_layers=1)
    places = {"early": 2, "late": 9, "window": 1}
    measured = {"seed": 0, "batch_size": None, "progress": False}
    toy = {"n_layers": 1, "d_model": 4, "n_heads": 2, "d_head": None, "d_vocab": 5, "n_ctx": 6}
    toy |= {"attn_only": True, "d_mlp": None, "positions": "rotary", "smeared_keys": False}
    toy |= {"smear_init": 0.0, "distance_bias": 0.0, "aligned_unembed": 0.0, "seed": 0}
    resampled = {"confidence": 0.9, "n_resamples": 3, "seed": 0}
    known = {"values": scores.values, "name": "mine", "unit": "attention", "ceiling": 1.0}
    known |= {"uniform": 0.1, "null": None, "sem": None, "note": None}
    known |= {"over_null_sem": None, "n_sequences": None}
    order = {"trajectories": [run, other], "position": 5, "before": 1e6, "after": 2e6}
    drawn = {"clean": losses, "ablated": {"mean": losses}, "early": 2, "late": 9}
    text = [
        "def f(argument):\n    return argument\n",
        "for name in range(9):\n    print(name)\n",
    ] * 9
    read = il.load("toy-1l", device="cpu")
    tables = il.tracking.count_ngrams(tokens, d_vocab=11)
    trained = {"optimizer": "muon", "learning_rate": 0.01, "muon_learning_rate": 0.02}
    trained |= {"weight_decay": 0.1, "warmup": 1, "decay": 0.2, "clip": 1.0, "micro_batch": None}
    trained |= {"fused": None, "mixed_precision": False, "clamp": None, "snapshots": None}
    trained |= {"loss_mask": None}
    trained |= {"checkpoint_every": None, "resume": True, "progress": False, "seed": 0}

    def knocked_out(**options: Any) -> Tensor:
        with il.knocked_out(**options) as knocked, torch.no_grad():
            return knocked(tokens)

    def train(**options: Any) -> Tensor:
        toy = il.toys.build_toy(config, device="cpu")
        return il.train(toy, tokens, n_steps=1, batch_size=2, **options).losses

    def load(**options: Any) -> Tensor:
        return il.load("toy-1l", **options)(tokens.cpu()).detach()

    listed = [
        (il.models.ordinary_ids, {"model": model, "exclude_fraction": 0.04}),
        (
            il.repeated_random_tokens,
            {"model": model, "n_tokens": 2, "n_repeats": 3, "n_sequences": 2, "seed": 0}
            | {"ids": None, "seq_len": None},
        ),
        (il.inputs.shuffled, {"tokens": tokens, "seed": 0}),
        (
            il.text_tokens,
            {"model": read, "n_sequences": 1, "seq_len": 9, "seed": 0, "source": None}
            | {"text": text, "column": "text", "encoding": None, "short_documents": "pack"},
        ),
        (
            knocked_out,
            {"model": model, "heads": "0.0", "method": "mean", "reference": tokens} | {"seed": 0},
        ),
        (il.tracking.count_ngrams, {"training": tokens, "d_vocab": 11}),
        (
            il.tracking.ngram_control,
            {"model": model, "heads": ["0.0"], "text": tokens, "tables": tables, "seed": 0}
            | {"method": "mean", "n_tokens": 3, "n_repeats": 2, "confidence": 0.9}
            | {"progress": False},
        ),
        (train, trained),
        (
            load,
            {"device": "cpu", "dtype": None, "implementation": None, "check": True}
            | {"trust_remote_code": False},
        ),
        (
            il.report,
            {"model": model, "text": tokens, "heads": ["0.0"], "threshold": 0.3, "seed": 0}
            | {"methods": ["mean"], "n_controls": 2, "n_sequences": 3, "early": 2, "late": 9}
            | {"window": 1, "detectors": (), "progress": False},
        ),
        (
            il.reports.training_report,
            {"runs": [run], "n_resamples": 20, "seed": 0, "progress": False},
        ),
        (
            il.score_heads,
            {"model": model, "tokens": tokens, "text": None, "detectors": None}
            | {"attention": "auto", "shuffled_null": True, **measured},
        ),
        (
            il.per_token_loss,
            {"model": model, "tokens": tokens, "batch_size": None, "progress": False},
        ),
        (il.icl_score, {"losses": losses, **places, **resampled}),
        (
            il.ablate,
            {"model": model, "heads": "0.0", "tokens": tokens, "method": "mean", "n_controls": 2}
            | {**places, **measured},
        ),
        (
            il.ablate_each_head,
            {"model": model, "tokens": tokens, "method": "zero"} | {**places, **measured},
        ),
        (il.ablation.control_sets, {"model": model, "heads": "0.0", "n": 2, "seed": 0}),
        (il.circuits.composition, {"model": model, "n_draws": 2, "seed": 0}),
        (composed.of, {"earlier": "0.0", "later": "1.0", "kind": "K"}),
        (composed.top, {"k": 3, "kind": None}),
        (composed.above, {"z": 5.0, "kind": None}),
        (il.circuits.random_composition, {"d_model": 8, "d_head": 4, "n_draws": 2, "seed": 0}),
        (
            il.circuits.qk_matching,
            {"model": model, "text": tokens, "distances": [0], "mlp": True, "progress": False},
        ),
        (
            il.circuits.term_importance,
            {"model": model, "text": tokens, "batch_size": None, "progress": False}
            | {"freeze_norms": True, "freeze_mlps": False},
        ),
        *_mechanism(model),
        *_tasks(il.load("toy-1l", device="cpu")),
        *_laboratory(),
        (
            il.detectors.published.published_scores,
            {"model": model, "definitions": ["olsson"], "n_sequences": 2, **measured},
        ),
        (il.detectors.target_mask, {"tokens": tokens, "detector": "induction"}),
        (
            il.views.attention,
            {"model": model, "text_or_tokens": tokens[:1], "heads": ["0.0"], "scores": None}
            | {"detector": "induction"},
        ),
        (
            il.detectors.AttentionDetector,
            {"name": "mine", "targets": len, "title": "Mine", "caption": "", "source": ""}
            | {"unmeasured": "none", "by_content": True, "outlines_induction_heads": False},
        ),
        (il.Head, {"layer": 0, "head": 0}),
        (il.Head.parse, {"head": "0.0"}),
        (il.HeadScores, known),
        (il.ScoreTable, {"scores": {"induction": scores}}),
        (scores.top, {"k": 3}),
        (scores.above, {"threshold": 0.3}),
        (scores.chance, {"head": "0.0"}),
        (scores.__getitem__, {"head": "0.0"}),
        (study.at, places),
        (il.toys.ToyConfig, toy),
        (il.toys.ToyConfig.from_dict, {"values": toy}),
        (
            il.toys.build_toy,
            {"config": il.toys.ToyConfig(**toy), "implementation": None, "dtype": torch.float32}
            | {"tokenizer": None},
        ),
        (il.training.Clamp, {"heads": ["0.0"], "k_composition": False, "start": 0, "end": 5}),
        (il.dynamics.phase_change, {"trajectories": run, "of": "icl", "minimum": 0.1, **resampled}),
        (il.dynamics.co_occurrence, {"trajectory": run, **resampled}),
        (il.dynamics.loss_derivative, {"trajectory": run, "n_bins": 5}),
        (il.dynamics.loss_derivative(run).at, {"position": 5}),
        (il.dynamics.loss_pca, {"trajectories": [run, other]}),
        (dynamics.model_order, {**order, "by": "loss", "window": 2, "n_bins": 5}),
        (il.show_progress, {"shown": True}),
        (plots.loss_by_position, drawn),
        (plots.cost_by_position, drawn),
        (plots.binned, {"losses": losses, "n_bins": 5}),
        (plots.head_map, {"scores": scores, "marked": []}),
        (plots.head_effects, {"effects": scores, "marked": [], "k": 3}),
        (plots.icl_scores, {"studies": {"mean": study}}),
        (plots.attention_map, {"pattern": torch.eye(2), "tokens": ["a", "b"]}),
        (plots.induction_over_training, {"run": run}),
        (plots.loss_curves, {"run": run, "n_curves": 3}),
    ]
    return {
        function.__qualname__.rsplit("<locals>.")[-1]: (function, good) for function, good in listed
    }


NAMES = [
    *("ordinary_ids", "repeated_random_tokens", "shuffled", "text_tokens", "knocked_out"),
    *("count_ngrams", "ngram_control", "train", "load", "report", "training_report"),
    *("score_heads", "per_token_loss", "icl_score", "ablate", "ablate_each_head", "control_sets"),
    *("composition", "Composition.of", "Composition.top", "Composition.above"),
    *("random_composition", "qk_matching", "term_importance"),
    *("masked", "zeroed", "composition_cut", "path_patch", "cut_edge", "ideal_pattern", "circuit"),
    *("Material.of", "before_and_after", "strongest_edges"),
    *("Task.from_pairs", "letter_pattern", "word_classes", "literal_copying"),
    *("translated_sentences", "few_shot_prompts", "few_shot", "top_heads", "dose_response"),
    *("Hapax", "Hapax.counts", "language_batches", "TwoAlphabets", "InterleavedChains"),
    "published_scores",
    *(
        "target_mask",
        "attention",
        "AttentionDetector",
        "Head",
        "Head.parse",
        "HeadScores",
        "ScoreTable",
        "HeadScores.top",
    ),
    *("HeadScores.above", "HeadScores.chance", "HeadScores.__getitem__", "AblationStudy.at"),
    *("ToyConfig", "ToyConfig.from_dict", "build_toy", "Clamp", "phase_change", "co_occurrence"),
    *("loss_derivative", "LossDerivative.at", "loss_pca", "model_order", "show_progress"),
    *("loss_by_position", "cost_by_position", "binned", "head_map", "head_effects", "icl_scores"),
    *("attention_map", "induction_over_training", "loss_curves"),
]


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("name", NAMES)
def test_odd_arguments_give_a_right_value_or_one_clear_line(functions, name, monkeypatch, tmp_path):
    monkeypatch.setattr(progress._Switch, "set_to", None)
    monkeypatch.chdir(tmp_path)
    function, good = functions[name]
    random = Random(name)
    said: list[str] = []
    n_draws = N_DRAWS // (20 if name in SLOWEST else 8 if name in SLOW else 1)
    for _ in range(n_draws):
        changed = random.sample(sorted(good), min(len(good), random.randint(1, 3)))
        odd = {option: random.choice(ODD) for option in changed}
        try:
            result = function(**{**good, **odd})
        except ValueError as error:
            said.append(str(error))
        except Exception as error:
            raise AssertionError(f"{name} with {odd}") from error
        else:
            # scores that are put together by hand hold what was given
            assert name == "HeadScores" or _is_right(result), (odd, result)
    assert len(said) > n_draws / 3
    assert [line for line in said if "\n" in line or "expected" not in line] == []


def _is_right(result: object) -> bool:
    """Whether the numbers of a result are finite, or NaN where that is documented."""
    return all(math.isfinite(number) for number in _numbers(result))


def _numbers(result: object) -> Iterator[float]:
    """The numbers of a result, but for those that are documented to be missing."""
    match result:
        case il.Estimate():
            yield result.value
            yield from () if result.n == 1 else (result.low, result.high)
        case il.HeadScores():
            yield from () if result.note is not None else result.values.flatten().tolist()
        case il.ScoreTable():
            for scores in result.values():
                yield from _numbers(scores)
        case il.AblationStudy():
            for estimate in (result.clean, result.ablated, result.effect):
                yield from _numbers(estimate)
        case dynamics.PhaseChange():
            yield from (result.change, result.p_value)
        case dynamics.LossDerivative():
            yield from result.values.flatten().tolist()
        case il.views.AttentionView():
            yield from result.pattern.flatten().tolist()
        case Tensor():
            later = result[:, 1:] if result.ndim == 2 else result  # nothing precedes position 0
            yield from later.float().flatten().tolist()
        case float():
            yield result


def test_every_function_named_here_is_called(functions):
    assert list(functions) == NAMES
