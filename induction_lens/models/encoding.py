"""Text as token ids: as text, whatever it contains, and whatever a tokenizer is set to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from induction_lens.models.properties import special_tokens

_CHUNK = 256  # documents encoded at a time: enough to fill the tokenizer's threads


def encode(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """The token ids of each text as text: without special tokens, and never cut or padded.

    The tokenizer's settings for padding, truncation and special tokens have no effect and do not
    change.

    Args:
        texts: What to encode; read a few hundred at a time.
        tokenizer: A Hugging Face tokenizer, fast or slow.

    Raises:
        ValueError: A text is not valid Unicode, or holds what the tokenizer can only read as a
            special token; or the tokenizer cannot be copied.
    """
    check_many(texts)
    special = special_tokens(tokenizer)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        encoder = partial(_encode_slow, tokenizer, special)
    else:
        encoder = _own_encoder(tokenizer)
    refused = _refused(tokenizer)
    remaining = iter(texts)
    while chunk := list(islice(remaining, _CHUNK)):
        for text in chunk:
            _check_unicode(text)
        for text, ids in zip(chunk, encoder(chunk), strict=True):
            _check_ordinary(text, ids, refused)
            yield ids


class PlacedEncoder:
    """Encodes texts like `encode`, with where each token is in its text."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer.

        Raises:
            ValueError: It cannot be copied.
        """
        self._own = _own_tokenizer(tokenizer)
        self._refused = _refused(tokenizer)

    def __call__(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token ids of a text, and the first character of each, and the one after its last.

        Raises:
            ValueError: As `encode`.
        """
        _check_unicode(text)
        found = self._own.encode(text, add_special_tokens=False)
        _check_ordinary(text, found.ids, self._refused)
        return list(found.ids), list(found.offsets)


def _refused(tokenizer: Any) -> dict[int, str]:
    """Special tokens by their ids, which no text may have; an unknown character is text, even
    though the token for it is a special one."""
    special = special_tokens(tokenizer)
    return {i: token for token, i in special.items() if token != _unknown(tokenizer)}


def _check_ordinary(text: str, ids: list[int], refused: Mapping[int, str]) -> None:
    found = refused.keys() & set(ids)
    if found:
        raise ValueError(
            f"expected text without special tokens, got {refused[min(found)]!r} in the text that "
            f"begins {_beginning(text)}, and this tokenizer cannot read it as text; take it out"
        )


def _own_tokenizer(tokenizer: Any) -> Any:
    """A copy of what a fast tokenizer works with, which reads special tokens as text: earlier calls
    may have left padding, truncation or dropout on in the original."""
    try:
        own = copy.deepcopy(tokenizer.backend_tokenizer)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(
            f"expected a tokenizer that can be copied, got one that cannot ({error}); encode the "
            "text yourself and pass tokens"
        ) from error
    own.no_padding()
    own.no_truncation()
    own.add_special_tokens(list(special_tokens(tokenizer)))  # also those that were not marked
    own.encode_special_tokens = True  # as the text that they are
    if getattr(own.model, "dropout", None):
        own.model.dropout = None
    return own


def _own_encoder(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    own = _own_tokenizer(tokenizer)

    def encoder(texts: list[str]) -> list[list[int]]:
        # many threads, no offsets, and no warning about texts longer than the context
        return [found.ids for found in own.encode_batch_fast(texts, add_special_tokens=False)]

    return encoder


def _encode_slow(tokenizer: Any, special: Mapping[str, int], texts: list[str]) -> list[list[int]]:
    options = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
    encoded = []
    for text in texts:
        # Only where it must be: it splits all added tokens, not only the special ones.
        split = any(token in text for token in special)
        encoded.append(tokenizer(text, split_special_tokens=split, **options)["input_ids"])
    return encoded


def _unknown(tokenizer: Any) -> str | None:
    return getattr(tokenizer, "unk_token", None)


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected valid Unicode, got a lone surrogate at character {error.start} of the text "
            f"that begins {_beginning(text)}; replace it with "
            "text.encode('utf-8', 'replace').decode()"
        ) from error


def check_many(texts: Iterable[str]) -> None:
    """Check that these are texts, and not the characters of one.

    Raises:
        ValueError: If they are not.
    """
    if isinstance(texts, str):  # its characters would be taken for documents
        raise ValueError("expected several texts, got a single string; pass a list of strings")


def _beginning(text: str) -> str:
    return ascii(text[:30] + ("…" if len(text) > 30 else ""))
