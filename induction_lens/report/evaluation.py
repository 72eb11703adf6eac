"""What a report measures on: which sequences, at which positions, and a passage to look at.

The paper takes the ICL score at positions 50 and 500 of text. Models with a shorter context, and
models without a tokenizer, get the nearest thing to it; each departure is a sentence for the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.heads import Head
from induction_lens.metrics import EARLY, LATE, Positions, choose_positions
from induction_lens.models import (
    Model,
    checked_tokens,
    device_of,
    installed,
    keep,
    ordinary_ids,
    running,
    shape,
    tokenizer_of,
)
from induction_lens.report.findings import Example
from induction_lens.tokens import Source, repeated_random_tokens, text_tokens

N_SEQUENCES = 256
SEQ_LEN = 512
PASSAGE = 56  # tokens of the passage that is shown


@dataclass(frozen=True)
class Data:
    """The sequences that losses are measured on."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids, BOS at position 0."""
    is_text: bool
    """Whether they are text; otherwise repeated random tokens."""
    about: str
    """Where they come from, in words."""
    positions: Positions
    """Where the ICL score is taken on them."""
    notes: tuple[str, ...]
    """What is different from the paper's setting, in sentences."""


def evaluation_data(
    model: Model,
    text: Int[Tensor, "batch pos"] | Source | None = None,
    *,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
) -> Data:
    """The sequences and positions for a model: text, or repeated random tokens where it must be.

    Raises:
        ValueError: if the text, or the positions asked for, do not fit the model.
    """
    if n_sequences < 2:
        raise ValueError(
            f"expected at least 2 sequences, got {n_sequences}; an interval needs more than one"
        )
    choose = partial(positions_and_notes, early=early, late=late, window=window)
    if isinstance(text, Tensor):
        text = checked_tokens(model, text)
        positions, notes = choose(text.shape[1])
        return Data(text, True, "token sequences passed by the caller", positions, notes)
    seq_len = min(shape(model).n_ctx, max(SEQ_LEN, (late or 0) + window + 1))
    if text is None and tokenizer_of(model) is None:
        return _random_data(model, seq_len, n_sequences, seed, choose)
    positions, notes = choose(seq_len)
    tokens = text_tokens(model, n_sequences=n_sequences, seq_len=seq_len, seed=seed, source=text)
    return Data(tokens, True, _about(text), positions, notes)


def positions_and_notes(
    seq_len: int,
    *,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    copy: int | None = None,
) -> tuple[Positions, tuple[str, ...]]:
    """What `choose_positions` chooses, and sentences about how that differs from the paper's.

    Raises:
        ValueError: if the positions asked for do not fit.
    """
    at = choose_positions(seq_len, early=early, late=late, window=window, copy=copy)
    if early is not None or late is not None or (at.early, at.late) == (EARLY, LATE):
        return at, ()
    note = (
        f"Sequences of {seq_len} tokens have no room for the paper's positions {EARLY} and "
        f"{LATE}, so the ICL score compares positions {at.early} and {at.late}"
        f" (windows of ±{at.window})."
    )
    return at, (note,)


def example_of(model: Model, head: Head, data: Data) -> Example:
    """A head's attention on a short passage of the data.

    The passage is the beginning-of-sequence token and a stretch with many repeated pairs of tokens;
    it is chosen by the text alone, not by what the head does on it. Without text, it is a few
    random tokens three times over.
    """
    if data.is_text:
        ids = _passage(data.tokens, length=min(PASSAGE, data.tokens.shape[1]))
    else:
        n_tokens = min((PASSAGE - 1) // 3, (shape(model).n_ctx - 1) // 3, len(ordinary_ids(model)))
        ids = repeated_random_tokens(model, n_tokens=n_tokens, n_repeats=3, n_sequences=1)[0]
    tokenizer = tokenizer_of(model)
    texts = ["BOS", *(str(int(i)) for i in ids[1:])]
    if tokenizer is not None:
        texts = [tokenizer.decode([int(i)]) for i in ids]
    return Example(head, tuple(texts), ids.cpu(), _pattern(model, head, ids))


def _about(text: Source | None) -> str:
    if text is None:
        return "held-out source files of the Python standard library"
    items = [text] if isinstance(text, (str, Path)) else text
    names = [str(item) for item in items]
    if any("\n" in name or len(name) > 200 for name in names):
        return "text passed by the caller"
    return f"text from {', '.join(names)}"


def _random_data(model: Model, seq_len: int, n_sequences: int, seed: int, choose: Callable) -> Data:
    n_tokens = min((seq_len - 1) // 3, len(ordinary_ids(model)))
    n_repeats = (seq_len - 1) // max(n_tokens, 1)
    if n_tokens < 2:
        raise ValueError(
            f"expected a context for three copies of random tokens, got {seq_len} tokens; "
            "use a model with a longer context"
        )
    positions, notes = choose(1 + n_tokens * n_repeats, copy=n_tokens)
    tokens = repeated_random_tokens(
        model, n_tokens=n_tokens, n_repeats=n_repeats, n_sequences=n_sequences, seed=seed
    )
    note = (
        f"The model has no tokenizer, so there is no text here: losses are measured on "
        f"{n_repeats} copies of {n_tokens} random tokens, where late tokens repeat early ones, and "
        "the previous-token score is on random tokens too. For text, put tokenizer.json beside the "
        "weights, set model.tokenizer, or pass token sequences as text=."
    )
    about = f"BOS and {n_repeats} copies of {n_tokens} random tokens"
    return Data(tokens, False, about, positions, (note, *notes))


def _passage(tokens: Int[Tensor, "batch pos"], *, length: int) -> Int[Tensor, " passage_pos"]:
    """BOS and the stretch, among the sequences' consecutive ones, with most repeated pairs."""
    bos = int(tokens[0, 0])
    best, most = tokens[0, :length], -1
    for row in tokens[:64].cpu():
        for start in range(1, len(row) - length + 2, length - 1):
            stretch = row[start : start + length - 1].tolist()
            pairs = list(pairwise(stretch))
            # Different pairs that recur, not how often: a run of spaces is no good example.
            recurring = len({pair for pair in pairs if pairs.count(pair) > 1})
            recurring += len(set(stretch)) // 8
            if recurring > most and bos not in stretch:
                best, most = torch.tensor([bos, *stretch]), recurring
    return best.cpu()


def _pattern(
    model: Model, head: Head, ids: Int[Tensor, " pos"]
) -> Float[Tensor, "query_pos key_pos"]:
    kept: dict[int, Tensor] = {}
    with running(model), installed(model, keep("pattern", [head.layer], into=kept)):
        model(ids[None].to(device_of(model)))
    return kept[head.layer][0, head.head].float().cpu()
