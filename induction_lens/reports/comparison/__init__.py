"""Models, reports and saved results beside each other, as data and as one page."""

from induction_lens.reports.comparison.comparing import compare
from induction_lens.reports.comparison.page import save_comparison

__all__ = ["compare", "save_comparison"]
