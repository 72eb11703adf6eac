"""Pages: one HTML document each, with figures, tables and plotly.js inside.

A page asks nothing of the network. Figures travel as JSON and are drawn when it is opened; every
text from a model (tokens, names, paths) is escaped, by jinja2 in the page and by
`induction_lens.plots` in the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Figure:
    """A figure on a page."""

    id: str
    """Its HTML id."""
    json: str
    """The plotly figure, safe inside a script element."""
    label: str
    """What it shows, for those who cannot see it."""
    height: int
    """Height in pixels."""

    @classmethod
    def of(cls, id: str, figure: Any, label: str) -> Figure:
        """Take a plotly figure, whose layout has a height."""
        # "<" inside a script element could end it, or open a comment.
        safe = figure.to_json().replace("<", "\\u003c")
        return cls(id, safe, label, int(figure.layout.height))


@dataclass(frozen=True)
class Table:
    """A table on a page; all cells are text."""

    columns: tuple[str, ...]
    """Column heads; the first column holds names, the others numbers."""
    rows: tuple[tuple[str, ...], ...]
    """Rows."""
    strong: tuple[int, ...] = ()
    """Rows to set apart."""
    links: tuple[str, ...] = ()
    """Where the name of each row leads, if it leads anywhere."""


def render(template: str, **content: Any) -> str:
    """One of the package's templates, filled in, as a document of its own."""
    from plotly.offline import get_plotlyjs

    return _environment().get_template(template).render(plotly_js=get_plotlyjs(), **content)


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
