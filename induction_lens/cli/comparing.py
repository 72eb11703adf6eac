"""The command about several models beside each other: `compare`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from induction_lens.cli.common import (
    app,
    output,
    print_json,
    print_table,
    print_wrapped,
    text_source,
    working,
)
from induction_lens.cli.options import (
    ColumnOption,
    ControlsOption,
    EncodingOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SequencesOption,
    TextOption,
    ThresholdOption,
    completing,
)
from induction_lens.heads import THRESHOLD
from induction_lens.loading import zoo_names
from induction_lens.reports.comparison import compare, save_comparison
from induction_lens.reports.comparison.page import (
    differences_table,
    headline,
    models_table,
    summary,
)


@app.command("compare")
def compare_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Models of this package, folders, names, saved reports.",
            autocompletion=completing(zoo_names),
        ),
    ],
    *,
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder to write a page to. Default: none."),
    ] = None,
    text: TextOption = None,
    column: ColumnOption = "text",
    encoding: EncodingOption = None,
    sequences: SequencesOption = 64,
    controls: ControlsOption = 20,
    threshold: ThresholdOption = THRESHOLD,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put models beside each other, and say how much they differ.

    Models are measured on the same text. Folders that `induction-lens report` or `save` wrote are
    read as they are.

    Examples:

    - `induction-lens compare toy-1l toy-2l`
    - `induction-lens compare toy-2l-report gpt2-report --out comparison`
    """
    with working():
        folder = None if out is None else output(out)
        found = compare(
            models,
            text=text_source(text, column=column, encoding=encoding),
            n_sequences=sequences,
            n_controls=controls,
            threshold=threshold,
            seed=seed,
            progress=not quiet,
        )
        page = None if folder is None else save_comparison(found, folder)
    if as_json:
        frames = {"models": found.to_frame(), "differences": found.differences_frame()}
        records = {name: frame.to_dict("records") for name, frame in frames.items()}
        told = {"headline": headline(found), "summary": summary(found)}
        print_json({"page": None if page is None else str(page), **told, **records})
        return
    print(f"{headline(found)}\n")
    for line in summary(found):
        print_wrapped(line)
    for table in (models_table(found), differences_table(found)):
        if table is not None:
            print_table(list(table.columns), [list(row) for row in table.rows])
    if page is not None:
        print(f"\nThe page: {page.resolve()}")
