"""The report as one HTML page: its figures, its tables and their captions."""

from __future__ import annotations

from typing import Any

from induction_lens import checks, plots
from induction_lens.detectors import BUILT_IN, INDUCTION, Detector
from induction_lens.heads import Head, HeadScores
from induction_lens.reports import pages as html
from induction_lens.reports.circuit import section
from induction_lens.reports.model import sentences
from induction_lens.reports.model.findings import Example, Findings
from induction_lens.reports.numbers import ends
from induction_lens.reports.pages import Figure, Table
from induction_lens.views.page import visible

TOP = 8  # rows of the table of heads
ATTENTION = "attention.html"
"""The file of the view of heads, in a report's folder."""


def render(found: Findings, *, linked: bool = False, static: bool = False) -> str:
    """The page of a report, as one self-contained HTML document.

    Args:
        found: What it says.
        linked: With links to the view of heads, which lies beside it.
        static: With pictures in place of figures that plotly.js draws.
    """
    view = ATTENTION if linked and found.attention is not None else ""
    return html.render(
        "report.html",
        static=static,
        headline=sentences.headline(found),
        studied=sentences.heads_text(found.studied),
        found=found,
        summary=sentences.summary(found),
        figures_of_merit=_figures_of_merit(found),
        maps=_maps(found),
        view=view,
        heads_table=_heads_table(found, view),
        icl=_icl(found),
        icl_table=_icl_table(found),
        over=sentences.over(next(iter(found.studies.values())).clean),
        losses=_loss_figures(found),
        effects=_effects(found),
        example=_example(found.example),
        attention=_attention(found.example),
        captions=sentences.captions(found),
        circuit=None if found.circuit is None else section(found.circuit),
    )


def figures(found: Findings) -> list[Figure]:
    """Every figure of the page."""
    maps = [figure for _, _, figure in _maps(found)]
    icl = [figure for _, figure in _icl(found)]
    return [*maps, *icl, *_loss_figures(found), _effects(found), _attention(found.example)]


def draw(name: str, found: Findings) -> Any:
    """One of the figures of the page, for plotly.

    Raises:
        ValueError: There is no such figure.
    """
    known = {figure.id: figure for figure in figures(found)}
    return known[checks.one_of("name", name, list(known))].drawn


def _figures_of_merit(found: Findings) -> list[tuple[str, str, str]]:
    """The numbers at the top of the page: label, value, what goes with it."""
    study = found.windowed[found.main_method]
    merits = []
    for name, label in (("induction", "induction"), ("previous_token", "previous-token")):
        scores = found.scores[name]
        head, score = scores.top(1)[0]
        said = f"head {head}, of at most 1" if scores.note is None else "not measured"
        merits.append((f"best {label} score", sentences.number(score, signed=False), said))
    merits.append(("ICL score, clean", sentences.number(study.clean.value), _interval(study.clean)))
    merits.append(
        (
            f"without {sentences.heads_text(study.heads)}",
            sentences.number(study.ablated.value),
            _interval(study.ablated),
        )
    )
    return merits


def _interval(estimate: Any) -> str:
    return f"nats, {' to '.join(ends(estimate.low, estimate.high))}"


def _detectors(found: Findings) -> list[Detector]:
    """The detectors whose scores there are, in the order of the scores."""
    known = {detector.name: detector for detector in (*BUILT_IN, *found.own_detectors)}
    return [known[name] for name in found.scores]


def _maps(found: Findings) -> list[tuple[str, str, Figure]]:
    maps = []
    for detector in _detectors(found):
        marked = found.heads if detector.outlines_induction_heads else ()
        figure = plots.head_map(found.scores[detector.name], marked=marked)
        shown = Figure.of(f"map-{detector.name}", figure, f"Heat map: {detector.title}")
        maps.append((detector.title, detector.caption, shown))
    return maps


