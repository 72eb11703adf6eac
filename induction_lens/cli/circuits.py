"""The command about mechanism: `circuit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from induction_lens.circuits import Circuit, Material, circuit
from induction_lens.circuits.shares import QUANTITIES, Quantity
from induction_lens.cli.common import (
    CheckOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    SeedOption,
    TrustOption,
    app,
    output,
    print_json,
    print_table,
    print_wrapped,
    working,
)
from induction_lens.cli.failures import loading, say
from induction_lens.heads import THRESHOLD
from induction_lens.loading import load
from induction_lens.progress import libraries_follow
from induction_lens.reports.circuit import headline, records, save_circuit, summary
from induction_lens.reports.model.plan import spoken
from induction_lens.reports.numbers import percent


@app.command("circuit")
def circuit_command(
    *,
    model: ModelArgument = "toy-2l",
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder to write to. Default: ./MODEL-circuit."),
    ] = None,
    previous: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Previous-token heads, such as 0.2,0.3, instead of those found."),
    ] = None,
    induction: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Induction heads, such as 1.6, instead of those found."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Score above which heads belong to the circuit.")
    ] = THRESHOLD,
    random: Annotated[int, typer.Option(min=0, help="Random circuits and senders.")] = 5,
    sequences: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Sequences of repeated tokens. Default: 32; 12 from GPT-2 up."),
    ] = None,
    texts: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Sequences of text, 0 for none. Default: 32; 12 from GPT-2 up."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    check: CheckOption = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find a model's induction circuit, and measure what goes through each of its edges.

    The page, `index.html`, needs no network; its tables are beside it as CSV.

    Examples:

    - `induction-lens circuit toy-2l`
    - `induction-lens circuit gpt2 --previous 4.11 --induction 5.1,5.5 --texts 16`
    """
    with working():
        folder = output(f"{Path(model).resolve().name}-circuit" if out is None else out)
        with loading(model), libraries_follow(not quiet):
            loaded = load(model, device=device, trust_remote_code=trust_remote_code, check=check)
        material = Material.of(loaded, n_sequences=sequences, n_texts=texts, seed=seed)
        found = circuit(
            loaded,
            previous=_heads(previous),
            induction=_heads(induction),
            threshold=threshold,
            n_random=random,
            material=material,
            announce=None if quiet else lambda seconds: say(f"About {spoken(seconds)}."),
            seed=seed,
        )
        page = save_circuit(found, folder)
    if as_json:
        print_json(
            {
                "page": str(page),
                **records(found),
            }
        )
        return
    _print_circuit(found)
    print(f"\nThe page: {page.resolve()}")


def _heads(named: str | None) -> list[str] | None:
    return None if named is None else named.replace(",", " ").split()


def _print_circuit(found: Circuit) -> None:
    print(f"{headline(found)}\n")
    for sentence in summary(found):
        print_wrapped(sentence)
    for note in found.notes:
        print_wrapped(f"Note: {note}")
    quantities: list[Quantity] = [name for name in QUANTITIES if name in found.paths.edges[0].of]
    rows = [
        [
            f"{one.edge}{' random' if one.is_control else ''}",
            *(percent(one.of[name].share) for name in quantities),
        ]
        for one in found.paths.edges
    ]
    print_table(["edge", *quantities], rows, title="Share that goes through each edge")
