"""What is right: the definitions on the plain Hugging Face model, and nothing of the package.

Heads are removed at the input of the attention's output projection, where the heads' outputs lie
side by side. Patterns are kept and frozen at the softmax, wherever a model's code calls it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

OUTPUT_PROJECTIONS = (
    "attn.c_proj",  # GPT-2, GPTBigCode, OpenAI GPT
    "attn.attention.out_proj",  # GPT-Neo
    "attn.out_proj",  # GPT-J, CodeGen, MPT, DBRX
    "attention.dense",  # GPT-NeoX, BLOOM and Falcon (self_attention.dense)
    "attn.Wo",  # ModernBERT's decoder
    "self_attn.out_proj",  # OPT, XGLM, BioGPT
    "self_attn.dense",  # Phi, Persimmon
    "self_attn.o_proj",  # Llama and most others
)
EARLY = 30
LATE = 110
"""Positions of the ICL score: the second copy, and near the end."""

Head = tuple[int, int]
Edit = Callable[[int, Tensor], Tensor]
"""Layer and heads' outputs `[batch, pos, head, d_value]` → outputs."""


@dataclasses.dataclass
class Reference:
    """The right numbers of one model.

    Attributes:
        log_probs: `[batch, pos, vocab]`, of the model as it is.
        scores: of each detector, `[layer, head]`.
        heads: the two heads that are removed together.
        removed: `[batch, pos, vocab]` without them, by method.
        donors: the same for `resample`, `[donor, batch, pos, vocab]`.
        effects: of each head alone on `loss[LATE] - loss[EARLY]`, by method, as
            `[layer, head, batch]`.
        donor_effects: the same for `resample`, `[donor, layer, head, batch]`.
    """

    log_probs: Tensor
    scores: dict[str, Tensor]
    heads: tuple[Head, ...]
    removed: dict[str, Tensor]
    donors: Tensor
    effects: dict[str, Tensor]
    donor_effects: Tensor


@torch.no_grad()
def reference_numbers(model: Any, tokens: Tensor, reference: Tensor) -> Reference:
    """Everything that is compared, from the plain model."""
    plain = PlainModel(model, tokens)
    recorded = plain.head_outputs(reference)
    edits = {
        "zero": lambda layer: torch.zeros(()),
        "mean": lambda layer: recorded[layer].mean(dim=(0, 1)),
        "mean per position": lambda layer: recorded[layer].mean(dim=0),
    }
    n_layers, n_heads = plain.patterns.shape[:2]
    heads = ((0, 1), (n_layers - 1, n_heads - 1))
    each = [((layer, head),) for layer in range(n_layers) for head in range(n_heads)]

    def removed(chosen: tuple[Head, ...], method: str) -> Tensor:
        if method == "pattern-preserving":
            return plain.log_probs(_replacing(chosen, edits["zero"]), frozen=True)
        return plain.log_probs(_replacing(chosen, edits[method]))

    def donated(chosen: tuple[Head, ...], donor: int) -> Tensor:
        return plain.log_probs(_replacing(chosen, lambda layer: recorded[layer][donor]))

    def effects(remove: Callable[[tuple[Head, ...]], Tensor]) -> Tensor:
        clean = _late_minus_early(plain.clean, tokens)
        alone = [_late_minus_early(remove(head), tokens) - clean for head in each]
        return torch.stack(alone).unflatten(0, (n_layers, n_heads))

    methods = (*edits, "pattern-preserving")
    donors = range(len(reference))
    return Reference(
        log_probs=plain.clean,
        scores={name: _score(plain.patterns, tokens, name) for name in TARGETS},
        heads=heads,
        removed={method: removed(heads, method) for method in methods},
        donors=torch.stack([donated(heads, donor) for donor in donors]),
        effects={method: effects(functools.partial(removed, method=method)) for method in methods},
        donor_effects=torch.stack(
            [effects(functools.partial(donated, donor=donor)) for donor in donors]
        ),
    )


def _replacing(heads: tuple[Head, ...], value: Callable[[int], Tensor]) -> Edit:
    """Write a value `[…, head, d_value]`, or one for all, over the outputs of these heads."""

    def edit(layer: int, outputs: Tensor) -> Tensor:
        chosen = [head for of_layer, head in heads if of_layer == layer]
        outputs = outputs.clone()
        outputs[:, :, chosen] = value(layer).expand_as(outputs[0])[None, :, chosen]
        return outputs

    return edit


