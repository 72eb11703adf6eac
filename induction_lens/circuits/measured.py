"""Edges measured: with each patched, what is lost of prefix matching, copying and the ICL score.

The clean pass over a batch and the passes of the other run are shared by all edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.circuits.material import Material, copied, targets_of
from induction_lens.circuits.patching import BasePass, Edge, Patches, attended
from induction_lens.circuits.shares import Quantity, Share
from induction_lens.estimators import Losses
from induction_lens.metrics import batches, not_finite
from induction_lens.models import LayerByLayer, Model, device_of, run
from induction_lens.progress import progress_bar

_PASSES = 6
"""A clean pass keeps every layer: batches are this much smaller than those that keep one."""


@dataclass(frozen=True)
class Outcome:
    """The clean model and each edge patched, on one set of sequences."""

    clean: Float[Tensor, "batch pos"]
    """Losses of the clean model in nats, by the position of the token; NaN where they are not
    read."""
    patched: Float[Tensor, "edge batch pos"]
    """Losses with each edge patched."""
    scores: Float[Tensor, "run edge batch"]
    """Attention of each edge's receivers on induction targets, clean and patched; NaN where it is
    not wanted."""


def shares(
    model: Model, edges: Sequence[Edge], material: Material, patches: Patches, *, title: str
) -> list[dict[Quantity, Share]]:
    """What is lost with each edge patched, by quantity.

    Raises:
        ValueError: If the model cannot be run layer by layer, or its numbers are not finite.
    """
    is_copied, tokens = copied(material.tokens).cpu(), material.tokens
    everywhere = list(range(1, tokens.shape[1]))
    copies = [position for position in everywhere if bool(is_copied[:, position].any())]
    text = material.text
    n_rows = len(tokens) + (0 if text is None else 2 * len(text.sequences))
    with progress_bar(title, n_rows * len(edges)) as done:
        outcome = outcomes(
            model, edges, tokens, patches, read=copies, clean=everywhere, scored=True, done=done
        )
        found: list[dict[Quantity, Share]] = [
            {
                "prefix": Share(clean - patched, clean),
                "copying": copying_share(outcome.clean, losses, is_copied),
            }
            for (clean, patched), losses in zip(
                outcome.scores.unbind(1), outcome.patched, strict=True
            )
        ]
        if text is None:
            return found
        reads, short_reads = text.estimator.reads(text.at)
        long_tokens = text.sequences.one_length("path patching")
        of_long = outcomes(model, edges, long_tokens, patches, read=reads, done=done)
        of_short = None
        if text.short is not None:
            short_tokens = text.short.one_length("path patching")
            of_short = outcomes(model, edges, short_tokens, patches, read=short_reads, done=done)
    clean = Losses(of_long.clean, None if of_short is None else of_short.clean)
    patched = Losses(of_long.patched, None if of_short is None else of_short.patched)
    for index, one in enumerate(found):
        one["icl"] = icl_share(text, clean, patched[index])
    return found


def copying_share(
    clean: Float[Tensor, "batch pos"],
    changed: Float[Tensor, "batch pos"],
    is_copied: Bool[Tensor, "batch pos"],
) -> Share:
    """What is lost of how much better copied tokens are predicted than new ones.

    Args:
        clean: Losses of the clean model, in nats.
        changed: Losses with something changed; read at copied tokens.
        is_copied: Where the copied tokens are (`material.copied`).
    """
    new = ~is_copied
    new[:, :2] = False  # BOS has no loss, and nothing comes before position 1
    before = _mean(clean, is_copied)
    return Share(_mean(changed, is_copied) - before, _mean(clean, new) - before)


def icl_share(text: MeasuredText, clean: Losses, changed: Losses) -> Share:
    """What is lost of the ICL score."""
    before = text.scores(clean)
    units = text.sequences.units(text.at.late)
    return Share(text.scores(changed) - before, -before, units)


def outcomes(
    model: Model,
    edges: Sequence[Edge],
    tokens: Int[Tensor, "batch pos"],
    patches: Patches,
    *,
    read: list[int],
    clean: list[int] | None = None,
    scored: bool = False,
    done: Callable[[int], object] = lambda n: None,
) -> Outcome:
    """Losses and scores, clean and with each edge patched.

    Args:
        model: A hooked model.
        edges: The edges.
        tokens: Sequences of one length.
        patches: How edges are patched.
        read: At which positions the losses of tokens are wanted.
        clean: At which those of the clean model are wanted; None: at the same.
        scored: Whether scores are wanted.
        done: Told how many edges times sequences have been measured.

    Raises:
        ValueError: If the model cannot be run layer by layer, or its numbers are not finite.
    """
    device, n_rows = device_of(model), len(tokens)
    read_clean = read if clean is None else clean
    n_pos = tokens.shape[1] if scored else max(*read, *read_clean)
    losses = torch.full(
        (1 + len(edges), *tokens.shape), torch.nan, dtype=torch.float32, device="cpu"
    )
    scores = torch.full((2, len(edges), n_rows), torch.nan, dtype=torch.float32, device="cpu")
    other_tokens = patches.other.tokens(model, tokens)
    with run(model, tokens[:1, :n_pos].to(device), unembeds=True) as road:
        layers = by_layers(road)
        for rows in batches(n_rows, max(1, road.batch_size(n_pos) // _PASSES)):
            batch = tokens[rows].to(device)
            base = BasePass(
                layers,
                batch,
                n_pos=n_pos,
                last_sender=max(head.layer for edge in edges for head in edge.senders),
                patches=patches,
                other_tokens=other_tokens[:, rows].to(device),
            )
            losses[0, rows, read_clean] = base.clean_losses(read_clean).cpu()
            for index, edge in enumerate(edges):
                losses[1 + index, rows, read] = base.losses(edge, read).cpu()
                done(len(batch))
            if scored:
                scores[:, :, rows] = _scores(base, edges, batch).cpu()
    if not bool(torch.isfinite(losses[:, :, read]).all()):
        raise not_finite(model, tokens.to(device))
    return Outcome(losses[0], losses[1:], scores)


def _scores(
    base: BasePass, edges: Sequence[Edge], batch: Int[Tensor, "batch pos"]
) -> Float[Tensor, "run edge batch"]:
    """Prefix-matching scores of each edge's receivers, clean and patched."""
    targets, known = targets_of(batch), {}
    rows = []
    for edge in edges:
        if edge.receivers not in known:
            clean = base.attention(edge, patched=False)
            known[edge.receivers] = attended(clean, targets, batch)
        patched = attended(base.attention(edge, patched=True), targets, batch)
        rows.append(torch.stack([known[edge.receivers], patched]) / len(edge.receivers))
    return torch.stack(rows, dim=1)


def by_layers(road: object) -> LayerByLayer:
    """The layers of a model that can be run one by one.

    Raises:
        ValueError: If it cannot.
    """
    if isinstance(road, LayerByLayer):
        return road
    raise ValueError(
        "expected a model whose layers can be run one by one, to patch what a single head reads, "
        f"got one that cannot, because {getattr(road, 'why_whole', None)}; remove what acts on it, "
        "or take another model"
    )


def _mean(losses: Tensor, at: Tensor) -> Float[Tensor, " batch"]:
    """The mean of each sequence's losses where `at` says."""
    return losses.where(at, 0.0).sum(1) / at.sum(1)
