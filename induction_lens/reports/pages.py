"""Pages: one HTML document each, with figures, tables and plotly.js inside.

A page asks nothing of the network. Figures travel as JSON and are drawn when it is opened; in a
notebook, which would hold plotly.js once for each display, they are pictures (SVG). Every
text from a model (tokens, names, paths) is escaped, by jinja2 in the page and by
`induction_lens.plots` in the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from induction_lens.files import output_folder, write_text
from induction_lens.plots.saving import Format, save_figures
from induction_lens.plots.static import static_css, static_svg
from induction_lens.results import RESULT

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "index.html"
"""What a page is called in its folder."""
_MADE_BY = b'<meta name="generator" content="induction_lens">'
_HEAD = 1000  # bytes: the mark stands near the beginning


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
    drawn: Any = field(repr=False, compare=False, default=None)
    """The plotly figure itself."""

    def svg(self) -> str:
        """The figure as a picture, for pages without plotly.js."""
        return static_svg(self.drawn, self.label)

    @classmethod
    def of(cls, id: str, figure: Any, label: str) -> Figure:
        """Take a plotly figure, whose layout has a height."""
        # "<" inside a script element could end it, or open a comment.
        safe = figure.to_json().replace("<", "\\u003c")
        return cls(id, safe, label, int(figure.layout.height), figure)


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


def render(template: str, *, static: bool = False, **content: Any) -> str:
    """One of the package's templates, filled in, as a document of its own.

    Args:
        template: Its file.
        static: With pictures in place of figures that plotly.js draws: a fiftieth of the size.
        **content: What is filled in.
    """
    from plotly.offline import get_plotlyjs

    content |= {"static": static, "plotly_js": "" if static else get_plotlyjs()}
    content["static_css"] = static_css() if static else ""
    return _environment().get_template(template).render(**content)


def page_folder(folder: str | Path) -> Path:
    """A folder to write a page to, which need not exist yet: an earlier page may be there.

    Raises:
        ValueError: Nothing can be written there; or it has a page of somebody else, which would be
            lost, or is a saved result, which could not be told from that of the page.
    """
    folder = output_folder(folder)
    page = folder / PAGE
    if page.is_file():
        with page.open("rb") as file:
            is_ours = _MADE_BY in file.read(_HEAD)
        if not is_ours:
            raise ValueError(
                f"expected a folder without a page, or with one of induction_lens, got {folder}, "
                f"which has another {PAGE}; name another folder"
            )
    if (folder / RESULT).is_file():
        raise ValueError(
            f"expected a folder for a page, got {folder}, which is a saved result; name another, "
            f"such as {folder}-page"
        )
    return folder


def write_page(folder: Path, html: str, tables: Mapping[str, pd.DataFrame | None]) -> Path:
    """Write tables as `NAME.csv`, and then the page beside them; the path of the page.

    Where a table is None, that of an earlier page in the folder is removed.
    """
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        if table is None:
            path.unlink(missing_ok=True)
        else:
            write_text(path, table.to_csv(index=False))
    write_text(folder / PAGE, html)
    return folder / PAGE


def save_pictures(figures: Iterable[Figure], folder: Path, written: Format) -> None:
    """Write figures as `figures/ID.svg`, or in another format, in the width of a printed page."""
    save_figures({folder / "figures" / f"{one.id}.{written}": one.drawn for one in figures})


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
