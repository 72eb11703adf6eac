"""Results as pages, words and files: of one model, of training runs, and of families."""

from induction_lens.reports.circuit import save_circuit
from induction_lens.reports.comparison import compare, save_comparison
from induction_lens.reports.dissociation import save_dissociation
from induction_lens.reports.family import save_family
from induction_lens.reports.model import Report, report
from induction_lens.reports.reproduce import reproduce
from induction_lens.reports.training import TrainingReport, training_report
from induction_lens.tracking import make_runs

__all__ = [
    "Report",
    "TrainingReport",
    "compare",
    "make_runs",
    "report",
    "reproduce",
    "save_circuit",
    "save_comparison",
    "save_dissociation",
    "save_family",
    "training_report",
]
