"""A hook of mkdocs: draws the figures that a page asks for, from the runs that ship.

A page asks by a comment: `<!-- figure: icl -->` for one of all models, `<!-- figure: induction of
2 layers -->` for one of a model. Plotly goes into the site once, from the installed package.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from induction_lens.reports.pages import TEMPLATES, Figure
from induction_lens.reports.training import TrainingReport, training_report
from induction_lens.reports.training.page import model_figure, shared_figure

_ASKED = re.compile(r"<!-- figure: ([a-z]+)(?: of ([^>]+?))? -->")
_ASSETS = "assets/figures"


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Replace the comments by figures, and load what draws them."""
    if not _ASKED.search(html):
        return html
    up = "../" * page.url.count("/") + _ASSETS
    scripts = "".join(f'<script src="{up}/{name}"></script>' for name in ("plotly.js", "draw.js"))
    return _ASKED.sub(lambda asked: _drawn(asked[1], asked[2]), html) + scripts


def on_post_build(config: Any, **_: Any) -> None:
    """Put the scripts into the site."""
    folder = Path(config.site_dir) / _ASSETS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    (folder / "draw.js").write_text((TEMPLATES / "figures.js").read_text(encoding="utf-8"))


@cache
def _report() -> TrainingReport:
    return training_report()


def _drawn(name: str, label: str | None) -> str:
    figure: Figure | None
    if label is None:
        figure = shared_figure(name, _report())
    else:
        figure = model_figure(name, _report().by_label(label))
    if figure is None:
        raise ValueError(f"expected a figure that there is, got {name} of {label}")
    return (
        f'<div class="figure" id="{figure.id}" role="img" aria-label="{figure.label}" '
        f'style="min-height: {figure.height}px"></div>'
        f'<script type="application/json" data-figure="{figure.id}">{figure.json}</script>'
    )
