"""What is measured of one model at one moment of its training, and what it is measured on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.methods import MAIN_METHOD, METHODS, Method, PatternPreserving
from induction_lens.circuits import strongest_edges
from induction_lens.detectors import TargetMass, measure, prompts, score_heads
from induction_lens.inputs.reading import TextSource
from induction_lens.inputs.tokens import read_documents, text_tokens
from induction_lens.metrics import choose_positions, icl_per_sequence, per_token_loss
from induction_lens.models import (
    TextTokens,
    ids_of,
    shape,
    tokenizer_of,
    toy_weights,
    whole_numbers,
)
from induction_lens.seals import tokens_digest
from induction_lens.toys.model import ToyConfig

SEQ_LEN = 512
"""Tokens in a sequence of text, BOS included, where the context is not shorter."""
N_SEQUENCES = 512
"""Sequences of text. With 128, the change of a model went unfound in two of sixteen draws of
sequences, and the intervals of plain and smeared keys could overlap."""


@dataclass(frozen=True)
class ModelInfo:
    """What all models of one training run have in common."""

    config: dict[str, Any]
    """Its sizes, as `Trajectory.config`."""
    tokenizer: str | None = None
    """SHA-256 of the tokenizer's vocabulary; None without one, and for snapshots, which check it
    themselves."""

    @classmethod
    def of(cls, model: Any) -> ModelInfo:
        """What is known of a loaded model."""
        if hasattr(model, "toy_config"):
            return cls(model.toy_config.to_dict())
        config = dataclasses.asdict(shape(model))
        config["attn_only"] = bool(getattr(model.cfg, "attn_only", False))
        config["smeared_keys"] = False
        hugging_face = getattr(getattr(model, "original_model", None), "config", None)
        named = getattr(hugging_face, "model_type", None)
        config["architecture"] = named or getattr(model.cfg, "original_architecture", None)
        tokenizer = tokenizer_of(model)
        if tokenizer is None:
            return cls(config)
        vocabulary = sorted(tokenizer.get_vocab().items())
        return cls(config, hashlib.sha256(repr(vocabulary).encode()).hexdigest())

    def check_same(self, other: ModelInfo, where: str) -> None:
        """Check that another model is of the same run.

        Raises:
            ValueError: It has another architecture, other sizes, or another tokenizer.
        """
        differs = [
            f"{name} {value!r}"
            for name, value in other.config.items()
            if value != self.config.get(name)
        ]
        if other.tokenizer != self.tokenizer:
            differs.append("another tokenizer")
        if differs:
            raise ValueError(
                f"expected checkpoints of one model, got {where} with {', '.join(differs)}, unlike "
                "the ones before; what is measured is kept: leave that checkpoint out"
            )


@dataclass(frozen=True)
class Settings:
    """Everything but the weights that the numbers depend on."""

    text: str | None
    n_sequences: int
    n_prompts: int
    n_ablated: int
    n_examples: int
    methods: tuple[str, ...]
    early: int
    late: int
    window: int
    seed: int


@dataclass(frozen=True)
class Asked:
    """What the caller of `track` asked for; what is left open follows from the model."""

    text: Any
    """Token ids [sequence pos], documents, or None; given as `Tokens` or as sources of text."""
    n_sequences: int
    n_prompts: int
    n_ablated: int
    n_examples: int
    methods: Sequence[Method | str] | None
    early: int | None
    late: int | None
    window: int
    seed: int

    def __post_init__(self) -> None:
        """Check everything that needs no model, and make plain numbers of NumPy's; the text becomes
        a tensor of token ids, or the documents that sequences are drawn from."""
        for name in ("n_sequences", "n_prompts", "n_ablated", "n_examples"):
            number = checks.whole_number(name, getattr(self, name), least=1)
            object.__setattr__(self, name, number)
        object.__setattr__(self, "seed", checks.seed(self.seed))
        if self.methods is not None:
            object.__setattr__(self, "methods", checks.some_of("methods", self.methods, METHODS))
        object.__setattr__(self, "text", _ids_or_documents(self.text))

    def settled(self, info: ModelInfo) -> Settings:
        """The settings for a model.

        Raises:
            ValueError: The text or the positions do not fit it.
        """
        text = self.text
        length = length_for(info.config["n_ctx"])
        if isinstance(text, Tensor):
            _check_fits(text, info.config)
            length = text.shape[1]
        where = choose_positions(length, early=self.early, late=self.late, window=self.window)
        by_default = PatternPreserving.name if info.config["attn_only"] else MAIN_METHOD
        return Settings(
            text=_digest(text),
            n_sequences=len(text) if isinstance(text, Tensor) else self.n_sequences,
            n_prompts=self.n_prompts,
            n_ablated=self.n_ablated,
            n_examples=self.n_examples,
            methods=(by_default,) if self.methods is None else tuple(map(str, self.methods)),
            **dataclasses.asdict(where),
            seed=self.seed,
        )


@dataclass(frozen=True)
class Material:
    """What every snapshot is measured on."""

    text: Int[Tensor, "sequence pos"]
    prompts: Int[Tensor, "prompt prompt_pos"]
    # indices into the losses [sequence, pos - 1] of positions 1 and later, flattened
    examples: Int[Tensor, " example"]

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return tokens_digest(self.text, self.prompts, self.examples)


def held_out_text(
    model: Any,
    *,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    documents: tuple[str, ...] | None = None,
) -> Int[Tensor, "sequence pos"]:
    """The text that `track` draws for a model: of held-out source where no documents are given."""
    length = length_for(shape(model).n_ctx)
    options: dict[str, Any] = {"n_sequences": n_sequences, "seq_len": length, "seed": seed}
    return text_tokens(model, text=documents, **options)


def length_for(n_ctx: int) -> int:
    """Tokens in a sequence for a model with this context."""
    return min(SEQ_LEN, n_ctx)


def draw(model: Any, text: Tensor | tuple[str, ...] | None, settings: Settings) -> Material:
    """Draw what all models of a run are measured on."""
    if not isinstance(text, Tensor):
        options = {"n_sequences": settings.n_sequences, "seed": settings.seed}
        text = held_out_text(model, documents=text, **options)
    n_losses = len(text) * (text.shape[1] - 1)
    # as in the runs that ship, with which others are compared
    random = prompts(model, n_sequences=settings.n_prompts, seed=settings.seed, one_length=True)
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(n_losses, generator=generator, device="cpu")[: settings.n_examples]
    return Material(
        text=text.cpu(),
        prompts=random.cpu(),
        examples=chosen.sort().values,
    )


def measure_model(model: Any, material: Material, settings: Settings) -> dict[str, Tensor]:
    """All that is measured of one snapshot, by the names of `Trajectory`."""
    text = material.text
    random = material.prompts
    losses = per_token_loss(model, text, progress=False)
    predicted = losses[:, 1:].double()
    measures = {
        "held_out_loss": predicted.mean().float(),
        "icl": icl_per_sequence(losses, settings.early, settings.late, window=settings.window),
        "loss_by_position": losses.double().mean(0).float(),
        "token_losses": losses[:, 1:].flatten()[material.examples].half(),
        "induction_by_sequence": _induction_by_sequence(model, random),
    }
    scores = score_heads(model, tokens=random, text=text, shuffled_null=False, progress=False)
    measures |= {f"scores.{name}": score.values for name, score in scores.items()}
    edges = strongest_edges(model, scores["previous_token"].values)
    measures |= {f"edges.{name}": values for name, values in edges.items()}
    for method in settings.methods:
        effects = ablate_each_head(
            model,
            text[: settings.n_ablated],
            method=method,
            seed=settings.seed,
            early=settings.early,
            late=settings.late,
            window=settings.window,
            estimator="paper",  # as in the runs that ship
            progress=False,
        )
        measures[f"effects.{method}"] = effects.values
    config: ToyConfig | None = getattr(model, "toy_config", None)
    if config is not None and config.smeared_keys:
        weights = toy_weights(model)
        alphas = [weights[f"blocks.{layer}.attn.smear"] for layer in range(config.n_layers)]
        measures["smear"] = torch.stack(alphas).detach().float().sigmoid()
    return {name: value.cpu().contiguous() for name, value in measures.items()}


def _induction_by_sequence(model: Any, random: Tensor) -> Tensor:
    """[layer head prompt]: the induction score on each prompt alone."""
    mass = TargetMass(model, random, ["induction"])
    measure(model, random, [mass])
    return mass.by_sequence("induction")


def _ids_or_documents(text: Any) -> Tensor | tuple[str, ...] | None:
    """Token ids as a tensor; of sources of text the documents.

    Raises:
        ValueError: They are no ids of one length, or the sources cannot be read.
    """
    if text is None:
        return None
    given = text.tokens if isinstance(text, TextTokens) else text
    if isinstance(given, Mapping):
        raise checks.refuse("text", "token ids or sources of text", given, "pass its input_ids")
    ids = None if isinstance(given, (str, Path, TextSource)) else whole_numbers(given)
    if ids is None:
        return tuple(read_documents(given))
    remedy = "give token ids of one length, as `sample_text` makes them"
    return ids_of("text", ids, remedy=remedy)


def _digest(text: Any) -> str | None:
    """A sum of the text that the caller gave."""
    if text is None or isinstance(text, Tensor):
        return None if text is None else tokens_digest(text)
    digest = hashlib.sha256()
    for document in text:
        encoded = document.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return digest.hexdigest()


def _check_fits(text: Tensor, config: dict[str, Any]) -> None:
    least = int(text.min())
    most = int(text.max())
    if text.shape[1] > config["n_ctx"] or least < 0 or most >= config["d_vocab"]:
        raise ValueError(
            f"expected text of at most {config['n_ctx']} tokens a sequence, with ids from 0 to "
            f"{config['d_vocab'] - 1}, got {text.shape[1]} tokens with ids from {least} to {most}; "
            "cut it, and encode it with the model's tokenizer"
        )
