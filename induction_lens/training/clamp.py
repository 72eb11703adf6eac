"""Knock-outs that last for a part of training.

1. `Clamp` says what is held, and from which step to which: heads whose output `z` is zero, or
   layer 1's keys computed without what layer 0's attention wrote (no K-composition, so no
   induction heads of the usual two-layer kind).
2. `cut_at` gathers what the clamps of a run leave out at one step.
3. `cutting` leaves it out of a hooked model, with the engine of knock-outs at test time
   (`knockout`); `toy_logits` computes the same without hooks.

A clamped head gets no gradient. An optimizer with momentum still moves its weights for some steps
after the clamp's start, by what earlier steps left in the momentum.

Source: the knock-out is zero ablation (Olsson et al. 2022, "Argument 3"); K-composition is that of
Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.context import knocked_out
from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.models import hook_name, installed, toy_weights
from induction_lens.toys.forward import Cut, keys_of, mixed_residual
from induction_lens.toys.model import ToyConfig, toy_config


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """What is knocked out of a model for a part of its training.

    Examples:
        >>> clamp = il.training.Clamp(heads=["1.6"], start=100, end=200)
        >>> [clamp.acts_at(step) for step in (0, 100, 200)]
        [False, True, False]
    """

    heads: Sequence[HeadLike] = ()
    """Heads whose output is zero, such as `["1.6"]`; kept as a sorted tuple of `Head`s."""
    k_composition: bool = False
    """Whether layer 1's keys are computed without what layer 0's attention wrote to the residual
    stream. Queries, values and everything later see it as ever."""
    start: int = 0
    """The first step of training, from 0, that is clamped."""
    end: int | None = None
    """The first step that is not clamped any more; None: clamped to the end of training."""

    def __post_init__(self) -> None:
        """Read the heads, and check everything that needs no model.

        Raises:
            ValueError: Nothing is clamped, or at no step; or a head is not written as one.
        """
        if isinstance(self.heads, str):
            raise ValueError(f"expected a list of heads, got {self.heads!r}; put it in a list")
        heads = tuple(sorted(Head.parse(head) for head in checks.several("heads", self.heads)))
        object.__setattr__(self, "heads", heads)
        flag = checks.flag("k_composition", self.k_composition)
        object.__setattr__(self, "k_composition", flag)
        if not (self.heads or self.k_composition):
            raise ValueError(
                "expected something to clamp, got neither heads nor k_composition; name heads, or "
                "set k_composition=True"
            )
        remedy = "steps are counted from 0, and end itself is not clamped"
        start = checks.whole_number("start", self.start, least=0, remedy=remedy)
        end = checks.whole_number("end", self.end, least=start + 1, optional=True, remedy=remedy)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)

    def acts_at(self, step: int) -> bool:
        """Whether this step of training is clamped."""
        return self.start <= step and (self.end is None or step < self.end)

    def to_dict(self) -> dict[str, Any]:
        """The clamp as a JSON-ready dictionary."""
        return {
            "heads": [str(head) for head in self.heads],
            "k_composition": self.k_composition,
            "start": self.start,
            "end": self.end,
        }


def checked_clamps(
    clamp: Clamp | Sequence[Clamp] | None, config: ToyConfig, *, n_steps: int
) -> tuple[Clamp, ...]:
    """The clamps of a run, once they are shown to fit the model and the run.

    Raises:
        ValueError: A head is not in the model, or named twice; there is no layer 1 whose
            K-composition could be cut; or a clamp starts after the last step.
    """
    given = () if clamp is None else (clamp,) if isinstance(clamp, Clamp) else clamp
    remedy = "make one with Clamp(...)"
    clamps = tuple(
        checks.instance("each of clamp", one, Clamp, remedy)
        for one in checks.several("clamp", given)
    )
    for one in clamps:
        if one.heads:
            parse_heads(one.heads, n_layers=config.n_layers, n_heads=config.n_heads)
        if one.k_composition and config.n_layers < 2:
            raise ValueError(
                "expected a model of at least two layers for k_composition=True, got one layer; "
                "clamp heads, or train a model with more layers"
            )
        if one.start >= n_steps:
            raise ValueError(
                f"expected clamps that start before step n_steps={n_steps}, got start={one.start}; "
                "start earlier, or train longer"
            )
    return clamps


def cut_at(clamps: Sequence[Clamp], step: int) -> Cut:
    """What all clamps together leave out at one step of training."""
    acting = [clamp for clamp in clamps if clamp.acts_at(step)]
    heads = {Head.parse(head) for clamp in acting for head in clamp.heads}
    return Cut(tuple(sorted(heads)), any(clamp.k_composition for clamp in acting))


@contextmanager
def cutting(model: Any, cut: Cut) -> Iterator[None]:
    """Leave something out of every forward pass of a toy model inside a `with` block.

    Raises:
        ValueError: The model was not made by `build_toy`, or has no such head.
        InterventionError: The model drops the writes, or no forward pass came through them.
    """
    with ExitStack() as stack:
        if cut.heads:
            stack.enter_context(knocked_out(model, cut.heads, method="zero"))
        if cut.k_composition:
            stack.enter_context(_without_k_composition(model))
        yield


@contextmanager
def _without_k_composition(model: Any) -> Iterator[None]:
    """Layer 1's keys are computed again, without what layer 0's attention wrote."""
    weights = toy_weights(model)
    config = toy_config(model)
    seen: dict[str, Tensor] = {}

    def see_written(z: Tensor) -> None:
        output = weights["blocks.0.attn.W_O"].flatten(0, 1)
        written = z.flatten(2) @ output + weights["blocks.0.attn.b_O"]
        seen["written"] = mixed_residual(weights, written, layer=1)

    def see_residual(residual: Tensor) -> None:
        seen["residual"] = residual

    def rewrite(keys: Tensor) -> Tensor:
        residual = seen.pop("residual") - seen.pop("written")
        return keys_of(weights, config, residual, layer=1).to(keys.dtype)

    # After any knock-out of layer 0's heads, and after any smearing of the keys.
    hooks = [
        (hook_name("z", 0), see_written),
        (hook_name("resid_pre", 1), see_residual),
        (hook_name("k", 1), rewrite),
    ]
    with installed(model, hooks):
        yield
