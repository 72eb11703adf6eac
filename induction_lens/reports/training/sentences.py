"""A training report in words: sentences and cells made from findings. Sees no model.

A claim of the paper that the runs do not bear out is reported as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from induction_lens.dynamics import PhaseChange
from induction_lens.estimates import Estimate, short_number
from induction_lens.heads import THRESHOLD
from induction_lens.reports.numbers import number, shown
from induction_lens.reports.training.findings import (
    METHOD,
    ModelFindings,
    Smearing,
    TrainingFindings,
    rows_of,
)

Row = Mapping[str, Any]
NOTHING = "–"
CAPTIONS = {
    "icl": (
        "ICL score: {score}, on held-out text; lower is better. A line for each seed. In the "
        "paper, models of two and more layers fall to about −0.4 nats within a short window and "
        "stay there; those of one layer do not."
    ),
    "looks": (
        "Colours tell kinds of models apart: blue is attention alone, orange smeared keys, purple "
        "MLPs, brown what was held back in training; wider models have a colour beside these. "
        "Dashes tell depth: dotted is 1 layer, solid 2, dashed 3."
    ),
    "windows": (
        "Bars: from onset to end of the ICL score's change. Dots: midpoints, with 95% intervals: "
        "Student's t over the seeds that change, or, where one run changes, over evaluation "
        "sequences, the noise between snapshots and their spacing. p-values are corrected for "
        "{tests} models (Holm). In the paper, smeared keys bring the change to one-layer models, "
        "and bring it forward in deeper ones."
    ),
    "models": (
        "Losses and best scores are means over seeds. Brackets hold 95% intervals: of several "
        "seeds, Student's t over seeds; of one run, over sequences, and for the marks also over "
        "the noise and the spacing of snapshots. Marks are in training tokens, over the seeds "
        "that change by themselves (p < 0.05 each). In bold: the ICL score changes, p corrected "
        "for {tests} models (Holm)."
    ),
    "together": (
        "Each run by itself, with p < 0.05 in both curves, not corrected for the number of runs. "
        "Brackets: over sequences, noise and spacing of snapshots. Lag: midpoint of the ICL "
        "score's change minus that of the strongest head's prefix-matching score. The rank "
        "correlation is over the snapshots in either window; it describes, and is no test, for "
        "any two curves that change once correlate."
    ),
    "induction": (
        "Attention of each head on the tokens that followed earlier copies of the current one, on "
        "repeated random tokens. Shaded, where there is one: the window of this run's ICL score. "
        "In the paper, induction heads form in that window."
    ),
    "losses": (
        "Mean loss at each token position, at moments of training from early (grey) to late (blue)."
    ),
    "derivative": (
        "Slope of the loss over ln(position); green: later tokens are predicted better. Dotted, "
        "where there is one: the window. In the paper the slope changes abruptly there."
    ),
    "pca": (
        "Each snapshot is the vector of its losses on the same tokens of held-out text, on the "
        "first two principal components of all runs together; large dots lie in the window. In "
        "the paper the paths of models that change turn there."
    ),
    "orders": (
        "Values at token index 50, ranks in brackets (1 is lowest), of one run each. The paper "
        "finds the order by the derivative to be inverted by the change."
    ),
    "smear": (
        "σ(α): the share of its own position in a key; 1 is a plain key, 0 the key of the token "
        f"before. In colour: heads that end with a prefix-matching score above {THRESHOLD}."
    ),
    "composition": (
        "From the weights: how much of what each head's keys read is what one earlier head writes "
        "(K-composition, Elhage et al. 2021), of the earlier head where that is highest, minus "
        f"what random matrices give. In colour: heads that end above {THRESHOLD}. Dotted, on the "
        "right: the ICL score. All are in edges.csv."
    ),
    "matching": (
        "From the weights: the positivity of the eigenvalues of each head's QK circuit through "
        "all earlier heads, weighted by how much these attend to the previous token; 1 where a "
        "head looks for what followed its own token."
    ),
    "effects": (
        "What knocking out each head alone changes in the ICL score: above zero, in-context "
        "learning is weaker without it. A dot's colour is the head's prefix-matching score at "
        "that moment. In the paper the heads that matter are induction heads."
    ),
    "knockouts": (
        f"All heads with a prefix-matching score above {THRESHOLD} at the end, knocked out "
        f"together ({METHOD}); "
        "where there are none, the strongest. Brackets: 95% intervals over sequences, each run by "
        "itself. Removed: the change as a share of the clean score. Controls: other sets with as "
        "many heads in each layer. In bold: the change is above zero, p < 0.05 after correction "
        "for the {rows} rows (Holm). The other methods are in knockouts.csv."
    ),
    "ngrams": (
        "Mean losses in nats; brackets: 95% intervals over sequences. The last row of a model is "
        "the control: on repeated random tokens, the loss in the first copy minus that in later "
        "ones, in one model. What a model gains there it has from its context, for a table of "
        "bigrams or trigrams knows no more of a later copy than of the first. The losses "
        "themselves do not tell: random tokens are unlike text, so that they may stay above "
        "ln(vocabulary), the loss of knowing nothing, in a model that copies. On shuffled text "
        "the order of tokens tells nothing.{unmeasured}"
    ),
}
"""What to see in each figure and table, and what the paper saw; what is in braces is filled in."""
NEAR = 0.25
"""How far apart, as a share, two midpoints may be to count as near each other."""
MANY = 4
"""More models than these are named in short, for a table says the rest."""
COMPARED = ("pca", "orders")
"""What shows models that were measured on the same tokens alone."""


def captions(found: TrainingFindings) -> dict[str, str]:
    """`CAPTIONS` with the positions, and with what is left out of `COMPARED`."""
    compared = {model.label for model in found.compared}
    out = [model.label for model in found.models if model.label not in compared]
    note = f" Left out, as measured on other tokens: {'; '.join(out)}." if out else ""
    values = {
        "score": _score(found),
        "tests": len(found.models),
        "rows": len(rows_of(found.knockouts_frame(), set="tested", method=METHOD)),
        "unmeasured": _without_copying(found),
    }
    filled = {name: text.format(**values) for name, text in CAPTIONS.items()}
    filled["together"] += _without_both(found)
    return {name: text + note * (name in COMPARED) for name, text in filled.items()}


def _without_copying(found: TrainingFindings) -> str:
    """The models whose copying was not measured, of those compared with tables."""
    frame = found.ngrams_frame()
    if frame.empty:
        return ""
    measured = {row["model"] for row in rows_of(frame, tokens="copying")}
    out = [label for label in dict.fromkeys(frame["model"]) if label not in measured]
    return f" Not measured: {'; '.join(out)}." if out else ""


def _without_both(found: TrainingFindings) -> str:
    """The runs that have no lag, where other runs of the same model have one."""
    out = [
        f"{model.label}, seed {run.seed}"
        for model in found.models
        if any(pair.lag for pair in model.together)
        for run, pair in zip(model.model.trajectories, model.together, strict=True)
        if not pair.lag
    ]
    return f" Left out, without both changes by itself: {'; '.join(out)}." if out else ""


def _score(found: TrainingFindings) -> str:
    """What is subtracted from what in the ICL scores."""
    runs = [model.model.first for model in found.models]
    where = dict.fromkeys((run.early, run.late, run.window) for run in runs)
    return " or ".join(
        f"mean loss at position {late} minus that at {early}" + f", ±{window}" * (window > 0)
        for early, late, window in where
    )


def headline(found: TrainingFindings) -> str:
    """One line: which of the models learn in context abruptly."""
    changed = sum(model.icl_change.found for model in found.models)
    if len(found.models) == 1:
        does = "appears abruptly" if changed else "does not appear abruptly"
        return f"{found.models[0].label}: in-context learning {does}"
    return f"In-context learning appears abruptly in {changed} of {len(found.models)} models"


def summary(found: TrainingFindings) -> list[str]:
    """What the runs say about each of the paper's first three arguments, a paragraph each."""
    return [paragraph for paragraph in (argument(found, n) for n in (1, 2, 3)) if paragraph]


