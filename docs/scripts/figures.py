"""A hook of mkdocs: draws the figures that a page asks for.

A page asks by a comment: `<!-- figure: icl -->` for one of all models, `<!-- figure: induction of
2 layers -->` for one of a model, both from the runs that ship; `<!-- notebook figure: first_hour 0
-->` for one that a notebook drew (`write_notebooks.py`); `<!-- laboratory figure: markov -->` for
one of the runs on languages; `small` at the end of the first two makes a picture for the gallery.
Plotly goes into the site once, from the installed package.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from induction_lens.reports.pages import TEMPLATES, Figure
from induction_lens.reports.training import TrainingReport, training_report
from induction_lens.reports.training.page import model_figure, shared_figure
from induction_lens.style import template
from induction_lens.tracking import LanguageTrajectory, plot_gaps
from induction_lens.training import LANGUAGE_PRESETS

DOCS = Path(__file__).parents[1]
_ASKED = re.compile(r"<!-- figure: ([a-z]+)(?: of ([^>]+?))?( small)? -->")
_ASKED_NOTEBOOK = re.compile(r"<!-- notebook figure: ([a-z_]+) (\d+)( small)? -->")
_ASKED_LABORATORY = re.compile(r"<!-- laboratory figure: ([a-z]+) -->")
_ASSETS = "assets/figures"
_SCRIPTS = ("dark.js", "plotly.js", "draw.js")
_HEIGHT = 360
"""Of a figure that does not say, in pixels."""
_LOW = 170
"""Of a picture in the gallery."""


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Replace the comments by figures, and load what draws them."""
    if not any(one.search(html) for one in (_ASKED, _ASKED_NOTEBOOK, _ASKED_LABORATORY)):
        return html
    up = "../" * page.url.count("/") + _ASSETS
    scripts = "".join(f'<script src="{up}/{name}"></script>' for name in _SCRIPTS)
    html = _ASKED.sub(lambda asked: _element(_of_runs(asked[1], asked[2]), asked[3]), html)
    html = _ASKED_NOTEBOOK.sub(
        lambda asked: _element(_of_notebook(asked[1], int(asked[2])), asked[3]), html
    )
    html = _ASKED_LABORATORY.sub(lambda asked: _element(_of_laboratory(asked[1]), None), html)
    return html + scripts


def on_post_build(config: Any, **_: Any) -> None:
    """Put the scripts into the site."""
    folder = Path(config.site_dir) / _ASSETS
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    (folder / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    (folder / "draw.js").write_text((TEMPLATES / "figures.js").read_text(encoding="utf-8"))
    (folder / "dark.js").write_text((here / "dark.js").read_text(encoding="utf-8"))


@cache
def _report() -> TrainingReport:
    return training_report()


def _of_runs(name: str, label: str | None) -> Figure:
    if label is None:
        figure = shared_figure(name, _report())
    else:
        figure = model_figure(name, _report().by_label(label))
    if figure is None:
        raise ValueError(f"expected a figure that there is, got {name} of {label}")
    return figure


def _of_notebook(name: str, number: int) -> Figure:
    drawn = json.loads((DOCS / "notebooks" / f"{name}.json").read_text(encoding="utf-8"))[number]
    figure = go.Figure(drawn["data"], drawn["layout"])
    figure.update_layout(template=template(), height=figure.layout.height or _HEIGHT)
    axes = [axis.title.text for axis in (figure.layout.yaxis, figure.layout.xaxis)]
    label = " by ".join(title for title in axes if title) or "figure"
    return Figure.of(f"{name}-{number}", figure, label)


def _of_laboratory(name: str) -> Figure:
    """The gap of runs on a language over their updates, three seeds of each."""
    free = {"free": _language_runs("alphabets")}
    if name == "alphabets":
        figure, of = plot_gaps(free, "new"), "new letters of two alphabets"
    elif name == "clamped":
        under = _language_runs("alphabets-clamped-late", "-under-clamp")
        [release] = [clamp.end for clamp in LANGUAGE_PRESETS["alphabets-clamped-late"].clamp]
        late = [
            part
            for held, whole in zip(under, _language_runs("alphabets-clamped-late"), strict=True)
            for part in (held.between(0, release), whole.between(release, int(whole.steps[-1])))
        ]
        throughout = _language_runs("alphabets-clamped", "-under-clamp")
        runs = {**free, "clamped": throughout, f"clamped until update {release}": late}
        figure, of = plot_gaps(runs, "new"), "new letters of two alphabets, free and clamped"
    elif name == "markov":
        figure, of = plot_gaps({"two layers": _language_runs("markov")}), "Markov chains"
    else:
        raise ValueError(f"expected a figure of the laboratory that there is, got {name}")
    label = f"Loss beyond that of the best predictor over training: {of}"
    return Figure.of(f"laboratory-{name}", figure, label)


def _language_runs(preset: str, how: str = "") -> list[LanguageTrajectory]:
    folder = DOCS / "arguments" / "laboratory"
    return [
        LanguageTrajectory.read(folder / f"{preset}-seed-{seed}{how}.safetensors")
        for seed in range(3)
    ]


def _element(figure: Figure, small: str | None) -> str:
    if small:
        figure = _small(figure)
    return (
        f'<div class="figure" id="{figure.id}" role="img" aria-label="{figure.label}" '
        f'style="min-height: {figure.height}px"></div>'
        f'<script type="application/json" data-figure="{figure.id}">{figure.json}</script>'
    )


def _small(figure: Figure) -> Figure:
    """A figure as a picture for a card: low, without legend, scale, titles and what is said of it
    when it is pointed at."""
    drawn = go.Figure(json.loads(figure.json))
    drawn.update_layout(height=_LOW, showlegend=False, annotations=[], coloraxis_showscale=False)
    drawn.update_xaxes(title_text="")
    drawn.update_yaxes(title_text="")
    drawn.update_traces(hoverinfo="skip", hovertemplate=None)
    drawn.for_each_trace(lambda trace: trace.update(customdata=None))
    return Figure.of(f"{figure.id}-small", drawn, figure.label)
