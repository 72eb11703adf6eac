"""Real text that is on every machine: the source code of installed Python, and its documentation.

1. `python_files` lists the source files of the standard library and of installed packages, each
   with its name: its path inside the standard library or inside site-packages; `prose_files` lists
   the documentation beside them.
2. `is_held_out` puts one file in ten, by a hash of that name, into the held-out part. The split is
   the same on every machine and for every Python version.
3. `documents` reads one part of the split: code, or prose, which is documentation and the
   docstrings of the source files. Training documents that are copies of a held-out one (packages
   carry copies of each other's files) are left out.
4. `train_tokenizer` learns byte-level BPE from such text; `pack` turns text into sequences.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks, seals
from induction_lens.inputs import readers
from induction_lens.models.encoding import check_many, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS = "<|bos|>"
"""The one special token of our tokenizers, with id 0: it starts every document and sequence."""

MAX_BYTES = 1_000_000

Split = Literal["train", "held_out"]
Origin = Literal["stdlib", "packages", "all"]
Kind = Literal["code", "prose", "all"]


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

    Raises:
        ValueError: The origin is unknown, or a folder does not exist.
    """
    return _files(readers.is_python, roots, origin)


def prose_files(
    roots: Sequence[str | Path] | None = None, *, origin: Origin = "all"
) -> list[SourceFile]:
    """Documentation files, in the order of their names.

    These are the files that end in .rst, .md or .txt, and the METADATA or PKG-INFO of installed
    packages, whose body is the package's long description. Licences and lists of authors are left
    out: packages share them up to a name, so that no held-out one would be new.

    Args:
        roots: As for `python_files`.
        origin: As for `python_files`.

    Returns:
        Files of at most 1 MB, each name once.

    Raises:
        ValueError: The origin is unknown, or a folder does not exist.
    """
    return _files(readers.is_documentation, roots, origin)


def _files(
    wanted: Callable[[Path], bool], roots: Sequence[str | Path] | None, origin: str
) -> list[SourceFile]:
    folders = _default_roots(origin) if roots is None else _folders(roots)
    found: dict[str, SourceFile] = {}
    for folder in folders:
        for path in _paths(folder, wanted):
            if path.is_file() and path.stat().st_size <= MAX_BYTES:
                inside = path.relative_to(folder).as_posix()
                found.setdefault(inside, SourceFile(inside, path))
    return sorted(found.values())


def _folders(roots: Sequence[str | Path]) -> list[Path]:
    if isinstance(roots, (str, Path)):  # a string is a sequence too, of characters
        roots = [roots]
    folders = [Path(root) for root in roots]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"expected folders to search, got {folder}, which is not one")
    return folders


