"""The report in words: sentences made from findings, with their numbers. Sees no model.

The sentences claim no more than the intervals allow: an effect whose interval holds zero is said to
be unresolved, and a rank is only a rank among the controls that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from induction_lens.ablation.first_order import FEWEST_EXACT, MOST
from induction_lens.ablation.stopping import Stopping
from induction_lens.ablation.study import AblationStudy
from induction_lens.estimates import Estimate, simultaneous_quantile
from induction_lens.heads import Head, ScoreTable
from induction_lens.reports.model.findings import Findings
from induction_lens.reports.numbers import UNKNOWN, number, shown

MAX_LISTED = 8
CHANCE = 0.05
"""With fewer controls than make a rank of 1 this unlikely, no rank rules out chance."""


def headline(found: Findings) -> str:
    """One line: how many induction heads there are."""
    name = "This model" if found.name == "this model" else found.name
    if found.scores["induction"].note is not None:
        return f"{name}: induction was not measured"
    if not found.heads:
        return f"{name} has no head that passes as an induction head"
    if len(found.heads) == 1:
        return f"{name} has one induction head: {found.heads[0]}"
    return f"{name} has {len(found.heads)} induction heads"


def summary(found: Findings) -> list[str]:
    """The result in three paragraphs: the heads, their knock-out, and how else it was measured."""
    return [_about_heads(found), _about_knock_out(found), _about_the_rest(found)]


def notes_on_controls(studied: Sequence[Head], asked: int, possible: int) -> tuple[str, ...]:
    """A sentence where there are fewer control sets than were asked for."""
    if asked == 0 or possible >= asked:
        return ()
    if possible == 0:
        return (
            f"There are no controls: {heads_text(studied)} take up more than half of a layer's "
            "heads, so no other set has as many heads in each layer. Whether the effect is special "
            "to these heads cannot be told; name fewer heads to find out.",
        )
    sets = "one control set" if possible == 1 else f"{possible} control sets"
    return (
        f"Only {sets} of the {asked} asked for: no other has as many heads in each layer as "
        f"{heads_text(studied)}.",
    )


def notes_on_rounding(rough: bool) -> tuple[str, ...]:
    """A sentence where some of the passes were run in bfloat16."""
    if not rough:
        return ()
    return (
        "Control sets, single heads, and methods other than the quoted one were run in bfloat16, "
        "as changes from a clean run in bfloat16; scores, and what is quoted of the tested heads, "
        "are in float32.",
    )


def notes_on_first_order(used: bool) -> tuple[str, ...]:
    """A sentence where effects to first order stand beside exact ones."""
    if not used:
        return ()
    return (
        f"Each head alone is knocked out on {FEWEST_EXACT} sequences or more; its effect to first "
        f"order, on up to {MOST}, takes part of the chance out of that without a bias.",
    )


def notes_on_stopping(stopping: Stopping, measured: int, planned: int) -> tuple[str, ...]:
    """A sentence where it ended before all sequences were measured."""
    if stopping.reason is None:
        return ()
    why = {
        "time": "the time that it was given was over",
        "precision": "intervals were as narrow as was asked for",
        "interrupt": "it was interrupted",
    }[stopping.reason]
    return (
        f"Measured on {measured} of {planned} sequences: {why}. Every number and interval is that "
        f"of these {measured}; what mean and resample ablation write comes from all {planned}.",
    )


def notes_on_scores(scores: ScoreTable) -> tuple[str, ...]:
    """A sentence for each detector that had nothing to measure."""
    return tuple(
        f"The {name.replace('_', ' ')} score was not measured: {found.note}."
        for name, found in scores.items()
        if found.note is not None
    )


def heads_text(heads: Sequence[Head]) -> str:
    """Heads in a sentence: `head 1.2`, `heads 1.2 and 1.5`; long lists are cut."""
    shown = [str(head) for head in heads[:MAX_LISTED]]
    if len(heads) > MAX_LISTED:
        return f"heads {', '.join(shown)} and {len(heads) - MAX_LISTED} more"
    if len(shown) == 1:
        return f"head {shown[0]}"
    return f"heads {', '.join(shown[:-1])} and {shown[-1]}"


def rank_text(study: AblationStudy) -> str:
    """The rank of the tested set among itself and its controls: `1 of 21 (p = 0.05)`."""
    if study.rank is None or study.p_value is None:
        return UNKNOWN
    return f"{study.rank} of {1 + len(study.controls)} (p = {study.p_value:.2f})"


def verdict(study: AblationStudy) -> str:
    """What a study's effect and rank say, as a clause about in-context learning."""
    effect, n = study.effect, len(study.controls)
    if not effect.excludes_zero():
        return "the interval does not tell this change from none"
    if effect.value < 0:
        return "in-context learning is stronger without them"
    weaker = "in-context learning is weaker"
    if study.rank is None:
        return f"{weaker}, with no control to compare to"
    if study.rank == 1:
        one = "the one control set weakens it less"
        less = one if n == 1 else f"none of the {n} control sets weakens it as much"
        few = f", though {n} are too few to rule out chance" if 1 / (1 + n) > CHANCE else ""
        return f"{weaker}, and {less}{few}"
    return f"{weaker}, but as much or more without {study.rank - 1} of the {n} control sets"


