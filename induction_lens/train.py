"""Training toy models: a plain loop over batches, with snapshots and exact resume.

1. The weights are kept a second time as matrices, the *masters*: attention and MLP matrices as
   whole matrices [out, in], which is what Muon works on, everything else as it is.
2. Each step takes a batch that depends on the seed and the step alone, runs forward and backward
   on the model, clips the gradient, lets the optimizers move the masters, and copies these back.
3. Snapshots are taken logarithmically, then linearly spaced; a checkpoint holds the masters and
   the whole state of the optimizers, so that a run that was cut off continues exactly.

Source of the recipe: Muon (Jordan et al., 2024) for the matrices and AdamW for the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from induction_lens import snapshots as snapshot_files
from induction_lens.corpus import (
    documents,
    load_tokenizer,
    pack,
    tokenizer_json,
    train_tokenizer,
)
from induction_lens.files import atomic_path, write_text
from induction_lens.models.native import toy_weights
from induction_lens.snapshots import Snapshot, write_snapshot
from induction_lens.toy import ToyConfig, build_toy, toy_config, toy_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Batches = Int[Tensor, "sequence pos"] | Callable[[int], Int[Tensor, "batch pos"]]
CHECKPOINT = "checkpoint.safetensors"


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
    decay: float = 0.5,
    clip: float | None = 1.0,
    micro_batch: int | None = None,
    fused: bool = True,
    mixed_precision: bool | None = None,
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
        snapshots: Steps at which to save a snapshot; None: `snapshot_steps(n_steps)`.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from the checkpoint in `out` if there is one.
        progress: Show a bar with the loss and the tokens per second.
        seed: Seed of the order of the sequences.

    Raises:
        ValueError: An option is out of range; the model is no toy; a batch does not fit it; the
            checkpoint belongs to another run; or this torch has no Muon.
        FloatingPointError: The loss is not finite any more.
    """
    config = toy_config(model)
    if n_steps < 1 or batch_size < 1:
        raise ValueError(f"expected n_steps and batch_size ≥ 1, got {n_steps} and {batch_size}")
    draw = _batch_source(batches, batch_size=batch_size, seed=seed)
    masters = {
        name: nn.Parameter(_as_matrix(name, weight.detach()).float().clone())
        for name, weight in toy_weights(model).items()
    }
    optimizers = _make_optimizers(
        masters,
        optimizer,
        learning_rate=learning_rate,
        muon_learning_rate=muon_learning_rate,
        weight_decay=weight_decay,
    )
    device = next(iter(masters.values())).device
    settings = {
        "model": config.to_dict(),
        "n_steps": n_steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rates": [learning_rate, muon_learning_rate, weight_decay, clip],
        "schedule": [warmup, decay],
        "seed": seed,
    }
    schedule = set(snapshot_steps(n_steps) if snapshots is None else snapshots)
    folder = None if out is None else Path(out)
    losses: list[float] = []
    tokens_seen = 0
    if folder is not None and resume and (folder / CHECKPOINT).is_file():
        losses, tokens_seen = _load_checkpoint(folder / CHECKPOINT, settings, masters, optimizers)
        _copy_back(model, masters)
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    first_step, first_tokens, started = len(losses), tokens_seen, time.perf_counter()

    with _bar(progress, n_steps, first_step) as report:
        for step in range(first_step, n_steps + 1):
            if folder is not None and step in schedule:
                extra = {"loss": losses[-1]} if losses else {}
                snapshot_files.save(
                    model, folder / "snapshots", step=step, tokens_seen=tokens_seen, extra=extra
                )
            if folder is not None and (step % checkpoint_every == 0 or step == n_steps):
                _save_checkpoint(
                    folder / CHECKPOINT, settings, masters, optimizers, losses, tokens_seen
                )
            if step == n_steps:
                break
            tokens = draw(step).to(device).long()
            loss = _backward(
                model, tokens, micro_batch=micro_batch, fused=fused, mixed=mixed_precision
            )
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss} at step {step}; lower the learning rates, or look at "
                    "the batch"
                )
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            gradients = toy_weights(model, of=lambda parameter: parameter.grad)
            for name, master in masters.items():
                master.grad = _as_matrix(name, gradients[name]).float()
            factor = _rate(step, n_steps, warmup=warmup, decay=decay)
            for one in optimizers:
                for group in one.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                one.step()
            _copy_back(model, masters)
            losses.append(loss)
            tokens_seen += tokens.numel()
            report(loss, (tokens_seen - first_tokens) / (time.perf_counter() - started))
    model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return TrainingRun(
        model=model,
        losses=torch.tensor(losses),
        n_steps=n_steps,
        tokens_seen=tokens_seen,
        tokens_per_second=(tokens_seen - first_tokens) / seconds
        if tokens_seen > first_tokens
        else math.nan,
        snapshots=()
        if folder is None or not (folder / "snapshots").is_dir()
        else tuple(snapshot_files.list_snapshots(folder / "snapshots")),
    )


