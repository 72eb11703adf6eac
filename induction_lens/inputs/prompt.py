"""One prompt, as people have it: a text, or its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models import Model, Tokens, sequences_of, tokenizer_of

Prompt = str | Sequence[int] | Int[Tensor, " pos"] | Tokens
"""A text; or token ids with BOS at position 0, as a list, a tensor [pos] or one row of tokens."""


def one_sequence(model: Model, prompt: Prompt) -> Int[Tensor, " pos"]:
    """The tokens of one prompt, BOS at position 0, on the CPU.

    Read as tokens are everywhere: a text gets the model's BOS, of tokens the first is taken for
    BOS, and padding is taken off.

    Raises:
        ValueError: If it is neither a text nor token ids, there is no tokenizer for a text, there
            are less than two tokens or more than one sequence, or the model cannot read them.
    """
    sequences = sequences_of(model, prompt)
    if len(sequences) > 1:
        remedy = "pass one of them, such as prompts[0]"
        raise checks.refuse("tokens", "one sequence", None, remedy, given=f"{len(sequences)}")
    sequence = sequences.one_length("one prompt")[0].cpu()
    if len(sequence) < 2:
        remedy = "put BOS before what the model is to read"
        raise checks.refuse("tokens", "at least two", None, remedy, given="one")
    return sequence


def token_texts(model: Model, ids: Int[Tensor, " pos"]) -> tuple[str, ...]:
    """The text of each token, its white space included; ids as text where there is no tokenizer."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return ("BOS", *(str(i) for i in ids[1:].tolist()))
    return tuple(_text_of(tokenizer, i) for i in ids.tolist())


def _text_of(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token])
    piece = tokenizer.convert_ids_to_tokens(token)
    # SentencePiece's mark of a space, which decoding drops from a text's first token
    spaced = isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" ")
    return f" {text}" if spaced else text
