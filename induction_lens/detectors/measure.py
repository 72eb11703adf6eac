"""One forward pass for any number of measures.

A measure names the hooks that it needs for a batch and reduces activations inside them, so nothing
of the size of an attention pattern outlives its layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.metrics import batches
from induction_lens.models import (
    HookFunction,
    Model,
    batch_size_for,
    check_weights,
    checked_tokens,
    device_of,
    installed,
    run_until,
    running,
)


@runtime_checkable
class Measure(Protocol):
    """Something that is read off the activations of a forward pass."""

    @property
    def last_hook(self) -> str | None:
        """The hook point after which nothing is looked at; None: the pass has to reach the end."""
        ...

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        """Hooks for one batch: these rows of the whole."""
        ...

    def finish(self, rows: slice) -> None:
        """Called after the batch's forward pass."""
        ...


def measure(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    measures: Sequence[Measure],
    *,
    batch_size: int | None = None,
    progress: str | None = None,
) -> None:
    """Run the model once over the tokens, and let every measure look.

    Args:
        model: A hooked model.
        tokens: Sequences, BOS at position 0.
        measures: What looks at each batch, one after the other.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Title of a progress bar on stderr; None: no bar.

    Raises:
        ValueError: If the tokens do not fit the model, a weight is not finite, or the batch size is
            out of range.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.detectors.prompts(model)
        >>> attention = il.detectors.TargetMass(model, tokens, ["induction"])
        >>> il.detectors.measure(model, tokens, [attention])
        >>> attention.scores("induction", null=None).above(0.3)
        [Head(layer=1, head=6), Head(layer=1, head=7), Head(layer=1, head=4)]
    """
    tokens = checked_tokens(model, tokens)
    check_weights(model)
    batch_size = checks.batch_size(batch_size) or batch_size_for(model, tokens.shape[1])
    ends = [taken.last_hook for taken in measures]
    last = ends[0] if len(set(ends)) == 1 else None
    with running(model):
        for rows in batches(len(tokens), batch_size, progress=progress):
            batch = tokens[rows].to(device_of(model))
            hooks = [hook for taken in measures for hook in taken.hooks(batch, rows)]
            with installed(model, hooks):
                run_until(model, batch, last)
            for taken in measures:
                taken.finish(rows)


def ratio_and_error(
    part: Float[Tensor, "layer head batch"], whole: Float[Tensor, "*batch_or_head batch"]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """`sum(part) / sum(whole)` over sequences, and its standard error (ratio estimator).

    Zero where the whole is zero: a head that attends to nothing but BOS scores 0, not NaN. Only
    sequences whose whole is not zero count; where there is one alone, the error is infinite.

    Raises:
        ValueError: If a sum is not finite, as activations in half precision may not be.
    """
    if not (torch.isfinite(part).all() and torch.isfinite(whole).all()):
        raise ValueError(
            "expected finite activations, got NaN or infinite ones; load the model in float32"
        )
    whole = whole.expand_as(part)
    total = whole.sum(-1)
    safe = total.where(total > 0, 1.0)
    ratio = part.sum(-1) / safe
    n = (whole > 0).sum(-1)
    residual = part - ratio[..., None] * whole
    variance = residual.square().sum(-1) * n / (n - 1).clamp(min=1)
    return ratio, (variance.sqrt() / safe).masked_fill(n == 1, math.inf)
