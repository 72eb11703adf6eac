"""`python -m tests.architectures [--only NAME...] [--json FILE] [--write PAGE]`."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import track

from induction_lens.files import write_text
from tests.architectures import checks, foreign, plain, tables, tiny
from tests.architectures.cases import CASES, Case
from tests.architectures.checks import Cell
from tests.architectures.foreign import FOREIGN


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and write; 1 where anything is silently wrong or an error unclear."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = [name for name in (*CASES, *FOREIGN) if _asked_for(name, options.only)]
    if not names:
        print(f"expected part of one of {', '.join((*CASES, *FOREIGN))}", file=sys.stderr)
        return 2
    cells = compare([CASES[name] for name in names if name in CASES])
    others = [check_other(name) for name in names if name in FOREIGN]
    tables.print_table(cells, others, Console(width=options.width))
    if options.json is not None:
        rows = [dataclasses.asdict(cell) for cell in (*cells, *others)]
        write_text(options.json, json.dumps(rows, indent=1))
    if options.write is not None:
        page = options.write.read_text() if options.write.exists() else tables.PAGE_START
        write_text(options.write, tables.with_section(page, cells, others))
    return int(any(cell.outcome in ("WRONG", "BAD") for cell in (*cells, *others)))


def compare(cases: Iterable[Case]) -> list[Cell]:
    """Every reference first: TransformerLens changes functions of transformers when it loads."""
    cells = []
    tokens = tiny.sample_tokens(seed=0, n_sequences=3)
    donors = tiny.sample_tokens(seed=1, n_sequences=4)
    with tempfile.TemporaryDirectory() as root:
        right = {}
        for case in track(list(cases), "plain"):
            folder = Path(root) / case.name
            tiny.write_folder(case, folder)
            right[case.name] = plain.reference_numbers(tiny.load_plain(folder), tokens, donors)
        for name in track(list(right), "ours"):
            folder = Path(root) / name
            cells += checks.check(name, folder, tokens, donors, right.pop(name))
    # A folder's path is another in every run.
    return [dataclasses.replace(cell, message=cell.message.replace(root, "…")) for cell in cells]


def check_other(name: str) -> Cell:
    """Whether what is no plain causal transformer is refused."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / name
        foreign.write_folder(FOREIGN[name], folder)
        cell = checks.check_foreign(FOREIGN[name], folder, tiny.sample_tokens(0, 3))
    return dataclasses.replace(cell, message=cell.message.replace(root, "…"))


def _asked_for(name: str, parts: list[str] | None) -> bool:
    return parts is None or any(part.lower() in name.lower() for part in parts)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.architectures", description=__doc__)
    parser.add_argument("--only", metavar="NAME", nargs="+", help="those with this in their name")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every comparison")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="write the table in Markdown")
    parser.add_argument("--width", type=int, default=None, help="of the table, in characters")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
