"""Tokens as people have them: text, lists, arrays and columns, as rows of ids with their padding.

Text is encoded as text, without special tokens, and gets the model's BOS before it. Ids are taken
as they are, so they have their BOS already. Rows of different lengths are padded on the right, with
a mask; no number depends on padding (see `sequences`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.models.encoding import encode
from induction_lens.models.hooks import Model
from induction_lens.models.properties import bos_id, model_name, shape, tokenizer_of

_FORMS = (
    "pass a text, a list of texts, or token ids [batch pos] with BOS at position 0 as a tensor, an "
    "array or lists"
)


@dataclass(frozen=True)
class Given:
    """What was passed as tokens, as a tensor; its ids are not checked yet."""

    ids: Any
    """Token ids [batch pos], 0 where there is padding; or what was passed, if it is no tokens."""
    mask: Any = None
    """True where there is a token; None: everywhere, as far as is known."""
    documents: Int[Tensor, "batch pos"] | None = None
    """The number of the text that each token is of, where texts were passed: equal ones share it.
    """


def given_tokens(model: Model, tokens: Any, mask: Any = None) -> Given:
    """Rows of ids, of tokens in any form.

    Args:
        model: The model whose tokens they are.
        tokens: A text or several; ids in a tensor, an array, a column or lists, of one sequence or
            several; or what a tokenizer returns.
        mask: 1 for a token and 0 for padding, in the same form.

    Raises:
        ValueError: They are a mixture, or unordered, or can be gone through only once; rows differ
            in length although there is a mask; or a text is empty, too long, begins with the
            tokenizer's BOS, or is the name of a file.
    """
    if isinstance(tokens, Mapping):
        mask = tokens.get("attention_mask") if mask is None else mask
        tokens = tokens.get("input_ids")
    mask = mask_of(mask)
    if isinstance(tokens, Tensor):
        return Given(_rows(tokens), _rows(mask))
    texts = _texts(tokens)
    if texts is not None:
        if mask is not None:
            raise ValueError(
                "expected no mask with texts, got one; the lengths of texts are known, so leave it "
                "out"
            )
        return _encoded(model, texts)
    ids = whole_numbers(tokens)
    if not isinstance(ids, list):
        return Given(tokens if ids is None else _rows(ids), _rows(mask))
    ids, kept = _padded(ids)
    if mask is not None and not _is_all_ones(mask, kept):
        raise ValueError(
            "expected rows of one length with a mask, got rows of several; pad them, or leave the "
            "mask out"
        )
    return Given(ids, kept)


def mask_of(mask: Any) -> Any:
    """A mask in any form as a tensor, or as rows where these differ in length."""
    import numpy as np

    if mask is None or isinstance(mask, Tensor):
        return mask
    made = whole_numbers(mask)
    if made is not None:
        return made
    try:
        values = np.asarray(mask)
    except (TypeError, ValueError):  # rows of different lengths
        return mask
    return torch.from_numpy(values.astype(float)) if values.dtype.kind in "bf" else mask


def _is_all_ones(mask: Any, kept: Tensor) -> bool:
    """Whether rows of a mask are as long as those of the tokens, and mask nothing."""
    if not isinstance(mask, list):
        return False
    rows, there = _padded(mask)
    return torch.equal(there, kept) and torch.equal(rows != 0, kept)


def _texts(tokens: Any) -> list[str] | None:
    """The texts that tokens are; None if they are none."""
    if isinstance(tokens, (str, bytes)):
        return [tokens] if isinstance(tokens, str) else None
    if hasattr(tokens, "columns"):
        raise checks.refuse("tokens", "one column", tokens, "pass frame['text'], say")
    if isinstance(tokens, (set, frozenset)):
        raise checks.refuse("tokens", "in order", tokens, "pass a list")
    if not isinstance(tokens, Iterable) or getattr(tokens, "ndim", 1) == 0:
        return None
    if not hasattr(tokens, "__len__"):
        raise checks.refuse("tokens", "a list", tokens, "pass list(tokens)")
    items = list(tokens)
    are_texts = [isinstance(item, str) for item in items]
    if not any(are_texts):
        return None
    if not all(are_texts):
        row = are_texts.index(False)
        raise ValueError(
            f"expected texts alone, got {checks.shown(items[row])} at {row}; leave it out, or pass "
            "ids alone"
        )
    return items


def _encoded(model: Model, texts: list[str]) -> Given:
    """Texts as rows of ids, BOS first."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        raise ValueError(
            f"expected token ids with {model_name(model)}, which has no tokenizer, got a text; set "
            "model.tokenizer, or pass ids"
        )
    bos, n_ctx = getattr(tokenizer, "bos_token", None), shape(model).n_ctx
    for number, text in enumerate(texts):
        if not text:
            raise ValueError(f"expected texts, got an empty one at {number}; leave it out")
        if bos and text.startswith(bos):
            raise ValueError(
                f"expected texts without BOS, which is put before each, got {bos!r} at the "
                f"beginning of text {number}; take it off"
            )
        if _is_file(text):
            raise ValueError(
                f"expected a text, got the name of a file, {text!r}; read it with "
                "induction_lens.inputs.texts_in, or sample_text for sequences of one length"
            )
    rows = [
        torch.tensor([bos_id(model), *ids], dtype=torch.long, device="cpu")
        for ids in encode(texts, tokenizer)
    ]
    for number, row in enumerate(rows):
        if len(row) > n_ctx:
            raise ValueError(
                f"expected texts of at most {n_ctx} tokens with BOS (the model's context), got "
                f"{len(row)} in text {number}; cut it, or see sample_text"
            )
    ids, kept = _padded(rows)
    firsts = {text: number for number, text in reversed(list(enumerate(texts)))}
    numbers = torch.tensor([firsts[text] for text in texts], device="cpu")
    return Given(ids, kept, numbers[:, None].expand(ids.shape))


