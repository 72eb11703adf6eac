"""How the cost of detection and of a sweep grows with the context, the heads and the sequences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import induction_lens as il
from tests.benchmarks.detection import score
from tests.benchmarks.harness import Row, exponent, interleave
from tests.benchmarks.shapes import tokens_for

Work = Literal["detection", "sweep"]
SIZES = {
    "context": (128, 256, 512, 1024, 2048),
    "heads": (2, 4, 8, 16),
    "sequences": (2, 4, 8, 16, 32),
}


def growth(work: Work, along: str, *, quick: bool) -> list[Row]:
    """The time at every size over the time at the smallest, and the fitted exponent."""
    sizes = SIZES[along][:3] if quick else SIZES[along]
    arms = {f"{work} with {along} = {size}": _arm(work, along, size, quick) for size in sizes}
    runs = interleave(arms, repeats=1 if quick else 3)
    by_time = exponent(sizes, [run.median for run in runs])
    by_memory = exponent(sizes, [run.peak_bytes or 1 for run in runs])
    rows = [
        Row(
            f"growth/{work}/{along}/{size}",
            runs[0],
            replace(run, what=f"{work} with more {along}"),
            "ours / baseline",
        )
        for size, run in zip(sizes[1:], runs[1:], strict=True)
    ]
    note = f"time ~ {along}^{by_time:.2f}, extra memory ~ {along}^{by_memory:.2f}"
    return [*rows[:-1], replace(rows[-1], note=note)]


def _arm(work: Work, along: str, size: int, quick: bool) -> Callable[[], Any]:
    shape = {"context": 128 if quick else 512, "heads": 4, "sequences": 2 if quick else 8}
    shape[along] = size
    context = shape["context"]
    config = il.toys.ToyConfig(d_head=32, n_heads=shape["heads"], n_ctx=context)
    model = il.toys.build_toy(config, device="cpu")
    tokens = tokens_for(model, shape["sequences"], context)
    if work == "detection":
        return functools.partial(score, model, tokens)
    return functools.partial(
        il.ablate_each_head, model, tokens, early=context // 8, late=context - 4, progress=False
    )


BENCHMARKS = {
    f"growth/{work}/{along}": functools.partial(growth, work, along)
    for work in ("detection", "sweep")
    for along in SIZES
}
