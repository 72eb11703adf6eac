"""Induction heads as others define them: published scores, on the same heads side by side.

Each definition is an object: the tokens it is measured on, and what it makes of an attention
pattern on them. Its yardsticks follow from itself: `ceiling` is its score of a perfect induction
head (attention shared alike between the tokens that followed earlier copies of the current one, on
BOS where there are none), `uniform` that of even attention to all that a query sees, and `resting`
that of a head that only attends to BOS.

Sequences are BOS and copies of random tokens, drawn without replacement, as ids that no tokenizer
sees. Where the published code draws with replacement, without BOS, or from text, its definition
says so.

`TOKEN_COPYING` (Feucht et al. 2025) is no score of attention: see `token_copying`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors import targets
from induction_lens.detectors.measure import measure
from induction_lens.detectors.token_copying import TOKEN_COPYING, mean_scores
from induction_lens.heads import HeadScores, ScoreTable, Unit
from induction_lens.inputs.tokens import repeated_random_tokens
from induction_lens.models import (
    HookFunction,
    Model,
    check_weights,
    hook_name,
    ordinary_ids,
    shape,
)

__all__ = [
    "AOYAMA",
    "ATTENTION_SCORES",
    "CROSBIE",
    "DETECT_HEAD_ABS",
    "DETECT_HEAD_MUL",
    "OLSSON",
    "PUBLISHED",
    "RETRIEVAL",
    "STRIPE",
    "TOKEN_COPYING",
    "PublishedScore",
    "perfect_pattern",
    "published_scores",
]

Pattern = Float[Tensor, "batch head query_pos key_pos"]
Reduction = Callable[[Tensor, Tensor, int], Tensor]
"""From patterns [batch head query_pos key_pos], tokens [batch pos] and the tokens in a copy to
scores [batch head]."""
_ENTITIES = (2, 3, 4, 5)  # tokens in what is copied
_SPAN = 30  # tokens that hold it


@dataclass(frozen=True)
class PublishedScore:
    """One published definition of a score of attention."""

    name: str
    """Its name in tables."""
    source: str
    """Where it is from."""
    caption: str
    """What it measures, in a sentence or two, with what differs from the code it is from."""
    reduce: Reduction
    """What it makes of patterns."""
    n_tokens: int
    """Tokens in a copy."""
    n_repeats: int
    """Copies."""
    unit: Unit = "attention"
    """`attention`, in [0, 1]; `copying`, in [-1, 1]."""

    def length(self, model: Model) -> int:
        """Tokens in a copy, fewer in a model of a short context or of few tokens."""
        fitting = (shape(model).n_ctx - 1) // self.n_repeats
        return max(2, min(self.n_tokens, fitting, len(ordinary_ids(model))))

    def prompts(
        self, model: Model, *, n_sequences: int = 32, seed: int = 0
    ) -> Int[Tensor, "batch pos"]:
        """The tokens it is measured on: BOS and the copies."""
        return repeated_random_tokens(
            model,
            n_tokens=self.length(model),
            n_repeats=self.n_repeats,
            n_sequences=n_sequences,
            seed=seed,
        )

    def of(self, pattern: Pattern, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch head"]:
        """The score of each head on each sequence.

        Args:
            pattern: Attention of some heads on the tokens.
            tokens: BOS, then `n_repeats` copies.

        Raises:
            ValueError: If the tokens are no BOS and whole copies, or the pattern is of others.
        """
        checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy="see prompts")
        axes = ("batch", "head", "query_pos", "key_pos")
        checks.tensor("pattern", pattern, axes=axes, remedy="pass patterns on these tokens")
        n_rows, n_pos = tokens.shape
        length, rest = divmod(n_pos - 1, self.n_repeats)
        copies = tokens[:, 1:].unflatten(1, (self.n_repeats, length)) if not rest else None
        if copies is None or not bool((copies == copies[:, :1]).all()) or length < 2:
            condition = f"BOS and {self.n_repeats} copies of some tokens"
            raise checks.refuse("tokens", condition, tokens, f"use prompts() of {self.name}")
        if (pattern.shape[0], *pattern.shape[2:]) != (n_rows, n_pos, n_pos):
            condition = f"of {n_rows} sequences of {n_pos} tokens"
            raise checks.refuse("pattern", condition, pattern, "pass patterns on these tokens")
        return self.reduce(pattern, tokens, length)

    def ceiling(self, tokens: Int[Tensor, "batch pos"]) -> float:
        """The score of a perfect induction head on some tokens."""
        return self._of_head(perfect_pattern(tokens), tokens)

    def uniform(self, tokens: Int[Tensor, "batch pos"]) -> float:
        """The score of even attention to every token that a query sees."""
        return self._of_head(_even(_seen(tokens)), tokens)

    def resting(self, tokens: Int[Tensor, "batch pos"]) -> float:
        """The score of a head that only attends to BOS."""
        nothing = torch.zeros_like(_seen(tokens))
        return self._of_head(_even(nothing), tokens)

    def _of_head(self, pattern: Pattern, tokens: Int[Tensor, "batch pos"]) -> float:
        mean = float(self.of(pattern, tokens).double().mean())
        return round(mean, 6)  # patterns are in single precision


def perfect_pattern(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch 1 pos pos"]:
    """What a perfect induction head attends to: alike to what followed each earlier copy of the
    current token, to BOS where there is none.

    Raises:
        ValueError: If the tokens are no table of ids.

    Examples:
        >>> import torch
        >>> tokens = torch.tensor([[0, 5, 6, 5]])
        >>> il.detectors.published.perfect_pattern(tokens)[0, 0, 3].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy="pass ids")
    return _even(_marked(tokens, targets.induction(tokens)))


