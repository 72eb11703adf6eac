"""A dissociation as one HTML page."""

from __future__ import annotations

import math
from pathlib import Path

from induction_lens import checks
from induction_lens.estimates import Estimate
from induction_lens.heads import names_of
from induction_lens.reports import pages
from induction_lens.reports.numbers import number, percent, shown
from induction_lens.reports.pages import Figure, Table, page_folder, write_page
from induction_lens.tasks import KINDS, Contrast, Dissociation, KnockedOut, SameHeads

TITLES = {kind.name: kind.title for kind in KINDS}
CAPTIONS = {kind.name: kind.caption for kind in KINDS}


def save_dissociation(
    found: Dissociation, folder: str | Path, *, same: SameHeads | None = None
) -> Path:
    """Write a dissociation as a page, `index.html`, with its tables beside it as CSV.

    Args:
        found: The dissociation.
        folder: Where to; it is made if it is not there.
        same: Whether the same heads copy, translate and complete patterns, to be on the page too.

    Returns:
        The page.

    Raises:
        ValueError: If the folder cannot be written to.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> extent = il.tasks.Extent(n_items=10, shots=2, n_controls=1, n_texts=8)
        >>> found = il.tasks.dissociate(
        ...     model, il.tasks.letter_pattern("ABAB"), kinds=["induction"], methods=["mean"],
        ...     extent=extent)
        >>> il.reports.save_dissociation(found, "dissociation").name
        'index.html'
    """
    checks.instance("found", found, Dissociation, "make one with tasks.dissociate(model)")
    if same is not None:
        checks.instance("same", same, SameHeads, "make one with tasks.same_heads(model)")
    out = page_folder(folder)
    frames = {
        "sets": found.to_frame(),
        "tasks": found.tasks_frame(),
        "scores": found.scores.to_frame(),
        "same-heads": None if same is None else same.to_frame(),
        "correlations": None if same is None else same.correlations_frame(),
    }
    return write_page(out, dissociation_page(found, same=same), frames)


def dissociation_page(found: Dissociation, *, same: SameHeads | None = None) -> str:
    """The page, as one self-contained HTML document."""
    figure = found.plot()
    label = "What the ICL score and few-shot accuracy lose without each set of heads"
    return pages.render(
        "dissociation.html",
        model=found.model,
        headline=headline(found),
        summary=summary(found),
        figure=Figure.of("lost", figure, label),
        sets=sets_table(found),
        tasks=tasks_table(found),
        heads=heads_table(found),
        same=None if same is None else same_table(same),
        correlations=None if same is None else correlations_table(same),
        same_said=None if same is None else same_summary(same),
        notes=found.notes,
        main_method=found.main_method,
    )


def headline(found: Dissociation) -> str:
    """What was found, in one line."""
    double = [one for one in found.contrasts if one.is_double]
    if double:
        return f"Two kinds of in-context learning in {found.model}, by different heads"
    if any(found.heads.values()):
        return f"What kinds of heads carry of in-context learning in {found.model}"
    return f"No heads of these kinds in {found.model}"


def summary(found: Dissociation) -> list[str]:
    """What was measured, in a few sentences that claim no more than the intervals allow."""
    done, asked = found.tasks_done, found.few_shot
    if done:
        named = ", ".join(f"{one.task} {shown(one.accuracy, signed=False)}" for one in done)
        said = [f"Of {len(asked)} tasks the model is told from chance on {len(done)}: {named}."]
    else:
        said = [
            f"On none of {len(asked)} tasks is the model told from chance, so that what heads "
            "carry of few-shot accuracy cannot be measured on them."
        ]
    for kind, heads in found.heads.items():
        one = found.of(kind)
        if one is not None:
            said.append(f"{_title(kind)}: {names_of(heads)}. {about(one)}")
            rest = found.of(kind, without_overlap=True)
            if rest is not None:
                said.append(
                    f"Those that no other kind shares, {names_of(rest.lost.heads)}: {about(rest)}"
                )
    said += [contrast_text(one) for one in found.contrasts]
    return said


def about(one: KnockedOut) -> str:
    """What is lost without a set of heads, as sentences."""
    share = f"({percent(one.lost.icl_share)})"
    amount = f"{shown(one.lost.icl)} nats"
    first = _verdict(one, "icl", "The ICL score", amount=amount, share=share)
    accuracy = shown(one.lost.few_shot)
    return f"{first} {_verdict(one, 'few_shot', 'Few-shot accuracy', amount=accuracy)}"


