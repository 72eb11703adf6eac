"""Small multiples hold what the single figures hold, each in a place of its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from induction_lens import plots
from induction_lens.plots.multiples import lay_out
from tests.plots.test_plots_training import FOUND, _run

draw: Any = plots


def _figures(n=5):
    return {f"model {i}": draw.induction_over_training(_run(i), FOUND) for i in range(n)}


def test_every_trace_is_there_on_axes_of_its_own():
    single = _figures()
    together = draw.small_multiples(single, n_columns=2)
    place = 0
    for index, figure in enumerate(single.values()):
        name = "" if index == 0 else str(index + 1)
        for trace in figure.data:
            moved = together.data[place]
            assert (moved.xaxis, moved.yaxis) == (f"x{name}", f"y{name}")
            assert (list(moved.x), list(moved.y)) == (list(trace.x), list(trace.y))
            assert (moved.line.color, moved.showlegend) == (trace.line.color, False)
            place += 1
        window = together.layout.shapes[index]
        assert (window.x0, window.x1, window.xref, window.yref) == (
            *(10.0, 100.0),
            *(f"x{name}", f"y{name} domain"),
        )
    assert place == len(together.data)
    assert [note.text for note in together.layout.annotations] == list(single)


@pytest.mark.parametrize("n_columns", [1, 2, 3, 9])
def test_places_do_not_touch_and_titles_stand_at_the_edges(n_columns):
    together = draw.small_multiples(_figures())
    lay_out(together, n_columns)
    axes = [(together.layout[f"xaxis{i}"], together.layout[f"yaxis{i}"]) for i in ("", 2, 3, 4, 5)]
    columns = min(n_columns, 5)
    for number, (x, y) in enumerate(axes):
        assert 0 <= x.domain[0] < x.domain[1] <= 1
        assert 0 <= y.domain[0] < y.domain[1] <= 1
        assert bool(y.title.text) == (number % columns == 0)
        assert bool(x.title.text) == (number + columns >= 5)
    for (left, _), (right, _) in pairwise(axes[:columns]):
        assert left.domain[1] < right.domain[0]
    for (_, above), (_, below) in zip(axes, axes[columns:], strict=False):
        assert below.domain[1] < above.domain[0]


def test_colours_reach_as_far_as_the_widest():
    single = {
        name: draw.effects_over_training(_run(seed), method="mean")
        for seed, name in enumerate(("one", "two"))
    }
    single["two"].layout.coloraxis.cmax = 3.0
    together = draw.small_multiples(single)
    assert together.layout.coloraxis.cmax == 3.0
    assert together.layout.meta["scales"] == {"coloraxis": "sequential"}


def test_a_second_axis_stays_beside_its_first():
    single = {str(i): draw.edges_over_training(_run(i, edges=True)) for i in range(2)}
    together = draw.small_multiples(single)
    beside = [trace for trace in together.data if trace.name == "ICL score"]
    assert [trace.yaxis for trace in beside] == ["y1000", "y1001"]
    assert [together.layout[f"yaxis{n}"].overlaying for n in (1000, 1001)] == ["y", "y2"]
    assert torch.isfinite(torch.tensor(beside[1].y)).all()


def test_titles_are_text_and_nothing_is_no_figure():
    together = draw.small_multiples({"<b>a</b> & b": _figures(1)["model 0"]})
    assert together.layout.annotations[0].text == "&lt;b&gt;a&lt;/b&gt; &amp; b"
    with pytest.raises(ValueError, match="expected figures to be at least one figure"):
        draw.small_multiples({})
