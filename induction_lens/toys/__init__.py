"""Small models to train and take apart, in either TransformerLens class, and their snapshots."""

from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.toys.snapshots import Snapshot, list_snapshots, read_snapshot, save

__all__ = ["Snapshot", "ToyConfig", "build_toy", "list_snapshots", "read_snapshot", "save"]
