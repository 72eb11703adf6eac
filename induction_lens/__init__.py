"""Does this transformer have induction heads, and does its in-context learning depend on them?"""

from induction_lens.ablation import AblationStudy, ablate, ablate_each_head, control_sets
from induction_lens.clamp import Clamp
from induction_lens.detectors import DETECTORS, score_heads, target_mask
from induction_lens.dynamics import co_occurrence, loss_derivative, loss_pca, phase_change
from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.knockout import METHODS, knocked_out
from induction_lens.loading import load, zoo
from induction_lens.metrics import Estimate, icl_score, per_token_loss
from induction_lens.models import InterventionError, ordinary_ids
from induction_lens.ngrams import count_ngrams, ngram_control
from induction_lens.report import Report, report
from induction_lens.reproduce import make_runs, reproduce
from induction_lens.tokens import repeated_random_tokens, shuffled, text_tokens
from induction_lens.toy import ToyConfig, build_toy
from induction_lens.track import track
from induction_lens.train import TrainingRun, train
from induction_lens.training_report import TrainingReport, training_report
from induction_lens.trajectory import Trajectory

__version__ = "0.1.0"

__all__ = [
    "DETECTORS",
    "METHODS",
    "AblationStudy",
    "Clamp",
    "Estimate",
    "Head",
    "HeadScores",
    "InterventionError",
    "Report",
    "ScoreTable",
    "ToyConfig",
    "TrainingReport",
    "TrainingRun",
    "Trajectory",
    "__version__",
    "ablate",
    "ablate_each_head",
    "build_toy",
    "co_occurrence",
    "control_sets",
    "count_ngrams",
    "icl_score",
    "knocked_out",
    "load",
    "loss_derivative",
    "loss_pca",
    "make_runs",
    "ngram_control",
    "ordinary_ids",
    "per_token_loss",
    "phase_change",
    "repeated_random_tokens",
    "report",
    "reproduce",
    "score_heads",
    "shuffled",
    "target_mask",
    "text_tokens",
    "track",
    "train",
    "training_report",
    "zoo",
]
