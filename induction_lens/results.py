"""Results that can be kept: saved, loaded, compared, and traced to what they were measured on.

A saved result is a folder, and every kind of result is saved alike:

- `result.json`: what kind it is, its `format`, its texts, numbers and heads, and where its numbers
  come from. It holds the SHA-256 of itself, and of each table.
- `layer-head.parquet` and others: its tensors, those of the same axes in one table, with a row for
  each number and a column for each tensor. `pandas.read_parquet` reads them as they are.

The folder is written whole or not at all. Nothing in it is run when it is read: the kinds of
results are those of this package, found by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.files import atomic_folder, output_folder, recover, sha256
from induction_lens.packing import Comparable, Packed, pack, packable, plain, unpack
from induction_lens.seals import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

R = TypeVar("R", bound="Result")

__all__ = ["Provenance", "Result", "load"]

FORMAT = 1
"""Of saved results; files of a newer one are refused."""
RESULT = "result.json"
"""The file of a saved result that says what it is."""
_REMEDY = "save the result again, or measure it again"
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError)


@packable
@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a result come from."""

    model: str
    """The name that the model was loaded under."""
    weights: str | None
    """SHA-256 of its weights (`models.weights_hash`); None where not all of them are in memory."""
    text: str | None
    """SHA-256 of the tokens that were measured on: results that share it can be paired. None where
    nothing was read."""
    versions: Mapping[str, str]
    """The versions of `induction_lens` and the libraries that it computes with."""
    altered: str | None = None
    """What else acted when the model ran, such as a hook of `knocked_out`; None: nothing."""


class Result(Comparable):
    """What every result can do.

    Two results are equal (`==`) if all of their numbers, heads and texts are, to the bit; where
    they come from does not count.
    """

    provenance: Provenance | None

    inside: ClassVar[str] = ""
    """Where in the folder of other files the result is saved; empty: it is the folder."""

    def save(self, folder: str | Path) -> Path:
        """Write the result to a folder, whole or not at all; a result that is there is replaced.

        Returns:
            The folder.

        Raises:
            ValueError: There is something else, or nothing can be written there.
        """
        return write(self, folder)

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote: it is equal to what was saved, with tensors on the CPU.

        Raises:
            ValueError: There is no such folder, it holds another kind of result, was written by a
                newer version, or was damaged or edited.
        """
        found = read(path, inside=cls.inside)
        if isinstance(found, cls):
            return found
        kind = type(found).__name__
        raise ValueError(
            f"expected {checks.with_article(cls.__name__)} in {path}, got "
            f"{checks.with_article(kind)}; load it with {kind}.load or induction_lens.results.load"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as dictionaries, lists, texts and numbers, ready for JSON.

        Numbers that are not finite are None. What is measured of single sequences, items or
        positions is left out; `save` keeps it.
        """
        return plain(self)


def load(path: str | Path) -> Result:
    """Read a saved result of any kind.

    Args:
        path: The folder that `save` wrote, of a report too.

    Raises:
        ValueError: There is no saved result, it was written by a newer version, or it was damaged
            or edited.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"), detectors=["induction"])
        >>> folder = scores.save("scores")
        >>> il.results.load("scores") == scores
        True
        >>> scores.provenance.model
        'toy-2l'
    """
    found = read(path)
    if isinstance(found, Result):
        return found
    raise ValueError(
        f"expected a result in {path}, got {checks.with_article(type(found).__name__)}; {_REMEDY}"
    )


def with_model(frame: pd.DataFrame, provenance: Provenance | None) -> pd.DataFrame:
    """The same table with a first column `model`, where it is known: tables of several models can
    be put below each other."""
    if provenance is not None:
        frame.insert(0, "model", provenance.model)
    return frame


def write(result: Result, path: str | Path) -> Path:
    """Write a result to a folder, whole or not at all.

    Raises:
        ValueError: As `Result.save`.
    """
    folder = output_folder(path)
    _check_free(folder)
    packed = pack(result)
    with atomic_folder(folder) as fresh:
        tables = {}
        for name, group in _tables(packed).items():
            _write_table(fresh / name, packed, group)
            first = packed.tensors[group[0]]
            tables[name] = {
                "sha256": sha256(fresh / name),
                "axes": list(packed.axes[group[0]]),
                "shape": list(first.shape),
                "columns": group,
            }
        kind = type(result).__name__
        content = {"format": FORMAT, "kind": kind, "result": packed.tree, "tables": tables}
        write_json(fresh / RESULT, content, indent=1)
    return folder


