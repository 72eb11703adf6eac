"""Whether a wrapped model predicts what the Hugging Face model does, and only from the past.

TransformerLens rewrites models: it wraps or rebuilds their modules and folds norms and biases into
other weights. For some configurations that silently changes what the model computes. So the Hugging
Face model is run before it is wrapped, and the wrapped model is run on the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from induction_lens.models.hooks import Model, device_of, forward, running

LONGEST = 2048
"""No sequence of the check is longer."""
_SHORT = 11  # the second batch: several rows, and factors that models choose for short sequences
_LEAST = 64  # at least this long if the context allows, whatever it costs
_FREE_BYTES = 256 << 20
_CPU_OPERATIONS = 5e11  # of one pass: seconds on a few cores
_ACCELERATOR_OPERATIONS = 1e14

# The largest difference at a position, as a share of the spread of its log-probabilities. Folding
# changes the rounding: in float32 by 1e-5 on random models of 16 layers, and by a few percent in
# half precision, which rounds weights to 2 or 3 digits. Beyond that, plainer weights are exact.
_TOLERANCES = {torch.float16: 0.03, torch.bfloat16: 0.1}
_TOLERANCE = 1e-3
_LEAST_SPREAD = 0.01

_causal: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Reference:
    """What the Hugging Face model predicts.

    Attributes:
        tokens: Batches of token ids [batch pos].
        log_probs: Its log-probabilities for each of them [batch pos vocab].
    """

    tokens: tuple[Tensor, ...]
    log_probs: tuple[Tensor, ...]

    @property
    def is_finite(self) -> bool:
        """Whether all of it are numbers: those of padding ids may be minus infinity by design."""
        return all(bool(each.isfinite().all()) for each in self.log_probs)


@dataclass(frozen=True)
class Difference:
    """How far apart the log-probabilities of two models are.

    Attributes:
        largest: The largest difference of any log-probability, in nats.
        relative: The root mean square over the vocabulary, at the position where it is largest, as
            a share of the spread (standard deviation over the vocabulary) there.
        tolerated: How large `relative` may be.
    """

    largest: float
    relative: float
    tolerated: float

    @property
    def is_rounding(self) -> bool:
        """Whether this is no more than rounding."""
        return self.relative <= self.tolerated


def reference_of(hf_model: Any, context: int) -> Reference:
    """Run a Hugging Face model, before anything wraps it.

    One row as long as the context, or as the model's size makes affordable, and three short rows.

    Args:
        hf_model: The model, on the device where it is to be run.
        context: The longest sequence it takes.
    """
    length = affordable_length(hf_model, context)
    device = next(hf_model.parameters()).device
    ids = _ordinary_ids(hf_model)
    generator = torch.Generator(device="cpu").manual_seed(0)
    shapes = [(1, length), (3, min(length, _SHORT))]
    tokens = [
        ids[torch.randint(len(ids), shape, generator=generator, device="cpu")].to(device)
        for shape in shapes
    ]
    hf_model.eval()
    with torch.no_grad():
        log_probs = [_log_probs(hf_model(batch, use_cache=False).logits) for batch in tokens]
    return Reference(tokens=tuple(tokens), log_probs=tuple(log_probs))


def affordable_length(hf_model: Any, context: int) -> int:
    """How long a sequence the check may take, at most `context`.

    One pass takes no more than about 5·10¹¹ operations on a CPU and 10¹⁴ elsewhere, and its largest
    tensor no more than 256 MB or an eighth of the weights, whichever is more.
    """
    weights = list(hf_model.parameters())
    numbers = sum(weight.numel() for weight in weights)
    config = hf_model.config.get_text_config()
    on_cpu = weights[0].device.type == "cpu"
    operations = _CPU_OPERATIONS if on_cpu else _ACCELERATOR_OPERATIONS
    free = max(_FREE_BYTES, numbers * weights[0].element_size() // 8)
    by_time = operations / (2 * numbers)
    by_logits = free / (4 * config.vocab_size)
    by_patterns = (free / (4 * config.num_attention_heads)) ** 0.5
    affordable = max(_LEAST, int(min(by_time, by_logits, by_patterns)))
    return min(context, LONGEST, affordable)


def difference_from(reference: Reference, model: Model) -> Difference:
    """How far a model's predictions are from the reference's."""
    largest = relative = 0.0
    dtype = next(iter(_floating(model)))
    with running(model):
        for tokens, expected in zip(reference.tokens, reference.log_probs, strict=True):
            found = _log_probs(forward(model, tokens))
            for ours, theirs in _in_blocks(found.to(expected.device), expected):
                apart, share = _apart(ours, theirs)
                largest, relative = max(largest, apart), max(relative, share)
    return Difference(largest, relative, _TOLERANCES.get(dtype, _TOLERANCE))


def check_causal(model: Model) -> None:
    """Check that a model predicts each token only from earlier ones.

    The last token of a short sequence is changed; the predictions before it must not change. That
    costs two passes over 16 tokens, once for each model object.

    Raises:
        ValueError: The predictions before the changed token moved.
    """
    if model in _causal:
        return
    n_ids, length = int(model.cfg.d_vocab), min(16, int(model.cfg.n_ctx))
    if n_ids > 1 and length > 1:
        generator = torch.Generator(device="cpu").manual_seed(0)
        tokens = torch.randint(n_ids, (1, length), generator=generator, device="cpu")
        tokens = tokens.to(device_of(model))
        changed = tokens.clone()
        changed[0, -1] = (changed[0, -1] + 1) % n_ids
        with running(model):
            before, after = (_log_probs(forward(model, each))[:, :-1] for each in (tokens, changed))
        largest, relative = _apart(after, before)
        half = next(iter(_floating(model))) in _TOLERANCES
        if relative > (1e-2 if half else 1e-4):
            raise ValueError(
                "expected a model that predicts each token from earlier ones, got a "
                f"{type(model).__name__} whose predictions move by up to {largest:.2g} nats when a "
                "later token changes; pass a decoder-only model: encoders and models with "
                'attention_dir="bidirectional" cannot be scored'
            )
    _causal[model] = True


def _floating(model: Any) -> Iterator[torch.dtype]:
    return (weight.dtype for weight in model.parameters() if weight.is_floating_point())


def _log_probs(logits: Tensor) -> Tensor:
    at_least_single = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(at_least_single).log_softmax(-1)


def _in_blocks(ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some positions at a time: a comparison takes several tensors as large as the logits."""
    yield from zip(ours.split(128, dim=1), theirs.split(128, dim=1), strict=True)


