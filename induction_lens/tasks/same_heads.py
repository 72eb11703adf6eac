"""Whether the same heads copy literally, translate and complete patterns: argument 4 proper.

The paper takes heads that pass the strict definition, prefix matching and copying on repeated
random tokens, and shows that some of them translate or complete patterns. Here all three scores of
every head stand side by side, with what chance explains, and the ranks of all heads by one score
are correlated with those by the others. The control is the same correlation with the scores' nulls:
what heads share that merely look at words, lines and places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors import score_heads
from induction_lens.detectors.kinds import HeadKind
from induction_lens.heads import THRESHOLD, Head, HeadScores, ScoreTable
from induction_lens.models import Model, model_name
from induction_lens.style import Theme
from induction_lens.tasks.kinds import chosen_kinds

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

USUAL = ("literal", "translation", "pattern")
"""The kinds whose scores stand side by side."""
STRICT = ("induction", "copying")
"""The strict definition: both on repeated random tokens."""


@dataclass(frozen=True)
class RankCorrelation:
    """How alike two scores rank all heads."""

    first: str
    """One score."""
    second: str
    """The other."""
    rho: float
    """Spearman's correlation over all heads of the model."""
    p_value: float
    """How likely ranks that have nothing to do with each other correlate as much: heads of one
    score exchanged at random within their layers, two-sided."""
    rho_null: float
    """The same correlation of the two scores' nulls; NaN where one has none."""
    rho_over_null: float
    """And of the scores minus their nulls: what the content adds."""
    p_over_null: float
    """Its p-value, in the same way."""


