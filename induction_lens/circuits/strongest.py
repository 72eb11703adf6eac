"""The strongest edge into each head, from the weights: a few numbers a head, for every snapshot."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits.composition import composition
from induction_lens.circuits.matching import summed_positivity
from induction_lens.models import Model, shape

EdgeMeasure = Literal["k_composition", "k_z", "k_from", "matching"]
EDGE_MEASURES: tuple[EdgeMeasure, ...] = get_args(EdgeMeasure)
"""What is measured of each head:

- `k_composition`: its highest K-composition with an earlier head, minus that of random matrices;
- `k_z`: how many standard deviations its square lies above that of shuffled partners;
- `k_from`: which earlier head that is, `layer * n_heads + head`;
- `matching`: the positivity of its QK circuit through all earlier heads together, weighted by how
  much they attend to the previous token (`QKMatching.summed_positivity`).
"""


def strongest_edges(
    model: Model, previous_token: Float[Tensor, "layer head"]
) -> dict[EdgeMeasure, Float[Tensor, "layer head"]]:
    """The strongest edge into the keys of each head, and how well it matches tokens through it.

    NaN in layer 0, which no head is before; and everywhere in models whose weights do not say it
    (`check_bilinear`; of `matching` alone where the first MLP cannot be run by itself).

    Args:
        model: A hooked model.
        previous_token: Each head's attention to the previous token, as `score_heads` gives it.

    Raises:
        ValueError: If there is not one number for each head.

    Examples:
        >>> model = il.load("toy-2l-narrow")
        >>> scores = il.score_heads(model, detectors=["previous_token"])["previous_token"].values
        >>> edges = il.circuits.strongest_edges(model, scores)
        >>> print(f"{edges['k_composition'][1, 1]:.3f} from {edges['k_from'][1, 1]:.0f}")
        0.082 from 1
    """
    checks.model(model)
    sizes = shape(model)
    heads = (sizes.n_layers, sizes.n_heads)
    remedy = "pass the `values` of its previous-token scores"
    checks.tensor("previous_token", previous_token, axes=["layer", "head"], remedy=remedy)
    if tuple(previous_token.shape) != heads:
        condition = f"a number for each of {heads[0]} × {heads[1]} heads"
        raise checks.refuse("previous_token", condition, previous_token, remedy)
    unknown = torch.full(heads, math.nan, dtype=torch.float32, device="cpu")
    found: dict[EdgeMeasure, Tensor] = {name: unknown.clone() for name in EDGE_MEASURES}
    if sizes.n_layers < 2:
        return found
    try:
        composed = composition(model)
        found["matching"] = summed_positivity(model, previous_token)
    except ValueError:
        return found
    by_pair = composed.scores[1].flatten(2)
    known = by_pair.nan_to_num(nan=-math.inf)
    best = known.max(dim=-1)
    there = best.values > -math.inf
    found["k_composition"] = best.values.where(there, math.nan)
    z = composed.z_shuffled[1].flatten(2).gather(-1, best.indices[..., None])[..., 0]
    found["k_z"] = z.where(there, math.nan)
    found["k_from"] = best.indices.float().where(there, math.nan)
    return found
