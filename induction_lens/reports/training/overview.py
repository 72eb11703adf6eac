"""What a page on training says on top: one sentence for each finding. Sees no model."""

from __future__ import annotations

from collections.abc import Sequence

from induction_lens.estimates import short_number
from induction_lens.reports.training.findings import METHOD, Smearing, TrainingFindings, rows_of
from induction_lens.reports.training.sentences import NEAR, capital, change_sentence, pairs_of


def findings(found: TrainingFindings) -> list[tuple[str, str, str]]:
    """What the runs say, a sentence for each finding: the section's id, its title, the sentence."""
    said = [
        ("over-training", "In-context learning over training", _change_in_short(found)),
        ("argument-1", "Argument 1: induction heads", _together_in_short(found)),
        ("argument-2", "Argument 2: smeared keys", _smearing_in_short(found)),
        ("argument-3", "Argument 3: knock-outs", _knockout_in_short(found)),
    ]
    return [finding for finding in said if finding[2]]


def _change_in_short(found: TrainingFindings) -> str:
    if len(found.models) == 1:
        return change_sentence(found.models[0])
    changed = [model for model in found.models if model.icl_change.midpoint]
    n = len(found.models)
    if not changed:
        return f"In none of {n} models does the ICL score fall abruptly, as far as can be told."
    halfway = sorted(
        model.icl_change.midpoint.value for model in changed if model.icl_change.midpoint
    )
    span = " to ".join(dict.fromkeys(short_number(halfway[i]) for i in (0, -1)))
    rest = "" if len(changed) == n else "; in the others no abrupt fall is told from a slow one"
    return (
        f"In {len(changed)} of {n} models the ICL score falls abruptly, halfway at {span} tokens"
        f"{rest}."
    )


def _together_in_short(found: TrainingFindings) -> str:
    both = pairs_of(found)
    if not both:
        return "In no run do both the ICL score and prefix matching change abruptly."
    near = sum(apart <= NEAR for apart, _, _ in both)
    runs = "the one run" if len(both) == 1 else f"{near} of the {len(both)} runs"
    if len(both) == 1:
        return (
            "In the one run where both change, the ICL score and the strongest head's prefix "
            f"matching are halfway within {both[0][0]:.0%} of each other."
        )
    return (
        f"In {runs} where both change, the ICL score and the strongest head's prefix matching are "
        f"halfway within {NEAR:.0%} of each other."
    )


def _smearing_in_short(found: TrainingFindings) -> str:
    pairs = found.smearings
    if not pairs:
        return ""
    without = [pair for pair in pairs if not pair.plain.icl_change.found]
    brought = [pair.plain.label for pair in without if pair.smeared.icl_change.found]
    have = [pair for pair in pairs if pair.plain.icl_change.found]
    earlier = [pair.plain.label for pair in have if pair.apart]
    said = []
    if without:
        named = f" ({'; '.join(brought)})" if brought else ""
        said.append(
            f"smeared keys bring a change to {len(brought)} of the {_models(without)} that "
            f"{'has' if len(without) == 1 else 'have'} none with plain keys{named}"
        )
    if have:
        named = f" ({'; '.join(earlier)})" if earlier else ""
        said.append(
            f"{'' if said else 'smeared keys '}bring it forward in {len(earlier)} of the "
            f"{_models(have)} that {'has' if len(have) == 1 else 'have'} one{named}"
        )
    return f"{capital(', and '.join(said))}."


def _models(pairs: Sequence[Smearing]) -> str:
    return "1 model" if len(pairs) == 1 else f"{len(pairs)} models"


def _knockout_in_short(found: TrainingFindings) -> str:
    removed = [
        row["removed"]
        for row in rows_of(found.knockouts_frame(), set="tested", method=METHOD)
        if row["are_induction_heads"] and row["clean_high"] < 0
    ]
    if not removed:
        return ""
    low, high = (f"{value:.0%}".replace("-", "−") for value in (min(removed), max(removed)))
    span = low if low == high else f"{low} to {high}"
    runs = "the one run" if len(removed) == 1 else f"the {len(removed)} runs"
    return (
        f"In {runs} with induction heads and an ICL score below zero, knocking these heads out "
        f"removes {span} of the score ({METHOD} ablation)."
    )
