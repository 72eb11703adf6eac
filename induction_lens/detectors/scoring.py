"""Scoring every head of a model with every detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors.attention import TargetMass, measure_attention
from induction_lens.detectors.copying import CopyingMass, copying_from_weights, nothing_copied
from induction_lens.detectors.detector import AttentionDetector, CopyingDetector, Detector
from induction_lens.detectors.measure import Measure, measure
from induction_lens.detectors.registry import BUILT_IN, chosen_detectors
from induction_lens.heads import HeadScores, ScoreTable, unmeasured
from induction_lens.inputs.tokens import repeated_random_tokens, shuffled
from induction_lens.models import (
    Mask,
    Model,
    Tokens,
    checked_tokens,
    device_of,
    ordinary_ids,
    provenance_of,
    run,
    sequences_of,
    shape,
    unlike_written,
)

Attention = Literal["auto", "pattern", "streaming"]
Mass = TypeVar("Mass", TargetMass, CopyingMass)


def score_heads(
    model: Model,
    *,
    tokens: Tokens | None = None,
    text: Tokens | None = None,
    mask: Mask | None = None,
    detectors: Sequence[Detector | str] | Detector | None = None,
    attention: Attention | str = "auto",
    shuffled_null: bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Score every head with every detector.

    One forward pass over `tokens` serves all detectors. A second one, over the same tokens in
    random order, finds what each head scores by position alone.

    Where the tokens ask nothing of a detector, such as induction of tokens of which none comes
    twice, its scores are NaN, and its `note` says why; so are copying scores of architectures whose
    heads do not add their attention times values to the residual stream, as where these are normed.

    Args:
        model: A hooked model.
        tokens: What to score on, BOS at position 0; None draws 32 sequences of repeated random
            tokens, as `prompts` does, in copies of 12 to 33 tokens.
        text: Where given, detectors about positions (`previous_token`) are scored on this instead,
            as in the paper.
        mask: Of `tokens`: 1 for a token, 0 for padding, on either side. Tokens and text may also be
            what a tokenizer returns, with `input_ids` and `attention_mask`. Padding is left out:
            the scores are those of the sequences alone.
        detectors: Which detectors: names out of `DETECTORS`, and `AttentionDetector`s of your own.
            None takes all of `DETECTORS`, or all but `copying` where attention is streamed.
        attention: `pattern` reads the model's attention patterns; `streaming` computes the same
            scores from queries and keys in blocks, which is faster, and needs memory for no
            pattern; `auto` streams what it can: not `copying`, nor a model with hooks on it.
        shuffled_null: Whether to run the shuffled tokens, for detectors `by_content`, such as
            `induction`: the attention of a head that knows nothing of the tokens,
            at the same positions. (It means nothing for what is about position.) Each sequence is
            compared with its own shuffle.
        seed: Seed of the random tokens and of the shuffle.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Show progress bars on stderr for what takes over two seconds.

    Returns:
        A table of scores by name: built-in detectors in the order of `DETECTORS`, then own ones.

    Raises:
        ValueError: For an unknown detector, two of one name, targets that no query sees, tokens
            that the model cannot read, weights or scores that are not finite, a model or detector
            that streaming cannot serve, or an option that is out of range.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"), detectors=["previous_token", "induction"])
        >>> [(str(head), round(score, 2)) for head, score in scores["induction"].top(1)]
        [('1.6', 0.53)]
        >>> scores["previous_token"].above(0.3)
        [Head(layer=0, head=2), Head(layer=1, head=1)]
    """
    checks.model(model)
    chosen = _checked(detectors, attention)
    shuffled_null = checks.flag("shuffled_null", shuffled_null)
    progress = checks.flag("progress", progress)
    seed, batch_size = checks.seed(seed), checks.batch_size(batch_size)
    if tokens is None:
        checks.no_mask_alone(mask)
        tokens = prompts(model, seed=seed)
        mask = torch.ones_like(tokens)
    scored = sequences_of(model, tokens, mask)
    of_text = None if text is None else sequences_of(model, text)
    sequences = [group for _, group in scored.groups()]
    texts = [] if of_text is None else [group for _, group in of_text.groups()]
    by_attention = [one for one in chosen if isinstance(one, AttentionDetector)]
    on_text = [one for one in by_attention if texts and not one.by_content]
    on_tokens = [one for one in by_attention if one not in on_text]
    by_content = [one for one in by_attention if one.by_content]
    copies = any(isinstance(one, CopyingDetector) and not one.from_weights for one in chosen)
    no_copying = unlike_written(model, scaled=True) if copies else None
    copies = copies and no_copying is None

    look = partial(_look, model, attention, batch_size=batch_size, progress=progress)
    mass: TargetMass | None = None
    copying: CopyingMass | None = None
    null: TargetMass | None = None
    read: TargetMass | None = None
    for group in sequences:
        seen = TargetMass(model, group, on_tokens) if on_tokens else None
        copied = CopyingMass(model, group) if copies else None
        look(group, [m for m in (seen, copied) if m is not None], "heads on tokens")
        mass, copying = _joined(mass, seen), _joined(copying, copied)
        if shuffled_null and by_content:
            chance = TargetMass(model, group, by_content)
            look(shuffled(group, seed=seed + 1), [chance], "heads on shuffled tokens")
            null = _joined(null, chance)

    for group in texts if on_text else []:
        seen = TargetMass(model, group, on_text)
        look(group, [seen], "heads on text")
        read = _joined(read, seen)

    def scores(detector: Detector) -> HeadScores:
        if isinstance(detector, CopyingDetector) and detector.from_weights:
            return copying_from_weights(model)
        if isinstance(detector, CopyingDetector) and no_copying is not None:
            return nothing_copied(model, detector, no_copying)
        if isinstance(detector, CopyingDetector):
            assert copying is not None
            return _if_measured(detector, copying.scores(), sequences)
        measured, groups = (read, texts) if detector in on_text else (mass, sequences)
        assert measured is not None
        of_chance = null if detector in by_content else None
        return _if_measured(detector, measured.scores(detector.name, null=of_chance), groups)

    of = provenance_of(model, scored, of_text)
    table = {one.name: dataclasses.replace(scores(one), provenance=of) for one in chosen}
    return ScoreTable(table, of)