def _is_file(text: str) -> bool:
    one_word = len(text.split()) == 1 and len(text) < 256 and "\0" not in text
    return one_word and os.path.splitext(text)[1] != "" and os.path.isfile(text)


def whole_numbers(given: Any) -> Any:
    """Whole numbers as a tensor, or as a list of rows where these differ in length; None, if they
    are something else, or can be gone through only once."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__len__"):
        return None
    kind = getattr(getattr(given, "dtype", None), "kind", "O")
    if kind != "O" or getattr(given, "ndim", 1) == 0:  # "O": of objects, such as lists
        return _from_array(given)
    return _from_items(list(given))


def _from_array(given: Any) -> Tensor | None:
    """The numbers of an array or a column; None where it holds something else."""
    import numpy as np

    values = np.asarray(given)
    largest = np.iinfo(np.int64).max
    if values.dtype.kind not in "iu" or (values.size and int(values.max()) > largest):
        return None
    return torch.from_numpy(values.astype(np.int64))


def _from_items(items: list[Any]) -> Tensor | list[Tensor] | None:
    if items and all(map(_is_whole, items)):
        return torch.tensor([int(item) for item in items], dtype=torch.long, device="cpu")
    rows = [whole_numbers(item) for item in items]
    if not rows or not all(isinstance(row, Tensor) and _is_row(row) for row in rows):
        return None
    rows = [row.cpu().long() for row in rows]
    return torch.stack(rows) if len({len(row) for row in rows}) == 1 else rows


def _is_row(row: Tensor) -> bool:
    inexact = row.is_floating_point() or row.is_complex() or row.dtype == torch.bool
    return row.ndim == 1 and not inexact


def _is_whole(item: Any) -> bool:
    if isinstance(item, Tensor):
        return _is_row(item.reshape(-1)) and item.ndim == 0
    whole = isinstance(item, Integral) and not isinstance(item, bool)
    return whole and -(2**63) <= int(item) < 2**63


def _rows(ids: Any) -> Any:
    """One sequence as a row."""
    return ids[None] if isinstance(ids, Tensor) and ids.ndim == 1 and len(ids) else ids


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows with 0 after their ends, and where their tokens are."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device="cpu")
    kept = torch.zeros(len(rows), longest, dtype=torch.bool, device="cpu")
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        kept[number, : len(row)] = True
    return ids, kept
