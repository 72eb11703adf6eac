"""Sequences of tokens as they are passed in, padding included.

Rows of different lengths come padded, on the left or on the right, with a mask. No model runs on
padding here: rows are taken out of their padding, and run with rows of equal length, so that every
number is that of the sequence without padding, whatever the model does with masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOfItems
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models.fidelity import check_causal
from induction_lens.models.fitness import foreign_code
from induction_lens.models.hooks import Model
from induction_lens.models.prompts import given_tokens, whole_numbers
from induction_lens.models.properties import checked_tokens


@dataclass(frozen=True, eq=False)
class TextTokens:
    """Sequences cut from documents, with where each token comes from.

    Sequences of one document are no independent evidence: with this, intervals are over documents.
    """

    tokens: Int[Tensor, "batch pos"]
    """Token ids, BOS at position 0."""
    documents: Int[Tensor, "batch pos"]
    """The number of the document that each token comes from, on the CPU."""
    at_beginnings: bool = False
    """Whether every sequence is the beginning of a document, and not a cut at any place."""
    n_read: int | None = None
    """Tokens of the whole text that they were drawn from, where that is known."""

    def __post_init__(self) -> None:
        """Check that there is a document for every token.

        Raises:
            ValueError: If there is not.
        """
        shapes = [list(getattr(x, "shape", ())) for x in (self.tokens, self.documents)]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise ValueError(
                f"expected tokens and documents of one shape [batch, pos], got {shapes[0]} and "
                f"{shapes[1]}; see sample_text"
            )

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> TextTokens:
        """Some of the sequences."""
        of_rows = (self.tokens[rows], self.documents[rows])
        return TextTokens(*of_rows, self.at_beginnings, self.n_read)


FEWEST_DOCUMENTS = 5
"""With fewer, intervals over documents say nothing: those of two reach from end to end."""


def units_of(
    documents: Int[Tensor, "batch pos"] | None, position: int
) -> Int[Tensor, " batch"] | None:
    """What intervals of a score at a position are over: the documents of the tokens there.

    None, which is sequences, where documents are not known or there are fewer than five: such an
    interval holds for this text alone.
    """
    if documents is None or len(documents[:, position].unique()) < FEWEST_DOCUMENTS:
        return None
    return documents[:, position]


@runtime_checkable
class Items(Protocol):
    """An array, or a column of a data frame."""

    def tolist(self) -> list[Any]:
        """What it holds."""
        ...


Tokens = (
    Int[Tensor, "_ _"]
    | Int[Tensor, " _"]
    | str
    | Items
    | SequenceOfItems[Any]
    | Mapping[str, Any]
    | TextTokens
)
"""A text or several; token ids of one sequence or several, in a tensor, an array, a column or
lists; what a tokenizer returns (`input_ids` with an `attention_mask`); or `TextTokens`.

Text is encoded as text, with the model's BOS before it. Ids are taken as they are, BOS at position
0. Texts and lists may differ in length: no number depends on the padding that is put after them."""


Ids = Int[Tensor, "_ _"] | Int[Tensor, " _"] | Items | SequenceOfItems[Any] | TextTokens
"""Token ids of sequences of one length: in a tensor, an array, lists, or `TextTokens`."""
Mask = Int[Tensor, "*_"] | Bool[Tensor, "*_"] | Float[Tensor, "*_"] | Items | SequenceOfItems[Any]
"""1 or True for a token, 0 or False for padding, for each of the tokens: in a tensor, an array or
lists."""


@dataclass(frozen=True)
class Sequences:
    """Token sequences in the rows of a tensor, with where each begins and ends."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids as they were given, int64, padding included."""
    starts: Int[Tensor, " batch"]
    """The column of each sequence's first token."""
    lengths: Int[Tensor, " batch"]
    """Tokens in each sequence."""
    documents: Int[Tensor, "batch pos"] | None = None
    """The number of the document that each token comes from, where that is known."""
    at_beginnings: bool = False
    """Whether every sequence is the beginning of a document, as far as is known."""

    @classmethod
    def unpadded(cls, tokens: Int[Tensor, "batch pos"]) -> Sequences:
        """Rows that are sequences from their first token to their last."""
        starts = torch.zeros(len(tokens), dtype=torch.long, device="cpu")
        return cls(tokens, starts, torch.full_like(starts, tokens.shape[1]))

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Sequences:
        """Some of the sequences."""
        documents = None if self.documents is None else self.documents[rows]
        of_rows = (self.tokens[rows], self.starts[rows], self.lengths[rows])
        return Sequences(*of_rows, documents, self.at_beginnings)

    @property
    def is_padded(self) -> bool:
        """Whether any row holds more than its sequence."""
        return bool((self.lengths < self.tokens.shape[1]).any())

    @property
    def longest(self) -> int:
        """Tokens in the longest sequence."""
        return int(self.lengths.max())

    def units(self, position: int) -> Int[Tensor, " batch"] | None:
        """What intervals of a score at a position are over: see `units_of`."""
        return units_of(self.documents, position)

    def cut(self, start: int, stop: int) -> Sequences:
        """The tokens at positions from `start` to `stop - 1`, after the first of each sequence.

        The first stays the first (BOS), so that position `p` of a cut is position
        `p + start - 1` of the sequence.
        """
        columns = torch.tensor([0, *range(start, stop)], device="cpu")
        columns = self.starts[:, None] + columns
        return Sequences.unpadded(self.tokens.gather(1, columns.to(self.tokens.device)))

    def groups(self) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, "row pos"]]]:
        """Sequences of equal length: which rows they are, and their tokens, from the first on."""
        for length in self.lengths.unique().tolist():
            [rows] = torch.where(self.lengths == length)
            columns = self.starts[rows, None] + torch.arange(length, device="cpu")
            yield rows, self.tokens[rows].gather(1, columns.to(self.tokens.device))

    def one_length(self, what: str) -> Int[Tensor, "batch pos"]:
        """The tokens, if all sequences are of one length.

        Raises:
            ValueError: If they are not; `what` names what needs that.
        """
        groups = list(self.groups())
        if len(groups) > 1:
            raise ValueError(
                f"expected sequences of one length for {what}, got some of "
                f"{int(self.lengths.min())} to {self.longest} tokens; cut them to one length"
            )
        return groups[0][1]