def _apart(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest one of a position as a share of its spread."""
    if ours.shape != theirs.shape or not torch.equal(ours.isfinite(), theirs.isfinite()):
        return float("inf"), float("inf")
    # what is not finite in both, such as the log-probability of padding ids, is the same in both
    finite = theirs.isfinite()
    n = finite.sum(-1).clamp_min(1)
    difference = torch.where(finite, ours - theirs, 0.0)
    known = torch.where(finite, theirs, 0.0)
    mean = known.sum(-1, keepdim=True) / n[..., None]
    spread = (torch.where(finite, known - mean, 0.0).square().sum(-1) / n).sqrt()
    share = (difference.square().sum(-1) / n).sqrt() / (spread + _LEAST_SPREAD)
    return float(difference.abs().max()), float(share.max())


def _ordinary_ids(hf_model: Any) -> Tensor:
    """Ids that the configuration gives no special meaning: padding may be masked out."""
    config = hf_model.config.get_text_config()
    special = set()
    for name, value in config.to_dict().items():
        if name.endswith("_token_id"):
            special.update(value if isinstance(value, list) else [value])
    n_ids = hf_model.get_input_embeddings().weight.shape[0]
    ordinary = [token for token in range(n_ids) if token not in special]
    return torch.tensor(ordinary or [0], device="cpu")
