"""What happens in the course of training: analyses over `Trajectory` objects."""

from induction_lens.dynamics.before_after import before_and_after_training
from induction_lens.dynamics.change import PhaseChange, phase_change
from induction_lens.dynamics.cooccurrence import CoOccurrence, co_occurrence
from induction_lens.dynamics.losses import (
    LossDerivative,
    LossPCA,
    ModelOrder,
    loss_derivative,
    loss_pca,
    model_order,
)
from induction_lens.dynamics.seeds import holm, mean_over_seeds, ratio_over_seeds

__all__ = [
    "CoOccurrence",
    "LossDerivative",
    "LossPCA",
    "ModelOrder",
    "PhaseChange",
    "before_and_after_training",
    "co_occurrence",
    "holm",
    "loss_derivative",
    "loss_pca",
    "mean_over_seeds",
    "model_order",
    "phase_change",
    "ratio_over_seeds",
]
