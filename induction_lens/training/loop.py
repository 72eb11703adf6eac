"""Training toy models: a plain loop over batches, with snapshots and exact resume.

1. Each step takes a batch that depends on the seed and the step alone, runs forward and backward,
   clips the gradient, and moves the weights (`optimization`), at a rate that rises, stays, and
   falls to almost zero.
2. Snapshots are taken logarithmically, then linearly spaced.
3. A checkpoint holds the weights and the whole state of the optimizers, so that a run that was
   cut off continues exactly: on a CPU it ends with the same weights, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lens import checks
from induction_lens.models import device_of, toy_weights
from induction_lens.progress import progress_bar
from induction_lens.seals import tokens_digest
from induction_lens.toys.forward import Cut, toy_logits
from induction_lens.toys.model import ToyConfig, toy_config
from induction_lens.toys.snapshots import Snapshot
from induction_lens.training.clamp import Clamp, checked_clamps, cut_at, cutting
from induction_lens.training.loss_masks import LossMask
from induction_lens.training.optimizers import Optimization, start
from induction_lens.training.run_folder import RunFolder, training_in

Batches = Int[Tensor, "sequence pos"] | Callable[[int], Int[Tensor, "batch pos"]]
_LARGEST_SEED = 2**43  # each epoch has a seed of its own, a million times as large
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
    loss_mask: LossMask | None = None,
    snapshots: Sequence[int] | None = None,
    checkpoint_every: int = 200,
    resume: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> TrainingRun:
    """Train a toy model to predict the next token.

    The loss is the mean cross-entropy, in nats, of the tokens at positions 1 and later, or of those
    of them that `loss_mask` counts.

    Args:
        model: A model made by `build_toy`; it is changed in place.
        batches: Sequences of tokens, from which batches are drawn in a new random order each
            epoch; or a function from the step to that step's batch, which must not depend on
            anything else, or resuming is not exact. Some batches are drawn again before a run is
            continued, to see that they are the same.
        n_steps: Updates of the weights.
        batch_size: Sequences in a batch, where `batches` is a tensor.
        out: Folder for snapshots and the checkpoint, for one process at a time; None keeps
            nothing on disk.
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
        mixed_precision: Bfloat16 autocast; None: on CUDA only.
        clamp: What to knock out during training, and from which step to which. Snapshots hold the
            weights alone: measured later, they are whole models.
        loss_mask: Which tokens are to be predicted, such as `Hapax()`; None: all.
        snapshots: Steps from 0 to `n_steps` at which to save a snapshot; None:
            `snapshot_steps(n_steps)`.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from the checkpoint in `out` if there is one. Without it, or with False,
            the run starts at step 0, and snapshots of an earlier run in `out` are removed.
        progress: Show a bar with the loss and the tokens per second, on a terminal, where it takes
            over two seconds.
        seed: Seed of the order of the sequences.

    Raises:
        ValueError: An option is out of range; the model is no toy; a batch does not fit it; the
            checkpoint belongs to another run, or was trained on other batches; another process
            trains in `out`, or `out` was removed meanwhile; snapshots are missing; a clamp does
            not fit the model or the run; the loss mask counts no token of a batch.
        FloatingPointError: The loss is not finite any more.

    Examples:
        >>> tokens = il.repeated_random_tokens(il.load("toy-2l"), n_sequences=8)
        >>> model = il.toys.build_toy(il.toys.ToyConfig(n_layers=1, d_model=32, n_ctx=128))
        >>> run = il.train(model, tokens, n_steps=8, batch_size=4, warmup=2, out="trained")
        >>> run.n_steps, run.tokens_seen
        (8, 3232)
        >>> bool(run.losses[-1] < run.losses[0])
        True
    """
    config = toy_config(model)
    options = _Options(
        n_steps=n_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        muon_learning_rate=muon_learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        decay=decay,
        clip=clip,
        micro_batch=micro_batch,
        fused=fused,
        mixed_precision=mixed_precision,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=progress,
        seed=seed,
    )
    schedule = _checked_schedule(snapshots, options.n_steps)
    clamps = checked_clamps(clamp, config, n_steps=options.n_steps)
    if loss_mask is not None:
        checks.instance("loss_mask", loss_mask, LossMask, "for instance Hapax()")
    draw = _batch_source(batches, config, batch_size=options.batch_size, seed=options.seed)
    optimization = start(
        model,
        optimizer,
        options.learning_rate,
        options.muon_learning_rate,
        options.weight_decay,
    )
    settings = _settings(config, options, optimizer, clamps, loss_mask)
    data = tokens_digest(batches) if isinstance(batches, Tensor) else None
    with training_in(out) as lock:
        run = RunFolder(settings, data, set(schedule), options.checkpoint_every, lock)
        run.begin(model, optimization, draw, resume=resume)
        speed = _take_steps(
            model, run, optimization, draw, clamps=clamps, mask=loss_mask, options=options
        )
        return TrainingRun(
            model=model,
            losses=torch.tensor(run.losses, dtype=torch.float32, device="cpu"),
            n_steps=options.n_steps,
            tokens_seen=run.tokens_seen,
            tokens_per_second=speed,
            snapshots=run.end(),
        )


def _settings(
    config: ToyConfig,
    options: _Options,
    optimizer: str,
    clamps: Sequence[Clamp],
    mask: LossMask | None,
) -> dict[str, Any]:
    """What the weights depend on, for the checkpoint."""
    return {
        "model": config.to_dict(),
        "n_steps": options.n_steps,
        "batch_size": options.batch_size,
        "optimizer": optimizer,
        "learning_rates": options.rates,
        "schedule": [options.warmup, options.decay],
        "seed": options.seed,
        # older checkpoints say nothing of these two
        "clamp": [one.to_dict() for one in clamps] or None,
        "loss_mask": None if mask is None else mask.to_dict(),
    }


def _take_steps(
    model: Any,
    run: RunFolder,
    optimization: Optimization,
    draw: Callable[[int], Tensor],
    *,
    clamps: Sequence[Clamp],
    mask: LossMask | None,
    options: _Options,
) -> float:
    """Train from where the run is to its end; tokens per second, NaN where it was there already."""
    n_steps = options.n_steps
    first_step = len(run.losses)
    first_tokens = run.tokens_seen
    started = time.perf_counter()

    def speed() -> float:
        return (run.tokens_seen - first_tokens) / (time.perf_counter() - started)

    title = "training" if options.progress else None
    with progress_bar(title, n_steps, unit="step", done=first_step) as advance:
        for step in range(first_step, n_steps):
            run.keep(model, optimization)
            batch = draw(step)
            tokens = batch.to(device_of(model)).long()
            targets = _targets(tokens, mask, step)
            loss = _backward(model, tokens, targets, cut_at(clamps, step), options)
            _check_finite(loss, step)
            if options.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            rate = _rate(step, n_steps, warmup=options.warmup, decay=options.decay)
            optimization.update(model, rate)
            run.add(loss, batch)
            advance(1, f"loss {loss:.3f} nats, {speed():,.0f} tokens/s")
    run.keep(model, optimization)
    model.zero_grad(set_to_none=True)
    return speed() if run.tokens_seen > first_tokens else math.nan


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The numbers and switches of `train`, once they are shown to be in range."""

    n_steps: int
    batch_size: int
    learning_rate: float
    muon_learning_rate: float
    weight_decay: float
    warmup: int
    decay: float
    clip: float | None
    micro_batch: int | None
    fused: bool
    mixed_precision: bool | None
    checkpoint_every: int
    resume: bool
    progress: bool
    seed: int

    def __post_init__(self) -> None:
        """Check everything, and make plain numbers of NumPy's."""
        plain: dict[str, Any] = {
            name: checks.whole_number(name, getattr(self, name), least=1)
            for name in ("n_steps", "batch_size", "checkpoint_every")
        }
        for name in ("learning_rate", "muon_learning_rate", "weight_decay"):
            plain[name] = checks.real_number(name, getattr(self, name), least=0.0)
        plain |= {
            "micro_batch": checks.whole_number(
                "micro_batch", self.micro_batch, least=1, optional=True
            ),
            "warmup": checks.whole_number("warmup", self.warmup, least=0),
            "seed": checks.whole_number("seed", self.seed, least=0, most=_LARGEST_SEED),
            "decay": checks.real_number("decay", self.decay, least=0.0, most=1.0),
            "clip": checks.real_number("clip", self.clip, above=0.0, optional=True),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        for name in ("fused", "resume", "progress"):
            checks.flag(name, getattr(self, name))
        if self.mixed_precision is not None:
            checks.flag("mixed_precision", self.mixed_precision)

    @property
    def rates(self) -> list[float | None]:
        """What the optimizers do with a gradient."""
        return [self.learning_rate, self.muon_learning_rate, self.weight_decay, self.clip]


def snapshot_steps(n_steps: int, n: int = 64, *, early: int | None = None) -> tuple[int, ...]:
    """When to save about `n` snapshots: step 0, then logarithmically, then linearly spaced.

    Args:
        n_steps: Steps of the run.
        n: Snapshots after step 0.
        early: How many of them are spaced logarithmically, before the others, which are evenly
            spaced up to the last step; None: half, for the loss falls fastest at first.

    Raises:
        ValueError: `n` is below 4, fewer than 2 are early or late, or one of them is no number.

    Examples:
        >>> il.training.snapshot_steps(1000, n=8)
        (0, 1, 6, 40, 250, 500, 750, 1000)
    """
    n_steps = checks.whole_number("n_steps", n_steps, least=1)
    n = checks.whole_number("n", n)
    early = n // 2 if early is None else checks.whole_number("early", early)
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


def _checked_schedule(snapshots: Sequence[int] | None, n_steps: int) -> tuple[int, ...]:
    if snapshots is None:
        return snapshot_steps(n_steps)
    return tuple(
        checks.whole_number("each step in snapshots", step, least=0, most=n_steps)
        for step in checks.several("snapshots", snapshots)
    )


def _batch_source(
    batches: Batches, config: ToyConfig, *, batch_size: int, seed: int
) -> Callable[[int], Tensor]:
    """The batch of every step, once it is shown to fit the model."""
    if not isinstance(batches, Tensor):
        if not callable(batches):
            raise checks.refuse(
                "batches", "a tensor of tokens or a function", batches, "pass one of the two"
            )
        return lambda step: _checked_tokens(f"the batch of step {step}", batches(step), config)
    _checked_tokens("batches", batches, config)
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
            order[epoch] = torch.randperm(len(batches), generator=generator, device="cpu")
        return batches[order[epoch][index * batch_size : (index + 1) * batch_size]]

    return draw


def _checked_tokens(name: str, tokens: Any, config: ToyConfig) -> Tensor:
    remedy = "give token ids, as `pack` makes them"
    axes = ["sequence", "pos"]
    tokens = checks.tensor(name, tokens, axes=axes, whole=True, remedy=remedy)
    if not 2 <= tokens.shape[1] <= config.n_ctx:
        raise ValueError(
            f"expected {name} to hold sequences of 2 to n_ctx={config.n_ctx} tokens, got "
            f"{tokens.shape[1]}; cut the text into such sequences, or build a model with another "
            "context"
        )
    least = int(tokens.min())
    most = int(tokens.max())
    if least < 0 or most >= config.d_vocab:
        raise ValueError(
            f"expected {name} to hold token ids from 0 to {config.d_vocab - 1}, got {least} to "
            f"{most}; encode the text with the model's tokenizer, or raise d_vocab"
        )
    return tokens


def _targets(tokens: Tensor, mask: LossMask | None, step: int) -> Tensor:
    """The token that each position predicts; `_IGNORED` where none counts."""
    # The last position predicts nothing: to ignore it copies less than to cut it off.
    targets = F.pad(tokens[:, 1:], (0, 1), value=_IGNORED)
    if mask is None:
        return targets
    counted = mask.counts(tokens)
    checks.instance("what loss_mask counts", counted, Tensor, "return a table of booleans")
    if counted.dtype != torch.bool or counted.shape != tokens.shape:
        got = f"{counted.dtype} of {tuple(counted.shape)}"
        raise ValueError(
            f"expected loss_mask to give booleans of {tuple(tokens.shape)}, got {got}; return one "
            "for each token"
        )
    if not bool(counted[:, 1:].any()):
        raise ValueError(
            f"expected a loss mask that counts tokens, got none in the batch of step {step}; leave "
            "fewer out, or make batches larger"
        )
    return targets.masked_fill(~F.pad(counted[:, 1:], (0, 1), value=False), _IGNORED)


def _backward(model: Any, tokens: Tensor, targets: Tensor, cut: Cut, options: _Options) -> float:
    """Put the gradient of the batch's mean loss into the model; that loss, in nats."""
    model.zero_grad(set_to_none=True)
    fused = options.fused
    mixed = options.mixed_precision
    mixed = tokens.device.type == "cuda" if mixed is None else mixed
    weights = toy_weights(model)
    config = toy_config(model)
    total = 0.0
    n_counted = int((targets != _IGNORED).sum())
    size = options.micro_batch or len(tokens)
    with nullcontext() if fused else cutting(model, cut):
        for piece, wanted in zip(tokens.split(size), targets.split(size), strict=True):
            n_wanted = int((wanted != _IGNORED).sum())
            if not n_wanted:
                continue  # a mean over nothing
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=mixed):
                logits = toy_logits(weights, config, piece, cut=cut) if fused else model(piece)
            loss = F.cross_entropy(
                logits.float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED
            )
            loss = loss * (n_wanted / n_counted)
            loss.backward()
            total += loss.item()
    return total


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step}; lower the rates, or look at the batch"
        )
