"""The command about mechanism: `circuit`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from induction_lens.circuits import Circuit, Material, circuit
from induction_lens.circuits.shares import QUANTITIES, Quantity
from induction_lens.cli.common import (
    app,
    loaded_model,
    model_folder,
    print_json,
    print_table,
    print_wrapped,
    words,
    working,
)
from induction_lens.cli.failures import say
from induction_lens.cli.options import (
    CheckOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    ModelOutOption,
    QuietOption,
    SeedOption,
    TrustOption,
)
from induction_lens.heads import THRESHOLD
from induction_lens.reports.circuit import headline, records, save_circuit, summary
from induction_lens.reports.model.plan import spoken
from induction_lens.reports.numbers import percent


@app.command("circuit")
def circuit_command(
    *,
    model: ModelArgument = "toy-2l",
    out: ModelOutOption = None,
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
        folder = model_folder(out, model, "circuit")
        loaded = loaded_model(
            model, device=device, trust_remote_code=trust_remote_code, check=check, quiet=quiet
        )
        material = Material.of(loaded, n_sequences=sequences, n_texts=texts, seed=seed)
        found = circuit(
            loaded,
            previous=None if previous is None else words(previous),
            induction=None if induction is None else words(induction),
            threshold=threshold,
            n_random=random,
            material=material,
            announce=None if quiet else lambda seconds: say(f"About {spoken(seconds)}."),
            seed=seed,
        )
        page = save_circuit(found, folder)
    if as_json:
        print_json({"page": str(page), **records(found)})
        return
    _print_circuit(found)
    print(f"\nThe page: {page.resolve()}")


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
