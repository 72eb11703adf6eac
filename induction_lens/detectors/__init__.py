"""Detectors: what a head attends to, and what it copies."""

from induction_lens.detectors.attention import AttentionDetector, TargetMass, target_mask
from induction_lens.detectors.copying import CopyingMass, copying_from_weights
from induction_lens.detectors.measure import Measure, measure
from induction_lens.detectors.scoring import DETECTORS, Detector, prompts, score_heads

__all__ = [
    "DETECTORS",
    "AttentionDetector",
    "CopyingMass",
    "Detector",
    "Measure",
    "TargetMass",
    "copying_from_weights",
    "measure",
    "prompts",
    "score_heads",
    "target_mask",
]
