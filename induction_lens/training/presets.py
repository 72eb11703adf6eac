"""Training the models that ship with the package, from nothing but installed Python.

1. Read the training part of the corpus, mix the files, learn a tokenizer, pack the text.
2. Build the model and train it (`training.train`).
3. Measure the loss and the in-context learning score on held-out files.
4. Write the model with a card that says all of this.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.files import atomic_path, output_folder, sha256, write_text
from induction_lens.inputs.corpus import (
    documents,
    load_tokenizer,
    pack,
    tokenizer_json,
    train_tokenizer,
)
from induction_lens.locks import locked
from induction_lens.models import best_device, check_device, device_of
from induction_lens.seals import read_tensors, write_json, write_tensors
from induction_lens.toys.model import ToyConfig, build_toy, set_weights
from induction_lens.toys.snapshots import TOKENIZER, round_weights, write_snapshot
from induction_lens.training.cards import card_of
from induction_lens.training.clamp import Clamp
from induction_lens.training.loop import Batches, TrainingRun, snapshot_steps, train
from induction_lens.training.loss_masks import Hapax, LossMask
from induction_lens.training.mixtures import RUNS, TextMixture, first_weights
from induction_lens.training.run_folder import refuse_other_run, training_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENS = "tokens.safetensors"
TEXT_LOCK = ".text.lock"
"""What lets one process at a time make the text of a folder; the others wait for it."""
TOKENIZER_CHARACTERS = 30_000_000
"""How much text the tokenizer learns from."""


@dataclass(frozen=True)
class Preset:
    """A training run that makes one of the models that ship with the package."""

    config: ToyConfig
    """The model."""
    description: str
    """What the model is, in a few words."""
    n_tokens: int = 25_000_000
    """Training tokens, BOS included; each is seen once."""
    batch_size: int = 16
    """Sequences of `config.n_ctx` tokens in a batch."""
    prose: float = 0.0
    """Share of the training text, in characters, that is prose; the rest is code."""
    clamp: tuple[Clamp, ...] = ()
    """What is knocked out during a part of the run."""
    loss_mask: LossMask | None = None
    """Which tokens count in the loss; None: all."""
    mixture: TextMixture | None = None
    """What is mixed with the text; None: nothing."""
    begins_with: str | None = None
    """The run that ships with the package whose last weights, and tokenizer, it begins with; None:
    random weights, and a tokenizer that is learnt."""
    dtype: torch.dtype = torch.float32
    """Type that the weights are rounded to after training, and are written in."""

    def n_steps(self, n_tokens: int) -> int:
        """Steps in a run of about so many training tokens."""
        return max(1, round(n_tokens / (self.batch_size * self.config.n_ctx)))

    def snapshot_steps(self, n_tokens: int) -> tuple[int, ...]:
        """The steps of such a run that are kept: about 48, most of them evenly spaced."""
        return snapshot_steps(self.n_steps(n_tokens), 48, early=8)


# Smeared keys change within the first 3M tokens and one layer never does: half of what
# toy-2l-narrow needs is ample for both.
_HALF = 12_500_000
_ONE, _TWO = ToyConfig(n_layers=1), ToyConfig(n_layers=2)
# The starting values of the runs over the phase change: the change comes before 3M tokens.
_EIGHT_HEADS = ToyConfig(
    n_layers=2, d_model=256, n_heads=8, d_vocab=1024, distance_bias=2.0, aligned_unembed=0.5
)
PRESETS: dict[str, Preset] = {
    "toy-2l": Preset(
        _EIGHT_HEADS,
        "two layers, attention only, code and prose: has induction heads",
        6_500_000,
        batch_size=8,
        prose=0.3,
        dtype=torch.float16,
    ),
    "toy-4l": Preset(
        ToyConfig(
            n_layers=4, d_vocab=1024, attn_only=False, distance_bias=2.0, aligned_unembed=0.5
        ),
        "four layers with MLPs, code and prose: has induction heads",
        6_000_000,
        batch_size=4,  # the change comes after fewer tokens than in batches of 8
        prose=0.3,
        dtype=torch.float16,
    ),
    "toy-1l": Preset(_ONE, "one layer, attention only: has no induction heads", _HALF),
    "toy-1l-smeared": Preset(
        replace(_ONE, smeared_keys=True),
        "one layer, attention only, with smeared keys: has induction heads",
        _HALF,
    ),
    "toy-2l-narrow": Preset(_TWO, "two narrow layers, attention only: known answers of the tests"),
}
"""The models to start from, by name."""

PHASE_TOKENS = 9_000_000
"""Training tokens of every run of `PHASE_PRESETS`."""


def _phase(description: str, *, clamp: tuple[Clamp, ...] = (), **config: Any) -> Preset:
    """A run over the phase change: all have the same text, batches, and rates."""
    model = ToyConfig(d_vocab=1024, distance_bias=2.0, aligned_unembed=0.5, **config)
    return Preset(model, description, PHASE_TOKENS, batch_size=8, clamp=clamp)


_WIDE: dict[str, Any] = {"d_model": 256, "n_heads": 8}
PHASE_PRESETS: dict[str, Preset] = {
    "phase-1l": _phase("1 layer", n_layers=1),
    "phase-2l": _phase("2 layers", n_layers=2),
    "phase-3l": _phase("3 layers", n_layers=3),
    "phase-1l-smeared": _phase("1 layer, smeared keys", n_layers=1, smeared_keys=True),
    "phase-2l-smeared": _phase("2 layers, smeared keys", n_layers=2, smeared_keys=True),
    "phase-2l-wide": _phase("2 layers, twice as wide", n_layers=2, **_WIDE),
    "phase-2l-wide-smeared": _phase(
        "2 layers, twice as wide, smeared keys", n_layers=2, smeared_keys=True, **_WIDE
    ),
    "phase-2l-mlp": _phase("2 layers with MLPs", n_layers=2, attn_only=False),
    "phase-2l-clamped": _phase(
        "2 layers, no K-composition at first",
        n_layers=2,
        clamp=(Clamp(k_composition=True, start=0, end=800),),
    ),
}
"""The runs of the training dynamics, by name: they differ in the model alone (and the last in what
is held at zero)."""

FAMILY_TOKENS = 2_500_000
"""Training tokens of every run of `FAMILY_PRESETS`."""


def _sized(d_model: int, n_layers: int, *, mlp: bool = False) -> Preset:
    """A member of the family: all have the same text, code and prose, batches, and rates."""
    config = ToyConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=max(4, d_model // 32),
        d_vocab=1024,
        attn_only=not mlp,
        distance_bias=2.0,
        aligned_unembed=0.5,
    )
    what = f"{n_layers} layer{'s' * (n_layers > 1)}, d_model {d_model}{', MLPs' * mlp}"
    # batches half as large as elsewhere: the change comes after fewer tokens
    return Preset(config, f"{what}, code and prose", FAMILY_TOKENS, batch_size=4, prose=0.3)


FAMILY_PRESETS: dict[str, Preset] = {
    "family-64x1": _sized(64, 1),
    "family-64x2": _sized(64, 2),
    "family-96x2-mlp": _sized(96, 2, mlp=True),
    "family-128x3": _sized(128, 3),
    "family-96x4-mlp": _sized(96, 4, mlp=True),
    "family-96x6": _sized(96, 6),
}
"""Models of several sizes, smallest first, by width and layers: they differ in the model alone."""

MIXTURE_PRESETS: dict[str, Preset] = {
    "toy-3l-mixture": Preset(
        PHASE_PRESETS["phase-3l"].config,
        "three layers, attention only, taught on text and on worked examples of tasks",
        1_200_000,
        batch_size=4,
        prose=0.3,
        mixture=TextMixture(),
        begins_with="phase-3l-seed-0",
        dtype=torch.float16,
    ),
}
"""What is trained on text with other sequences. It begins with the weights of a run that ships,
which has induction heads: from random weights they do not form here within 4.5M tokens."""

_SMEARED = replace(PHASE_PRESETS["phase-1l-smeared"], n_tokens=2_000_000)
MASKED_PRESETS: dict[str, Preset] = {
    "all-tokens": replace(_SMEARED, description="1 layer, smeared keys, on all tokens"),
    "hapax": replace(
        _SMEARED,
        description="1 layer, smeared keys, on tokens that end no pair that came before",
        loss_mask=Hapax(),
    ),
}
"""Two runs that differ in the tokens that count in the loss. Keys are smeared because the change
then comes after 1M tokens."""

ALL_PRESETS: Mapping[str, Preset] = ChainMap(
    MIXTURE_PRESETS, MASKED_PRESETS, FAMILY_PRESETS, PHASE_PRESETS, PRESETS
)
"""Every run that can be named."""


def train_preset(
    name: str,
    out: str | Path,
    *,
    n_tokens: int | None = None,
    text: str | Path | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    roots: Sequence[str | Path] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainingRun:
    """Train one of `ALL_PRESETS` on the Python on this machine, source and prose.

    Everything goes to `out`: the tokenizer, the packed text, the snapshots, the checkpoint, and
    at the end the model itself as `out/model` with a card. Called again after an interruption it
    continues exactly.

    Args:
        name: A name in `ALL_PRESETS`.
        out: Folder for all of it.
        n_tokens: Training tokens; None: as the preset says.
        text: Folder for the tokenizer and the packed text, for runs that are to share them; None:
            `out`.
        tokenizer: A tokenizer to use instead of learning one.
        roots: Folders to train on instead of the standard library and installed packages.
        seed: Seed of the weights and of the order of the batches.
        device: Where to train; None chooses as `load` does: CUDA, else Apple's MPS, else the CPU.
        resume: Continue from what is in `out`, and use the text that is there.
        progress: Show a bar.

    Returns:
        The run; its model has the tokenizer.

    Raises:
        ValueError: There is no such preset or device, an option is out of range, there is too
            little text, `out` holds another run, or another process trains there.

    Examples:
        >>> run = il.training.train_preset("toy-2l", "my-toy", n_tokens=1_000_000)  # doctest: +SKIP
        >>> il.score_heads(run.model)["induction"].above(0.3)  # doctest: +SKIP
    """
    checks.flag("resume", resume)
    checks.flag("progress", progress)
    check_device(device)  # all of this before the text is made, which takes a minute
    preset = _preset(name)
    out = output_folder(out)
    folder = out if text is None else output_folder(text)
    seed = checks.seed(seed)
    n_tokens = _checked_n_tokens(preset, n_tokens)
    config = replace(preset.config, seed=seed)
    n_steps = preset.n_steps(n_tokens)
    with training_in(out):
        if resume:
            same = {"model": config.to_dict(), "n_steps": n_steps, "seed": seed}
            refuse_other_run(out, same | {"batch_size": preset.batch_size})
        known = {"tokenizer": tokenizer, "roots": roots, "resume": resume or text is not None}
        tokenizer, tokens = prepare_text(name, folder, n_tokens=n_tokens, **known)
        device = best_device() if device is None else device
        model = build_toy(config, device=device, tokenizer=tokenizer)
        if preset.begins_with is not None:
            set_weights(model, first_weights(preset.begins_with, tokenizer))
        batches: Batches = tokens
        if preset.mixture is not None:
            sizes = {"batch_size": preset.batch_size, "seq_len": config.n_ctx}
            batches = preset.mixture.batches(tokens, tokenizer, **sizes, seed=seed)
        run = train(
            model,
            batches,
            n_steps=n_steps,
            batch_size=preset.batch_size,
            # an H200 is 2.2 times as fast
            micro_batch=2 if device_of(model).type == "cpu" else None,
            clamp=preset.clamp or None,
            loss_mask=preset.loss_mask,
            snapshots=preset.snapshot_steps(n_tokens),
            out=out,
            resume=resume,
            progress=progress,
            seed=seed,
        )
        round_weights(model, preset.dtype)
        write_snapshot(
            model,
            out / "model",
            step=run.n_steps,
            tokens_seen=run.tokens_seen,
            dtype=preset.dtype,
        )
        card = {
            "name": name,
            "description": preset.description,
            **card_of(model, run, preset, progress),
        }
        card["command"] = f"induction-lens train --preset {name} --seed {seed}"
        with atomic_path(out / "model" / "card.json") as temporary:
            write_json(temporary, card)
    return run


def prepare_text(
    name: str,
    folder: str | Path,
    *,
    n_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    roots: Sequence[str | Path] | None = None,
    resume: bool = True,
) -> tuple[PreTrainedTokenizerFast, Int[Tensor, "sequence pos"]]:
    """The tokenizer and the packed training text of a preset, from a folder or, first, made there.

    Args:
        name: A name in `ALL_PRESETS`.
        folder: Where both are, or will be.
        n_tokens: Training tokens; None: as the preset says.
        tokenizer: A tokenizer to use instead of learning one, where there is no text yet.
        roots: Folders to read instead of the standard library and installed packages.
        resume: Use what is in the folder, if it is enough.

    Raises:
        ValueError: There is no such preset, too little text, or a file is damaged.
    """
    preset = _preset(name)
    if preset.begins_with is not None and tokenizer is not None:
        raise ValueError(
            f"expected no tokenizer with {name}, which has that of the run it begins with, got "
            "one; leave it out"
        )
    folder = output_folder(folder)
    n_steps = preset.n_steps(_checked_n_tokens(preset, n_tokens))
    n_sequences = n_steps * preset.batch_size
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / TEXT_LOCK, wait=math.inf):
        prepared = _read_text(folder, preset, n_sequences) if resume else None
        if prepared is None:
            prepared = _make_text(folder, preset, tokenizer, n_sequences=n_sequences, roots=roots)
    return prepared


def _checked_n_tokens(preset: Preset, n_tokens: int | None) -> int:
    given = checks.whole_number("n_tokens", n_tokens, least=1, optional=True)
    return preset.n_tokens if given is None else given


def _preset(name: str) -> Preset:
    if name not in ALL_PRESETS:
        raise ValueError(f"expected a preset, one of {', '.join(ALL_PRESETS)}, got {name!r}")
    return ALL_PRESETS[name]


def _read_text(
    folder: Path, preset: Preset, n_sequences: int
) -> tuple[PreTrainedTokenizerFast, Tensor] | None:
    """The tokenizer and the packed text that an earlier call left, where they are enough."""
    if not ((folder / TOKENS).is_file() and (folder / TOKENIZER).is_file()):
        return None
    remedy = f"delete it and {TOKENIZER}, and both are made again"
    tensors, about = read_tensors(folder / TOKENS, remedy=remedy)
    if about.get("tokenizer", sha256(folder / TOKENIZER)) != sha256(folder / TOKENIZER):
        raise ValueError(
            f"expected the tokenizer that {folder / TOKENS} was made with, got another or an "
            f"altered one in {folder / TOKENIZER}; delete both, and they are made again"
        )
    axes = ["sequence", "pos"]
    where = f"tokens in {folder / TOKENS}"
    tokens = checks.tensor(where, tensors.get("tokens"), axes=axes, whole=True, remedy=remedy)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    config = preset.config
    enough = len(tokens) >= n_sequences and tokens.shape[1] == config.n_ctx
    fits = int(tokens.max()) < config.d_vocab and about.get("prose", 0.0) == preset.prose
    return (tokenizer, tokens[:n_sequences]) if enough and fits else None


def _make_text(
    folder: Path,
    preset: Preset,
    tokenizer: PreTrainedTokenizerFast | None,
    *,
    n_sequences: int,
    roots: Sequence[str | Path] | None,
) -> tuple[PreTrainedTokenizerFast, Tensor]:
    config = preset.config
    texts = _mixed(documents("train", roots=roots))
    if preset.prose:
        prose = _mixed(documents("train", kind="prose", roots=roots))
        texts = _interleaved(texts, prose, share=preset.prose)
    if preset.begins_with is not None:
        tokenizer = load_tokenizer(RUNS / TOKENIZER)
    if tokenizer is None:
        ends = accumulate(len(text) for text in texts)
        known = [text for text, end in zip(texts, ends, strict=True) if end <= TOKENIZER_CHARACTERS]
        tokenizer = train_tokenizer(known, config.d_vocab)
    tokens = pack(texts, tokenizer, config.n_ctx, n_sequences=n_sequences)
    if len(tokens) < n_sequences:
        raise ValueError(
            f"expected text for {n_sequences} sequences of {config.n_ctx} tokens, got enough for "
            f"{len(tokens)}; install more Python packages, or train on fewer tokens"
        )
    # Nothing may ever find these tokens beside another tokenizer.
    (folder / TOKENS).unlink(missing_ok=True)
    write_text(folder / TOKENIZER, tokenizer_json(tokenizer))
    about = {"tokenizer": sha256(folder / TOKENIZER), "prose": preset.prose}
    write_tensors(folder / TOKENS, {"tokens": tokens}, about)
    return tokenizer, tokens


def _mixed(texts: list[str]) -> list[str]:
    """The documents in a random order: the files of one package lie together, and any part is to
    be like the whole. It is one order, whatever the seed of the run, so that runs can share a
    tokenizer."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(texts), generator=generator, device="cpu")
    return [texts[i] for i in order.tolist()]


def _interleaved(code: list[str], prose: list[str], *, share: float) -> list[str]:
    """Documents of both kinds, in such turns that `share` of the characters of any part is prose,
    until one kind is used up."""
    remaining = {"code": iter(code), "prose": iter(prose)}
    n_characters = {"code": 0, "prose": 0}
    texts: list[str] = []
    while True:
        behind = n_characters["prose"] < share * sum(n_characters.values())
        kind = "prose" if behind else "code"
        text = next(remaining[kind], None)
        if text is None:
            return texts
        n_characters[kind] += len(text)
        texts.append(text)
