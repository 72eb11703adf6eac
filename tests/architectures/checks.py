"""What the package says of a model, beside what is right: exact, refused, or silently wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import subprocess
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typer.testing import CliRunner

import induction_lens as il
from induction_lens.cli import app
from tests.architectures import plain
from tests.architectures.foreign import Foreign
from tests.architectures.plain import Reference

TOLERANCE = 1e-4
"""Of log-probabilities, losses, effects (nats) and scores."""
LONGEST_LINE = 500
"""Characters of a message; a longer one, such as a list of all architectures, is not clear."""

Outcome = Literal["exact", "refused", "WRONG", "BAD"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number, or kind of number, of one architecture.

    Attributes:
        case: the architecture.
        what: what was compared.
        outcome: `exact`; `refused`, in one clear line; `WRONG`, without a word; or `BAD`, an error
            that is not one clear line.
        difference: the largest, where there was a result.
        message: what the error said.
    """

    case: str
    what: str
    outcome: Outcome
    difference: float | None = None
    message: str = ""


def check(case: str, folder: Path, tokens: Tensor, donors: Tensor, right: Reference) -> list[Cell]:
    """Compare everything that the package says of the model in this folder."""
    cells: list[Cell] = []

    def compare(what: str, difference: Callable[[], float]) -> None:
        cells.append(outcome_of(case, what, difference))

    model: Any = None

    def load() -> float:
        nonlocal model
        model = il.load(folder, device="cpu")
        return 0.0

    compare("load", load)
    compare("command line", lambda: _command_line(folder, model))
    if cells[0].outcome != "exact":
        return cells
    compare("log-probs", lambda: _apart(_log_probs(model, tokens), right.log_probs))
    compare("loss", lambda: _loss(model, tokens, right))
    for attention in ("auto", "pattern", "streaming"):
        compare(f"scores {attention}", lambda way=attention: _scores(model, tokens, way, right))
    for (method, make), (way, road) in itertools.product(METHODS.items(), ROADS.items()):
        options = {"method": make(donors)}
        compare(f"{method} {way}", functools.partial(road, model, tokens, method, options, right))
    compare("log-probs after", lambda: _apart(_log_probs(model, tokens), right.log_probs))
    return cells


def check_foreign(foreign: Foreign, folder: Path, tokens: Tensor) -> Cell:
    """Whether a model that is no plain causal transformer is refused, wherever it must be."""
    loaded: list[Any] = []

    def load() -> float:
        loaded.append(il.load(folder, device="cpu"))
        return float("inf")

    def score() -> float:
        il.score_heads(loaded[0], tokens=tokens, detectors=["induction"], progress=False)
        return float("inf")

    def ablate() -> float:
        with il.knocked_out(loaded[0], "0.1", method="zero"):
            loaded[0](tokens)
        return float("inf")

    cell = outcome_of(foreign.name, "load", load)
    if loaded and not foreign.at_load:
        cells = [outcome_of(foreign.name, "heads", attempt) for attempt in (score, ablate)]
        cell = max(cells, key=lambda of_attempt: of_attempt.outcome != "refused")
    return dataclasses.replace(cell, message="accepted") if cell.outcome == "WRONG" else cell


