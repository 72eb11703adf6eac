"""What ablation studies measure on: text, its short cuts, and the ICL score of their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.allocation import Allocation
from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.estimators import MATCHED_TARGET, ICLEstimator, Losses, as_estimator
from induction_lens.metrics import Positions, check_positions
from induction_lens.models import Mask, Model, Sequences, Tokens, sequences_of

CONTROL_MARGIN = 15
"""Controls are measured at positions this near to both positions of the ICL score."""


@dataclass(frozen=True)
class MeasuredText:
    """Sequences to measure on, and the ICL score that their losses make."""

    sequences: Sequences
    """The sequences."""
    short: Sequences | None
    """Their short cuts, where the estimator reads them."""
    at: Positions
    """Where the ICL score is taken."""
    estimator: ICLEstimator
    """How the ICL score is estimated."""

    @classmethod
    def of(
        cls,
        model: Model,
        tokens: Tokens,
        mask: Mask | None,
        *,
        where: Positions,
        estimator: ICLEstimator | str | None,
    ) -> MeasuredText:
        """Check what a caller asks for.

        Raises:
            ValueError: As `ablate`.
        """
        sequences = sequences_of(model, tokens, mask)
        shortest = sequences.tokens[:, : int(sequences.lengths.min())]
        at = check_positions(shortest, where.early, where.late, window=where.window)
        chosen = as_estimator(estimator, at_beginnings=sequences.at_beginnings)
        short = None
        if chosen is MATCHED_TARGET:
            stop = min(at.late + _margin(at) + 1, shortest.shape[1])
            short = sequences.cut(at.late - at.early + 1, stop)
        return cls(sequences, short, at, chosen)

    def first(self, n_sequences: int) -> MeasuredText:
        """The same on the first sequences alone."""
        rows = slice(0, n_sequences)
        short = None if self.short is None else self.short[rows]
        return replace(self, sequences=self.sequences[rows], short=short)

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Positions near those of the ICL score, of sequences and of short cuts."""
        early = self.at.around(self.at.early, margin=_margin(self.at))
        late = self.at.around(self.at.late, margin=_margin(self.at))
        n_pos = int(self.sequences.lengths.min())
        n_short = 0 if self.short is None else self.short.longest
        long_positions = sorted({p for p in (*early, *late) if 1 <= p < n_pos})
        return tuple(long_positions), tuple(p for p in early if 1 <= p < n_short)

    def losses(
        self,
        model: Model,
        jobs: Iterable[Job],
        *,
        allocation: Allocation | None = None,
        prepared: Callable[[Sequence[Ablation]], object] | None = None,
        batch_size: int | None,
        progress: bool,
    ) -> tuple[Losses, Losses]:
        """Clean losses, and those of each ablation."""
        return ablation_losses(
            model,
            list(jobs),
            self.sequences,
            short=self.short,
            allocation=allocation,
            prepared=prepared,
            batch_size=checks.batch_size(batch_size),
            progress=checks.flag("progress", progress),
        )

    def scores(self, losses: Losses) -> Float[Tensor, " batch"]:
        """The ICL score of each sequence in one run."""
        return self.estimator.per_sequence(losses, self.at)


def _margin(at: Positions) -> int:
    return max(at.window, CONTROL_MARGIN)
