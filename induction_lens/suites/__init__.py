"""Checkpoints and families of models that others trained."""

from induction_lens.suites.checkpoints import Checkpoint
from induction_lens.suites.comparison import Compared, Comparison, Difference
from induction_lens.suites.family import Family, family
from induction_lens.suites.integrity import LeftOut
from induction_lens.suites.member import Member
from induction_lens.suites.schemes import SCHEMES, ByStep, ByTokens, Label, Scheme
from induction_lens.suites.suite import Suite, suite, suite_names
from induction_lens.suites.trend import Trend, trend

__all__ = [
    "SCHEMES",
    "ByStep",
    "ByTokens",
    "Checkpoint",
    "Compared",
    "Comparison",
    "Difference",
    "Family",
    "Label",
    "LeftOut",
    "Member",
    "Scheme",
    "Suite",
    "Trend",
    "family",
    "suite",
    "suite_names",
    "trend",
]
