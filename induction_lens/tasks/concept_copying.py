"""Concept copying: what a head's output before an entity does for the entity's *second* token.

The definition is that of Feucht et al. 2025 ("The Dual-Route Model of Induction"): sequences as for
token copying (`detectors.token_copying`), but the 30 random tokens end in an entity of two to five
tokens that is a word of its own. One head's output at the last token before the entity comes from
the run with the repetition; the score is how much likelier the entity's second token gets after its
first. A head that only copies the next token has no part in that; one that reads the whole word
does. Theirs are the subjects of CounterFact; ours are names and identifiers of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors.kinds import HeadKind, over_nothing
from induction_lens.detectors.token_copying import (
    ENTITIES,
    changes,
    copying_prompts,
    mean_scores,
    span_for,
)
from induction_lens.heads import HeadScores
from induction_lens.models import Model, model_name, prove_writes_land, running, shape, tokenizer_of
from induction_lens.models.encoding import encode
from induction_lens.tasks.words import words

_FEWEST = 2  # entities of one length


@dataclass(frozen=True, eq=False)
class ConceptCopyingHeads(HeadKind):
    """Heads that copy a word of several tokens as one thing."""

    entities: Sequence[str] | None = None
    """Words of several tokens; None takes our names and identifiers."""
    n_sequences: int = 32
    """Sequences to draw."""
    name: ClassVar[str] = "concept_copying"
    title: ClassVar[str] = "Concept-copying heads"
    caption: ClassVar[str] = (
        "How much likelier the second token of a repeated word gets when one head's output before "
        "the word comes from the run with the repetition: 1 for a perfect head; chance is 0."
    )
    source: ClassVar[str] = "Feucht et al. 2025, The Dual-Route Model of Induction"

    def __post_init__(self) -> None:
        """Check the number."""
        checks.whole_number("n_sequences", self.n_sequences, least=1, most=10**6)

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`.

        Raises:
            ValueError: If the model has no tokenizer, or too few entities are of two to five tokens
                in it.
            InterventionError: If the model drops what is written to the outputs of heads.
        """
        sizes = shape(model)
        by_length = self.tokens(model)
        prove_writes_land(model, range(sizes.n_layers), vocabulary=sizes.d_vocab)
        generator = torch.Generator(device="cpu").manual_seed(checks.seed(seed))
        parts = []
        with running(model):
            for index, (n_entity, known) in enumerate(by_length.items()):
                n_rows = self.n_sequences // len(by_length)
                n_rows += index < self.n_sequences % len(by_length)
                if n_rows == 0:
                    continue
                which = torch.randint(len(known), (n_rows,), generator=generator, device="cpu")
                group = copying_prompts(
                    model,
                    span=span_for(model),
                    n_entity=n_entity,
                    n_rows=n_rows,
                    generator=generator,
                    entities=known[which],
                )
                title = "concept copying" if progress else None
                parts.append(changes(model, group, batch_size=None, title=title))
        values = torch.cat(parts, dim=-1)
        return over_nothing(
            mean_scores(self.name, values, unit="copying", ceiling=1.0, uniform=0.0)
        )

    def tokens(self, model: Model) -> dict[int, Int[Tensor, "entity entity_pos"]]:
        """The entities as tokens, by how many they are; each with a space before it.

        Raises:
            ValueError: As `score`.
        """
        tokenizer = tokenizer_of(model)
        if tokenizer is None:
            raise ValueError(
                f"expected a model with a tokenizer, to have words of several tokens, got "
                f"{model_name(model)}, which has none; set model.tokenizer"
            )
        named = self.entities
        listed = words("entity") + words("identifier") if named is None else list(named)
        found: dict[int, list[list[int]]] = {}
        for ids in encode([f" {entity}" for entity in listed], tokenizer):
            if len(ids) in ENTITIES and max(ids) < shape(model).d_vocab:
                found.setdefault(len(ids), []).append(ids)
        several = {
            n: torch.tensor(ids, device="cpu")
            for n, ids in sorted(found.items())
            if len(ids) >= _FEWEST
        }
        if not several:
            condition = f"words of {ENTITIES[0]} to {ENTITIES[-1]} tokens, {_FEWEST} of one length"
            raise checks.refuse("entities", condition, named, "pass others", given="none")
        return several
