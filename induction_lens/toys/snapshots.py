"""Snapshots: a toy model's weights at one moment of its training, on disk.

A snapshot is a folder with `config.json` (the toy's configuration, the step, the tokens seen, the
SHA-256 of the weights, of the tokenizer and of itself, versions) and `weights.safetensors`. It
appears complete or not at all, and loading checks the sums, so a truncated or altered file is never
mistaken for a model. The weights are named as `toy_weights` names them, so a snapshot loads into
either TransformerLens class. The tokenizer is looked for in the snapshot's folder and in the two
folders around it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from induction_lens.checks import whole_number
from induction_lens.files import atomic_folder, recover, sha256, write_text
from induction_lens.inputs.corpus import BOS, load_tokenizer, tokenizer_json
from induction_lens.models.from_scratch import toy_weights
from induction_lens.seals import check, read_json, write_json
from induction_lens.toys.model import ToyConfig, build_toy, set_weights, toy_config

CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights.safetensors", "tokenizer.json"
_REMEDY = "delete the folder and train or copy the snapshot again"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot on disk, not yet loaded."""

    path: Path
    """Its folder."""
    step: int
    """Updates of the weights before it."""
    tokens_seen: int
    """Training tokens before it, BOS included."""
    sha256: str
    """SHA-256 of its weights file."""
    config: ToyConfig
    """The model's configuration."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else was saved with it, such as the training loss (nats per token)."""
    tokenizer: str | None = None
    """SHA-256 of the model's `tokenizer.json`; None without one, and in files of earlier versions.
    """


def save(
    model: Any, folder: str | Path, *, step: int, tokens_seen: int, extra: dict | None = None
) -> Snapshot:
    """Save a toy model as the snapshot `folder/step-…`, replacing one of the same step.

    Args:
        model: A model made by `build_toy`.
        folder: Where the snapshots of one training run are.
        step: Updates of the weights so far.
        tokens_seen: Training tokens so far.
        extra: More to keep in `config.json`; must be JSON-ready.

    Raises:
        ValueError: The model is not a toy, or its tokenizer is not one of ours; or a number or
            `extra` cannot be saved.

    Examples:
        >>> model = il.toys.build_toy(il.toys.ToyConfig(d_model=32))
        >>> snapshot = il.toys.save(model, "snapshots", step=10, tokens_seen=5120)
        >>> il.load(snapshot.path).cfg.d_model
        32
    """
    step = whole_number("step", step, least=0)
    path = Path(folder) / f"step-{step:08d}"
    text = _tokenizer_text(model)
    if text is not None and not _is_near(path, text):
        write_text(Path(folder) / TOKENIZER, text)
    write_snapshot(model, path, step=step, tokens_seen=tokens_seen, extra=extra)
    return read_snapshot(path)


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Round the weights of a toy model to those that a type holds; their own type stays."""
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.copy_(weight.to(dtype))


def write_snapshot(
    model: Any,
    path: str | Path,
    *,
    step: int,
    tokens_seen: int,
    extra: dict | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a toy model as the folder `path`, atomically.

    Its tokenizer is written too, if `load` would not find it near the folder.

    Args:
        model: A model made by `build_toy`.
        path: The folder.
        step: Updates of the weights so far.
        tokens_seen: Training tokens so far.
        extra: More to keep in `config.json`; must be JSON-ready.
        dtype: Type of the weights on disk, which has to hold them exactly (`round_weights`); None:
            their own.

    Raises:
        ValueError: The model is not a toy, its tokenizer is not one of ours, something cannot be
            saved, or `dtype` does not hold the weights.
    """
    text = _tokenizer_text(model)
    content = {
        "model": toy_config(model).to_dict(),
        "step": whole_number("step", step, least=0),
        "tokens_seen": whole_number("tokens_seen", tokens_seen, least=0),
        "tokenizer": None if text is None else _sum(text),
        "versions": {name: version(name) for name in ("torch", "transformer-lens", "transformers")},
        "extra": extra or {},
    }
    with atomic_folder(path) as fresh:
        if text is not None and not _is_near(fresh, text):
            (fresh / TOKENIZER).write_text(text, encoding="utf-8")
        _save_weights(model, fresh / WEIGHTS, dtype)
        content["sha256"] = sha256(fresh / WEIGHTS)
        try:
            write_json(fresh / CONFIG, content)
        except TypeError as error:
            raise ValueError(f"expected extra to be JSON-ready, got {error}") from error


class OfHuggingFace(ValueError):  # noqa: N818
    """A folder that holds a model of Hugging Face, and no snapshot."""


