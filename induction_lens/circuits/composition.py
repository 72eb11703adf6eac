"""Composition: how much of what a later head reads is what an earlier one writes, from weights.

For an earlier head `g` and a later head `h`, in row orientation (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits", corrected by its erratum: nothing is transposed
inside the norm, except `W_QK` for keys):

- Q: `‖W_OV^g W_QK^h‖ / (‖W_OV^g‖ ‖W_QK^h‖)`, K: the same with `W_QK^hᵀ`, V: with `W_OV^h`,
  all norms Frobenius.

Each head is brought to the small side first: with `W_V = Q R`, `‖W_V W_O X‖ = ‖R W_O X‖`. A pair
then takes the inner product of two symmetric `d_model × d_model` matrices, one from each head,
which are made a few rows at a time.

Two yardsticks. *Random matrices* of the same shapes give about `1/√d_model`; their mean is taken
off, and their standard deviation gives `z_random`. *Shuffled partners* keep both heads' weights and
turn what the earlier head writes by a random orthogonal matrix of the residual stream. The squared
score then has the mean `1/d`, and a variance that follows from the two matrices' singular
values, so `z_shuffled` needs no draws. With `a` and `b` the sums of fourth over squared sums of
squared singular values of the two,

    variance = 2 (a - 1/d) (b - 1/d) / ((d - 1) (d + 2)).

`d` is `d_model`, or one less where norms centre, because no head then reads the mean
(`read_width`). Random matrices have that width too.

What is left out: positions (rotary), attention itself, and everything between the two heads. In
trained models most pairs lie below what random matrices give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits.weights import check_bilinear, head_weights, read_width
from induction_lens.heads import Head, HeadLike, parse_heads
from induction_lens.models import Model, running, shape
from induction_lens.packing import Comparable
from induction_lens.style import Theme, cells, color_axis, largest, new_figure, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Kind = Literal["Q", "K", "V"]
KINDS: tuple[Kind, ...] = ("Q", "K", "V")
Z_THRESHOLD = 5.0
"""The z against shuffled partners above which two heads are said to compose. Of matrices of rank
one, where the tail is the longest (χ² with one degree of freedom), 0.5% of shuffled partners pass;
of higher ranks, fewer."""
_NUMBERS_AT_ONCE = 2**26  # in memory, of products of factors
_LAYERS_AT_ONCE = 4  # later ones, whose pairs with each other are computed in vain


@dataclass(frozen=True)
class ComposedPair:
    """Two heads, and how much the later one reads of what the earlier one writes."""

    kind: Kind
    """What of the later head reads it: its queries (Q), keys (K) or values (V)."""
    earlier: Head
    """The head that writes."""
    later: Head
    """The head that reads."""
    score: float
    """The composition, minus what random matrices give."""
    z_shuffled: float
    """How many standard deviations its square lies above that of shuffled partners."""

    def __str__(self) -> str:
        """For instance `K 0.1 → 1.1: +0.082 (z +39.4)`."""
        return (
            f"{self.kind} {self.earlier} → {self.later}: {self.score:+.3f} "
            f"(z {self.z_shuffled:+.1f})"
        )


@dataclass(frozen=True, eq=False)
class Composition(Comparable):
    """The composition of all pairs of heads in different layers.

    Tables are NaN where a head is not in an earlier layer than the other, and where a head's
    `W_OV` or `W_QK` is zero.

    Examples:
        >>> found = il.circuits.composition(il.load("toy-2l-narrow"))
        >>> print(found.top(1)[0])
        K 0.1 → 1.1: +0.082 (z +39.4)
        >>> round(found.of("0.1", "1.1", kind="K").score, 3)
        0.082
    """

    raw: Float[Tensor, "3 layer head earlier_layer earlier_head"]
    """Q-, K- and V-composition of a head with an earlier one, nothing taken off."""
    z_shuffled: Float[Tensor, "3 layer head earlier_layer earlier_head"]
    """How many standard deviations the square of `raw` lies above that of shuffled partners."""
    expected: float
    """The mean of `raw` that random matrices of the same shapes give."""
    random_sd: float
    """Its standard deviation over random matrices."""
    n_draws: int
    """Draws of random matrices that both are from."""

    @property
    def scores(self) -> Float[Tensor, "3 layer head earlier_layer earlier_head"]:
        """`raw` minus `expected`."""
        return self.raw - self.expected

    @property
    def z_random(self) -> Float[Tensor, "3 layer head earlier_layer earlier_head"]:
        """`scores` in standard deviations of random matrices."""
        return self.scores / self.random_sd

    def __repr__(self) -> str:
        """In one line: of how many heads, and the pair that composes most."""
        _, n_layers, n_heads, _, _ = self.raw.shape
        highest = self.top(1)
        said = f", highest {highest[0]}" if highest else ""
        return f"Composition({n_layers} layers of {n_heads} heads{said})"

    def of(self, earlier: HeadLike, later: HeadLike, *, kind: Kind) -> ComposedPair:
        """One pair.

        Raises:
            ValueError: If there is no such head or kind, or the first is in no earlier layer.
        """
        checks.one_of("kind", kind, KINDS)
        _, n_layers, n_heads, _, _ = self.raw.shape
        [first] = parse_heads([earlier], n_layers=n_layers, n_heads=n_heads)
        [second] = parse_heads([later], n_layers=n_layers, n_heads=n_heads)
        if first.layer >= second.layer:
            condition = f"in an earlier layer than {second}"
            raise checks.refuse("earlier", condition, str(first), "name the earlier head first")
        at = (KINDS.index(kind), second.layer, second.head, first.layer, first.head)
        score = float(self.raw[at]) - self.expected
        return ComposedPair(kind, first, second, score, float(self.z_shuffled[at]))

    def top(self, k: int = 10, *, kind: Kind | None = None) -> list[ComposedPair]:
        """The `k` pairs with the highest scores, highest first, of one kind or of all.

        Raises:
            ValueError: If `k` is not a whole number, or below 1, or there is no such kind.
        """
        k = checks.whole_number("k", k, least=1, remedy="for instance 10")
        return self._ranked(self.raw, kind=kind, least=-math.inf, most=k)

    def above(self, z: float = Z_THRESHOLD, *, kind: Kind | None = None) -> list[ComposedPair]:
        """The pairs whose `z_shuffled` exceeds `z`, highest first, of one kind or of all.

        At the default of 5, at most 1% of the pairs of untrained models, and of shuffled partners,
        pass.

        Raises:
            ValueError: If `z` is not a finite number, or there is no such kind.
        """
        z = checks.real_number("z", z, remedy=f"{Z_THRESHOLD:g} is the usual one")
        return self._ranked(self.z_shuffled, kind=kind, least=z)

    def _ranked(
        self, by: Tensor, *, kind: Kind | None, least: float, most: int | None = None
    ) -> list[ComposedPair]:
        wanted = KINDS if kind is None else (checks.one_of("kind", kind, KINDS),)
        numbers = by.clone()
        for index, one in enumerate(KINDS):
            if one not in wanted:
                numbers[index] = math.nan
        flat = numbers.flatten().nan_to_num(nan=-math.inf)
        order = torch.argsort(flat, descending=True, stable=True)
        order = order[flat[order] > least][:most]
        sizes = self.raw.shape
        pairs = []
        for index, layer, head, earlier_layer, earlier_head in zip(
            *(axis.tolist() for axis in torch.unravel_index(order, sizes)), strict=True
        ):
            first, second = Head(earlier_layer, earlier_head), Head(layer, head)
            at = (index, layer, head, earlier_layer, earlier_head)
            score = float(self.raw[at]) - self.expected
            z = float(self.z_shuffled[at])
            pairs.append(ComposedPair(KINDS[index], first, second, score, z))
        return pairs

    def to_frame(self) -> pd.DataFrame:
        """One row per kind and pair: `kind`, `earlier_layer`, `earlier_head`, `layer`, `head`,
        `raw`, `score`, `z_random` and `z_shuffled`."""
        import pandas as pd

        _, n_layers, _, _, _ = self.raw.shape
        later = torch.arange(n_layers, device="cpu")
        is_pair = (later[:, None] > later[None, :])[None, :, None, :, None].expand(self.raw.shape)
        kind, layer, head, earlier_layer, earlier_head = is_pair.nonzero(as_tuple=True)
        return pd.DataFrame(
            {
                "kind": [KINDS[index] for index in kind.tolist()],
                "earlier_layer": earlier_layer.tolist(),
                "earlier_head": earlier_head.tolist(),
                "layer": layer.tolist(),
                "head": head.tolist(),
                "raw": self.raw[is_pair].tolist(),
                "score": self.scores[is_pair].tolist(),
                "z_random": self.z_random[is_pair].tolist(),
                "z_shuffled": self.z_shuffled[is_pair].tolist(),
            }
        )

    def plot(self, *, kind: Kind = "K", theme: Theme | None = None) -> go.Figure:
        """Heat map of one kind's scores: later heads down, earlier heads across.

        Raises:
            ValueError: If there is no such kind or theme.
        """
        import plotly.graph_objects as go

        index = KINDS.index(checks.one_of("kind", kind, KINDS))
        _, n_layers, n_heads, _, _ = self.raw.shape
        table = self.scores[index, 1:, :, :-1].flatten(2).flatten(0, 1)
        limit = largest(table) if table.numel() else 1.0
        heat = go.Heatmap(
            z=cells(table),
            x=[f"{layer}.{head}" for layer in range(n_layers - 1) for head in range(n_heads)],
            y=[f"{layer}.{head}" for layer in range(1, n_layers) for head in range(n_heads)],
            coloraxis="coloraxis",
            hovertemplate=f"{kind} %{{x}} → %{{y}}: %{{z:.3f}}<extra></extra>",
        )
        figure = new_figure([heat], height=96 + min(640, max(120, 24 * len(table))))
        color_axis(figure, "diverging", -limit, limit)
        figure.update_xaxes(title_text="earlier head", type="category", showgrid=False)
        figure.update_yaxes(
            title_text="later head", type="category", autorange="reversed", showgrid=False
        )
        return themed(figure, theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def composition(model: Model, *, n_draws: int = 200, seed: int = 0) -> Composition:
    """The Q-, K- and V-composition of every pair of heads in different layers, from the weights.

    No forward pass is needed, except a short one that checks that heads read the residual stream by
    their weights. Rotary and other positions are left out. Of GPT-2 small's shape it takes two
    seconds of one core, of GPT-2 XL's (705,000 pairs) about two minutes.

    Args:
        model: A hooked model.
        n_draws: Draws of random matrices, which give `expected` and `random_sd`.
        seed: Seed of the draws.

    Raises:
        ValueError: If the model does not read by products of weights (`check_bilinear`), a weight
            is not finite, or an option is out of range.

    Examples:
        >>> found = il.circuits.composition(il.load("toy-2l-narrow"))
        >>> round(found.expected, 3), round(found.random_sd, 3)  # 1/√127 = 0.0887
        (0.089, 0.003)
        >>> [round(found.of(f"0.{g}", "1.1", kind="K").score, 3) for g in range(4)]
        [-0.063, 0.082, -0.073, -0.07]
    """
    checks.model(model)
    n_draws = checks.whole_number("n_draws", n_draws, least=2, most=100_000)
    seed = checks.seed(seed)
    check_bilinear(model)
    sizes = shape(model)
    with running(model):
        factors = [_factors(model, layer) for layer in range(sizes.n_layers)]
        raw, z = _all_pairs(factors, n_heads=sizes.n_heads, width=read_width(model))
    expected, random_sd = random_composition(
        read_width(model), sizes.d_head, n_draws=n_draws, seed=seed
    )
    return Composition(raw, z, expected, random_sd, n_draws)


def random_composition(
    d_model: int, d_head: int, *, n_draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """The mean and the standard deviation of the composition of random Gaussian matrices.

    Of matrices `d_model × d_model` of rank `d_head`. The three kinds have the same distribution.

    Args:
        d_model: Dimensions of the residual stream.
        d_head: Dimensions of a head.
        n_draws: Pairs of matrices to draw.
        seed: Seed of the draw.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> mean, sd = il.circuits.random_composition(128, 32)
        >>> print(f"{mean:.3f} ± {sd:.3f}")
        0.088 ± 0.002
    """
    d_model = checks.whole_number("d_model", d_model, least=1, most=10**6)
    d_head = checks.whole_number("d_head", d_head, least=1, most=10**5)
    n_draws = checks.whole_number("n_draws", n_draws, least=2, most=100_000)
    return _drawn(d_model, d_head, n_draws, checks.seed(seed))


@cache
def _drawn(d_model: int, d_head: int, n_draws: int, seed: int) -> tuple[float, float]:
    """The same, once for each shape: snapshots of a run share it."""
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def draw(n_rows: int) -> Tensor:
        return torch.randn(n_rows, d_head, generator=generator, dtype=torch.float32, device="cpu")

    scores = []
    for _ in range(n_draws):
        W_V, W_O, W_Q, W_K = (draw(d_model) for _ in range(4))
        written = _small(W_V) @ W_O.T
        read = W_Q @ _small(W_K).T
        scores.append(float((written @ read).norm() / (written.norm() * read.norm())))
    drawn = torch.tensor(scores, dtype=torch.float64, device="cpu")
    return float(drawn.mean()), float(drawn.std())


@dataclass(frozen=True)
class _Factors:
    """A layer's heads on the small side, each scaled to a Frobenius norm of 1."""

    written: Float[Tensor, "head d_head d_model"]
    """What has the singular values of `W_OV` and its row space: `R W_O`."""
    read: Float[Tensor, "3 head d_model d_head"]
    """What has the singular values and the column space of `W_QK`, `W_QKᵀ` and `W_OV`."""
    written_peak: Float[Tensor, " head"]
    """Sum of the fourth powers of the singular values of `written`."""
    read_peak: Float[Tensor, "3 head"]
    """The same of `read`."""


