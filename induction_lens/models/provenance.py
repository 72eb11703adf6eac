"""Where numbers come from: which weights, which tokens, computed by which versions."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from induction_lens.models.fitness import foreign_code
from induction_lens.models.hooks import Model
from induction_lens.models.properties import model_name, weights_hash
from induction_lens.models.remembered import times_written
from induction_lens.models.sequences import Sequences
from induction_lens.results import Provenance
from induction_lens.seals import tokens_digest

_LIBRARIES = ("induction_lens", "torch", "transformer-lens", "transformers")
_EXACT = 2**26
"""Up to so many weights they are hashed each time, which takes a tenth of a second."""
_hashes: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


def provenance_of(model: Model, *read: Sequences | Tensor | None) -> Provenance:
    """Where numbers come from that are measured on this model now.

    Args:
        model: The model.
        read: The tokens that were read, in order; None where there are none.
    """
    tokens = [_unpadded(one) if isinstance(one, Sequences) else one for one in read]
    known = [one for one in tokens if one is not None]
    text = tokens_digest(*known) if known else None
    weights = known_weights_hash(model)
    return Provenance(model_name(model), weights, text, dict(versions()), _altered(model))


@lru_cache(maxsize=1)
def versions() -> tuple[tuple[str, str], ...]:
    """Names and versions of this package and of the libraries that it computes with."""
    return tuple((name, version(name)) for name in _LIBRARIES)


def known_weights_hash(model: Any) -> str | None:
    """`weights_hash`, which takes half a minute for billions of weights: of large models it is
    computed again only where weights changed. None where not all weights are in memory."""
    weights = list(model.parameters())
    if any(weight.is_meta for weight in weights):
        return None
    if sum(weight.numel() for weight in weights) <= _EXACT:
        return weights_hash(model)
    told = _told(weights)
    known = _hashes.get(model)
    if known is None or known[0] != told:
        known = _hashes[model] = (told, weights_hash(model))
    return known[1]


def _altered(model: Model) -> str | None:
    """What acts when the model runs and is not of its weights."""
    hooked = (name for name, point in model.hook_dict.items() if point.fwd_hooks)
    name = next(hooked, None)
    return foreign_code(model) if name is None else f"there is a hook on {name}"


def _told(weights: list[Tensor]) -> str:
    """What differs where weights do, in a single pass over them: where they are, how often they
    were written to, and their products with numbers drawn at random, which see writes through
    `.data` too."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(f"{weight.data_ptr()} {times_written(weight)} {tuple(weight.shape)}".encode())
        rows = weight.detach().reshape(-1, weight.shape[-1]) if weight.ndim else weight.detach()
        generator = torch.Generator(device="cpu").manual_seed(0)
        drawn = torch.rand(rows.shape[-1:], generator=generator, dtype=torch.float32, device="cpu")
        products = rows @ drawn.to(rows) if weight.ndim else rows
        digest.update(products.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _unpadded(sequences: Sequences) -> Tensor:
    """The tokens from each sequence's first on, -1 after its last."""
    if not sequences.is_padded:
        return sequences.tokens.cpu()
    filled = torch.full(sequences.tokens.shape, -1, dtype=torch.long, device="cpu")
    for rows, tokens in sequences.groups():
        filled[rows, : tokens.shape[1]] = tokens.cpu()
    return filled[:, : sequences.longest]
