"""The results as a table in the terminal and as a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from tests.architectures.checks import TOLERANCE, Cell

COLUMNS = {
    "logits": ("load", "log-probs", "loss", "log-probs after"),
    "scores": ("scores auto", "scores pattern"),
    "streaming": ("scores streaming",),
    "command line": ("command line",),
    **{
        method: tuple(f"{method} {way}" for way in ("in a block", "as a set", "each head"))
        for method in ("zero", "mean", "mean per position", "resample", "pattern-preserving")
    },
}
"""What the comparisons are shown under, the worst for all."""
WORST_FIRST = ("WRONG", "BAD", "refused", "exact")
COLOURS = {"WRONG": "bold red", "BAD": "magenta", "refused": "yellow", "exact": "green"}


def summary(cells: Sequence[Cell]) -> str:
    """Counts of comparisons."""
    count = {outcome: sum(cell.outcome == outcome for cell in cells) for outcome in WORST_FIRST}
    return (
        f"exact {count['exact']} of {len(cells)}, refused {count['refused']}, "
        f"wrong {count['WRONG']}, bad {count['BAD']}"
    )


def print_table(cells: Sequence[Cell], foreign: Sequence[Cell], console: Console) -> None:
    """Everything, and what is wrong or bad once more, in words."""
    table = Table("architecture", *COLUMNS)
    for case, of_case in _by_case(cells).items():
        worst = [_worst(of_case, whats) for whats in COLUMNS.values()]
        table.add_row(case, *(_coloured(cell) for cell in worst))
    console.print(table)
    for cell in foreign:
        console.print(f"{cell.case}: {_coloured(cell)} {_plain_text(cell.message)}")
    for line in _faults(cells):
        console.print(line)
    console.print(summary([*cells, *foreign]))


def _faults(cells: Iterable[Cell]) -> list[str]:
    """What is wrong or bad, an architecture and message a line."""
    faults: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.outcome in ("WRONG", "BAD"):
            of_message = faults.setdefault((cell.case, _plain_text(cell.message)), [])
            of_message.append(f"{cell.what} {_short(cell)}")
    return [f"{case}: {', '.join(whats)}. {message}" for (case, message), whats in faults.items()]


def with_section(page: str, cells: Sequence[Cell], foreign: Sequence[Cell]) -> str:
    """The page with the section of the installed TransformerLens anew, and all else as it was."""
    major = version("transformer-lens").split(".")[0]
    start = f"<!-- TransformerLens {major}: written by `python -m tests.architectures` -->"
    end = f"<!-- end of TransformerLens {major} -->"
    section = f"{start}\n\n{_section(cells, foreign)}\n{end}"
    if start in page:
        pattern = re.escape(start) + ".*?" + re.escape(end)
        return re.sub(pattern, lambda _: section, page, flags=re.DOTALL)
    return f"{page.rstrip()}\n\n{section}\n"


def _section(cells: Sequence[Cell], foreign: Sequence[Cell]) -> str:
    versions = f"TransformerLens {version('transformer-lens')}"
    lines = [
        f"## {versions}",
        "",
        f"With transformers {version('transformers')}: {summary([*cells, *foreign])}.",
        "",
        f"| architecture | {' | '.join(COLUMNS)} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for case, of_case in _by_case(cells).items():
        row = [_short(_worst(of_case, whats)) for whats in COLUMNS.values()]
        lines.append(f"| {case} | {' | '.join(row)} |")
    lines += ["", "Why the refused are refused:", ""]
    lines += [f"- {reason}" for reason in _reasons(cells)]
    lines += ["", "No plain causal transformers, and refused:", ""]
    lines += [f"- {cell.case}: {_short(cell)}. {_escaped(cell.message)}" for cell in foreign]
    return "\n".join(lines) + "\n"


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """Each message once, with the architectures and comparisons that it stands for."""
    by_message: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.outcome == "refused":
            of_message = by_message.setdefault(cell.message, {})
            of_message.setdefault(cell.case, []).append(cell.what)
    return [
        f"{'; '.join(f'**{case}** ({_columns(whats)})' for case, whats in cases.items())}: "
        f"{_escaped(message)}"
        for message, cases in by_message.items()
    ]


def _columns(whats: Iterable[str]) -> str:
    chosen = set(whats)
    return ", ".join(name for name, members in COLUMNS.items() if chosen.intersection(members))


def _by_case(cells: Iterable[Cell]) -> dict[str, dict[str, Cell]]:
    cases: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        cases.setdefault(cell.case, {})[cell.what] = cell
    return cases


def _worst(of_case: dict[str, Cell], whats: Iterable[str]) -> Cell | None:
    """The worst outcome, and among equals the largest difference; None where nothing was tried."""
    cells = [of_case[what] for what in whats if what in of_case]
    if not cells:
        return None
    return min(cells, key=lambda cell: (WORST_FIRST.index(cell.outcome), -(cell.difference or 0)))


def _short(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.outcome == "exact":
        return "exact" if not cell.difference else f"{cell.difference:.0e}"
    if cell.outcome == "WRONG" and cell.difference is not None:
        return f"WRONG {cell.difference:.2g}"
    return cell.outcome


def _coloured(cell: Cell | None) -> str:
    colour = "dim" if cell is None else COLOURS[cell.outcome]
    return f"[{colour}]{_short(cell)}[/{colour}]"


def _plain_text(message: str) -> str:
    """One line, with nothing that rich would take for markup."""
    return " ".join(message.split())[:300].replace("[", "\\[")


def _escaped(message: str) -> str:
    """Without the folder, which is another each time, and without what Markdown would take."""
    return " ".join(message.split()).replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


PAGE_START = f"""# Architectures

`python -m tests.architectures` makes a tiny random model of every decoder architecture that
transformers and TransformerLens share, with random biases and norm weights, and compares each kind
of number with plain Hugging Face code, which knows nothing of this package: three sequences of 129
tokens, mostly the whole context.

A number is the largest difference found (tolerance {TOLERANCE:.0e}, in nats or attention).
*Refused* means one line that says why, and no number. Nothing may be silently wrong.

- **logits**: log-probabilities and losses.
- **scores**: previous-token, induction and duplicate-token, by `attention="auto"` and `"pattern"`;
  **streaming** by `attention="streaming"`.
- **command line**: `induction-lens heads FOLDER`, beside `il.score_heads`; it refuses what
  `il.load` refuses.
- **zero**, **mean**, **mean per position**, **resample**, **pattern-preserving**: heads removed at
  the input of the attention's output projection, by `knocked_out`, `ablate` and
  `ablate_each_head`; the worst of the three is shown.
"""
