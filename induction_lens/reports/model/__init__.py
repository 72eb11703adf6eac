"""The report: the whole story of one model, as data, as words and as one page."""

from induction_lens.reports.model.findings import Example, Findings
from induction_lens.reports.model.report import Report, report

__all__ = ["Example", "Findings", "Report", "report"]
