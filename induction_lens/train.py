"""Training toy models: a plain loop over batches, with snapshots and exact resume.

1. Each step takes a batch that depends on the seed and the step alone, runs forward and backward,
   clips the gradient, and moves the weights (`optimization`), at a rate that rises, stays, and
   falls to almost zero.
2. Snapshots are taken logarithmically, then linearly spaced.
3. A checkpoint holds the weights and the whole state of the optimizers, so that a run that was
   cut off continues exactly: on a CPU it ends with the same weights, bit for bit.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lens.clamp import Clamp, checked_clamps, cut_at, cutting
from induction_lens.models import device_of, toy_weights
from induction_lens.optimization import Optimization, read_checkpoint, start
from induction_lens.snapshots import Snapshot, list_snapshots, save
from induction_lens.toy import toy_config
from induction_lens.toy_logits import Cut, toy_logits

Batches = Int[Tensor, "sequence pos"] | Callable[[int], Int[Tensor, "batch pos"]]
CHECKPOINT = "checkpoint.safetensors"
_IGNORED = -100


@dataclass(frozen=True)
class TrainingRun:
    """What a training run did."""

    model: Any
    """The trained model: the one that was given, changed in place."""
    losses: Float[Tensor, " step"]
    """Training loss of every step, nats per token, before that step's update."""
    n_steps: int
    """Updates of the weights."""
    tokens_seen: int
    """Training tokens, BOS included."""
    tokens_per_second: float
    """Speed of this call's own steps; NaN where it had none left to do."""
    snapshots: tuple[Snapshot, ...]
    """The snapshots on disk, in the order of their steps."""


