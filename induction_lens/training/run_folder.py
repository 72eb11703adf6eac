"""What a training run keeps in its folder: snapshots, and a checkpoint to continue from.

1. One process at a time trains in a folder (`locks`), and the folder stays the same one from the
   first write to the last.
2. A checkpoint knows the options of its run and the data: the SHA-256 of the tensor that batches
   are drawn from, and a digest of every batch. A run with others is refused.
3. At the end, and before a run is continued, every snapshot that was due is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from induction_lens.files import output_folder, tidy
from induction_lens.locks import Lock, locked
from induction_lens.toys.snapshots import Snapshot, list_snapshots, save
from induction_lens.training.optimizers import Optimization, read_checkpoint

CHECKPOINT, SNAPSHOTS = "checkpoint.safetensors", "snapshots"
LOCK = ".training.lock"
_N_COMPARED = 8
"""Batches of a function that are drawn again before a run is continued; of a tensor, all are."""


@dataclass
class RunFolder:
    """How far a run is, and what it keeps in its folder, if it has one."""

    settings: dict[str, Any]
    """The options that the weights depend on."""
    data: str | None
    """SHA-256 of the tensor that batches are drawn from; None where a function gives them."""
    schedule: set[int]
    """The steps at which a snapshot is due."""
    checkpoint_every: int
    """Steps between two checkpoints."""
    lock: Lock | None = None
    """What keeps other processes out of the folder; None where nothing is kept on disk."""
    losses: list[float] = field(default_factory=list)
    """The loss of every step so far."""
    batches: list[int] = field(default_factory=list)
    """A digest of the batch of every step so far; 0 where an earlier version trained it."""
    tokens_seen: int = 0
    """Tokens of all batches so far."""

    @property
    def folder(self) -> Path | None:
        """The folder of the run."""
        return None if self.lock is None else self.lock.path.parent

    def begin(
        self,
        model: Any,
        optimization: Optimization,
        draw: Callable[[int], Tensor],
        *,
        resume: bool,
    ) -> None:
        """Restore the checkpoint, or clear the folder for a new run."""
        if self.folder is None:
            return
        tidy(self.folder)
        tidy(self.folder / SNAPSHOTS)
        path = self.folder / CHECKPOINT
        if not (resume and path.is_file()):
            path.unlink(missing_ok=True)
            for stale in self.folder.glob(f"{SNAPSHOTS}/step-*"):
                shutil.rmtree(stale)
            return
        refuse_other_run(self.folder, self.settings)
        tensors, about = read_checkpoint(path)
        self._check_data(path, about.get("data"), tensors.get("batches"), draw)
        optimization.restore(tensors)
        optimization.copy_to(model)
        self.losses = tensors["losses"].tolist()
        self.tokens_seen = int(about["tokens_seen"])
        unknown = torch.zeros(len(self.losses), dtype=torch.int64, device="cpu")
        self.batches = tensors.get("batches", unknown).tolist()
        # one that is due now is saved in a moment
        self._check_snapshots(before=len(self.losses))

    def add(self, loss: float, tokens: Tensor) -> None:
        """Count one update."""
        self.losses.append(loss)
        self.batches.append(_batch_digest(tokens))
        self.tokens_seen += tokens.numel()

    def keep(self, model: Any, optimization: Optimization) -> None:
        """Save what is due after this many steps: a snapshot, a checkpoint, both or neither."""
        if self.lock is None or self.folder is None:
            return
        step = len(self.losses)
        seen = self.tokens_seen
        if step in self.schedule:
            self.lock.check()
            extra: dict[str, Any] = {"loss": self.losses[-1]} if self.losses else {}
            for name in ("clamp", "loss_mask"):
                if self.settings[name]:
                    extra[name] = self.settings[name]
            save(model, self.folder / SNAPSHOTS, step=step, tokens_seen=seen, extra=extra)
        if step and (step % self.checkpoint_every == 0 or step == self.settings["n_steps"]):
            self.lock.check()
            about = {"settings": self.settings, "tokens_seen": seen, "data": self.data}
            history = {
                "losses": torch.tensor(self.losses, dtype=torch.float64, device="cpu"),
                "batches": torch.tensor(self.batches, dtype=torch.int64, device="cpu"),
            }
            optimization.save(self.folder / CHECKPOINT, about, history)

    def end(self) -> tuple[Snapshot, ...]:
        """The snapshots in the folder, once it is shown that none is missing."""
        if self.lock is None:
            return ()
        self.lock.check()
        self._check_snapshots(before=self.settings["n_steps"] + 1)
        return self._snapshots()

    def _snapshots(self) -> tuple[Snapshot, ...]:
        if self.folder is None or not (self.folder / SNAPSHOTS).is_dir():
            return ()
        return tuple(list_snapshots(self.folder / SNAPSHOTS))

    def _check_snapshots(self, *, before: int) -> None:
        there = {snapshot.step for snapshot in self._snapshots()}
        missing = sorted(step for step in self.schedule - there if step < before)
        if missing:
            raise ValueError(
                f"expected snapshots at all steps that were asked for, got {self.folder} without "
                f"{', '.join(map(str, missing))}; ask for those that are there, or pass "
                "resume=False to train again"
            )

    def _check_data(
        self, path: Path, data: Any, digests: Tensor | None, draw: Callable[[int], Tensor]
    ) -> None:
        """See that the checkpoint at `path` was trained on what is drawn here."""
        if data is not None and self.data is not None:
            same = data == self.data
        else:
            digests = torch.zeros(0, device="cpu") if digests is None else digests
            n = len(digests)
            n_compared = n if self.data is not None else min(n, _N_COMPARED)
            steps = (
                torch.linspace(0, n - 1, n_compared, dtype=torch.float32, device="cpu")
                .round()
                .int()
                .unique()
                .tolist()
            )
            known = [step for step in steps if digests[step] != 0]
            same = all(_batch_digest(draw(step)) == digests[step] for step in known)
        if not same:
            raise ValueError(
                f"expected the batches that {path} was trained on, got others; use another folder, "
                "or pass resume=False to start again"
            )


@contextmanager
def training_in(out: str | Path | None) -> Iterator[Lock | None]:
    """Keep other processes from training in a folder, which is made where it is missing."""
    if out is None:
        yield None
        return
    folder = output_folder(out)
    output_folder(folder / SNAPSHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK) as lock:
        yield lock


def refuse_other_run(folder: str | Path, settings: dict[str, Any]) -> None:
    """See that the checkpoint in a folder, if there is one, was made with these settings.

    Raises:
        ValueError: It is of another run, or damaged.
    """
    path = Path(folder) / CHECKPOINT
    if not path.is_file():
        return
    kept = read_checkpoint(path)[1]["settings"]
    wanted = json.loads(json.dumps(settings))
    differs = [key for key in wanted if kept.get(key) != wanted[key]]
    if differs:
        raise ValueError(
            f"expected the checkpoint of this run, got {path} with another {', '.join(differs)}; "
            "use another folder, or pass resume=False to start again"
        )


def _batch_digest(tokens: Tensor) -> int:
    """A digest of a batch's shape and tokens as a whole number that int64 holds."""
    content = tokens.cpu().to(torch.int64).contiguous().numpy().tobytes()
    digest = hashlib.blake2b(str(tuple(tokens.shape)).encode() + content, digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