def _paths(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """Paths of wanted files, skipping the packages inside a standard library."""
    for where, folders, names in os.walk(folder):
        skipped = {"site-packages", "dist-packages", "__pycache__"}
        folders[:] = [name for name in folders if name not in skipped]
        yield from (path for name in names if wanted(path := Path(where, name)))


def _default_roots(origin: str) -> list[Path]:
    paths = sysconfig.get_paths()
    library = [Path(paths["stdlib"])]
    packages = sorted({Path(paths["purelib"]), Path(paths["platlib"])})
    wanted = {"stdlib": library, "packages": packages, "all": library + packages}
    return wanted[checks.one_of("origin", origin, wanted)]


def is_held_out(name: str) -> bool:
    """Whether a file belongs to the held-out tenth, by the SHA-256 of its name."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def documents(
    split: Split,
    *,
    origin: Origin = "all",
    kind: Kind = "code",
    roots: Sequence[str | Path] | None = None,
) -> list[str]:
    """The documents of one part of the split, in the order of their files' names.

    A document of code is the text of a Python file. A document of prose is a documentation file,
    or all docstrings of one Python file. Prose comes after code, and documentation before
    docstrings.

    Left out: files that are not UTF-8, documents under 200 characters, second copies of a text, and
    documentation that is less than three quarters letters and blanks, such as tables. Training
    documents whose text equals that of a held-out one anywhere are left out too.

    Args:
        split: "train", or "held_out" for evaluation.
        origin: "stdlib", "packages" (site-packages), or "all".
        kind: "code", "prose", or "all".
        roots: Folders to read instead of the installed Python.

    Raises:
        ValueError: The split, the origin or the kind is unknown, or a folder does not exist.
    """
    checks.one_of("split", split, ("train", "held_out"))
    checks.one_of("kind", kind, ("code", "prose", "all"))
    kinds = {"code": [_CODE], "prose": [_PAGES, _DOCSTRINGS]}
    kinds["all"] = kinds["code"] + kinds["prose"]
    kept: list[str] = []
    for wanted, read in kinds[kind]:
        kept += _documents(split, wanted, read, origin=origin, roots=roots)
    return list(dict.fromkeys(kept))


def _documents(
    split: Split,
    wanted: Callable[[Path], bool],
    read: Callable[[Path], str | None],
    *,
    origin: Origin,
    roots: Sequence[str | Path] | None,
) -> list[str]:
    """The documents that one reader makes of the files it wants."""
    files = _files(wanted, roots, origin)
    seen: set[str] = set()
    if split == "train":
        everywhere = files if roots is not None else _files(wanted, None, "all")
        held_out = (read(file.path) for file in everywhere if is_held_out(file.name))
        seen = {_digest(text) for text in held_out if text is not None}
    kept = []
    for file in files:
        if is_held_out(file.name) != (split == "held_out"):
            continue
        text = read(file.path)
        if text is not None and _digest(text) not in seen:
            seen.add(_digest(text))
            kept.append(text)
    return kept


_CODE = (readers.is_python, readers.read_text)
_PAGES = (readers.is_documentation, readers.read_page)
_DOCSTRINGS = (readers.is_python, readers.read_docstrings)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer.

    Every text can be encoded and decoded without loss. `<|bos|>`, id 0, is its only special token,
    and stands for end of text and padding too; encoding does not add it.

    Args:
        texts: What to learn from.
        vocab_size: Number of ids, at least 257 (256 bytes and `<|bos|>`).

    Raises:
        ValueError: `vocab_size` is too small, or `texts` is a single string.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    vocab_size = checks.whole_number("vocab_size", vocab_size, least=257)
    check_many(texts)
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
    seals.check(path, remedy="copy it again, or install induction_lens again")
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
        ValueError: `seq_len` is below 2 or `n_sequences` below 1, no BOS is given and the
            tokenizer has none, or a text cannot be encoded.
    """
    return pack_documents(texts, tokenizer, seq_len, n_sequences=n_sequences, bos=bos)[0]


def pack_documents(
    texts: Iterable[str],
    tokenizer: Any,
    seq_len: int,
    *,
    n_sequences: int | None = None,
    bos: int | None = None,
) -> tuple[Int[Tensor, "sequence pos"], Int[Tensor, "sequence pos"]]:
    """Pack as `pack` does, and say which document each token comes from.

    Returns:
        Token ids, and the number of each token's document, counted from 0, both as int32. BOS
        belongs to the document after it.

    Raises:
        ValueError: As `pack`.
    """
    seq_len = checks.whole_number("seq_len", seq_len, least=2)
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=1, optional=True)
    bos = tokenizer.bos_token_id if bos is None else bos
    if bos is None:
        raise ValueError("expected a tokenizer with a BOS token, got one without; pass bos")
    return pack_encoded(encode(texts, tokenizer), seq_len, n_sequences=n_sequences, bos=bos)


def pack_encoded(
    encoded: Iterable[Sequence[int] | Tensor],
    seq_len: int,
    *,
    n_sequences: int | None = None,
    bos: int,
) -> tuple[Int[Tensor, "sequence pos"], Int[Tensor, "sequence pos"]]:
    """Pack documents that are token ids already, as `pack_documents` does."""
    wanted = None if n_sequences is None else n_sequences * (seq_len - 1)
    pieces: list[Tensor] = []
    n_tokens = 0
    between = torch.tensor([bos], dtype=torch.int32, device="cpu")
    for ids in encoded:
        piece = torch.as_tensor(ids, dtype=torch.int32, device="cpu")
        # The first document needs no BOS before it: the sequence starts with one.
        pieces.append(torch.cat([between, piece]) if pieces else piece)
        n_tokens += len(pieces[-1])
        if wanted is not None and n_tokens >= wanted:
            break
    empty = torch.empty(0, dtype=torch.int32, device="cpu")
    stream = torch.cat([empty, *pieces])
    sizes = torch.tensor([len(piece) for piece in pieces], dtype=torch.long, device="cpu")
    numbers = torch.arange(len(pieces), dtype=torch.int32, device="cpu").repeat_interleave(sizes)
    n_rows = len(stream) // (seq_len - 1)
    if n_sequences is not None:
        n_rows = min(n_rows, n_sequences)
    rows = stream[: n_rows * (seq_len - 1)].view(n_rows, seq_len - 1)
    documents = numbers[: n_rows * (seq_len - 1)].view(n_rows, seq_len - 1)
    first = torch.full((n_rows, 1), bos, dtype=torch.int32, device="cpu")
    return torch.cat([first, rows], dim=1), torch.cat([documents[:, :1], documents], dim=1)
