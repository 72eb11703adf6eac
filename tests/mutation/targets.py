"""Which tests have to notice a fault in which module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A module, and the test files that run on each of its mutants, quick ones first."""

    tests: tuple[str, ...]
    """Files in `tests/`."""
    leave_out: str = ""
    """Names, as for `pytest -k`, of tests that are too slow to be run so often."""


_VALUES = ("models/test_mutants.py", "detectors/test_mutants_of_heads.py")
_SLOW = "share_a_run or different_lengths or interrupt or threads or gpt2 or neox"
_NOT_STUDIES = "naive_one or either_head or survives or freezing or text or takes"

TARGETS = {
    "estimates.py": Target((*_VALUES, "test_estimates.py")),
    "metrics.py": Target(
        (*_VALUES, "test_metrics.py", "models/test_padding.py"),
        leave_out=f"{_SLOW} or scores_are or studies_are or means_leave or looks_padded",
    ),
    "ablation/study.py": Target(
        (*_VALUES, "ablation/test_ablation.py"),
        leave_out=f"{_SLOW} or {_NOT_STUDIES} or llama or dropped or drops",
    ),
    "ablation/sets.py": Target(
        (*_VALUES, "ablation/test_ablation.py"),
        leave_out=f"{_SLOW} or {_NOT_STUDIES} or llama or dropped or drops",
    ),
    "ablation/methods.py": Target(
        (*_VALUES, "ablation/test_methods.py", "ablation/test_ablation.py"), leave_out=_SLOW
    ),
    "ablation/outputs.py": Target(
        (*_VALUES, "ablation/test_methods.py", "ablation/test_ablation.py"), leave_out=_SLOW
    ),
    "ablation/context.py": Target(
        (*_VALUES, "ablation/test_ablation.py", "ablation/test_interventions.py"),
        leave_out=f"{_SLOW} or llama or a_study or rank or controls or each_head or part or modes",
    ),
    "ablation/hooks.py": Target(
        (*_VALUES, "ablation/test_ablation.py", "ablation/test_interventions.py"),
        leave_out=f"{_SLOW} or llama or a_study or rank or controls or each_head or part or modes",
    ),
    "detectors/attention.py": Target(
        (*_VALUES, "detectors/test_streaming.py", "detectors/test_detectors.py"),
        leave_out=f"{_SLOW} or copying or eigenvalues or cannot_serve",
    ),
    "detectors/copying.py": Target(
        (*_VALUES, "detectors/test_unmeasured.py", "detectors/test_detectors.py"),
        leave_out=f"{_SLOW} or detect_head or loop_over_positions",
    ),
    "detectors/measure.py": Target(
        (*_VALUES, "detectors/test_unmeasured.py", "detectors/test_detectors.py"),
        leave_out=f"{_SLOW} or detect_head or eigenvalues or over_every_path",
    ),
    "dynamics/change.py": Target(
        (*_VALUES, "dynamics/test_dynamics.py"),
        leave_out="smooth or abrupt or as_often or noisy or pca or derivative or order or ruptures",
    ),
}
"""By the module's path in the package."""
