"""Seals: files that hold the SHA-256 of their own content, so that an altered bit is found.

A sealed file holds in its own text (a JSON value, or the metadata of a safetensors or Parquet file)
the SHA-256 that it has while the digits of that sum are zeros. A second place says that it is
sealed, so that no single flipped bit makes a sealed file look like one without a seal. Files
without a seal are from earlier versions, and are read as they are.

The files that ship with the package have their sums in one list beside them, `SHA256SUMS`, which
`sha256sum -c` reads too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from induction_lens.files import atomic_path, sha256

DATA = Path(__file__).parent / "data"
SUMS = "SHA256SUMS"
"""The list of sums of what ships, in `DATA`."""
_SHIPPED = ("runs", "zoo")
_SIGN = "by induction_lens"
_MARK = "induction_lens SHA-256: "
_ZEROS = "0" * 64
_SEALED = re.compile(_MARK.encode() + b"([0-9a-f]{64})")
_SEAL_NAMES = ("sealed", "seal")
_ROWS = 4096  # sequences that are hashed at a time


def with_seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready content with room for a seal, to be filled by `seal` when it is in its file."""
    return {"sealed": _SIGN, **content, "seal": _MARK + _ZEROS}


def without_seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """What was given to `with_seal`."""
    return {name: value for name, value in content.items() if name not in _SEAL_NAMES}


def seal(path: Path) -> None:
    """Write the sum of a file into the place that `with_seal` left for it."""
    with path.open("rb+") as file:
        content = file.read()
        found = _SEALED.search(content)
        assert found is not None, "sealed without with_seal"
        file.seek(found.start(1))
        file.write(hashlib.sha256(content).hexdigest().encode())


def check(path: str | Path, *, remedy: str, always_sealed: bool = False) -> None:
    """Check that a file is as it was written, if there is a sum of it.

    Args:
        path: The file.
        remedy: What to do where it is not.
        always_sealed: Whether there are none of its kind without a seal.

    Raises:
        ValueError: It cannot be read, or it was altered.
    """
    path = Path(path)
    content = read_bytes(path, remedy=remedy)
    found = _SEALED.search(content)
    if found is None and always_sealed and _SIGN.encode() not in content:
        raise ValueError(
            f"expected a file that induction_lens wrote, got {path} without its SHA-256: it is of "
            f"another program, or was edited; {remedy}"
        )
    if found is None:
        intact = _SIGN.encode() not in content
    else:
        zeroed = content[: found.start(1)] + _ZEROS.encode() + content[found.end(1) :]
        intact = hashlib.sha256(zeroed).hexdigest().encode() == found[1]
    if not (intact and _as_shipped(path, content)):
        raise ValueError(
            f"expected the SHA-256 that {path} was written with, got another: the file is damaged "
            f"or was edited; {remedy}"
        )


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """A file's content.

    Raises:
        ValueError: There is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"expected the file {path}, got {error.strerror}; {remedy}") from error


def write_json(path: str | Path, content: Mapping[str, Any], *, indent: int = 2) -> None:
    """Write content as a sealed JSON file; not atomically."""
    path = Path(path)
    path.write_text(json.dumps(with_seal(content), indent=indent) + "\n", encoding="utf-8")
    seal(path)


def read_json(path: str | Path, *, remedy: str, always_sealed: bool = False) -> dict[str, Any]:
    """What `write_json` wrote, or any JSON object of a file without a seal, unless `always_sealed`.

    Raises:
        ValueError: There is no such file, it was altered, or it holds something else.
    """
    path = Path(path)
    check(path, remedy=remedy, always_sealed=always_sealed)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "JSON that is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"expected JSON in {path}, which is damaged ({what}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"expected a JSON object in {path}, which is damaged (it holds a "
            f"{type(content).__name__}); {remedy}"
        )
    return without_seal(content)


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """Write tensors, and a description of them, as a sealed safetensors file, atomically.

    Raises:
        OSError: They could not be written; the disk may be full.
    """
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors, about)


def save_tensors(
    path: Path, tensors: dict[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """As `write_tensors`, but not atomically."""
    # One entry: the order of several differs from process to process, and with it the file.
    metadata = {"about": json.dumps(with_seal(about or {}))}
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"could not write {path} ({error}); is the disk full?") from error
    seal(path)


def read_tensors(path: str | Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and their description.

    Files of earlier versions have no seal, and a metadata entry for each part of the description.

    Raises:
        ValueError: There is no such file, it was altered, or it holds something else.
    """
    path = Path(path)
    check(path, remedy=remedy)
    try:
        with safe_open(path, framework="pt") as file:
            said = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"expected tensors in {path}, which is damaged ({error}); {remedy}"
        ) from error
    about = said.get("about", said)
    if not isinstance(about, dict):
        raise ValueError(f"expected a safetensors file of ours in {path}, got another; {remedy}")
    return tensors, without_seal(about)


def tokens_digest(*tensors: Tensor) -> str:
    """SHA-256 over the shapes and values of tokens, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        for rows in tensor.split(_ROWS):
            digest.update(rows.cpu().to(torch.int64).contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_sums() -> None:
    """Write the list of the sums of all files that ship with the package."""
    files = sorted(path for name in _SHIPPED for path in (DATA / name).rglob("*.*"))
    lines = [f"{sha256(path)}  {path.relative_to(DATA).as_posix()}\n" for path in files]
    with atomic_path(DATA / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _as_shipped(path: Path, content: bytes) -> bool:
    """Whether a file has the sum that the package's list says; true of files that did not ship."""
    path = path.resolve()
    if not any(path.is_relative_to(DATA.resolve() / name) for name in _SHIPPED):
        return True
    lines = (DATA / SUMS).read_bytes().splitlines() if (DATA / SUMS).is_file() else []
    name = path.relative_to(DATA.resolve()).as_posix()
    return f"{hashlib.sha256(content).hexdigest()}  {name}".encode() in lines
