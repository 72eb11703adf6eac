"""What edges are measured on: repeated random tokens, and text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.detectors import prompts
from induction_lens.detectors.registry import INDUCTION
from induction_lens.inputs import sample_text
from induction_lens.metrics import Positions, choose_positions
from induction_lens.models import (
    Model,
    Targets,
    Tokens,
    sequences_of,
    shape,
    tokenizer_of,
)
from induction_lens.packing import Comparable

N_SEQUENCES, N_SEQUENCES_OF_LARGE = 32, 12
"""Sequences of each kind: of a large model, every edge takes a minute of them."""
_LONGEST = 512
"""Tokens in a sequence of text: enough for the paper's positions of the ICL score."""


@dataclass(frozen=True, eq=False)
class Material(Comparable):
    """Repeated random tokens for scores and losses on copies, and text for the ICL score.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> material = il.circuits.Material.of(model, n_sequences=8, n_texts=16)
        >>> material.tokens.shape, len(material.text.sequences)
        (torch.Size([8, 101]), 16)
    """

    tokens: Int[Tensor, "batch pos"]
    """Sequences in which tokens come again, BOS at position 0."""
    text: MeasuredText | None
    """Text, and where its ICL score is taken; None: the ICL score is not measured."""

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        tokens: Tokens | None = None,
        text: Tokens | None = None,
        n_sequences: int | None = None,
        n_texts: int | None = None,
        window: int = 10,
        seed: int = 0,
    ) -> Material:
        """Take or draw what is measured on.

        Args:
            model: The model.
            tokens: Sequences in which tokens come again; None draws `detectors.prompts`.
            text: Text of one length; None takes that of `sample_text`, if the model has a
                tokenizer.
            n_sequences: Sequences of repeated tokens to draw; None: 32, or 12 for a model of GPT-2
                small's size or larger.
            n_texts: Sequences of text to draw, 0 for none; None: the same.
            window: Positions on each side of those of the ICL score.
            seed: Seed of the draws.

        Raises:
            ValueError: If nothing comes again in a sequence, or the text is too short for the ICL
                score.
        """
        checks.model(model)
        n_texts = checks.whole_number(
            "n_texts", n_texts, least=0, optional=True, remedy="0 for no text"
        )
        usual = N_SEQUENCES_OF_LARGE if shape(model).is_large else N_SEQUENCES
        n_texts = usual if n_texts is None else n_texts
        if tokens is None:
            drawn = usual if n_sequences is None else n_sequences
            tokens = prompts(model, n_sequences=drawn, seed=seed)
        tokens = sequences_of(model, tokens).one_length("what repeats itself")
        if not bool(copied(tokens).any(1).all()):
            remedy = "pass repeated_random_tokens(model)"
            raise checks.refuse("tokens", "sequences that repeat themselves", tokens, remedy)
        if text is None and n_texts and tokenizer_of(model) is not None:
            seq_len = min(_LONGEST, shape(model).n_ctx)
            text = sample_text(model, n_sequences=n_texts, seq_len=seq_len, seed=seed)
        measured = None
        if text is not None:
            whole = MeasuredText.of(
                model, text, None, where=_positions(model, text, window), estimator=None
            )
            whole.sequences.one_length("path patching")
            measured = whole
        return cls(tokens, measured)


def _positions(model: Model, text: Tokens, window: int) -> Positions:
    """Where the ICL score is taken: the paper's positions, where they fit."""
    return choose_positions(int(sequences_of(model, text).lengths.min()), window=window)


def copied(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Where a token stands that followed an earlier copy of the token before it: what a perfect
    induction head predicts."""
    row, query, key = targets_of(tokens)
    follows = query + 1 < tokens.shape[1]
    row, query, key = row[follows], query[follows], key[follows]
    right = tokens[row, key] == tokens[row, query + 1]
    found = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    found[row[right], query[right] + 1] = True
    return found


def targets_of(tokens: Int[Tensor, "batch pos"]) -> Targets:
    """Where an induction head looks: rows, queries and keys."""
    return INDUCTION.find(tokens)
