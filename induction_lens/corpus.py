"""Real text that is on every machine: the source code of installed Python.

1. `python_files` lists the source files of the standard library and of installed packages, each
   with its name: its path inside the standard library or inside site-packages.
2. `is_held_out` sends one file in ten, by a hash of that name, to the held-out part. The split is
   the same on every machine and for every Python version.
3. `documents` reads one part of the split. Training documents that are copies of a held-out one
   (packages carry copies of each other's files) are left out.
4. `train_tokenizer` learns byte-level BPE from such text; `pack` turns text into sequences.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS = "<|bos|>"
"""The one special token of our tokenizers, with id 0: it starts every document and sequence."""

MIN_CHARACTERS = 200
MAX_BYTES = 1_000_000
_CHUNK = 256  # documents encoded at a time: enough to fill the tokenizer's threads

Split = Literal["train", "held_out"]
Origin = Literal["stdlib", "packages", "all"]


@dataclass(frozen=True, order=True)
class SourceFile:
    """One source file."""

    name: str
    """Path inside the standard library or site-packages, with forward slashes."""
    path: Path
    """Where the file is on this machine."""


def python_files(
    roots: Sequence[str | Path] | None = None, *, origin: Origin = "all"
) -> list[SourceFile]:
    """Python source files, in the order of their names.

    Args:
        roots: Folders to search; names are paths inside them. None: the standard library and the
            site-packages of the running Python.
        origin: Which of the two to search where `roots` is None.

    Returns:
        Files of at most 1 MB (larger ones are generated tables), each name once.
    """
    folders = _default_roots(origin) if roots is None else [Path(root) for root in roots]
    found: dict[str, SourceFile] = {}
    for folder in folders:
        for path in _python_paths(folder):
            if path.is_file() and path.stat().st_size <= MAX_BYTES:
                inside = path.relative_to(folder).as_posix()
                found.setdefault(inside, SourceFile(inside, path))
    return sorted(found.values())


def _python_paths(folder: Path) -> Iterator[Path]:
    """Paths that end in .py, without a look into the packages that lie in a standard library."""
    for where, folders, names in os.walk(folder):
        skipped = {"site-packages", "dist-packages", "__pycache__"}
        folders[:] = [name for name in folders if name not in skipped]
        yield from (Path(where, name) for name in names if name.endswith(".py"))


def _default_roots(origin: str) -> list[Path]:
    paths = sysconfig.get_paths()
    library = [Path(paths["stdlib"])]
    packages = sorted({Path(paths["purelib"]), Path(paths["platlib"])})
    wanted = {"stdlib": library, "packages": packages, "all": library + packages}
    if origin not in wanted:
        raise ValueError(f"expected origin to be one of {', '.join(wanted)}, got {origin!r}")
    return wanted[origin]


def is_held_out(name: str) -> bool:
    """Whether a file belongs to the held-out tenth, by the SHA-256 of its name."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def documents(
    split: Split, *, origin: Origin = "all", roots: Sequence[str | Path] | None = None
) -> list[str]:
    """The text of every file in one part of the split, in the order of the files' names.

    Left out: files that are not UTF-8, files under 200 characters, and second copies of a text.
    Training documents whose text equals that of a held-out file anywhere are left out too.

    Args:
        split: "train", or "held_out" for evaluation.
        origin: "stdlib", "packages" (site-packages), or "all".
        roots: Folders to read instead of the installed Python.

    Raises:
        ValueError: The split or the origin is unknown.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f'expected split "train" or "held_out", got {split!r}')
    files = python_files(roots, origin=origin)
    seen: set[str] = set()
    if split == "train":
        everywhere = files if roots is not None else python_files()
        held_out = (_read(file.path) for file in everywhere if is_held_out(file.name))
        seen = {_digest(text) for text in held_out if text is not None}
    kept = []
    for file in files:
        if is_held_out(file.name) != (split == "held_out"):
            continue
        text = _read(file.path)
        if text is not None and _digest(text) not in seen:
            seen.add(_digest(text))
            kept.append(text)
    return kept


def _read(path: Path) -> str | None:
    """The file's text, or None where it is no UTF-8 or too short to be worth learning from."""
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None
    return text if len(text) >= MIN_CHARACTERS else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer.

    Every text can be encoded and decoded without loss. `<|bos|>`, id 0, is its only special
    token, and stands for end of text and padding too; encoding adds none of it by itself.

    Args:
        texts: What to learn from.
        vocab_size: Number of ids, at least 257 (256 bytes and `<|bos|>`).

    Raises:
        ValueError: `vocab_size` is too small.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(f"expected vocab_size of at least 257, got {vocab_size}")
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a `tokenizer.json` that `tokenizer_json` wrote.

    Raises:
        ValueError: There is no such file, or it is not a tokenizer of ours.
    """
    from tokenizers import Tokenizer

    if not Path(path).is_file():
        raise ValueError(f"expected a tokenizer file, got {path}, which does not exist")
    try:
        tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"expected a tokenizer file, got {path}: {error}") from error
    if tokenizer.token_to_id(BOS) is None:
        raise ValueError(f"expected a tokenizer with the token {BOS}, got {path} without it")
    return _wrap(tokenizer)


def tokenizer_json(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer as the text of a `tokenizer.json`."""
    return tokenizer.backend_tokenizer.to_str()