def sequences_of(model: Model, tokens: Any, mask: Any = None) -> Sequences:
    """The sequences in some tokens.

    Args:
        model: The model whose tokens they are.
        tokens: Tokens in any form (see `Tokens`); `TextTokens` are not padded.
        mask: 1 or True where there is a token, 0 or False where there is padding, [batch pos], in
            any form (see `Mask`).

    Raises:
        ValueError: If the model predicts from later tokens, or cannot read these; the mask does not
            fit them, masks a whole row, or has holes; or tokens look padded without a mask; or as
            `prompts.given_tokens`.
    """
    if isinstance(tokens, Sequences):
        return tokens
    if foreign_code(model) is None:  # whose hooks may not expect the short passes of the check
        check_causal(model)
    text = tokens if isinstance(tokens, TextTokens) else None
    given = given_tokens(model, tokens if text is None else text.tokens, mask)
    tokens, mask = given.ids, given.mask
    if mask is None:
        ids = checked_tokens(model, tokens)
        if text is None:  # whose rows are known to be text
            _check_unpadded(model, ids)
        kept = torch.ones(ids.shape, dtype=torch.bool, device="cpu")
    else:
        kept = _checked_mask(tokens, mask)
        # ids where nothing is read need not be valid
        ids = checked_tokens(model, tokens.long().masked_fill(~kept.to(tokens.device), 0))
    starts = kept.int().argmax(1)
    if given.documents is not None:
        return Sequences(ids, starts, kept.sum(1), given.documents, at_beginnings=True)
    if text is None or mask is not None:
        return Sequences(ids, starts, kept.sum(1))
    return Sequences(ids, starts, kept.sum(1), text.documents.cpu(), text.at_beginnings)


def ids_of(name: str, tokens: Ids, *, remedy: str) -> Int[Tensor, "batch pos"]:
    """Rows of token ids of one length, without a model: from a tensor, an array, lists or
    `TextTokens`.

    Args:
        name: What the argument is called.
        tokens: The ids; a single row may come as one.
        remedy: What to do instead.

    Raises:
        ValueError: If they are something else.
    """
    given = tokens.tokens if isinstance(tokens, TextTokens) else tokens
    made = None if isinstance(given, (set, frozenset)) else whole_numbers(given)
    if isinstance(made, Tensor):
        made = made[None] if made.ndim == 1 and len(made) else made
        made = made.long() if made.dtype in _UNSIGNED else made
    shown = made if isinstance(made, Tensor) else given
    return checks.tensor(name, shown, axes=("batch", "pos"), whole=True, remedy=remedy)


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # with which torch can do next to nothing


def _checked_mask(tokens: Any, mask: Any) -> Tensor:
    """The mask as booleans on the CPU.

    Raises:
        ValueError: As `sequences_of`.
    """
    expected = list(tokens.shape) if isinstance(tokens, Tensor) else "those of tokens"
    remedy = "pass what the tokenizer returns, or tokens with mask=attention_mask"
    if not isinstance(mask, Tensor) or not isinstance(tokens, Tensor) or mask.shape != tokens.shape:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"expected a mask of zeros and ones of shape {expected}, got {got}; {remedy}"
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"expected token ids beside the mask, got {tokens.dtype}; {remedy}")
    kept = mask.detach().cpu() != 0
    if tokens.ndim != 2 or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"expected a mask of zeros and ones of shape [batch, pos], got other values or shape "
            f"{list(mask.shape)}; {remedy}"
        )
    if not bool((kept.sum(1) >= 2).all()):
        raise ValueError(
            "expected at least two tokens in every row, got a row with fewer that are not padding; "
            "leave it out"
        )
    n_edges = (kept.int().diff(dim=1) != 0).sum(1) + kept[:, 0].int() + kept[:, -1].int()
    if not bool((n_edges == 2).all()):
        raise ValueError(
            "expected padding only at the ends of rows, got a mask with holes; what is masked "
            "between tokens would have to be left out of their contexts"
        )
    return kept


def _check_unpadded(model: Model, tokens: Int[Tensor, "batch pos"]) -> None:
    """Check that no row begins or ends with padding, which would be counted as text.

    Raises:
        ValueError: Naming the row.
    """
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or tokens.shape[1] < 3:
        return
    is_pad = tokens == pad
    # Where the token for padding is BOS too, a row of packed text may begin with BOS and a new
    # document's BOS.
    fewest = 3 if pad == getattr(tokenizer, "bos_token_id", None) else 2
    padded = is_pad[:, :fewest].all(1) | is_pad[:, -2:].all(1)
    if bool(padded.any()):
        row = int(padded.int().argmax())
        raise ValueError(
            f"expected sequences without padding, got row {row}, which begins or ends with token "
            f"{pad} (the tokenizer's padding) more than once; pass mask=attention_mask, or "
            "mask=torch.ones_like(tokens) if these tokens are meant"
        )
