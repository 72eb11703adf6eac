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

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.context import knocked_out
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.estimates import Estimate, bootstrap_mean
from induction_lens.heads import HeadLike, parse_heads
from induction_lens.inputs.tokens import repeated_random_tokens, shuffled
from induction_lens.metrics import per_token_loss
from induction_lens.models import Ids, Model, Tokens, ids_of, sequences_of, shape
from induction_lens.packing import Comparable
from induction_lens.style import TEXT, Theme, new_figure, themed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import plotly.graph_objects as go

Order = Literal[2, 3]
KNOCKED_OUT = "model without heads"
MOST_IDS = 2**21
"""The largest vocabulary: a triple of its tokens is one number of 64 bits."""


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

    def losses(self, tokens: Ids, *, order: Order | int) -> Float[Tensor, "batch pos"]:
        """The table's loss of every token, in nats, as float32 on the CPU.

        Position 0 is NaN; position 1 has a context of one token only, whatever the order.

        Args:
            tokens: Sequences with BOS at position 0.
            order: 2 for the bigram table, 3 for the trigram table.

        Raises:
            ValueError: The order is another, the tokens are no sequences of ids, or an id is
                outside the vocabulary.
        """
        import numpy as np

        if order not in (2, 3):
            raise ValueError(f"expected order 2 or 3, got {order}; 3 is the trigram table")
        ids = _ids("tokens", tokens, self.d_vocab).detach().cpu().numpy().astype(np.int64)
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


def count_ngrams(training: Ids, *, d_vocab: int) -> NgramTables:
    """Count the tokens, bigrams and trigrams of a training text.

    Args:
        training: Packed sequences with BOS at position 0. No n-gram crosses two sequences, and BOS
            at position 0 is a context but is never counted as a token that follows.
        d_vocab: Number of token ids.

    Raises:
        ValueError: The tokens are no sequences of ids, an id is outside the vocabulary, the
            sequences are shorter than 3, or the vocabulary is too large for triples in 64 bits.

    Examples:
        >>> import torch
        >>> training = torch.tensor([[0, 1, 2, 1, 2], [0, 1, 2, 1, 3]])
        >>> tables = il.tracking.count_ngrams(training, d_vocab=4)
        >>> tables.n_tokens
        8
        >>> bool(tables.losses(training, order=2)[:, 1:].isfinite().all())
        True
    """
    d_vocab = checks.whole_number("d_vocab", d_vocab, least=1)
    if d_vocab > MOST_IDS:
        raise ValueError(
            f"expected d_vocab of at most {MOST_IDS}, so that a triple of tokens fits 64 bits, got "
            f"{d_vocab}"
        )
    training = _ids("training", training, d_vocab)
    if training.shape[1] < 3:
        raise ValueError(
            f"expected sequences of at least 3 tokens, got {training.shape[1]}; trigrams need "
            "BOS and two tokens"
        )
    ids = training.detach().cpu().numpy()
    counts = {1: _count(ids[:, 1:], 1, d_vocab)}
    counts |= {order: _count(ids, order, d_vocab) for order in (2, 3)}
    return NgramTables(d_vocab, ids[:, 1:].size, counts)


