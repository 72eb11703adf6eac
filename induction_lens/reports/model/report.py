"""The whole story of one model: which heads do induction, and what in-context learning owes them.

1. Score every head on repeated random tokens (previous-token on text, where there is a tokenizer).
2. Take the induction heads: above the threshold and above chance; if there is none, the
   strongest candidate; or the heads that the caller names.
3. Knock them out together by every method, beside random sets with as many heads in each layer.
4. Take the ICL score (Olsson et al. 2022, "Argument 1") as the paper defines it, at two positions,
   by matched targets there, and averaged over windows around them, all from the same losses.
5. Knock out each head alone, and look at the best head's attention on a short passage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from induction_lens.ablation.methods import METHODS, Methods
from induction_lens.circuits import Circuit
from induction_lens.detectors import AttentionDetector
from induction_lens.files import atomic_path, tidy, write_text
from induction_lens.heads import THRESHOLD, HeadLike
from induction_lens.inputs.tokens import Source
from induction_lens.models import Model, Tokens
from induction_lens.plots.saving import Format, check_format
from induction_lens.reports.circuit import circuit_tables, records
from induction_lens.reports.model import page, sentences
from induction_lens.reports.model.asked import Asked
from induction_lens.reports.model.evaluation import as_text, evaluation_data
from induction_lens.reports.model.findings import Findings, finite
from induction_lens.reports.model.making import findings
from induction_lens.reports.pages import page_folder, save_pictures, write_page
from induction_lens.results import Result, write
from induction_lens.style import Theme, themed
from induction_lens.views.page import framed

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Report(Findings, Result):
    """Findings that can be read: as words, as a page, in a notebook, as files."""

    inside: ClassVar[str] = "result"

    @property
    def headline(self) -> str:
        """One line: how many induction heads there are."""
        return sentences.headline(self)

    @property
    def summary(self) -> str:
        """The result in plain words, with its numbers."""
        return "\n\n".join(sentences.summary(self))

    def to_html(self) -> str:
        """The page: one self-contained HTML document that needs no network."""
        return page.render(self)

    def plot(self, name: str = "icl-windowed", *, theme: Theme | None = None) -> go.Figure:
        """One of the page's figures.

        Args:
            name: `icl-windowed`, `icl-matched` or `icl-paper`: the ICL score with and without the
                heads; `loss` and `cost` by position; `effects` of each head alone; `attention` of
                the best head; `map-` and the name of a detector: the scores of all heads.
            theme: `light` or `dark`; None: legible on both, with a transparent background.

        Raises:
            ValueError: There is no such figure or theme.
        """
        return themed(page.draw(name, self), theme)

    def save(self, folder: str | Path, *, figures: Format | None = None) -> Path:
        """Write the page and its data; each file appears whole or not at all.

        The files are `index.html`, `attention.html`, `heads.csv`, `icl.csv`, `losses.parquet`,
        `short_losses.parquet` and `report.json`; with a circuit also `circuit.svg`,
        `circuit_edges.csv`, `circuit_cuts.csv` and `circuit_sets.csv`. In the folder `result` is
        what `Report.load` reads.

        Args:
            folder: Where to.
            figures: Write the figures too, into `figures`, as `svg`, `pdf` or `png`. Needs the
                extra `figures`, and a browser.

        Returns:
            The path of `index.html`.

        Raises:
            ValueError: If `folder` is a file, or nothing can be written to it; or figures cannot be
                written.
        """
        folder = page_folder(folder)
        written = None if figures is None else check_format("figures", figures)
        tidy(folder)
        tables = {"heads": self.heads_frame(), "icl": self.to_frame()}
        frames = {"losses": self.losses_frame(), "short_losses": self.short_losses_frame()}
        for name, frame in frames.items():
            with atomic_path(folder / f"{name}.parquet") as path:
                frame.to_parquet(path, index=False, write_page_checksum=True)
        content = {"headline": self.headline, "summary": self.summary, **self.to_dict()}
        if self.circuit is not None:
            write_text(folder / "circuit.svg", self.circuit.svg())
            of_circuit = circuit_tables(self.circuit).items()
            tables |= {f"circuit_{name}": frame for name, frame in of_circuit}
            content["circuit"] = finite(records(self.circuit))
        write_text(folder / "report.json", json.dumps(content, indent=1, allow_nan=False))
        if self.attention is not None:
            self.attention.save(folder / page.ATTENTION)
        if written is not None:
            save_pictures(page.figures(self), folder, written)
        write(self, folder / self.inside)
        return write_page(folder, page.render(self, linked=True), tables)

    def __repr__(self) -> str:
        """The result in plain sentences."""
        return f"Report: {self.headline}\n\n{self.summary}"

    def _repr_html_(self) -> str:
        return framed(page.render(self, static=True), self.headline)


def report(
    model: Model,
    *,
    text: Tokens | Source | None = None,
    heads: Iterable[HeadLike] | HeadLike | None = None,
    detectors: Sequence[AttentionDetector] = (),
    threshold: float = THRESHOLD,
    methods: Methods = METHODS,
    n_controls: int = 20,
    control_every_method: bool = False,
    n_sequences: int | None = None,
    budget: int | float | str | None = None,
    precision: int | float | None = None,
    seed: int = 0,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    circuit: Circuit | bool = False,
    progress: bool = True,
) -> Report:
    """Find the induction heads of a model, knock them out, and say what that did.

    Args:
        model: A hooked model, from `load` or your own.
        text: What to measure losses on: sequences of token ids with BOS at position 0, in a tensor,
            an array or lists; what `sample_text` returns; or a source of text as it takes them;
            None: the held-out part of Python's standard library, or repeated random tokens where
            the model has no tokenizer.
        heads: Heads to knock out, instead of the induction heads that are found.
        detectors: Detectors of your own, to be shown beside the built-in ones: their scores in
            tables and files, and a map of heads with their title and caption.
        threshold: Induction score above which a head counts as an induction head.
        methods: Ablation methods: names, or objects such as `Mean(per_position=True)`.
        n_controls: Random control sets: this many, or all there are.
        control_every_method: Run control sets with every method, and not only with the main one
            (mean ablation where it is among them, else the first).
        n_sequences: Sequences to measure losses on, unless `text` holds tokens; None: 256, or 64
            with a model of GPT-2 small's size or larger.
        budget: About how long it may take: seconds, or `"2m"`. Fewer sequences and controls are
            then measured, as a pass that is timed first allows, and intervals are wider. Where the
            time is over before that, what is measured is reported.
        precision: Half the width, in nats, that the intervals of the change by each method (in
            windows) may have: it ends once they are so narrow, before all sequences are measured.
        seed: Seed of every draw.
        early: Position of the early token of the ICL score; None: the paper's 50, or as the
            context allows.
        late: Position of the late token; None: the paper's 500, or as the context allows.
        window: Positions on each side of both for the windowed ICL score; made smaller where the
            context is short.
        circuit: Whether to measure the induction circuit too, which takes about as long again and
            comes on top of a budget; or one that `circuits.circuit` found in this model.
        progress: Show a progress bar on stderr.

    Ctrl-C ends it, with a report of what was measured, once all is measured on 16 sequences.

    Raises:
        ValueError: For heads, detectors, methods, positions or text that do not fit the model, or
            an option that is out of range.

    Examples:
        >>> model = il.load("toy-2l")
        >>> tokens = il.repeated_random_tokens(model, n_sequences=16)
        >>> page = il.report(model, text=tokens, methods=["mean"], n_controls=2, early=20, late=60)
        >>> print(page.headline)
        toy-2l has 3 induction heads
        >>> page.save("report").name
        'index.html'
    """
    asked = Asked.checked(
        model,
        heads=heads,
        detectors=detectors,
        threshold=threshold,
        methods=methods,
        n_controls=n_controls,
        control_every_method=control_every_method,
        n_sequences=n_sequences,
        budget=budget,
        precision=precision,
        seed=seed,
        early=early,
        late=late,
        window=window,
        circuit=circuit,
        progress=progress,
    )
    source = as_text(model, text)
    options = {"n_sequences": n_sequences, "seed": asked.seed, **asked.positions}
    data = evaluation_data(model, source, **options)
    return Report(**vars(findings(model, data, asked, text=source)))
