"""Token copying: what a head's output at one token does for the token that comes next.

The definition is that of Feucht et al. 2025 ("The Dual-Route Model of Induction"), for random
tokens. A sequence is BOS, 30 random tokens that end in an "entity" of 2 to 5 of them, a newline,
and the same tokens again up to the entity's first. In another one, the first 30 are other random
tokens, so that nothing can be copied. One head's output at the last token before the entity is put
from the first run into the second: the score is how much likelier the entity's first token gets.

Their published scripts do not agree on it: one saves the change for the entity's first token, at
the token before it, and the other that for its second token, at its first. This is the former.
Theirs draw tokens from the Pile and write BOS and newline as the ids 1 and 13 for every tokenizer;
here they are the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.heads import HeadScores
from induction_lens.metrics import batches
from induction_lens.models import (
    Model,
    batch_size_for,
    bos_id,
    device_of,
    hook_name,
    installed,
    keep,
    logits_at,
    ordinary_ids,
    prove_writes_land,
    run_until,
    running,
    shape,
    tokenizer_of,
)
from induction_lens.models.encoding import encode

ENTITIES = (2, 3, 4, 5)
"""Tokens in what is copied, each length as often as the others."""
SPAN = 30
"""Tokens that hold it, fewer in a model of a short context or of few tokens."""


@dataclass(frozen=True)
class CopyingPrompts:
    """Sequences that end in the first token of an entity, where it can be copied and where not."""

    clean: Int[Tensor, "batch pos"]
    """With the entity in their first part."""
    corrupted: Int[Tensor, "batch pos"]
    """The same, with other random tokens in their first part."""
    second: Int[Tensor, " batch"] | None = None
    """The entity's second token, where that is what may be copied."""

    @property
    def copied(self) -> Int[Tensor, " batch"]:
        """What may be copied: the entity's first token, the last of each sequence; or the second,
        which follows it."""
        return self.clean[:, -1] if self.second is None else self.second

    @property
    def read(self) -> int:
        """The position, from the end, after which that is due: the last but one, or the last."""
        return -2 if self.second is None else -1


