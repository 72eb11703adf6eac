"""Token sequences to test a model on: repeated random tokens, and packed text.

Every sequence has the model's BOS at position 0. Every draw comes from an explicit
`torch.Generator`, so the same seed gives the same tokens on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.inputs import corpus, reading
from induction_lens.inputs.data_sets import kept_tokens
from induction_lens.inputs.reading import Source
from induction_lens.models import (
    Ids,
    Model,
    TextTokens,
    bos_id,
    device_of,
    ids_of,
    model_name,
    ordinary_ids,
    shape,
    tokenizer_of,
)

_MOST_SEQUENCES = 10**6  # of random tokens: more would fill the memory before they are refused


def repeated_random_tokens(
    model: Model,
    *,
    n_tokens: int | tuple[int, int] = 25,
    n_repeats: int = 4,
    n_sequences: int = 32,
    seed: int = 0,
    ids: Sequence[int] | Int[Tensor, " id"] | None = None,
    seq_len: int | None = None,
) -> Int[Tensor, "batch pos"]:
    """BOS, then the same random tokens several times over.

    Only the repetition predicts these tokens, so they separate induction from statistics of the
    language (Olsson et al. 2022, "Head activation evaluators"). Each sequence has its own draw,
    without replacement, so that within a copy no token has occurred before.

    With copies of one length, a token's earlier copy is always as far back, so that a head that
    looks a fixed distance back finds it. With a range of lengths, each sequence has copies of a
    length of its own, and the last copy is cut off where sequences end.

    Args:
        model: The model whose tokens to draw; they are put on its device.
        n_tokens: Tokens in one copy; or the fewest and the most, such as `(12, 33)`: each length
            between the two comes as often as the others, or once more.
        n_repeats: Copies; of a range, those of the longest, so that shorter ones come more often.
        n_sequences: Sequences.
        seed: Seed of the draw.
        ids: Which token ids may be drawn; None takes all except the special ones and the 4% most
            and 4% least frequent by the tokenizer's order.
        seq_len: Tokens in a sequence, BOS included, instead of `n_repeats`: copies go on until
            there.

    Raises:
        ValueError: If there are fewer ids than `n_tokens`, the sequence exceeds the context, or
            `ids` are not different ids of the model.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_tokens=25, n_repeats=4, n_sequences=8)
        >>> tokens.shape
        torch.Size([8, 101])
        >>> bool((tokens[:, 1:26] == tokens[:, 26:51]).all())
        True
        >>> varied = il.repeated_random_tokens(model, n_tokens=(3, 5), n_sequences=3, seq_len=11)
        >>> sorted(len(set(row)) for row in varied[:, 1:].tolist())
        [3, 4, 5]
    """
    n_ctx = shape(model).n_ctx
    fewest, most = _checked_range(n_tokens)
    n_repeats = checks.whole_number("n_repeats", n_repeats, least=1)
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=1, most=_MOST_SEQUENCES)
    remedy = f"the model's context is {n_ctx} tokens"
    seq_len = checks.whole_number(
        "seq_len", seq_len, least=2, most=n_ctx, optional=True, remedy=remedy
    )
    drawn_from = ordinary_ids(model) if ids is None else _checked_ids(model, ids)
    if most > len(drawn_from):
        raise ValueError(
            f"expected n_tokens of at most {len(drawn_from)}, the ids that may be drawn without "
            f"replacement, got {most}; pass fewer n_tokens or more ids"
        )
    length = 1 + most * n_repeats if seq_len is None else seq_len
    if length > n_ctx:
        raise ValueError(
            f"expected at most {n_ctx} tokens (the model's context), got 1 + {most} x "
            f"{n_repeats} = {length}; pass fewer n_tokens or n_repeats"
        )
    generator = _generator(seed)
    draws = [_order(len(drawn_from), generator) for _ in range(n_sequences)]
    copy = drawn_from[torch.stack(draws)[:, :most]]
    lengths = _lengths(fewest, most, n_sequences, generator)
    place = torch.arange(length - 1, dtype=torch.long, device="cpu") % lengths[:, None]
    bos = torch.full((n_sequences, 1), bos_id(model), dtype=torch.long, device="cpu")
    return torch.cat([bos, copy.gather(1, place)], dim=1).to(device_of(model))


def _checked_range(n_tokens: Any) -> tuple[int, int]:
    """The fewest and the most tokens in a copy.

    Raises:
        ValueError: If it is neither one whole number nor two in order, or one is below 1.
    """
    if not isinstance(n_tokens, (tuple, list)):
        n_tokens = checks.whole_number("n_tokens", n_tokens, least=1)
        return n_tokens, n_tokens
    remedy = "pass one number, or the fewest and the most, such as (12, 33)"
    if len(n_tokens) != 2:
        raise checks.refuse("n_tokens", "one or two whole numbers", n_tokens, remedy)
    fewest, most = (
        checks.whole_number("each of n_tokens", n, least=1, remedy=remedy) for n in n_tokens
    )
    if fewest > most:
        raise checks.refuse("n_tokens", "in order", n_tokens, remedy)
    return fewest, most


def _lengths(
    fewest: int, most: int, n_sequences: int, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """A length for each sequence: all lengths in random order, as many times over as needed."""
    n_lengths = most - fewest + 1
    rounds = [_order(n_lengths, generator) for _ in range(-(-n_sequences // n_lengths))]
    return fewest + torch.cat(rounds)[:n_sequences]


def shuffled(tokens: Ids, *, seed: int = 0) -> Int[Tensor, "batch pos"]:
    """The same tokens in random order in every sequence, BOS left at position 0.

    Raises:
        ValueError: If the tokens are not sequences of ids.

    Examples:
        >>> import torch
        >>> mixed = il.inputs.shuffled(torch.tensor([[0, 5, 6, 7, 8, 9]]))
        >>> mixed[0, 0].item(), sorted(mixed[0, 1:].tolist())
        (0, [5, 6, 7, 8, 9])
    """
    tokens = ids_of("tokens", tokens, remedy="pass token ids of one length, or see text_tokens")
    generator = _generator(seed)
    length = tokens.shape[1] - 1
    orders = torch.stack([_order(length, generator) for _ in tokens]) + 1
    first = torch.zeros(len(tokens), 1, dtype=torch.long, device="cpu")
    orders = torch.cat([first, orders], dim=1)
    return tokens.gather(1, orders.to(tokens.device))


def text_tokens(
    model: Model,
    *,
    n_sequences: int | None = 256,
    seq_len: int = 512,
    seed: int = 0,
    source: Source | None = None,
    text: str | Iterable[str] | None = None,
    column: str = "text",
    encoding: str | None = None,
    short_documents: Literal["pack", "drop"] | str = "pack",
) -> Int[Tensor, "batch pos"]:
    """Sequences of real text, BOS at position 0: the tokens of `sample_text`, which takes the same.

    Pass what `sample_text` returns to measures that give intervals: it knows the documents.

    Raises:
        ValueError: As `sample_text`.

    Examples:
        >>> model = il.load("toy-2l")
        >>> text = "for token in tokens: print(token) " * 40
        >>> tokens = il.text_tokens(model, text=text, n_sequences=4, seq_len=64)
        >>> tokens.shape
        torch.Size([4, 64])
        >>> model.to_string(tokens[0, 1:9])
        ' print(token) for'
    """
    return sample_text(
        model,
        n_sequences=n_sequences,
        seq_len=seq_len,
        seed=seed,
        source=source,
        text=text,
        column=column,
        encoding=encoding,
        short_documents=short_documents,
    ).tokens


def sample_text(
    model: Model,
    *,
    n_sequences: int | None = 256,
    seq_len: int = 512,
    seed: int = 0,
    source: Source | None = None,
    text: str | Iterable[str] | None = None,
    column: str = "text",
    encoding: str | None = None,
    short_documents: Literal["pack", "drop"] | str = "pack",
) -> TextTokens:
    """Sequences of real text, BOS at position 0, with the document that each token comes from.

    Args:
        model: The model whose tokenizer and BOS to use.
        n_sequences: Sequences; None for all that the text gives.
        seq_len: Tokens in a sequence, BOS included.
        seed: Which sequences are drawn, and in what order.
        source: None for the held-out files of the Python standard library's source; or a file, a
            folder, a text, the name of a Hugging Face dataset (`org/name`, its first 10,000 rows),
            or a list of these; a data frame, a column of one, or an iterator of texts; or a
            `TextSource`, which names a dataset's split and revision too. A string that looks like a
            name is never taken for a text. The tokens of a dataset are kept on disk.
        text: Instead of `source`: one or several strings that are text, whatever they look like.
        column: The column of `.jsonl` and `.parquet` files, of datasets and of data frames that
            holds the text.
        encoding: Of text files; None for UTF-8, or what a byte-order mark says.
        short_documents: `pack` joins documents with BOS between them and cuts the result into
            sequences; `drop` takes the beginning of every document that is long enough, and leaves
            the others out. Texts are never padded or repeated, and of equal documents only the
            first counts.

    A special token such as `<|endoftext|>` in a text is encoded as plain text.

    Raises:
        ValueError: If the model has no tokenizer, the sequences exceed its context, a source does
            not exist or cannot be read, the text is empty, too short for the sequences asked for,
            or has a token that the model does not know.

    Examples:
        >>> text = il.sample_text(il.load("toy-2l"), n_sequences=64)
        >>> text.tokens.shape, len(text.documents[:, 500].unique())
        (torch.Size([64, 512]), 47)
    """
    n_ctx, tokenizer = shape(model).n_ctx, tokenizer_of(model)
    if tokenizer is None:
        raise ValueError(
            f"expected a model with a tokenizer, got {model_name(model)}, which has none; put "
            "tokenizer.json beside its weights, set model.tokenizer, or pass tokens yourself"
        )
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=1, optional=True)
    remedy = f"the model's context is {n_ctx} tokens"
    seq_len = checks.whole_number("seq_len", seq_len, least=2, most=n_ctx, remedy=remedy)
    checks.one_of("short_documents", short_documents, ("pack", "drop"))
    generator = _generator(seed)
    encoded = _encoded(tokenizer, source, text, column=column, encoding=encoding)
    n_read = sum(map(len, encoded))
    encoded = [encoded[i] for i in _order(len(encoded), generator).tolist()]
    drops = short_documents == "drop"
    cut = _beginnings if drops else corpus.pack_encoded
    sequences, numbers = cut(encoded, seq_len, bos=bos_id(model))
    if len(sequences) < (n_sequences or 1):
        fewer = f"ask for at most {len(sequences)}, " if len(sequences) else ""
        raise ValueError(
            f"expected text for {n_sequences or 1} sequences of {seq_len} tokens, got enough for "
            f"{len(sequences)}; {fewer}ask for shorter ones, or add to the source"
        )
    rows = _order(len(sequences), generator)[:n_sequences]
    tokens = sequences[rows].long()
    _check_known(model, tokenizer, tokens)
    return TextTokens(tokens.to(device_of(model)), numbers[rows].long(), drops, n_read)


def read_documents(
    source: Source | None = None, text: str | Iterable[str] | None = None, **options: Any
) -> list[str]:
    """The documents that `sample_text` draws from, for several models that are to read the same.

    Raises:
        ValueError: As `sample_text`.
    """
    if source is not None and text is not None:
        raise ValueError("expected source or text, got both; put everything into one of them")
    if text is not None:
        return reading.texts(text)
    if source is not None:
        return reading.documents(source, **options)
    return corpus.documents("held_out", origin="stdlib")


def _encoded(
    tokenizer: Any, source: Source | None, text: str | Iterable[str] | None, **options: Any
) -> list[Tensor]:
    """The token ids of each document; those of a data set on the hub may be on disk."""

    def encoded(documents: Iterable[str]) -> list[Tensor]:
        return [
            torch.tensor(ids, dtype=torch.int32, device="cpu")
            for ids in corpus.encode(documents, tokenizer)
        ]

    data_set = None if text is not None else reading.data_set_of(source, **options)
    if data_set is None:
        return encoded(read_documents(source, text, **options))
    return kept_tokens(data_set, tokenizer, lambda texts: encoded(reading.texts(texts)))


def _beginnings(
    encoded: Iterable[Tensor], seq_len: int, *, bos: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """The beginnings of documents that are long enough, and each one's number at every token."""
    first = torch.tensor([bos], dtype=torch.int32, device="cpu")
    rows = [torch.cat([first, ids[: seq_len - 1]]) for ids in encoded if len(ids) >= seq_len - 1]
    empty = torch.empty(0, seq_len, dtype=torch.int32, device="cpu")
    tokens = torch.stack(rows) if rows else empty
    return tokens, torch.arange(len(rows), device="cpu")[:, None].expand(-1, seq_len)