def share(study: AblationStudy) -> str:
    """Which part of the ICL score is gone, with its interval, where that can be told."""
    part = study.share
    told = math.isfinite(part.low) and study.clean.high < 0
    if not told or not study.effect.excludes_zero() or study.effect.value <= 0:
        return ""
    value, low, high = (round(100 * x) for x in (part.value, part.low, part.high))
    return f"{value}% of it [{low}%, {high}%]"


def _about_heads(found: Findings) -> str:
    induction = found.scores["induction"]
    if induction.note is not None:
        return f"No head was found to do induction, because it was not measured: {induction.note}."
    does = "on tokens that followed an earlier copy of the current one"
    if found.heads:
        shares = ", ".join(
            f"{head} puts {number(induction[head], signed=False)}"
            for head in found.heads[:MAX_LISTED]
        )
        more = len(found.heads) - MAX_LISTED
        shares += f" (and {more} more above {found.threshold:g})" if more > 0 else ""
        chance = number(max(map(induction.chance, found.heads)), signed=False)
        first = (
            f"On repeated random tokens, head {shares} of its attention {does}, "
            f"which is what an induction head does; chance explains {chance}."
        )
    else:
        head, score = induction.top(1)[0]
        first = (
            f"No head reaches the threshold of {found.threshold:g}: on repeated random tokens the "
            f"strongest candidate, {head}, puts {number(score, signed=False)} of its attention "
            f"{does}, where a perfect induction head puts 1 and chance explains "
            f"{number(induction.chance(head), signed=False)}."
        )
    previous = found.scores["previous_token"]
    if previous.note is not None:
        return first
    head, score = previous.top(1)[0]
    return f"{first} The best previous-token head is {head} ({number(score, signed=False)})."


def _about_knock_out(found: Findings) -> str:
    study = found.windowed[found.main_method]
    who = heads_text(study.heads)
    reason = {
        "induction": "",
        "strongest": " (the strongest candidate, knocked out for comparison)",
        "chosen": " (named by the caller)",
    }[found.why]
    gone = share(study)
    return (
        f"The in-context learning score, the loss around token {study.late} minus {_early(study)}, "
        f"is {shown(study.clean)} nats. Without {who}{reason} it is "
        f"{shown(study.ablated)}, a change of {shown(study.effect)}{f', {gone}' if gone else ''}: "
        f"{verdict(study)}."
    )


def _early(study: AblationStudy) -> str:
    """What the late loss is compared with."""
    if study.estimator == "paper":
        return f"the loss around token {study.early}"
    return f"the loss of the same tokens where {study.early} come before them"


