"""Commands about one model: `report`, `heads`, `zoo`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Optional

import typer

from induction_lens.cli.common import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    app,
    for_users,
    print_json,
    print_table,
    print_wrapped,
)
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.files import output_folder
from induction_lens.heads import Head, ScoreTable
from induction_lens.knockout import METHODS
from induction_lens.loading import load, zoo
from induction_lens.metrics import Estimate
from induction_lens.report import Report, report, words
from induction_lens.report.evaluation import N_SEQUENCES


@app.command("report")
def report_command(
    *,
    model: ModelArgument = "toy-2l",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder to write to. Default: ./MODEL-report."),
    ] = None,
    text: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="File or folder of text to measure on; may be repeated."),
    ] = None,
    heads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Heads to knock out, such as 1.2,1.5, instead of those found."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Induction score above which a head is an induction head.")
    ] = 0.3,
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=f"How to knock out: {', '.join(METHODS)}. May be repeated; default all."),
    ] = None,
    controls: Annotated[int, typer.Option(min=0, help="Random control sets per method.")] = 20,
    sequences: Annotated[int, typer.Option(min=2, help="Sequences to measure losses on.")] = (
        N_SEQUENCES
    ),
    seed: SeedOption = 0,
    early: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Early position of the ICL score. Default: the paper's 50."),
    ] = None,
    late: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Late position of the ICL score. Default: the paper's 500."),
    ] = None,
    window: Annotated[
        int, typer.Option(min=0, help="Positions on each side, for the windowed ICL score.")
    ] = 10,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a model's induction heads, knock them out, and write a page about it.

    The page, `index.html`, needs no network; its data lie beside it as CSV, Parquet and JSON.

    Examples:

    - `induction-lens report`
    - `induction-lens report gpt2 --out gpt2-report --sequences 64`
    - `induction-lens report ./my-model --text ./my-texts --heads 5.1,5.5`
    """
    with for_users():
        folder = output_folder(Path(f"{Path(model).name}-report") if out is None else out)
        found = report(
            load(model, device=device),
            text=_sources(text),
            heads=None if heads is None else heads.replace(",", " ").split(),
            threshold=threshold,
            methods=method or METHODS,
            n_controls=controls,
            n_sequences=sequences,
            seed=seed,
            early=early,
            late=late,
            window=window,
        )
        page = found.save(folder)
    if as_json:
        print_json({"page": str(page), **found.to_dict()})
        return
    _print_report(found)
    print(f"\nThe page: {page.resolve()}")


@app.command("heads")
def heads_command(
    *,
    model: ModelArgument = "toy-2l",
    top: Annotated[int, typer.Option(min=1, help="How many heads to list.")] = 10,
    detector: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=f"{', '.join(DETECTORS)}. May be repeated; default all."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Score above which a head is set apart.")] = 0.3,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every head of a model on repeated random tokens.

    The list is sorted by the first detector. A head in bold exceeds the threshold and what chance
    explains. `--json` prints every head.

    Examples:

    - `induction-lens heads gpt2 --top 20`
    - `induction-lens heads --detector induction --json`
    """
    with for_users():
        scores = score_heads(
            load(model, device=device),
            detectors=detector,
            seed=seed,
            progress=True,
        )
    if as_json:
        print_json(scores.to_frame().to_dict("records"))
        return
    first = next(iter(scores.values()))
    _print_heads(scores, [head for head, _ in first.top(top)], first.above(threshold))


@app.command("zoo")
def zoo_command(as_json: JsonOption = False) -> None:
    """List the models that ship with the package."""
    with for_users():
        models = zoo()
    records = models.to_dict("records")
    if as_json:
        print_json(records)
        return
    print_table(
        ["name", "tokens", "loss", "ICL score", "description"],
        [
            [
                row["name"],
                f"{row['training_tokens'] / 1e6:.1f}M",
                f"{row['held_out_loss']:.2f}",
                words.nats(Estimate(row["icl_score"], row["icl_low"], row["icl_high"], 0)),
                row["description"],
            ]
            for row in records
        ],
    )


def _sources(text: list[str] | None) -> list[str | Path] | None:
    """Names that exist are files or folders; others are for `text_tokens` to judge."""
    if not text:
        return None
    missing = [item for item in text if not Path(item).exists()]
    if missing:
        raise ValueError(f"expected files or folders of text, got {missing[0]}, which is not there")
    return [Path(item) for item in text]


def _print_report(found: Report) -> None:
    print(f"{found.headline}\n")
    print_wrapped(found.summary)
    for note in found.notes:
        print_wrapped(f"Note: {note}")
    shown = [head for head, _ in found.scores["induction"].top(8)]
    _print_heads(found.scores, shown, found.heads)
    for definition, studies in (("windowed", found.windowed), ("two positions", found.studies)):
        first = next(iter(studies.values()))
        around = f" ±{first.window}" if first.window else ""
        where = f"{first.early} and {first.late}{around}"
        title = f"ICL score at {where} ({definition}): {words.nats(first.clean)} nats clean"
        rows = [
            [name, words.nats(study.ablated), words.nats(study.effect), words.rank_text(study)]
            for name, study in studies.items()
        ]
        columns = ["method", f"without {words.heads_text(found.studied)}", "change", "rank"]
        print_table(columns, rows, title=title)


def _print_heads(scores: ScoreTable, shown: Iterable[Head], strong: Iterable[Head]) -> None:
    bold = set(strong)
    rows = [
        [
            f"[bold]{head}[/bold]" if head in bold else str(head),
            *(words.number(one[head], signed=one.unit != "attention") for one in scores.values()),
        ]
        for head in shown
    ]
    print_table(["head", *(name.replace("_", " ") for name in scores)], rows)