class PlainModel:
    """A Hugging Face model on a batch of tokens, its heads' outputs and patterns in reach."""

    def __init__(self, model: Any, tokens: Tensor) -> None:
        self.model = model
        self.tokens = tokens
        self.projections = [
            module for name, module in model.named_modules() if name.endswith(OUTPUT_PROJECTIONS)
        ]
        output = model(tokens, output_attentions=True, use_cache=False)
        self.clean = torch.log_softmax(output.logits, dim=-1)
        self.patterns = torch.stack(output.attentions).transpose(1, 2)
        n_layers = model.config.num_hidden_layers
        if not len(self.projections) == len(self.patterns) == n_layers:
            raise LookupError(f"expected {n_layers} output projections and patterns")
        self.softmaxes = self._record()

    def _record(self) -> list[Tensor]:
        """What the softmax gives in each layer; checked against the patterns the model returns."""
        with _Softmaxes(self.tokens.shape[1]) as softmaxes:
            again = torch.log_softmax(self.model(self.tokens, use_cache=False).logits, dim=-1)
        length = self.tokens.shape[1]
        for ours, theirs in zip(softmaxes.outputs, self.patterns, strict=True):
            patterns = ours[..., :length].reshape_as(theirs.transpose(0, 1))
            torch.testing.assert_close(patterns.transpose(0, 1), theirs)
        torch.testing.assert_close(again, self.clean)
        return softmaxes.outputs

    def log_probs(self, edit: Edit, *, frozen: bool = False) -> Tensor:
        """Log-probabilities with changed head outputs, and patterns that follow or are frozen."""
        patterns = _Softmaxes(self.tokens.shape[1], self.softmaxes) if frozen else None
        with self._edited(edit), patterns or contextlib.nullcontext():
            logits = self.model(self.tokens, use_cache=False).logits
        return torch.log_softmax(logits, dim=-1)

    def head_outputs(self, tokens: Tensor) -> list[Tensor]:
        """Of each layer, `[batch, pos, head, d_value]`."""
        recorded: list[Tensor] = []

        def record(layer: int, outputs: Tensor) -> Tensor:
            recorded.append(outputs)
            return outputs

        with self._edited(record):
            self.model(tokens, use_cache=False)
        return recorded

    @contextlib.contextmanager
    def _edited(self, edit: Edit) -> Iterator[None]:
        n_heads = self.patterns.shape[1]

        def hook(layer: int, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            outputs = inputs[0].unflatten(-1, (n_heads, -1))
            return (edit(layer, outputs).flatten(-2), *inputs[1:])

        with contextlib.ExitStack() as stack:
            for layer, projection in enumerate(self.projections):
                handle = projection.register_forward_pre_hook(functools.partial(hook, layer))
                stack.callback(handle.remove)
            yield


class _Softmaxes(TorchFunctionMode):
    """Keeps what every softmax over keys gives, or gives what was kept; other softmaxes pass.

    Args:
        length: number of keys. One more is a model with attention sinks.
        replayed: what to give; None keeps.
    """

    def __init__(self, length: int, replayed: list[Tensor] | None = None) -> None:
        super().__init__()
        self.length = length
        self.replayed = None if replayed is None else iter(replayed)
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") != "softmax" or not self._over_keys(result):
            return result
        if self.replayed is not None:
            return next(self.replayed)
        self.outputs.append(result)
        return result

    def _over_keys(self, result: Tensor) -> bool:
        return result.ndim > 2 and result.shape[-1] in (self.length, self.length + 1)


def losses(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """`[batch, pos]`: the loss of the token at each position; NaN at position 0."""
    result = torch.full(tokens.shape, float("nan"))
    for row in range(tokens.shape[0]):
        for position in range(1, tokens.shape[1]):
            result[row, position] = -log_probs[row, position - 1, tokens[row, position]]
    return result


def _late_minus_early(log_probs: Tensor, tokens: Tensor) -> Tensor:
    early, late = (
        -log_probs[torch.arange(len(tokens)), position - 1, tokens[:, position]]
        for position in (EARLY, LATE)
    )
    return late - early


def _previous_token(ids: list[int], query: int, key: int) -> bool:
    return query >= 2 and key == query - 1


def _induction(ids: list[int], query: int, key: int) -> bool:
    return key - 1 >= 1 and ids[key - 1] == ids[query]


def _duplicate_token(ids: list[int], query: int, key: int) -> bool:
    return 1 <= key < query and ids[key] == ids[query]


TARGETS = {
    "previous_token": _previous_token,
    "induction": _induction,
    "duplicate_token": _duplicate_token,
}


def _score(patterns: Tensor, tokens: Tensor, name: str) -> Tensor:
    """Attention on the targets, summed over keys; the mean over the queries that have targets."""
    n_layers, n_heads = patterns.shape[:2]
    total = torch.zeros(n_layers, n_heads, dtype=torch.float64)
    n_queries = 0
    for row, ids in enumerate(tokens.tolist()):
        for query in range(len(ids)):
            keys = [key for key in range(query + 1) if TARGETS[name](ids, query, key)]
            n_queries += bool(keys)
            total += patterns[:, :, row, query, keys].double().sum(dim=-1)
    return (total / n_queries).float()
