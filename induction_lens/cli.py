"""The command line: each command reads its options, calls one function, and prints the result.

Tables go to stdout, and with `--json` only JSON does; progress and errors go to stderr. Errors of
the user are one line, with exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from induction_lens import __version__
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.heads import Head, ScoreTable
from induction_lens.knockout import METHODS
from induction_lens.loading import load, zoo
from induction_lens.presets import PHASE_PRESETS, PRESETS, train_preset
from induction_lens.report import Report, report, words
from induction_lens.report.evaluation import N_SEQUENCES
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
    with _for_users():
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
        page = found.save(Path(f"{Path(model).name}-report") if out is None else out)
    if as_json:
        _print_json({"page": str(page), **found.to_dict()})
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
    with _for_users():
        scores = score_heads(
            load(model, device=device),
            detectors=detector,
            seed=seed,
            progress=True,
        )
    if as_json:
        _print_json(scores.to_frame().to_dict("records"))
        return
    first = next(iter(scores.values()))
    _print_heads(scores, [head for head, _ in first.top(top)], first.above(threshold))


@app.command("zoo")
def zoo_command(as_json: JsonOption = False) -> None:
    """List the models that ship with the package."""
    with _for_users():
        models = zoo()
    records = models.to_dict("records")
    if as_json:
        _print_json(records)
        return
    _print_table(
        ["name", "tokens", "loss", "ICL score", "description"],
        [
            [
                row["name"],
                f"{row['training_tokens'] / 1e6:.1f}M",
                f"{row['held_out_loss']:.2f}",
                f"{row['icl_score']:+.2f} [{row['icl_low']:+.2f}, {row['icl_high']:+.2f}]",
                row["description"],
            ]
            for row in records
        ],
    )


@app.command("train")
def train_command(
    *,
    preset: Annotated[
        str, typer.Option(help=f"What to train: {', '.join(PRESETS | PHASE_PRESETS)}.")
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder to write to. Default: ./PRESET-training."),
    ] = None,
    tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Training tokens. Default: as many as the shipped model had."),
    ] = None,
    text: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for tokenizer and text, for runs that share them. Default: OUT."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from what is in the folder, exactly.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train a toy model from nothing but the Python source on this machine.

    Snapshots and the trained model go to the folder; give their paths to `induction-lens report`.

    Examples:

    - `induction-lens train --preset toy-2l`
    - `induction-lens train --preset toy-1l-smeared --tokens 2000000 --out quick`
    - `induction-lens train --preset phase-2l --seed 1 --text text --out phase-2l-seed-1`
    """
    folder = Path(f"{preset}-training") if out is None else out
    with _for_users():
        run = train_preset(
            preset, folder, n_tokens=tokens, text=text, seed=seed, device=device, resume=resume
        )
    result = {
        "model": str(folder / "model"),
        "steps": run.n_steps,
        "tokens_seen": run.tokens_seen,
        "last_loss": float(run.losses[-1]),
        "snapshots": [str(snapshot.path) for snapshot in run.snapshots],
    }
    if as_json:
        _print_json(finite(result))
        return
    print(
        f"Trained {preset} for {run.n_steps} steps, {run.tokens_seen:,} tokens; training loss "
        f"{result['last_loss']:.3f} nats.\nThe model: {result['model']}\n"
        f"Next: induction-lens report {result['model']}"
    )


@contextmanager
def _for_users() -> Iterator[None]:
    """Errors of the user as one line and exit code 2; whatever libraries print goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from None


def _sources(text: list[str] | None) -> list[str | Path] | None:
    """Names that exist are files or folders; others are for `text_tokens` to judge."""
    if not text:
        return None
    missing = [item for item in text if not Path(item).exists()]
    if missing:
        raise ValueError(f"expected files or folders of text, got {missing[0]}, which is not there")
    return [Path(item) for item in text]


def _print_json(value: Any) -> None:
    print(json.dumps(finite(value), indent=1, allow_nan=False))


def _print_report(found: Report) -> None:
    print(f"{found.headline}\n")
    _print_wrapped(found.summary)
    for note in found.notes:
        _print_wrapped(f"Note: {note}")
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
        _print_table(columns, rows, title=title)


def _print_wrapped(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False).print(text)


def _print_heads(scores: ScoreTable, shown: Iterable[Head], strong: Iterable[Head]) -> None:
    bold = set(strong)
    rows = [
        [
            f"[bold]{head}[/bold]" if head in bold else str(head),
            *(words.number(one[head], signed=one.unit != "attention") for one in scores.values()),
        ]
        for head in shown
    ]
    _print_table(["head", *(name.replace("_", " ") for name in scores)], rows)


def _print_table(columns: list[str], rows: list[list[str]], *, title: str | None = None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(emoji=False, highlight=False)
    if title is not None:
        console.print(title, markup=False)
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        justify = "left" if index == 0 or column == "description" else "right"
        table.add_column(column, justify=justify, no_wrap=index == 0 or column == "ICL score")
    for row in rows:
        table.add_row(*row)
    console.print(table)