@dataclass(frozen=True)
class TokenCopying:
    """The published score of token copying."""

    name: str = "token_copying"
    """Its name in tables."""
    source: str = "Feucht et al. 2025, The Dual-Route Model of Induction"
    """Where it is from."""
    caption: str = (
        "How much likelier the next random token of a repetition gets when one head's output at "
        "the token before it comes from the run with the repetition."
    )
    """What it measures."""

    def prompts(
        self, model: Model, *, n_sequences: int = 32, seed: int = 0
    ) -> Iterator[CopyingPrompts]:
        """The sequences, one group for each length of entity.

        Raises:
            ValueError: If the context, or the vocabulary, is too small, or there are no sequences.
        """
        n_sequences = checks.whole_number("n_sequences", n_sequences, least=1)
        span = span_for(model)
        generator = torch.Generator().manual_seed(seed)
        for index, n_entity in enumerate(ENTITIES):
            n_rows = n_sequences // len(ENTITIES) + (index < n_sequences % len(ENTITIES))
            if n_rows > 0:
                yield copying_prompts(
                    model, span=span, n_entity=n_entity, n_rows=n_rows, generator=generator
                )

    def score(
        self,
        model: Model,
        *,
        n_sequences: int = 32,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> HeadScores:
        """The score of each head: a probability's change, in [-1, 1]; 0 for a head that does
        nothing.

        Raises:
            ValueError: As `prompts`.
            InterventionError: If the model drops what is written to the outputs of heads.
        """
        sizes = shape(model)
        prove_writes_land(model, range(sizes.n_layers), vocabulary=sizes.d_vocab)
        groups = self.prompts(model, n_sequences=n_sequences, seed=seed)
        title = self.name if progress else None
        with running(model):
            parts = [changes(model, group, batch_size=batch_size, title=title) for group in groups]
        values = torch.cat(parts, dim=-1)
        return mean_scores(self.name, values, unit="copying", ceiling=1.0, uniform=0.0)


TOKEN_COPYING = TokenCopying()
"""Feucht et al. 2025: the change of probability that one head's output makes."""


def mean_scores(name: str, values: Float[Tensor, "layer head batch"], **options: Any) -> HeadScores:
    """Scores that are means over sequences, with their standard errors.

    Examples:
        >>> import torch
        >>> scores = il.detectors.token_copying.mean_scores("own", torch.tensor([[[0.2, 0.4]]]))
        >>> round(scores["0.0"], 3), round(float(scores.sem), 3)
        (0.3, 0.1)
    """
    n = values.shape[-1]
    sem = values.std(-1) / math.sqrt(n) if n > 1 else torch.full_like(values[..., 0], math.inf)
    return HeadScores(name, values.mean(-1), sem=sem, n_sequences=n, **options)


def span_for(model: Model) -> int:
    """How many tokens hold what is copied.

    Raises:
        ValueError: If the model's context, or its vocabulary, is too small.
    """
    n_ids = len(ordinary_ids(model))
    span = min(SPAN, (shape(model).n_ctx - 1) // 2, (n_ids - 1) // 2)
    if span < ENTITIES[-1] + 2:
        raise ValueError(
            f"expected a context and ordinary ids of at least {2 * ENTITIES[-1] + 5} for copying "
            f"of entities, got {min(shape(model).n_ctx, n_ids)}; leave its score out"
        )
    return span


def copying_prompts(
    model: Model,
    *,
    span: int,
    n_entity: int,
    n_rows: int,
    generator: torch.Generator,
    entities: Int[Tensor, "batch entity_pos"] | None = None,
) -> CopyingPrompts:
    """Sequences for entities of one length: random tokens, or those given, one for each row.

    Of random ones the first token may be copied, of given ones the second.
    """
    ids = ordinary_ids(model)
    orders = [torch.randperm(len(ids), generator=generator, device="cpu") for _ in range(n_rows)]
    drawn = ids[torch.stack(orders)]
    first, other, spare = drawn[:, :span], drawn[:, span : 2 * span], drawn[:, 2 * span, None]
    if entities is not None:
        first = torch.cat([first[:, :-n_entity], entities], dim=1)
    bos = torch.full((n_rows, 1), bos_id(model), device="cpu")
    newline = _newline(model)
    between = spare if newline is None else torch.full_like(bos, newline)
    again = first[:, : span - n_entity + 1]
    clean, corrupted = (
        torch.cat([bos, begin, between, again], dim=1).to(device_of(model))
        for begin in (first, other)
    )
    second = None if entities is None else first[:, 1 - n_entity].to(device_of(model))
    return CopyingPrompts(clean, corrupted, second)


def _newline(model: Model) -> int | None:
    """The id of a newline, where it is one token that the model knows."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return None
    [ids] = encode(["\n"], tokenizer)
    return ids[0] if len(ids) == 1 and ids[0] < shape(model).d_vocab else None


def changes(
    model: Model, prompts: CopyingPrompts, *, batch_size: int | None, title: str | None
) -> Float[Tensor, "layer head batch"]:
    """The change of probability of what may be copied, where one head's output at the last token
    but one comes from the clean run."""
    sizes = shape(model)
    n_rows, n_pos = prompts.clean.shape
    outputs: dict[int, Tensor] = {}
    with installed(model, keep("z", range(sizes.n_layers), into=outputs)):
        run_until(model, prompts.clean, hook_name("z", sizes.n_layers - 1))
    base = _probability(model, prompts.corrupted, prompts.copied, prompts.read)
    changes = torch.zeros(sizes.n_layers, sizes.n_heads * n_rows, dtype=torch.float32, device="cpu")
    # the heads of a layer as rows of one batch
    row = torch.arange(n_rows, device=prompts.clean.device).repeat(sizes.n_heads)
    head = torch.arange(sizes.n_heads, device=row.device).repeat_interleave(n_rows)
    size = batch_size or batch_size_for(model, n_pos)
    for layer in range(sizes.n_layers):
        shown = None if title is None else f"{title}, layer {layer}"
        for some in batches(len(row), size, progress=shown):
            patch = _patch(outputs[layer], row[some], head[some])
            with installed(model, [(hook_name("z", layer), patch)]):
                tokens, copied = prompts.corrupted[row[some]], prompts.copied[row[some]]
                patched = _probability(model, tokens, copied, prompts.read)
            changes[layer, some] = (patched - base[row[some]]).cpu()
    return changes.view(sizes.n_layers, sizes.n_heads, n_rows)


def _patch(clean: Float[Tensor, "clean_batch pos head d_head"], row: Tensor, head: Tensor):
    """A hook that puts one head's clean output into each row, at the last token but one."""

    def put(z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        changed = z.clone()
        changed[torch.arange(len(row), device=z.device), -2, head] = clean[row, -2, head]
        return changed

    return put


def _probability(
    model: Model, tokens: Int[Tensor, "batch pos"], following: Int[Tensor, " batch"], read: int
) -> Float[Tensor, " batch"]:
    """How likely the model finds a token after a position, counted from the end."""
    logits = logits_at(model, tokens, [tokens.shape[1] + read])[:, 0].float()
    return logits.softmax(-1).gather(1, following[:, None])[:, 0]
