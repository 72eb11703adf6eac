"""What all commands share: the application, errors, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import rich_utils
from typer.core import TyperGroup

from induction_lens import __version__, checks
from induction_lens.cli.failures import ended_by, loading, plain_terminal, prepare_streams, say
from induction_lens.inputs.reading import TextSource, closest_path, is_data_set
from induction_lens.loading import load
from induction_lens.models import Model
from induction_lens.progress import libraries_follow
from induction_lens.reports.model.findings import finite
from induction_lens.reports.pages import page_folder

if TYPE_CHECKING:
    from rich.console import Console

_FIRST = ("report", "heads", "zoo")


class Commands(TyperGroup):
    """The commands; where something goes wrong, they end with one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit with its code; an empty one shows the help."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        options = {"prog_name": prog_name, "complete_var": complete_var, **extra}
        options |= {"standalone_mode": False, "windows_expand_args": windows_expand_args}
        if not standalone_mode:
            return super().main(given, **options)
        prepare_streams()
        if plain_terminal():
            rich_utils.COLOR_SYSTEM = None
        try:
            code = super().main(given, **options)
        except Exception as error:
            sys.exit(_misused(error))
        sys.exit(code or 0)

    def list_commands(self, ctx: Any) -> list[str]:
        """Those that people begin with come first."""
        return sorted(super().list_commands(ctx), key=lambda name: name not in _FIRST)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and flush all that it prints."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if hasattr(error, "format_message"):
                raise
            raise typer.Exit(ended_by(error)) from None
        return result


def _misused(error: Exception) -> int:
    """Say what is wrong with a command line; returns the exit code."""
    message = getattr(error, "format_message", None)  # click's, or of typer's copy of click
    if message is None:
        return ended_by(error)
    context = getattr(error, "ctx", None)
    command = "induction-lens" if context is None else context.command_path
    said = _wrong_value(error) or message().rstrip(".")
    say(f"error: {said}; see {command} --help")
    return int(getattr(error, "exit_code", 2))


def _wrong_value(error: Exception) -> str | None:
    """What was expected of an option and what came; None where the error does not tell."""
    found = getattr(error.__cause__, "errors", list)()  # pydantic's, by which typer reads numbers
    names = getattr(getattr(error, "param", None), "opts", ())
    begin = "Input should be "
    if not found or not names or not found[0]["msg"].startswith(begin):
        return None
    condition = found[0]["msg"].removeprefix(begin).partition(", ")[0]
    return f"expected {names[0]} to be {condition}, got {found[0]['input']!r}"


app = typer.Typer(
    name="induction-lens",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Does this transformer have induction heads, and does its in-context learning depend on
them?

Start with `induction-lens report`: it takes a small model that ships with the package, names its
induction heads, knocks them out, and writes a page that shows the effect. MODEL is always one of

- a model that ships with the package: `induction-lens zoo` lists them;
- a local folder: a Hugging Face model, or a snapshot that `induction-lens train` wrote;
- a name on the Hugging Face hub, such as `gpt2`.
""",
)


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
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options that come before a command."""


@contextmanager
def working() -> Iterator[None]:
    """Send what libraries print inside the block to stderr."""
    with redirect_stdout(sys.stderr):
        yield


def output(folder: str | Path, *, page: bool = True) -> Path:
    """A folder that can be written to; this is checked before the work starts.

    Args:
        folder: What `--out` names.
        page: Whether a page is written there, which replaces no page of somebody else.

    Raises:
        ValueError: If it is a file, lies in one, the system refuses, or it holds such a page.
    """
    found = checks.writable_folder("--out", folder)
    return page_folder(found) if page else found


def model_folder(out: str | None, model: str, what: str) -> Path:
    """The folder of a page about a model, named after both where `--out` names none.

    Raises:
        ValueError: As `output`.
    """
    return output(default_name(model, what) if out is None else out)


def default_name(model: str, what: str) -> str:
    """`gpt2-report`, also where the model is in a folder."""
    return f"{Path(model).resolve().name}-{what}"


def loaded_model(
    name: str, *, device: str | None, trust_remote_code: bool, check: bool, quiet: bool
) -> Model:
    """Load a model, with the bars of libraries only where ours are shown.

    Raises:
        ValueError: If it cannot be loaded.
    """
    with loading(name), libraries_follow(not quiet):
        return load(name, device=device, trust_remote_code=trust_remote_code, check=check)


def words(given: str) -> list[str]:
    """The words of an option that takes several, such as heads, with commas between."""
    return given.replace(",", " ").split()


def text_source(
    text: list[str] | None, *, column: str, encoding: str | None = None
) -> TextSource | None:
    """What `--text` names; a command line names texts, and never contains them.

    Raises:
        ValueError: If it is a text, is not there, or `--column` or `--encoding` come without it.
    """
    if not text:
        if column != "text" or encoding is not None:
            raise ValueError(
                "expected --text with --column and --encoding, got none; name the files to read"
            )
        return None
    for item in text:
        if not item.strip() or not (Path(item).exists() or is_data_set(item)):
            near = closest_path(item) if item.strip() else None
            remedy = f"did you mean {near!r}?" if near else "check the spelling"
            raise ValueError(
                f"expected --text to be a file, a folder or a data set of the hub, got {item!r}, "
                f"which is not there; {remedy}"
            )
    return TextSource(text, column, encoding)


def print_json(value: Any) -> None:
    """Print a result as JSON, with null for what is not a number."""
    print(json.dumps(finite(value), indent=1, allow_nan=False))


def _console() -> Console:
    """What prints on stdout, without a single escape code where `NO_COLOR` asks for that."""
    from rich.console import Console

    system = None if plain_terminal() else "auto"
    return Console(color_system=system, highlight=False, emoji=False)


def print_wrapped(text: str) -> None:
    """Print a text in lines that fit the terminal."""
    _console().print(text, markup=False)


def print_table(columns: list[str], rows: list[list[str]], *, title: str | None = None) -> None:
    """Print a table, its first column to the left and the others to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = _console()
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
