"""What happens in the course of training: analyses over `Trajectory` objects."""

from induction_lens.dynamics.change import Interval, PhaseChange, phase_change
from induction_lens.dynamics.cooccurrence import CoOccurrence, co_occurrence
from induction_lens.dynamics.losses import (
    LossDerivative,
    LossPCA,
    ModelOrder,
    loss_derivative,
    loss_pca,
    model_order,
)

__all__ = [
    "CoOccurrence",
    "Interval",
    "LossDerivative",
    "LossPCA",
    "ModelOrder",
    "PhaseChange",
    "co_occurrence",
    "loss_derivative",
    "loss_pca",
    "model_order",
    "phase_change",
]