def outcome_of(case: str, what: str, difference: Callable[[], float]) -> Cell:
    """Run one comparison and name what came of it."""
    started: list[str] = []
    try:
        with _quiet(), _no_processes(started):
            apart = difference()
    except (ValueError, il.InterventionError) as error:
        clear = len(str(error).splitlines()) == 1 and len(str(error)) <= LONGEST_LINE
        cell = Cell(case, what, "refused" if clear else "BAD", message=str(error))
    except Exception as error:  # any other error is no help to users: that is what is tested
        cell = Cell(case, what, "BAD", message=f"{type(error).__name__}: {error}")
    else:
        cell = Cell(case, what, "exact" if apart <= TOLERANCE else "WRONG", apart)
    if started:
        return Cell(case, what, "BAD", message=f"it started a process: {started[0]}")
    return cell


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_processes(started: list[str]) -> Iterator[None]:
    """Start no process; keep the command of what tried to, since some callers pass over errors."""

    def refuse(self: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        started.append(command if isinstance(command, str) else " ".join(map(str, command)))
        raise OSError("no process may be started here")

    with unittest.mock.patch.object(subprocess.Popen, "__init__", refuse):
        yield


def _apart(ours: Tensor, right: Tensor) -> float:
    """The largest difference; infinite where one is not finite, or the shapes differ."""
    if ours.shape != right.shape:
        return float("inf")
    difference = (ours.double() - right.double()).abs()
    return difference.nan_to_num(nan=float("inf")).max().item()


def _log_probs(model: Any, tokens: Tensor) -> Tensor:
    return torch.log_softmax(model(tokens).float(), dim=-1)


def _loss(model: Any, tokens: Tensor, right: Reference) -> float:
    ours = il.per_token_loss(model, tokens, progress=False)
    return _apart(ours[:, 1:], plain.losses(right.log_probs, tokens)[:, 1:])


def _scores(model: Any, tokens: Tensor, attention: str, right: Reference) -> float:
    table = il.score_heads(
        model,
        tokens=tokens,
        detectors=list(right.scores),
        attention=attention,
        shuffled_null=False,
        progress=False,
    )
    return max(_apart(table[name].values, right.scores[name]) for name in right.scores)


def _command_line(folder: Path, model: Any) -> float:
    """`induction-lens heads` beside `il.score_heads`; it refuses what `il.load` refuses.

    Raises:
        ValueError: It refused, with what it printed.
    """
    options = ["--detector", "induction", "--device", "cpu", "--json", "--quiet"]
    done = CliRunner().invoke(app, ["heads", str(folder), *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        raise ValueError(done.stderr.strip().removeprefix("error: "))
    if model is None:
        return float("inf")
    printed = [row["induction"] for row in json.loads(done.stdout)]
    scores = il.score_heads(model, detectors=["induction"], seed=0, progress=False)
    ours = scores["induction"].values.flatten().cpu()
    return _apart(torch.tensor(printed, dtype=torch.float64), ours)


METHODS: dict[str, Callable[[Tensor], il.ablation.AblationMethod]] = {
    "zero": lambda reference: il.ablation.Zero(),
    "mean": il.ablation.Mean,
    "mean per position": lambda reference: il.ablation.Mean(reference, per_position=True),
    "resample": il.ablation.Resample,
    "pattern-preserving": lambda reference: il.ablation.PatternPreserving(),
}
"""By name: the method, with the sequences that it takes outputs from."""


def _in_a_block(model: Any, tokens: Tensor, method: str, options: Any, right: Reference) -> float:
    """`il.knocked_out` around the caller's own forward pass."""
    with il.knocked_out(model, right.heads, **options):
        ours = _log_probs(model, tokens)
    if method == "resample":
        return _closest(ours, right.donors)
    return _apart(ours, right.removed[method])


def _as_a_set(model: Any, tokens: Tensor, method: str, options: Any, right: Reference) -> float:
    """`il.ablate`: the losses of every sequence at every position."""
    study = il.ablate(
        model,
        right.heads,
        tokens,
        **options,
        n_controls=0,
        early=plain.EARLY,
        late=plain.LATE,
        progress=False,
    )
    end = study.ablated_losses.shape[1]  # no further than the last position that was asked for
    if end <= plain.LATE:
        return float("inf")
    if method == "resample":
        by_donor = torch.stack([plain.losses(donor, tokens) for donor in right.donors])
        return _closest(study.ablated_losses[:, 1:], by_donor[..., 1:end])
    right_losses = plain.losses(right.removed[method], tokens)
    return _apart(study.ablated_losses[:, 1:], right_losses[:, 1:end])


def _each_head(model: Any, tokens: Tensor, method: str, options: Any, right: Reference) -> float:
    """`il.ablate_each_head`: the mean over sequences of each head's effect."""
    scores = il.ablate_each_head(
        model,
        tokens,
        **options,
        early=plain.EARLY,
        late=plain.LATE,
        estimator="paper",
        progress=False,
    )
    if method != "resample":
        return _apart(scores.values, right.effects[method].mean(dim=-1))
    effects = right.donor_effects.movedim(-1, 1)  # donor, sequence, layer, head
    return min(_apart(scores.values, chosen.mean(dim=0)) for chosen in _choices(effects))


def _closest(ours: Tensor, right: Tensor) -> float:
    """The difference from the best choice of donors; `[batch, …]` and `[donor, batch, …]`."""
    return min(_apart(ours, chosen) for chosen in _choices(right))


def _choices(by_donor: Tensor) -> list[Tensor]:
    """From `[donor, batch, …]`, `[batch, …]` for every way to give each row a donor.

    No donor serves two rows, and none the row of its own number.
    """
    n_donors, n_rows = by_donor.shape[:2]
    rows = torch.arange(n_rows)
    return [
        by_donor[torch.tensor(donors), rows]
        for donors in itertools.permutations(range(n_donors), n_rows)
        if all(donor != row for row, donor in enumerate(donors))
    ]


ROADS: dict[str, Callable[..., float]] = {
    "in a block": _in_a_block,
    "as a set": _as_a_set,
    "each head": _each_head,
}
