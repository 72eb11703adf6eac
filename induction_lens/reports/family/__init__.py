"""The page about a family: the same measures of models of several sizes."""

from induction_lens.reports.family.page import save_family

__all__ = ["save_family"]
