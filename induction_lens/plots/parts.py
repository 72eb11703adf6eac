"""Parts of figures over training: what a run is checked for, and the window of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from induction_lens import checks
from induction_lens.dynamics import PhaseChange
from induction_lens.style import translucent
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go


def check_run(run: object) -> None:
    """Check that this is one.

    Raises:
        ValueError: It is not.
    """
    checks.instance("run", run, Trajectory, "read one with Trajectory.read")


def shade(figure: go.Figure, change: PhaseChange, *, color: str) -> None:
    """Shade the window of a change, where there is one."""
    if change.onset and change.end:
        figure.add_vrect(
            x0=change.onset.value,
            x1=change.end.value,
            fillcolor=translucent(color),
            line_width=0,
            layer="below",
        )
