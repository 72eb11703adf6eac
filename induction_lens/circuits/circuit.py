"""The induction circuit of a model in one object: which heads, by which edges, and how far it goes.

1. Previous-token heads and, in later layers, induction heads: those that score above the threshold.
2. Each edge between them: what the weights say (K-composition, QK matching), and what goes through
   it on a run (path patching), beside its query and value edges and random senders.
3. Edges cut at test time, and heads with perfect patterns.
4. Sufficiency: all other heads ablated together; what is left of copying and of the ICL score.
   Necessity: the circuit's heads ablated together. Both beside random circuits of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from induction_lens import checks
from induction_lens.ablation import control_sets
from induction_lens.ablation.controls import MAX_CONTROLS
from induction_lens.ablation.methods import MAIN_METHOD, as_method
from induction_lens.ablation.precision import compares_in_bfloat16
from induction_lens.circuits.composition import KINDS, Composition, composition
from induction_lens.circuits.cuts import (
    Change,
    Changed,
    EdgeCuts,
    change_losses,
    changes_frame,
    edge_changes,
    edge_cuts,
    shares_of,
)
from induction_lens.circuits.drawing import circuit_svg
from induction_lens.circuits.edges import CompositionCut, Masked, Zeroed
from induction_lens.circuits.ideal import IdealPattern, Kind, explained_by, ideal_changes
from induction_lens.circuits.matching import QKMatching, qk_matching
from induction_lens.circuits.material import Material
from induction_lens.circuits.parts import HeadsLike, Parts, estimated_seconds, parts_of
from induction_lens.circuits.patching import INPUTS, Edge
from induction_lens.circuits.paths import PathPatching, path_patch
from induction_lens.detectors import score_heads
from induction_lens.heads import THRESHOLD, Head, ScoreTable, names_of
from induction_lens.models import Model, model_name, provenance_of, shape
from induction_lens.results import Provenance, Result, with_model
from induction_lens.style import Theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Circuit(Result):
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
    """Why something is missing, and what was rounded."""
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
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens it is of, where that is known."""

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
        """One row per edge between two heads: `model`, as `PathPatching.to_frame`, and from the
        weights `composition`, its `z_shuffled`, and `positivity` of the QK circuit for K edges."""
        frame = self.paths.to_frame()
        rows = [self._from_weights(one.edge) for one in self.paths.edges]
        for name in ("composition", "z_shuffled", "positivity"):
            frame[name] = [row.get(name, float("nan")) for row in rows]
        return with_model(frame, self.provenance)

    def sets_frame(self) -> pd.DataFrame:
        """One row for the circuit and each random one, without it and with it alone: `what`, and
        the columns of `EdgeCuts.to_frame`."""
        named = [("without", (self.without, *self.random_without))]
        named += [("alone", (self.alone, *self.random_alone))]
        changes = [one for _, several in named for one in several]
        frame = changes_frame(changes)
        frame.insert(0, "what", [what for what, several in named for _ in several])
        return with_model(frame, self.provenance)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Each edge's share of every quantity, with intervals; random senders are grey.

        Raises:
            ValueError: If there is no such theme.
        """
        return self.paths.plot(theme=theme)

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
    n_random = checks.whole_number(
        "n_random", n_random, least=0, most=MAX_CONTROLS, remedy="0 for none"
    )
    seed = checks.seed(seed)
    material = Material.of(model, seed=seed) if material is None else material
    checks.instance("material", material, Material, "make one with Material.of(model)")
    of = provenance_of(
        model, material.tokens, None if material.text is None else material.text.sequences
    )
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
    if compares_in_bfloat16(model):
        notes += (
            "Random circuits and control cuts were run in bfloat16, as changes from a clean run in "
            "bfloat16.",
        )
    cuts, ideal, sets = _changed(model, parts, material, n_random=n_random, seed=seed)
    without, alone = sets
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
        provenance=of,
    )


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


def _changed(
    model: Model, parts: Parts, material: Material, *, n_random: int, seed: int
) -> tuple[EdgeCuts, tuple[IdealPattern, ...], tuple[list[Changed], list[Changed]]]:
    """Edges cut, perfect patterns, and what is lost without the circuit and each random one, and
    with each of them alone: all in the same passes."""
    sizes, method = shape(model), as_method(MAIN_METHOD)
    cuts = edge_changes(
        parts.induction,
        [Masked(), Zeroed(), CompositionCut(parts.previous)],
        n_heads=sizes.n_heads,
        n_controls=1,
    )
    circuits = [parts.heads, *_random_circuits(model, parts, n=n_random, seed=seed)]
    everything = [Head(n, h) for n in range(sizes.n_layers) for h in range(sizes.n_heads)]
    others = [tuple(h for h in everything if h not in chosen) for chosen in circuits]
    sets: list[Change] = [(heads, method) for heads in (*circuits, *others)]
    kinds: list[tuple[tuple[Head, ...], Kind]] = [
        (parts.previous, "previous_token"),
        (parts.induction, "induction"),
    ]
    ideal = [change for one in kinds for change in ideal_changes(*one, method)]
    changes = [*(change for _, change in cuts), *sets]
    are_controls = [*(one for one, _ in cuts), *(i % len(circuits) > 0 for i in range(len(sets)))]
    rough = are_controls if compares_in_bfloat16(model) else None
    losses = change_losses(model, changes, material, everywhere=ideal, rough=rough)
    found = shares_of(losses, len(changes), material)
    on_text = losses.text is not None
    clean, changed = losses.tokens if losses.text is None else losses.text
    ideals = []
    for index, (heads, kind) in enumerate(kinds):
        start = len(changes) + 2 * index
        both = clean, changed[start : start + 2]
        ideals.append(explained_by(heads, kind, method, both, material, on_text=on_text))
    made = [
        Changed(heads, method.label, index % len(circuits) > 0, of)
        for index, ((heads, _), of) in enumerate(zip(sets, found[len(cuts) :], strict=True))
    ]
    return (
        edge_cuts(cuts, found[: len(cuts)]),
        tuple(ideals),
        (made[: len(circuits)], made[len(circuits) :]),
    )


def _random_circuits(model: Model, parts: Parts, *, n: int, seed: int) -> list[tuple[Head, ...]]:
    """Random sets of as many heads in each layer."""
    return [tuple(heads) for heads in control_sets(model, parts.heads, n=n, seed=seed)] if n else []