def snapshot_steps(n_steps: int, n: int = 40) -> tuple[int, ...]:
    """When to save about `n` snapshots: step 0, then logarithmically, then linearly spaced.

    The first half covers the first `2 / n` of the run, where the loss falls fastest; from there
    on the steps are `2 * n_steps / n` apart, up to the last one.

    Raises:
        ValueError: `n` is below 4.
    """
    if n < 4:
        raise ValueError(f"expected at least 4 snapshots, got {n}")
    half = n // 2
    knee = max(n_steps / half, 1.0)
    early = [round(knee ** (i / (half - 1))) for i in range(half)]
    late = [round(knee * i) for i in range(1, half + 1)]
    return tuple(sorted({0, n_steps, *(step for step in early + late if step <= n_steps)}))


def _rate(step: int, n_steps: int, *, warmup: int, decay: float) -> float:
    """The factor on the peak learning rates: up, level, and down to almost zero."""
    rise = (step + 1) / max(warmup, 1)
    fall = (n_steps - step) / max(decay * n_steps, 1)
    return min(1.0, rise, fall)


def _batch_source(batches: Batches, *, batch_size: int, seed: int) -> Callable[[int], Tensor]:
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
    model: Any, tokens: Tensor, *, micro_batch: int | None, fused: bool, mixed: bool | None
) -> float:
    """Put the gradient of the batch's mean loss into the model's parameters; the loss in nats."""
    model.zero_grad(set_to_none=True)
    config = toy_config(model)
    total = 0.0
    on_cuda = tokens.device.type == "cuda"
    for piece in tokens.split(micro_batch or len(tokens)):
        with torch.autocast(
            tokens.device.type, torch.bfloat16, enabled=on_cuda if mixed is None else mixed
        ):
            logits = toy_logits(toy_weights(model), config, piece) if fused else model(piece)
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), piece[:, 1:].flatten())
        loss = loss * (len(piece) / len(tokens))
        loss.backward()
        total += loss.item()
    return total


