"""Forward passes that skip what is not used.

- `losses_at` unembeds chosen positions only, a few at a time: a hook on the unembedding's input
  keeps it and lets one position through; the rest is unembedded in pieces, by a plain product with
  `W_U`, where that gives the model's own logits at the one position. No `[batch, pos, d_vocab]`
  tensor exists then. A model whose logits are more than that, or that has a user's hooks on it,
  gives all of them (`fitness.unfit_for_unembedding`).
- `run_until` ends a forward pass at a hook point.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.fitness import unfit_for_unembedding
from induction_lens.models.hooks import InterventionError, Model, forward, installed, untyped
from induction_lens.models.rounding import unrounded

UNEMBED = "unembed.hook_in"
# Pieces near the size of a CPU's caches: of a small vocabulary, 16 MiB took 1.4 times as long. Of a
# large one, few rows are slow, because all weights are read for each piece: with 50,257 tokens, 20
# rows at a time took 1.9 times as long as 128.
_LOGITS_BYTES, _FEWEST_ROWS = 4 * 2**20, 128


def tolerance(dtype: torch.dtype) -> float:
    """How much rounding may change a number that is computed in another way, as a share of the
    largest one."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2


class Stop(Exception):  # noqa: N818 - an end, not an error
    """Ends a forward pass from inside a hook."""


def run_until(model: Model, tokens: Int[Tensor, "batch pos"], name: str | None) -> None:
    """Run the model up to a hook point, its hooks included; None: to the end, without logits.

    Raises:
        InterventionError: If the hook point never fires.
    """
    if name is None:
        logits_at(model, tokens, [0])
        return

    def stop(activation: Tensor) -> None:
        raise Stop

    with installed(model, [(name, stop)]), suppress(Stop):
        forward(model, tokens)


def logits_at(
    model: Model, tokens: Int[Tensor, "batch pos"], positions: Sequence[int]
) -> Float[Tensor, "batch read_pos d_vocab"]:
    """Logits at some positions, in this order.

    Raises:
        InterventionError: If the model computes logits at the other positions too.
    """

    def select(residual: Tensor) -> Tensor:
        return residual[:, list(positions)]

    with installed(model, [(UNEMBED, select)]):
        logits = forward(model, tokens)
    if logits.shape[1] != len(positions):
        raise InterventionError(
            f"expected logits at {len(positions)} positions, got {logits.shape[1]}; this "
            f"{type(model).__name__} ignores what is written at {UNEMBED}"
        )
    return logits


def logits_after(model: Model, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab"]:
    """Logits of what comes after the last token.

    Raises:
        InterventionError: As `logits_at`.
    """
    return logits_at(model, tokens, [tokens.shape[1] - 1])[:, 0]


def losses_at(
    model: Model, tokens: Int[Tensor, "batch pos"], positions: Sequence[int]
) -> Float[Tensor, "batch read_pos"]:
    """The losses, in nats, of the tokens at some positions, in this order.

    Raises:
        InterventionError: As `logits_at`.
    """
    # the logits one position before a token are those that predict it
    before = [position - 1 for position in positions]
    predicted = tokens[:, list(positions)]
    if unfit_for_unembedding(model) is not None:
        logits = forward(model, tokens)[:, before].float()
        return F.cross_entropy(logits.mT, predicted, reduction="none")
    final: list[Tensor] = []

    def take(residual: Tensor) -> Tensor:
        final.append(residual[:, before])
        return residual[:, before[:1]]

    with installed(model, [(UNEMBED, take)]):
        first = forward(model, tokens)
    unembed = Unembedder(model)
    alone = unembed(final[0][:, :1])
    same = first.shape == alone.shape and torch.allclose(first, alone, rtol=1e-4, atol=1e-4)
    if not same and torch.isfinite(first).all():
        # the model does more to its logits than unembed, such as scaling them
        logits = logits_at(model, tokens, before).float()
        return F.cross_entropy(logits.mT, predicted, reduction="none")
    return unembedded_losses(unembed, final[0], predicted)


class Unembedder:
    """From what the unembedding reads to logits, by a product with `W_U` as it is in memory: a
    model's own module may copy it at every call."""

    def __init__(self, model: Model) -> None:
        """Take the model's unembedding."""
        self._W_U = untyped(model).W_U.detach()
        bias = getattr(untyped(model), "b_U", None)
        self._b_U = None if bias is None else bias.detach()

    @property
    def d_vocab(self) -> int:
        """Tokens that are predicted."""
        return self._W_U.shape[-1]

    def __call__(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits."""
        if self._b_U is None:
            return final @ self._W_U
        flat = final.reshape(-1, final.shape[-1])
        return torch.addmm(self._b_U, flat, self._W_U).view(*final.shape[:-1], self.d_vocab)


def unembedded_losses(
    unembed: Unembedder,
    final: Float[Tensor, "batch read_pos d_model"],
    predicted: Int[Tensor, "batch read_pos"],
) -> Float[Tensor, "batch read_pos"]:
    """The losses of predicted tokens, in nats, unembedded in pieces of a memory budget, or of
    `_FEWEST_ROWS` where these take more; never in bfloat16, unless the weights are."""
    rows, targets = final.flatten(0, 1), predicted.flatten()
    size = max(_FEWEST_ROWS, _LOGITS_BYTES // (4 * unembed.d_vocab))
    with unrounded(final):
        losses = [
            F.cross_entropy(unembed(some).float(), target, reduction="none")
            for some, target in zip(rows.split(size), targets.split(size), strict=True)
        ]
    return torch.cat(losses).view(predicted.shape)
