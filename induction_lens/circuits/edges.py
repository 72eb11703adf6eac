"""Edges cut at test time: ablation methods that take away one thing that a head reads.

Three things go under the name of attention knock-out; each has a name of its own here:

- `Masked`: the head does not see some keys; its softmax is over the others, so that these get what
  the cut ones had (Geva et al. 2023; Crosbie and Shutova 2024).
- `Zeroed`: the attention on some keys is taken away after the softmax, so that the head puts out
  less.
- `CompositionCut`: the head's keys (or queries, or values) are computed from a residual stream to
  which some earlier heads have written nothing; everybody else reads it as ever. It is the
  test-time twin of `Clamp(k_composition=True)`.

Like other methods, they go into `knocked_out`, `ablate` and `ablate_each_head`. That heads put out
what their patterns and values give is checked on every pass, so that a cut cannot miss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation import AblationMethod, Place
from induction_lens.ablation.methods import ChosenZ
from induction_lens.ablation.outputs import Rows
from induction_lens.ablation.seen import HeadAttention
from induction_lens.circuits.patching import INPUTS, Input
from induction_lens.detectors import INDUCTION, AttentionDetector
from induction_lens.heads import Head, HeadLike, names_of
from induction_lens.models import AttentionInputs, InterventionError

Pattern = Float[Tensor, "batch chosen query_pos key_pos"]


class Keys(ABC):
    """Which attention to take away."""

    name: ClassVar[str]
    """What it is called in the label of a method."""

    @abstractmethod
    def taken(self, attention: HeadAttention, rows: Rows) -> Pattern:
        """Which part of each entry of the pattern is taken away, from 0 to 1."""


@dataclass(frozen=True)
class TargetKeys(Keys):
    """The keys where a perfect head of a kind would look: for induction, those that followed
    earlier copies of the current token."""

    detector: AttentionDetector = INDUCTION
    """What says where that is."""

    def __post_init__(self) -> None:
        """Check the detector."""
        remedy = "such as detectors.INDUCTION"
        checks.instance("detector", self.detector, AttentionDetector, remedy)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The detector's."""
        return self.detector.name

    def taken(self, attention: HeadAttention, rows: Rows) -> Pattern:
        """All of the attention on targets."""
        row, query, key = self.detector.find(attention.tokens)
        share = torch.zeros_like(attention.pattern)
        share[row, :, query, key] = 1
        return share


@dataclass(frozen=True)
class RandomKeys(Keys):
    """As much attention on random other keys as a head has on the targets: the control.

    Keys are taken in random order until the head's attention on them is what it has on the targets,
    the last one in part. Where it has less on all others together, these are all taken.
    """

    like: TargetKeys = TargetKeys()
    """The targets, which are left alone."""
    seed: int = 0
    """Seed of the order."""
    name: ClassVar[str] = "random keys"

    def __post_init__(self) -> None:
        """Check both."""
        checks.instance("like", self.like, TargetKeys, "for instance TargetKeys()")
        checks.seed(self.seed)

    def taken(self, attention: HeadAttention, rows: Rows) -> Pattern:
        """The same mass, of other keys."""
        pattern = attention.pattern.double()
        targets = self.like.taken(attention, rows).double()
        wanted = (pattern * targets).sum(-1, keepdim=True)
        others = pattern * (1 - targets)
        order = self._order(rows, *pattern.shape[::3]).to(pattern.device)
        order = order.expand(pattern.shape)
        ordered = others.gather(-1, order)
        before = ordered.cumsum(-1) - ordered
        part = ((wanted - before) / ordered.clamp_min(1e-300)).clamp(0, 1)
        share = torch.zeros_like(pattern).scatter(-1, order, part)
        return (share * (1 - targets)).to(attention.pattern)

    def _order(self, rows: Rows, n_rows: int, n_pos: int) -> Tensor:
        """For each sequence a random order of keys for each query, the same in any batch."""
        first = rows.start or 0 if isinstance(rows, slice) else 0
        numbers = range(first, first + n_rows) if isinstance(rows, slice) else rows.tolist()
        drawn = []
        for number in numbers:
            generator = torch.Generator(device="cpu").manual_seed(self.seed * 1_000_003 + number)
            size = (1, n_pos, n_pos)
            noise = torch.rand(size, generator=generator, dtype=torch.float32, device="cpu")
            drawn.append(noise.argsort(-1))
        return torch.stack(drawn)


