"""The loss of runs on a language over training, beside what is known of the language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from induction_lens import checks
from induction_lens.style import CATEGORICAL, CONTROL, TEXT, Theme, new_figure, plain, themed
from induction_lens.tracking.language_runs import LanguageTrajectory

if TYPE_CHECKING:
    import plotly.graph_objects as go


def plot_gaps(
    runs: Mapping[str, Sequence[LanguageTrajectory]] | LanguageTrajectory,
    kind: str = "all",
    *,
    theme: Theme | None = None,
) -> go.Figure:
    """The loss of runs beyond that of the language's best predictor, over training.

    A line for each run; runs of one name have one colour, and the first name is grey where there
    are others. Dotted: other predictors of the language, such as one that counts.

    Args:
        runs: Runs on one language by what they are called, such as the seeds of a preset; or one.
        kind: Of which kind of token.
        theme: As in every `plot()`.

    Raises:
        ValueError: If there is no such kind or theme, or no run.

    Examples:
        >>> run = il.training.train_language("markov", "chains", n_steps=8, progress=False)
        >>> language = il.training.LANGUAGE_PRESETS["markov"].language
        >>> found = il.tracking.track_language(run, language, n_sequences=8)
        >>> figure = il.tracking.plot_gaps({"Markov chains": [found]})
        >>> figure.data[0].y[0] > figure.data[0].y[-1] > 0
        True
    """
    import plotly.graph_objects as go

    named = {"model": [runs]} if isinstance(runs, LanguageTrajectory) else dict(runs)
    every = [run for some in named.values() for run in some]
    if not every:
        raise checks.refuse("runs", "at least one run", runs, "pass some", given="none")
    figure = new_figure([], height=320)
    colors = (CONTROL, *CATEGORICAL) if len(named) > 1 else CATEGORICAL
    for place, (name, some) in enumerate(named.items()):
        for run in some:
            figure.add_trace(
                go.Scatter(
                    x=run.steps.tolist(),
                    y=run.gap(kind).tolist(),
                    name=name,
                    legendgroup=name,
                    showlegend=run is some[0],
                    mode="lines",
                    line={"color": colors[place % len(colors)], "width": 1.8},
                    hovertemplate=f"{plain(name)}, seed {run.seed}, update %{{x}}: %{{y:.3f}}"
                    "<extra></extra>",
                )
            )
    for predictor, gap in every[0].reference_gaps(kind).items():
        figure.add_hline(
            gap,
            line={"color": TEXT, "width": 1, "dash": "dot"},
            annotation={"text": plain(predictor), "font": {"color": TEXT}},
        )
    figure.update_xaxes(title_text="updates", rangemode="tozero")
    figure.update_yaxes(title_text="loss beyond the optimum, nats", rangemode="tozero")
    return themed(figure, theme)
