"""What is lost when heads are changed: the copying and the ICL score without an edge, by a method.

Each cut has controls of its own kind: as much attention on random other keys, or the same input
without other earlier heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.ablation import AblationMethod
from induction_lens.ablation.controls import MAX_CONTROLS
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.circuits.drawing import share_bars
from induction_lens.circuits.edges import CompositionCut, Masked, RandomKeys, TargetKeys, Zeroed
from induction_lens.circuits.material import Material, copied
from induction_lens.circuits.measured import copying_share, icl_share
from induction_lens.circuits.shares import Quantity, Share
from induction_lens.estimates import Estimate, columns
from induction_lens.estimators import Losses
from induction_lens.heads import Head, HeadLike, names_of, parse_heads
from induction_lens.models import Model, shape
from induction_lens.packing import packable
from induction_lens.style import CONTROL, MARKED, Theme, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Change = tuple[tuple[Head, ...], AblationMethod]
"""Heads, and the method that changes what they put out."""


@packable
@dataclass(frozen=True)
class Changed:
    """Heads changed by a method, and what that takes away."""

    heads: tuple[Head, ...]
    """The heads."""
    method: str
    """How: the method's label."""
    is_control: bool
    """Whether this is for comparison."""
    of: dict[Quantity, Share]
    """What is lost: of `copying`, and of the `icl` score where text was measured."""

    def share(self, quantity: Quantity | str = "copying") -> Estimate:
        """Which part of a quantity is gone, with Fieller's interval.

        Raises:
            ValueError: If it was not measured.
        """
        measured: list[Quantity] = list(self.of)
        return self.of[checks.one_of("quantity", quantity, measured)].share