def read(path: str | Path, *, inside: str = "") -> Any:
    """The result in a folder.

    Args:
        path: The folder, or its `result.json`.
        inside: Where in the folder it may be.

    Raises:
        ValueError: As `Result.load`.
    """
    folder = _folder_of(checks.path("path", path), inside)
    content = read_json(folder / RESULT, remedy=_REMEDY, always_sealed=True)
    known = content.get("format")
    if not isinstance(known, int) or "result" not in content or "tables" not in content:
        raise ValueError(f"expected a saved result in {folder}, got another JSON file; {_REMEDY}")
    if known > FORMAT:
        raise ValueError(
            f"expected a result of format {FORMAT} in {folder}, got format {known}, which a newer "
            "induction_lens wrote; upgrade the package to read it"
        )
    try:
        tensors: dict[str, Tensor] = {}
        for name, about in content["tables"].items():
            tensors |= _read_table(folder / Path(name).name, about)
        return unpack(content["result"], tensors)
    except _BROKEN as error:
        raise ValueError(
            f"expected a saved result in {folder}, which is damaged ({_said(error)}); {_REMEDY}"
        ) from error


def _folder_of(path: Path, inside: str) -> Path:
    """The folder with the result's file.

    Raises:
        ValueError: There is none.
    """
    folder = path.parent if path.name == RESULT else path
    for candidate in (folder / inside, folder, folder / "result"):
        recover(candidate)
        if (candidate / RESULT).is_file():
            return candidate
    what = "which is a file" if folder.is_file() else f"without a {RESULT}"
    what = what if folder.exists() else "which does not exist"
    raise ValueError(
        f"expected the folder of a saved result, got {path}, {what}; write one with save(folder)"
    )


def _check_free(folder: Path) -> None:
    """Check that nothing else than a saved result would be replaced.

    Raises:
        ValueError: Something else is there.
    """
    if folder.suffix in (".json", ".parquet", ".csv", ".pkl", ".pt"):
        raise ValueError(
            f"expected a folder to save to, got {folder}, which is named like a file; a result is "
            f"a folder of JSON and Parquet, so leave {folder.suffix} out"
        )
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(there - {RESULT} - _tables_in(folder, there))
    if there and (others or RESULT not in there):
        raise ValueError(
            f"expected a new folder or one of a saved result, got {folder}, which holds "
            f"{(others or sorted(there))[0]}; name another folder, such as {folder / 'result'}"
        )


def _tables_in(folder: Path, there: set[str]) -> set[str]:
    """Which files are the tables of the result in a folder: all that may be, if it is damaged."""
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return set(content["tables"])
    except (OSError, *_BROKEN):
        return {name for name in there if name.endswith(".parquet")}


def _tables(packed: Packed) -> dict[str, list[str]]:
    """The tensors of each table by its file's name: those of the same axes and sizes."""
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in packed.tensors.items():
        grouped.setdefault((packed.axes[name], tuple(tensor.shape)), []).append(name)
    named: dict[str, list[str]] = {}
    for (axes, _), group in grouped.items():
        stem = "-".join(axes) or "numbers"
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
        alike = sum(name.partition(".")[0] == stem for name in named)
        named[f"{stem}.{alike + 1}.parquet" if alike else f"{stem}.parquet"] = group
    return named


def _write_table(path: Path, packed: Packed, group: Sequence[str]) -> None:
    """One row for each number: its place along every axis, and a column for each tensor."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shape = tuple(packed.tensors[group[0]].shape)
    columns: dict[str, pa.Array] = {}
    for axis, name in enumerate(packed.axes[group[0]]):
        columns[name] = pa.array(_places(shape, axis))
    for name in group:
        values = packed.tensors[name].flatten()
        half = values.dtype in (torch.bfloat16, torch.float16)
        columns[name] = pa.array((values.float() if half else values).numpy())
    floats = [name for name in group if packed.tensors[name].is_floating_point()]
    # stubs of pyarrow know a bool alone
    split: Any = floats
    repeating: Any = [name for name in columns if name not in floats]
    pq.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        use_dictionary=repeating,
        use_byte_stream_split=split,
        write_page_checksum=True,
    )


def _places(shape: Sequence[int], axis: int) -> Any:
    """The index along one axis of every number of a table, in their order."""
    import numpy as np

    inner, outer = math.prod(shape[axis + 1 :]), math.prod(shape[:axis])
    return np.tile(np.repeat(np.arange(shape[axis], dtype=np.int32), inner), outer)


def _read_table(path: Path, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a table.

    Raises:
        ValueError: It is not there, or not what was written with the result.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"the table {path.name} is missing")
    if sha256(path) != about["sha256"]:
        raise ValueError(f"the table {path.name} was altered, or is of another result")
    table = pq.read_table(path, columns=about["columns"], page_checksum_verification=True)
    found = {}
    for name in about["columns"]:
        values = table[name].combine_chunks().to_numpy(zero_copy_only=False).copy()
        found[name] = torch.from_numpy(values).view(tuple(about["shape"]))
    return found


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"without {error}"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
