"""What all commands share: the application, options, errors, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, Optional

import typer

from induction_lens import __version__
from induction_lens.report.findings import finite

app = typer.Typer(
    name="induction-lens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Does this transformer have induction heads, and does its in-context learning depend on
them?

Start with `induction-lens report`: it takes a small model that ships with the package, names its
induction heads, knocks them out, and writes a page with what that did. MODEL is always one of

- a model that ships with the package: `induction-lens zoo` lists them;
- a local folder: a Hugging Face model, or a snapshot that `induction-lens train` wrote;
- a name on the Hugging Face hub, such as `gpt2`.
""",
)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model of this package, folder, or hub name.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random draw.")]
DeviceOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this at run time, also on Python 3.10
    typer.Option(help="Where to run: cpu, cuda, mps. Default: the best there is."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"induction-lens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Hold the options that come before a command."""


@contextmanager
def for_users() -> Iterator[None]:
    """Errors of the user as one line and exit code 2; whatever libraries print goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from None


def print_json(value: Any) -> None:
    """Print a result as JSON, None standing for what is not a number."""
    print(json.dumps(finite(value), indent=1, allow_nan=False))


def print_wrapped(text: str) -> None:
    """Print a text in lines that fit the terminal."""
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(text)


def print_table(columns: list[str], rows: list[list[str]], *, title: str | None = None) -> None:
    """Print a table, its first column to the left and the others to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(emoji=False, highlight=False)
    if title is not None:
        console.print(title, markup=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(columns):
        justify = "left" if index == 0 or column == "description" else "right"
        whole = column in ("ICL score", "window", "midpoint") or (index == 0 and column != "model")
        table.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
