"""The command about one prompt: `attention`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from induction_lens import checks
from induction_lens.cli.common import (
    app,
    default_name,
    loaded_model,
    print_json,
    words,
    working,
)
from induction_lens.cli.failures import say
from induction_lens.cli.options import (
    CheckOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    SeedOption,
    TrustOption,
)
from induction_lens.inputs import repeated_random_tokens
from induction_lens.models import Model, ordinary_ids, shape
from induction_lens.views import attention

_N_RANDOM, _N_COPIES = 16, 3


@app.command("attention")
def attention_command(
    *,
    model: ModelArgument = "toy-2l",
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The prompt itself. Default: random tokens, three times over."),
    ] = None,
    heads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Heads to show, such as 1.4,1.6. Default: all, on prompts not too long."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="Whose targets to underline, such as previous_token; or none.")
    ] = "induction",
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--out", "-o", help="File to write. Default: ./MODEL-attention.html."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    check: CheckOption = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look at heads on a prompt of yours: a page on which you choose tokens and heads.

    It shows attention, attention weighted by values, and logit attribution, and needs no network.

    Examples:

    - `induction-lens attention --text "def add(first, second): return first + second"`
    - `induction-lens attention gpt2 --text "Mr and Mrs Dursley, of Privet Drive" --heads 5.1,5.5`
    """
    with working():
        seed = checks.seed(seed, name="--seed")
        file = _output_file(default_name(model, "attention.html") if out is None else out)
        loaded = loaded_model(
            model, device=device, trust_remote_code=trust_remote_code, check=check, quiet=quiet
        )
        if text is None and not quiet:
            say(f"No --text, so the prompt is random tokens, {_N_COPIES} times over.")
        view = attention(
            loaded,
            _random_prompt(loaded, seed) if text is None else text,
            None if heads is None else words(heads),
            detector=None if detector == "none" else detector,
        )
        view.save(file)
    if as_json:
        names = [str(head) for head in view.heads]
        print_json({"page": str(file), "tokens": list(view.tokens), "heads": names})
        return
    print(f"{view!r}\n")
    for note in view.notes:
        print(note)
    print(f"The page: {file.resolve()} ({file.stat().st_size / 1e6:.2f} MB)")


def _output_file(out: str) -> Path:
    """A file that can be written; this is checked before the work starts.

    Raises:
        ValueError: If it is a folder, or lies where nothing can be written.
    """
    file = checks.path("--out", out)
    if file.is_dir():
        raise checks.refuse("--out", "a file to write", out, "name a file in it, such as page.html")
    if file.suffix.lower() not in (".html", ".htm"):
        remedy = "a browser opens such files, for instance page.html"
        raise checks.refuse("--out", "a file that ends with .html", out, remedy)
    checks.writable_folder("--out", file.parent)
    if file.exists() and not os.access(file, os.W_OK):
        raise checks.refuse("--out", "a file to write", out, "the system refuses; name another")
    return file


def _random_prompt(model: Model, seed: int) -> Any:
    """Random tokens several times over, as many as the model reads."""
    room = (shape(model).n_ctx - 1) // _N_COPIES
    n_tokens = min(_N_RANDOM, room, len(ordinary_ids(model)))
    return repeated_random_tokens(
        model, n_tokens=n_tokens, n_repeats=_N_COPIES, n_sequences=1, seed=seed
    )
