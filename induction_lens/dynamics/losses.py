"""What the losses of single tokens, and of positions, say about the course of training.

1. `loss_pca`: the losses of the same tokens describe a snapshot by one vector; the snapshots of all
   models together are projected on their first two principal components (Olsson et al. 2022,
   "Argument 1", "Per-token loss vectors"). Models with a phase change turn there.
2. `loss_derivative`: how fast the loss falls along the context, d(loss) / d(ln position), over
   training (same section, "Additional curiosities").
3. `model_order`: which model is best, before and after, by either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.dynamics.drawing import derivative_figure, order_figure, paths_figure
from induction_lens.dynamics.runs import checked_run, checked_runs
from induction_lens.packing import Comparable
from induction_lens.style import CATEGORICAL, Look, Theme, themed
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Quantity = Literal["loss", "derivative"]


@dataclass(frozen=True, eq=False)
class LossPCA(Comparable):
    """Training paths of several models in the plane of the first two principal components."""

    names: tuple[str, ...]
    """Names of the runs."""
    tokens_seen: tuple[Int[Tensor, " _snapshot"], ...]
    """Training tokens at each snapshot of each run."""
    coordinates: tuple[Float[Tensor, "_snapshot 2"], ...]
    """The path of each run, in nats, from the mean of all snapshots."""
    explained: tuple[float, float]
    """Share of the variance that each component explains."""
    turns: tuple[Float[Tensor, " _snapshot"], ...]
    """Angle in degrees between the path's steps before and after each snapshot: 0 is straight on,
    180 is back; NaN at both ends and where the path rests."""

    def to_frame(self) -> pd.DataFrame:
        """One row per snapshot of each run: `name`, `tokens_seen`, `pc1`, `pc2`, `turn`."""
        import pandas as pd

        runs = zip(self.names, self.tokens_seen, self.coordinates, self.turns, strict=True)
        frames = [
            pd.DataFrame(
                {
                    "name": name,
                    "tokens_seen": seen.tolist(),
                    "pc1": path[:, 0].tolist(),
                    "pc2": path[:, 1].tolist(),
                    "turn": turns.tolist(),
                }
            )
            for name, seen, path, turns in runs
        ]
        return pd.concat(frames, ignore_index=True)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The paths, a colour for each; `plots.pca_paths` marks windows and combines seeds.

        Raises:
            ValueError: If there is no such theme.
        """
        colors = (CATEGORICAL[number % len(CATEGORICAL)] for number in range(len(self.names)))
        looks = {name: Look(color) for name, color in zip(self.names, colors, strict=True)}
        windows = [None] * len(self.names)
        return themed(paths_figure(self, self.names, looks, windows=windows), theme)


