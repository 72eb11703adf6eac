"""Measures the runs of the synthetic laboratory, for its page.

    python docs/scripts/make_language_runs.py language-runs     # an hour or so: trains them
    python docs/scripts/measure_laboratory.py language-runs     # minutes
    python docs/scripts/write_arguments.py                      # the page, from what this wrote

What it writes, docs/arguments/laboratory.json, is all that the page's numbers are from; beside it,
in docs/arguments/laboratory, are the runs' trajectories.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import induction_lens as il
from induction_lens.circuits import CompositionCut, composition
from induction_lens.dynamics import mean_over_seeds, ratio_over_seeds
from induction_lens.estimates import Estimate, columns
from induction_lens.heads import THRESHOLD, Head, names_of
from induction_lens.languages import Copies
from induction_lens.metrics import short_cuts
from induction_lens.tracking import LanguageTrajectory, language_detectors
from induction_lens.training import LANGUAGE_PRESETS, Hapax

OUT = Path(__file__).parents[1] / "arguments" / "laboratory.json"
KEPT = OUT.parent / "laboratory"
WHOLE, CLAMPED = "trajectory.safetensors", "under-clamp.safetensors"
N_SEQUENCES, SEED = 128, 7
"""Of what final models are measured on: another seed than that of the trajectories."""
EARLY, LATE, WINDOW = 50, 500, 10

Row = dict[str, Any]


def gap(model: Any, language: Any, tokens: torch.Tensor, among: torch.Tensor) -> float:
    """The mean loss of some tokens beyond that of the best predictor, in nats."""
    losses = il.per_token_loss(model, tokens, progress=False)
    return float((losses - language.optimal_loss(tokens))[among].mean())


def matching(model: Any, language: Any, tokens: torch.Tensor) -> il.HeadScores:
    """The attention of every head on what one attends to that solves the language by matching."""
    [detector] = language_detectors(language)
    options = {"detectors": [detector], "shuffled_null": False, "progress": False}
    return il.score_heads(model, tokens=tokens, **options)[detector.name]


def without(model: Any, heads: list[Head], method: Any, lost: Callable[[], float]) -> float | None:
    """A number with heads ablated; None where there are none."""
    if not heads:
        return None
    with il.knocked_out(model, heads, **method):
        return lost()


def of_layer(model: Any, layer: int) -> list[Head]:
    """All heads of a layer."""
    return [Head(layer, head) for head in range(model.cfg.n_heads)]


def cut_from(model: Any, heads: list[Head], layer: int, lost: Callable[[], float]) -> float | None:
    """A number with the keys of heads computed as if a layer's heads had written nothing."""
    method = {"method": CompositionCut(of_layer(model, layer))}
    return without(model, [head for head in heads if head.layer > layer], method, lost)


def alphabets(model: Any, run: LanguageTrajectory, name: str) -> Row:
    """The end of a run on two alphabets: what is learnt, by which heads, and whether they copy."""
    language: Any = LANGUAGE_PRESETS[name].language
    tokens = language.sample(N_SEQUENCES, seq_len=41, seed=SEED)
    groups = language.token_groups(tokens)
    found = matching(model, language, tokens)
    heads = sorted(found.above(THRESHOLD))
    best = found.top(1)[0][0]
    literal = Copies(n_letters=language.n_letters, length=language.length)
    copies = literal.sample(N_SEQUENCES, seq_len=41, seed=SEED)
    same = matching(model, literal, copies)
    pairs = composition(model).top(1, kind="K")

    def lost() -> float:
        return gap(model, language, tokens, groups["new"])

    among_copies = literal.token_groups(copies)["pieces"]
    return {
        "gap_new": lost(),
        "gap_again": gap(model, language, tokens, groups["again"]),
        "gap_literal": gap(model, literal, copies, among_copies),
        "chance_gap": math.log(language.length)
        - float(language.optimal_loss(tokens)[groups["new"]].mean()),
        "heads": names_of(heads),
        "n_heads": len(heads),
        "best": str(best),
        "across": float(found.values[best.layer, best.head]),
        "literal": float(same.values[best.layer, best.head]),
        "uniform": same.uniform,
        "best_literal": str(same.top(1)[0][0]),
        "without_heads": without(model, heads, {"method": "mean", "reference": tokens}, lost),
        "without_composition": cut_from(model, heads, 0, lost),
        "composed": str(pairs[0]),
        "composed_z": pairs[0].z_shuffled,
        "composed_best": pairs[0].later == best,
    }


def moments(run: LanguageTrajectory, name: str) -> Row:
    """When the new letters of two alphabets are predicted better than halfway, in updates."""
    released = max((one.end or 0 for one in LANGUAGE_PRESETS[name].clamp), default=0)
    half = sum(run.references[of]["new"] for of in ("optimal", "letters")) / 2
    step = run.learnt_at(half, kind="new", after=released)
    return {"learnt": None if step is None else step - released}