@dataclass(frozen=True, eq=False)
class SameHeads:
    """The scores of every head on copying, translation and patterns.

    Examples:
        >>> found = il.tasks.same_heads(il.load("toy-2l-narrow"), kinds=["literal", "pattern"])
        >>> found.strict
        (Head(layer=1, head=1),)
        >>> [(one.first, one.second) for one in found.correlations]
        [('induction', 'literal'), ('induction', 'pattern'), ('literal', 'pattern')]
    """

    model: str
    """The model's name."""
    scores: ScoreTable
    """Every score: `induction`, `copying`, and those of the kinds."""
    strict: tuple[Head, ...]
    """The heads that pass the strict definition, highest prefix matching first."""
    correlations: tuple[RankCorrelation, ...]
    """Of every two of `induction` and the kinds."""

    def passes(self, kind: str, head: Head) -> bool:
        """Whether a head's score exceeds what chance explains."""
        return head in self.scores[kind].above(0.0)

    def to_frame(self) -> pd.DataFrame:
        """One row for each head that passes the strict definition: `layer`, `head`, its scores, and
        with `_null` and `_passes` after the name of each of these what chance gives and whether the
        score exceeds what it explains."""
        import pandas as pd

        rows = []
        for head in self.strict:
            row: dict[str, object] = {"layer": head.layer, "head": head.head}
            for name, scores in self.scores.items():
                row[name] = scores[head]
                if scores.null is not None:
                    row[f"{name}_null"] = float(scores.null[head.layer, head.head])
                    row[f"{name}_passes"] = self.passes(name, head)
            rows.append(row)
        return pd.DataFrame(rows)

    def correlations_frame(self) -> pd.DataFrame:
        """One row for every two scores: the fields of `RankCorrelation`."""
        import dataclasses

        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(one) for one in self.correlations])

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The scores of every head, a map for each; heads of the strict definition are outlined.

        Raises:
            ValueError: If there is no such theme.
        """
        return self.scores.plot(marked=self.strict, theme=theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def same_heads(
    model: Model,
    *,
    kinds: Sequence[HeadKind | str] = USUAL,
    threshold: float = THRESHOLD,
    n_permutations: int = 2000,
    seed: int = 0,
) -> SameHeads:
    """Whether the heads that copy random tokens translate and complete patterns too.

    A head passes the strict definition where its prefix matching exceeds the threshold and what
    chance explains, and its copying score is above zero by two standard errors.

    Args:
        model: A hooked model with a tokenizer.
        kinds: Kinds of heads to set beside: names out of `tasks.KINDS`, or objects.
        threshold: Of prefix matching.
        n_permutations: Exchanges of heads, for the p-values of correlations.
        seed: Seed of the draws.

    Raises:
        ValueError: If a kind is unknown, a prompt does not fit the model, its copying cannot be
            measured, or an option is out of range.

    Examples:
        >>> found = il.tasks.same_heads(il.load("toy-2l-narrow"), kinds=["literal"])
        >>> bool(found.to_frame()["literal_passes"][0])
        True
    """
    checks.model(model)
    threshold = checks.real_number("threshold", threshold)
    n_permutations = checks.resamples(n_permutations, name="n_permutations")
    seed = checks.seed(seed)
    wanted = chosen_kinds(kinds)
    table = dict(score_heads(model, detectors=STRICT, seed=seed))
    for kind in wanted:
        if kind.name in table:
            raise checks.refuse("kinds", "others than induction", kind.name, "leave it out")
        table[kind.name] = kind.score(model, seed=seed)
    matching, copying = (table[name] for name in STRICT)
    if copying.note is not None:
        raise ValueError(
            f"expected a model whose copying can be measured, got one in which {copying.note}; "
            "score the kinds one by one"
        )
    assert copying.sem is not None
    copies = copying.values > 2 * copying.sem
    strict = tuple(h for h in matching.above(threshold) if bool(copies[h.layer, h.head]))
    ranked = [name for name in table if name != STRICT[1]]
    correlations = tuple(
        rank_correlation(table[a], table[b], n_permutations=n_permutations, seed=seed)
        for a, b in combinations(ranked, 2)
    )
    return SameHeads(model_name(model), ScoreTable(table), strict, correlations)


def rank_correlation(
    first: HeadScores, second: HeadScores, *, n_permutations: int = 2000, seed: int = 0
) -> RankCorrelation:
    """How alike two scores rank all heads of a model.

    Heads are exchanged within layers, since many scores grow or fall with depth, which makes any
    two of them correlate.

    Args:
        first: The score of every head.
        second: Another score of the same heads.
        n_permutations: Exchanges of heads for the p-value.
        seed: Seed of the exchanges.

    Raises:
        ValueError: If the scores are of different models, or an option is out of range.

    Examples:
        >>> scores = il.score_heads(il.load("toy-2l"), detectors=["induction", "duplicate_token"])
        >>> found = il.tasks.rank_correlation(scores["induction"], scores["induction"])
        >>> round(found.rho, 3), found.p_value < 0.01
        (1.0, True)
    """
    if first.values.shape != second.values.shape:
        remedy = "score the same model"
        raise checks.refuse("second", "scores of as many heads", second, remedy)
    n = checks.resamples(n_permutations, name="n_permutations")
    seed = checks.seed(seed)
    rho, p_value = _correlated(first.values, second.values, n, seed)
    rho_null = rho_over = p_over = float("nan")
    if first.null is not None and second.null is not None:
        rho_null = _spearman(first.null, second.null)
        over = (first.values - first.null, second.values - second.null)
        rho_over, p_over = _correlated(*over, n, seed)
    names = (first.name, second.name)
    return RankCorrelation(*names, rho, p_value, rho_null, rho_over, p_over)


def _correlated(
    a: Float[Tensor, "layer head"], b: Float[Tensor, "layer head"], n: int, seed: int
) -> tuple[float, float]:
    """Spearman's correlation, and how likely exchanging heads within layers gives one as far from
    what depth alone gives; NaN where one of the two is the same for all heads."""
    import numpy as np
    from scipy.stats import rankdata

    rho = _spearman(a, b)
    if math.isnan(rho):
        return rho, rho
    ranks = [rankdata(one.double().numpy()) for one in (a, b)]
    ours, theirs = ((one - one.mean()).reshape(a.shape) for one in ranks)
    scale = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))
    drawn = np.random.default_rng(seed).permuted(np.broadcast_to(theirs, (n, *a.shape)), axis=2)
    by_chance = (drawn * ours).sum((1, 2)) / scale
    middle = by_chance.mean()
    as_far = np.abs(by_chance - middle) >= abs(rho - middle) - 1e-12
    return rho, (1 + int(as_far.sum())) / (1 + n)


def _spearman(a: Float[Tensor, "layer head"], b: Float[Tensor, "layer head"]) -> float:
    """Spearman's correlation; NaN where one of the two is the same for all heads."""
    import numpy as np
    from scipy.stats import rankdata

    a, b = a.flatten().double(), b.flatten().double()
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return float("nan")
    return float(np.corrcoef(rankdata(a.numpy()), rankdata(b.numpy()))[0, 1])