@dataclass(frozen=True, eq=False)
class LossDerivative(Comparable):
    """How fast the loss falls along the context, at each snapshot."""

    tokens_seen: Int[Tensor, " snapshot"]
    """Training tokens at each snapshot."""
    first: Int[Tensor, " bin"]
    """First position of each bin."""
    last: Int[Tensor, " bin"]
    """Last position of each bin."""
    values: Float[Tensor, "snapshot bin"]
    """d(loss) / d(ln position): nats per unit of ln(position); negative where later tokens are
    predicted better."""

    def at(self, position: int) -> Float[Tensor, " snapshot"]:
        """The derivative in the bin that holds a position, over training.

        Raises:
            ValueError: If no bin holds it.
        """
        position = checks.whole_number("position", position)
        first = int(self.first[0])
        last = int(self.last[-1])
        if not first <= position <= last:
            raise ValueError(
                f"expected a position from {first} to {last}, got {position}; "
                "position 0 is BOS, which nothing precedes"
            )
        holds = (self.first <= position) & (position <= self.last)
        return self.values[:, int(holds.int().argmax())]

    def to_frame(self) -> pd.DataFrame:
        """One row per snapshot and bin: `tokens_seen`, `first`, `last`, `derivative`."""
        import pandas as pd

        n_snapshots, n_bins = self.values.shape
        return pd.DataFrame(
            {
                "tokens_seen": self.tokens_seen.repeat_interleave(n_bins).tolist(),
                "first": self.first.repeat(n_snapshots).tolist(),
                "last": self.last.repeat(n_snapshots).tolist(),
                "derivative": self.values.flatten().tolist(),
            }
        )

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The map of the derivative by token index and training tokens, both on log scales.

        Raises:
            ValueError: If there is no such theme.
        """
        return themed(derivative_figure(self), theme)


@dataclass(frozen=True)
class ModelOrder:
    """The order of several models at one token index, at two moments of training."""

    names: tuple[str, ...]
    """Names of the runs."""
    position: int
    """The token index."""
    by: Quantity
    """What they are ordered by: `loss`, in nats, or `derivative`, in nats per ln(position)."""
    before: tuple[float, ...]
    """Its value for each run at the earlier moment."""
    after: tuple[float, ...]
    """Its value for each run at the later moment."""
    agreement: float
    """Kendall's rank correlation of the two orders: 1 where they are the same, -1 where the order
    is inverted; NaN where all are equal at one of the moments."""

    def to_frame(self) -> pd.DataFrame:
        """One row per run: `name`, its value and its rank (1 is lowest) before and after."""
        import pandas as pd

        frame = pd.DataFrame({"name": self.names, "before": self.before, "after": self.after})
        ranks = frame[["before", "after"]].rank(method="min").astype(int).add_prefix("rank_")
        return frame.join(ranks)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """A line for each run, from the earlier moment to the later one.

        Raises:
            ValueError: If there is no such theme.
        """
        return themed(order_figure(self), theme)


def loss_pca(trajectories: Sequence[Trajectory] | Trajectory) -> LossPCA:
    """Project the per-token loss vectors of all snapshots of all runs on one plane.

    A snapshot counts as much as any other: runs with many snapshots, and parts of training where
    they are dense, weigh more in the choice of the plane. What is outside of the plane is not seen;
    `explained` says how much is inside.

    Args:
        trajectories: Runs measured on the same tokens, step 0 included; or one run.

    Raises:
        ValueError: If there is no run, one comes twice, the runs were not measured on the same
            tokens, or there are fewer than 3 snapshots in all, or fewer than 2 tokens.

    Examples:
        >>> runs = [il.tracking.Trajectory.read(f"runs/phase-{n}l-seed-0") for n in (1, 2)]
        >>> pca = il.dynamics.loss_pca(runs)
        >>> pca.names
        ('phase-1l-seed-0', 'phase-2l-seed-0')
        >>> [round(share, 2) for share in pca.explained]
        [0.7, 0.11]
    """
    from sklearn.decomposition import PCA

    trajectories = checked_runs(trajectories)
    examples = {(run.evaluation, run.token_losses.shape[1]) for run in trajectories}
    n_snapshots = sum(len(run.steps) for run in trajectories)
    if len(examples) != 1 or n_snapshots < 3:
        raise ValueError(
            "expected runs measured on the same tokens, with at least 3 snapshots in all, got "
            f"{len(examples)} sets of tokens and {n_snapshots} snapshots; track them with one "
            "tokenizer, seed and n_examples"
        )
    vectors = torch.cat([run.token_losses for run in trajectories]).double()
    if vectors.shape[1] < 2 or not torch.isfinite(vectors).all():
        raise checks.refuse(
            "token_losses",
            "finite losses of at least 2 tokens",
            vectors,
            "track the runs with more examples",
        )
    pca = PCA(n_components=2, svd_solver="full")
    joint = torch.from_numpy(pca.fit_transform(vectors.numpy()))
    paths = joint.split([len(run.steps) for run in trajectories])
    first, second = pca.explained_variance_ratio_.tolist()
    return LossPCA(
        names=tuple(run.name for run in trajectories),
        tokens_seen=tuple(run.tokens_seen for run in trajectories),
        coordinates=tuple(paths),
        explained=(first, second),
        turns=tuple(_turns(path) for path in paths),
    )


def _turns(path: Float[Tensor, "snapshot 2"]) -> Float[Tensor, " snapshot"]:
    turns = torch.full_like(path[:, 0], math.nan)
    step = path.diff(dim=0)
    before = step[:-1]
    after = step[1:]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    dot = (before * after).sum(1)
    rests = (before == 0).all(1) | (after == 0).all(1)
    turns[1:-1] = torch.atan2(cross.abs(), dot).rad2deg().masked_fill(rests, math.nan)
    return turns


def loss_derivative(trajectory: Trajectory, *, n_bins: int = 12) -> LossDerivative:
    """The slope of the mean loss over ln(position), by least squares inside logarithmic bins.

    Bins are equally wide in ln(position) from position 1 to the last, as far as whole positions
    allow: the first ones are wider, so that each holds at least 2 positions.

    Args:
        trajectory: One run.
        n_bins: Bins to aim at; there are fewer where positions are too few.

    Raises:
        ValueError: If `n_bins` is below 1, or there are fewer than 2 positions with a loss.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> slope = il.dynamics.loss_derivative(run).at(position=100)
        >>> [round(slope[i].item(), 2) for i in (0, -1)]  # before and after training
        [0.03, -0.32]
    """
    losses = checked_run(trajectory).loss_by_position.double()
    n_bins = _checked_n_bins(n_bins)
    n_positions = losses.shape[1]
    if n_positions < 3:
        raise ValueError(
            f"expected at least 2 positions with a loss, got {n_positions - 1}; "
            "use longer sequences"
        )
    edges = _bin_edges(n_positions, n_bins)
    slopes = []
    for first, past in pairwise(edges):
        x = torch.arange(first, past, dtype=torch.float64, device="cpu").log()
        x = x - x.mean()
        slopes.append(losses[:, first:past] @ x / x.square().sum())
    first = torch.tensor(edges[:-1], device="cpu")
    past = torch.tensor(edges[1:], device="cpu")
    return LossDerivative(trajectory.tokens_seen, first, past - 1, torch.stack(slopes, dim=1))


def _checked_n_bins(n_bins: object) -> int:
    remedy = "for instance 12"
    return checks.whole_number("n_bins", n_bins, least=1, most=10_000, remedy=remedy)


def _bin_edges(n_positions: int, n_bins: int) -> list[int]:
    """Where bins begin, from 1 on, and the end of the last: at least 2 apart."""
    edges = [1]
    for i in range(1, n_bins):
        edge = round(n_positions ** (i / n_bins))
        if edge - edges[-1] >= 2 and n_positions - edge >= 2:
            edges.append(edge)
    return [*edges, n_positions]


def model_order(
    trajectories: Sequence[Trajectory],
    position: int,
    *,
    before: float,
    after: float,
    by: Quantity | str = "loss",
    window: int = 10,
    n_bins: int = 12,
) -> ModelOrder:
    """Order models by their loss, or its derivative, at a token index before and after a change.

    The paper reports that larger models have the lower loss throughout, while their order by the
    derivative inverts in the phase change.

    Args:
        trajectories: Two or more runs.
        position: Token index, from 1.
        before: Moment in tokens seen, for instance `phase_change(run).onset.value`.
        after: A later moment; between snapshots, values are interpolated linearly in tokens.
        by: `loss`, the mean over `position` and `window` positions on each side of it, as far as
            there are any; or `derivative`, in the bin that holds `position`.
        window: See `by`.
        n_bins: See `loss_derivative`.

    Raises:
        ValueError: If there are fewer than 2 runs, one comes twice, the position or a moment lies
            outside of one, the moments are not in order, or an option is out of range.

    Examples:
        >>> runs = [il.tracking.Trajectory.read(f"runs/phase-{n}l-seed-0") for n in (1, 2)]
        >>> order = il.dynamics.model_order(runs, position=100, before=1e6, after=8e6)
        >>> [round(loss, 1) for loss in order.before], [round(loss, 1) for loss in order.after]
        ([4.0, 3.9], [3.4, 2.6])
    """
    import pandas as pd

    trajectories = checked_runs(trajectories, least=2)
    checks.one_of("by", by, get_args(Quantity))
    position = checks.whole_number("position", position)
    window = checks.whole_number("window", window, least=0)
    n_bins = _checked_n_bins(n_bins)
    before = checks.real_number("before", before, remedy="give a number of tokens seen")
    after = checks.real_number("after", after, above=before, remedy="give a later moment")
    earlier = []
    later = []
    for run in trajectories:
        last = run.loss_by_position.shape[1] - 1
        if not 1 <= position <= last:
            raise ValueError(
                f"expected a position from 1 to {last}, got {position} for {run.name!r}; "
                "position 0 is BOS, which nothing precedes"
            )
        if by == "loss":
            around = slice(max(1, position - window), position + window + 1)
            values = run.loss_by_position[:, around].double().mean(1)
        else:
            values = loss_derivative(run, n_bins=n_bins).at(position)
        earlier.append(_at(run, values, before))
        later.append(_at(run, values, after))
    return ModelOrder(
        tuple(run.name for run in trajectories),
        position,
        "loss" if by == "loss" else "derivative",
        tuple(earlier),
        tuple(later),
        float(pd.Series(earlier).corr(pd.Series(later), method="kendall")),
    )


def _at(run: Trajectory, values: Float[Tensor, " snapshot"], tokens: float) -> float:
    """A value of each snapshot, interpolated linearly between them."""
    import numpy as np

    seen = run.tokens_seen.double()
    if not seen[0] <= tokens <= seen[-1]:
        raise ValueError(
            f"expected moments from {seen[0]:.0f} to {seen[-1]:.0f} tokens, those of the snapshots "
            f"of {run.name!r}, got {tokens:.0f}; name a moment between them"
        )
    return float(np.interp(tokens, seen.numpy(), values.numpy()))