def _verdict(one: KnockedOut, quantity: str, name: str, *, amount: str, share: str = "") -> str:
    lost: Estimate = getattr(one.lost, quantity)
    if not lost.excludes_zero():
        return f"{name} changes by no amount that is told from zero (loses {amount})."
    if lost.high < 0:
        return f"{name} gains: it loses {amount}."
    rank = one.rank(quantity)
    beside = ""
    if rank is not None:
        more = "more than without any of" if rank == 1 else f"rank {rank} among itself and"
        sets = "random set" if len(one.controls) == 1 else "random sets"
        beside = f", {more} {len(one.controls)} {sets} of the same layers"
    return f"{name} loses {amount} {share}".rstrip() + f"{beside}."


def contrast_text(one: Contrast) -> str:
    """Two kinds against each other."""
    first, second = _title(one.first), _title(one.second).lower()
    accuracy = shown(one.few_shot)
    amounts = f"{shown(one.icl)} nats of the ICL score, {accuracy} of accuracy"
    if one.is_double:
        return f"{first} and {second} dissociate: without the first, more is lost by {amounts}."
    return (
        f"{first} and {second} are not shown to dissociate: without the first, more is lost by "
        f"{amounts}."
    )


def same_summary(same: SameHeads) -> str:
    """How many heads of the strict definition do what else, in one sentence."""
    if not same.strict:
        return "No head passes the strict definition: prefix matching and copying on random tokens."
    kinds = [name for name in same.scores if name not in ("induction", "copying")]
    parts = []
    for kind in kinds:
        n = sum(same.passes(kind, head) for head in same.strict)
        parts.append(f"{n} as {_title(kind).lower()}")
    n_strict = len(same.strict)
    passing = "1 head passes" if n_strict == 1 else f"{n_strict} heads pass"
    return (
        f"{passing} the strict definition. Of these exceed what chance explains: "
        f"{', '.join(parts)}."
    )


def sets_table(found: Dissociation) -> Table:
    """Every set by every method, and its controls' largest losses."""
    rows = []
    for one in found.knocked_out:
        named = _title(one.kind) + (", shared ones left in" if one.without_overlap else "")
        rows.append(
            (
                named,
                names_of(one.lost.heads),
                one.lost.method,
                shown(one.lost.icl),
                percent(one.lost.icl_share),
                shown(one.lost.few_shot),
                _ranks(one),
            )
        )
    columns = ("kind", "heads", "method", "ICL score lost, nats", "share", "accuracy lost", "ranks")
    return Table(columns, tuple(rows))


def tasks_table(found: Dissociation) -> Table:
    """The whole model on each task."""
    rows = [
        (
            one.task,
            str(one.shots),
            str(len(one.clean)),
            shown(one.accuracy, signed=False),
            number(one.chance, signed=False),
            one.scoring,
        )
        for one in found.few_shot
    ]
    return Table(("task", "shots", "items", "accuracy", "chance", "scored by"), tuple(rows))


def heads_table(found: Dissociation) -> Table:
    """The heads of each kind, with their scores."""
    rows = []
    for kind, heads in found.heads.items():
        scores = found.scores[kind]
        highest, value = scores.top(1)[0]
        listed = ", ".join(f"{head} {number(scores[head])}" for head in heads)
        rows.append(
            (
                _title(kind),
                listed or "none",
                f"{highest} {number(value)}",
                number(scores.chance(highest)),
                CAPTIONS.get(kind, ""),
            )
        )
    return Table(("kind", "heads", "highest", "what chance explains", "score"), tuple(rows))


def same_table(same: SameHeads) -> Table:
    """The scores of each head that passes the strict definition."""
    names = list(same.scores)
    rows = []
    for head in same.strict:
        cells = []
        for name in names:
            scores = same.scores[name]
            mark = "" if scores.null is None or same.passes(name, head) else " (chance)"
            cells.append(f"{number(scores[head])}{mark}")
        rows.append((str(head), *cells))
    return Table(("head", *(name.replace("_", " ") for name in names)), tuple(rows))


def correlations_table(same: SameHeads) -> Table:
    """Rank correlations over all heads."""
    rows = [
        (
            f"{one.first}, {one.second}",
            number(one.rho),
            _p_value(one.p_value),
            number(one.rho_null),
            number(one.rho_over_null),
            _p_value(one.p_over_null),
        )
        for one in same.correlations
    ]
    columns = ("scores", "rank correlation", "p", "of their nulls", "of scores minus nulls", "p")
    return Table(columns, tuple(rows))


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _title(kind: str) -> str:
    return TITLES.get(kind, kind.replace("_", " ").capitalize())


def _ranks(one: KnockedOut) -> str:
    if not one.controls:
        return "–"
    n = 1 + len(one.controls)
    return f"{one.rank('icl')} and {one.rank('few_shot')} of {n}"
