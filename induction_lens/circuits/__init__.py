"""Circuits: how heads compose, read from weights and from runs."""

from induction_lens.circuits.composition import (
    Z_THRESHOLD,
    ComposedPair,
    Composition,
    composition,
    random_composition,
)
from induction_lens.circuits.material import Material
from induction_lens.circuits.other_runs import Nothing, OtherRun, OtherTokens, PreviousTokenChanged
from induction_lens.circuits.patching import Edge
from induction_lens.circuits.paths import PatchedEdge, PathPatching, path_patch
from induction_lens.circuits.shares import Share
from induction_lens.circuits.weights import (
    HeadWeights,
    check_bilinear,
    head_weights,
    norm_scale,
    read_width,
)

__all__ = [
    "Z_THRESHOLD",
    "ComposedPair",
    "Composition",
    "Edge",
    "HeadWeights",
    "Material",
    "Nothing",
    "OtherRun",
    "OtherTokens",
    "PatchedEdge",
    "PathPatching",
    "PreviousTokenChanged",
    "Share",
    "check_bilinear",
    "composition",
    "head_weights",
    "norm_scale",
    "path_patch",
    "random_composition",
    "read_width",
]
