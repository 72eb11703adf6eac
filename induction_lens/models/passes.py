"""Forward passes that leave out what nobody reads.

- `logits_at` unembeds chosen positions only: a hook on the unembedding's input drops the others.
- Where the class can (`can_resume`), a pass starts from the residual stream of a later layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.classes import is_hooked
from induction_lens.models.hooks import InterventionError, Model, installed, untyped

_UNEMBED = "unembed.hook_in"
Resume = tuple[int, Float[Tensor, "batch pos d_model"]]


def can_resume(model: Model) -> bool:
    """Whether a pass can start at a later layer: on a `HookedTransformer`, unless shortformer."""
    positions = getattr(model.cfg, "positional_embedding_type", None)
    return is_hooked(model) and positions != "shortformer"


def logits_at(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    positions: Sequence[int] | None = None,
    *,
    resume: Resume | None = None,
) -> Float[Tensor, "batch read_pos d_vocab"]:
    """Logits at some positions, or at all.

    Args:
        model: a hooked model.
        tokens: sequences, BOS at position 0.
        positions: positions whose logits are wanted, in this order; None for all.
        resume: a layer and the residual stream that enters it, to start from; only where
            `can_resume`.

    Raises:
        InterventionError: if the model does not let the other positions go.
    """

    def select(residual: Tensor) -> Tensor:
        return residual[:, list(positions or ())]

    selecting = nullcontext() if positions is None else installed(model, [(_UNEMBED, select)])
    with selecting:
        if resume is None:
            logits = model(tokens)
        else:
            layer, residual = resume
            logits = untyped(model)(residual, start_at_layer=layer)
    if positions is not None and logits.shape[1] != len(positions):
        raise InterventionError(
            f"expected logits at {len(positions)} positions, got {logits.shape[1]}; this "
            f"{type(model).__name__} ignores what is written at {_UNEMBED}"
        )
    return logits
