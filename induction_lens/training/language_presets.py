"""Training runs on languages with a known structure: the synthetic laboratory.

The batch of a step is drawn from the language afresh, by the run's seed and the step, so that no
sequence is seen twice and a run that was cut off continues exactly. Nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.files import output_folder
from induction_lens.languages import (
    InterleavedChains,
    Language,
    MarkovChains,
    TwoAlphabets,
)
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.toys.snapshots import write_snapshot
from induction_lens.training.clamp import Clamp
from induction_lens.training.loop import TrainingRun, snapshot_steps, train
from induction_lens.training.loss_masks import LossMask

_STEPS_OF_A_SEED = 2**20  # more than any run has
_LARGEST_SEED = 2**20


@dataclass(frozen=True)
class LanguagePreset:
    """A training run on a language."""

    language: Language
    """What it is trained on."""
    config: ToyConfig
    """The model."""
    description: str
    """What the run is, in a few words."""
    n_steps: int = 500
    """Updates of the weights."""
    batch_size: int = 32
    """Sequences in a batch."""
    seq_len: int = 41
    """Tokens in a sequence, BOS included."""
    clamp: tuple[Clamp, ...] = ()
    """What is knocked out during a part of the run."""
    loss_mask: LossMask | None = None
    """Which tokens count in the loss; None: all."""

    def steps_of(self, n_tokens: int) -> int:
        """Updates in a run of about so many training tokens, BOS included."""
        return max(1, round(n_tokens / (self.batch_size * self.seq_len)))

    def snapshot_steps(self, n_steps: int) -> tuple[int, ...]:
        """The steps of a run of this length that are kept: about 24, most of them evenly spaced."""
        return snapshot_steps(n_steps, 24, early=4)


def _toy(language: Language, *, n_layers: int, n_ctx: int) -> ToyConfig:
    """The model of every run: heads begin with preferences for distances, see `ToyConfig`."""
    return ToyConfig(
        n_layers=n_layers,
        d_model=64,
        n_heads=4,
        d_vocab=language.d_vocab,
        n_ctx=n_ctx,
        distance_bias=2.0,
    )


def _with(
    language: Language, description: str, *, n_layers: int = 2, seq_len: int = 41, **other: Any
) -> LanguagePreset:
    config = _toy(language, n_layers=n_layers, n_ctx=seq_len)
    return LanguagePreset(language, config, description, seq_len=seq_len, **other)


_ALPHABETS = TwoAlphabets(n_letters=20, length=10)
_CHAINS = InterleavedChains(n_states=5, concentration=0.3, n_chains=3)
_MARKOV = MarkovChains(n_states=5, concentration=0.3)
LANGUAGE_PRESETS: dict[str, LanguagePreset] = {
    "alphabets": _with(_ALPHABETS, "two alphabets, two layers"),
    "alphabets-clamped": _with(
        _ALPHABETS,
        "two alphabets, two layers, no K-composition",
        clamp=(Clamp(k_composition=True),),
    ),
    "alphabets-clamped-late": _with(
        _ALPHABETS,
        "two alphabets, two layers, no K-composition for 400 of 900 steps",
        n_steps=900,
        clamp=(Clamp(k_composition=True, end=400),),
    ),
    "chains-2l": _with(_CHAINS, "three interleaved chains, two layers", seq_len=65),
    "chains-3l": _with(_CHAINS, "three interleaved chains, three layers", seq_len=65, n_layers=3),
    "markov": _with(_MARKOV, "Markov chains, two layers", seq_len=65),
}
"""Runs on languages, by name."""


def language_batches(
    language: Language, *, batch_size: int, seq_len: int, seed: int = 0
) -> Callable[[int], Int[Tensor, "batch pos"]]:
    """The batch of every step, for `train`: fresh sequences, by the seed and the step alone.

    Seeds of `Language.sample` below 2**20 are never used, so that what is drawn with them is new to
    the model.

    Args:
        language: What is drawn from.
        batch_size: Sequences in a batch.
        seq_len: Tokens in a sequence, BOS included.
        seed: Seed of the run; others give other batches at every step.

    Raises:
        ValueError: An option is out of range.

    Examples:
        >>> language = il.languages.TwoAlphabets(n_letters=8, length=4)
        >>> draw = il.training.language_batches(language, batch_size=2, seq_len=9)
        >>> draw(0).shape, bool((draw(0) == draw(0)).all()), bool((draw(0) == draw(1)).all())
        (torch.Size([2, 9]), True, False)
    """
    checks.instance("language", language, Language, "for instance TwoAlphabets()")
    batch_size = checks.whole_number("batch_size", batch_size, least=1)
    seq_len = checks.whole_number("seq_len", seq_len, least=2)
    first = (1 + checks.whole_number("seed", seed, least=0, most=_LARGEST_SEED)) * _STEPS_OF_A_SEED

    def draw(step: int) -> Int[Tensor, "batch pos"]:
        return language.sample(batch_size, seq_len=seq_len, seed=first + step)

    return draw


def train_language(
    preset: str | LanguagePreset,
    out: str | Path,
    *,
    n_steps: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainingRun:
    """Train a toy on a language, as one of `LANGUAGE_PRESETS` or one of your own says.

    Snapshots, the checkpoint and at the end the model, as `out/model`, go to the folder. Called
    again after an interruption it continues exactly.

    Args:
        preset: A name in `LANGUAGE_PRESETS`, or a `LanguagePreset`.
        out: Folder for all of it.
        n_steps: Updates of the weights; None: as the preset says. Clamps stay where they are.
        seed: Seed of the weights and of the batches.
        device: Where to train; None: the CPU, which is as fast for models as small.
        resume: Continue from what is in `out`.
        progress: Show a bar.

    Raises:
        ValueError: There is no such preset or device, an option is out of range, `out` holds
            another run, or another process trains there.

    Examples:
        >>> run = il.training.train_language("markov", "my-chains", n_steps=20)
        >>> run.n_steps, run.tokens_seen
        (20, 41600)
    """
    if isinstance(preset, str):
        checks.one_of("preset", preset, LANGUAGE_PRESETS)
        preset = LANGUAGE_PRESETS[preset]
    checks.instance("preset", preset, LanguagePreset, "name one of LANGUAGE_PRESETS")
    n_steps = checks.whole_number(
        "n_steps", n_steps, least=1, most=_STEPS_OF_A_SEED - 1, optional=True
    )
    n_steps = preset.n_steps if n_steps is None else n_steps
    seed = checks.whole_number("seed", seed, least=0, most=_LARGEST_SEED)
    out = output_folder(out)
    draw = language_batches(
        preset.language, batch_size=preset.batch_size, seq_len=preset.seq_len, seed=seed
    )
    model = build_toy(replace(preset.config, seed=seed), device="cpu" if device is None else device)
    run = train(
        model,
        draw,
        n_steps=n_steps,
        batch_size=preset.batch_size,
        clamp=preset.clamp or None,
        loss_mask=preset.loss_mask,
        snapshots=preset.snapshot_steps(n_steps),
        out=out,
        resume=resume,
        progress=progress,
        seed=seed,
    )
    write_snapshot(model, out / "model", step=run.n_steps, tokens_seen=run.tokens_seen)
    return run
