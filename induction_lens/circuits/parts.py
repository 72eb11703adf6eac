"""Which heads a circuit is made of, and how long it takes to measure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens.circuits.material import Material
from induction_lens.circuits.measured import by_layers
from induction_lens.circuits.other_runs import PreviousTokenChanged
from induction_lens.circuits.patching import INPUTS
from induction_lens.heads import Head, HeadLike, ScoreTable, names_of, parse_heads
from induction_lens.models import Model, device_of, run, shape
from induction_lens.packing import packable

HeadsLike = Iterable[HeadLike] | HeadLike
_CUTS = 6  # three, each with a control


@packable
@dataclass(frozen=True)
class Parts:
    """Which heads a circuit is made of."""

    previous: tuple[Head, ...]
    """Previous-token heads, each in a layer before that of an induction head."""
    induction: tuple[Head, ...]
    """Induction heads, each in a layer after that of a previous-token head."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """All of them."""
        return tuple(sorted({*self.previous, *self.induction}))


def parts_of(
    model: Model,
    scores: ScoreTable,
    previous: HeadsLike | None,
    induction: HeadsLike | None,
    *,
    threshold: float,
) -> Parts:
    """The heads of a circuit: those named, or those that score above the threshold.

    Raises:
        ValueError: If no previous-token head is before an induction head.
    """
    sizes = shape(model)
    bounds = {"n_layers": sizes.n_layers, "n_heads": sizes.n_heads}
    first = scores["previous_token"].above(threshold)
    second = scores["induction"].above(threshold)
    first = first if previous is None else parse_heads(previous, **bounds)
    second = second if induction is None else parse_heads(induction, **bounds)
    senders = tuple(sorted(s for s in first if any(s.layer < r.layer for r in second)))
    receivers = tuple(sorted(r for r in second if any(s.layer < r.layer for s in first)))
    if not senders:
        named = f"{names_of(first) or 'none'} and {names_of(second) or 'none'}"
        raise ValueError(
            "expected a previous-token head in a layer before that of an induction head, got "
            f"{named}; lower the threshold of {threshold:g}, or name the heads yourself"
        )
    return Parts(senders, receivers)


def estimated_seconds(model: Model, parts: Parts, material: Material, *, n_random: int) -> float:
    """About how long `circuit` takes, from the time of a clean pass over a few sequences.

    What is counted is layers: a patched edge and a cut run those from the receiver's on, the other
    run of path patching those up to the last sender's, a random circuit on its own all of them. The
    eigenvalues of QK matching are timed too.

    Raises:
        ValueError: If the model's layers cannot be run one by one.
    """
    n_layers = shape(model).n_layers

    def from_layer(heads: Iterable[Head]) -> float:
        return 1 - min(heads).layer / n_layers

    n_pairs = sum(s.layer < r.layer for s in parts.previous for r in parts.induction)
    n_edges = n_pairs + (n_pairs > 1) + n_random * len(parts.induction)
    first, second = from_layer(parts.previous), from_layer(parts.induction)
    other_run = PreviousTokenChanged().spacing * (max(parts.previous).layer + 1) / n_layers
    patched = 1 + other_run + len(INPUTS) * n_edges * second
    cut = _CUTS * second
    sets = (1 + n_random) * (first + 1)
    n_passes = patched + 2 + cut + sets  # a clean pass, and one for what heads put out on average
    tokens, text = material.tokens, material.text
    seconds = n_passes * _clean_seconds(model, tokens, list(range(1, tokens.shape[1])))
    if text is None:
        return seconds
    n_passes += 2 * first + 2 * second  # perfect patterns
    reads, short_reads = text.estimator.reads(text.at)
    long = text.sequences.one_length("path patching")
    seconds += n_passes * _clean_seconds(model, long, reads)
    if text.short is not None:
        seconds += n_passes * _clean_seconds(model, text.short.one_length("cuts"), short_reads)
    return seconds + _eigenvalue_seconds(model)


def _clean_seconds(model: Model, tokens: Int[Tensor, "batch pos"], read: list[int]) -> float:
    """How long a clean pass takes, from a few of the sequences; a first one warms up."""
    few = tokens[:4].to(device_of(model))
    with run(model, few, unembeds=True) as road:
        layers = by_layers(road)
        layers.losses(few, read)
        start = time.perf_counter()
        layers.losses(few, read).cpu()
        return (time.perf_counter() - start) * len(tokens) / len(few)


def _eigenvalue_seconds(model: Model) -> float:
    """How long the eigenvalues of the QK circuits of all pairs of heads take."""
    sizes = shape(model)
    n_pairs = sizes.n_heads**2 * sizes.n_layers * (sizes.n_layers - 1) / 2
    size = (20, sizes.d_head, sizes.d_head)
    generator = torch.Generator(device="cpu").manual_seed(0)
    some = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
    start = time.perf_counter()
    torch.linalg.eigvals(some)
    return (time.perf_counter() - start) * n_pairs / len(some)
