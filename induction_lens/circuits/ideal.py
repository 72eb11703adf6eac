"""Heads whose pattern is replaced by the perfect one: how much of what they do that explains.

If a previous-token head did nothing but look at the token before, writing that pattern in place of
its own would change nothing; if it did something else altogether, the model would lose as much as
without the head. What is explained lies between, on the loss of copied tokens and of all tokens.

Source: ideal-pattern substitution as Scherlis has it, who reports 99% for previous-token heads and
65% for induction heads; as we operationalise it here, values and everything else stay the head's
own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation import AblationMethod, Place
from induction_lens.ablation.methods import MAIN_METHOD, ChosenZ, Method, as_method
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.circuits.edges import seen
from induction_lens.circuits.material import Material, copied, targets_of
from induction_lens.estimates import Estimate, bootstrap_mean, columns, ratio_of_means
from induction_lens.estimators import Losses
from induction_lens.heads import Head, HeadLike, names_of, parse_heads
from induction_lens.models import Model, shape
from induction_lens.packing import Comparable

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["previous_token", "induction"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds of heads that there is a perfect pattern of."""


class _Ideal(AblationMethod, ABC):
    """A perfect pattern in place of the heads' own."""

    reads_attention: ClassVar[bool] = True

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """What the heads put out by the perfect pattern, with their own values."""
        attention = seen(place)
        pattern = self.pattern(attention.tokens).to(attention.pattern)[:, None]
        return attention.by(pattern.expand_as(attention.pattern)).to(z)

    @abstractmethod
    def pattern(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch query_pos key_pos"]:
        """The pattern; rows sum to 1."""


@dataclass(frozen=True)
class IdealPreviousToken(_Ideal):
    """All attention on the token before; at position 0 on itself."""

    name: ClassVar[str] = "ideal previous-token pattern"

    def pattern(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch query_pos key_pos"]:
        """The key `q - 1`."""
        n_rows, n_pos = tokens.shape
        before = (torch.arange(n_pos, device=tokens.device) - 1).clamp_min(0)
        return torch.eye(n_pos, dtype=torch.float32, device=tokens.device)[before].expand(
            n_rows, -1, -1
        )


@dataclass(frozen=True)
class IdealInduction(_Ideal):
    """As much attention on each induction target of a query; on BOS where there is none."""

    name: ClassVar[str] = "ideal induction pattern"

    def pattern(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch query_pos key_pos"]:
        """Uniform over keys whose previous token is the current one."""
        n_rows, n_pos = tokens.shape
        pattern = torch.zeros(n_rows, n_pos, n_pos, device=tokens.device, dtype=torch.float32)
        row, query, key = targets_of(tokens)
        pattern[row, query, key] = 1
        pattern[..., 0] = (pattern.sum(-1) == 0).float()
        return pattern / pattern.sum(-1, keepdim=True)


_IDEALS: dict[Kind, AblationMethod] = {
    "previous_token": IdealPreviousToken(),
    "induction": IdealInduction(),
}


@dataclass(frozen=True, eq=False)
class IdealPattern(Comparable):
    """What the perfect pattern explains of what heads do for the loss."""

    heads: tuple[Head, ...]
    """The heads."""
    kind: Kind
    """Which perfect pattern."""
    ablation: str
    """How the heads are removed for comparison."""
    clean: Float[Tensor, " batch"]
    """Loss of each sequence in nats, of the clean model."""
    ideal: Float[Tensor, " batch"]
    """The same with the perfect pattern."""
    ablated: Float[Tensor, " batch"]
    """The same without the heads."""
    documents: Int[Tensor, " batch"] | None = None
    """What intervals are over, where that is not the sequences."""

    @property
    def explained(self) -> Estimate:
        """`1 - (ideal - clean) / (ablated - clean)`, with Fieller's interval: 1 where the perfect
        pattern does all that the heads do, 0 where it is no better than removing them. Its ends are
        infinite where removing the heads is not told from doing nothing."""
        return ratio_of_means(
            self.ablated - self.ideal, self.ablated - self.clean, documents=self.documents
        )

    @property
    def needed(self) -> Estimate:
        """What removing the heads costs, in nats."""
        return bootstrap_mean(self.ablated - self.clean, documents=self.documents)

    def __repr__(self) -> str:
        """In a line: heads, pattern, and what it explains."""
        return (
            f"IdealPattern({names_of(self.heads)}, {self.kind}: explains {self.explained} of "
            f"{self.needed} nats by {self.ablation} ablation)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row: `heads`, `kind`, `ablation`, mean losses `clean`, `ideal` and `ablated` in nats,
        and `explained` with the ends of its interval."""
        import pandas as pd

        row: dict[str, object] = {
            "heads": names_of(self.heads, between=" "),
            "kind": self.kind,
            "ablation": self.ablation,
        }
        for name in ("clean", "ideal", "ablated"):
            row[name] = float(getattr(self, name).mean())
        return pd.DataFrame([row | columns("explained", self.explained)])


def ideal_pattern(
    model: Model,
    heads: Iterable[HeadLike] | HeadLike,
    *,
    kind: Kind | str = "induction",
    ablation: AblationMethod | Method | str = MAIN_METHOD,
    on_text: bool = False,
    material: Material | None = None,
) -> IdealPattern:
    """What share of a set of heads' effect on the loss the perfect pattern explains.

    Args:
        model: A hooked model.
        heads: Heads that are of this kind.
        kind: `previous_token`, or `induction`: uniform over the tokens after earlier copies of the
            current one, or BOS where there is none.
        ablation: How the heads are removed for comparison.
        on_text: Take the loss of all tokens of the text, instead of that of copied random tokens.
        material: What to measure on; None draws `Material.of(model)`.

    Raises:
        ValueError: For an unknown kind or head, or where there is no text.
        InterventionError: If the pattern cannot be written.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=8, n_texts=0)
        >>> found = il.circuits.ideal_pattern(
        ...     model, "0.1", kind="previous_token", material=material
        ... )
        >>> f"{found.explained.value:.2f} of {found.needed.value:.1f} nats"
        '1.09 of 6.1 nats'
    """
    checks.model(model)
    chosen = checks.one_of("kind", kind, KINDS)
    on_text = checks.flag("on_text", on_text)
    sizes = shape(model)
    parsed = tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))
    removed = as_method(ablation)
    material = Material.of(model) if material is None else material
    checks.instance("material", material, Material, "make one with Material.of(model)")
    tokens, _, _ = _read(material, on_text)
    changes = ideal_changes(parsed, chosen, removed)
    clean, changed = ablation_losses(model, [Job(*change) for change in changes], tokens)
    return explained_by(parsed, chosen, removed, (clean, changed), material, on_text=on_text)


def ideal_changes(
    heads: tuple[Head, ...], kind: Kind, removed: AblationMethod
) -> list[tuple[tuple[Head, ...], AblationMethod]]:
    """What `explained_by` compares: the perfect pattern, and the heads removed."""
    return [(heads, _IDEALS[kind]), (heads, removed)]


def explained_by(
    heads: tuple[Head, ...],
    kind: Kind,
    removed: AblationMethod,
    losses: tuple[Losses, Losses],
    material: Material,
    *,
    on_text: bool,
) -> IdealPattern:
    """What a perfect pattern explains, from the losses clean and with both of `ideal_changes`."""
    _, units, read = _read(material, on_text)
    clean, changed = losses
    means = [one.where(read, 0.0).sum(1) / read.sum(1) for one in (clean.long, *changed.long)]
    return IdealPattern(heads, kind, removed.label, *means, documents=units)


def _read(material: Material, on_text: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Sequences, what intervals are over, and where losses are read.

    Raises:
        ValueError: Where text is asked for, and there is none.
    """
    if not on_text:
        return material.tokens, None, copied(material.tokens).cpu()
    if material.text is None:
        raise ValueError("expected text to measure on, got none; pass a Material with text")
    tokens = material.text.sequences.one_length("ideal patterns")
    read = torch.ones(tokens.shape, dtype=torch.bool, device="cpu")
    read[:, 0] = False
    return tokens, material.text.sequences.units(tokens.shape[1] - 1), read