def _wrap(tokenizer: Any) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        clean_up_tokenization_spaces=False,
    )


def encode(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """The token ids of each text, without special tokens.

    Args:
        texts: What to encode; read a few hundred at a time.
        tokenizer: A Hugging Face tokenizer, fast or slow.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    remaining = iter(texts)
    while chunk := list(islice(remaining, _CHUNK)):
        if fast is None:
            yield from tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        else:  # many threads, and no warning about texts longer than the model's context
            encodings = fast.encode_batch(chunk, add_special_tokens=False)
            yield from (encoding.ids for encoding in encodings)


def pack(
    texts: Iterable[str],
    tokenizer: Any,
    seq_len: int,
    *,
    n_sequences: int | None = None,
    bos: int | None = None,
) -> Int[Tensor, "sequence pos"]:
    """Pack documents into sequences of one length.

    The documents are joined with BOS between them, cut into pieces of `seq_len - 1` tokens, and
    every piece gets BOS at position 0. What is left at the end, shorter than a piece, is dropped;
    nothing is padded or repeated.

    Args:
        texts: The documents, in the order in which to pack them.
        tokenizer: A Hugging Face tokenizer.
        seq_len: Length of a sequence in tokens, BOS included; at least 2.
        n_sequences: Stop after so many; None packs everything.
        bos: Id of the BOS token; None: the tokenizer's.

    Returns:
        Token ids as int32; fewer than `n_sequences` rows where the text runs out.

    Raises:
        ValueError: `seq_len` is below 2, or no BOS is given and the tokenizer has none.
    """
    if seq_len < 2:
        raise ValueError(f"expected seq_len of at least 2, got {seq_len}")
    bos = tokenizer.bos_token_id if bos is None else bos
    if bos is None:
        raise ValueError("expected a tokenizer with a BOS token, got one without; pass bos")
    wanted = None if n_sequences is None else n_sequences * (seq_len - 1)
    pieces: list[Tensor] = []
    n_tokens = 0
    for ids in encode(texts, tokenizer):
        # The first document needs no BOS before it: the sequence starts with one.
        pieces.append(torch.tensor([bos, *ids] if pieces else ids, dtype=torch.int32))
        n_tokens += len(pieces[-1])
        if wanted is not None and n_tokens >= wanted:
            break
    stream = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int32)
    n_rows = len(stream) // (seq_len - 1)
    if n_sequences is not None:
        n_rows = min(n_rows, n_sequences)
    rows = stream[: n_rows * (seq_len - 1)].view(n_rows, seq_len - 1)
    return torch.cat([torch.full((n_rows, 1), bos, dtype=torch.int32), rows], dim=1)
