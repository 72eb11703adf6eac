"""Copying: whether a head raises the logits of the tokens that it attends to.

From activations (Olsson et al. 2022, "Head activation evaluators"):

1. For every source position, the head's value vector goes through `W_O`, the final norm and `W_U`:
   the head's direct contribution to the logits. Paths through later layers are left out. The final
   norm's scale is the one measured at the query.
2. The contribution is centred over the vocabulary, and its negative part is dropped.
3. `f` is the share of this positive mass, among the distinct tokens of the sample, that falls on
   the attended token, weighted by attention. BOS does not count as a source.
4. `f` is rescaled to [-1, 1], so that 0 is no preference: with `m` distinct tokens, chance is
   `c = 1/m`, and the score is `(f - c) / (1 - c)` above chance, `(f - c) / c` below.

Architectures that norm, gate or clip what heads put out, before or after `W_O`, add something else
than attention times values (`models.unlike_written`): nothing is measured there.

From weights (Elhage et al. 2021, "Copying / primitive ICL"): the eigenvalues of `W_E W_OV W_U`,
found as those of the small matrix `W_O W_U W_E W_V`; the score is the sum of their real parts over
the sum of their magnitudes, in [-1, 1]. Norms enter by their weights and centring, not their scale.
`W_U` is centred over the vocabulary: what is added to all logits alike changes no prediction, and
no score.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.detectors.detector import CopyingDetector
from induction_lens.detectors.measure import ratio_and_error
from induction_lens.detectors.registry import COPYING, COPYING_WEIGHTS
from induction_lens.heads import HeadScores, unmeasured
from induction_lens.models import (
    FINAL_SCALE,
    HookFunction,
    Model,
    check_weights,
    embedding,
    hook_name,
    output_weights,
    remembered,
    shape,
    unembedding,
    unlike_written,
    value_weights,
)


class CopyingMass:
    """Reduces every layer to the positive logit mass on attended and on all sample tokens."""

    def __init__(self, model: Model, tokens: Int[Tensor, "batch pos"]) -> None:
        """Measure copying on these tokens, BOS at position 0.

        It is for models whose heads add attention times values (`models.unlike_written`).
        """
        self._model = model
        self._shape = shape(model)
        self._W_U = _centred_unembedding(model)
        sizes = (self._shape.n_layers, self._shape.n_heads, len(tokens))
        self._attended = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        self._all = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        self._distinct = torch.zeros(len(tokens), dtype=torch.float64, device="cpu")
        self._pending: list[tuple[Tensor, Tensor]] = []

    @property
    def last_hook(self) -> None:
        """The final norm's scale is measured too, so the whole model is run."""

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        """Hooks on each layer's values and pattern, and on the final norm's scale."""
        sample, kept, source = _distinct_tokens(tokens[:, 1:])
        self._distinct[rows] = kept.sum(-1).double().cpu()
        # [batch d_model token]: only the logits of the sample's tokens are computed
        self._readout = self._W_U[:, sample].transpose(0, 1) * kept[:, None, :]
        self._source = source
        self._pending = []
        hooks: list[tuple[str, HookFunction]] = []
        self._scale = torch.ones(
            tokens.shape, dtype=torch.float32, device=tokens.device
        )  # of models without norms
        if FINAL_SCALE in self._model.hook_dict:
            hooks.append((FINAL_SCALE, self._keep_scale))
        for layer in range(self._shape.n_layers):
            on_value, on_pattern = self._layer_hooks(layer)
            hooks += [(hook_name("v", layer), on_value), (hook_name("pattern", layer), on_pattern)]
        return hooks

    def _keep_scale(self, scale: Float[Tensor, "batch pos 1"]) -> None:
        self._scale = scale.detach().float()[..., 0]

    def _layer_hooks(self, layer: int) -> tuple[HookFunction, HookFunction]:
        masses: list[tuple[Tensor, Tensor]] = []

        def on_value(value: Float[Tensor, "batch pos kv_head d_head"]) -> None:
            masses.append(self._positive_mass(layer, value.detach().float()))

        def on_pattern(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
            own, total = masses.pop()
            by_source = pattern.detach().float()[:, :, 1:, 1:]
            at_query = [torch.einsum("bhqk,bhk->bhq", by_source, mass) for mass in (own, total)]
            self._pending.append((at_query[0], at_query[1]))

        return on_value, on_pattern

    def _positive_mass(
        self, layer: int, value: Float[Tensor, "batch pos kv_head d_head"]
    ) -> tuple[Float[Tensor, "batch head key_pos"], Float[Tensor, "batch head key_pos"]]:
        """Positive logit mass of each source position: on its own token, and on all tokens."""
        value = of_query_heads(value, self._shape.n_heads)[:, 1:]
        W_O = output_weights(self._model, layer).float()
        to_logits = torch.einsum("hed,bdm->bhem", W_O, self._readout)
        raised = torch.einsum("bkhe,bhem->bhkm", value, to_logits).relu()
        index = self._source[:, None, :, None].expand(-1, raised.shape[1], -1, 1)
        return raised.gather(-1, index)[..., 0], raised.sum(-1)

    def finish(self, rows: slice) -> None:
        """Divide by the final norm's scale at each query, and sum over queries."""
        for layer, (own, total) in enumerate(self._pending):
            for mass, store in ((own, self._attended), (total, self._all)):
                scaled = mass / self._scale[:, None, 1:]
                store[layer, :, rows] = scaled.sum(-1).T.double().cpu()

    def join(self, other: CopyingMass) -> CopyingMass:
        """Add what was measured on more sequences, which may be of another length."""
        self._attended = torch.cat([self._attended, other._attended], dim=-1)
        self._all = torch.cat([self._all, other._all], dim=-1)
        self._distinct = torch.cat([self._distinct, other._distinct])
        return self

    def scores(self) -> HeadScores:
        """The copying score of every head."""
        share, sem = ratio_and_error(self._attended, self._all)
        chance = float((1 / self._distinct).mean())
        above = (share - chance) / max(1 - chance, 1e-12)
        below = (share - chance) / chance
        empty = self._all.sum(-1) == 0  # attends to nothing but BOS, or never raises a logit
        values = torch.where(share >= chance, above, below).masked_fill(empty, 0.0)
        slope = torch.full_like(share, 1 / chance)
        slope[share >= chance] = 1 / max(1 - chance, 1e-12)
        return HeadScores(
            name=COPYING.name,
            values=values.float(),
            unit=COPYING.unit,
            ceiling=1.0,
            uniform=0.0,
            sem=(sem * slope).float(),
        )


def _distinct_tokens(
    tokens: Int[Tensor, "batch key_pos"],
) -> tuple[Int[Tensor, "batch token"], Float[Tensor, "batch token"], Int[Tensor, "batch key_pos"]]:
    """Each row's distinct tokens, padded; 1 where not padding; each position's index in them."""
    rows = [torch.unique(row, return_inverse=True) for row in tokens]
    most = max(len(distinct) for distinct, _ in rows)
    sample = tokens.new_zeros(len(rows), most)
    kept = torch.zeros(len(rows), most, dtype=torch.float32, device=tokens.device)
    for i, (distinct, _) in enumerate(rows):
        sample[i, : len(distinct)] = distinct
        kept[i, : len(distinct)] = 1.0
    return sample, kept, torch.stack([inverse for _, inverse in rows])


def of_query_heads(
    value: Float[Tensor, "batch pos kv_head d_head"], n_heads: int
) -> Float[Tensor, "batch pos head d_head"]:
    """Values for each query head: consecutive ones share those of a value head.

    Raises:
        ValueError: If they are not laid out like this.
    """
    if value.ndim != 4 or n_heads % value.shape[2]:
        raise ValueError(
            f"expected values of shape [batch, pos, head, d_head], with heads that divide "
            f"{n_heads}, got {list(value.shape)}; leave copying out"
        )
    return value.repeat_interleave(n_heads // value.shape[2], dim=2)


def _centred_unembedding(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """`W_U` without what it adds to all logits alike."""
    W_U = unembedding(model).float()
    return W_U - W_U.mean(dim=1, keepdim=True)


def copying_from_weights(model: Model) -> HeadScores:
    """The eigenvalue copying score of every head, in [-1, 1] (Elhage et al. 2021).

    The embedding is taken as it is: what a first MLP layer does to it, in
    models that have one, is left out.

    All scores are NaN, and `note` says why, where heads do not add their attention times values to
    the residual stream, which a pass over a few tokens shows.

    Raises:
        ValueError: If weights, or products of them, are not finite.

    Examples:
        >>> scores = il.detectors.copying_from_weights(il.load("toy-2l"))
        >>> [(str(head), round(score, 2)) for head, score in scores.top(1)]
        [('0.7', 0.87)]
    """
    reason = unlike_written(model, scaled=True)
    if reason is not None:
        return nothing_copied(model, COPYING_WEIGHTS, reason)
    values = remembered(model, COPYING_WEIGHTS.name, lambda: _shares_of_eigenvalues(model))
    name, unit = COPYING_WEIGHTS.name, COPYING_WEIGHTS.unit
    return HeadScores(name=name, values=values.clone(), unit=unit, ceiling=1.0)


def nothing_copied(model: Model, detector: CopyingDetector, reason: str) -> HeadScores:
    """Copying scores of a model in which they mean nothing: NaN, and why."""
    sizes = shape(model)
    values = torch.zeros(sizes.n_layers, sizes.n_heads, dtype=torch.float32, device="cpu")
    return unmeasured(HeadScores(detector.name, values, unit=detector.unit, ceiling=1.0), reason)


def _shares_of_eigenvalues(model: Model) -> Float[Tensor, "layer head"]:
    """The sum of the eigenvalues of each head's circuit over that of their sizes."""
    sizes = shape(model)
    # d_model x d_model once, rather than d_vocab wide for every head
    token_overlap = _centred_unembedding(model) @ embedding(model).float()
    values = torch.zeros(sizes.n_layers, sizes.n_heads, dtype=torch.float32, device="cpu")
    for layer in range(sizes.n_layers):
        W_O = output_weights(model, layer).float()
        circuits = W_O @ token_overlap @ value_weights(model, layer).float()
        if not torch.isfinite(circuits).all():  # on which LAPACK may end the process
            check_weights(model)
            raise ValueError(
                f"expected finite products of weights, got others in layer {layer}; load the "
                "model in float32"
            )
        eigenvalues = torch.linalg.eigvals(circuits.cpu())
        magnitude = eigenvalues.abs().sum(-1)
        ratio = eigenvalues.real.sum(-1) / magnitude.where(magnitude > 0, 1.0)
        values[layer] = ratio
    return values