@dataclass(frozen=True, eq=False)
class NgramControl(Comparable):
    """Losses of the tables, the model, and the model without heads, on three kinds of tokens."""

    losses: Mapping[str, Mapping[str, Tensor]]
    """Loss per token [batch pos] in nats, by kind of tokens (`text`, `shuffled`, `repeated`) and
    predictor (`bigram`, `trigram`, `model`, `model without heads`)."""
    means: Mapping[str, Mapping[str, Estimate]]
    """Mean loss with its bootstrap interval over sequences; on repeated random tokens from
    the second token of the second copy on, where repetition is all there is to know. Under
    `copying`: the loss in the first copy minus that, paired by sequence: what is gained by copying.
    """
    uniform: float
    """ln(vocabulary): the loss of knowing nothing, in nats."""
    heads: tuple[str, ...]
    """The heads that were knocked out."""

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Bars of mean losses with their intervals, by kind of tokens and predictor.

        Raises:
            ValueError: If there is no such theme.
        """
        import plotly.graph_objects as go

        figure = new_figure([], height=360)
        for predictor in self.means["text"]:
            named = {k: means[predictor] for k, means in self.means.items() if predictor in means}
            bars = go.Bar(
                x=list(named),
                y=[mean.value for mean in named.values()],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [mean.high - mean.value for mean in named.values()],
                    "arrayminus": [mean.value - mean.low for mean in named.values()],
                    "color": TEXT,
                    "width": 0,
                },
                name=predictor,
                hovertemplate=f"{predictor}, %{{x}}: %{{y:.3f}} nats<extra></extra>",
            )
            figure.add_trace(bars)
        figure.update_yaxes(title_text="loss (nats)")
        return themed(figure, theme)

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
    text: Tokens,
    tables: NgramTables,
    *,
    method: AblationMethod | Method | str = "mean",
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

    Examples:
        >>> model = il.load("toy-2l")
        >>> training = il.repeated_random_tokens(model, n_sequences=8, seed=1)
        >>> tables = il.tracking.count_ngrams(training, d_vocab=model.cfg.d_vocab)
        >>> text = il.repeated_random_tokens(model, n_sequences=8)  # or real text
        >>> control = il.tracking.ngram_control(model, ["1.6"], text, tables)
        >>> {name: round(loss.value) for name, loss in control.means["repeated"].items()}
        {'bigram': 8, 'trigram': 8, 'model': 8, 'model without heads': 9}
    """
    checks.model(model)
    text = sequences_of(model, text).one_length("counts of n-grams")
    _check_control(model, text, tables, n_tokens=n_tokens, n_repeats=n_repeats)
    sizes = shape(model)
    chosen = parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads)
    ablation = as_method(method, reference=text, seed=checks.seed(seed))
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
        with knocked_out(model, chosen, method=ablation, reference=text):
            losses[kind][KNOCKED_OUT] = per_token_loss(model, tokens, progress=progress)
    means = {
        kind: {
            name: bootstrap_mean(loss[:, first[kind] :].mean(1), confidence=confidence, seed=seed)
            for name, loss in of_kind.items()
        }
        for kind, of_kind in losses.items()
    }
    means["copying"] = {
        name: bootstrap_mean(gained_by_copying(loss, n_tokens), confidence=confidence, seed=seed)
        for name, loss in losses["repeated"].items()
    }
    return NgramControl(
        losses, means, math.log(tables.d_vocab), tuple(str(head) for head in chosen)
    )


def gained_by_copying(
    losses: Float[Tensor, "sequence pos"], n_tokens: int
) -> Float[Tensor, " sequence"]:
    """The mean loss in the first copy of random tokens minus that in later ones, in nats.

    Later copies count from the second token of the second copy on, the first that repetition tells.
    A model that does not look back has the same loss in all copies, whatever it makes of random
    tokens.

    Args:
        losses: Of BOS and copies of `n_tokens` tokens.
        n_tokens: Tokens in one copy.

    Examples:
        >>> import torch
        >>> losses = torch.tensor([[0.0, 7.0, 9.0, 8.0, 1.0, 8.0, 1.0]])  # BOS, then 3 copies of 2
        >>> il.tracking.gained_by_copying(losses, n_tokens=2)
        tensor([4.6667])
    """
    return losses[:, 1 : n_tokens + 1].mean(1) - losses[:, n_tokens + 2 :].mean(1)


def _check_control(
    model: Model, text: Tensor, tables: Any, *, n_tokens: int, n_repeats: int
) -> None:
    if text.shape[1] < 2:
        raise ValueError("expected text of at least 2 positions, got 1; position 0 has no loss")
    # The first token that repetition tells is the second one of the second copy.
    checks.whole_number("n_tokens", n_tokens, least=2)
    checks.whole_number("n_repeats", n_repeats, least=2)
    if not isinstance(tables, NgramTables):
        raise ValueError(
            f"expected tables from count_ngrams, got {type(tables).__name__}; count the training "
            "text first"
        )
    d_vocab = shape(model).d_vocab
    if tables.d_vocab != d_vocab:
        raise ValueError(
            f"expected tables of the model's vocabulary, {d_vocab}, got {tables.d_vocab}; count "
            f"with d_vocab={d_vocab}"
        )


def _ids(name: str, tokens: Ids, d_vocab: int) -> Int[Tensor, "batch pos"]:
    """Token ids of a vocabulary."""
    tokens = ids_of(name, tokens, remedy="pass token ids of one length, see text_tokens")
    low = int(tokens.min())
    high = int(tokens.max())
    if low < 0 or high >= d_vocab:
        raise ValueError(
            f"expected ids from 0 to {d_vocab - 1}, got {low} to {high}; tokenise with the model's "
            "own tokenizer"
        )
    return tokens


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

    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, values[places], 0)
