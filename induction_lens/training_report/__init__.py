"""Several training runs on one page: the phase change, and the paper's first three arguments."""

from induction_lens.training_report.runs import TrackedRun, read_run, shipped_runs
from induction_lens.training_report.story import TrainingReport, training_report

__all__ = ["TrackedRun", "TrainingReport", "read_run", "shipped_runs", "training_report"]