def _seen(tokens: Tensor) -> Float[Tensor, "batch pos pos"]:
    n_rows, n_pos = tokens.shape
    ones = torch.ones(n_pos, n_pos, dtype=torch.float32, device=tokens.device)
    return ones.tril().expand(n_rows, -1, -1)


def _marked(tokens: Tensor, places: targets.Targets) -> Float[Tensor, "batch pos pos"]:
    n_rows, n_pos = tokens.shape
    table = torch.zeros(n_rows, n_pos, n_pos, dtype=torch.float32, device=tokens.device)
    table[places] = 1.0
    return table


def _even(marked: Float[Tensor, "batch pos pos"]) -> Float[Tensor, "batch 1 pos pos"]:
    """Attention spread over what is marked in a row; on BOS where nothing is."""
    marked = marked.clone()
    marked[..., 0] += (marked.sum(-1) == 0).float()
    return (marked / marked.sum(-1, keepdim=True))[:, None]


# What the definitions make of a pattern


def _mean_over_queries(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """Attention on all targets, summed over keys, averaged over the queries with one."""
    marked = _marked(tokens, targets.induction(tokens))
    n_queries = marked.any(-1).sum(-1)
    return torch.einsum("bhqk,bqk->bh", pattern.float(), marked) / n_queries[:, None]


def _share_of_all(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """`detect_head`, "mul": attention on all targets, over all attention of all queries."""
    marked = _marked(tokens, targets.induction(tokens))
    on_targets = torch.einsum("bhqk,bqk->bh", pattern.float(), marked)
    return on_targets / pattern.float().sum(dim=(-2, -1))


def _distance(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """`detect_head`, "abs": 1 minus the mean over queries of the summed absolute differences."""
    marked = _marked(tokens, targets.induction(tokens))
    apart = (pattern.float() - marked[:, None]).abs().sum(-1)
    return 1 - apart.mean(-1)


def _whole_stripe(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """The mean of the diagonal `length - 1` back, from its first entry on."""
    return pattern.float().diagonal(offset=1 - length, dim1=-2, dim2=-1).mean(-1)


def _stripe_of_last_copy(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """The same diagonal, of the queries in the second copy alone."""
    diagonal = pattern.float().diagonal(offset=1 - length, dim1=-2, dim2=-1)
    return diagonal[..., -length:].mean(-1)


def _by_place_in_copy(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """Crosbie and Shutova's loop: keys found by counting, so that a copy's last token also counts
    position 1, which follows BOS."""
    n_pos = tokens.shape[1]
    marked = torch.zeros(n_pos, n_pos, dtype=torch.float32, device=pattern.device)
    for query in range(length + 1, n_pos):
        for copy in range(query // length):
            marked[query, copy * length + query % length + 1] = 1.0
    return torch.einsum("bhqk,qk->bh", pattern.float(), marked) / (n_pos - 1 - length)


def _retrieved(pattern: Tensor, tokens: Tensor, length: int) -> Tensor:
    """The share of the first copy's tokens on which the largest attention lies where they are next.

    Where several keys have the largest attention, each counts in part.
    """
    queries = torch.arange(length, 2 * length, device=pattern.device)
    read = pattern[:, :, queries]
    largest = (read == read.amax(-1, keepdim=True)).float()
    right = tokens[:, None, :] == tokens[:, queries + 1][:, :, None]
    right[..., 0] = False
    right[..., length + 1 :] = False
    hits = torch.einsum("bhqk,bqk->bhq", largest, right.float())
    return (hits / largest.sum(-1)).mean(-1)


OLSSON = PublishedScore(
    "olsson",
    'Olsson et al. 2022, "Head activation evaluators"',
    "Attention to all tokens that followed earlier copies of the current one, summed over keys, "
    "averaged over the queries of the second and later copies: the `induction` of this package, on "
    "copies of one length.",
    _mean_over_queries,
    n_tokens=25,
    n_repeats=4,
)
DETECT_HEAD_MUL = PublishedScore(
    "detect_head_mul",
    "TransformerLens, detect_head, error_measure='mul'",
    "Attention on targets over the attention of all queries, also of those without a target. The "
    "original reads text, so its tokens are those that the tokenizer makes of it.",
    _share_of_all,
    n_tokens=50,
    n_repeats=2,
)
DETECT_HEAD_ABS = PublishedScore(
    "detect_head_abs",
    "TransformerLens, detect_head, error_measure='abs'",
    "1 minus the mean over all queries of the summed absolute differences between pattern and "
    "targets. The original rounds each prompt's mean to three digits.",
    _distance,
    n_tokens=50,
    n_repeats=2,
    unit="copying",
)
STRIPE = PublishedScore(
    "stripe",
    "TransformerLens main demo; ARENA, Intro to Mechanistic Interpretability",
    "The mean of the pattern's diagonal one less than a copy back. Two of its entries are of "
    "queries in the first copy, which have no earlier copy: the first of them is attention to BOS.",
    _whole_stripe,
    n_tokens=50,
    n_repeats=2,
)
CROSBIE = PublishedScore(
    "crosbie",
    "Crosbie and Shutova 2024, induction_scores/prefix_matching_llama.py",
    "As `olsson`, on copies of 50, with keys found by counting: the last token of a copy also "
    "counts position 1, which follows BOS and not that token.",
    _by_place_in_copy,
    n_tokens=50,
    n_repeats=4,
)
AOYAMA = PublishedScore(
    "aoyama",
    "Aoyama and Wilcox 2025, in the code of the prefix matching score",
    "The mean attention of each query in the second copy to the token after its earlier copy. The "
    "original has no BOS, and draws tokens with replacement, so that some come more than once.",
    _stripe_of_last_copy,
    n_tokens=50,
    n_repeats=2,
)
RETRIEVAL = PublishedScore(
    "retrieval",
    "Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality",
    "The share of the first copy's tokens for which, where each comes next, the largest attention "
    "lies on a place of the first copy that holds it. The original generates an answer from a long "
    "text, and counts where the token it generates is the one attended to; here it is given.",
    _retrieved,
    n_tokens=50,
    n_repeats=2,
)
ATTENTION_SCORES: tuple[PublishedScore, ...] = (
    OLSSON,
    DETECT_HEAD_MUL,
    DETECT_HEAD_ABS,
    STRIPE,
    CROSBIE,
    AOYAMA,
    RETRIEVAL,
)
"""The published scores of attention."""
PUBLISHED: tuple[str, ...] = (*(one.name for one in ATTENTION_SCORES), TOKEN_COPYING.name)
"""Names of all published scores, in the order of tables."""


def published_scores(
    model: Model,
    *,
    definitions: Sequence[str] | str | None = None,
    n_sequences: int = 32,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Every head's score by published definitions, each on tokens of its own kind.

    Args:
        model: A hooked model.
        definitions: Names out of `PUBLISHED`; None takes all. `token_copying` runs the model once
            for each head.
        n_sequences: Sequences for each definition.
        seed: Seed of the tokens.
        batch_size: Sequences per forward pass; None chooses by a memory budget.
        progress: Show progress bars on stderr for what takes over two seconds.

    Returns:
        Scores by definition, with `ceiling` (of a perfect induction head) and `uniform`.

    Raises:
        ValueError: For a name that is none of these, an option out of range, a model whose context
            or vocabulary is too small, or weights that are not finite.
        InterventionError: If the model drops what is written to the outputs of heads.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> table = il.detectors.published.published_scores(model, definitions=["olsson", "stripe"])
        >>> [(name, round(scores["1.1"], 2)) for name, scores in table.items()]
        [('olsson', 0.57), ('stripe', 0.44)]
        >>> round(table["stripe"].ceiling, 2)
        0.98
    """
    checks.model(model)
    names = checks.some_of(
        "definitions", PUBLISHED if definitions is None else definitions, PUBLISHED
    )
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=1, most=10**5)
    seed, batch_size = checks.seed(seed), checks.batch_size(batch_size)
    progress = checks.flag("progress", progress)
    check_weights(model)
    by_kind: dict[tuple[int, int], list[PublishedScore]] = {}
    for one in ATTENTION_SCORES:
        if one.name in names:
            by_kind.setdefault((one.n_tokens, one.n_repeats), []).append(one)
    scores: dict[str, HeadScores] = {}
    for alike in by_kind.values():
        tokens = alike[0].prompts(model, n_sequences=n_sequences, seed=seed)
        seen = _Reduced(model, tokens, alike)
        title = ", ".join(one.name for one in alike) if progress else None
        measure(model, tokens, [seen], batch_size=batch_size, progress=title)
        scores |= seen.scores()
    if TOKEN_COPYING.name in names:
        scores[TOKEN_COPYING.name] = TOKEN_COPYING.score(
            model, n_sequences=n_sequences, seed=seed, batch_size=batch_size, progress=progress
        )
    return ScoreTable({name: scores[name] for name in PUBLISHED if name in scores})


class _Reduced:
    """Reduces every layer's pattern to several scores: a `Measure`."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, "batch pos"], definitions: list[PublishedScore]
    ) -> None:
        sizes = shape(model)
        self._tokens = tokens
        self._n_layers = sizes.n_layers
        self._values = {
            one: torch.zeros(sizes.n_layers, sizes.n_heads, len(tokens), device="cpu")
            for one in definitions
        }

    @property
    def last_hook(self) -> str:
        return hook_name("pattern", self._n_layers - 1)

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        def on(layer: int) -> HookFunction:
            def hook(pattern: Tensor) -> None:
                for one, values in self._values.items():
                    values[layer, :, rows] = one.of(pattern.detach(), tokens).T.cpu()

            return hook

        return [(hook_name("pattern", layer), on(layer)) for layer in range(self._n_layers)]

    def finish(self, rows: slice) -> None:
        """Nothing is left to do after the pass."""

    def scores(self) -> dict[str, HeadScores]:
        tokens = self._tokens[:1]  # the yardsticks are the same for each draw
        return {
            one.name: mean_scores(
                one.name,
                values,
                unit=one.unit,
                ceiling=one.ceiling(tokens),
                uniform=one.uniform(tokens),
            )
            for one, values in self._values.items()
        }