def argument(found: TrainingFindings, number: int) -> str:
    """What the runs say about one argument; nothing where they cannot say anything."""
    if number == 1:
        if len(found.models) > MANY:
            changes = changes_in_short(found)
        else:
            changes = " ".join(change_sentence(model) for model in found.models)
        return f"{changes} {together_sentence(found)}".strip()
    if number == 2:
        return " ".join(smearing_sentence(pair) for pair in found.smearings)
    return knockout_sentence(found)


def change_sentence(model: ModelFindings) -> str:
    """Whether and when a model's ICL score changes abruptly."""
    change = model.icl_change
    if not change.found:
        return f"{capital(model.label)}: no phase change ({_why_none(change)})."
    onset, end = (short_number(mark.value) for mark in (change.onset, change.end) if mark)
    return (
        f"{capital(model.label)}: the ICL score falls by {abs(change.change):.2f} nats between "
        f"{onset} and {end} tokens, halfway at {change.midpoint}{_in_some(model)}."
    )


def seeds(model: ModelFindings) -> str:
    """How many of a model's seeds change in their ICL score, and how many there are."""
    return f"{len(model.icl_change.changed)} of {len(model.model.runs)}"


def _in_some(model: ModelFindings) -> str:
    """Of how many seeds the change is, where it is not of all."""
    n = len(model.model.runs)
    return "" if len(model.icl_change.changed) == n else f" (in {seeds(model)} seeds)"


