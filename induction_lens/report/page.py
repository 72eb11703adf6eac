"""The report as one HTML page: its figures, its tables and their captions."""

from __future__ import annotations

from typing import Any

from induction_lens import html, plots
from induction_lens.detectors import target_mask
from induction_lens.heads import Head, HeadScores
from induction_lens.html import Figure, Table
from induction_lens.report import words
from induction_lens.report.findings import Example, Findings

TOP = 8  # rows of the table of heads

_DETECTORS = {
    "previous_token": (
        "Previous token",
        "Attention on the token just before. Such a head tells the next layer what came before "
        "each token: the first half of the circuit.",
    ),
    "induction": (
        "Induction (prefix matching)",
        "Attention on the tokens that followed earlier copies of the current one: the second half.",
    ),
    "duplicate_token": (
        "Duplicate token",
        "Attention on earlier copies of the current token itself.",
    ),
    "copying": (
        "Copying, on a run",
        "Whether a head raises the logits of the tokens it attends to (1), of others (−1), or "
        "neither (0).",
    ),
    "copying_weights": (
        "Copying, from weights",
        "The same read off the eigenvalues of the head's value-output circuit.",
    ),
}


def render(found: Findings) -> str:
    """The page of a report, as one self-contained HTML document."""
    return html.render(
        "report.html",
        headline=words.headline(found),
        studied=words.heads_text(found.studied),
        found=found,
        summary=words.summary(found),
        figures_of_merit=_figures_of_merit(found),
        maps=_maps(found),
        heads_table=_heads_table(found),
        icl=_icl(found),
        icl_table=_icl_table(found),
        losses=_loss_figures(found),
        effects=_effects(found),
        example=_example(found.example),
        attention=_attention(found.example),
        captions=words.captions(found),
    )


def _figures_of_merit(found: Findings) -> list[tuple[str, str, str]]:
    """The numbers at the top of the page: label, value, what goes with it."""
    study = found.windowed[found.main_method]
    merits = []
    for name, label in (("induction", "induction"), ("previous_token", "previous-token")):
        head, score = found.scores[name].top(1)[0]
        value = words.number(score, signed=False)
        merits.append((f"best {label} score", value, f"head {head}, of at most 1"))
    merits.append(("ICL score, clean", words.number(study.clean.value), _interval(study.clean)))
    merits.append(
        (
            f"without {words.heads_text(study.heads)}",
            words.number(study.ablated.value),
            _interval(study.ablated),
        )
    )
    return merits


def _interval(estimate: Any) -> str:
    return f"nats, {words.number(estimate.low)} to {words.number(estimate.high)}"


def _maps(found: Findings) -> list[tuple[str, str, Figure]]:
    maps = []
    for name, scores in found.scores.items():
        title, caption = _DETECTORS.get(name, (name, ""))
        marked = found.heads if name == "induction" else ()
        figure = plots.head_map(scores, marked=marked)
        maps.append((title, caption, Figure.of(f"map-{name}", figure, f"Heat map: {title}")))
    return maps


def _heads_table(found: Findings) -> Table:
    """The strongest heads by induction score, with what is needed to read it."""
    induction = found.scores["induction"]
    shown = [head for head, _ in induction.top(max(TOP, min(len(found.heads), 24)))]
    others = [name for name in found.scores if name != "induction"]
    columns = ["head", "induction", "± s.e.", "uniform", "shuffled", "threshold"]
    columns += [_DETECTORS.get(name, (name,))[0].lower() for name in others]
    rows = tuple(
        (
            str(head),
            words.number(induction[head], signed=False, digits=3),
            _cell(induction, "sem", head),
            "–" if induction.uniform is None else f"{induction.uniform:.3f}",
            _cell(induction, "null", head),
            f"{found.threshold:g}",
            *(words.number(found.scores[name][head], signed=False) for name in others),
        )
        for head in shown
    )
    strong = tuple(i for i, head in enumerate(shown) if head in found.heads)
    return Table(tuple(columns), rows, strong)


def _cell(scores: HeadScores, field: str, head: Head) -> str:
    values = getattr(scores, field)
    return "–" if values is None else f"{float(values[head.layer, head.head]):.3f}"


def _icl(found: Findings) -> list[tuple[str, Figure]]:
    where = next(iter(found.windowed.values()))
    pair = f"{where.early} and {where.late}"
    return [
        (
            f"Windowed: ±{where.window} positions around {pair}",
            Figure.of("icl-windowed", plots.icl_scores(found.windowed), "ICL scores, windowed"),
        ),
        (
            f"Paper's definition: positions {pair} alone",
            Figure.of("icl-paper", plots.icl_scores(found.studies), "ICL scores, two positions"),
        ),
    ]


def _icl_table(found: Findings) -> Table:
    rows, strong = [], []
    for definition, studies in (("windowed", found.windowed), ("two positions", found.studies)):
        for method, study in studies.items():
            best = study.controls[0].effect if study.controls else None
            if study.effect.excludes_zero():
                strong.append(len(rows))
            rows.append(
                (
                    f"{method}, {definition}",
                    words.nats(study.clean),
                    words.nats(study.ablated),
                    words.nats(study.effect),
                    "–" if best is None else words.nats(best),
                    words.rank_text(study),
                )
            )
    columns = ("method", "clean", "ablated", "change", "largest control change", "rank")
    return Table(columns, tuple(rows), tuple(strong))


def _loss_figures(found: Findings) -> tuple[Figure, Figure]:
    ablated = {method: study.ablated_losses for method, study in found.studies.items()}
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
    targets = target_mask(example.ids[None], "induction")[0]
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


def visible(token: str) -> str:
    """A token's text with its white space made visible."""
    marked = token.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return marked or "∅"