def train(
    model: Any,
    batches: Batches,
    *,
    n_steps: int,
    batch_size: int = 16,
    out: str | Path | None = None,
    optimizer: Literal["muon", "adamw"] = "muon",
    learning_rate: float = 6e-3,
    muon_learning_rate: float = 0.02,
    weight_decay: float = 0.0,
    warmup: int = 100,
    decay: float = 0.3,
    clip: float | None = 1.0,
    micro_batch: int | None = None,
    fused: bool = True,
    mixed_precision: bool | None = None,
    clamp: Clamp | Sequence[Clamp] | None = None,
    snapshots: Sequence[int] | None = None,
    checkpoint_every: int = 200,
    resume: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> TrainingRun:
    """Train a toy model to predict the next token.

    The loss is the mean cross-entropy, in nats, of the tokens at positions 1 and later.

    Args:
        model: A model made by `build_toy`; it is changed in place.
        batches: Sequences of tokens, from which batches are drawn in a new random order each
            epoch; or a function from the step to that step's batch, which must not depend on
            anything else, or resuming is not exact.
        n_steps: Updates of the weights.
        batch_size: Sequences in a batch, where `batches` is a tensor.
        out: Folder for snapshots and the checkpoint; None keeps nothing on disk.
        optimizer: "muon" trains attention and MLP matrices with Muon (momentum 0.95) and the rest
            with AdamW; "adamw" trains everything with AdamW (betas 0.9 and 0.95).
        learning_rate: AdamW's peak learning rate.
        muon_learning_rate: Muon's peak learning rate.
        weight_decay: AdamW's weight decay; Muon has none.
        warmup: Steps over which the learning rates rise linearly from zero.
        decay: The last part of the run, as a fraction of `n_steps`, over which they fall linearly
            to zero.
        clip: Largest norm of the gradient; None leaves it alone.
        micro_batch: Sequences in one forward pass, for less memory; None runs the batch at once.
        fused: Run `toy_logits` with fused attention; False runs the model itself, hooks and all.
        mixed_precision: bfloat16 autocast; None: on CUDA only.
        clamp: What to knock out during training, and from which step to which. Snapshots hold the
            weights alone: measured later, they are whole models.
        snapshots: Steps at which to save a snapshot; None: `snapshot_steps(n_steps)`.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from the checkpoint in `out` if there is one. Without it, or with False,
            the run starts at step 0, and snapshots of an earlier run in `out` are removed.
        progress: Show a bar with the loss and the tokens per second.
        seed: Seed of the order of the sequences.

    Raises:
        ValueError: An option is out of range; the model is no toy; a batch does not fit it; the
            checkpoint belongs to another run; a clamp does not fit the model or the run; or this
            torch has no Muon.
        FloatingPointError: The loss is not finite any more.
    """
    draw = _batch_source(batches, n_steps=n_steps, batch_size=batch_size, seed=seed)
    clamps = checked_clamps(clamp, toy_config(model), n_steps=n_steps)
    settings = {
        "model": toy_config(model).to_dict(),
        "n_steps": n_steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rates": [learning_rate, muon_learning_rate, weight_decay, clip],
        "schedule": [warmup, decay],
        "seed": seed,
        "clamp": [one.to_dict() for one in clamps] or None,  # older checkpoints say nothing of it
    }
    optimization = start(model, optimizer, learning_rate, muon_learning_rate, weight_decay)
    schedule = snapshot_steps(n_steps) if snapshots is None else snapshots
    run = _Run(None if out is None else Path(out), settings, set(schedule), checkpoint_every)
    run.begin(model, optimization, resume=resume)
    first_step, first_tokens, started = len(run.losses), run.tokens_seen, time.perf_counter()
    with _bar(progress, n_steps, first_step) as report:
        for step in range(first_step, n_steps):
            run.keep(model, optimization)
            tokens = draw(step).to(device_of(model)).long()
            cut = cut_at(clamps, step)
            loss = _backward(model, tokens, micro_batch, cut, fused=fused, mixed=mixed_precision)
            _check_finite(loss, step)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimization.update(model, _rate(step, n_steps, warmup=warmup, decay=decay))
            run.add(loss, tokens)
            report(loss, (run.tokens_seen - first_tokens) / (time.perf_counter() - started))
    run.keep(model, optimization)
    model.zero_grad(set_to_none=True)
    new_tokens, seconds = run.tokens_seen - first_tokens, time.perf_counter() - started
    return TrainingRun(
        model=model,
        losses=torch.tensor(run.losses),
        n_steps=n_steps,
        tokens_seen=run.tokens_seen,
        tokens_per_second=new_tokens / seconds if new_tokens else math.nan,
        snapshots=run.snapshots(),
    )


@dataclass
class _Run:
    """How far a run is, and what it keeps in its folder, if it has one."""

    folder: Path | None
    settings: dict[str, Any]
    schedule: set[int]
    checkpoint_every: int
    losses: list[float] = field(default_factory=list)
    tokens_seen: int = 0

    def begin(self, model: Any, optimization: Optimization, *, resume: bool) -> None:
        """Restore the checkpoint, or clear the folder for a new run."""
        if self.folder is None:
            return
        path = self.folder / CHECKPOINT
        if not (resume and path.is_file()):
            path.unlink(missing_ok=True)
            for stale in self.folder.glob("snapshots/step-*"):
                shutil.rmtree(stale)
            return
        tensors, about = read_checkpoint(path)
        wanted = json.loads(json.dumps(self.settings))
        differs = [key for key in wanted if about["settings"].get(key) != wanted[key]]
        if differs:
            raise ValueError(
                f"expected the checkpoint of this run, got {path} with another "
                f"{', '.join(differs)}; use another folder, or pass resume=False to start again"
            )
        optimization.restore(tensors)
        optimization.copy_to(model)
        self.losses, self.tokens_seen = tensors["losses"].tolist(), about["tokens_seen"]

    def add(self, loss: float, tokens: Tensor) -> None:
        """Count one update."""
        self.losses.append(loss)
        self.tokens_seen += tokens.numel()

    def keep(self, model: Any, optimization: Optimization) -> None:
        """Save what is due after this many steps: a snapshot, a checkpoint, both or neither."""
        if self.folder is None:
            return
        step, seen = len(self.losses), self.tokens_seen
        if step in self.schedule:
            extra: dict[str, Any] = {"loss": self.losses[-1]} if self.losses else {}
            if self.settings["clamp"]:
                extra["clamp"] = self.settings["clamp"]
            save(model, self.folder / "snapshots", step=step, tokens_seen=seen, extra=extra)
        if step and (step % self.checkpoint_every == 0 or step == self.settings["n_steps"]):
            about = {"settings": json.dumps(self.settings), "tokens_seen": str(seen)}
            optimization.save(self.folder / CHECKPOINT, about, self.losses)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots in the folder."""
        if self.folder is None or not (self.folder / "snapshots").is_dir():
            return ()
        return tuple(list_snapshots(self.folder / "snapshots"))


def snapshot_steps(n_steps: int, n: int = 64, *, early: int | None = None) -> tuple[int, ...]:
    """When to save about `n` snapshots: step 0, then logarithmically, then linearly spaced.

    Args:
        n_steps: Steps of the run.
        n: Snapshots after step 0.
        early: How many of them are spaced logarithmically, before the others, which are evenly
            spaced up to the last step; None: half, for the loss falls fastest at first.

    Raises:
        ValueError: `n` is below 4, or fewer than 2 are early or late.
    """
    early = n // 2 if early is None else early
    if n < 4 or not 2 <= early <= n - 2:
        raise ValueError(
            f"expected at least 4 snapshots, 2 of them early and 2 late, got {n} and {early} early"
        )
    late = n - early
    knee = max(n_steps / late, 1.0)
    first = [round(knee ** (i / (early - 1))) for i in range(early)]
    rest = [round(knee * i) for i in range(1, late + 1)]
    return tuple(sorted({0, n_steps, *(step for step in first + rest if step <= n_steps)}))


def _rate(step: int, n_steps: int, *, warmup: int, decay: float) -> float:
    """The factor on the peak learning rates: up, level, and down to almost zero."""
    rise = (step + 1) / max(warmup, 1)
    fall = (n_steps - step) / max(decay * n_steps, 1)
    return min(1.0, rise, fall)


def _batch_source(
    batches: Batches, *, n_steps: int, batch_size: int, seed: int
) -> Callable[[int], Tensor]:
    if n_steps < 1 or batch_size < 1:
        raise ValueError(f"expected n_steps and batch_size ≥ 1, got {n_steps} and {batch_size}")
    if not isinstance(batches, Tensor):
        return batches
    n_batches = len(batches) // batch_size
    if n_batches == 0:
        raise ValueError(
            f"expected at least batch_size={batch_size} sequences, got {len(batches)}; give more "
            "text or a smaller batch_size"
        )
    order: dict[int, Tensor] = {}

    def draw(step: int) -> Tensor:
        epoch, index = divmod(step, n_batches)
        if epoch not in order:
            order.clear()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order[epoch] = torch.randperm(len(batches), generator=generator)
        return batches[order[epoch][index * batch_size : (index + 1) * batch_size]]

    return draw


def _backward(
    model: Any,
    tokens: Tensor,
    micro_batch: int | None,
    cut: Cut,
    *,
    fused: bool,
    mixed: bool | None,
) -> float:
    """Put the gradient of the batch's mean loss into the model; that loss, in nats."""
    model.zero_grad(set_to_none=True)
    mixed = tokens.device.type == "cuda" if mixed is None else mixed
    weights, config, total = toy_weights(model), toy_config(model), 0.0
    with nullcontext() if fused else cutting(model, cut):
        for piece in tokens.split(micro_batch or len(tokens)):
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=mixed):
                logits = toy_logits(weights, config, piece, cut=cut) if fused else model(piece)
            # The last position predicts nothing: to ignore it copies less than to cut it off.
            targets = F.pad(piece[:, 1:], (0, 1), value=_IGNORED).flatten()
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=_IGNORED)
            loss = loss * (len(piece) / len(tokens))
            loss.backward()
            total += loss.item()
    return total


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step}; lower the rates, or look at the batch"
        )


@contextmanager
def _bar(show: bool, n_steps: int, first: int) -> Iterator[Callable[[float, float], None]]:
    """A progress bar; yields what to call after each step with the loss and the speed."""
    if not show:
        yield lambda loss, speed: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f} nats · {task.fields[speed]:,.0f} tokens/s ·"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=n_steps, completed=first, loss=math.nan, speed=0.0)
        yield lambda loss, speed: bar.update(task, advance=1, loss=loss, speed=speed)
