"""In-context learning, measured on the loss of each token.

Positions are those of the predicted token: `losses[:, t]` is the loss, in nats, of predicting the
token at position `t` from the tokens before it. Position 0 is BOS and has no loss (NaN).

The in-context learning (ICL) score of a sequence is `loss[500] - loss[50]` (Olsson et al. 2022,
"In-context Learning and Induction Heads", "Argument 1"): negative when the model predicts late
tokens better than early ones, that is, when it uses its context. It leaves out what is gained
before token 50, which is where large models gain most; and it compares two different tokens, so it
is noisy, and is reported with a bootstrap interval over sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models import (
    Model,
    batch_size_for,
    checked_tokens,
    device_of,
    first_nan_layer,
    losses_at,
    streaming,
)

N_RESAMPLES = 2000
EARLY, LATE = 50, 500
"""The paper's positions."""


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences with its bootstrap confidence interval, in nats."""

    value: float
    """The mean."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """Sequences that the mean is over."""
    confidence: float = 0.95
    """Confidence level of the interval."""

    def __str__(self) -> str:
        """For instance `-0.310 [-0.402, -0.221]`."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@contextmanager
def progress_bar(title: str | None, total: int) -> Iterator[Callable[[int], object]]:
    """A bar over `total` sequences, on stderr and after two seconds; yields what to call with the
    number just done. None for a title shows nothing."""
    from tqdm.auto import tqdm

    with tqdm(
        total=total, desc=title, unit="seq", leave=False, delay=2, disable=title is None
    ) as bar:
        yield bar.update


def batches(n: int, batch_size: int, *, progress: str | None = None) -> Iterator[slice]:
    """Slices that cover `range(n)`, with a progress bar of that title if one is given."""
    with progress_bar(progress, n) as advance:
        for start in range(0, n, batch_size):
            rows = slice(start, min(start + batch_size, n))
            yield rows
            advance(rows.stop - rows.start)


