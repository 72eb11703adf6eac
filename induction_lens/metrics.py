"""In-context learning, measured on the loss of each token.

Positions are those of the predicted token: `losses[:, t]` is the loss, in nats, of predicting the
token at position `t` from the tokens before it. Position 0 is BOS and has no loss (NaN).

The in-context learning (ICL) score of a sequence is `loss[500] - loss[50]` (Olsson et al. 2022,
"In-context Learning and Induction Heads", "Argument 1"): negative when the model predicts late
tokens better than early ones, that is, when it uses its context. It leaves out what is gained
before token 50, which is where large models gain most; and it compares two different tokens, so it
is noisy, and is reported with an interval over sequences, or over their documents.

The matched-target score estimates the same from much less text. The token at position 500 is
scored twice: where it is, and in a short cut of the same text, in which 50 tokens precede it. Both
losses are of one token, so that how hard it is to predict cancels. The means agree where cuts
begin at any place of a document: the token at position 50 of such a cut is then as good a sample
as any other at position 50. They differ where sequences are the beginnings of documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.estimates import N_RESAMPLES, Estimate, bootstrap_mean
from induction_lens.models import (
    Mask,
    Model,
    Sequences,
    Tokens,
    batch_size_for,
    device_of,
    first_nan_layer,
    mask_of,
    run,
    sequences_of,
    units_of,
)
from induction_lens.progress import progress_bar

EARLY, LATE = 50, 500
"""The paper's positions."""


def batches(n: int, batch_size: int, *, progress: str | None = None) -> Iterator[slice]:
    """Slices that cover `range(n)`, with a progress bar of that title if one is given.

    Raises:
        ValueError: If the batch size is not a whole number, or below 1, which would cover nothing.
    """
    batch_size = checks.whole_number("batch_size", batch_size, least=1)
    with progress_bar(progress, n) as advance:
        for start in range(0, n, batch_size):
            rows = slice(start, min(start + batch_size, n))
            yield rows
            advance(rows.stop - rows.start)