def _joined(so_far: Mass | None, more: Mass | None) -> Mass | None:
    """What was measured on all groups of sequences so far."""
    return more if so_far is None or more is None else so_far.join(more)


def _if_measured(
    detector: Detector, scores: HeadScores, groups: Sequence[Int[Tensor, "_ _"]]
) -> HeadScores:
    """The scores, or NaN where no query had anything to attend to: 0 would say that the heads do
    not do what they were not asked to."""
    if isinstance(detector, AttentionDetector):
        # what uniform attention puts on targets is above 0 as soon as there is one
        asked = scores.uniform != 0
    else:
        asked = groups[-1].shape[1] > 1
    if asked:
        return scores
    return unmeasured(scores, f"{detector.unmeasured} in these sequences")


def _look(
    model: Model,
    attention: str,
    sequences: Int[Tensor, "batch pos"],
    measures: Sequence[Measure],
    title: str,
    *,
    batch_size: int | None,
    progress: bool,
) -> None:
    """Let every measure look at the sequences, without patterns where that is possible."""
    label = title if progress else None
    masses = [mass for mass in measures if isinstance(mass, TargetMass)]
    options: dict[str, Any] = {"batch_size": batch_size, "progress": label}
    if measures and (attention == "pattern" or len(masses) < len(measures)):
        measure(model, sequences, measures, **options)
    elif measures:
        tokens = checked_tokens(model, sequences)
        with run(model, tokens[:1].to(device_of(model))) as road:
            if attention == "streaming" and road.why_whole is not None:
                raise ValueError(
                    "expected a model whose layers can be run one by one, got a "
                    f"{type(model).__name__} that cannot, because {road.why_whole}; pass "
                    'attention="pattern"'
                )
            measure_attention(road, tokens, masses, **options)


def prompts(
    model: Model, *, n_sequences: int = 32, seed: int = 0, one_length: bool = False
) -> Int[Tensor, "batch pos"]:
    """Repeated random tokens, in copies whose length differs between sequences: 12 to 33 tokens.

    Sequences have 101 tokens: BOS, and four copies of 25, eight of 12, or three of 33, the last one
    cut off. So no distance back leads to the earlier copy in more than a few of them. In a shorter
    context everything is shorter in proportion.

    Args:
        model: The model whose tokens to draw.
        n_sequences: Sequences.
        seed: Seed of the draw.
        one_length: Whether all sequences have four copies of 25 instead, on which a head that goes
            by distance passes for an induction head.

    Raises:
        ValueError: If an option is out of range, or the context too short.

    Examples:
        >>> il.detectors.prompts(il.load("toy-2l"), n_sequences=8).shape
        torch.Size([8, 101])
    """
    checks.model(model)
    one_length = checks.flag("one_length", one_length)
    n_ids = len(ordinary_ids(model))
    middle = max(1, min(25, (shape(model).n_ctx - 1) // 4, n_ids))
    # a copy of one token says nothing of what follows what
    fewest = min(middle, max(2, middle // 2))
    most = min(4 * middle // 3, n_ids)
    return repeated_random_tokens(
        model,
        n_tokens=middle if one_length else (fewest, most),
        seq_len=1 + 4 * middle,
        n_sequences=n_sequences,
        seed=seed,
    )


def _checked(detectors: object, attention: str) -> list[Detector]:
    """The detectors that were asked for, each of which can be measured in this way."""
    checks.one_of("attention", attention, get_args(Attention))
    streamed = [one for one in BUILT_IN if not one.reads_patterns]
    if detectors is None:
        return streamed if attention == "streaming" else list(BUILT_IN)
    chosen = chosen_detectors(detectors)
    unserved = next((one.name for one in chosen if one.reads_patterns), None)
    if attention == "streaming" and unserved is not None:
        listed = ", ".join(one.name for one in streamed)
        condition = f"out of {listed} with streamed attention"
        raise checks.refuse(
            "detectors", condition, unserved, "it reads whole patterns, so leave it out"
        )
    return chosen