class _OfKeys(AblationMethod):
    """A method that changes where heads attend."""

    reads_attention: ClassVar[bool] = True
    keys: Keys

    def __post_init__(self) -> None:
        """Check which."""
        checks.instance("keys", self.keys, Keys, "for instance TargetKeys()")

    @property
    def label(self) -> str:
        """Its name, and which keys."""
        return f"{self.name} ({self.keys.name})"

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """What the heads put out by the changed pattern."""
        attention = seen(place)
        share = self.keys.taken(attention, place.rows)
        return attention.by(self.changed(attention.pattern, share)).to(z)

    @abstractmethod
    def changed(self, pattern: Pattern, share: Pattern) -> Pattern:
        """The pattern without a share of each entry."""


@dataclass(frozen=True)
class Masked(_OfKeys):
    """Keys masked before the softmax: the rest is renormalised, so that rows still sum to 1.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> with il.knocked_out(model, "1.1", method=il.circuits.Masked()):
        ...     cut = il.per_token_loss(model, tokens)
        >>> round((cut - il.per_token_loss(model, tokens))[:, 51:].mean().item(), 1)
        5.3
    """

    keys: Keys = TargetKeys()
    """Which."""
    name: ClassVar[str] = "masked"

    def changed(self, pattern: Pattern, share: Pattern) -> Pattern:
        """What is left, over its sum.

        Raises:
            InterventionError: If nothing is left of a row, to the precision of its numbers.
        """
        left = pattern.double() * (1 - share.double())
        total = left.sum(-1, keepdim=True)
        if not bool((total > 0).all()):
            raise InterventionError(
                "expected attention on other keys, to renormalise when some are masked, got none "
                "at a query, to the precision of its numbers; use Zeroed"
            )
        return (left / total).to(pattern)


@dataclass(frozen=True)
class Zeroed(_OfKeys):
    """Attention on keys set to zero after the softmax: rows then sum to less than 1."""

    keys: Keys = TargetKeys()
    """Which."""
    name: ClassVar[str] = "zeroed"

    def changed(self, pattern: Pattern, share: Pattern) -> Pattern:
        """What is left."""
        return pattern * (1 - share)


@dataclass(frozen=True)
class CompositionCut(AblationMethod):
    """A head's keys computed as if some earlier heads had written nothing.

    The heads' queries and values, and every other head, read the residual stream as ever. With
    grouped queries each head gets keys of its own. Senders in the head's layer or later are no part
    of what it reads, and are passed over.
    """

    senders: Sequence[HeadLike]
    """The earlier heads, such as `["0.1"]`; kept as a sorted tuple of `Head`s."""
    input: Input | str = "k"
    """Which of the heads' inputs is cut."""
    name: ClassVar[str] = "composition cut"
    reads_attention: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Read the heads.

        Raises:
            ValueError: If there are none, or one is not written as one.
        """
        checks.one_of("input", self.input, INPUTS)
        alone = isinstance(self.senders, (str, Head))
        given: Iterable[object] = [self.senders] if alone else self.senders
        heads = tuple(sorted(Head.parse(head) for head in checks.several("senders", given)))  # pyright: ignore
        if not heads:
            raise checks.refuse("senders", "earlier heads", heads, "name one", given="none")
        object.__setattr__(self, "senders", heads)

    @property
    def label(self) -> str:
        """Its name, from which heads, and into which input."""
        return f"{self.name} ({self.input.upper()} from {names_of(self.senders)})"

    @property
    def leaves_out(self) -> Sequence[Head]:
        """The senders."""
        return [Head.parse(head) for head in self.senders]

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """What the heads put out by those keys."""
        attention = seen(place)
        assert attention.inputs_without is not None
        assert attention.attend is not None
        live, cut = attention.inputs_without()
        parts = {"q": live.query, "k": live.key, "v": live.value}
        parts[self.input] = {"q": cut.query, "k": cut.key, "v": cut.value}[self.input]
        query, key, value = parts["q"], parts["k"], parts["v"]
        assert query is not None
        assert key is not None
        return attention.attend(AttentionInputs(query, key, value)).to(z)


def seen(place: Place) -> HeadAttention:
    """What the chosen heads do on this batch, for a method that reads it."""
    assert place.attention is not None  # the method says that it reads it
    return place.attention
