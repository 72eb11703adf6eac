"""One prompt, as people have it: a text, or its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.inputs.corpus import encode
from induction_lens.models import (
    Model,
    Tokens,
    bos_id,
    model_name,
    sequences_of,
    shape,
    tokenizer_of,
)

Prompt = str | Sequence[int] | Int[Tensor, " pos"] | Tokens
"""A text; or token ids with BOS at position 0, as a list, a tensor [pos] or one row of tokens."""


def one_sequence(model: Model, prompt: Prompt) -> Int[Tensor, " pos"]:
    """The tokens of one prompt, BOS at position 0, on the CPU.

    A text gets the model's BOS; a special token such as `<|endoftext|>` in it is encoded as plain
    text. Of tokens, the first is taken for BOS; padding is taken off.

    Raises:
        ValueError: If it is neither a text nor token ids, there is no tokenizer for a text, there
            are less than two tokens or more than one sequence, or the model cannot read them.
    """
    if isinstance(prompt, str):
        tokens = _encoded(model, prompt)
        mask = torch.ones_like(tokens)  # nothing in it is padding
    else:
        tokens, mask = _as_rows(prompt), None
    sequences = sequences_of(model, tokens, mask)
    if len(sequences) > 1:
        remedy = "pass one of them, such as tokens[:1]"
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


def _encoded(model: Model, text: str) -> Int[Tensor, "1 pos"]:
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        raise ValueError(
            f"expected a model with a tokenizer, got {model_name(model)}, which has none; put "
            "tokenizer.json beside its weights, set model.tokenizer, or pass tokens yourself"
        )
    [ids] = encode([text], tokenizer)
    if not ids:
        raise checks.refuse("the text", "at least one token", text, "write something")
    n_ctx = shape(model).n_ctx
    if len(ids) >= n_ctx:
        condition = f"at most {n_ctx} tokens with BOS (the model's context)"
        raise checks.refuse(
            "the text", condition, None, "pass a part of it", given=f"{1 + len(ids)}"
        )
    return torch.tensor([[bos_id(model), *ids]], device="cpu")


def _as_rows(prompt: Any) -> Any:
    """Ids in a list or in one axis as a table of one row; anything else as it is."""
    if isinstance(prompt, (list, tuple)) and prompt and all(_is_id(i) for i in prompt):
        return torch.tensor([[int(i) for i in prompt]], device="cpu")
    if isinstance(prompt, Tensor) and prompt.ndim == 1:
        return prompt[None]
    return prompt


def _is_id(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and abs(int(value)) < 2**62
