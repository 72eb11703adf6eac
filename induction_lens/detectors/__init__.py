"""Detectors: what a head attends to, and what it copies."""

from induction_lens.detectors import published, token_copying
from induction_lens.detectors.aimed import Aim, attention_on_aims
from induction_lens.detectors.attention import TargetMass, target_mask
from induction_lens.detectors.copying import CopyingMass, copying_from_weights
from induction_lens.detectors.detector import AttentionDetector, CopyingDetector, Detector
from induction_lens.detectors.kinds import (
    NGRAM,
    AntiCopyingHeads,
    HeadKind,
    InductionHeads,
    NGramHeads,
    TokenCopyingHeads,
)
from induction_lens.detectors.measure import Measure, measure
from induction_lens.detectors.registry import BUILT_IN, DETECTORS, INDUCTION, own_detectors
from induction_lens.detectors.scoring import prompts, score_heads

__all__ = [
    "BUILT_IN",
    "DETECTORS",
    "INDUCTION",
    "NGRAM",
    "Aim",
    "AntiCopyingHeads",
    "AttentionDetector",
    "CopyingDetector",
    "CopyingMass",
    "Detector",
    "HeadKind",
    "InductionHeads",
    "Measure",
    "NGramHeads",
    "TargetMass",
    "TokenCopyingHeads",
    "attention_on_aims",
    "copying_from_weights",
    "measure",
    "own_detectors",
    "prompts",
    "published",
    "score_heads",
    "target_mask",
    "token_copying",
]
