"""Prefix matching from the weights: does a head's QK circuit match tokens through earlier heads?

An induction head compares the current token with the token *before* each key, which an earlier
head `g`, one that attends to the previous token, wrote there. As a table of tokens by tokens,

    W_g = E W_QK^h (E W_OV^g)ᵀ,

rows are current tokens and columns the tokens before the key. A large diagonal means that a token
attends to what follows its own earlier occurrence. Two numbers say so (Olsson et al. 2022, the
fourth measurement of their argument 5; Elhage et al. 2021 for eigenvalues):

- the *trace* of `W_g`, summed over the vocabulary, and of `W = Σ_g p_g W_g`, where `p_g` is the
  attention that `g` pays to the previous token of a text;
- the *positivity* of its eigenvalues, `Σ Re λ / Σ |λ|`, in [-1, 1].

No table of tokens by tokens is made: with `A = E W_Q^h` and `B = E W_OV^g W_K^h`, the eigenvalues
other than zero, and the trace, are those of `BᵀA`, `d_head × d_head`.

`E` are embeddings, normed as the model's layers do before they read. In models with MLPs, layers
from 1 on do not read the embedding but what the first MLP made of it too: then `E` is `W_E` and the
first MLP's output on `W_E` alone (`mlp`). Rotary positions make the score depend on the distance
between query and key: `A` becomes `A R(Δ)` (`distances`).

What is left out: biases, learned positions, smearing of keys, what attention of the first layer
adds before an MLP, and paths through more than one head. Strong positivity is no exact matching: in
`toy-2l-narrow` the positivity of 1.1 through 0.1 is 0.89, while 4% of tokens match themselves best.

Each pair takes the eigenvalues of one matrix for each distance, in double precision on the CPU:
with heads of 64, about a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits.weights import HeadWeights, check_bilinear, head_weights
from induction_lens.detectors import copying_from_weights, score_heads
from induction_lens.heads import Head, HeadLike, HeadScores, parse_heads
from induction_lens.models import (
    LayerByLayer,
    Model,
    Tokens,
    centres,
    device_of,
    embedding,
    hook_name,
    installed,
    keep,
    ordinary_ids,
    residual_scale,
    rotations,
    run,
    run_until,
    running,
    sequences_of,
    shape,
    tolerance,
)
from induction_lens.packing import Comparable
from induction_lens.style import CLEAN, Theme, new_figure, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_EMBEDDED_AT_ONCE = 4096  # tokens that the first MLP is run on


@dataclass(frozen=True)
class MatchingPair:
    """How a head matches tokens through an earlier one."""

    earlier: Head
    """The head that writes the previous token."""
    later: Head
    """The head whose keys read it."""
    trace: float
    """The trace of tokens by tokens, the mean over distances."""
    positivity: float
    """The positivity of the eigenvalues, the mean over distances."""

    def __str__(self) -> str:
        """For instance `1.1 through 0.1: positivity +0.89, trace +1.7e+06`."""
        return (
            f"{self.later} through {self.earlier}: positivity {self.positivity:+.2f}, "
            f"trace {self.trace:+.1e}"
        )


@dataclass(frozen=True, eq=False)
class QKMatching(Comparable):
    """The QK circuits of all heads through all earlier heads.

    Tables are NaN where a head is not in an earlier layer than the other.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> found = il.circuits.qk_matching(model, il.sample_text(model, n_sequences=8))
        >>> print(found.of("0.1", "1.1"))
        1.1 through 0.1: positivity +0.89, trace +1.7e+06
    """

    trace: Float[Tensor, "distance layer head earlier_layer earlier_head"]
    """The trace of each head's QK circuit through each earlier head's OV circuit."""
    positivity: Float[Tensor, "distance layer head earlier_layer earlier_head"]
    """The positivity of its eigenvalues; 0 where they are all zero."""
    summed_trace: Float[Tensor, "distance layer head"]
    """The trace of the sum over earlier heads, weighted by `previous_token`; NaN in layer 0."""
    summed_positivity: Float[Tensor, "distance layer head"]
    """The positivity of that sum; NaN in layer 0."""
    previous_token: HeadScores
    """How much each head attends to the previous token of the text."""
    copying: HeadScores
    """The eigenvalue copying score of each head, its OV positivity."""
    distances: tuple[int, ...]
    """Distances between query and key that the tables are at."""
    embedding: str
    """What the embeddings `E` are: `W_E`, or `W_E + MLP 0(W_E)` where an MLP stands in the way."""

    def __repr__(self) -> str:
        """In one line: of how many heads, with which embedding, and the pair that matches most."""
        _, n_layers, n_heads, _, _ = self.trace.shape
        highest = self.top(1)
        said = f", highest {highest[0]}" if highest else ""
        return f"QKMatching({n_layers} layers of {n_heads} heads, E = {self.embedding}{said})"

    def of(self, earlier: HeadLike, later: HeadLike) -> MatchingPair:
        """One pair.

        Raises:
            ValueError: If there is no such head, or the first is in no earlier layer.
        """
        _, n_layers, n_heads, _, _ = self.trace.shape
        [first] = parse_heads([earlier], n_layers=n_layers, n_heads=n_heads)
        [second] = parse_heads([later], n_layers=n_layers, n_heads=n_heads)
        if first.layer >= second.layer:
            condition = f"in an earlier layer than {second}"
            raise checks.refuse("earlier", condition, str(first), "name the earlier head first")
        return self._pair(first, second)

    def _pair(self, earlier: Head, later: Head) -> MatchingPair:
        at = (slice(None), later.layer, later.head, earlier.layer, earlier.head)
        trace, positivity = float(self.trace[at].mean()), float(self.positivity[at].mean())
        return MatchingPair(earlier, later, trace, positivity)

    def top(self, k: int = 10) -> list[MatchingPair]:
        """The `k` pairs with the largest traces, the mean over distances, largest first.

        Raises:
            ValueError: If `k` is not a whole number, or below 1.
        """
        k = checks.whole_number("k", k, least=1, remedy="for instance 10")
        mean = self.trace.mean(dim=0)
        flat = mean.flatten().nan_to_num(nan=-math.inf)
        order = torch.argsort(flat, descending=True, stable=True)
        order = order[flat[order] > -math.inf][:k]
        axes = (axis.tolist() for axis in torch.unravel_index(order, mean.shape))
        return [
            self._pair(Head(l_g, g), Head(l_h, h)) for l_h, h, l_g, g in zip(*axes, strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per distance and pair: `distance`, `earlier_layer`, `earlier_head`, `layer`,
        `head`, `previous_token` (of the earlier head), `trace` and `positivity`."""
        import pandas as pd

        known = ~self.trace.isnan()
        at, layer, head, earlier_layer, earlier_head = known.nonzero(as_tuple=True)
        return pd.DataFrame(
            {
                "distance": [self.distances[index] for index in at.tolist()],
                "earlier_layer": earlier_layer.tolist(),
                "earlier_head": earlier_head.tolist(),
                "layer": layer.tolist(),
                "head": head.tolist(),
                "previous_token": self.previous_token.values[earlier_layer, earlier_head].tolist(),
                "trace": self.trace[known].tolist(),
                "positivity": self.positivity[known].tolist(),
            }
        )

    def plane(self) -> pd.DataFrame:
        """One row per head from layer 1 on, the mean over distances: `layer`, `head`,
        `ov_positivity` (copying), `qk_positivity` and `qk_trace` (of the sum over earlier heads).

        Induction heads lie in the corner where both positivities are near 1.
        """
        import pandas as pd

        _, n_layers, n_heads = self.summed_trace.shape
        heads = [(layer, head) for layer in range(1, n_layers) for head in range(n_heads)]
        positivity, trace = self.summed_positivity.mean(dim=0), self.summed_trace.mean(dim=0)
        return pd.DataFrame(
            {
                "layer": [layer for layer, _ in heads],
                "head": [head for _, head in heads],
                "ov_positivity": [float(self.copying.values[at]) for at in heads],
                "qk_positivity": [float(positivity[at]) for at in heads],
                "qk_trace": [float(trace[at]) for at in heads],
            }
        )

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The plane of `plane()`: OV positivity across, QK positivity up, a dot a head.

        Raises:
            ValueError: If there is no such theme.
        """
        import plotly.graph_objects as go

        frame = self.plane()
        heads = zip(frame["layer"].tolist(), frame["head"].tolist(), strict=True)
        names = [f"{layer}.{head}" for layer, head in heads]
        dots = go.Scatter(
            x=frame["ov_positivity"].tolist(),
            y=frame["qk_positivity"].tolist(),
            text=names,
            mode="markers+text" if len(names) <= 32 else "markers",
            textposition="top center",
            marker={"size": 9, "color": CLEAN},
            hovertemplate="head %{text}<br>OV %{x:.2f}, QK %{y:.2f}<extra></extra>",
        )
        figure = new_figure([dots], height=420)
        figure.update_xaxes(title_text="copying: OV positivity", range=[-1.1, 1.1], zeroline=True)
        figure.update_yaxes(title_text="matching: QK positivity", range=[-1.1, 1.1], zeroline=True)
        return themed(figure, theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def qk_matching(
    model: Model,
    text: Tokens,
    *,
    distances: Sequence[int] = (0,),
    mlp: bool = True,
    progress: bool = True,
) -> QKMatching:
    """Prefix matching of every head through every earlier head, from the weights.

    The text only says how much each head attends to the previous token.

    Args:
        model: A hooked model.
        text: Sequences, BOS at position 0, as from `sample_text`.
        distances: Distances from query back to key, for models with rotary positions; elsewhere all
            of them are alike.
        mlp: Whether the first MLP's output on each embedding is part of what layers from 1 on read,
            in models with MLPs.
        progress: Show a progress bar on stderr for what takes over two seconds.

    Raises:
        ValueError: If the model does not read by products of weights (`check_bilinear`), as where
            queries and keys are normalised; if the residual stream does not begin with `W_E`; if
            its rotation or its first MLP cannot be read off the model; or for an option out of
            range.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> text = il.sample_text(model, n_sequences=8)
        >>> found = il.circuits.qk_matching(model, text, distances=[0, 1, 2])
        >>> [round(float(p), 2) for p in found.positivity[:, 1, 1, 0, 1]]
        [0.89, 0.89, 0.89]
    """
    checks.model(model)
    at = _checked_distances(distances, shape(model).n_ctx)
    mlp = checks.flag("mlp", mlp) and not getattr(model.cfg, "attn_only", False)
    check_bilinear(model)
    sequences_of(model, text)  # None would draw random tokens
    p = score_heads(
        model,
        tokens=text,
        detectors=["previous_token"],
        shuffled_null=False,
        progress=checks.flag("progress", progress),
    )["previous_token"]
    turned = rotations(model, at)
    with running(model):
        tables = _tables(model, p.values, _overlaps(model, mlp=mlp), turned, n_distances=len(at))
    return QKMatching(
        *tables,
        previous_token=p,
        copying=copying_from_weights(model),
        distances=at,
        embedding="W_E + MLP 0(W_E)" if mlp else "W_E",
    )


def summed_positivity(
    model: Model, previous_token: Float[Tensor, "layer head"]
) -> Float[Tensor, "layer head"]:
    """The positivity of each head's QK circuit through all earlier heads together, weighted by how
    much these attend to the previous token: `QKMatching.summed_positivity` at distance 0, without
    the eigenvalues of each pair. NaN in layer 0.

    Args:
        model: A hooked model.
        previous_token: Each head's attention to the previous token.

    Raises:
        ValueError: As `qk_matching`.
    """
    check_bilinear(model)
    has_mlps = not getattr(model.cfg, "attn_only", False)
    layers = [head_weights(model, layer) for layer in range(shape(model).n_layers)]
    found = torch.full(previous_token.shape, math.nan, dtype=torch.float32, device="cpu")
    weight = previous_token.double().cpu()
    with running(model):
        overlaps = _overlaps(model, mlp=has_mlps)
        for layer in range(1, len(layers)):
            total = torch.zeros((), dtype=torch.float64, device="cpu")
            for earlier_layer, earlier in enumerate(layers[:layer]):
                circuits = _circuits(earlier, layers[layer], overlaps.of(earlier_layer))
                total = total + _weighted(weight[earlier_layer], circuits.double().cpu())
            found[layer] = _eigenvalue_scores(total, None, 1)[1][0].float()
    return found


def _checked_distances(distances: object, n_ctx: int) -> tuple[int, ...]:
    given = checks.several("distances", distances)
    remedy = "name distances from 0 to below the context"
    if not given:
        raise checks.refuse("distances", "at least one distance", distances, remedy)
    return tuple(
        checks.whole_number("each of distances", one, least=0, most=n_ctx - 1, remedy=remedy)
        for one in given
    )


@dataclass(frozen=True)
class _Overlaps:
    """`E_gᵀ E_h`: what an earlier head's layer reads of tokens, with what the later one reads."""

    from_first: Float[Tensor, "d_model d_model"]
    """Where the earlier head is in layer 0, which reads no MLP's output."""
    from_later: Float[Tensor, "d_model d_model"]
    """Where it is in a later layer."""

    def of(self, earlier_layer: int) -> Float[Tensor, "d_model d_model"]:
        """That of an earlier head in a layer."""
        return self.from_later if earlier_layer else self.from_first


