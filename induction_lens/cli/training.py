"""Commands about training: `train`, `dynamics`, `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from induction_lens import checks
from induction_lens.cli.common import (
    app,
    output,
    print_json,
    print_table,
    print_wrapped,
    working,
)
from induction_lens.cli.options import (
    DeviceOption,
    FiguresOption,
    JsonOption,
    OutOption,
    QuietOption,
    SeedOption,
    completing,
)
from induction_lens.plots.saving import check_format
from induction_lens.reports.reproduce import reproduce
from induction_lens.reports.training import TrainingReport, sentences, training_report
from induction_lens.tracking.experiment import make_runs
from induction_lens.training.language_presets import LANGUAGE_PRESETS, train_language
from induction_lens.training.loop import TrainingRun
from induction_lens.training.presets import ALL_PRESETS, PHASE_PRESETS, train_preset

_NAMES = (*ALL_PRESETS, *LANGUAGE_PRESETS)


@app.command("train")
def train_command(
    *,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help=f"What to train. On text: {', '.join(ALL_PRESETS)}. On a language with a known "
            f"structure: {', '.join(LANGUAGE_PRESETS)}.",
            autocompletion=completing(lambda: _NAMES),
        ),
    ] = None,
    all_presets: Annotated[
        bool, typer.Option("--all-presets", help="Train all phase-… presets on the same text.")
    ] = False,
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder to write to. Default: ./PRESET-training."),
    ] = None,
    tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Training tokens. Default: as the preset says."),
    ] = None,
    text: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for tokenizer and text, for runs that share them. Default: OUT."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    resume: Annotated[bool, typer.Option(help="Resume exactly from what is in the folder.")] = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a toy model on the Python source on this machine, or on a language that is drawn.

    Snapshots and the trained model go to the folder; give their paths to `induction-lens report`.

    Examples:

    - `induction-lens train --preset toy-2l`
    - `induction-lens train --preset toy-1l-smeared --tokens 2000000 --out quick`
    - `induction-lens train --preset phase-2l --seed 1 --text text --out phase-2l-seed-1`
    - `induction-lens train --all-presets --out phase`
    - `induction-lens train --preset alphabets --seed 2`
    """
    with working():
        if all_presets == (preset is not None):
            got = "both" if all_presets else "neither"
            raise ValueError(
                f"expected either --preset or --all-presets, got {got}; give one of them"
            )
        if all_presets and (text is not None or device is not None or not resume):
            raise ValueError(
                "expected --text, --device and --no-resume only with --preset, got them with "
                "--all-presets; all presets share OUT/text, and resume from what is in OUT"
            )
        if preset is not None:
            checks.one_of("--preset", preset, _NAMES)
        if preset in LANGUAGE_PRESETS and text is not None:
            raise ValueError(
                f"expected --text with a preset that is trained on text, got it with {preset}, "
                "whose sequences are drawn; leave it out"
            )
        named = "all-presets" if preset is None else f"{preset}-training"
        folder = output(named if out is None else out, page=False)
    if preset is None:
        _train_all(folder, n_tokens=tokens, seed=seed, quiet=quiet, as_json=as_json)
        return
    options = {"seed": seed, "device": device, "resume": resume, "progress": not quiet}
    with working():
        run = _trained(preset, folder, n_tokens=tokens, text=text, **options)
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
    # a report needs text, and so a tokenizer
    following = "heads" if preset in LANGUAGE_PRESETS else "report"
    steps = "1 step" if run.n_steps == 1 else f"{run.n_steps} steps"
    print(
        f"Trained {preset} for {steps}, {run.tokens_seen:,} tokens; training loss "
        f"{result['last_loss']:.3f} nats.\nThe model: {result['model']}\n"
        f"Next: induction-lens {following} {result['model']}"
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
    out: OutOption = "dynamics",
    figures: FiguresOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the phase change in training runs, and the paper's first three arguments, on one page.

    Runs that are not measured yet are measured first, at each of their snapshots, into their folder
    `tracked`. Runs of one model that differ only in their seed are combined.

    Examples:

    - `induction-lens dynamics --shipped`
    - `induction-lens dynamics phase/phase-* --out phase-page`
    """
    with working():
        if shipped == bool(runs):
            got = "both" if shipped else "neither"
            raise ValueError(
                f"expected either folders of runs or --shipped, got {got}; give one of them"
            )
        folder = output(out)
        written = None if figures is None else check_format("--figures", figures)
        found = training_report(runs or None, progress=not quiet)
        page = found.save(folder, figures=written)
    _print_findings(found, page, as_json=as_json)


@app.command("reproduce")
def reproduce_command(
    *,
    out: OutOption = "reproduction",
    quick: Annotated[
        bool, typer.Option("--quick", help="The two models of one layer only: minutes.")
    ] = False,
    processes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Runs at a time, of one thread each. Default: one per core."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce the phase change of induction heads, and move it with smeared keys, from nothing.

    Learns a tokenizer from the Python source on this machine, trains models of one and two layers
    with plain and with smeared keys, measures them at every snapshot, and writes the page of
    `induction-lens dynamics`. Run it again to resume after an interruption.

    Examples:

    - `induction-lens reproduce --quick`
    - `induction-lens reproduce --out phase`
    """
    with working():
        folder = output(out)
        found = reproduce(folder, quick=quick, processes=processes, progress=not quiet)
    _print_findings(found, folder / "index.html", as_json=as_json)


def _trained(
    preset: str, folder: Path, *, n_tokens: int | None, text: Path | None, **options: Any
) -> TrainingRun:
    """The run of a preset, on a language or on text."""
    if preset not in LANGUAGE_PRESETS:
        return train_preset(preset, folder, n_tokens=n_tokens, text=text, **options)
    n_steps = None if n_tokens is None else LANGUAGE_PRESETS[preset].steps_of(n_tokens)
    return train_language(preset, folder, n_steps=n_steps, **options)


def _train_all(out: Path, *, n_tokens: int | None, seed: int, quiet: bool, as_json: bool) -> None:
    asked = {"presets": list(PHASE_PRESETS), "seeds": [seed], "n_tokens": n_tokens}
    with working():
        folders = make_runs(out, **asked, measured=False, progress=not quiet)
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
    print_table(["model", "ICL score", "window", "midpoint"], sentences.rows(found))
    print(f"\nThe page: {page.resolve()}")
