"""The report as one HTML page: figures, tables and their captions, with plotly.js inside.

The page asks nothing of the network. Figures travel as JSON and are drawn when they come into view;
every text from a model (tokens, names, paths) is escaped, by jinja2 in the page and by
`induction_lens.plots` in the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from induction_lens import plots
from induction_lens.detectors import target_mask
from induction_lens.heads import Head, HeadScores
from induction_lens.report import words
from induction_lens.report.findings import Example, Findings

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
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


@dataclass(frozen=True)
class Figure:
    """A figure on the page."""

    id: str
    """Its HTML id."""
    json: str
    """The plotly figure, safe inside a script element."""
    label: str
    """What it shows, for those who cannot see it."""
    height: int
    """Height in pixels."""


@dataclass(frozen=True)
class Table:
    """A table on the page; all cells are text."""

    columns: tuple[str, ...]
    """Column heads; the first column holds names, the others numbers."""
    rows: tuple[tuple[str, ...], ...]
    """Rows."""
    strong: tuple[int, ...] = ()
    """Rows to set apart."""


def render(found: Findings) -> str:
    """The page of a report, as one self-contained HTML document."""
    from plotly.offline import get_plotlyjs

    return (
        _environment()
        .get_template("report.html")
        .render(
            headline=words.headline(found),
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
            plotly_js=get_plotlyjs(),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _figure(id: str, figure: Any, label: str) -> Figure:
    # "<" inside a script element could end it, or open a comment.
    safe = figure.to_json().replace("<", "\\u003c")
    return Figure(id, safe, label, int(figure.layout.height))


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
        maps.append((title, caption, _figure(f"map-{name}", figure, f"Heat map: {title}")))
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
            _figure("icl-windowed", plots.icl_scores(found.windowed), "ICL scores, windowed"),
        ),
        (
            f"Paper's definition: positions {pair} alone",
            _figure("icl-paper", plots.icl_scores(found.studies), "ICL scores, two positions"),
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
        _figure("loss", loss, "Loss by token position, clean and ablated"),
        _figure("cost", cost, "Loss added by the knock-out, by token position"),
    )


def _effects(found: Findings) -> Figure:
    n_layers, n_heads = found.effects.values.shape
    if n_layers * n_heads <= 48:
        figure = plots.head_effects(found.effects, marked=found.studied, k=48)
    else:
        figure = plots.head_map(found.effects, marked=found.studied)
    return _figure("effects", figure, "Effect of knocking out each head alone")


def _attention(example: Example) -> Figure:
    figure = plots.attention_map(example.pattern, [visible(token) for token in example.tokens])
    return _figure("attention", figure, f"Attention pattern of head {example.head}")


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
