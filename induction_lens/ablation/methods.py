"""How heads are knocked out: what is written at a head's output `z` in place of what it computed.

Each method is an object of a few lines that says what it needs and what it writes:

- `Zero`: zeros.
- `Mean`: the head's mean output over a reference set, over all positions or per position.
- `Resample`: the head's output on another sequence of the reference set, at the same position.
- `PatternPreserving` (Olsson et al. 2022, "Argument 3"): a first run keeps every head's attention
  pattern; in the second, all patterns are frozen to the first run's and the chosen heads put out
  zero. So only what the heads write to the residual stream is cut, not its effect on the attention
  of later heads.

Wherever a method is asked for, its name ("mean") stands for the object with its defaults. A method
of your own is a subclass of `AblationMethod`:

    @dataclass(frozen=True)
    class Halve(AblationMethod):
        name = "halve"

        def replacement(self, z, place):
            return z / 2
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.outputs import Outputs, Rows, other_rows
from induction_lens.ablation.seen import HeadAttention
from induction_lens.heads import Head
from induction_lens.models import Tokens

ChosenZ = Float[Tensor, "batch read_pos chosen d_head"]
Needs = Literal["nothing", "means", "each sequence"]


@dataclass(frozen=True)
class Place:
    """Where a method writes: a layer, heads, sequences and positions."""

    layer: int
    """The layer."""
    heads: Sequence[int]
    """The chosen heads of the layer."""
    rows: Rows
    """Which sequences of the whole set the batch holds."""
    positions: Sequence[int]
    """Which positions of the sequences are written to, in order."""
    outputs: Outputs
    """Clean outputs of the chosen heads on the reference, as far as the method `needs` them."""
    attention: HeadAttention | None = None
    """What the chosen heads do on this batch, where the method `reads_attention`."""


class AblationMethod(ABC):
    """A way to knock heads out. Subclasses give a `name` and a `replacement`.

    Examples:
        >>> class Half(il.ablation.AblationMethod):
        ...     name = "half"
        ...     def replacement(self, z, place):
        ...         return z / 2
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=4)
        >>> study = il.ablate(model, "1.6", tokens, method=Half(), early=20, late=60, n_controls=2)
        >>> study.method, round(study.effect.value, 1)
        ('half', 0.6)
    """

    name: ClassVar[str]
    """What it is asked for by."""
    needs: ClassVar[Needs] = "nothing"
    """What it takes from the reference: `nothing`, the `means` of heads' outputs at every position,
    or the outputs on `each sequence`."""
    preserves_patterns: ClassVar[bool] = False
    """Whether all attention patterns are frozen to those of a clean run."""
    removes: ClassVar[bool] = False
    """Whether a head is gone where this is written. It is not on models whose value biases are
    folded into the output bias: such models are refused."""
    position_wise: ClassVar[bool] = False
    """Whether what is written at a position depends on no other position of `z`. Only then may a
    model be run layer by layer, where `z` may hold only the positions that somebody reads, and with
    a key/value cache, where it holds one; otherwise `z` holds whole sequences."""
    reads_attention: ClassVar[bool] = False
    """Whether what is written is made from where the heads attend, `place.attention`. `z` then
    holds whole sequences, and there is no key/value cache."""
    reference: Tokens | None = None
    """The sequences to take outputs from; None takes the sequences that are measured."""

    @property
    def leaves_out(self) -> Sequence[Head]:
        """Earlier heads without whose outputs the chosen heads' inputs are wanted; by default there
        are none."""
        return ()

    @property
    def label(self) -> str:
        """What it is called in tables and on pages: its name, and options that change what is
        written."""
        return self.name

    @property
    def reads_positions(self) -> bool:
        """Whether what is written depends on the position in the sequence: then padding is refused
        where a caller runs the model. A method that never looks at `place.positions`, nor at
        outputs by position, may say False."""
        return True

    @property
    def at_last_layer(self) -> AblationMethod:
        """What this is in the last layer, after which no attention can change."""
        return self

    def check(self, outputs: Outputs) -> None:
        """Check what was taken from the reference, before anything runs.

        Raises:
            ValueError: If the reference is too small.
        """
        del outputs

    @abstractmethod
    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """What is written in place of `z`, the outputs of the chosen heads.

        Each sequence has to be treated by itself: a batch may hold any number of them.

        Args:
            z: What the heads put out, [batch read_pos chosen d_head].
            place: Where these outputs are, and what the heads put out on the reference.

        Raises:
            ValueError: If the reference does not reach there.
        """


@dataclass(frozen=True)
class Zero(AblationMethod):
    """Zeros: the head adds nothing to the residual stream."""

    name: ClassVar[str] = "zero"
    position_wise: ClassVar[bool] = True
    removes: ClassVar[bool] = True

    @property
    def reads_positions(self) -> bool:
        """Zeros are the same everywhere."""
        return False

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """Zeros."""
        return torch.zeros_like(z)


@dataclass(frozen=True, eq=False)
class Mean(AblationMethod):
    """The head's mean output on the reference: it adds what it usually adds."""

    reference: Tokens | None = None
    """The sequences to take the mean over; None takes those that are measured."""
    per_position: bool = False
    """A mean for each position, instead of one over all."""
    name: ClassVar[str] = "mean"
    position_wise: ClassVar[bool] = True
    needs: ClassVar[Needs] = "means"

    def __post_init__(self) -> None:
        """Check the options."""
        checks.flag("per_position", self.per_position)

    @property
    def label(self) -> str:
        """`mean`, or `mean per position`."""
        return f"{self.name} per position" if self.per_position else self.name

    @property
    def reads_positions(self) -> bool:
        """Whether there is a mean for each position."""
        return self.per_position

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """The mean over sequences, and over positions unless there is one for each."""
        if self.per_position:
            return place.outputs.mean_at(place.layer, place.positions).to(z).expand_as(z)
        return place.outputs.overall[place.layer].to(z).expand_as(z)