def changes_in_short(found: TrainingFindings) -> str:
    """Which models change, and halfway when; which do not, and how sure that is."""
    changed = "; ".join(
        f"{model.label} (halfway at {short_number(model.icl_change.midpoint.value)}"
        f"{_in_some(model).replace(' (in', ', in').removesuffix(')')})"
        for model in found.models
        if model.icl_change.midpoint
    )
    others = "; ".join(
        f"{model.label} ({_why_none(model.icl_change)})"
        for model in found.models
        if not model.icl_change.midpoint
    )
    sentences = [f"The ICL score falls abruptly in: {changed}."] if changed else []
    sentences += [f"It does not, as far as can be told, in: {others}."] if others else []
    return " ".join(sentences)


def together_sentence(found: TrainingFindings) -> str:
    """How far apart, and how correlated, the changes of ICL and of induction are."""
    both = pairs_of(found)
    if not both:
        return ""
    n = len(both)
    far = sorted((run for run in both if run[0] > NEAR and len(both) > 1), reverse=True)
    if far:
        runs = f"{n - len(far)} of the {n} runs"
        within = NEAR
    else:
        runs = "the one run" if n == 1 else f"all {n} runs"
        within = max(run[0] for run in both)
    rest = f" ({'; '.join(f'{run}: {apart:.0%}' for apart, run, _ in far)})" if far else ""
    correlations = sorted(correlation for _, _, correlation in both)
    span = " to ".join(dict.fromkeys(number(correlations[i]) for i in (0, -1)))
    return (
        f"In {runs} with both, the midpoints of the ICL score and of the strongest head's "
        f"prefix-matching score lie within {within:.0%} of each other{rest}, "
        f"and inside the window the two have a rank correlation of {span}."
    )


def pairs_of(found: TrainingFindings) -> list[tuple[float, str, float]]:
    """For each run with both changes: how far apart they are, its name, and their correlation."""
    return [
        (abs(pair.ratio.value - 1), f"{model.label}, seed {run.seed}", pair.correlation)
        for model in found.models
        for run, pair in zip(model.model.trajectories, model.together, strict=True)
        if pair.ratio is not None and pair.correlation is not None
    ]


def smearing_sentence(pair: Smearing) -> str:
    """Which of a plain and a smeared model changes first, and whether that can be told."""
    plain = pair.plain
    smeared = pair.smeared
    title = capital(plain.label)
    if not smeared.icl_change.found:
        return f"{title}: no phase change with smeared keys, so smearing brought none about."
    early = f"with smeared keys the change begins {_beginning(smeared)}"
    if not plain.icl_change.found:
        return f"{title}: no phase change with plain keys; {early}."
    told = "which is below 1" if pair.apart else "which may be 1"
    both = (plain.icl_change.over, smeared.icl_change.over)
    over = "seeds" if any(name.endswith("seeds") for name in both) else both[0]
    return (
        f"{title}: {early}; with plain keys it begins {_beginning(plain)}. The ratio of the "
        f"midpoints is {ratio(pair.ratio)} (over {over}), {told}."
    )


