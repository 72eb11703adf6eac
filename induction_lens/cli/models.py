"""Commands about one model: `report`, `heads`, `zoo`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Optional

import typer

from induction_lens import checks
from induction_lens.ablation.methods import METHODS
from induction_lens.cli.common import (
    app,
    loaded_model,
    model_folder,
    print_json,
    print_table,
    print_wrapped,
    text_source,
    words,
    working,
)
from induction_lens.cli.options import (
    CheckOption,
    ColumnOption,
    ControlsOption,
    DeviceOption,
    EncodingOption,
    FiguresOption,
    JsonOption,
    ModelArgument,
    ModelOutOption,
    QuietOption,
    SeedOption,
    TextOption,
    ThresholdOption,
    TrustOption,
)
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.estimates import Estimate
from induction_lens.heads import THRESHOLD, Head, ScoreTable
from induction_lens.loading import zoo
from induction_lens.plots.saving import check_format
from induction_lens.reports.model import Report, report, sentences


@app.command("report")
def report_command(
    *,
    model: ModelArgument = "toy-2l",
    out: ModelOutOption = None,
    text: TextOption = None,
    column: ColumnOption = "text",
    encoding: EncodingOption = None,
    heads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Heads to knock out, such as 1.2,1.5, instead of those found."),
    ] = None,
    threshold: ThresholdOption = THRESHOLD,
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=f"How to knock out: {', '.join(METHODS)}. May be repeated; default all."),
    ] = None,
    controls: ControlsOption = 20,
    control_every_method: Annotated[
        bool,
        typer.Option(
            "--control-every-method",
            help="Run control sets with every method, not only with mean ablation.",
        ),
    ] = False,
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Sequences to measure losses on. Default: 256; 64 from GPT-2 up."),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="About how long it may take, such as 90s or 2m: less is measured."),
    ] = None,
    precision: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="End once intervals of the change are ± this many nats, such as 0.05."),
    ] = None,
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
    circuit: Annotated[
        bool,
        typer.Option("--circuit", help="Measure the induction circuit too; takes twice as long."),
    ] = False,
    figures: FiguresOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    check: CheckOption = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find a model's induction heads, knock them out, and write a page about it.

    The page, `index.html`, needs no network; its data are beside it as CSV, Parquet and JSON.

    Examples:

    - `induction-lens report`
    - `induction-lens report gpt2 --out gpt2-report --sequences 64`
    - `induction-lens report ./my-model --text ./my-texts --heads 5.1,5.5`
    """
    with working():
        folder = model_folder(out, model, "report")
        written = None if figures is None else check_format("--figures", figures)
        source = text_source(text, column=column, encoding=encoding)
        loaded = loaded_model(
            model, device=device, trust_remote_code=trust_remote_code, check=check, quiet=quiet
        )
        found = report(
            loaded,
            text=source,
            heads=None if heads is None else words(heads),
            threshold=threshold,
            methods=method or METHODS,
            n_controls=controls,
            control_every_method=control_every_method,
            n_sequences=sequences,
            budget=budget,
            precision=precision,
            seed=seed,
            early=early,
            late=late,
            window=window,
            circuit=circuit,
            progress=not quiet,
        )
        page = found.save(folder, figures=written)
    if as_json:
        told = {"headline": found.headline, "summary": found.summary}
        print_json({"page": str(page), **told, **found.to_dict()})
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
    sort: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DETECTOR",
            help="What to sort by. Default: induction, or else the first detector.",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Score above which a head is in bold.")
    ] = THRESHOLD,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    check: CheckOption = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score every head of a model on repeated random tokens.

    The list is sorted by induction, or by the detector that `--sort` names. A head in bold is above
    the threshold there, and above what chance explains. `--json` prints every head, in the model's
    order.

    Examples:

    - `induction-lens heads gpt2 --top 20`
    - `induction-lens heads --sort previous_token`
    - `induction-lens heads --detector induction --json`
    """
    with working():
        threshold = checks.real_number(
            "--threshold", threshold, remedy=f"{THRESHOLD} is the usual one"
        )
        chosen = checks.some_of("--detector", detector or DETECTORS, DETECTORS)
        if sort is None:
            sort = "induction" if "induction" in chosen else chosen[0]
        checks.one_of("--sort", sort, chosen)
        loaded = loaded_model(
            model, device=device, trust_remote_code=trust_remote_code, check=check, quiet=quiet
        )
        scores = score_heads(loaded, detectors=chosen, seed=seed, progress=not quiet)
    if as_json:
        print_json(scores.to_frame().to_dict("records"))
        return
    leading = scores[sort]
    _print_heads(scores, [head for head, _ in leading.top(top)], leading.above(threshold))


@app.command("zoo")
def zoo_command(*, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """List the models that ship with the package."""
    del quiet  # every command has this option, and nothing here takes time
    with working():
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
                sentences.shown(Estimate(row["icl_score"], row["icl_low"], row["icl_high"], 0)),
                row["description"],
            ]
            for row in records
        ],
    )


def _print_report(found: Report) -> None:
    print(f"{found.headline}\n")
    print_wrapped(found.summary)
    for note in found.notes:
        print_wrapped(f"Note: {note}")
    shown = [head for head, _ in found.scores["induction"].top(8)]
    _print_heads(found.scores, shown, found.heads)
    for definition, studies in found.definitions.items():
        first = next(iter(studies.values()))
        around = f" ±{first.window}" if first.window else ""
        where = f"{first.early} and {first.late}{around}"
        title = f"ICL score at {where} ({definition}): {sentences.shown(first.clean)} nats clean"
        rows = [
            [
                name,
                sentences.shown(study.ablated),
                sentences.shown(study.effect),
                sentences.rank_text(study),
            ]
            for name, study in studies.items()
        ]
        columns = ["method", f"without {sentences.heads_text(found.studied)}", "change", "rank"]
        print_table(columns, rows, title=title)


def _print_heads(scores: ScoreTable, shown: Iterable[Head], strong: Iterable[Head]) -> None:
    bold = set(strong)
    rows = [
        [
            f"[bold]{head}[/bold]" if head in bold else str(head),
            *(
                sentences.number(one[head], signed=one.unit != "attention")
                for one in scores.values()
            ),
        ]
        for head in shown
    ]
    print_table(["head", *(name.replace("_", " ") for name in scores)], rows)