def read_snapshot(path: str | Path) -> Snapshot:
    """What is known of a snapshot without loading its weights.

    Raises:
        ValueError: The folder is not a snapshot, or its `config.json` is damaged.

    Examples:
        >>> model = il.toys.build_toy(il.toys.ToyConfig(d_model=32))
        >>> saved = il.toys.save(model, "snapshots", step=10, tokens_seen=5120)
        >>> snapshot = il.toys.read_snapshot(saved.path)
        >>> snapshot.step, snapshot.tokens_seen, snapshot.config.n_layers
        (10, 5120, 2)
    """
    path = Path(path)
    recover(path)
    file = path / CONFIG
    if not file.is_file():
        raise ValueError(f"expected a snapshot folder with {CONFIG}, got {path} without it")
    content = read_json(file, remedy=_REMEDY)
    if "step" not in content and {"model_type", "architectures"} & content.keys():
        raise OfHuggingFace(
            f"expected a snapshot that induction_lens.train wrote, got {path}, a Hugging Face "
            "model; load it with induction_lens.load, and score it with score_heads or report"
        )
    try:
        return Snapshot(
            path=path,
            step=int(content["step"]),
            tokens_seen=int(content["tokens_seen"]),
            sha256=str(content["sha256"]),
            config=ToyConfig.from_dict(content["model"]),
            extra=dict(content["extra"]),
            tokenizer=content.get("tokenizer"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"expected a snapshot's configuration, got {file}, which is damaged ({error!r}); "
            f"{_REMEDY}"
        ) from error


def list_snapshots(folder: str | Path) -> list[Snapshot]:
    """The snapshots directly inside a folder, in the order of their steps.

    Raises:
        ValueError: The folder does not exist, or a snapshot in it is damaged.

    Examples:
        >>> model = il.toys.build_toy(il.toys.ToyConfig(d_model=32))
        >>> for step in (0, 10):
        ...     _ = il.toys.save(model, "snapshots", step=step, tokens_seen=512 * step)
        >>> [snapshot.step for snapshot in il.toys.list_snapshots("snapshots")]
        [0, 10]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of snapshots, got {folder}, which does not exist")
    for aside in folder.glob(".*.old"):
        recover(folder / re.sub(r"^\.(.*)\.old$", r"\1", aside.name))
    found = [read_snapshot(path.parent) for path in folder.glob(f"[!.]*/{CONFIG}")]
    return sorted(found, key=lambda snapshot: snapshot.step)


def load(
    snapshot: Snapshot | str | Path,
    *,
    implementation: Literal["hooked", "bridge"] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a snapshot as a model, with its tokenizer if there is one.

    Args:
        snapshot: A `Snapshot`, or its folder.
        implementation: As in `build_toy`.
        device: As in `build_toy`.
        dtype: As in `build_toy`.

    Raises:
        ValueError: The folder is not a snapshot; its weights are missing, truncated or altered; or
            the installed TransformerLens cannot build the model.
    """
    if not isinstance(snapshot, Snapshot):
        snapshot = read_snapshot(snapshot)
    weights = _checked_weights(snapshot)
    tokenizer_file = _find_tokenizer(snapshot)
    tokenizer = None if tokenizer_file is None else load_tokenizer(tokenizer_file)
    model = build_toy(
        snapshot.config,
        implementation=implementation,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
    )
    set_weights(model, weights)
    return model


def _save_weights(model: Any, path: Path, dtype: torch.dtype | None) -> None:
    """Write contiguous copies on the CPU: safetensors takes no views."""
    weights = {
        name: weight.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, weight in toy_weights(model).items()
    }
    if dtype is not None:
        stored = {name: weight.to(dtype) for name, weight in weights.items()}
        altered = [n for n, w in weights.items() if not torch.equal(stored[n].to(w.dtype), w)]
        if altered:
            raise ValueError(
                f"expected weights that {dtype} holds exactly, got others in {altered[0]}; call "
                "round_weights first"
            )
        weights = stored
    try:
        save_file(weights, path)
    except SafetensorError as error:
        raise OSError(f"could not write {path} ({error}); is the disk full?") from error


def _checked_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    file = snapshot.path / WEIGHTS
    if not file.is_file():
        raise ValueError(f"expected weights in {file}, which does not exist; {_REMEDY}")
    check(file, remedy=_REMEDY)
    found = sha256(file)
    if found != snapshot.sha256:
        raise ValueError(
            f"expected {file} with SHA-256 {snapshot.sha256[:12]}…, got {found[:12]}…: the file is "
            f"truncated or altered; {_REMEDY}"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"expected safetensors in {file}, got {error}; {_REMEDY}") from error


def _tokenizers_near(path: Path) -> list[Path]:
    """The tokenizer files in a snapshot's folder and in the two around it, the nearest first."""
    path = path.resolve()
    files = [folder / TOKENIZER for folder in (path, path.parent, path.parent.parent)]
    return [file for file in files if file.is_file()]


def _find_tokenizer(snapshot: Snapshot) -> Path | None:
    """The tokenizer of a snapshot; None if there is no tokenizer file."""
    remedy = "put the tokenizer that the snapshot was saved with in its place"
    near = _tokenizers_near(snapshot.path)
    for file in near:
        check(file, remedy=remedy)
        if snapshot.tokenizer in (None, sha256(file)):
            return file
    if not near:
        return None
    raise ValueError(
        f"expected the tokenizer that {snapshot.path} was saved with, got {near[0]}, which is "
        f"another or was altered; {remedy}"
    )


def _is_near(path: Path, text: str) -> bool:
    """Whether a snapshot in this folder would find a tokenizer of this text."""
    return any(sha256(file) == _sum(text) for file in _tokenizers_near(path))


def _tokenizer_text(model: Any) -> str | None:
    """A toy's tokenizer, without what an earlier call may have switched on; None without one."""
    from tokenizers import Tokenizer

    toy_config(model)
    if model.tokenizer is None:
        return None
    if getattr(model.tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"expected a fast tokenizer, got {type(model.tokenizer).__name__}, which has no "
            f"{TOKENIZER}; train one with induction_lens.inputs.corpus.train_tokenizer"
        )
    plain: Any = Tokenizer.from_str(tokenizer_json(model.tokenizer))
    if plain.token_to_id(BOS) is None:
        raise ValueError(
            f"expected a tokenizer with the token {BOS}, got one without, which could not be read "
            "again; train one with induction_lens.inputs.corpus.train_tokenizer"
        )
    plain.no_truncation()
    plain.no_padding()
    return plain.to_str()


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
