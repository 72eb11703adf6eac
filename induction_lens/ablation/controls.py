"""Control sets: random heads to knock out beside the ones that are tested."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations, product

import torch

from induction_lens import checks
from induction_lens.ablation.outputs import by_layer
from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.models import Model, shape

MAX_CONTROLS = 10_000
"""More control sets than these are refused: each takes a pass over all tokens."""


def n_possible_controls(model: Model, heads: Iterable[HeadLike] | HeadLike) -> int:
    """How many sets there are with as many heads in each layer, disjoint from these heads.

    Raises:
        ValueError: For heads that the model does not have.
    """
    checks.model(model)
    sizes = shape(model)
    grouped = by_layer(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))
    return math.prod(math.comb(sizes.n_heads - len(h), len(h)) for h in grouped.values())


def control_sets(
    model: Model, heads: Iterable[HeadLike] | HeadLike, *, n: int = 20, seed: int = 0
) -> list[tuple[Head, ...]]:
    """Random sets with as many heads in each layer as `heads`, disjoint from it, no set twice.

    All there are, where there are fewer than `n`: none where a layer has too few other heads.

    Args:
        model: A hooked model.
        heads: The heads that the sets stand beside.
        n: Sets, at most.
        seed: Seed of the draw.

    Raises:
        ValueError: For heads that the model does not have, or an option out of range.

    Examples:
        >>> sets = il.ablation.control_sets(il.load("toy-2l"), ["0.2", "1.6"], n=3)
        >>> [" ".join(map(str, heads)) for heads in sets]
        ['0.5 1.7', '0.1 1.4', '0.5 1.1']
    """
    checks.model(model)
    n, seed = checked_n_controls(n, name="n"), checks.seed(seed)
    sizes = shape(model)
    parsed = parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
    spare = {
        layer: [Head(layer, h) for h in range(sizes.n_heads) if h not in taken]
        for layer, taken in by_layer(parsed).items()
    }
    counts = {layer: len(taken) for layer, taken in by_layer(parsed).items()}
    if n_possible_controls(model, parsed) <= n:
        per_layer = [list(combinations(spare[layer], counts[layer])) for layer in spare]
        return [tuple(sum(chosen, ())) for chosen in product(*per_layer)]
    generator = torch.Generator().manual_seed(seed)
    sets: dict[tuple[Head, ...], None] = {}  # a dictionary keeps the order of the draws
    while len(sets) < n:
        drawn: list[Head] = []
        for layer, heads_left in spare.items():
            shuffled = torch.randperm(len(heads_left), generator=generator, device="cpu")
            order = shuffled[: counts[layer]]
            drawn += [heads_left[i] for i in sorted(order.tolist())]
        sets[tuple(drawn)] = None
    return list(sets)


def checked_n_controls(n: object, *, name: str = "n_controls") -> int:
    """The number of control sets that a caller asks for.

    Raises:
        ValueError: If it is no whole number, below 0, or too many.
    """
    remedy = "for instance 20, or 0 for none"
    return checks.whole_number(name, n, least=0, most=MAX_CONTROLS, remedy=remedy)
