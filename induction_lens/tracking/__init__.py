"""Measuring a model over its training: snapshot by snapshot, and what its end depends on."""

from induction_lens.tracking.choice import chosen_steps
from induction_lens.tracking.engine import Engine
from induction_lens.tracking.experiment import make_runs
from induction_lens.tracking.language_drawing import plot_gaps
from induction_lens.tracking.language_runs import (
    LanguageTrajectory,
    language_detectors,
    track_language,
)
from induction_lens.tracking.moments import Moment, Trackable
from induction_lens.tracking.ngrams import (
    NgramControl,
    NgramTables,
    count_ngrams,
    gained_by_copying,
    ngram_control,
)
from induction_lens.tracking.ray_engine import RayEngine
from induction_lens.tracking.runs import TrackedRun, measured_run, read_run
from induction_lens.tracking.track import track
from induction_lens.tracking.trajectory import Trajectory

__all__ = [
    "Engine",
    "LanguageTrajectory",
    "Moment",
    "NgramControl",
    "NgramTables",
    "RayEngine",
    "Trackable",
    "TrackedRun",
    "Trajectory",
    "chosen_steps",
    "count_ngrams",
    "gained_by_copying",
    "language_detectors",
    "make_runs",
    "measured_run",
    "ngram_control",
    "plot_gaps",
    "read_run",
    "track",
    "track_language",
]