def _overlaps(model: Model, *, mlp: bool) -> _Overlaps:
    entering = _entering(model)
    first = _normed(model, entering)
    if not mlp:
        overlap = first.mT @ first
        return _Overlaps(overlap, overlap)
    later = _normed(model, _after_first_mlp(model, entering))
    return _Overlaps(first.mT @ later, later.mT @ later)


def _normed(model: Model, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    scale = residual_scale(model, x)
    if centres(model):
        x = x - x.mean(dim=-1, keepdim=True)
    return x / scale


def _entering(model: Model) -> Float[Tensor, "d_vocab d_model"]:
    """What each token puts into the residual stream: `W_E`, as the model scales it.

    Raises:
        ValueError: If that is not what enters the first layer.
    """
    W_E = embedding(model)
    bound = max(1e-3, tolerance(W_E.dtype))
    W_E = W_E.float()
    ids = ordinary_ids(model)
    n_tokens = min(8, shape(model).n_ctx, len(ids) // 2)
    pair = torch.stack([ids[:n_tokens], ids[-n_tokens:]]).to(device_of(model))
    kept: dict[int, Tensor] = {}
    with installed(model, keep("resid_pre", [0], into=kept)):
        run_until(model, pair, hook_name("resid_pre", 0))
    entered = kept[0].float()
    # two tokens at the same position: what positions add cancels
    change, expected = entered[0] - entered[1], W_E[pair[0]] - W_E[pair[1]]
    factor = float((change * expected).sum() / expected.square().sum())
    if not torch.allclose(change, factor * expected, atol=bound * float(change.abs().max())):
        raise ValueError(
            "expected a residual stream that begins with W_E and positions, got a model that norms "
            "or projects its embeddings; use what is measured in runs, such as path patching"
        )
    return factor * W_E


def _after_first_mlp(
    model: Model, x: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "d_vocab d_model"]:
    """Embeddings and what the first layer's MLP makes of them."""
    ids = ordinary_ids(model)[:8][None].to(device_of(model))
    dtype = embedding(model).dtype
    with run(model, ids) as road:
        if not isinstance(road, LayerByLayer):
            raise ValueError(
                "expected a model whose first MLP can be run alone, got one that is only run "
                f"whole, because {road.why_whole}; pass mlp=False, which leaves the MLP out"
            )
        road.enter(ids)
        parts = [
            road.after_attention(0, some[None].to(dtype), some[None].to(dtype))[0].float()
            for some in x.split(_EMBEDDED_AT_ONCE)
        ]
    return torch.cat(parts)


def _tables(
    model: Model,
    weight: Float[Tensor, "layer head"],
    overlaps: _Overlaps,
    turned: Float[Tensor, "distance d_head d_head"] | None,
    *,
    n_distances: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Trace and positivity of all pairs, and of the sums over earlier heads."""
    sizes = shape(model)
    pairs = (n_distances, sizes.n_layers, sizes.n_heads, sizes.n_layers, sizes.n_heads)
    trace, positivity = (
        torch.full(pairs, math.nan, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    summed_trace, summed_positivity = (
        torch.full(pairs[:3], math.nan, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    layers = [head_weights(model, layer) for layer in range(sizes.n_layers)]
    for layer, later in enumerate(layers[1:], start=1):
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        for earlier_layer, earlier in enumerate(layers[:layer]):
            circuits = _circuits(earlier, later, overlaps.of(earlier_layer)).double().cpu()
            total = total + _weighted(weight[earlier_layer].double(), circuits)
            found = _eigenvalue_scores(circuits, turned, n_distances)
            for table, values in zip((trace, positivity), found, strict=True):
                table[:, layer, :, earlier_layer] = values.mT.float()
        found = _eigenvalue_scores(total, turned, n_distances)
        for table, values in zip((summed_trace, summed_positivity), found, strict=True):
            table[:, layer] = values.float()
    return trace, positivity, summed_trace, summed_positivity


def _weighted(
    weight: Float[Tensor, " earlier_head"],
    circuits: Float[Tensor, "earlier_head head d_head d_head"],
) -> Float[Tensor, "head d_head d_head"]:
    return torch.einsum("g,ghij->hij", weight, circuits)


def _circuits(
    earlier: HeadWeights, later: HeadWeights, overlap: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, "earlier_head head d_head d_head"]:
    """`BᵀA` of each pair: `(W_O^g W_K^h)ᵀ (W_V^gᵀ overlap W_Q^h)`."""
    matched = torch.einsum("gav,hak->ghvk", overlap.mT @ earlier.W_V, later.W_Q)
    written = torch.einsum("gva,hak->ghvk", earlier.W_O, later.W_K)
    return written.mT @ matched


def _eigenvalue_scores(
    circuits: Float[Tensor, "*pair d_head d_head"],
    turned: Float[Tensor, "distance d_head d_head"] | None,
    n_distances: int,
) -> tuple[Tensor, Tensor]:
    """Trace and positivity at each distance, each [distance *pair]."""
    if turned is None:
        at_distances = circuits[None]
    else:
        rotation = turned.double().cpu()
        at_distances = torch.stack([circuits @ one for one in rotation])
    if not torch.isfinite(at_distances).all():  # on which LAPACK may end the process
        raise ValueError(
            "expected finite products of weights, got others; load the model in float32"
        )
    eigenvalues = torch.linalg.eigvals(at_distances)
    trace = at_distances.diagonal(dim1=-2, dim2=-1).sum(-1)
    magnitude = eigenvalues.abs().sum(-1)
    ratio = eigenvalues.real.sum(-1) / magnitude.where(magnitude > 0, 1.0)
    if turned is None:  # the same at each distance
        repeated = (n_distances, *[-1] * (trace.ndim - 1))
        return trace.expand(repeated), ratio.expand(repeated)
    return trace, ratio
