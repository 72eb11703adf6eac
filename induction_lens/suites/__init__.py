"""Checkpoints and families of models that others trained."""

from induction_lens.suites.checkpoints import Checkpoint
from induction_lens.suites.integrity import LeftOut
from induction_lens.suites.schemes import SCHEMES, ByStep, ByTokens, Label, Scheme
from induction_lens.suites.suite import Suite, suite, suite_names

__all__ = [
    "SCHEMES",
    "ByStep",
    "ByTokens",
    "Checkpoint",
    "Label",
    "LeftOut",
    "Scheme",
    "Suite",
    "suite",
    "suite_names",
]
