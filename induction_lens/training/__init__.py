"""Training toy models: the loop, what is cut in the course of it, and the recipes that ship."""

from induction_lens.training.clamp import Clamp
from induction_lens.training.language_presets import (
    LANGUAGE_PRESETS,
    LanguagePreset,
    language_batches,
    train_language,
)
from induction_lens.training.loop import TrainingRun, snapshot_steps, train
from induction_lens.training.loss_masks import Hapax, LossMask
from induction_lens.training.presets import (
    ALL_PRESETS,
    FAMILY_PRESETS,
    PHASE_PRESETS,
    PRESETS,
    Preset,
    train_preset,
)

__all__ = [
    "ALL_PRESETS",
    "FAMILY_PRESETS",
    "LANGUAGE_PRESETS",
    "PHASE_PRESETS",
    "PRESETS",
    "Clamp",
    "Hapax",
    "LanguagePreset",
    "LossMask",
    "Preset",
    "TrainingRun",
    "language_batches",
    "snapshot_steps",
    "train",
    "train_language",
    "train_preset",
]
