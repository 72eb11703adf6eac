"""Could it be memorised n-gram statistics? A model's losses beside those of counted tables.

1. `count_ngrams` counts pairs and triples of tokens in the training text, as sorted keys with
   counts: memory grows with the text, never with the vocabulary's square or cube.
2. `NgramTables.losses` smooths them by interpolated Witten-Bell: with c the count of a context, T
   the number of distinct tokens seen after it, and P' the estimate from a context shorter by one,
   `P(w | context) = (c(context, w) + T P'(w)) / (c + T)`; below single tokens lies 1 / vocabulary.
3. `ngram_control` puts the tables, the model, and the model without some heads side by side on
   text, on the same text shuffled, and on repeated random tokens.

Repeated random tokens are what no table can predict: on tokens drawn uniformly any fixed table
loses at least ln(vocabulary) on average. A model that does better there reads its context.
Leaves out contexts longer than two tokens.

Source: Witten and Bell, "The zero-frequency problem", 1991, in the interpolated form of Chen and
Goodman, "An empirical study of smoothing techniques for language modeling", 1999.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import HeadLike
from induction_lens.knockout import Method, knocked_out
from induction_lens.metrics import Estimate, bootstrap_mean, per_token_loss
from induction_lens.models import Model, checked_tokens, shape
from induction_lens.tokens import repeated_random_tokens, shuffled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Order = Literal[2, 3]
KNOCKED_OUT = "model without heads"


@dataclass(frozen=True)
class _Counts:
    """How often each token follows each context, sparsely."""

    keys: np.ndarray[Any, Any]
    """Context times vocabulary plus token, ascending."""
    counts: np.ndarray[Any, Any]
    """Occurrences of each key."""
    contexts: np.ndarray[Any, Any]
    """Contexts that occur, ascending."""
    totals: np.ndarray[Any, Any]
    """Tokens that follow each context."""
    types: np.ndarray[Any, Any]
    """Distinct tokens that follow each context."""


@dataclass(frozen=True)
class NgramTables:
    """Bigram and trigram statistics of a text, from `count_ngrams`."""

    d_vocab: int
    """Number of token ids."""
    n_tokens: int
    """Tokens that were counted, those at position 0 left out."""
    by_order: Mapping[int, _Counts]
    """Counts by order: 1 for tokens, 2 for bigrams, 3 for trigrams."""

    def losses(
        self, tokens: Int[Tensor, "batch pos"], *, order: Order | int
    ) -> Float[Tensor, "batch pos"]:
        """The table's loss of every token, in nats, as float32 on the CPU.

        Position 0 is NaN; position 1 has a context of one token only, whatever the order.

        Args:
            tokens: Sequences with BOS at position 0.
            order: 2 for the bigram table, 3 for the trigram table.

        Raises:
            ValueError: The order is another, or an id is outside the vocabulary.
        """
        import numpy as np

        if order not in (2, 3):
            raise ValueError(f"expected order 2 or 3, got {order}; 3 is the trigram table")
        _check_ids(tokens, self.d_vocab)
        ids = tokens.cpu().numpy().astype(np.int64)
        losses = np.full(ids.shape, np.nan)
        probability = np.full(ids[:, 1:].shape, 1 / self.d_vocab)
        for length in range(order):  # of the context, in tokens
            later = probability[:, max(length - 1, 0) :]  # a view: positions with such a context
            later[:] = self._interpolated(ids, length, later)
        losses[:, 1:] = -np.log(probability)
        return torch.from_numpy(losses).float()

    def _interpolated(
        self, ids: np.ndarray[Any, Any], length: int, shorter: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Probabilities with contexts of `length`, from those with contexts shorter by one."""
        import numpy as np

        table = self.by_order[length + 1]
        first = max(length, 1)
        keys = _keys(ids[:, first - length :], length + 1, self.d_vocab)
        count = _look_up(table.keys, table.counts, keys)
        contexts = keys // self.d_vocab
        total = _look_up(table.contexts, table.totals, contexts)
        types = _look_up(table.contexts, table.types, contexts)
        mixed = (count + types * shorter) / np.maximum(total + types, 1)
        return np.where(total > 0, mixed, shorter)


def count_ngrams(training: Int[Tensor, "sequence pos"], *, d_vocab: int) -> NgramTables:
    """Count the tokens, bigrams and trigrams of a training text.

    Args:
        training: Packed sequences with BOS at position 0. No n-gram crosses two sequences, and BOS
            at position 0 is a context but is never counted as a token that follows.
        d_vocab: Number of token ids.

    Raises:
        ValueError: An id is outside the vocabulary, or the sequences are shorter than 3.
    """
    if training.shape[1] < 3:
        raise ValueError(
            f"expected sequences of at least 3 tokens, got {training.shape[1]}; trigrams need "
            "BOS and two tokens"
        )
    _check_ids(training, d_vocab)
    ids = training.cpu().numpy()
    counts = {1: _count(ids[:, 1:], 1, d_vocab)}
    counts |= {order: _count(ids, order, d_vocab) for order in (2, 3)}
    return NgramTables(d_vocab, ids[:, 1:].size, counts)


