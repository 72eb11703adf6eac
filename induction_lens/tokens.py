"""Token sequences to test a model on: repeated random tokens, and packed text.

Every sequence has the model's BOS at position 0. Every draw comes from an explicit
`torch.Generator`, so the same seed gives the same tokens on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import corpus
from induction_lens.models import (
    Model,
    bos_id,
    device_of,
    model_name,
    ordinary_ids,
    shape,
    tokenizer_of,
)

Source = str | Path | Sequence[str | Path]


def repeated_random_tokens(
    model: Model,
    *,
    n_tokens: int = 25,
    n_repeats: int = 4,
    n_sequences: int = 32,
    seed: int = 0,
    ids: Sequence[int] | Int[Tensor, " id"] | None = None,
) -> Int[Tensor, "batch pos"]:
    """BOS, then the same random tokens several times over.

    Nothing but the repetition predicts these tokens, so they separate induction from statistics of
    the language (Olsson et al. 2022, "Head activation evaluators"). Each sequence has its own draw,
    without replacement, so that within a copy no token has occurred before.

    Args:
        model: whose tokens to draw, and on whose device to put them.
        n_tokens: tokens in one copy.
        n_repeats: copies.
        n_sequences: sequences.
        seed: seed of the draw.
        ids: which token ids may be drawn; None takes all but the special ones, and but the 4% most
            and the 4% least frequent by the tokenizer's order.

    Raises:
        ValueError: if there are fewer ids than `n_tokens`, or the sequence exceeds the context.
    """
    sizes = shape(model)
    drawn_from = ordinary_ids(model) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    if not 1 <= n_tokens <= len(drawn_from):
        raise ValueError(
            f"expected n_tokens from 1 to {len(drawn_from)}, the ids that may be drawn without "
            f"replacement, got {n_tokens}; pass fewer n_tokens or more ids"
        )
    if n_repeats < 1 or n_sequences < 1:
        raise ValueError(
            f"expected at least one copy and one sequence, got n_repeats={n_repeats}, "
            f"n_sequences={n_sequences}"
        )
    length = 1 + n_tokens * n_repeats
    if length > sizes.n_ctx:
        raise ValueError(
            f"expected at most {sizes.n_ctx} tokens (the model's context), got 1 + {n_tokens} x "
            f"{n_repeats} = {length}; pass fewer n_tokens or n_repeats"
        )
    if ids is not None and not 0 <= int(drawn_from.min()) <= int(drawn_from.max()) < sizes.d_vocab:
        raise ValueError(f"expected ids from 0 to {sizes.d_vocab - 1}, got some outside")
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randperm(len(drawn_from), generator=generator) for _ in range(n_sequences)]
    copy = drawn_from[torch.stack(draws)[:, :n_tokens]]
    bos = torch.full((n_sequences, 1), bos_id(model))
    return torch.cat([bos, copy.repeat(1, n_repeats)], dim=1).to(device_of(model))


def shuffled(tokens: Int[Tensor, "batch pos"], *, seed: int = 0) -> Int[Tensor, "batch pos"]:
    """The same tokens in random order in every sequence, BOS left at position 0."""
    generator = torch.Generator().manual_seed(seed)
    length = tokens.shape[1] - 1
    orders = torch.stack([torch.randperm(length, generator=generator) for _ in tokens]) + 1
    orders = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.long), orders], dim=1)
    return tokens.gather(1, orders.to(tokens.device))


def text_tokens(
    model: Model,
    *,
    n_sequences: int = 256,
    seq_len: int = 512,
    seed: int = 0,
    source: Source | None = None,
    short_documents: Literal["pack", "drop"] | str = "pack",
) -> Int[Tensor, "batch pos"]:
    """Sequences of real text, BOS at position 0.

    Args:
        model: whose tokenizer and BOS to use.
        n_sequences: sequences.
        seq_len: tokens in a sequence, BOS included.
        seed: which sequences are drawn, and in what order.
        source: None for the held-out files of the Python standard library's source; or a file, a
            folder, a text, a list of these, or the name of a Hugging Face dataset (`org/name`).
        short_documents: `pack` joins documents with BOS between them and cuts the whole into
            sequences; `drop` takes the beginning of every document that is long enough, and
            leaves the others out. Texts are never padded or repeated.

    Raises:
        ValueError: if the model has no tokenizer, the sequences exceed its context, the source is
            empty, or it is too short for the sequences asked for.
    """
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        raise ValueError(
            f"expected a model with a tokenizer, got {model_name(model)}, which has none; put "
            "tokenizer.json beside its weights, set model.tokenizer, or pass tokens yourself"
        )
    if n_sequences < 1:
        raise ValueError(f"expected at least one sequence, got n_sequences={n_sequences}")
    n_ctx = shape(model).n_ctx
    if not 2 <= seq_len <= n_ctx:
        raise ValueError(
            f"expected seq_len from 2 to {n_ctx} (the model's context), got {seq_len}; pass a "
            "smaller seq_len"
        )
    documents = _documents(source)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=generator).tolist()
    documents = [documents[i] for i in order]
    if short_documents == "pack":
        sequences = corpus.pack(documents, tokenizer, seq_len, bos=bos_id(model))
    elif short_documents == "drop":
        sequences = _beginnings(documents, tokenizer, seq_len=seq_len, bos=bos_id(model))
    else:
        raise ValueError(f"expected short_documents 'pack' or 'drop', got {short_documents!r}")
    if len(sequences) < n_sequences:
        raise ValueError(
            f"expected text for {n_sequences} sequences of {seq_len} tokens, got enough for "
            f"{len(sequences)}; ask for fewer or shorter sequences, or add to the source"
        )
    chosen = torch.randperm(len(sequences), generator=generator)[:n_sequences]
    return sequences[chosen].long().to(device_of(model))


def _beginnings(
    documents: list[str], tokenizer: Any, *, seq_len: int, bos: int
) -> Int[Tensor, "batch pos"]:
    encoded = corpus.encode(documents, tokenizer)
    rows = [[bos, *ids[: seq_len - 1]] for ids in encoded if len(ids) >= seq_len - 1]
    return torch.tensor(rows, dtype=torch.long).view(len(rows), seq_len)


def _documents(source: Source | None) -> list[str]:
    if source is None:
        return corpus.documents("held_out", origin="stdlib")
    items: Iterable[str | Path] = [source] if isinstance(source, (str, Path)) else source
    documents = [document for item in items for document in _read(item)]
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise ValueError(
            "expected a source with text, got an empty one; pass files, folders, strings, or the "
            "name of a dataset"
        )
    return documents


def _read(item: str | Path) -> list[str]:
    """The documents of a file, a folder, a text, or a dataset."""
    if item == "":  # as a path it would be the working directory
        return []
    path = Path(item) if isinstance(item, Path) or (len(item) < 1000 and "\n" not in item) else None
    if path is not None and path.is_file():
        return [path.read_text(encoding="utf-8")]
    if path is not None and path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return [text for file in files if (text := _text_of(file)) is not None]
    if isinstance(item, Path):
        raise ValueError(f"expected a file or folder, got {item}, which does not exist")
    looks_like_dataset = item.count("/") == 1 and not any(c.isspace() for c in item)
    return _dataset(item) if looks_like_dataset else [item]


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None  # a folder of text may hold an image or two


def _dataset(name: str) -> list[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True)
        return [row["text"] for row in rows.take(10_000)]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"expected a file, a folder, a text or a Hugging Face dataset with a 'text' column, "
            f"got {name!r} ({type(error).__name__}: {error}); check the spelling and the network"
        ) from error