def chains(model: Any, run: LanguageTrajectory, name: str) -> Row:
    """The end of a run on interleaved chains: which layers match, and what they build on."""
    language: Any = LANGUAGE_PRESETS[name].language
    tokens = language.sample(N_SEQUENCES, seq_len=65, seed=SEED)
    among = language.token_groups(tokens)["all"]
    found = matching(model, language, tokens)
    heads = sorted(found.above(THRESHOLD))

    def lost() -> float:
        return gap(model, language, tokens, among)

    row: Row = {"gap": lost(), "heads": names_of(heads), "n_heads": len(heads)}
    row["unigram_gap"] = float(
        (language.unigram_loss(tokens) - language.optimal_loss(tokens))[among].mean()
    )
    for layer in range(model.cfg.n_layers):
        row[f"matching_{layer}"] = float(found.values[layer].max())
        mean = {"method": "mean", "reference": tokens}
        row[f"without_{layer}"] = without(model, of_layer(model, layer), mean, lost)
        for earlier in range(layer):
            later = of_layer(model, layer)
            row[f"cut_{layer}_{earlier}"] = cut_from(model, later, earlier, lost)
            row[f"composed_{layer}_{earlier}"] = float(run.composed[-1, layer, :, earlier].max())
    return row


def markov(model: Any, run: LanguageTrajectory, name: str) -> Row:
    """A run on Markov chains: when the model was nearest to counting states, and when it had more
    than half of what pairs of states tell."""
    language: Any = LANGUAGE_PRESETS[name].language
    references = {kind: run.references[kind]["all"] for kind in ("unigram", "optimal")}
    loss = run.loss()
    uniform = math.log(language.n_states)
    nearest = int(run.distances["unigram"].argmin())
    half_unigram = (uniform + references["unigram"]) / 2
    row = {
        "gap": float(loss[-1]) - references["optimal"],
        "unigram_gap": references["unigram"] - references["optimal"],
        "half_unigram": run.learnt_at(half_unigram),
        "half_bigram": run.learnt_at(sum(references.values()) / 2),
        "nearest_step": int(run.steps[nearest]),
        "nearest": float(run.distances["unigram"][nearest]),
        "nearest_from_optimal": float(run.distances["optimal"][nearest]),
        "end_from_optimal": float(run.distances["optimal"][-1]),
        "end_from_unigram": float(run.distances["unigram"][-1]),
    }
    tokens = LANGUAGE_PRESETS[name].language.sample(N_SEQUENCES, seq_len=65, seed=SEED)
    found = matching(model, LANGUAGE_PRESETS[name].language, tokens)
    heads = sorted(found.above(THRESHOLD))
    return row | {"heads": names_of(heads), "matching": float(found.values.max())}


def text(folder: Path) -> Row:
    """A run on text: what is left of each kind of in-context learning at its end."""
    model = il.load(folder / "model", device="cpu")
    sample = il.sample_text(model, n_sequences=N_SEQUENCES, seq_len=512)
    tokens = sample.tokens
    losses = il.per_token_loss(model, tokens, progress=False)
    short = short_cuts(tokens, EARLY, LATE, window=WINDOW)
    short_losses = il.per_token_loss(model, short, progress=False)
    counted = Hapax().counts(tokens)
    around = slice(LATE - WINDOW, LATE + WINDOW + 1)
    gained = losses[:, around] - short_losses[:, EARLY - WINDOW : EARLY + WINDOW + 1]
    is_new = counted[:, around]
    repeated = il.repeated_random_tokens(model, n_tokens=50, n_repeats=2, n_sequences=64)
    by_copy = il.per_token_loss(model, repeated, progress=False)[:, 1:].split(50, dim=1)
    scores = il.score_heads(model, detectors=["induction"], progress=False)["induction"]
    return {
        "loss_new": float(losses[counted & ~losses.isnan()].mean()),
        "loss_again": float(losses[~counted].mean()),
        "share_again": float((~counted)[:, 1:].double().mean()),
        "icl": float(gained.mean()),
        "icl_new": float(gained[is_new].mean()),
        "icl_again": float(gained[~is_new].mean()),
        "copying": float(by_copy[0].mean() - by_copy[1].mean()),
        "induction": float(scores.values.max()),
        "n_heads": len(scores.above(THRESHOLD)),
    }


MEASURES: dict[str, Callable[[Any, LanguageTrajectory, str], Row]] = {
    "alphabets": alphabets,
    "alphabets-clamped": alphabets,
    "alphabets-clamped-late": alphabets,
    "chains-2l": chains,
    "chains-3l": chains,
    "markov": markov,
}
TEXT = ("all-tokens", "hapax")


