"""Commands about models of others over training and over sizes: `track`, `family`."""

from __future__ import annotations

from pathlib import Path
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
    DeviceOption,
    EncodingOption,
    EngineOption,
    JsonOption,
    OutOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    SequencesOption,
    TextOption,
    ThresholdOption,
    completing,
)
from induction_lens.estimates import short_number
from induction_lens.heads import THRESHOLD
from induction_lens.loading import zoo_names
from induction_lens.reports import save_family
from induction_lens.reports.family.page import headline, summary
from induction_lens.suites import Suite, family, suite
from induction_lens.suites.suite import suite_names
from induction_lens.tracking import track
from induction_lens.tracking.choice import Checkpoints
from induction_lens.tracking.measures import N_SEQUENCES
from induction_lens.tracking.trajectory import TRAJECTORY


@app.command("track")
def track_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Suite on the hub (pythia-160m), repository, folder of folders, or training run.",
            autocompletion=completing(suite_names),
        ),
    ],
    *,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the measures.")],
    checkpoints: Annotated[
        str,
        typer.Option(help="log:40, linear:40, every:5, all, or steps such as 0,512,1000."),
    ] = "all",
    tokens_per_step: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Training tokens a step, where names do not tell."),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=2, help="Sequences of text to measure on.")
    ] = N_SEQUENCES,
    ablated: Annotated[
        int, typer.Option(min=1, help="Sequences that each head is knocked out on.")
    ] = 64,
    text: TextOption = None,
    column: ColumnOption = "text",
    encoding: EncodingOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep downloaded checkpoints.")] = False,
    engine: EngineOption = "local",
    resume: ResumeOption = True,
    list_only: Annotated[
        bool, typer.Option("--list", help="List the checkpoints, and what is left out; no work.")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a published model at many moments of its training.

    Branches whose weights are those of others are left out. One checkpoint at a time is
    downloaded, compared with the hub's hashes, measured and deleted. Run it again to resume; give
    OUT to `induction-lens dynamics` for the page.

    Examples:

    - `induction-lens track pythia-160m --checkpoints log:40 --out pythia-160m`
    - `induction-lens track stanford-crfm/alias-gpt2-small-x21 --checkpoints log:60 --out alias`
    - `induction-lens track ./my-run --tokens-per-step 524288 --out tracked`
    """
    with working():
        folder = output(out, page=False)
        source = text_source(text, column=column, encoding=encoding)
        chosen = _chosen(checkpoints)
        run = _run_of(name, tokens_per_step, progress=not quiet)
        if list_only and isinstance(run, Path):
            raise ValueError("expected a suite with --list, got a training run; leave --list out")
    if list_only and isinstance(run, Suite):
        _print_suite(run, as_json=as_json)
        return
    with working():
        found = track(
            run,
            out=folder,
            text=source,
            checkpoints=chosen,
            n_sequences=sequences,
            n_ablated=ablated,
            keep=keep,
            engine=engine,
            resume=resume,
            seed=seed,
            device=device,
            progress=not quiet,
        )
    left = run.left_out if isinstance(run, Suite) else ()
    if as_json:
        told = [{"revision": one.revision, "why": one.why} for one in left]
        rows = found.to_frame().to_dict("records")
        print_json({"trajectory": str(folder / TRAJECTORY), "left_out": told, "checkpoints": rows})
        return
    print(f"{found}\nLeft out: {len(left)}")
    for one in left:
        print_wrapped(f"  {one.revision} {one.why}")
    print(f"The trajectory: {folder / TRAJECTORY}\nNext: induction-lens dynamics {folder}")


@app.command("family")
def family_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Models of this package, folders, names.",
            autocompletion=completing(zoo_names),
        ),
    ],
    *,
    out: OutOption = "family",
    text: TextOption = None,
    column: ColumnOption = "text",
    encoding: EncodingOption = None,
    sequences: SequencesOption = 64,
    controls: ControlsOption = 20,
    threshold: ThresholdOption = THRESHOLD,
    engine: EngineOption = "local",
    resume: ResumeOption = True,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure models of several sizes alike, and see what changes with size.

    Each model is kept in OUT when it is measured. Run it again to resume.

    Examples:

    - `induction-lens family toy-1l toy-2l toy-2l-narrow`
    - `induction-lens family pythia-70m pythia-160m pythia-410m pythia-1b --text ./prose`
    """
    with working():
        folder = output(out)
        found = family(
            models,
            out=folder,
            text=text_source(text, column=column, encoding=encoding),
            n_sequences=sequences,
            n_controls=controls,
            threshold=threshold,
            seed=seed,
            engine=engine,
            resume=resume,
            progress=not quiet,
        )
        page = save_family(found, folder)
    if as_json:
        frames = {"models": found.to_frame(), "trends": found.trends_frame()}
        records = {name: frame.to_dict("records") for name, frame in frames.items()}
        print_json({"page": str(page), "headline": headline(found), **records})
        return
    print(f"{headline(found)}\n")
    for line in summary(found):
        print_wrapped(line)
    rows = [
        [
            member.name,
            short_number(float(member.parameters)),
            f"{member.loss.value:.2f}",
            str(member.icl),
            f"{len(member.found)} of {member.n_layers * member.n_heads}",
            f"{member.study.share.value:.2f}",
            f"{member.control_removed:.2f}",
        ]
        for member in found.members
    ]
    print_table(["model", "size", "loss", "ICL score", "above", "removed", "controls"], rows)
    print(f"\nThe page: {page.resolve()}")


def _chosen(checkpoints: str) -> Checkpoints:
    """What `--checkpoints` means: a word, or steps with commas."""
    parts = checkpoints.replace(" ", "").split(",")
    if all(part.isdecimal() for part in parts):
        return [int(part) for part in parts]
    return checkpoints


def _run_of(name: str, tokens_per_step: int | None, *, progress: bool) -> Suite | Path:
    """A suite; or a training run of this package, which is tracked as it is."""
    folder = Path(name)
    if folder.is_dir() and (any(folder.glob("snapshots")) or any(folder.glob("*/weights.*"))):
        if tokens_per_step is not None:
            raise ValueError(
                "expected no --tokens-per-step with a training run of this package, got one; its "
                "snapshots know their tokens"
            )
        return folder
    return suite(name, tokens_per_step=tokens_per_step, progress=progress)


def _print_suite(found: Suite, *, as_json: bool) -> None:
    frame = found.to_frame().astype(object)
    records = frame.where(frame.notna(), None).to_dict("records")
    if as_json:
        print_json(records)
        return
    print(found)
    rows = [
        [
            row["revision"],
            "–" if row["tokens_seen"] is None else short_number(float(row["tokens_seen"])),
            row["why"] and f"left out: {row['why']}",
        ]
        for row in records
    ]
    print_table(["revision", "tokens", "description"], rows)
