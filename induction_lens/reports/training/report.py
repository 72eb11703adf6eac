"""From runs to a page: reads or tracks them, analyses them, and writes what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from induction_lens import checks
from induction_lens.files import tidy
from induction_lens.plots.saving import Format, check_format
from induction_lens.reports.pages import page_folder, save_pictures, write_page
from induction_lens.reports.training import page, sentences
from induction_lens.reports.training.findings import TrainingFindings, find
from induction_lens.reports.training.runs import shipped_runs
from induction_lens.style import Theme, themed
from induction_lens.tracking.runs import TrackedRun, read_run
from induction_lens.tracking.trajectory import Trajectory
from induction_lens.views.page import framed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Run = str | Path | Trajectory


@dataclass(frozen=True, eq=False)
class TrainingReport(TrainingFindings):
    """Findings about training that can be read: as words, as a page, in a notebook, as files."""

    @property
    def headline(self) -> str:
        """One line: in which models in-context learning appears abruptly."""
        return sentences.headline(self)

    @property
    def summary(self) -> str:
        """What the runs say about the paper's first three arguments, in plain sentences."""
        return "\n\n".join(sentences.summary(self))

    def to_frame(self) -> pd.DataFrame:
        """One row per snapshot of each run: `model`, `run`, `seed`, and `Trajectory.to_frame`."""
        import pandas as pd

        frames = []
        for model in self.models:
            for run in model.model.trajectories:
                frame = run.to_frame()
                for name, value in (("seed", run.seed), ("run", run.name), ("model", model.label)):
                    frame.insert(0, name, value)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def edges_frame(self) -> pd.DataFrame:
        """One row per snapshot and head of each run whose edges were measured: `model`, `run`,
        `seed`, and `Trajectory.edges_frame`; empty where none was."""
        import pandas as pd

        frames = []
        for model in self.models:
            for run in model.model.trajectories:
                frame = run.edges_frame()
                for name, value in (("seed", run.seed), ("run", run.name), ("model", model.label)):
                    frame.insert(0, name, value)
                frames.append(frame)
        frames = [frame for frame in frames if not frame.empty]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def to_html(self) -> str:
        """The page: one self-contained HTML document that needs no network."""
        return page.render(self)

    def plot(self, name: str = "icl", *, theme: Theme | None = None) -> go.Figure:
        """One of the page's figures.

        Args:
            name: Of all models `icl`, `windows` or `pca`; or with a panel for each model
                `induction`, `effects`, `losses`, `derivative`, and where it was measured `smear`,
                `composition` or `matching`.
            theme: `light` or `dark`; None: legible on both, with a transparent background.

        Raises:
            ValueError: There is no such figure or theme, or the runs have nothing for it.
        """
        return themed(page.draw(name, self), theme)

    def save(self, folder: str | Path, *, figures: Format | None = None) -> Path:
        """Write the page and its data; each file appears whole or not at all.

        The files are `index.html`, and `models.csv`, `runs.csv`, `snapshots.csv`; `edges.csv` where
        edges were measured; and `knockouts.csv` and `ngrams.csv` where the ends of runs were.

        Args:
            folder: Where to.
            figures: Write the figures too, into `figures`, as `svg`, `pdf` or `png`. Needs the
                extra `figures`, and a browser.

        Returns:
            The path of `index.html`.

        Raises:
            ValueError: Nothing can be written to `folder`, or it is a file; or figures cannot be
                written.
        """
        folder = page_folder(folder)
        written = None if figures is None else check_format("figures", figures)
        tidy(folder)
        frames = {
            "models": self.models_frame(),
            "runs": self.runs_frame(),
            "snapshots": self.to_frame(),
            "edges": self.edges_frame(),
            "knockouts": self.knockouts_frame(),
            "ngrams": self.ngrams_frame(),
        }
        if written is not None:
            save_pictures(page.figures(self), folder, written)
        tables = {name: None if frame.empty else frame for name, frame in frames.items()}
        return write_page(folder, self.to_html(), tables)

    def __repr__(self) -> str:
        """What the runs say, in plain sentences."""
        return f"TrainingReport: {self.headline}\n\n{self.summary}"

    def _repr_html_(self) -> str:
        return framed(page.render(self, static=True), self.headline)


def training_report(
    runs: Iterable[Run] | Run | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> TrainingReport:
    """Say what training runs show about the phase change and the paper's first three arguments.

    Runs of one model that differ in their seed alone are taken together. Runs that were not
    measured yet are measured first, into their folder `tracked`.

    Args:
        runs: Trajectories, their Parquet files, or folders of runs; None: those that ship with the
            package.
        n_resamples: Bootstrap resamples, and simulations of the tests.
        seed: Seed of both.
        progress: Show a bar on stderr where a run is measured.

    Raises:
        ValueError: There is no run; two have the same model and seed; those of one model were not
            measured on the same tokens; or one has too few snapshots.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> page = il.reports.training_report([run], n_resamples=100)
        >>> print(page.headline)
        2 layers: in-context learning appears abruptly
        >>> page.save("training-report").name
        'index.html'
    """
    n_resamples = checks.resamples(n_resamples)
    seed = checks.seed(seed)
    progress = checks.flag("progress", progress)
    if runs is None:
        tracked = shipped_runs()
    else:
        one = isinstance(runs, (str, Path, Trajectory))
        given = [runs] if one else checks.several("runs", runs)
        tracked = [
            TrackedRun(run) if isinstance(run, Trajectory) else read_run(run, progress=progress)
            for run in given
        ]
    found = find(tracked, n_resamples=n_resamples, seed=seed)
    return TrainingReport(**{field.name: getattr(found, field.name) for field in fields(found)})