def per_token_loss(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Float[Tensor, "batch pos"]:
    """The loss of every token, in nats: `losses[:, t]` predicts the token at position `t`.

    Args:
        model: a hooked model.
        tokens: sequences with BOS at position 0.
        batch_size: sequences per forward pass; None chooses by a memory budget.
        progress: show a progress bar on stderr where it takes over two seconds.

    Returns:
        Losses on the CPU, as float32; NaN at position 0, which nothing precedes.

    Raises:
        ValueError: if the tokens do not fit the model, or the weights or the logits are not finite
            (the message names the first layer where they are not).
    """
    tokens = checked_tokens(model, tokens)
    batch_size = batch_size or batch_size_for(model, tokens.shape[1])
    device, title = device_of(model), "losses" if progress else None
    losses = torch.full(tokens.shape, math.nan, dtype=torch.float32)
    with streaming(model, tokens[:1].to(device), unembeds=True) as stream:
        for rows in batches(len(tokens), batch_size, progress=title):
            batch = tokens[rows].to(device)
            found = batch_loss(model, batch) if stream is None else stream.losses(batch)
            losses[rows, 1:] = found.cpu()
    broken = ~torch.isfinite(losses[:, 1:]).all(1)
    if broken.any():
        raise not_finite(model, tokens[broken.to(tokens.device)][:1].to(device))
    return losses


def batch_loss(
    model: Model, tokens: Int[Tensor, "batch pos"], positions: Sequence[int] | None = None
) -> Float[Tensor, "batch read_pos"]:
    """The losses of the tokens at some positions, or at 1 and later, in one forward pass.

    Raises:
        ValueError: if a logit is not finite.
    """
    read = range(1, tokens.shape[1]) if positions is None else positions
    losses = losses_at(model, tokens, list(read))
    if not torch.isfinite(losses).all():
        raise not_finite(model, tokens)
    return losses


def not_finite(model: Model, tokens: Int[Tensor, "batch pos"]) -> ValueError:
    """The error that says where a model's numbers stop being finite on these tokens."""
    return ValueError(
        "expected finite logits, got NaN or infinite ones, which first appear in "
        f"{first_nan_layer(model, tokens)}; check the weights, or load the model in float32"
    )


@dataclass(frozen=True)
class Positions:
    """Where an ICL score is taken."""

    early: int
    """Position of the early token."""
    late: int
    """Position of the late token."""
    window: int
    """Positions on each side of both."""


def choose_positions(
    seq_len: int,
    *,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    copy: int | None = None,
) -> Positions:
    """Where to take the ICL score on sequences of a length: the paper's positions where they fit.

    Args:
        seq_len: tokens in a sequence, BOS included.
        early: position of the early token; None chooses.
        late: position of the late token; None chooses.
        window: positions on each side of both; made smaller where there is no room.
        copy: on repeated random tokens, the length of a copy: `early` must lie in the first.

    Raises:
        ValueError: if the positions asked for do not fit.
    """
    last = seq_len - 1
    room = last if copy is None else copy
    if room < 2 or window < 0:
        raise ValueError(
            f"expected at least 3 tokens in a sequence and window >= 0, got {seq_len} and "
            f"{window}; use a model with a longer context"
        )
    window = min(window, room // 10)
    at_late = late if late is not None else (LATE if last >= LATE + window else last - window)
    if early is not None:
        at_early = early
    else:
        wanted = EARLY if at_late == LATE else at_late // 10
        at_early = max(1 + window, min(wanted, room - window))
    if not 1 <= at_early - window <= at_early < at_late <= last - window:
        raise ValueError(
            f"expected positions with 1 + window <= early < late <= {last} - window, got "
            f"early={at_early}, late={at_late}, window={window} on sequences of {seq_len} tokens; "
            "choose positions inside the model's context"
        )
    return Positions(at_early, at_late, window)


def icl_per_sequence(
    losses: Float[Tensor, "batch pos"], early: int = 50, late: int = 500, *, window: int = 0
) -> Float[Tensor, " batch"]:
    """The ICL score of each sequence: `loss[late] - loss[early]`, in nats.

    With a window, the mean over `late - window ... late + window` minus the same around `early`.

    Raises:
        ValueError: if these are no losses by sequence and position, or the positions are not whole
            numbers in order inside the sequences.
    """
    check_positions(losses, early, late, window=window)
    around_late = losses[:, late - window : late + window + 1].mean(dim=1)
    around_early = losses[:, early - window : early + window + 1].mean(dim=1)
    return around_late - around_early


def check_positions(losses: Any, early: int, late: int, *, window: int = 0) -> None:
    """Check that an ICL score can be taken at these positions of these losses.

    Raises:
        ValueError: as `icl_per_sequence`.
    """
    if not isinstance(losses, Tensor) or losses.ndim != 2:
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"expected losses as a tensor [batch pos], from per_token_loss, got {got}; "
            "for one sequence, pass losses[None]"
        )
    last = losses.shape[1] - 1
    if not all(isinstance(p, Integral) for p in (early, late, window)):
        remedy = "pass whole numbers"
    elif late + window > last:
        remedy = "use longer sequences or an earlier `late`"
    elif window < 0 or early - window < 1:
        remedy = "position 0 has no loss; use a later `early` or a smaller window, from 0"
    elif early >= late:
        remedy = "name the earlier position first"
    else:
        return
    raise ValueError(
        f"expected 1 <= early - window, early < late and late + window <= {last} (the last "
        f"position of these sequences), got early={early}, late={late}, window={window}; {remedy}"
    )


def icl_positions(early: int, late: int, *, window: int = 0) -> list[int]:
    """The positions that an ICL score reads."""
    return sorted({p + i for p in (early, late) for i in range(-window, window + 1)})


def icl_score(
    losses: Float[Tensor, "batch pos"],
    early: int = 50,
    late: int = 500,
    *,
    window: int = 0,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The in-context learning score: mean over sequences of `loss[late] - loss[early]`, in nats.

    Negative means that the model uses its context (Olsson et al. 2022, "Argument 1").

    Args:
        losses: from `per_token_loss`.
        early: position of the early token.
        late: position of the late token.
        window: average over this many positions on each side of both; 0 is the paper's definition.
        confidence: level of the bootstrap interval over sequences.
        n_resamples: bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if the positions lie outside the sequences.
    """
    scores = icl_per_sequence(losses, early, late, window=window)
    return bootstrap_mean(scores, confidence=confidence, n_resamples=n_resamples, seed=seed)


def bootstrap_mean(
    values: Float[Tensor, " batch"],
    *,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of values with a percentile bootstrap interval.

    The same interval, to rounding, as `scipy.stats.bootstrap` with `method="percentile"` and a
    generator of this seed: importing that took longer than a whole sweep of `toy-2l`.

    With a single value, or with equal ones, there is nothing to resample: the interval of one value
    is infinite, that of equal values is a point.
    """
    import numpy as np

    if values.isnan().any():
        raise ValueError("expected finite values, got NaN; position 0 has no loss, so leave it out")
    n, mean = len(values), float(values.double().mean())
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, n, confidence)
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    means = values.double().numpy()[drawn].mean(axis=-1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), n, confidence)
