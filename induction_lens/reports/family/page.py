"""A family of models as one HTML page: figures against size, tables, and what changes with size."""

from __future__ import annotations

import math
from pathlib import Path

from induction_lens import checks, plots
from induction_lens.estimates import Estimate, short_number
from induction_lens.files import tidy
from induction_lens.reports import pages
from induction_lens.reports.pages import Figure, Table, page_folder, write_page
from induction_lens.suites.family import QUANTITIES, Family
from induction_lens.suites.trend import FEWEST


def save_family(family: Family, folder: str | Path) -> Path:
    """Write a family as a page with its data beside it; each file appears whole or not at all.

    The files are `index.html`, `models.csv` and `trends.csv`.

    Args:
        family: What `suites.family` found.
        folder: Where to write.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: This is no family, or nothing can be written there.

    Examples:
        >>> found = il.suites.family(["toy-1l", "toy-2l"], n_sequences=8, n_controls=2)
        >>> il.reports.save_family(found, "family").name
        'index.html'
    """
    checks.instance("family", family, Family, "make one with induction_lens.suites.family")
    folder = page_folder(folder)
    tidy(folder)
    tables = {"models": family.to_frame(), "trends": family.trends_frame()}
    return write_page(folder, render(family), tables)


def render(family: Family) -> str:
    """The page, as one self-contained HTML document."""
    known = family.to_frame()
    figures = [
        (
            words,
            Figure.of(f"size-{name}", plots.against_size(family, name), f"{words} against size"),
        )
        for name, (words, _) in QUANTITIES.items()
        if known[name].notna().any()
    ]
    return pages.render(
        "family.html",
        headline=headline(family),
        summary=summary(family),
        figures=figures,
        tables={"models": _models(family), "trends": _trends(family)},
        threshold=f"{family.threshold:g}",
    )


def headline(family: Family) -> str:
    """One line: the models, and their sizes."""
    sizes = [short_number(float(member.parameters)) for member in family.members]
    if len(sizes) == 1:
        return f"{family.members[0].name}, {sizes[0]} parameters"
    return f"{len(sizes)} models of {sizes[0]} to {sizes[-1]} parameters"


def summary(family: Family) -> list[str]:
    """What changes with size, as far as the intervals allow."""
    if len(family.members) < FEWEST:
        return ["With fewer than three models nothing can be said about size."]
    known = [one for one in family.trends() if (one.slope.n or 0) >= FEWEST]
    told = {QUANTITIES[one.quantity][0]: one for one in known}
    changing = [f"{name} ({one.slope})" for name, one in told.items() if not one.constant]
    constant = [f"{name} ({one.slope})" for name, one in told.items() if one.constant]
    lines = []
    if changing:
        lines.append(
            "With ten times the parameters these change, each by a test of its own: "
            f"{'; '.join(changing)}."
        )
    if constant:
        lines.append(
            f"No change is shown for these, which is no proof that there is none: "
            f"{'; '.join(constant)}."
        )
    return lines


def _models(family: Family) -> Table:
    columns = (
        *("model", "parameters", "loss", "ICL score", "ICL score, paper", "heads above"),
        *("depth", "copying ~ prefix", "removed", "by random heads", "midpoint"),
    )
    rows = [
        (
            member.name,
            short_number(float(member.parameters)),
            _estimate(member.loss),
            _estimate(member.icl),
            _estimate(member.icl_paper),
            f"{len(member.found)} ({100 * member.share_above:.1f}%)",
            _number(member.depth),
            _number(member.copying_correlation),
            _estimate(member.study.share),
            _number(member.control_removed),
            "–" if member.midpoint is None else str(member.midpoint),
        )
        for member in family.members
    ]
    return Table(columns, tuple(rows))


def _trends(family: Family) -> Table | None:
    trends = family.trends()
    rows = [
        (
            QUANTITIES[one.quantity][0],
            _estimate(one.slope),
            "–" if math.isnan(one.p_value) else f"{one.p_value:.2g}",
            str(one.slope.n),
        )
        for one in trends
    ]
    strong = tuple(number for number, one in enumerate(trends) if not one.constant)
    columns = ("quantity", "for ten times the parameters", "p", "models")
    return Table(columns, tuple(rows), strong) if rows else None


def _estimate(estimate: Estimate) -> str:
    bounded = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return str(estimate) if bounded else f"{estimate.value:.3f} (no bounded interval)"


def _number(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.2f}"