def per_token_loss(
    model: Model,
    tokens: Tokens,
    *,
    mask: Mask | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Float[Tensor, "batch pos"]:
    """The loss of every token, in nats: `losses[:, t]` predicts the token at position `t`.

    Args:
        model: A hooked model.
        tokens: Sequences with BOS at position 0; or what a tokenizer returns, with `input_ids` and
            `attention_mask`.
        mask: 1 for a token, 0 for padding, on either side. Padding is left out: losses are those of
            the sequences without it.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Show a progress bar on stderr if it takes over two seconds.

    Returns:
        Losses on the CPU, as float32, in the columns of their tokens; NaN at the first token of a
        sequence, which nothing precedes, and at padding.

    Raises:
        ValueError: If the tokens do not fit the model, tokens look padded and there is no mask, an
            option is out of range, or the weights or the logits are not finite (the message names
            the first layer where they are not).

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_tokens=25, n_repeats=4, n_sequences=4)
        >>> losses = il.per_token_loss(model, tokens)
        >>> [round(copy.mean().item(), 1) for copy in losses[:, 1:].split(25, dim=1)]
        [12.0, 9.4, 8.7, 8.5]
    """
    checks.model(model)
    progress, batch_size = checks.flag("progress", progress), checks.batch_size(batch_size)
    sequences = sequences_of(model, tokens, mask)
    if sequences.tokens.shape[1] < 2:
        remedy = "position 0 has no loss, so pass longer ones"
        raise checks.refuse("tokens", "sequences of at least 2 tokens", sequences.tokens, remedy)
    losses = torch.full(sequences.tokens.shape, math.nan, dtype=torch.float32, device="cpu")
    with progress_bar("losses" if progress else None, len(sequences)) as done:
        for rows, group in sequences.groups():
            predicted = 1 + torch.arange(group.shape[1] - 1, device="cpu")
            columns = sequences.starts[rows, None] + predicted
            losses[rows[:, None], columns] = _losses(model, group, batch_size, done)
    return losses


def _losses(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    batch_size: int | None,
    done: Callable[[int], object],
) -> Float[Tensor, "row predicted_pos"]:
    """Losses of sequences of one length, at positions 1 and later; tells `done` how many."""
    device = device_of(model)
    losses = torch.empty(len(tokens), tokens.shape[1] - 1, dtype=torch.float32, device="cpu")
    with run(model, tokens[:1].to(device), unembeds=True) as road:
        fitting = batch_size_for(model, tokens.shape[1])
        for rows in batches(len(tokens), fitting if batch_size is None else batch_size):
            batch = tokens[rows].to(device)
            losses[rows] = road.losses(batch).cpu()
            done(len(batch))
    broken = ~torch.isfinite(losses).all(1)
    if broken.any():
        raise not_finite(model, tokens[broken.to(tokens.device)][:1].to(device))
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

    early: int = EARLY
    """Position of the early token."""
    late: int = LATE
    """Position of the late token."""
    window: int = 0
    """Positions on each side of both."""

    def around(self, position: int, *, margin: int | None = None) -> list[int]:
        """The positions of a window around one, or of a wider one."""
        margin = self.window if margin is None else margin
        return list(range(position - margin, position + margin + 1))


def choose_positions(
    seq_len: int,
    *,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    copy: int | None = None,
) -> Positions:
    """Where to take the ICL score on sequences of a length: the paper's positions if they fit.

    Args:
        seq_len: Tokens in a sequence, BOS included.
        early: Position of the early token; None chooses.
        late: Position of the late token; None chooses.
        window: Positions on each side of both; made smaller if there is no room.
        copy: On repeated random tokens, the length of a copy: `early` must lie in the first.

    Raises:
        ValueError: If the positions asked for do not fit.
    """
    early = checks.whole_number("early", early, optional=True)
    late = checks.whole_number("late", late, optional=True)
    window = checks.whole_number("window", window, least=0)
    last = checks.whole_number("seq_len", seq_len) - 1
    room = last if copy is None else copy
    if room < 2:
        raise ValueError(
            f"expected at least 3 tokens in a sequence, got {seq_len}; "
            "use a model with a longer context"
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
        ValueError: If these are not losses by sequence and position, or the positions are not whole
            numbers in order inside the sequences.
    """
    at = check_positions(losses, early, late, window=window)
    early, late, window = at.early, at.late, at.window
    around_late = losses[:, late - window : late + window + 1].mean(dim=1)
    around_early = losses[:, early - window : early + window + 1].mean(dim=1)
    return around_late - around_early


def check_positions(losses: Any, early: int, late: int, *, window: int = 0) -> Positions:
    """Check that an ICL score can be taken at these positions of these losses.

    Returns:
        The positions in Python's own numbers.

    Raises:
        ValueError: As `icl_per_sequence`.
    """
    if not isinstance(losses, Tensor) or losses.ndim != 2:
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"expected losses as a tensor [batch pos], from per_token_loss, got {got}; "
            "for one sequence, pass losses[None]"
        )
    last = losses.shape[1] - 1
    early, late = checks.whole_number("early", early), checks.whole_number("late", late)
    window = checks.whole_number("window", window)
    if late + window > last:
        remedy = "use longer sequences or an earlier `late`"
    elif window < 0 or early - window < 1:
        remedy = "position 0 has no loss; use a later `early` or a smaller window, from 0"
    elif early >= late:
        remedy = "name the earlier position first"
    else:
        return Positions(early, late, window)
    raise ValueError(
        f"expected 1 <= early - window, early < late and late + window <= {last} (the last "
        f"position of these sequences), got early={early}, late={late}, window={window}; {remedy}"
    )


def short_cuts(
    tokens: Int[Tensor, "batch pos"], early: int = EARLY, late: int = LATE, *, window: int = 0
) -> Int[Tensor, "batch short_pos"]:
    """The end of each sequence's text, with BOS before it, so that `early` stands for `late`.

    The token at `late` of a sequence is at `early` in its short cut, and so are those in the
    windows around them. Their losses give the matched-target ICL score (see `icl_score`).

    Raises:
        ValueError: If the tokens are not sequences of ids, or the positions lie outside them.

    Examples:
        >>> import torch
        >>> tokens = torch.tensor([[0, 11, 12, 13, 14, 15, 16]])
        >>> il.metrics.short_cuts(tokens, early=2, late=5)
        tensor([[ 0, 14, 15]])
    """
    remedy = "pass token ids, from text_tokens for instance"
    tokens = checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy=remedy)
    at = check_positions(tokens, early, late, window=window)
    whole = Sequences.unpadded(tokens)
    return whole.cut(at.late - at.early + 1, at.late + at.window + 1).tokens


def matched_per_sequence(
    losses: Float[Tensor, "batch pos"],
    short_losses: Float[Tensor, "batch short_pos"],
    early: int = EARLY,
    late: int = LATE,
    *,
    window: int = 0,
) -> Float[Tensor, " batch"]:
    """The matched-target ICL score of each sequence, in nats: see `icl_score`.

    Args:
        losses: Of the sequences.
        short_losses: Of their short cuts, at the positions of the cuts.
        early: Position of the early token.
        late: Position of the late token.
        window: Positions on each side of both.

    Raises:
        ValueError: If losses are not of as many sequences, or the positions lie outside them.
    """
    at = check_positions(losses, early, late, window=window)
    remedy = "pass the losses of short_cuts(tokens, early, late, window=window)"
    checks.tensor("short_losses", short_losses, axes=("batch", "short_pos"), remedy=remedy)
    n, length = short_losses.shape
    if n != len(losses) or length <= at.early + at.window:
        raise ValueError(
            f"expected short_losses of {len(losses)} sequences of more than "
            f"{at.early + at.window} tokens, got {n} of {length}; {remedy}"
        )
    late_losses = losses[:, at.around(at.late)].mean(dim=1)
    return late_losses - short_losses[:, at.around(at.early)].mean(dim=1)


def icl_score(
    losses: Float[Tensor, "batch pos"],
    early: int = 50,
    late: int = 500,
    *,
    window: int = 0,
    short_losses: Float[Tensor, "batch short_pos"] | None = None,
    documents: Int[Tensor, "batch pos"] | None = None,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    mask: Mask | None = None,
) -> Estimate:
    """The in-context learning score: mean over sequences of `loss[late] - loss[early]`, in nats.

    Negative means that the model uses its context (Olsson et al. 2022, "Argument 1").

    With `short_losses` it is the matched-target score: `loss[late]` minus the loss of the same
    token after only `early - 1` others and BOS. Its mean is the paper's where sequences are cut
    from documents at any place, and its variance is several times smaller.

    Args:
        losses: From `per_token_loss`.
        early: Position of the early token.
        late: Position of the late token.
        window: Average over this many positions on each side of both; 0 is the paper's definition.
        short_losses: From `per_token_loss` of `short_cuts` at the same positions.
        documents: Which document each token comes from, as `sample_text` says: the interval is
            then over documents, those of the tokens at `late`, if there are five. None: over
            sequences.
        confidence: Level of the interval.
        n_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        mask: Of padded tokens, as `per_token_loss` took it: positions are then counted from the
            first token of each sequence.

    Raises:
        ValueError: If the positions lie outside the sequences, losses look as if there was padding
            on the left and there is no mask, a loss there is not finite, or an
            option is out of range.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=8)
        >>> losses = il.per_token_loss(model, tokens)
        >>> score = il.icl_score(losses, early=20, late=60, window=5)
        >>> f"{score.value:.1f} nats [{score.low:.1f}, {score.high:.1f}]"
        '-4.7 nats [-6.4, -3.0]'
    """
    losses = _from_first_token(losses, mask)
    if short_losses is None:
        scores = icl_per_sequence(losses, early, late, window=window)
    else:
        scores = matched_per_sequence(losses, short_losses, early, late, window=window)
    options = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    units = None if documents is None else _units(documents, losses, late)
    return bootstrap_mean(scores, documents=units, **options)


def _units(documents: Any, losses: Tensor, late: int) -> Int[Tensor, " batch"] | None:
    """The document of each sequence's token at `late` (see `units_of`).

    Raises:
        ValueError: If documents are not one a token.
    """
    if not isinstance(documents, Tensor) or documents.shape != losses.shape:
        got = list(documents.shape) if isinstance(documents, Tensor) else type(documents).__name__
        raise ValueError(
            f"expected the document of every token, a tensor of shape {list(losses.shape)}, got "
            f"{got}; pass sample_text(model).documents"
        )
    return units_of(documents, late)


def _from_first_token(losses: Any, mask: Any) -> Any:
    """Losses whose columns count from the first token of each sequence, NaN after the last.

    Raises:
        ValueError: As `icl_score`.
    """
    if not isinstance(losses, Tensor) or losses.ndim != 2:
        return losses  # which `check_positions` refuses
    known = torch.isfinite(losses)
    if mask is None:
        first = known.int().argmax(1)
        after_padding = (first > 1) & (known.sum(1) == losses.shape[1] - first)
        if bool(after_padding.any()):
            row = int(after_padding.int().argmax())
            raise ValueError(
                f"expected losses that begin at position 1, got row {row}, whose first is in "
                f"column {int(first[row])}, as with padding on the left; pass mask=attention_mask"
            )
        return losses
    mask = mask_of(mask)
    if not isinstance(mask, Tensor) or mask.shape != losses.shape:
        condition = f"zeros and ones of shape {list(losses.shape)}, like losses"
        raise checks.refuse("mask", condition, mask, "pass that of per_token_loss")
    starts = (mask.to(losses.device) != 0).int().argmax(1)
    n_pos = losses.shape[1]
    columns = starts[:, None] + torch.arange(n_pos, device=losses.device)
    aligned = losses.gather(1, columns.clamp(max=n_pos - 1))
    return aligned.masked_fill(columns >= n_pos, math.nan)