def _beginning(model: ModelFindings) -> str:
    """When a model that changes does."""
    onset, middle = (interval(mark) for mark in (model.icl_change.onset, model.icl_change.midpoint))
    return f"at {onset} tokens and is halfway at {middle}{_in_some(model)}"


def knockout_sentence(found: TrainingFindings) -> str:
    """What share of the ICL score goes with the induction heads, and what controls do."""
    shares: dict[str, list[str]] = {}
    for row in rows_of(found.knockouts_frame(), set="tested", method=METHOD):
        if row["are_induction_heads"] and row["clean_high"] < 0:
            shares.setdefault(row["model"], []).append(share(row))
    if not shares:
        return ""
    listed = "; ".join(f"{model} {', '.join(seeds)}" for model, seeds in shares.items())
    return (
        f"Share of the final ICL score that goes with the induction heads ({METHOD}), for each "
        f"seed: {listed}."
    )


def rows(found: TrainingFindings) -> list[list[str]]:
    """For each model in short: its name, ICL score at the end, window and midpoint."""
    frame = rows_of(found.models_frame())
    return [
        [
            model.label,
            estimate(row, "icl"),
            window(model.icl_change),
            interval(model.icl_change.midpoint),
        ]
        for model, row in zip(found.models, frame, strict=True)
    ]


def card(found: TrainingFindings) -> list[tuple[str, str]]:
    """What was run and how it was measured: labels and values."""
    first = found.models[0].model.first
    rows = [
        (model.label, ", ".join(run.name for run in model.model.trajectories))
        for model in found.models
    ]
    rows += [
        ("Snapshots", f"{len(first.steps)} in each run"),
        ("ICL score", f"{_score(found)}, in nats"),
    ]
    measured: dict[str, list[ModelFindings]] = {}
    for model in found.models:
        measured.setdefault(model.model.first.evaluation, []).append(model)
    for evaluation, models in measured.items():
        run = models[0].model.first
        whose = "; ".join(model.label for model in models)
        n_sequences = run.icl.shape[1]
        n_pos = run.loss_by_position.shape[1]
        text = f"{n_sequences} sequences of {n_pos} tokens, {run.token_losses.shape[1]} of them"
        which = f" of {whose}" if len(measured) > 1 else ""
        rows.append((f"Held-out text{which}", f"{text} kept one by one; SHA-256 {evaluation}"))
    return rows


def estimate(row: Row, name: str) -> str:
    """A mean in nats with its interval: `−0.36 [−0.48, −0.23]`."""
    return shown(Estimate(*(row[name + part] for part in ("", "_low", "_high"))))


def loss(row: Row | None) -> str:
    """A mean loss in nats with its interval."""
    if row is None:
        return NOTHING
    return shown(Estimate(row["loss"], row["low"], row["high"]), signed=False)


def window(change: PhaseChange) -> str:
    """Onset to end of a change: `3.5M to 5.0M`, or why there is none."""
    if change.onset is None or change.end is None:
        return f"none ({_why_none(change)})"
    return f"{short_number(change.onset.value)} to {short_number(change.end.value)}"


def interval(mark: Estimate | None) -> str:
    """A mark of a change in tokens with its interval."""
    return NOTHING if mark is None else str(mark).replace("-", "−")


def tokens(row: Row, name: str) -> str:
    """A number of tokens with its interval, from a row of a frame."""
    value, low, high = (row[name + part] for part in ("", "_low", "_high"))
    return NOTHING if math.isnan(value) else interval(Estimate(value, low, high, unit="tokens"))


def ratio(mark: Estimate | None) -> str:
    """A ratio with its interval."""
    return NOTHING if mark is None else shown(mark, signed=False)


def share(row: Row) -> str:
    """The share of the ICL score that a knock-out removes; none where there may be no score."""
    return NOTHING if row["clean_high"] >= 0 else f"{row['removed']:.0%}".replace("-", "−")


def ordered(value: float, by: str) -> str:
    """What models are put in order by: a loss, which has no sign, or its derivative."""
    return f"{value:.2f}" if by == "loss" else number(value)


def _why_none(change: PhaseChange) -> str:
    return str(change).removeprefix("none (").removesuffix(")").replace("-", "−")


def capital(text: str) -> str:
    """A text that begins a sentence."""
    return text[:1].upper() + text[1:]
