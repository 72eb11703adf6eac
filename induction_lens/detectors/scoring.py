"""Scoring every head of a model with every detector."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from jaxtyping import Int
from torch import Tensor

from induction_lens.detectors.attention import AttentionDetector, TargetMass
from induction_lens.detectors.copying import CopyingMass, copying_from_weights
from induction_lens.detectors.measure import Measure, measure
from induction_lens.detectors.streaming import measure_streaming
from induction_lens.heads import HeadScores, ScoreTable
from induction_lens.models import Model, checked_tokens, ordinary_ids, shape
from induction_lens.tokens import repeated_random_tokens, shuffled

Detector = Literal["previous_token", "induction", "duplicate_token", "copying", "copying_weights"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)
Attention = Literal["auto", "pattern", "streaming"]


def score_heads(
    model: Model,
    *,
    tokens: Int[Tensor, "batch pos"] | None = None,
    text: Int[Tensor, "text_batch text_pos"] | None = None,
    detectors: Sequence[Detector | str] | None = None,
    attention: Attention | str = "auto",
    shuffled_null: bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Score every head with every detector.

    One forward pass over `tokens` serves all detectors. A second one, over the same tokens in
    random order, finds what each head scores by position alone.

    Args:
        model: a hooked model.
        tokens: what to score on, BOS at position 0; None draws 32 sequences of repeated random
            tokens, four copies of 25, or of as many as fit a shorter context.
        text: where given, `previous_token` is scored on this instead, as in the paper.
        detectors: which detectors; None takes all of `DETECTORS`, or all but `copying` where
            attention is streamed.
        attention: `pattern` reads the model's attention patterns; `streaming` computes the same
            scores from queries and keys in blocks, which is faster, and needs memory for no
            pattern; `auto` streams what it can: not `copying`, nor a model with hooks on it.
        shuffled_null: whether to run the shuffled tokens, for `induction` and `duplicate_token`:
            the attention of a head that knows nothing of the tokens, at the same positions. (It
            means nothing for `previous_token`, which is about position.)
        seed: seed of the random tokens and of the shuffle.
        batch_size: sequences per forward pass; None chooses by a memory budget.
        progress: show progress bars on stderr for what takes over two seconds.

    Raises:
        ValueError: for an unknown detector, tokens that the model cannot read, weights or scores
            that are not finite, or a model or detector that streaming cannot serve.
    """
    names = _checked(detectors, attention)
    tokens = prompts(model, seed=seed) if tokens is None else checked_tokens(model, tokens)
    text = None if text is None else checked_tokens(model, text)
    on_text = text is not None and "previous_token" in names
    by_attention: list[AttentionDetector] = [
        name
        for name in names
        if name in ("induction", "duplicate_token") or (name == "previous_token" and not on_text)
    ]

    run = partial(_run, model, attention, batch_size=batch_size, progress=progress)
    mass = TargetMass(model, tokens, by_attention) if by_attention else None
    copying = CopyingMass(model, tokens) if "copying" in names else None
    run(tokens, [m for m in (mass, copying) if m is not None], "heads on tokens")
    by_content: list[AttentionDetector] = [n for n in by_attention if n != "previous_token"]
    null = TargetMass(model, tokens, by_content) if shuffled_null and by_content else None
    if null is not None:
        run(shuffled(tokens, seed=seed + 1), [null], "heads on shuffled tokens")

    def scores(name: Detector) -> HeadScores:
        if name == "copying_weights":
            return copying_from_weights(model)
        if name == "copying":
            assert copying is not None
            return copying.scores()
        if name == "previous_token" and text is not None:
            previous = TargetMass(model, text, ["previous_token"])
            run(text, [previous], "heads on text")
            return previous.scores("previous_token", null=None)
        assert mass is not None
        return mass.scores(name, null=null if name in by_content else None)

    return ScoreTable({name: scores(name) for name in names})


def _run(
    model: Model,
    attention: str,
    sequences: Int[Tensor, "batch pos"],
    measures: Sequence[Measure],
    title: str,
    *,
    batch_size: int | None,
    progress: bool,
) -> None:
    """Let every measure look at the sequences, streamed where that is asked for and can be."""
    label = title if progress else None
    masses = [mass for mass in measures if isinstance(mass, TargetMass)]
    if attention != "pattern" and measures and len(masses) == len(measures):
        options = {"batch_size": batch_size, "progress": label}
        if all(measure_streaming(model, sequences, mass, **options) for mass in masses):
            return
        _check_optional(model, attention)
    if measures:
        measure(model, sequences, measures, batch_size=batch_size, progress=label)


def _check_optional(model: Model, attention: str) -> None:
    """Check that the model need not be streamed, which it cannot be."""
    if attention == "streaming":
        raise ValueError(
            f"expected a model whose layers can be run one by one, got a {type(model).__name__} "
            'that cannot, or with hooks on it; remove the hooks, or pass attention="pattern"'
        )


def prompts(model: Model, *, n_sequences: int = 32, seed: int = 0) -> Int[Tensor, "batch pos"]:
    """Repeated random tokens: four copies of 25, or of as many as fit a shorter context."""
    room = min((shape(model).n_ctx - 1) // 4, len(ordinary_ids(model)))
    n_tokens = max(1, min(25, room))
    return repeated_random_tokens(model, n_tokens=n_tokens, n_sequences=n_sequences, seed=seed)


def _checked(detectors: Sequence[str] | None, attention: str) -> list[Detector]:
    if attention not in get_args(Attention):
        raise ValueError(
            f"expected attention to be one of {', '.join(get_args(Attention))}, got {attention!r}"
        )
    streamed = [name for name in DETECTORS if name != "copying"]
    if detectors is None:
        detectors = streamed if attention == "streaming" else DETECTORS
    if not detectors:
        raise ValueError(f"expected at least one of {', '.join(DETECTORS)}, got none")
    for name in detectors:
        if name not in DETECTORS:
            close = difflib.get_close_matches(name, DETECTORS, n=1)
            raise ValueError(
                f"expected a detector out of {', '.join(DETECTORS)}, got {name!r}"
                + "".join(f"; did you mean {detector!r}?" for detector in close)
            )
    if attention == "streaming" and "copying" in detectors:
        raise ValueError(
            f"expected detectors out of {', '.join(streamed)} with streamed attention, got "
            "'copying', which reads whole patterns; leave it out"
        )
    return [name for name in DETECTORS if name in detectors]
