"""A circuit as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.circuits import Circuit
from induction_lens.circuits.cuts import Changed
from induction_lens.files import write_text
from induction_lens.heads import names_of
from induction_lens.reports import pages
from induction_lens.reports.numbers import percent
from induction_lens.reports.pages import Figure, Table, page_folder, write_page

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 8  # edges, on a page about more than the circuit


def save_circuit(found: Circuit, folder: str | Path) -> Path:
    """Write a circuit as a page, `index.html`, with its tables beside it as CSV.

    Args:
        found: The circuit.
        folder: Where to; it is made if it is not there.

    Returns:
        The page.

    Raises:
        ValueError: If the folder cannot be written to.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=4, n_texts=0)
        >>> found = il.circuits.circuit(model, n_random=1, material=material)
        >>> il.reports.save_circuit(found, "circuit").name
        'index.html'
    """
    checks.instance("found", found, Circuit, "make one with circuits.circuit(model)")
    out = page_folder(folder)
    write_text(out / "circuit.svg", found.svg())
    return write_page(out, circuit_page(found), circuit_tables(found))


def circuit_tables(found: Circuit) -> dict[str, pd.DataFrame]:
    """The tables of a circuit, by the names of their files."""
    return {"edges": found.to_frame(), "cuts": found.cuts.to_frame(), "sets": found.sets_frame()}


def records(found: Circuit) -> dict[str, Any]:
    """A circuit's tables as lists of rows."""
    rows = {name: frame.to_dict("records") for name, frame in circuit_tables(found).items()}
    return {"headline": headline(found), **rows}


def section(found: Circuit) -> dict[str, Any]:
    """What a page about a model shows of its circuit: a drawing, sentences, a short table."""
    named = [index for index, one in enumerate(found.paths.edges) if not one.is_control]
    random = [index for index, one in enumerate(found.paths.edges) if one.is_control]
    strongest = sorted(random, key=lambda i: -found.paths.edges[i].share().value)[:1]
    table = edges_table(found)
    shown = sorted(named, key=lambda i: -found.paths.edges[i].share().value)[:_SHOWN]
    rows = tuple(table.rows[index] for index in (*shown, *strongest))
    return {
        "headline": headline(found),
        "summary": summary(found),
        "svg": found.svg(),
        "edges": Table(table.columns, rows),
        "notes": found.notes,
    }


def circuit_page(found: Circuit) -> str:
    """The page, as one self-contained HTML document."""
    figure = found.paths.plot()
    return pages.render(
        "circuit.html",
        model=found.model,
        headline=headline(found),
        summary=summary(found),
        svg=found.svg(),
        edges_figure=Figure.of("edges", figure, "Share that goes through each edge"),
        edges=edges_table(found),
        cuts=_changes([("", one) for one in found.cuts.cuts]),
        ideal=_ideal(found),
        sets=_sets(found),
        notes=found.notes,
    )


def headline(found: Circuit) -> str:
    """What the circuit is, in one line."""
    return (
        f"{names_of(found.parts.previous)} → {names_of(found.parts.induction)}: the induction "
        f"circuit of {found.model}"
    )


def summary(found: Circuit) -> list[str]:
    """What was measured, in a few sentences that claim no more than the intervals allow."""
    keys = [one for one in found.paths.edges if not one.is_control and one.edge.input == "k"]
    strongest = max(keys, key=lambda one: one.share().value)
    others = [one for one in found.paths.edges if one.is_control or one.edge.input != "k"]
    highest = max(others, key=lambda one: one.share().value)
    said = [
        f"Through the keys, {strongest.edge}, goes {percent(strongest.share())} of the receiver's "
        f"prefix matching. Of query and value edges and random senders, {highest.edge} carries "
        f"most: {percent(highest.share())}."
    ]
    for quantity, name in (("copying", "copying"), ("icl", "the ICL score")):
        if quantity in found.without.of:
            said.append(
                f"Without its heads {percent(found.without.share(quantity))} of {name} is lost; "
                f"without all others, {percent(found.alone.share(quantity))}."
            )
    return said


def _cells(of: dict, quantities: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(percent(of[name].share) if name in of else "–" for name in quantities)


def edges_table(found: Circuit) -> Table:
    """Every edge, and what goes through it."""
    columns = ("edge", "", "prefix matching", "copying", "ICL score")
    rows = [
        (
            str(one.edge),
            "random" if one.is_control else "",
            *_cells(dict(one.of), ("prefix", "copying", "icl")),
        )
        for one in found.paths.edges
    ]
    return Table(columns, tuple(rows))


def _changes(changes: list[tuple[str, Changed]]) -> Table:
    rows = [
        (
            f"{what} {names_of(one.heads)}".strip(),
            one.method,
            "control" if one.is_control else "",
            *_cells(dict(one.of), ("copying", "icl")),
        )
        for what, one in changes
    ]
    return Table(("heads", "method", "", "copying lost", "ICL score lost"), tuple(rows))


def _sets(found: Circuit) -> Table:
    changes = [("without", one) for one in (found.without, *found.random_without)]
    changes += [("without", one) for one in (found.alone, *found.random_alone)]
    return _changes(changes)


def _ideal(found: Circuit) -> Table:
    rows = [
        (names_of(one.heads), one.kind.replace("_", "-"), percent(one.explained), str(one.needed))
        for one in found.ideal
    ]
    return Table(("heads", "pattern", "explained", "loss without, nats"), tuple(rows))
