"""Does this transformer have induction heads, and does its in-context learning depend on them?

The main road is here; the rest is one level down: `il.detectors`, `il.ablation`, `il.circuits`,
`il.tasks`, `il.toys`, `il.languages`, `il.training`, `il.tracking`, `il.suites`, `il.dynamics`,
`il.reports`, `il.plots`, `il.views`, `il.inputs`, `il.models`.
"""

from induction_lens import (
    ablation,
    circuits,
    detectors,
    dynamics,
    inputs,
    languages,
    models,
    plots,
    reports,
    results,
    suites,
    tasks,
    toys,
    tracking,
    training,
    views,
)
from induction_lens.ablation import AblationStudy, ablate, ablate_each_head, knocked_out
from induction_lens.detectors import score_heads
from induction_lens.estimates import Estimate
from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.inputs import repeated_random_tokens, sample_text, text_tokens
from induction_lens.loading import load, zoo
from induction_lens.metrics import icl_score, per_token_loss
from induction_lens.models import InterventionError
from induction_lens.progress import show_progress
from induction_lens.reports import Report, compare, report
from induction_lens.tracking import track
from induction_lens.training import train

__version__ = "0.1.0"

__all__ = [
    "AblationStudy",
    "Estimate",
    "Head",
    "HeadScores",
    "InterventionError",
    "Report",
    "ScoreTable",
    "__version__",
    "ablate",
    "ablate_each_head",
    "ablation",
    "circuits",
    "compare",
    "detectors",
    "dynamics",
    "icl_score",
    "inputs",
    "knocked_out",
    "languages",
    "load",
    "models",
    "per_token_loss",
    "plots",
    "repeated_random_tokens",
    "report",
    "reports",
    "results",
    "sample_text",
    "score_heads",
    "show_progress",
    "suites",
    "tasks",
    "text_tokens",
    "toys",
    "track",
    "tracking",
    "train",
    "training",
    "views",
    "zoo",
]