@packable
@dataclass(frozen=True)
class EdgeCuts:
    """Edges cut, each in several ways, with controls."""

    cuts: tuple[Changed, ...]
    """What was cut, the controls of each after it."""

    def __repr__(self) -> str:
        """A line for each."""
        lines = [f"  {names_of(one.heads)} {one.method}: {one.share()}" for one in self.cuts]
        return "\n".join([f"EdgeCuts({len(self.cuts)} cuts, share of copying)", *lines])

    def to_frame(self) -> pd.DataFrame:
        """One row per cut: `heads`, `method`, `is_control`, and for each quantity its `…_share` and
        what is lost, `…_lost`, with the ends of their intervals."""
        return changes_frame(self.cuts)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """What each cut takes of every quantity, with intervals; controls are grey.

        Raises:
            ValueError: If there is no such theme.
        """
        names = [
            f"{one.method}, control {index}" if one.is_control else one.method
            for index, one in enumerate(self.cuts)
        ]
        colors = [CONTROL if one.is_control else MARKED for one in self.cuts]
        return themed(share_bars(names, [one.of for one in self.cuts], colors), theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def changes_frame(changes: Sequence[Changed]) -> pd.DataFrame:
    """One row for each change: see `EdgeCuts.to_frame`."""
    import pandas as pd

    rows = []
    for one in changes:
        row: dict[str, object] = {
            "heads": names_of(one.heads, between=" "),
            "method": one.method,
            "is_control": one.is_control,
        }
        for quantity in ("copying", "icl"):
            of = one.of.get(quantity)
            row |= columns(f"{quantity}_share", None if of is None else of.share)
            row |= columns(f"{quantity}_lost", None if of is None else of.loss)
        rows.append(row)
    return pd.DataFrame(rows)


def cut_edge(
    model: Model,
    receivers: Iterable[HeadLike] | HeadLike,
    *,
    senders: Sequence[HeadLike] | None = None,
    methods: Sequence[AblationMethod] | None = None,
    n_controls: int = 3,
    material: Material | None = None,
) -> EdgeCuts:
    """What is lost when heads do not see induction targets, or not what earlier heads wrote.

    Args:
        model: A hooked model.
        receivers: The heads whose inputs are cut, all together.
        senders: Earlier heads whose output the receivers' keys are computed without; None cuts no
            composition.
        methods: How to cut; None: `Masked()`, `Zeroed()`, and `CompositionCut(senders)`.
        n_controls: For each of these, cuts of as much attention on random other keys, or of random
            other heads in the senders' layers.
        material: What to measure on; None draws `Material.of(model)`.

    Raises:
        ValueError: If a head is not in the model, or an option is out of range.
        InterventionError: If a cut does not act as it says.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=8, n_texts=0)
        >>> found = il.circuits.cut_edge(
        ...     model, "1.1", senders=["0.1"], n_controls=1, material=material
        ... )
        >>> [f"{one.method}: {one.share().value:.1f}" for one in found.cuts if not one.is_control]
        ['masked (induction): 1.0', 'zeroed (induction): 0.9', 'composition cut (K from 0.1): 1.0']
    """
    checks.model(model)
    n_controls = checks.whole_number(
        "n_controls", n_controls, least=0, most=MAX_CONTROLS, remedy="0 for none"
    )
    sizes = shape(model)
    bounds = {"n_layers": sizes.n_layers, "n_heads": sizes.n_heads}
    heads = tuple(parse_heads(receivers, **bounds))
    if methods is None:
        own = [] if senders is None else [CompositionCut(parse_heads(senders, **bounds))]
        methods = [Masked(), Zeroed(), *own]
    methods = checks.several("methods", methods)
    for method in methods:
        checks.instance("each of methods", method, AblationMethod, "for instance Masked()")
    material = Material.of(model) if material is None else material
    checks.instance("material", material, Material, "make one with Material.of(model)")
    cuts = edge_changes(heads, methods, n_heads=sizes.n_heads, n_controls=n_controls)
    found = change_shares(model, [change for _, change in cuts], material)
    return edge_cuts(cuts, found)


def edge_changes(
    heads: tuple[Head, ...],
    methods: Sequence[AblationMethod],
    *,
    n_heads: int,
    n_controls: int,
) -> list[tuple[bool, Change]]:
    """Each cut of some heads' edges, and its controls after it; whether it is one."""
    changes: list[tuple[bool, Change]] = []
    for method in methods:
        changes.append((False, (heads, method)))
        controls = _controls(method, heads, n_heads, n=n_controls)
        changes += [(True, (heads, control)) for control in controls]
    return changes


def edge_cuts(
    cuts: Sequence[tuple[bool, Change]], found: Sequence[dict[Quantity, Share]]
) -> EdgeCuts:
    """Cuts, with what each takes away."""
    return EdgeCuts(
        tuple(
            Changed(heads, method.label, is_control, of)
            for (is_control, (heads, method)), of in zip(cuts, found, strict=True)
        )
    )


@dataclass(frozen=True)
class ChangeLosses:
    """Losses of the clean model, and with each of some changes."""

    tokens: tuple[Losses, Losses]
    """On repeated tokens, everywhere."""
    text: tuple[Losses, Losses] | None
    """On text, where the ICL score is read; None: there is none."""


def change_losses(
    model: Model,
    changes: Sequence[Change],
    material: Material,
    *,
    everywhere: Sequence[Change] = (),
    rough: Sequence[bool] | None = None,
) -> ChangeLosses:
    """Losses with each change of some heads, all in the same passes.

    Args:
        model: A hooked model.
        changes: The changes.
        material: What to measure on.
        everywhere: More of them, which come after those, and whose losses of all tokens are wanted:
            on the text, if there is some, or else on the repeated tokens.
        rough: For each of `changes`, whether it is run in bfloat16 (see `ablation.precision`).

    Raises:
        InterventionError: If a change does not act as it says.
    """
    of_each = rough or [False] * len(changes)
    jobs = [Job(*change, rough=one) for change, one in zip(changes, of_each, strict=True)]
    more = [Job(*change) for change in everywhere]
    text = material.text
    if text is None:
        return ChangeLosses(ablation_losses(model, [*jobs, *more], material.tokens), None)
    on_tokens = ablation_losses(model, jobs, material.tokens)
    reads, short_reads = text.estimator.reads(text.at)
    read: dict[str, Any] = {"positions": tuple(reads), "short_positions": tuple(short_reads)}
    jobs = [dataclasses.replace(job, **read) for job in jobs]
    more = [dataclasses.replace(job, short_positions=()) for job in more]
    on_text = text.losses(model, [*jobs, *more], batch_size=None, progress=True)
    return ChangeLosses(on_tokens, on_text)


def change_shares(
    model: Model, changes: Sequence[Change], material: Material
) -> list[dict[Quantity, Share]]:
    """What is lost of copying and of the ICL score by each change of some heads.

    Raises:
        ValueError: If the model's numbers are not finite.
        InterventionError: If a change does not act as it says.
    """
    return shares_of(change_losses(model, changes, material), len(changes), material)


def shares_of(losses: ChangeLosses, n: int, material: Material) -> list[dict[Quantity, Share]]:
    """What is lost by the first `n` changes."""
    is_copied = copied(material.tokens).cpu()
    clean, changed = losses.tokens
    found: list[dict[Quantity, Share]] = [
        {"copying": copying_share(clean.long, of_one, is_copied)} for of_one in changed.long[:n]
    ]
    if material.text is not None and losses.text is not None:
        clean, changed = losses.text
        for index, one in enumerate(found):
            one["icl"] = icl_share(material.text, clean, changed[index])
    return found


def _controls(
    method: AblationMethod, heads: Sequence[Head], n_heads: int, *, n: int
) -> list[AblationMethod]:
    """The same cut of as much of something else."""
    if isinstance(method, (Masked, Zeroed)) and isinstance(method.keys, TargetKeys):
        return [
            dataclasses.replace(method, keys=RandomKeys(method.keys, seed)) for seed in range(n)
        ]
    if isinstance(method, CompositionCut):
        return list(_other_senders(method, heads, n_heads, n=n))
    return []


def _other_senders(
    method: CompositionCut, heads: Sequence[Head], n_heads: int, *, n: int
) -> list[CompositionCut]:
    """The same cut with as many random other heads in each of the senders' layers; fewer where a
    layer has no more."""
    import torch

    generator = torch.Generator(device="cpu").manual_seed(0)
    senders = method.leaves_out
    layers = sorted({head.layer for head in senders})
    sets: dict[tuple[Head, ...], None] = {}
    for _ in range(20 * n):  # draws may come twice
        chosen: list[Head] = []
        for layer in layers:
            spare = [Head(layer, index) for index in range(n_heads)]
            spare = [head for head in spare if head not in senders and head not in heads]
            wanted = sum(head.layer == layer for head in senders)
            order = torch.randperm(len(spare), generator=generator, device="cpu")[:wanted]
            chosen += [spare[index] for index in order.tolist()]
        if chosen and len(sets) < n:
            sets[tuple(sorted(chosen))] = None
    return [dataclasses.replace(method, senders=chosen) for chosen in sets]
