"""The report in words: sentences made from findings, with their numbers. Sees no model.

The sentences claim no more than the intervals allow: an effect whose interval holds zero is said to
be unresolved, and a rank is only a rank among the controls that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from induction_lens.ablation import AblationStudy
from induction_lens.heads import Head
from induction_lens.metrics import Estimate
from induction_lens.plots.style import Z95
from induction_lens.report.findings import Findings

MAX_LISTED = 8


def headline(found: Findings) -> str:
    """One line: how many induction heads there are."""
    name = "This model" if found.name == "this model" else found.name
    if not found.heads:
        return f"{name} has no induction heads"
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


def heads_text(heads: Sequence[Head]) -> str:
    """Heads in a sentence: `head 1.2`, `heads 1.2 and 1.5`; long lists are cut."""
    shown = [str(head) for head in heads[:MAX_LISTED]]
    if len(heads) > MAX_LISTED:
        return f"heads {', '.join(shown)} and {len(heads) - MAX_LISTED} more"
    if len(shown) == 1:
        return f"head {shown[0]}"
    return f"heads {', '.join(shown[:-1])} and {shown[-1]}"


def nats(estimate: Estimate, *, signed: bool = True) -> str:
    """An estimate in a sentence or a table: `−0.31 [−0.40, −0.22]`."""
    if not math.isfinite(estimate.low):
        return number(estimate.value, signed=signed)
    low, high = number(estimate.low, signed=signed), number(estimate.high, signed=signed)
    return f"{number(estimate.value, signed=signed)} [{low}, {high}]"


def number(value: float, *, signed: bool = True, digits: int = 2) -> str:
    """A number with a true minus sign; what rounds to zero has no sign."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def rank_text(study: AblationStudy) -> str:
    """The rank of the tested set among itself and its controls: `1 of 4`."""
    return "–" if study.rank is None else f"{study.rank} of {1 + len(study.controls)}"


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
        return f"{weaker}, and " + (
            one if n == 1 else f"none of the {n} control sets weakens it as much"
        )
    return f"{weaker}, but as much or more without {study.rank - 1} of the {n} control sets"


def share(study: AblationStudy) -> str:
    """How much of the ICL score is gone, where it makes sense to say."""
    if study.clean.high >= 0 or not study.effect.excludes_zero() or study.effect.value <= 0:
        return ""
    return f"{min(999, round(100 * study.effect.value / -study.clean.value))}% of it"


def _about_heads(found: Findings) -> str:
    induction = found.scores["induction"]
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
    head, score = found.scores["previous_token"].top(1)[0]
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
        f"The in-context learning score, the loss around token {study.late} minus the loss around "
        f"token {study.early}, is {nats(study.clean)} nats. Without {who}{reason} it is "
        f"{nats(study.ablated)}, a change of {nats(study.effect)}{f', {gone}' if gone else ''}: "
        f"{verdict(study)}."
    )


def _about_the_rest(found: Findings) -> str:
    study, paper = found.windowed[found.main_method], found.studies[found.main_method]
    sentences = [f"That is by {found.main_method} ablation, averaged over ±{study.window} tokens."]
    others = [method for method in found.windowed if method != found.main_method]
    if others:
        changes = ", ".join(f"{number(found.windowed[m].effect.value)} ({m})" for m in others)
        sentences.append(f"By other methods the change is {changes}.")
    sentences.append(
        f"By the paper's definition, at the two positions alone, the score is {nats(paper.clean)} "
        f"and the change {nats(paper.effect)}."
    )
    return " ".join([*sentences, _about_each_head(found)])


def _about_each_head(found: Findings) -> str:
    head, value = found.effects.top(1)[0]
    sem, n = found.effects.sem, found.n_sweep
    margin = math.inf if sem is None else Z95 * float(sem[head.layer, head.head])
    effect = nats(Estimate(value, value - margin, value + margin, n))
    study = found.windowed.get("mean")
    if study is not None and study.heads == (head,) and n == len(found.tokens):
        effect = nats(study.effect)  # the same knock-out on the same sequences has one interval
    which = ", an induction head," if head in found.heads else ""
    where = f" on the first {n} sequences" if n < len(found.tokens) else ""
    return (
        f"Of all heads knocked out one at a time{where}, {head}{which} weakens in-context learning "
        f"most: {effect}."
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
            "Dots are means with 95% bootstrap intervals over sequences; grey ticks are random "
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
            f"Change of the windowed ICL score on {found.n_sweep} sequences, with 95% intervals, "
            "when one head alone is replaced by its mean output; right of zero, in-context "
            "learning is weaker without it. Orange: the heads knocked out together above. In the "
            "paper induction heads matter most, most other heads little, and some the other way."
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
