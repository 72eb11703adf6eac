"""The command about what heads are good for: `dissociate`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

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
from induction_lens.reports.dissociation import (
    headline,
    same_summary,
    save_dissociation,
    sets_table,
    summary,
)
from induction_lens.reports.model.plan import spoken
from induction_lens.tasks import EVALUATED, Extent, dissociate, ready, same_heads
from induction_lens.tasks.dissociate import USUAL_KINDS


@app.command("dissociate")
def dissociate_command(
    *,
    model: ModelArgument = "toy-2l",
    out: ModelOutOption = None,
    tasks: Annotated[
        str, typer.Option(help="Ready tasks to measure accuracy on, with commas between.")
    ] = ",".join(EVALUATED),
    kinds: Annotated[str, typer.Option(help="Kinds of heads, with commas between.")] = ",".join(
        USUAL_KINDS
    ),
    heads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Heads of each kind at most. Default: 2% of all, two at least."),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Worked examples in a prompt.")] = Extent.shots,
    items: Annotated[int, typer.Option(min=2, help="Items of each task.")] = Extent.n_items,
    random: Annotated[
        int, typer.Option(min=0, help="Random sets beside each set.")
    ] = Extent.n_controls,
    texts: Annotated[int, typer.Option(min=2, help="Sequences of text.")] = Extent.n_texts,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    check: CheckOption = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find kinds of heads, and measure which kind of in-context learning each carries.

    The ICL score, on text, and few-shot accuracy, on tasks, without each kind's heads and without
    random ones. The page, `index.html`, needs no network; its tables are beside it as CSV.

    Examples:

    - `induction-lens dissociate toy-2l`
    - `induction-lens dissociate gpt2 --tasks capitals,english-german --items 100`
    """
    with working():
        folder = model_folder(out, model, "dissociation")
        extent = Extent(n_heads=heads, shots=shots, n_items=items, n_controls=random, n_texts=texts)
        asked = ready(*words(tasks))
        loaded = loaded_model(
            model, device=device, trust_remote_code=trust_remote_code, check=check, quiet=quiet
        )
        found = dissociate(
            loaded,
            asked,
            kinds=words(kinds),
            extent=extent,
            announce=None if quiet else lambda seconds: say(f"At most about {spoken(seconds)}."),
            seed=seed,
        )
        same = same_heads(loaded, seed=seed)
        page = save_dissociation(found, folder, same=same)
    if as_json:
        print_json(
            {
                "page": str(page),
                "headline": headline(found),
                "summary": [*summary(found), same_summary(same)],
                "sets": found.to_frame().to_dict("records"),
                "tasks": found.tasks_frame().to_dict("records"),
                "same_heads": same.to_frame().to_dict("records"),
                "correlations": same.correlations_frame().to_dict("records"),
            }
        )
        return
    print(f"{headline(found)}\n")
    for sentence in (*summary(found), same_summary(same), *found.notes):
        print_wrapped(sentence)
    table = sets_table(found)
    print_table(list(table.columns), [list(row) for row in table.rows], title="What is lost")
    print(f"\nThe page: {page.resolve()}")