def _about_the_rest(found: Findings) -> str:
    study, paper = found.windowed[found.main_method], found.studies[found.main_method]
    sentences = [
        f"That is by {found.main_method} ablation, averaged over ±{study.window} tokens; brackets "
        f"hold 95% intervals over {over(study.clean)}."
    ]
    others = [method for method in found.windowed if method != found.main_method]
    if others:
        changes = ", ".join(f"{number(found.windowed[m].effect.value)} ({m})" for m in others)
        sentences.append(f"By other methods the change is {changes}.")
    sentences.append(
        f"By the paper's definition, at the two positions alone, the score is {shown(paper.clean)} "
        f"and the change {shown(paper.effect)}."
    )
    if found.matched:
        same = found.matched[found.main_method]
        sentences.append(
            f"Matched targets at these two positions estimate the same more closely: "
            f"{shown(same.clean)} and {shown(same.effect)}."
        )
    return " ".join([*sentences, _about_each_head(found)])


def over(estimate: Estimate) -> str:
    """What an interval is over: `256 sequences of 44 documents`."""
    sequences = f"{estimate.n} sequences"
    if estimate.n_documents is None:
        return sequences
    return f"{sequences} of {estimate.n_documents} documents"


def _about_each_head(found: Findings) -> str:
    effects, n_heads = found.effects, found.effects.values.numel()
    head, value = effects.top(1)[0]
    margin = math.inf
    if effects.sem is not None and effects.n_units is not None:
        critical = simultaneous_quantile(n_heads, int(effects.n_units[head.layer, head.head]))
        margin = critical * float(effects.sem[head.layer, head.head])
    effect = Estimate(value, value - margin, value + margin)
    which = ", an induction head," if head in found.heads else ""
    told = "" if effect.excludes_zero() else ", which does not tell it from none"
    return (
        f"Of all heads knocked out one at a time, {head}{which} weakens in-context learning "
        f"most: {shown(effect)}{told} (the interval allows for the choice among {n_heads} heads)."
    )


def captions(found: Findings) -> dict[str, str]:
    """For each figure, what to see in it and what the paper saw."""
    study = next(iter(found.studies.values()))
    data = "held-out text" if found.is_text else "repeated random tokens"
    return {
        "maps": (
            "One cell per head, layers down. Outlined heads pass the threshold and exceed chance. "
            "Olsson et al. (2022) find previous-token heads in earlier layers than the induction "
            "heads that read them, and none of the latter in models with one layer."
        ),
        "icl": (
            f"Dots are means with 95% intervals over {over(study.clean)}; grey ticks are random "
            "sets with as many heads in each layer. Further left is more in-context learning. The "
            "paper finds most of it gone without the induction heads of small models."
        ),
        "loss": (
            f"Mean loss on {data} with 95% bands; positions are averaged in bins of equal width on "
            f"the log axis, dotted lines mark {study.early} and {study.late}. In the paper, loss "
            "falls with position, and models without induction heads gain little from late context."
        ),
        "cost": (
            "Ablated minus clean, paired by sequence. If the heads serve in-context learning, the "
            "cost grows with position; a cost that is the same everywhere is some other service. "
            "Zero and pattern-preserving agree where no later layer attends to the heads."
        ),
        "effects": (
            f"Change of the windowed ICL score on {found.n_alone} sequences, and on more of them "
            "for heads that may have the largest change, with 95% intervals for each head by "
            "itself, when one head alone is replaced by its mean output; right of zero, in-context "
            "learning is weaker without it. Orange: the heads that were knocked "
            "out together above. In the paper induction heads matter most, most other heads "
            "little, and some the other way."
        ),
        "attention": (
            "Choose a token: shading shows where the head looks from there, underlined tokens "
            "followed an earlier copy of it. The passage was chosen for its repeats, not for what "
            "the head does on it. In the paper, too, induction heads look at the token that came "
            "next last time."
            if found.is_text
            else "Choose a token: shading shows where the head looks from there, underlined tokens "
            "followed an earlier copy of it. Tokens are shown as ids: there is no tokenizer."
        ),
    }
