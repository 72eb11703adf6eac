"""Figures of families: what is measured of each model, against its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from induction_lens import checks
from induction_lens.suites.drawing import size_figure
from induction_lens.suites.family import QUANTITIES, Family

if TYPE_CHECKING:
    import plotly.graph_objects as go


def against_size(family: Family, quantity: str) -> go.Figure:
    """A quantity of every model, with its interval where it has one, against the parameters.

    Args:
        family: The models.
        quantity: A name in `suites.family.QUANTITIES`.

    Raises:
        ValueError: There is no such quantity.

    Examples:
        >>> found = il.suites.family(["toy-1l", "toy-2l"], n_sequences=8, n_controls=2)
        >>> il.plots.against_size(found, "loss").layout.yaxis.title.text
        'loss, nats'
    """
    checks.instance("family", family, Family, "make one with suites.family")
    checks.one_of("quantity", quantity, QUANTITIES)
    words, unit = QUANTITIES[quantity]
    return size_figure(family.to_frame(), quantity, words=words, unit=unit)