def _as_matrix(name: str, weight: Tensor) -> Tensor:
    """A weight as optimizers see it: projections of all heads as one matrix [out, in]."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("W_Q", "W_K", "W_V"):
        return weight.transpose(1, 2).flatten(0, 1)
    if kind == "W_O":
        return weight.flatten(0, 1).T
    return weight.T if kind in ("W_in", "W_out") else weight


def _copy_back(model: Any, masters: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, weight in toy_weights(model).items():
            kind, matrix = name.rsplit(".", 1)[-1], masters[name]
            if kind in ("W_Q", "W_K", "W_V"):
                n_heads, d_model, d_head = weight.shape
                matrix = matrix.view(n_heads, d_head, d_model).transpose(1, 2)
            elif kind == "W_O":
                matrix = matrix.T.reshape(weight.shape)
            elif kind in ("W_in", "W_out"):
                matrix = matrix.T
            weight.copy_(matrix)


def _make_optimizers(
    masters: dict[str, nn.Parameter],
    optimizer: str,
    *,
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    if optimizer not in ("muon", "adamw"):
        raise ValueError(f'expected optimizer "muon" or "adamw", got {optimizer!r}')
    is_matrix = {name: ".attn.W_" in name or ".mlp.W_" in name for name in masters}
    rest = [p for name, p in masters.items() if optimizer == "adamw" or not is_matrix[name]]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    ]
    if optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f'expected torch 2.9 or later for optimizer="muon", got {torch.__version__}; '
                'install a newer torch, or train with optimizer="adamw"'
            )
        matrices = [p for name, p in masters.items() if is_matrix[name]]
        muon = torch.optim.Muon(matrices, lr=muon_learning_rate, momentum=0.95, weight_decay=0.0)
        made.append(muon)
    for one in made:
        for group in one.param_groups:
            group["initial_lr"] = group["lr"]
    return made


def _save_checkpoint(
    path: Path,
    settings: dict[str, Any],
    masters: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
    losses: list[float],
    tokens_seen: int,
) -> None:
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, master in masters.items():
        tensors[f"master/{name}"] = master.detach().contiguous()
        for one in optimizers:
            for key, value in one.state.get(master, {}).items():
                tensors[f"state/{name}/{key}"] = value.contiguous()
    about = {"settings": json.dumps(settings), "tokens_seen": str(tokens_seen)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def _load_checkpoint(
    path: Path,
    settings: dict[str, Any],
    masters: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
) -> tuple[list[float], int]:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"expected a checkpoint, got {path}, which is damaged ({error}); delete it, or pass "
            "resume=False to start again"
        ) from error
    saved, wanted = json.loads(about["settings"]), json.loads(json.dumps(settings))
    if saved != wanted:
        differs = sorted(key for key in wanted if saved.get(key) != wanted[key])
        raise ValueError(
            f"expected the checkpoint of this run, got {path} with another {', '.join(differs)}; "
            "use another folder, or pass resume=False to start again"
        )
    with torch.no_grad():
        for name, master in masters.items():
            master.copy_(tensors[f"master/{name}"])
            prefix = f"state/{name}/"
            state = {
                key.removeprefix(prefix): value.to(master.device) if value.dim() else value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            owner = next(
                one for one in optimizers if any(master is p for p in one.param_groups[0]["params"])
            )
            if state:
                owner.state[master] = state
    return tensors["losses"].tolist(), int(about["tokens_seen"])


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


@dataclass(frozen=True)
class Preset:
    """A training run that makes one of the models that ship with the package."""

    config: ToyConfig
    """The model."""
    n_tokens: int = 20_000_000
    """Training tokens, BOS included; each is seen once."""
    batch_size: int = 16
    """Sequences of `config.n_ctx` tokens in a batch."""


PRESETS: dict[str, Preset] = {
    "toy-2l": Preset(ToyConfig(n_layers=2)),
    "toy-1l": Preset(ToyConfig(n_layers=1)),
    "toy-1l-smeared": Preset(ToyConfig(n_layers=1, smeared_keys=True)),
}
"""The models that ship, by name."""


def train_preset(
    name: str,
    out: str | Path,
    *,
    n_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    roots: Sequence[str | Path] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainingRun:
    """Train one of `PRESETS` from nothing but the Python source on this machine.

    Reads the training part of the standard library and of the installed packages, learns a
    tokenizer, packs the text, trains, and measures the loss on held-out files. Everything goes to
    `out`: `tokenizer.json`, `tokens.safetensors`, `snapshots/`, the checkpoint, and at the end
    the model itself as `out/model` with a card. Called again after an interruption it continues
    exactly.

    Args:
        name: A name in `PRESETS`.
        out: Folder for all of it.
        n_tokens: Training tokens; None: as the preset says.
        tokenizer: A tokenizer to use instead of learning one.
        roots: Folders to read instead of the installed Python.
        seed: Seed of the weights and of the order of the text.
        device: Where to train; None picks CUDA if there is one, else the CPU.
        resume: Continue from what is in `out`.
        progress: Show a bar.

    Raises:
        ValueError: There is no such preset, there is too little text, or `out` holds another run.
    """
    if name not in PRESETS:
        raise ValueError(f"expected a preset, one of {', '.join(PRESETS)}, got {name!r}")
    preset, out = PRESETS[name], Path(out)
    config = replace(preset.config, seed=seed)
    n_tokens = preset.n_tokens if n_tokens is None else n_tokens
    n_steps = max(1, round(n_tokens / (preset.batch_size * config.n_ctx)))
    tokenizer, tokens = _prepared_text(
        out, config, tokenizer, n_sequences=n_steps * preset.batch_size, roots=roots, resume=resume
    )
    model = build_toy(config, device=device, tokenizer=tokenizer)
    run = train(
        model,
        tokens,
        n_steps=n_steps,
        batch_size=preset.batch_size,
        micro_batch=4,
        out=out,
        resume=resume,
        progress=progress,
        seed=seed,
    )
    loss, n_held_out = _held_out_loss(model, tokenizer, roots=roots)
    card = {
        "name": name,
        "training_tokens": run.tokens_seen,
        "training_steps": run.n_steps,
        "training_text": "Python source: the standard library and installed packages",
        "held_out_loss": loss,
        "held_out_sequences": n_held_out,
        "held_out_text": "held-out files of the Python standard library",
        "seed": seed,
        "command": f"induction-lens train --preset {name}",
    }
    write_snapshot(model, out / "model", step=run.n_steps, tokens_seen=run.tokens_seen)
    write_text(out / "model" / "card.json", json.dumps(card, indent=2) + "\n")
    return run


def _prepared_text(
    out: Path,
    config: ToyConfig,
    tokenizer: PreTrainedTokenizerFast | None,
    *,
    n_sequences: int,
    roots: Sequence[str | Path] | None,
    resume: bool,
) -> tuple[PreTrainedTokenizerFast, Tensor]:
    """The tokenizer and the packed training text, from `out` where an earlier call left them."""
    tokens_file, tokenizer_file = out / "tokens.safetensors", out / "tokenizer.json"
    if resume and tokens_file.is_file() and tokenizer_file.is_file():
        tokens = load_file(tokens_file)["tokens"]
        if len(tokens) >= n_sequences:
            return load_tokenizer(tokenizer_file), tokens[:n_sequences]
    texts = documents("train", roots=roots)
    # The files of one package lie together: mix them, so that any part is like the whole.
    generator = torch.Generator().manual_seed(config.seed)
    texts = [texts[i] for i in torch.randperm(len(texts), generator=generator).tolist()]
    if tokenizer is None:
        tokenizer = train_tokenizer(_first_characters(texts, 30_000_000), config.d_vocab)
    tokens = pack(texts, tokenizer, config.n_ctx, n_sequences=n_sequences).to(torch.int16)
    if len(tokens) < n_sequences:
        raise ValueError(
            f"expected text for {n_sequences} sequences of {config.n_ctx} tokens, got "
            f"{len(tokens)}; install more Python packages, or train on fewer tokens"
        )
    write_text(tokenizer_file, tokenizer_json(tokenizer))
    with atomic_path(tokens_file) as temporary:
        save_file({"tokens": tokens}, temporary)
    return tokenizer, tokens


def _first_characters(texts: Sequence[str], n: int) -> Iterator[str]:
    for text in texts:
        if n <= 0:
            return
        n -= len(text)
        yield text


def _held_out_loss(
    model: Any, tokenizer: PreTrainedTokenizerFast, *, roots: Sequence[str | Path] | None
) -> tuple[float, int]:
    """Mean loss (nats per token) on held-out files of the standard library, and on how many
    sequences."""
    config = toy_config(model)
    texts = documents("held_out", origin="stdlib", roots=roots)
    tokens = pack(texts, tokenizer, config.n_ctx)
    tokens = tokens[:: max(1, len(tokens) // 512)]
    if len(tokens) == 0:
        raise ValueError("expected held-out text for at least one sequence, got too little")
    weights, total = toy_weights(model), 0.0
    device = weights["embed.W_E"].device
    with torch.no_grad():
        for piece in tokens.to(device).long().split(8):
            logits = toy_logits(weights, config, piece)[:, :-1]
            total += F.cross_entropy(logits.transpose(1, 2), piece[:, 1:]).item() * len(piece)
    return total / len(tokens), len(tokens)