def _heads_table(found: Findings, view: str = "") -> Table:
    """The strongest heads by induction score, with what is needed to read it; each leads to its
    place in the view, where there is one."""
    induction = found.scores[INDUCTION.name]
    shown = [head for head, _ in induction.top(max(TOP, min(len(found.heads), 24)))]
    others = [detector for detector in _detectors(found) if detector != INDUCTION]
    columns = ["head", "induction", "± s.e.", "shuffled", "chance", "threshold"]
    columns += [detector.title.lower() for detector in others]
    rows = tuple(
        (
            str(head),
            sentences.number(induction[head], signed=False, digits=3),
            _cell(induction, "sem", head),
            _cell(induction, "null", head),
            sentences.number(induction.chance(head), signed=False, digits=3),
            f"{found.threshold:g}",
            *(sentences.number(found.scores[one.name][head], signed=False) for one in others),
        )
        for head in shown
    )
    strong = tuple(i for i, head in enumerate(shown) if head in found.heads)
    links = tuple(f"{view}#{head}" for head in shown) if view else ()
    return Table(tuple(columns), rows, strong, links)


def _cell(scores: HeadScores, field: str, head: Head) -> str:
    values = getattr(scores, field)
    if values is None:
        return sentences.UNKNOWN
    return sentences.number(float(values[head.layer, head.head]), signed=False, digits=3)


TITLES = {
    "windowed": "Averaged: ±{window} positions around {early} and {late}",
    "matched": "Matched targets: positions {early} and {late}",
    "paper": "Paper's estimator: positions {early} and {late} alone",
}
"""What each definition of the ICL score is called, above its figure."""


def _icl(found: Findings) -> list[tuple[str, Figure]]:
    figures = []
    for name, studies in found.definitions.items():
        first = next(iter(studies.values()))
        title = TITLES[name].format(window=first.window, early=first.early, late=first.late)
        shown = Figure.of(f"icl-{name}", plots.icl_scores(studies), f"ICL scores, {name}")
        figures.append((title, shown))
    return figures


def _icl_table(found: Findings) -> Table:
    rows, strong = [], []
    for definition, studies in found.definitions.items():
        for method, study in studies.items():
            best = study.controls[0].effect if study.controls else None
            if study.effect.excludes_zero():
                strong.append(len(rows))
            rows.append(
                (
                    f"{method}, {definition}",
                    sentences.shown(study.clean),
                    sentences.shown(study.ablated),
                    sentences.shown(study.effect),
                    sentences.UNKNOWN if best is None else sentences.shown(best),
                    sentences.rank_text(study),
                )
            )
    columns = ("method", "clean", "ablated", "change", "largest control change", "rank")
    return Table(columns, tuple(rows), tuple(strong))


def _loss_figures(found: Findings) -> tuple[Figure, Figure]:
    ablated = found.losses_everywhere
    study = next(iter(found.studies.values()))
    where = {"early": study.early, "late": study.late}
    loss = plots.loss_by_position(found.clean_losses, ablated, **where)
    cost = plots.cost_by_position(found.clean_losses, ablated, **where)
    return (
        Figure.of("loss", loss, "Loss by token position, clean and ablated"),
        Figure.of("cost", cost, "Loss added by the knock-out, by token position"),
    )


def _effects(found: Findings) -> Figure:
    n_layers, n_heads = found.effects.values.shape
    if n_layers * n_heads <= 48:
        figure = plots.head_effects(found.effects, marked=found.studied, k=48)
    else:
        figure = plots.head_map(found.effects, marked=found.studied)
    return Figure.of("effects", figure, "Effect of knocking out each head alone")


def _attention(example: Example) -> Figure:
    figure = plots.attention_map(example.pattern, [visible(token) for token in example.tokens])
    return Figure.of("attention", figure, f"Attention pattern of head {example.head}")


def _example(example: Example) -> dict[str, Any]:
    """What the token strip needs: tokens, weights in percent, targets, and where to begin."""
    targets = INDUCTION.mask(example.ids[None])[0]
    mass = (example.pattern * targets).sum(-1)
    return {
        "head": str(example.head),
        "tokens": [visible(token) for token in example.tokens],
        "breaks": ["\n" in token for token in example.tokens],
        "weights": [
            [round(100 * weight, 1) for weight in row[: query + 1]]
            for query, row in enumerate(example.pattern.tolist())
        ],
        "targets": [row.nonzero().flatten().tolist() for row in targets],
        "start": int(mass.argmax()) if bool(targets.any()) else len(example.tokens) - 1,
    }
