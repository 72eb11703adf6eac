"""When the edge of the induction circuit appears: over training, beside the ICL score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from induction_lens import checks
from induction_lens.dynamics import PhaseChange
from induction_lens.plots.parts import check_run, shade
from induction_lens.style import CLEAN, CONTROL, new_figure, tokens_axis
from induction_lens.tracking.drawing import add_heads, add_run, last_tokens, strong_heads
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go

Measure = Literal["k_composition", "matching"]
_TITLES: dict[Measure, str] = {
    "k_composition": "K-composition, strongest edge",
    "matching": "QK matching (positivity)",
}


def edges_over_training(
    run: Trajectory, change: PhaseChange | None = None, *, measure: Measure = "k_composition"
) -> go.Figure:
    """The strongest edge into the keys of each head over training, and the ICL score beside it.

    Heads that end as induction heads are in colour; the ICL score is the dotted blue line, on the
    axis to the right.

    Args:
        run: One run, in which edges were measured (`Trajectory.has_edges`).
        change: The window to shade.
        measure: `k_composition`, minus that of random matrices, or `matching`.

    Raises:
        ValueError: This is no run, its edges were not measured, or there is no such measure.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> run.has_edges  # the runs that ship were tracked before edges were
        False
    """
    check_run(run)
    checks.one_of("measure", measure, list(_TITLES))
    if not run.has_edges:
        raise ValueError(
            f"expected a run whose edges were measured, got {run.name!r}, which has none; track it "
            "again into another folder"
        )
    figure = new_figure([], height=330)
    add_heads(figure, run, run.edges[measure].double(), strong=strong_heads(run))
    add_run(figure, run, run.icl.double().mean(1), name="ICL score", color=CLEAN)
    line = {"dash": "dot", "width": 1.8, "color": CLEAN}
    figure.data[-1].update(yaxis="y2", line=line)
    if change is not None:
        shade(figure, change, color=CONTROL)
    tokens_axis(figure, last_tokens(run))
    figure.update_yaxes(title_text=_TITLES[measure])
    right = {"overlaying": "y", "side": "right", "showgrid": False, "zeroline": False}
    figure.update_layout(yaxis2={**right, "title": {"text": "ICL score (nats)"}})
    return figure
