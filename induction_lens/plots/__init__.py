"""Figures: each function takes results and returns a plotly figure; none sees a model."""

from induction_lens.plots.edges import edges_over_training
from induction_lens.plots.multiples import small_multiples
from induction_lens.plots.results import (
    attention_map,
    binned,
    cost_by_position,
    head_effects,
    head_map,
    icl_scores,
    loss_by_position,
)
from induction_lens.plots.saving import save_figure
from induction_lens.plots.sizes import against_size
from induction_lens.plots.training import (
    effects_over_training,
    icl_over_training,
    induction_over_training,
    loss_curves,
    loss_derivative_map,
    pca_paths,
    smear_over_training,
    window_chart,
)
from induction_lens.style import (
    CLEAN,
    CONTROL,
    DIVERGING,
    METHOD_COLORS,
    SEQUENTIAL,
    Look,
    themed,
)

__all__ = [
    "CLEAN",
    "CONTROL",
    "DIVERGING",
    "METHOD_COLORS",
    "SEQUENTIAL",
    "Look",
    "against_size",
    "attention_map",
    "binned",
    "cost_by_position",
    "edges_over_training",
    "effects_over_training",
    "head_effects",
    "head_map",
    "icl_over_training",
    "icl_scores",
    "induction_over_training",
    "loss_by_position",
    "loss_curves",
    "loss_derivative_map",
    "pca_paths",
    "save_figure",
    "small_multiples",
    "smear_over_training",
    "themed",
    "window_chart",
]