@dataclass(frozen=True, eq=False)
class Resample(AblationMethod):
    """The head's output on another sequence of the reference, at the same position.

    Row `i` of a batch never gets the outputs of row `i` of the reference.
    """

    reference: Tokens | None = None
    """The sequences to take outputs from; None takes those that are measured."""
    seed: int = 0
    """Seed of the permutation that says from which sequence each takes."""
    name: ClassVar[str] = "resample"
    position_wise: ClassVar[bool] = True
    needs: ClassVar[Needs] = "each sequence"

    def __post_init__(self) -> None:
        """Check the options."""
        checks.seed(self.seed)

    def check(self, outputs: Outputs) -> None:
        """Check that there is another sequence to take from.

        Raises:
            ValueError: If there is not.
        """
        other_rows(len(next(iter(outputs.each.values()))), seed=self.seed)

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """The outputs on other sequences."""
        found = place.outputs.of_other_sequences(
            place.layer, place.rows, place.positions, seed=self.seed
        )
        return found.to(z)


@dataclass(frozen=True)
class PatternPreserving(AblationMethod):
    """Zeros, with all attention patterns frozen to those of a clean run."""

    name: ClassVar[str] = "pattern-preserving"
    position_wise: ClassVar[bool] = True
    preserves_patterns: ClassVar[bool] = True
    removes: ClassVar[bool] = True

    @property
    def reads_positions(self) -> bool:
        """Zeros are the same everywhere."""
        return False

    @property
    def at_last_layer(self) -> AblationMethod:
        """Zeros: there is no later attention to preserve."""
        return Zero()

    def replacement(self, z: ChosenZ, place: Place) -> ChosenZ:
        """Zeros."""
        return torch.zeros_like(z)


Method = Literal["zero", "mean", "resample", "pattern-preserving"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The names of the methods."""
MAIN_METHOD: Method = "mean"
"""What is quoted where one method has to be."""
Methods = Sequence[AblationMethod | Method | str]


def as_method(
    method: AblationMethod | Method | str, *, reference: Tokens | None = None, seed: int = 0
) -> AblationMethod:
    """The method that a name stands for; an object is returned as it is.

    Args:
        method: A name or an object.
        reference: What a method called by its name takes outputs from.
        seed: Seed of `resample`, called by its name.

    Raises:
        ValueError: With the closest name there is, or if an object's name is no text.
    """
    if isinstance(method, AblationMethod):
        checks.text("the name of a method", getattr(method, "name", None))
        return method
    made: Mapping[str, AblationMethod] = {
        "zero": Zero(),
        "mean": Mean(reference),
        "resample": Resample(reference, seed),
        "pattern-preserving": PatternPreserving(),
    }
    return made[checks.one_of("method", method, METHODS)]


def as_methods(methods: Any, *, seed: int = 0) -> list[AblationMethod]:
    """The methods that some names and objects stand for, each once.

    Raises:
        ValueError: If there is none, one is unknown, or two have the same name.
    """
    one = isinstance(methods, (str, AblationMethod))
    given: Iterable[Any] = [methods] if one else checks.several("methods", methods)
    chosen = [as_method(method, seed=seed) for method in given]
    if not chosen:
        listed = f"at least one of {', '.join(METHODS)}"
        raise checks.refuse("methods", listed, methods, "name one", given="none")
    labels = [method.label for method in chosen]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise checks.refuse("methods", "of different names", twice, f"name {twice} once")
    return chosen
