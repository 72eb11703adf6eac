"""Several training runs on one page: the phase change, and the paper's first three arguments."""

from induction_lens.reports.training.report import TrainingReport, training_report
from induction_lens.reports.training.runs import shipped_runs
from induction_lens.tracking.runs import TrackedRun, read_run

__all__ = ["TrackedRun", "TrainingReport", "read_run", "shipped_runs", "training_report"]
