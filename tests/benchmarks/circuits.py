"""What a whole circuit costs, and the composition of all pairs of heads of large shapes."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch

import induction_lens as il
from induction_lens.circuits import Material, circuit
from tests.benchmarks.harness import Row, Target, interleave
from tests.benchmarks.shapes import build, tokens_for

Shape = Literal["toy-2l", "gpt2-small"]
SECONDS = {"toy-2l": 60.0, "gpt2-small": 600.0}


def whole(shape: Shape, *, quick: bool) -> list[Row]:
    """A circuit of named heads, against a clean pass over the same sequences."""
    model = il.load("toy-2l", device="cpu") if shape == "toy-2l" else build(shape, quick=quick)
    text = None if shape == "toy-2l" else tokens_for(model, 2 if quick else 12, 512)
    heads: dict[str, Any] = {}
    if shape == "gpt2-small":  # weights are random, so heads have to be named
        heads = {"previous": "0.1" if quick else "4.11", "induction": "1.1" if quick else "5.1"}
    few = {"n_sequences": 2, "n_texts": 2} if quick else {}
    announced: list[float] = []

    def find() -> None:
        material = Material.of(model, text=text, **few)
        circuit(model, material=material, announce=announced.append, **heads)

    def clean() -> None:
        material = Material.of(model, text=text, **few)
        assert material.text is not None
        for tokens in (material.tokens, material.text.sequences.tokens):
            il.per_token_loss(model, tokens, progress=False)

    arms = {"a clean pass": clean, "the whole circuit": find}
    baseline, ours = interleave(arms, repeats=1)
    target = Target("seconds", "at most", SECONDS[shape])
    note = f"announced {announced[0]:.0f} s"
    return [Row(f"circuit/{shape}", baseline, ours, "ours / baseline", (target,), note=note)]


def composed(*, quick: bool) -> list[Row]:
    """All pairs of heads of GPT-2 XL's shape, against GPT-2 small's."""
    sizes = {"GPT-2 small's shape": (12, 12, 768, 64), "GPT-2 XL's shape": (48, 25, 1600, 64)}
    if quick:
        sizes = dict.fromkeys(sizes, (3, 2, 32, 8))
    arms = {name: functools.partial(_composition, *shape) for name, shape in sizes.items()}
    baseline, ours = interleave(arms, repeats=1)
    return [Row("composition/gpt2-xl", baseline, ours, "ours / baseline")]


def _composition(n_layers: int, n_heads: int, d_model: int, d_head: int) -> None:
    torch.manual_seed(0)
    config = il.toys.ToyConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=d_model, d_head=d_head, d_vocab=31, n_ctx=16
    )
    il.circuits.composition(il.toys.build_toy(config, device="cpu"))


BENCHMARKS = {
    "circuit/toy-2l": functools.partial(whole, "toy-2l"),
    "circuit/gpt2-small": functools.partial(whole, "gpt2-small"),
    "composition/gpt2-xl": composed,
}
