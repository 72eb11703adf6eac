"""Commands about training: `train`, `dynamics`, `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from induction_lens.cli.common import (
    DeviceOption,
    JsonOption,
    SeedOption,
    app,
    for_users,
    print_json,
    print_table,
    print_wrapped,
)
from induction_lens.files import output_folder
from induction_lens.presets import PHASE_PRESETS, PRESETS, train_preset
from induction_lens.reproduce import make_runs, reproduce
from induction_lens.training_report import TrainingReport, training_report, words


@app.command("train")
def train_command(
    *,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"What to train: {', '.join(PRESETS | PHASE_PRESETS)}."),
    ] = None,
    all_presets: Annotated[
        bool, typer.Option("--all-presets", help="Train all of phase-…, on the same text.")
    ] = False,
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
    - `induction-lens train --all-presets --out phase`
    """
    with for_users():
        if all_presets == (preset is not None):
            raise ValueError("expected either --preset or --all-presets; give one of them")
        if all_presets and (text is not None or device is not None or not resume):
            raise ValueError(
                "expected --text, --device and --no-resume with --preset alone; all presets share "
                "OUT/text, and go on from what is in OUT"
            )
    if preset is None:
        _train_all(out or Path("all-presets"), n_tokens=tokens, seed=seed, as_json=as_json)
        return
    with for_users():
        folder = Path(f"{preset}-training") if out is None else out
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
        print_json(result)
        return
    steps = "1 step" if run.n_steps == 1 else f"{run.n_steps} steps"
    print(
        f"Trained {preset} for {steps}, {run.tokens_seen:,} tokens; training loss "
        f"{result['last_loss']:.3f} nats.\nThe model: {result['model']}\n"
        f"Next: induction-lens report {result['model']}"
    )


@app.command("dynamics")
def dynamics_command(
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(metavar="RUN…", help="Folders of training runs, or their trajectories."),
    ] = None,
    *,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Use the runs that ship with the package.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path(
        "dynamics"
    ),
    as_json: JsonOption = False,
) -> None:
    """Show the phase change in training runs, and the paper's first three arguments, on one page.

    Runs that were not measured yet are measured first, at each of their snapshots, into their
    folder `tracked`. Runs of one model that differ in their seed are taken together.

    Examples:

    - `induction-lens dynamics --shipped`
    - `induction-lens dynamics phase/phase-* --out phase-page`
    """
    with for_users():
        if shipped == bool(runs):
            raise ValueError("expected either folders of runs or --shipped; give one of them")
        output_folder(out)
        found = training_report(runs or None)
        page = found.save(out)
    _print_findings(found, page, as_json=as_json)


@app.command("reproduce")
def reproduce_command(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path(
        "reproduction"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="The two models of one layer only: minutes.")
    ] = False,
    processes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Runs at a time, of one thread each. Default: one per core."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Reproduce the phase change of induction heads, and move it with smeared keys, from nothing.

    Learns a tokenizer from the Python source on this machine, trains models of one and two layers
    with plain and with smeared keys, measures them at every snapshot, and writes the page of
    `induction-lens dynamics`. Interrupted, it goes on where it was when it is called again.

    Examples:

    - `induction-lens reproduce --quick`
    - `induction-lens reproduce --out phase`
    """
    with for_users():
        output_folder(out)
        found = reproduce(out, quick=quick, processes=processes)
    _print_findings(found, out / "index.html", as_json=as_json)


def _train_all(out: Path, *, n_tokens: int | None, seed: int, as_json: bool) -> None:
    presets = list(PHASE_PRESETS)
    with for_users():
        folders = make_runs(out, presets=presets, seeds=[seed], n_tokens=n_tokens, measured=False)
    if as_json:
        print_json({"runs": [str(folder) for folder in folders]})
        return
    print("Trained:\n" + "\n".join(f"  {folder}" for folder in folders))
    print(f"Next: induction-lens dynamics {out}/phase-*")


def _print_findings(found: TrainingReport, page: Path, *, as_json: bool) -> None:
    if as_json:
        frames = {"models": found.models_frame(), "runs": found.runs_frame()}
        records = {name: frame.to_dict("records") for name, frame in frames.items()}
        print_json({"page": str(page), "headline": found.headline, **records})
        return
    print(f"{found.headline}\n")
    print_wrapped(found.summary)
    print_table(["model", "ICL score", "window", "midpoint"], words.rows(found))
    print(f"\nThe page: {page.resolve()}")