def rows_of(folder: Path, name: str) -> list[Row]:
    """One row for each seed that is done."""
    rows = []
    for path in sorted(folder.glob(f"{name}-seed-[0-9]*")):
        seed = int(path.name.rpartition("-")[2])
        if name in TEXT:
            if (path / "model" / "card.json").is_file():
                rows.append({"seed": seed, **text(path)})
            continue
        if not (path / WHOLE).is_file():
            continue
        KEPT.mkdir(exist_ok=True)
        run = LanguageTrajectory.read(path / WHOLE)
        shutil.copy(path / WHOLE, KEPT / f"{path.name}.safetensors")
        row = MEASURES[name](il.load(path / "model", device="cpu"), run, name)
        if name.startswith("alphabets"):
            row |= moments(run, name)
        if (path / CLAMPED).is_file():
            under = LanguageTrajectory.read(path / CLAMPED)
            shutil.copy(path / CLAMPED, KEPT / f"{path.name}-under-clamp.safetensors")
            row |= under_clamp(under, name)
        rows.append({"seed": seed, "steps": int(run.steps[-1]), **row})
    return rows


def under_clamp(run: LanguageTrajectory, name: str) -> Row:
    """What a clamped model has learnt while the clamp lasted, measured under it."""
    ends = [one.end for one in LANGUAGE_PRESETS[name].clamp]
    last = max(run.steps.tolist()) if None in ends else max(end for end in ends if end)
    point = int((run.steps <= last).nonzero()[-1])
    beyond = run.loss("new")[: point + 1] - run.references["optimal"]["new"]
    return {
        "clamped_until": int(run.steps[point]),
        "clamped_gap": float(beyond[-1]),
        "clamped_least_gap": float(beyond.min()),
        "clamped_across": float(run.scores["block"][: point + 1].max()),
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """The mean over seeds of every number that all of them have, with Student's t interval."""
    told: dict[str, Any] = {"seeds": len(rows)}
    for name, value in (rows[0] if rows else {}).items():
        values = [row[name] for row in rows]
        if isinstance(value, float) and all(isinstance(one, float) for one in values):
            told[name] = interval(mean_over_seeds(values))
        elif name in ("learnt", "half_unigram", "half_bigram", "nearest_step"):
            there = [float(one) for one in values if one]
            if len(there) == len(values):
                told[name] = interval(mean_over_seeds(there, geometric=True))
    return told


def paired(first: Iterable[Row], second: Iterable[Row], name: str) -> dict[str, Any] | None:
    """The mean over seeds of a difference between two runs of one seed, first minus second."""
    others = {row["seed"]: row for row in second}
    both = [(row[name], others[row["seed"]][name]) for row in first if row["seed"] in others]
    return interval(mean_over_seeds([a - b for a, b in both])) if both else None


def interval(estimate: Estimate) -> dict[str, Any]:
    """`value`, `low`, `high` and `n`."""
    ends = columns("value", estimate)
    return {
        "value": ends["value"],
        "low": ends["value_low"],
        "high": ends["value_high"],
        "n": estimate.n,
    }


def compared(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """What differs between runs."""
    told: dict[str, Any] = {}
    free, late = rows["alphabets"], rows["alphabets-clamped-late"]
    for name in ("gap_new", "gap_literal"):
        told[f"late_{name}"] = paired(late, free, name)
    steps = [[row["learnt"] for row in of if row["learnt"]] for of in (late, free)]
    if all(len(of) > 1 for of in steps):
        told["late_ratio"] = interval(ratio_over_seeds(*steps))
    told["third_layer"] = paired(rows["chains-3l"], rows["chains-2l"], "gap")
    three = rows["chains-3l"]
    if three:
        differences = [row["cut_2_1"] - row["cut_2_0"] for row in three]
        told["cut_of_third"] = interval(mean_over_seeds(differences))
        differences = [row["composed_2_1"] - row["composed_2_0"] for row in three]
        told["composed_of_third"] = interval(mean_over_seeds(differences))
    for name in ("loss_new", "loss_again", "icl", "icl_new", "icl_again", "copying", "induction"):
        told[f"hapax_{name}"] = paired(rows["hapax"], rows["all-tokens"], name)
    stages = [row["half_bigram"] / row["half_unigram"] for row in rows["markov"]]
    if len(stages) > 1:
        told["stages"] = interval(mean_over_seeds(stages, geometric=True))
    return told


def main(folder: Path) -> None:
    """Measure all, and write the file."""
    names = (*MEASURES, *TEXT)
    rows = {name: rows_of(folder, name) for name in names}
    told = {
        "runs": rows,
        "means": {name: summary(rows[name]) for name in names},
        "compared": compared(rows),
    }
    OUT.write_text(json.dumps(_plain(told), indent=1) + "\n", encoding="utf-8")


def _plain(told: Any) -> Any:
    """The same as JSON knows it, rounded: null for what is not a finite number."""
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [_plain(value) for value in told]
    if isinstance(told, float):
        return round(told, 5) if math.isfinite(told) else None
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