@dataclass(frozen=True)
class NgramControl:
    """Losses of the tables, the model, and the model without heads, on three kinds of tokens."""

    losses: Mapping[str, Mapping[str, Tensor]]
    """Loss per token [batch pos] in nats, by kind of tokens (`text`, `shuffled`, `repeated`) and
    predictor (`bigram`, `trigram`, `model`, `model without heads`)."""
    means: Mapping[str, Mapping[str, Estimate]]
    """Mean loss with its bootstrap interval over sequences; on repeated random tokens from
    the second token of the second copy on, where repetition is all there is to know."""
    uniform: float
    """ln(vocabulary): the loss of knowing nothing, in nats."""
    heads: tuple[str, ...]
    """The heads that were knocked out."""

    def to_frame(self) -> pd.DataFrame:
        """One row per kind of tokens and predictor: mean loss, interval, sequences."""
        import pandas as pd

        rows = [
            {
                "tokens": kind,
                "predictor": predictor,
                "loss": mean.value,
                "low": mean.low,
                "high": mean.high,
                "n": mean.n,
            }
            for kind, means in self.means.items()
            for predictor, mean in means.items()
        ]
        return pd.DataFrame(rows)


def ngram_control(
    model: Model,
    heads: Iterable[HeadLike],
    text: Int[Tensor, "batch pos"],
    tables: NgramTables,
    *,
    method: Method | str = "mean",
    n_tokens: int = 25,
    n_repeats: int = 4,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> NgramControl:
    """Compare a model with the n-gram tables of its training text.

    Args:
        model: A hooked model.
        heads: The heads to knock out, such as its induction heads.
        text: Text that the model was not trained on, BOS at position 0; shuffled as well.
        tables: From `count_ngrams` on the text that the model was trained on.
        method: How to knock out; the reference is `text`.
        n_tokens: Random tokens in one copy.
        n_repeats: Copies of the random tokens.
        confidence: Level of the bootstrap intervals over sequences.
        seed: Seed of the shuffling, the random tokens and the bootstrap.
        progress: Show progress bars.

    Raises:
        ValueError: The tables have another vocabulary; the heads, the method or the text do not
            fit the model.
        InterventionError: The model drops the knock-out's writes.
    """
    text = checked_tokens(model, text)
    if tables.d_vocab != shape(model).d_vocab:
        raise ValueError(
            f"expected tables of the model's vocabulary, {shape(model).d_vocab}, got "
            f"{tables.d_vocab}; count with d_vocab={shape(model).d_vocab}"
        )
    chosen = list(heads)
    random = repeated_random_tokens(
        model, n_sequences=len(text), n_tokens=n_tokens, n_repeats=n_repeats, seed=seed
    )
    kinds = {"text": text, "shuffled": shuffled(text, seed=seed), "repeated": random}
    # Only from the second token of the second copy on has the current token occurred before.
    first = {"text": 1, "shuffled": 1, "repeated": n_tokens + 2}
    losses: dict[str, dict[str, Tensor]] = {}
    for kind, tokens in kinds.items():
        losses[kind] = {
            "bigram": tables.losses(tokens, order=2),
            "trigram": tables.losses(tokens, order=3),
            "model": per_token_loss(model, tokens, progress=progress),
        }
        with knocked_out(model, chosen, method=method, reference=text, seed=seed):
            losses[kind][KNOCKED_OUT] = per_token_loss(model, tokens, progress=progress)
    means = {
        kind: {
            name: bootstrap_mean(loss[:, first[kind] :].mean(1), confidence=confidence, seed=seed)
            for name, loss in of_kind.items()
        }
        for kind, of_kind in losses.items()
    }
    uniform = float(torch.tensor(float(tables.d_vocab)).log())
    return NgramControl(losses, means, uniform, tuple(str(head) for head in chosen))


def _check_ids(tokens: Tensor, d_vocab: int) -> None:
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < d_vocab:
        raise ValueError(
            f"expected ids from 0 to {d_vocab - 1}, got {int(tokens.min())} to "
            f"{int(tokens.max())}; tokenise with the model's own tokenizer"
        )


def _keys(ids: np.ndarray[Any, Any], order: int, d_vocab: int) -> np.ndarray[Any, Any]:
    """One number for each n-gram of every row: its tokens as digits."""
    import numpy as np

    n = ids.shape[1] - order + 1
    keys = ids[:, :n].astype(np.int64)
    for offset in range(1, order):
        keys *= d_vocab
        keys += ids[:, offset : offset + n]
    return keys


def _count(ids: np.ndarray[Any, Any], order: int, d_vocab: int) -> _Counts:
    import numpy as np

    keys = _keys(ids, order, d_vocab).ravel()
    keys.sort()  # in place: half the memory of np.unique
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    counts = np.diff(np.r_[starts, len(keys)])
    keys = keys[starts]
    contexts = keys // d_vocab
    firsts = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
    return _Counts(
        keys,
        counts,
        contexts[firsts],
        np.add.reduceat(counts, firsts),
        np.diff(np.r_[firsts, len(keys)]),
    )


def _look_up(
    known: np.ndarray[Any, Any], values: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The values of the wanted keys, 0 where a key is not known."""
    import numpy as np

    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, values[at], 0)
