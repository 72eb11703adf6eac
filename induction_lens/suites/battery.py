"""The battery of a family: what is measured of each model, here or on another machine, and kept.

Each model is a job. What is kept of it says what it was measured with: the weights, the tokens of
the text, and the options. A job whose model has all of that already is done when it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.ablation.sets import ablate
from induction_lens.detectors import score_heads
from induction_lens.inputs import sample_text
from induction_lens.loading import load
from induction_lens.metrics import choose_positions
from induction_lens.models import TextTokens, is_model, shape, weights_hash
from induction_lens.seals import tokens_digest
from induction_lens.suites.member import (
    Member,
    block_parameters,
    found_heads,
    member_of,
    read_fingerprint,
    read_member,
    write_member,
)
from induction_lens.tracking.engine import Engine

SEQ_LEN = 512
"""Tokens in a sequence of text where every context is as long."""
MODELS = "models"
"""Folder of what was measured of each model, in the folder of a family."""
_LONGEST = 60


@dataclass(frozen=True)
class Battery:
    """What is measured, of every model alike."""

    documents: tuple[str, ...] = field(repr=False)
    """The text, read once, where the family is made."""
    n_sequences: int
    n_controls: int
    method: AblationMethod | Method | str
    threshold: float
    seed: int
    device: str | None = None

    def text_for(self, model: Any) -> TextTokens:
        """The text in a model's own tokens."""
        seq_len = min(SEQ_LEN, shape(model).n_ctx)
        n = self.n_sequences
        return sample_text(
            model, text=self.documents, n_sequences=n, seq_len=seq_len, seed=self.seed
        )

    def fingerprint(self, model: Any, text: TextTokens) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "weights": weights_hash(model),
            "text": tokens_digest(text.tokens, text.documents),
            "n_controls": self.n_controls,
            "method": _told(as_method(self.method, seed=self.seed)),
            "threshold": float(self.threshold),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class MemberJob:
    """A model to measure."""

    name: str
    """What it is called."""
    model: Any = field(repr=False)
    """A name, a folder, or a hooked model."""
    known: dict[str, Any] | None
    """What is kept of it was measured with this; None where nothing is kept."""


@dataclass(frozen=True)
class Measured:
    """What came of a job."""

    fingerprint: dict[str, Any]
    """What it was measured with."""
    member: Member | None
    """The model; None where it is kept already."""


def measure_member(job: MemberJob, battery: Battery) -> Measured:
    """Load a model and measure it, unless what is kept of it was measured alike.

    Raises:
        ValueError: It cannot be loaded, or the text does not suit it.
    """
    model: Any = job.model if is_model(job.model) else load(job.model, device=battery.device)
    text = battery.text_for(model)
    fingerprint = battery.fingerprint(model, text)
    if job.known is not None:
        return Measured(fingerprint, None)
    detectors = ["induction", "copying_weights"]
    scores = score_heads(model, detectors=detectors, seed=battery.seed, progress=False)
    induction = scores["induction"]
    where = choose_positions(text.tokens.shape[1])
    study = ablate(
        model,
        found_heads(induction, battery.threshold) or [induction.top(1)[0][0]],
        text,
        early=where.early,
        late=where.late,
        window=where.window,
        estimator="matched-target",
        method=battery.method,
        n_controls=battery.n_controls,
        seed=battery.seed,
        progress=False,
    )
    sizes = shape(model)
    own = {
        "parameters": block_parameters(model),
        "n_layers": sizes.n_layers,
        "n_heads": sizes.n_heads,
    }
    kept = {"induction": induction, "copying": scores["copying_weights"], "study": study}
    return Measured(fingerprint, member_of(job.name, own, threshold=battery.threshold, **kept))


def measured_members(
    models: Sequence[tuple[str, Any]],
    battery: Battery,
    *,
    engine: Engine,
    out: Path | None,
) -> Iterator[Member]:
    """Measure models that are not kept in a folder, keep them there, and give all of them.

    Args:
        models: Names and models.
        battery: What to measure.
        engine: Who measures.
        out: The folder of the family; None keeps nothing.

    Raises:
        ValueError: What is kept was measured with other weights, text or options; or as
            `measure_member`.
    """
    paths = {name: None if out is None else out / MODELS / _file_name(name) for name, _ in models}
    jobs = [
        MemberJob(name, model, None if (path := paths[name]) is None else read_fingerprint(path))
        for name, model in models
    ]
    for job, found in engine.run(measure_member, jobs, battery, named=lambda job: job.name):
        path = paths[job.name]
        if found.member is None:
            assert path is not None
            _check_same(path, job.known or {}, found.fingerprint)
            yield read_member(path, threshold=battery.threshold)
        else:
            if path is not None:
                write_member(path, found.member, found.fingerprint)
            yield found.member


def _check_same(path: Path, kept: dict[str, Any], wanted: dict[str, Any]) -> None:
    differs = [name for name in wanted if kept.get(name) != wanted[name]]
    if differs:
        raise ValueError(
            f"expected what was measured of this model and with these options, got {path} with "
            f"another {', '.join(differs)}; use another folder, or pass resume=False to measure "
            "everything again"
        )


def _file_name(name: str) -> str:
    """A name that every file system takes, and no two models share."""
    short = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[-_LONGEST:].lstrip(".-")
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.safetensors"


def _told(method: AblationMethod) -> str:
    """A method in words that differ where what it writes differs."""
    parts = [type(method).__name__, method.label]
    for name, value in sorted(vars(method).items()):
        tokens = value.tokens if isinstance(value, TextTokens) else value
        told = tokens_digest(tokens) if isinstance(tokens, Tensor) else checks.shown(value)
        parts.append(f"{name}={told}")
    return " ".join(parts)
