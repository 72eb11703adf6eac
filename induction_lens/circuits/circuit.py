"""The induction circuit of a model in one object: which heads, by which edges, and how far it goes.

1. Previous-token heads and, in later layers, induction heads: those that score above the threshold.
2. Each edge between them: what the weights say (K-composition, QK matching), and what goes through
   it on a run (path patching), beside its query and value edges and random senders.
3. Edges cut at test time, and heads with perfect patterns.
4. Sufficiency: all other heads ablated together; what is left of copying and of the ICL score.
   Necessity: the circuit's heads ablated together. Both beside random circuits of the same shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation import control_sets
from induction_lens.ablation.methods import MAIN_METHOD, as_method
from induction_lens.circuits.composition import KINDS, Composition, composition
from induction_lens.circuits.cuts import (
    Change,
    Changed,
    EdgeCuts,
    change_shares,
    changes_frame,
    cut_edge,
)
from induction_lens.circuits.drawing import circuit_svg
from induction_lens.circuits.ideal import IdealPattern, ideal_pattern
from induction_lens.circuits.matching import QKMatching, qk_matching
from induction_lens.circuits.material import Material
from induction_lens.circuits.patching import INPUTS, Edge
from induction_lens.circuits.paths import PathPatching, path_patch
from induction_lens.detectors import score_heads
from induction_lens.heads import THRESHOLD, Head, HeadLike, ScoreTable, names_of, parse_heads
from induction_lens.metrics import per_token_loss
from induction_lens.models import Model, model_name, shape

if TYPE_CHECKING:
    import pandas as pd

HeadsLike = Iterable[HeadLike] | HeadLike
_SPACING = 8  # passes of the other run in path patching


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


@dataclass(frozen=True)
class Circuit:
    """The induction circuit of a model.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=8, n_texts=0)
        >>> found = il.circuits.circuit(model, n_random=2, material=material)
        >>> found.parts.previous, found.parts.induction
        ((Head(layer=0, head=1),), (Head(layer=1, head=1),))
        >>> round(found.paths["0.1 -> 1.1 (K)"].share().value, 1)
        1.0
    """

    model: str
    """The model's name."""
    parts: Parts
    """Which heads it is made of."""
    scores: ScoreTable
    """Previous-token and induction scores of all heads."""
    composition: Composition | None
    """Composition of all pairs of heads, from weights; None where a head does not read by products
    of weights."""
    matching: QKMatching | None
    """QK matching through earlier heads, from weights; None where that cannot be, or there is no
    text."""
    notes: tuple[str, ...]
    """Why something is missing."""
    paths: PathPatching
    """What goes through each edge, and from random senders."""
    cuts: EdgeCuts
    """What is lost when the edges are cut."""
    ideal: tuple[IdealPattern, ...]
    """What perfect patterns explain of what its heads do: first the previous-token heads'."""
    without: Changed
    """Necessity: what is lost without its heads."""
    alone: Changed
    """Sufficiency: what is lost without all other heads."""
    random_without: tuple[Changed, ...]
    """The same for random circuits of the same shape: what is lost without their heads."""
    random_alone: tuple[Changed, ...]
    """And what is lost without all heads but theirs."""

    def __repr__(self) -> str:
        """In a few lines: heads, the strongest edge, and how far the circuit goes."""
        strongest = self.paths.top(1)[0]
        lines = [
            f"Circuit({self.model}: {names_of(self.parts.previous)} -> "
            f"{names_of(self.parts.induction)})",
            f"  strongest edge {strongest.edge}: {strongest.share()} of prefix matching",
        ]
        for quantity in self.without.of:
            lines.append(
                f"  {quantity}: without it {self.without.share(quantity)} is lost, without all "
                f"others {self.alone.share(quantity)}"
            )
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row per edge between two heads: as `PathPatching.to_frame`, and from the weights
        `composition`, its `z_shuffled`, and `positivity` of the QK circuit for K edges."""
        frame = self.paths.to_frame()
        rows = [self._from_weights(one.edge) for one in self.paths.edges]
        for name in ("composition", "z_shuffled", "positivity"):
            frame[name] = [row.get(name, float("nan")) for row in rows]
        return frame

    def sets_frame(self) -> pd.DataFrame:
        """One row for the circuit and each random one, without it and with it alone: `what`, and
        the columns of `EdgeCuts.to_frame`."""
        named = [("without", (self.without, *self.random_without))]
        named += [("alone", (self.alone, *self.random_alone))]
        changes = [one for _, several in named for one in several]
        frame = changes_frame(changes)
        frame.insert(0, "what", [what for what, several in named for _ in several])
        return frame

    def svg(self) -> str:
        """A drawing: layers up, edges as wide as their share of prefix matching."""
        return circuit_svg(self)

    def _repr_html_(self) -> str:
        return self.svg()

    def _from_weights(self, edge: Edge) -> dict[str, float]:
        if len(edge.senders) > 1 or len(edge.receivers) > 1:
            return {}
        row: dict[str, float] = {}
        sender, receiver = min(edge.senders), min(edge.receivers)
        if self.composition is not None:
            pair = self.composition.of(sender, receiver, kind=KINDS[INPUTS.index(edge.input)])
            row |= {"composition": pair.score, "z_shuffled": pair.z_shuffled}
        if self.matching is not None and edge.input == "k":
            row["positivity"] = self.matching.of(sender, receiver).positivity
        return row


def circuit(
    model: Model,
    *,
    previous: HeadsLike | None = None,
    induction: HeadsLike | None = None,
    threshold: float = THRESHOLD,
    n_random: int = 5,
    material: Material | None = None,
    announce: Callable[[float], None] | None = None,
    seed: int = 0,
) -> Circuit:
    """Find a model's induction circuit, and measure its edges and how far it goes.

    Args:
        model: A hooked model whose layers can be run one by one.
        previous: Its previous-token heads; None: those that score above the threshold.
        induction: Its induction heads; None: the same.
        threshold: The score from which heads belong to it.
        n_random: Random circuits of the same shape, and random senders; fewer where there are no
            more.
        material: What to measure on; None draws `Material.of(model)`.
        announce: Told about how many seconds it will take, before it starts.
        seed: Seed of the draws.

    Raises:
        ValueError: If there is no previous-token head before an induction head, or an option is out
            of range.
        InterventionError: If a cut does not act as it says.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=4, n_texts=0)
        >>> found = il.circuits.circuit(model, n_random=1, material=material)
        >>> found.svg()[:4]
        '<svg'
    """
    checks.model(model)
    threshold = checks.real_number("threshold", threshold)
    n_random = checks.whole_number("n_random", n_random, least=0, remedy="0 for none")
    seed = checks.seed(seed)
    material = Material.of(model, seed=seed) if material is None else material
    checks.instance("material", material, Material, "make one with Material.of(model)")
    scores = score_heads(model, detectors=["previous_token", "induction"], seed=seed)
    parts = parts_of(model, scores, previous, induction, threshold=threshold)
    if announce is not None:
        announce(estimated_seconds(model, parts, material, n_random=n_random))
    found, notes = _from_weights(model, material)
    paths = path_patch(
        model,
        parts.previous,
        parts.induction,
        inputs=["k", "q", "v"],
        n_controls=n_random,
        material=material,
    )
    cuts = cut_edge(model, parts.induction, senders=parts.previous, n_controls=1, material=material)
    on_text = material.text is not None
    ideal = tuple(
        ideal_pattern(model, heads, kind=kind, on_text=on_text, material=material)
        for heads, kind in ((parts.previous, "previous_token"), (parts.induction, "induction"))
    )
    without, alone = _sets(model, parts, material, n_random=n_random, seed=seed)
    return Circuit(
        model=model_name(model),
        parts=parts,
        scores=scores,
        composition=found[0],
        matching=found[1],
        notes=notes,
        paths=paths,
        cuts=cuts,
        ideal=ideal,
        without=without[0],
        alone=alone[0],
        random_without=tuple(without[1:]),
        random_alone=tuple(alone[1:]),
    )


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
    """About how long `circuit` takes, from one clean pass over a few sequences.

    What is counted is whole passes: a patched edge runs the layers from its receiver's on, a cut
    or a random circuit all of them.
    """
    n_layers = shape(model).n_layers
    last_sender = max(parts.previous).layer
    first_receiver = min(parts.induction).layer
    n_pairs = len(parts.previous) * len(parts.induction) + 1
    n_edges = 3 * (n_pairs + n_random * len(parts.induction))
    tail = (n_layers - first_receiver) / n_layers
    patches = 2 + _SPACING * (last_sender + 1) / n_layers + n_edges * tail
    cuts = 3 * 2 + 2 * 2
    sets = 2 * (1 + n_random)
    seconds = per_sequence_seconds(model, material.tokens) * len(material.tokens)
    if material.text is not None:
        text = material.text.sequences
        seconds += per_sequence_seconds(model, text.tokens) * len(text)
    return seconds * (patches + 2 * cuts + sets)


def per_sequence_seconds(model: Model, tokens: Int[Tensor, "batch pos"]) -> float:
    """How long a clean pass over one sequence takes, from two of them; the first call warms up."""
    few = tokens[:2]
    per_token_loss(model, few, progress=False)
    start = time.perf_counter()
    per_token_loss(model, few, progress=False)
    return (time.perf_counter() - start) / len(few)


def _from_weights(
    model: Model, material: Material
) -> tuple[tuple[Composition | None, QKMatching | None], tuple[str, ...]]:
    """What weights say, where heads read by products of weights; and why not."""
    notes: list[str] = []
    composed = matched = None
    try:
        composed = composition(model)
        if material.text is not None:
            matched = qk_matching(model, material.text.sequences.tokens[:8])
    except ValueError as error:
        notes.append(f"not read from the weights: {error}")
    return (composed, matched), tuple(notes)


def _sets(
    model: Model, parts: Parts, material: Material, *, n_random: int, seed: int
) -> tuple[list[Changed], list[Changed]]:
    """What is lost without the circuit and each random one, and with each of them alone."""
    sizes = shape(model)
    everything = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    method = as_method(MAIN_METHOD)
    random = control_sets(model, parts.heads, n=n_random, seed=seed) if n_random else []
    circuits = [parts.heads, *random]
    others = [tuple(h for h in everything if h not in chosen) for chosen in circuits]
    changes: list[Change] = [(heads, method) for heads in (*circuits, *others)]
    found = change_shares(model, changes, material)
    made = [
        Changed(heads, method.label, index % len(circuits) > 0, of)
        for index, ((heads, _), of) in enumerate(zip(changes, found, strict=True))
    ]
    return made[: len(circuits)], made[len(circuits) :]
