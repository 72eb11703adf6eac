"""Mutants of a module, made by the operators of cosmic-ray."""

from __future__ import annotations

import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.words import what_it_does

Site = tuple[tuple[int, int], str, int]
"""Line and column, the operator's name, and which of its changes it is."""


@dataclass(frozen=True)
class Mutant:
    """A module with one fault in it."""

    operator: str
    """The operator's name, such as `NumberReplacer`."""
    line: int
    """Where in the module it is."""
    column: int
    """Where in the line."""
    code: str
    """The whole module with the fault."""
    change: str
    """The changed lines, with `-` and `+` before them."""


def mutants_of(source: str, *, seed: int) -> Iterator[Mutant]:
    """Mutants of a module that may do something else, in random order, each program once.

    They are spread: one of each place before a second of any. An operator such as `+` has eleven
    mutants, most of which no test can miss.
    """
    seen = {what_it_does(source)}
    for place, operator, occurrence in _spread(_sites(source), random.Random(seed)):
        code = mutate_code(source, get_operator(operator)(), occurrence)
        try:
            does = what_it_does(code or source)
        except SyntaxError:  # `*` before keyword-only arguments is no product
            continue
        if does not in seen:
            seen.add(does)
            yield Mutant(operator.split("/")[-1], *place, code, _change(source, code))


def _sites(source: str) -> list[Site]:
    """Wherever an operator has something to change."""
    nodes = list(ast_nodes(get_ast(source)))
    sites = []
    for name in sorted(operator_names()):
        if name.startswith("core/Variable"):  # they ask which variable
            continue
        operator = get_operator(name)()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        sites += [(start, name, occurrence) for occurrence, start in enumerate(starts)]
    return sites


def _spread(sites: list[Site], generator: random.Random) -> Iterator[Site]:
    places: dict[tuple[int, int], list[Site]] = defaultdict(list)
    for site in sites:
        places[site[0]].append(site)
    groups = [generator.sample(group, len(group)) for group in places.values()]
    generator.shuffle(groups)
    for in_turn in zip_longest(*groups):
        yield from (site for site in in_turn if site is not None)


def _change(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))
