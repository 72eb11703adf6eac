"""Snapshots: a toy model's weights at one moment of its training, on disk.

A snapshot is a folder with `config.json` (the toy's configuration, the step, the tokens seen, the
SHA-256 of the weights, versions) and `weights.safetensors`. It appears whole or not at all, and
loading checks the sum, so a truncated or altered file is never mistaken for a model. The weights
are named as `toy_weights` names them, so a snapshot loads into either TransformerLens class. The
tokenizer is looked for in the snapshot's folder and in the two folders around it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from induction_lens.corpus import load_tokenizer, tokenizer_json
from induction_lens.files import atomic_folder, sha256, write_text
from induction_lens.models.native import toy_weights
from induction_lens.toy import ToyConfig, build_toy, set_weights, toy_config

CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights.safetensors", "tokenizer.json"


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
        ValueError: The model is no toy, or its tokenizer is not one of ours.
    """
    path = Path(folder) / f"step-{step:08d}"
    write_snapshot(model, path, step=step, tokens_seen=tokens_seen, extra=extra)
    if model.tokenizer is not None and _find_tokenizer(path) is None:
        write_text(Path(folder) / TOKENIZER, tokenizer_json(model.tokenizer))
    return read_snapshot(path)


def write_snapshot(
    model: Any, path: str | Path, *, step: int, tokens_seen: int, extra: dict | None = None
) -> None:
    """Write a toy model's weights and configuration as the folder `path`, atomically."""
    config = toy_config(model)
    with atomic_folder(path) as fresh:
        save_file(_plain_weights(model), fresh / WEIGHTS)
        content = {
            "model": config.to_dict(),
            "step": step,
            "tokens_seen": tokens_seen,
            "sha256": sha256(fresh / WEIGHTS),
            "versions": {
                name: version(name) for name in ("torch", "transformer-lens", "transformers")
            },
            "extra": extra or {},
        }
        (fresh / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_snapshot(path: str | Path) -> Snapshot:
    """What is known of a snapshot without loading its weights.

    Raises:
        ValueError: The folder is no snapshot, or its `config.json` is damaged.
    """
    path = Path(path)
    file = path / CONFIG
    if not file.is_file():
        raise ValueError(f"expected a snapshot folder with {CONFIG}, got {path} without it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Snapshot(
            path=path,
            step=int(content["step"]),
            tokens_seen=int(content["tokens_seen"]),
            sha256=str(content["sha256"]),
            config=ToyConfig.from_dict(content["model"]),
            extra=dict(content["extra"]),
        )
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"expected a snapshot's configuration, got {file}, which is damaged ({error!r}); "
            "delete the folder and train or copy the snapshot again"
        ) from error


def list_snapshots(folder: str | Path) -> list[Snapshot]:
    """The snapshots directly inside a folder, in the order of their steps.

    Raises:
        ValueError: The folder does not exist, or a snapshot in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of snapshots, got {folder}, which does not exist")
    found = [read_snapshot(path.parent) for path in folder.glob(f"[!.]*/{CONFIG}")]
    return sorted(found, key=lambda snapshot: snapshot.step)


def load(
    snapshot: Snapshot | str | Path,
    *,
    implementation: Literal["hooked", "bridge"] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a snapshot as a model, with its tokenizer where there is one.

    Args:
        snapshot: A `Snapshot`, or its folder.
        implementation: As in `build_toy`.
        device: As in `build_toy`.
        dtype: As in `build_toy`.

    Raises:
        ValueError: The folder is no snapshot; its weights are missing, truncated or altered; or
            the installed TransformerLens cannot build the model.
    """
    if not isinstance(snapshot, Snapshot):
        snapshot = read_snapshot(snapshot)
    weights = _checked_weights(snapshot)
    tokenizer_file = _find_tokenizer(snapshot.path)
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


def _plain_weights(model: Any) -> dict[str, Tensor]:
    """Contiguous copies on the CPU: safetensors takes no views."""
    return {
        name: weight.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, weight in toy_weights(model).items()
    }


def _checked_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    file = snapshot.path / WEIGHTS
    remedy = "delete the folder and train or copy the snapshot again"
    if not file.is_file():
        raise ValueError(f"expected weights in {file}, which does not exist; {remedy}")
    found = sha256(file)
    if found != snapshot.sha256:
        raise ValueError(
            f"expected {file} with SHA-256 {snapshot.sha256[:12]}…, got {found[:12]}…: the file is "
            f"truncated or altered; {remedy}"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"expected safetensors in {file}, got {error}; {remedy}") from error


def _find_tokenizer(path: Path) -> Path | None:
    path = path.resolve()
    for folder in (path, path.parent, path.parent.parent):
        if (folder / TOKENIZER).is_file():
            return folder / TOKENIZER
    return None
