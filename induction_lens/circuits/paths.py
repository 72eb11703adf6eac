"""Path patching: what goes from one head to one input of another, and to nothing else.

For induction the question is what the induction head's keys take from the previous-token head. In
the other run every token is kept and the one before it is changed; the sender's output of that run
reaches the keys of the receiver, and everything else is as in the clean run (`patching`). What is
then lost of the receiver's prefix matching, of the model's copying and of its ICL score goes
through that edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from induction_lens import checks
from induction_lens.ablation.controls import MAX_CONTROLS
from induction_lens.circuits.drawing import edge_bars
from induction_lens.circuits.material import Material
from induction_lens.circuits.measured import shares
from induction_lens.circuits.other_runs import OtherRun, PreviousTokenChanged
from induction_lens.circuits.patching import INPUTS, Edge, Input, Patches
from induction_lens.circuits.shares import QUANTITIES, Quantity, Share
from induction_lens.estimates import Estimate, columns
from induction_lens.heads import Head, HeadLike, names_of, parse_heads
from induction_lens.models import Model, shape
from induction_lens.packing import packable
from induction_lens.style import Theme, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HeadsLike = Iterable[HeadLike] | HeadLike


@packable
@dataclass(frozen=True)
class PatchedEdge:
    """One edge, and what goes through it."""

    edge: Edge
    """From which heads, to which input of which heads."""
    is_control: bool
    """Whether the sender is a random one, for comparison."""
    of: dict[Quantity, Share]
    """What is lost with the edge patched: of the receivers' `prefix` matching, of `copying`, which
    is how much better copied tokens are predicted than new ones, and of the `icl` score."""

    def share(self, quantity: Quantity | str = "prefix") -> Estimate:
        """Which part of a quantity goes through the edge, with Fieller's interval.

        Raises:
            ValueError: If it was not measured.
        """
        measured: list[Quantity] = list(self.of)
        return self.of[checks.one_of("quantity", quantity, measured)].share


@packable
@dataclass(frozen=True)
class PathPatching:
    """What goes through each edge between two sets of heads, and from random senders."""

    edges: tuple[PatchedEdge, ...]
    """Every pair of a sender and a receiver, by input; all together, where there are several; and
    random senders."""

    def __repr__(self) -> str:
        """A line for each of the edges that carry most."""
        lines = [f"  {one.edge}: {one.share()}" for one in self.top(5)]
        return "\n".join([f"PathPatching({len(self.edges)} edges, share of prefix)", *lines])

    def __getitem__(self, edge: str) -> PatchedEdge:
        """An edge by its name, such as `0.2 -> 1.6 (K)`.

        Raises:
            KeyError: If it was not patched.
        """
        for one in self.edges:
            if str(one.edge) == edge:
                return one
        listed = ", ".join(str(one.edge) for one in self.edges[:4])
        raise KeyError(f"no edge {edge!r} here; there are {listed} and others")

    def top(self, k: int = 10, *, by: Quantity | str = "prefix") -> list[PatchedEdge]:
        """The edges that carry most of a quantity, most first.

        Raises:
            ValueError: If `k` is below 1, or the quantity was not measured.
        """
        k = checks.whole_number("k", k, least=1)
        return sorted(self.edges, key=lambda one: one.share(by).value, reverse=True)[:k]

    def controls(self, input: Input) -> list[PatchedEdge]:
        """The edges from random senders to an input."""
        return [one for one in self.edges if one.is_control and one.edge.input == input]

    def to_frame(self) -> pd.DataFrame:
        """One row per edge: `senders`, `receivers`, `input`, `is_control`, and for each quantity
        its `…_share` and what is lost, `…_lost`, with the ends of their intervals."""
        import pandas as pd

        rows = []
        for one in self.edges:
            row: dict[str, object] = {
                "senders": names_of(one.edge.senders, between=" "),
                "receivers": names_of(one.edge.receivers, between=" "),
                "input": one.edge.input,
                "is_control": one.is_control,
            }
            for quantity in QUANTITIES:
                of = one.of.get(quantity)
                row |= columns(f"{quantity}_share", None if of is None else of.share)
                row |= columns(f"{quantity}_lost", None if of is None else of.loss)
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Each edge's share of every quantity, with intervals; random senders are grey.

        Raises:
            ValueError: If there is no such theme.
        """
        return themed(edge_bars(self.edges), theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def path_patch(
    model: Model,
    senders: HeadsLike,
    receivers: HeadsLike,
    *,
    inputs: Sequence[Input] | Input | str = "k",
    other: OtherRun | None = None,
    through_mlps: bool = False,
    n_controls: int = 5,
    material: Material | None = None,
) -> PathPatching:
    """What goes from each sender to one input of each receiver, and to nothing else.

    The sender's output of another run reaches that input; all other heads, and the receiver's other
    inputs, are as in the clean run. A receiver that shares keys and values gets its own copy.

    Args:
        model: A hooked model whose layers can be run one by one.
        senders: Heads such as `"0.1"`; pairs in which the sender is not the earlier are left out.
        receivers: Heads in later layers.
        inputs: `k`, `q` or `v`, or several of them.
        other: What senders put out instead; None: what they do where the token before each is
            another (`PreviousTokenChanged`).
        through_mlps: Whether the paths through MLPs between count too: these are then computed
            again. Without, it is the direct path alone.
        n_controls: Random senders out of the senders' layers, or all there are.
        material: What to measure on; None draws `Material.of(model)`.

    Raises:
        ValueError: If a head is not in the model, no receiver is later than a sender, an option is
            out of range, or the model's layers cannot be run one by one.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=8, n_texts=0)
        >>> found = il.circuits.path_patch(model, "0.1", "1.1", inputs="kqv", material=material)
        >>> [f"{one.edge}: {one.share().value:.2f}" for one in found.top(1)]
        ['0.1 -> 1.1 (K): 0.96']
        >>> max(one.share().value for one in found.controls("k")) < 0.01
        True
    """
    checks.model(model)
    n_controls = checks.whole_number(
        "n_controls", n_controls, least=0, most=MAX_CONTROLS, remedy="0 for none"
    )
    through_mlps = checks.flag("through_mlps", through_mlps)
    letters = list(inputs) if isinstance(inputs, str) else inputs  # "kq" is short for both
    chosen = checks.some_of("inputs", letters, INPUTS)
    other = PreviousTokenChanged() if other is None else other
    checks.instance("other", other, OtherRun, "for instance PreviousTokenChanged(), or None")
    material = Material.of(model) if material is None else material
    checks.instance("material", material, Material, "make one with Material.of(model)")
    sizes = shape(model)
    sent, received = (
        parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
        for heads in (senders, receivers)
    )
    edges = edges_between(sent, received, chosen)
    seed = getattr(other, "seed", 0)
    random = random_senders(model, sent, received, n=n_controls, seed=seed)
    controls = edges_between(random, received, chosen, together=False) if random else []
    patches = Patches(other, through_mlps)
    title = f"{len(edges) + len(controls)} edges"
    measured = shares(model, [*edges, *controls], material, patches, title=title)
    return PathPatching(
        tuple(
            PatchedEdge(edge, index >= len(edges), of)
            for index, (edge, of) in enumerate(zip([*edges, *controls], measured, strict=True))
        )
    )


def edges_between(
    senders: Sequence[Head],
    receivers: Sequence[Head],
    inputs: Sequence[Input],
    *,
    together: bool = True,
) -> list[Edge]:
    """Every edge from a sender to an input of a later receiver; and, for each input, all of them
    together, where there are several.

    Raises:
        ValueError: If no receiver is in a later layer than a sender.
    """
    pairs = [(s, r) for r in receivers for s in senders if s.layer < r.layer]
    if not pairs:
        raise ValueError(
            f"expected a receiver in a later layer than a sender, got {names_of(senders)} and "
            f"{names_of(receivers)}; name the sender's heads first"
        )
    edges = [Edge((s,), (r,), one) for one in inputs for s, r in pairs]
    if together and len(pairs) > 1:
        sent = tuple(sorted({s for s, _ in pairs}))
        received = tuple(sorted({r for _, r in pairs}))
        edges += [Edge(sent, received, one) for one in inputs]
    return edges


def random_senders(
    model: Model, senders: Sequence[Head], receivers: Sequence[Head], *, n: int, seed: int
) -> list[Head]:
    """Random heads out of the senders' layers that are neither senders nor receivers."""
    layers = sorted({head.layer for head in senders if head.layer < max(receivers).layer})
    taken = {*senders, *receivers}
    n_heads = shape(model).n_heads
    spare = [Head(layer, h) for layer in layers for h in range(n_heads)]
    spare = [head for head in spare if head not in taken]
    generator = torch.Generator(device="cpu").manual_seed(seed)
    order = torch.randperm(len(spare), generator=generator, device="cpu")[:n].tolist()
    return sorted(spare[index] for index in order)
