"""Circuits: how heads compose, read from weights and from runs."""

from induction_lens.circuits.before_after import BeforeAndAfter, before_and_after
from induction_lens.circuits.circuit import Circuit, circuit
from induction_lens.circuits.composition import (
    Z_THRESHOLD,
    ComposedPair,
    Composition,
    composition,
    random_composition,
)
from induction_lens.circuits.cuts import Changed, EdgeCuts, cut_edge
from induction_lens.circuits.edges import (
    CompositionCut,
    Keys,
    Masked,
    RandomKeys,
    TargetKeys,
    Zeroed,
)
from induction_lens.circuits.ideal import (
    IdealInduction,
    IdealPattern,
    IdealPreviousToken,
    ideal_pattern,
)
from induction_lens.circuits.matching import MatchingPair, QKMatching, qk_matching
from induction_lens.circuits.material import Material
from induction_lens.circuits.other_runs import Nothing, OtherRun, OtherTokens, PreviousTokenChanged
from induction_lens.circuits.parts import Parts
from induction_lens.circuits.patching import Edge
from induction_lens.circuits.paths import PatchedEdge, PathPatching, path_patch
from induction_lens.circuits.shares import Share
from induction_lens.circuits.strongest import EDGE_MEASURES, strongest_edges
from induction_lens.circuits.terms import TermImportance, term_importance
from induction_lens.circuits.weights import HeadWeights, check_bilinear, head_weights, read_width

__all__ = [
    "EDGE_MEASURES",
    "Z_THRESHOLD",
    "BeforeAndAfter",
    "Changed",
    "Circuit",
    "ComposedPair",
    "Composition",
    "CompositionCut",
    "Edge",
    "EdgeCuts",
    "HeadWeights",
    "IdealInduction",
    "IdealPattern",
    "IdealPreviousToken",
    "Keys",
    "Masked",
    "MatchingPair",
    "Material",
    "Nothing",
    "OtherRun",
    "OtherTokens",
    "Parts",
    "PatchedEdge",
    "PathPatching",
    "PreviousTokenChanged",
    "QKMatching",
    "RandomKeys",
    "Share",
    "TargetKeys",
    "TermImportance",
    "Zeroed",
    "before_and_after",
    "check_bilinear",
    "circuit",
    "composition",
    "cut_edge",
    "head_weights",
    "ideal_pattern",
    "path_patch",
    "qk_matching",
    "random_composition",
    "read_width",
    "strongest_edges",
    "term_importance",
]