def _factors(model: Model, layer: int) -> _Factors:
    weights = head_weights(model, layer)
    written = _small(weights.W_V) @ weights.W_O
    read = torch.stack(
        [
            weights.W_Q @ _small(weights.W_K).mT,
            weights.W_K @ _small(weights.W_Q).mT,
            weights.W_V @ _small(weights.W_O.mT).mT,
        ]
    )
    # zero over zero is NaN: such a head writes or reads nothing
    written = written / written.norm(dim=(-2, -1), keepdim=True)
    read = read / read.norm(dim=(-2, -1), keepdim=True)
    peaks = [(written @ written.mT).square(), (read.mT @ read).square()]
    return _Factors(written, read, *(peak.sum(dim=(-2, -1)).double().cpu() for peak in peaks))


def _small(tall: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch small columns"]:
    """`R` of `tall = Q R`: as far as norms of products go, the same matrix with few rows."""
    return torch.linalg.qr(tall, mode="r")[1]


def _all_pairs(factors: list[_Factors], *, n_heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Composition and `z_shuffled` of all pairs."""
    n_layers = len(factors)
    written_peak = torch.stack([one.written_peak for one in factors])
    read_peak = torch.stack([one.read_peak for one in factors], dim=1)
    squares = _squares(factors).unflatten(0, (n_layers, n_heads)).permute(2, 3, 4, 0, 1)
    layers = torch.arange(n_layers, device="cpu")
    is_pair = (layers[:, None] > layers)[None, :, None, :, None]
    squares = squares.where(is_pair, math.nan)
    spread = (read_peak[..., None, None] - 1 / width) * (written_peak - 1 / width)
    sd = (2 * spread.clamp(min=0) / ((width - 1) * (width + 2))).sqrt()
    return squares.clamp(min=0).sqrt().float(), ((squares - 1 / width) / sd).float()


def _squares(factors: list[_Factors]) -> Float[Tensor, "earlier 3 layer head"]:
    """`‖written read‖²` of all pairs of heads, where the writing one is in an earlier layer.

    It is the inner product of `writtenᵀ written` and `read readᵀ`, two symmetric matrices
    `d_model × d_model`. A row of these is enough for all pairs, which takes `d_model²` steps a
    pair, where the products themselves take `2 d_head² d_model`.
    """
    written = torch.cat([one.written for one in factors])
    read = torch.stack([one.read for one in factors], dim=1)
    d_model, (n_layers, n_heads) = written.shape[-1], read.shape[1:3]
    squares = torch.zeros(len(written), *read.shape[:3], dtype=torch.float64, device="cpu")
    rows = max(1, _NUMBERS_AT_ONCE // (4 * len(written) * d_model))
    for start in range(0, d_model, rows):
        stop = min(start + rows, d_model)
        of_written = written[..., start:stop].mT @ written[..., start:]
        of_written[..., stop - start :] *= 2  # and below the diagonal
        of_read = read[..., start:stop, :] @ read[..., start:, :].mT
        of_written, of_read = of_written.flatten(1), of_read.flatten(3)
        for layer in range(1, n_layers, _LAYERS_AT_ONCE):
            later = slice(layer, layer + _LAYERS_AT_ONCE)
            n_earlier = n_heads * (min(later.stop, n_layers) - 1)
            products = of_written[:n_earlier] @ of_read[:, later].flatten(0, 2).mT
            squares[:n_earlier, :, later] += (
                products.double().cpu().unflatten(1, of_read[:, later].shape[:3])
            )
    return squares
