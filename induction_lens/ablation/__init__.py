"""Knocking heads out at test time, and what that does to losses and in-context learning."""

from induction_lens.ablation.context import knocked_out
from induction_lens.ablation.controls import control_sets
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.methods import (
    METHODS,
    AblationMethod,
    Mean,
    PatternPreserving,
    Place,
    Resample,
    Zero,
)
from induction_lens.ablation.sets import ablate, ablate_by_methods
from induction_lens.ablation.study import AblationStudy, Control

__all__ = [
    "METHODS",
    "AblationMethod",
    "AblationStudy",
    "Control",
    "Mean",
    "PatternPreserving",
    "Place",
    "Resample",
    "Zero",
    "ablate",
    "ablate_by_methods",
    "ablate_each_head",
    "control_sets",
    "knocked_out",
]
