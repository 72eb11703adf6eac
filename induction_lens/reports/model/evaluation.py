"""What a report measures on: which sequences, at which positions, and a passage to look at.

The paper takes the ICL score at positions 50 and 500 of text. Models with a shorter context, and
models without a tokenizer, get the nearest thing to it; each departure is a sentence for the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.heads import Head
from induction_lens.inputs.reading import TextSource
from induction_lens.inputs.tokens import Source, repeated_random_tokens, sample_text
from induction_lens.metrics import EARLY, LATE, Positions, choose_positions
from induction_lens.models import (
    FEWEST_DOCUMENTS,
    Model,
    TextTokens,
    Tokens,
    checked_tokens,
    device_of,
    forward,
    installed,
    keep,
    ordinary_ids,
    running,
    sequences_of,
    shape,
    tokenizer_of,
    whole_numbers,
)
from induction_lens.reports.model.findings import Example

N_SEQUENCES, N_SEQUENCES_OF_LARGE = 256, 64
"""With matched targets 64 sequences give the intervals that 256 gave by the paper's estimator."""
SEQ_LEN = 512
DEFAULT_TEXT = (
    "The text is Python source, since no other was named. For a model that was trained on prose, "
    "name what it reads: text= in Python, --text on the command line."
)
"""What is said of models that others trained."""
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
    documents: Int[Tensor, "batch pos"] | None = None
    """The document of each token, where that is known."""
    at_beginnings: bool = False
    """Whether sequences are beginnings of documents."""

    def cut(self, n: int) -> Data:
        """The same with the first sequences only."""
        documents = None if self.documents is None else self.documents[:n]
        return replace(self, tokens=self.tokens[:n], documents=documents)

    def first(self, n: int | None = None) -> Tokens:
        """The first sequences, with their documents where these are known."""
        if self.documents is None:
            return self.tokens[:n]
        return TextTokens(self.tokens[:n], self.documents[:n], self.at_beginnings)


def evaluation_data(
    model: Model,
    text: Int[Tensor, "batch pos"] | TextTokens | Source | None = None,
    *,
    n_sequences: int | None = None,
    seed: int = 0,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
) -> Data:
    """The sequences and positions for a model: text, or repeated random tokens where it must be.

    Raises:
        ValueError: If the text, or the positions asked for, do not fit the model.
    """
    checks.model(model)
    remedy = "an interval needs more than one"
    n_sequences = checks.whole_number(
        "n_sequences", n_sequences, least=2, optional=True, remedy=remedy
    )
    if n_sequences is None:
        n_sequences = default_n_sequences(model)
    choose = partial(positions_and_notes, early=early, late=late, window=window)
    if isinstance(text, (Tensor, TextTokens)):
        tokens = checked_tokens(model, text if isinstance(text, Tensor) else text.tokens)
        positions, notes = choose(tokens.shape[1])
        data = Data(tokens, True, "token sequences passed by the caller", positions, notes)
        if isinstance(text, Tensor):
            return data
        return replace(data, documents=text.documents, at_beginnings=text.at_beginnings)
    seq_len = min(shape(model).n_ctx, max(SEQ_LEN, (late or 0) + window + 1))
    if text is None and tokenizer_of(model) is None:
        return _random_data(model, seq_len, n_sequences, seed, choose)
    positions, notes = choose(seq_len)
    drawn = sample_text(model, n_sequences=n_sequences, seq_len=seq_len, seed=seed, source=text)
    notes += _note_on_documents(drawn.documents[:, positions.late])
    about = _about(text)
    if text is None and not hasattr(model, "toy_config"):
        notes += (DEFAULT_TEXT,)
    if text is not None and drawn.n_read is not None:
        about += f", of which {drawn.n_read:,} tokens were read"
    return Data(drawn.tokens, True, about, positions, notes, drawn.documents)


def as_text(model: Model, given: Any) -> Any:
    """Token ids in any form as a tensor; `TextTokens` and sources of text as they are.

    Raises:
        ValueError: They are no sequences of one length that the model can read.
    """
    if given is None or isinstance(given, (str, Path, TextSource, TextTokens, Tensor)):
        return given
    if isinstance(given, Mapping) or whole_numbers(given) is not None:
        return sequences_of(model, given).one_length("a report")
    return given


def default_n_sequences(model: Model) -> int:
    """Sequences to measure on: fewer of them where each takes long."""
    return N_SEQUENCES_OF_LARGE if is_large(model) else N_SEQUENCES


def is_large(model: Model) -> bool:
    """Whether passes take so long that they are saved where they can be."""
    return shape(model).is_large


def _note_on_documents(documents: Int[Tensor, " batch"]) -> tuple[str, ...]:
    """A sentence where documents are too few for intervals over documents."""
    n_documents = len(documents.unique())
    if n_documents >= FEWEST_DOCUMENTS:
        return ()
    few = "one document" if n_documents == 1 else f"{n_documents} documents"
    return (
        f"The text is {few}, so intervals are over its sequences, and hold for this text alone. "
        "For others, pass more documents: a folder of files, or .jsonl with one a row.",
    )


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
        ValueError: If the positions asked for do not fit.
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
    source = text.source if isinstance(text, TextSource) else text
    if not isinstance(source, (str, Path, Sequence)):  # a column, or an iterator that has been read
        return "text passed by the caller"
    names = [str(item) for item in TextSource(source).items]
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
                best, most = torch.tensor([bos, *stretch], device="cpu"), recurring
    return best.cpu()


def _pattern(
    model: Model, head: Head, ids: Int[Tensor, " pos"]
) -> Float[Tensor, "query_pos key_pos"]:
    kept: dict[int, Tensor] = {}
    with running(model), installed(model, keep("pattern", [head.layer], into=kept)):
        forward(model, ids[None].to(device_of(model)))
    return kept[head.layer][0, head.head].float().cpu()
