"""A comparison of models as one HTML page."""

from __future__ import annotations

import math
from pathlib import Path

from induction_lens import checks
from induction_lens.estimates import Estimate
from induction_lens.files import tidy
from induction_lens.reports import pages
from induction_lens.reports.numbers import UNKNOWN, number, percent, shown
from induction_lens.reports.pages import Figure, Table, page_folder, write_page
from induction_lens.results import write
from induction_lens.suites.comparison import QUANTITIES, Compared, Comparison

_LOWEST = {
    "loss": "predicts the text best: its loss is below that of every other model",
    "icl": "gains most from context: its ICL score is below that of every other model",
}


def save_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write a comparison as a page with its data beside it.

    The files are `index.html`, `models.csv` and `differences.csv`, and in the folder `result` what
    `suites.Comparison.load` reads.

    Args:
        comparison: What `compare` found.
        folder: Where to write.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: This is no comparison, or nothing can be written there.

    Examples:
        >>> found = il.compare(["toy-1l", "toy-2l-narrow"], n_sequences=16, n_controls=2)
        >>> il.reports.save_comparison(found, "comparison").name
        'index.html'
    """
    remedy = "make one with induction_lens.compare"
    checks.instance("comparison", comparison, Comparison, remedy)
    folder = page_folder(folder)
    tidy(folder)
    write(comparison, folder / "result")
    tables = {"models": comparison.to_frame(), "differences": comparison.differences_frame()}
    return write_page(folder, render(comparison), tables)


def render(comparison: Comparison) -> str:
    """The page, as one self-contained HTML document."""
    label = "Loss, ICL score and induction scores of every model"
    return pages.render(
        "comparison.html",
        headline=headline(comparison),
        summary=summary(comparison),
        figure=Figure.of("models", comparison.plot(), label),
        models=models_table(comparison),
        differences=differences_table(comparison),
        sources=sources_table(comparison),
        threshold=f"{comparison.threshold:g}",
    )


def headline(comparison: Comparison) -> str:
    """One line: which models."""
    names = [one.name for one in comparison.models]
    if len(names) <= 4:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{len(names)} models"


def summary(comparison: Comparison) -> list[str]:
    """Which model is told from all others, and how models were compared."""
    said = []
    for quantity, words in _LOWEST.items():
        told = comparison.differences(quantity)
        best = comparison.lowest(quantity)
        if best is not None:
            said.append(f"{best} {words}, in intervals that hold for all pairs at once.")
        elif told:
            said.append(
                f"No model's {QUANTITIES[quantity]} is told from that of every other model."
            )
    said += pairing(comparison)
    none = [one.name for one in comparison.models if one.induction is not None and not one.found]
    if none:
        said.append(
            f"No head scores above {comparison.threshold:g} in {', '.join(none)}; its strongest "
            "head was knocked out instead."
            if any(one.study for one in comparison.models if one.name in none)
            else f"No head scores above {comparison.threshold:g} in {', '.join(none)}."
        )
    return said


def pairing(comparison: Comparison) -> list[str]:
    """How differences were made, in sentences."""
    told = comparison.differences()
    unpaired = sorted({(one.first, one.second) for one in told if not one.paired})
    said = []
    if any(one.paired for one in told):
        said.append("Models that read the same tokens are compared sequence by sequence.")
    if unpaired:
        named = "; ".join(f"{a} and {b}" for a, b in unpaired[:4])
        more = len(unpaired) - 4
        named += f"; and {more} more pairs" if more > 0 else ""
        said.append(
            f"Not measured on the same tokens, and compared as independent: {named}. Nats for each "
            "token of different tokenizers are different units."
        )
    studied = [one for one in comparison.models if one.study is not None]
    n_pairs = len(studied) * (len(studied) - 1) // 2
    if n_pairs > len(comparison.differences("effect")):
        said.append(
            "Left out are differences of scores at other positions, by another estimator, or "
            "without heads that were knocked out by another method."
        )
    return said


def models_table(comparison: Comparison) -> Table:
    """One row a model."""
    columns = (
        *("model", "loss", "ICL score", "heads above", "strongest", "knocked out"),
        *("change without them", "removed", "p among random sets"),
    )
    return Table(columns, tuple(map(_row, comparison.models)))


def _row(one: Compared) -> tuple[str, ...]:
    study, induction = one.study, one.induction
    strongest = UNKNOWN
    if induction is not None:
        head, score = induction.top(1)[0]
        strongest = f"{head} ({number(score, signed=False)})"
    p_value = math.nan if study is None or study.p_value is None else study.p_value
    return (
        one.name,
        _nats(one.estimate("loss"), signed=False),
        _nats(one.estimate("icl")),
        UNKNOWN if induction is None else f"{len(one.found)} of {induction.values.numel()}",
        strongest,
        UNKNOWN if study is None else " ".join(map(str, study.heads)),
        _nats(one.estimate("effect")),
        UNKNOWN if study is None else percent(study.share),
        number(p_value, signed=False),
    )


def differences_table(comparison: Comparison) -> Table | None:
    """One row for every two models and quantity; bold where the interval excludes zero."""
    told = comparison.differences()
    rows = [
        (
            f"{one.first} − {one.second}",
            QUANTITIES[one.quantity],
            shown(one.difference),
            "by sequence" if one.paired else "independent",
        )
        for one in told
    ]
    strong = tuple(n for n, one in enumerate(told) if one.difference.excludes_zero())
    columns = ("models", "quantity", "difference, nats", "compared")
    return Table(columns, tuple(rows), strong) if rows else None


def sources_table(comparison: Comparison) -> Table:
    """Where each model's numbers come from."""
    rows = []
    for one in comparison.models:
        of = one.provenance
        known = ["", "", ""]
        if of is not None:
            shas = [UNKNOWN if sha is None else f"{sha[:16]}…" for sha in (of.weights, of.text)]
            known = [*shas, ", ".join(f"{name} {v}" for name, v in of.versions.items())]
        whole = one.name if of is None else of.model
        rows.append((one.name, whole, one.given, *known))
    columns = ("model", "loaded as", "read from", "weights", "tokens", "versions")
    return Table(columns, tuple(rows))


def _nats(estimate: Estimate | None, *, signed: bool = True) -> str:
    return UNKNOWN if estimate is None else shown(estimate, signed=signed)
