"""Options that several commands have: the words of each, said once.

Typer reads these at run time, also on Python 3.10, where `str | None` is not for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Optional

import typer

from induction_lens.loading import zoo_names


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell offers for an argument: those of some names that begin as it does."""

    def offered(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return offered


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model of this package, folder, or hub name.",
        autocompletion=completing(zoo_names),
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random draw.")]
DeviceOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Where to run: cpu, cuda, mps. Default: the best there is."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let Python code that comes with a model run. Read it first."
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Compare the loaded model with Hugging Face's. Without it, faults go unnoticed.",
    ),
]
TextOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="File, folder or hub data set to measure on; may be repeated."),
]
ColumnOption = Annotated[
    str, typer.Option(help="Column of .jsonl and .parquet files that holds the text.")
]
EncodingOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Encoding of text files. Default: UTF-8, or what their mark says."),
]
SequencesOption = Annotated[int, typer.Option(min=2, help="Sequences of text.")]
ControlsOption = Annotated[int, typer.Option(min=0, help="Random control sets.")]
ThresholdOption = Annotated[
    float, typer.Option(help="Induction score above which a head is an induction head.")
]
EngineOption = Annotated[str, typer.Option(help="Who measures: local or ray.")]
ResumeOption = Annotated[
    bool, typer.Option(help="Keep what OUT holds already, or measure everything again.")
]
OutOption = Annotated[str, typer.Option("--out", "-o", help="Folder to write to.")]
ModelOutOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--out", "-o", help="Folder to write to. Default: one here, named after the model."
    ),
]
FiguresOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Write the figures too: svg, pdf or png. Needs the extra 'figures'."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress bars (a log never has any).")
]
