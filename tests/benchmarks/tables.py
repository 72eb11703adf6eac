"""Measured rows as tables, in the terminal and in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("", "baseline", "ours", "ratio", "memory, MB", "difference", "target")
_SIGNS = {"at least": "≥", "at most": "≤"}


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one table for each benchmark, rows with a missed target in red."""
    for title, members in groups(rows):
        table = Table(*COLUMNS, title=f"[bold]{title}[/bold]\n{ways(members)}", title_style="")
        for row in members:
            missed = any(not target["holds"] for target in row["targets"])
            table.add_row(*cells(row), style="red" if missed else None)
        console.print(table)
        for note in notes(members):
            console.print(note)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table in Markdown for each benchmark."""
    parts = []
    for title, members in groups(rows):
        lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row) for row in members)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts += [f"**{title}**: {ways(members)}", table]
        parts += ["\n".join(f"- {note}" for note in notes(members))] if notes(members) else []
    return "\n\n".join(parts)


def groups(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The rows of each benchmark: those whose names agree up to the last slash."""
    by_benchmark: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_benchmark.setdefault(row["name"].rpartition("/")[0] or row["name"], []).append(row)
    return list(by_benchmark.items())


def ways(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the baseline is, and what ours is where it is the same in all rows."""
    ratio = rows[0]["direction"]
    baselines, ours = ({row[arm]["what"]: None for row in rows} for arm in ("baseline", "ours"))
    named = f"baseline {', '.join(baselines)}"
    return f"{named}; ours {', '.join(ours)}; ratio is {ratio}"


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What else was measured."""
    return [f"{_last(row)}: {row['note']}" for row in rows if row["note"]]


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row's cells, in the order of `COLUMNS`."""
    difference = row["difference"]
    return [
        _last(row),
        _seconds(row["baseline"]["seconds"]),
        _seconds(row["ours"]["seconds"]),
        f"{row['ratio']:.3g}",
        _memory(row),
        "" if difference is None else f"{difference:.1g}",
        "; ".join(_target(target) for target in row["targets"]),
    ]


def _last(row: Mapping[str, Any]) -> str:
    return row["name"].rpartition("/")[2]


def _seconds(rounds: Sequence[float]) -> str:
    middle = statistics.median(rounds)
    return f"{middle:.3g} s" if middle >= 0.1 else f"{1000 * middle:.3g} ms"


def _memory(row: Mapping[str, Any]) -> str:
    peaks = [row[arm]["peak_bytes"] for arm in ("baseline", "ours")]
    if None in peaks:
        return ""
    megabytes = " → ".join(f"{peak / 1e6:,.0f}" for peak in peaks)
    return megabytes if row["memory"] is None else f"{megabytes} ({row['memory']:.2f}×)"


def _target(target: Mapping[str, Any]) -> str:
    holds = "holds" if target["holds"] else "missed"
    return f"{target['of']} {_SIGNS[target['bound']]} {target['value']:.3g}: {holds}"