def _generator(seed: int) -> torch.Generator:
    """A generator on the CPU, whatever the default device: its draws are the same everywhere."""
    return torch.Generator(device="cpu").manual_seed(checks.seed(seed))


def _order(length: int, generator: torch.Generator) -> Int[Tensor, " index"]:
    return torch.randperm(length, generator=generator, dtype=torch.long, device="cpu")


def _checked_ids(model: Model, ids: Sequence[int] | Int[Tensor, " id"]) -> Int[Tensor, " id"]:
    """The ids that a caller wants drawn, each once, on the CPU.

    Raises:
        ValueError: If they are not whole numbers, an id occurs twice, or the model does not have
            it.
    """
    d_vocab = shape(model).d_vocab
    try:
        given = torch.as_tensor(ids, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected ids to be token ids, got {checks.shown(ids)}; pass integers"
        ) from error
    no_ids = given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    if given.ndim != 1 or given.numel() == 0 or no_ids:
        raise ValueError(
            f"expected ids to be a list of token ids, got {given.dtype} of shape "
            f"{list(given.shape)}; pass integers, one at least"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= d_vocab:
        raise ValueError(f"expected ids from 0 to {d_vocab - 1}, got ids from {low} to {high}")
    if len(given.unique()) < len(given):
        raise ValueError(
            "expected different ids, as a copy holds no token twice, got some more than once; "
            "pass each once"
        )
    return given.long()


def _check_known(model: Model, tokenizer: Any, tokens: Int[Tensor, "batch pos"]) -> None:
    """Check that the model knows every token of a text: its tokenizer may know more."""
    d_vocab, highest = shape(model).d_vocab, int(tokens.max())
    if highest >= d_vocab:
        raise ValueError(
            f"expected text of the model's {d_vocab} tokens, got {tokenizer.decode([highest])!r}, "
            f"which is {highest} in its tokenizer; take it out of the text, or load the tokenizer "
            "that the model was trained with"
        )
