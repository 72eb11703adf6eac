"""Figures as files: SVG, PDF and PNG in the sizes of papers.

They are drawn by kaleido in a browser on this machine; nothing is fetched from a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from induction_lens import checks
from induction_lens.files import atomic_path
from induction_lens.style import Theme, fit_numbers, themed

if TYPE_CHECKING:
    import plotly.graph_objects as go

Format = Literal["svg", "pdf", "png"]
FORMATS: tuple[Format, ...] = get_args(Format)
PAGE = 6.75
"""Width of a page of two columns, in inches."""
_DESIGNED = 12  # pixels: the font size that figures are designed with
_PER_INCH = 96.0  # pixels of an SVG
_POINTS = 72.0  # of an inch


def save_figure(
    figure: go.Figure,
    path: str | Path,
    *,
    width: int | float = PAGE,
    height: int | float | None = None,
    font_size: int | float = 8,
    font: str | None = None,
    theme: Theme = "light",
    dpi: int | float = 300,
) -> Path:
    """Write a figure as SVG, PDF or PNG, in the size that it has in print.

    Everything in it is scaled with the text: lines, dots and heights. Needs the extra `figures`
    (`pip install 'induction_lens[figures]'`) and a Chrome or Chromium browser.

    Args:
        figure: A figure of this package; it stays as it is.
        path: A file that ends with `.svg`, `.pdf` or `.png`.
        width: Width in inches: 3.25 for a column, 6.75 for a page of two columns.
        height: Height in inches; None: as the figure is designed.
        font_size: Size of the text in points.
        font: Font of the text, such as `Times New Roman`; None: that of the system.
        theme: `light` or `dark`.
        dpi: Pixels of an inch of a PNG.

    Returns:
        The path.

    Raises:
        ValueError: This is no figure, a size is out of range, the file has another ending, or
            kaleido or a browser is missing.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"))
        >>> il.plots.save_figure(scores.plot(), "heads.svg", width=3.25)  # doctest: +SKIP
        PosixPath('heads.svg')
    """
    figure = _checked_figure(figure)
    path = checks.path("path", path)
    written = path.suffix[1:].lower()
    if written not in FORMATS:
        raise checks.refuse(
            "path", f"a file that ends with .{', .'.join(FORMATS)}", str(path), "name it so"
        )
    drawing = _drawing(
        figure,
        width=checks.real_number("width", width, above=0, remedy="give inches, such as 3.25"),
        height=None if height is None else checks.real_number("height", height, above=0),
        font_size=checks.real_number("font_size", font_size, above=0, remedy="give points"),
        font=checks.text("font", font, optional=True),
        theme=checks.one_of("theme", theme, ("light", "dark")),
        dpi=checks.real_number("dpi", dpi, above=0) if written == "png" else _PER_INCH,
    )
    _write({path: drawing})
    return path


def save_figures(figures: Mapping[Path, go.Figure], *, theme: Theme = "light") -> None:
    """Write several figures, each in the width of a page, by one start of the browser.

    Raises:
        ValueError: Kaleido or a browser is missing.
    """
    drawings = {}
    for path, figure in figures.items():
        dpi = 300.0 if path.suffix == ".png" else _PER_INCH
        options: dict[str, Any] = {"width": PAGE, "height": None, "font_size": 8.0, "font": None}
        drawings[path] = _drawing(figure, **options, theme=theme, dpi=dpi)
    _write(drawings)


def check_format(name: str, value: object) -> Format:
    """Check that figures can be written in a format, before the work that makes them.

    Raises:
        ValueError: There is no such format, or kaleido is missing.
    """
    chosen = checks.one_of(name, value, FORMATS)  # pyright: ignore[reportArgumentType]
    _kaleido()
    return chosen


def _checked_figure(figure: Any) -> go.Figure:
    """A plotly figure.

    Raises:
        ValueError: If it is something else, such as a result.
    """
    import plotly.graph_objects as go

    remedy = "pass its plot()" if hasattr(figure, "plot") else "pass what plot() gives"
    return checks.instance("figure", figure, go.Figure, remedy)


def _drawing(
    figure: go.Figure,
    *,
    width: float,
    height: float | None,
    font_size: float,
    font: str | None,
    theme: Theme,
    dpi: float,
) -> tuple[go.Figure, dict[str, float]]:
    """A copy of a figure on a canvas on which its designed text has the size that is asked for, and
    how the canvas is scaled."""
    import plotly.graph_objects as go

    text = font_size * _PER_INCH / _POINTS / _DESIGNED
    copy = themed(go.Figure(figure.to_dict()), theme)  # of its own: nothing is shared
    across = width * _PER_INCH / text
    down = float(copy.layout.height or 450) if height is None else height * _PER_INCH / text
    fit_numbers(copy, across)
    copy.update_layout(width=None, height=None)
    if font is not None:
        copy.update_layout(font={"family": font})
    return copy, {"width": across, "height": down, "scale": text * dpi / _PER_INCH}


def _write(drawings: Mapping[Path, tuple[go.Figure, dict[str, float]]]) -> None:
    """Write drawings to their paths; each file appears whole or not at all."""
    kaleido = _kaleido()
    with ExitStack() as files:
        temporary = {path: files.enter_context(atomic_path(path)) for path in drawings}
        asked = [
            {
                "fig": figure,
                "path": temporary[path],
                "opts": {**size, "format": path.suffix[1:].lower()},
            }
            for path, (figure, size) in drawings.items()
        ]
        try:
            kaleido.write_fig_from_object_sync(asked, kopts={"mathjax": False})
        except kaleido.errors.ChromeNotFoundError:
            raise ValueError(
                "expected a Chrome or Chromium browser to draw figures with, found none; install "
                "one, or run kaleido_get_chrome"
            ) from None


def _kaleido() -> Any:
    try:
        import kaleido  # pyright: ignore[reportMissingImports]
        import kaleido.errors  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "expected kaleido to write figures, got none; pip install 'induction_lens[figures]'"
        ) from error
    return kaleido
