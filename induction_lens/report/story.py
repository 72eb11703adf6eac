"""The whole story of one model: which heads do induction, and what in-context learning owes them.

1. Score every head on repeated random tokens (previous-token on text, where there is a tokenizer).
2. Take the induction heads: above the threshold and above chance; for want of one, the strongest
   candidate; or the heads that the caller names.
3. Knock them out together by every method, beside random sets with as many heads in each layer.
4. Take the ICL score (Olsson et al. 2022, "Argument 1") as the paper defines it, at two positions,
   and averaged over windows around them, from the same losses, paired by sequence.
5. Knock out each head alone, and look at the best head's attention on a short passage.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from induction_lens.ablation import (
    AblationStudy,
    ablate_by_methods,
    ablate_each_head,
    n_possible_controls,
)
from induction_lens.detectors import score_heads
from induction_lens.files import atomic_path, output_folder, write_text
from induction_lens.heads import Head, HeadLike, HeadScores, ScoreTable, parse_heads
from induction_lens.html import framed
from induction_lens.knockout import METHODS, Method, checked_method
from induction_lens.models import Model, shape
from induction_lens.report import page, words
from induction_lens.report.card import card_of, short_name
from induction_lens.report.evaluation import (
    N_SEQUENCES,
    Data,
    evaluation_data,
    example_of,
)
from induction_lens.report.findings import Findings, Why
from induction_lens.tokens import Source

# Passes of a sequence for the effects of single heads: all 256 sequences of a toy, and 64 with the
# 144 heads of GPT-2 small, where each pass takes longest.
_SWEEP_PASSES = 64 * 144
_MIN_SWEEP = 16  # sequences; fewer have no interval to speak of
_N_SCORED_TEXT = 32  # sequences of text for the previous-token score


@dataclass(frozen=True, eq=False)
class Report(Findings):
    """Findings that can be read: as words, as a page, in a notebook, as files."""

    @property
    def headline(self) -> str:
        """One line: how many induction heads there are."""
        return words.headline(self)

    @property
    def summary(self) -> str:
        """The result in plain words, with its numbers."""
        return "\n\n".join(words.summary(self))

    def to_html(self) -> str:
        """The page: one self-contained HTML document that needs no network."""
        return page.render(self)

    def save(self, folder: str | Path) -> Path:
        """Write the page and its data; each file appears whole or not at all.

        The files are `index.html`, `heads.csv`, `icl.csv`, `losses.parquet` and `report.json`.

        Returns:
            The path of `index.html`.

        Raises:
            ValueError: if `folder` is a file.
        """
        folder = output_folder(folder)
        write_text(folder / "heads.csv", self.heads_frame().to_csv(index=False))
        write_text(folder / "icl.csv", self.to_frame().to_csv(index=False))
        with atomic_path(folder / "losses.parquet") as path:
            self.losses_frame().to_parquet(path, index=False)
        content = {"headline": self.headline, "summary": self.summary, **self.to_dict()}
        write_text(folder / "report.json", json.dumps(content, indent=1, allow_nan=False))
        write_text(folder / "index.html", self.to_html())
        return folder / "index.html"

    def __repr__(self) -> str:
        """The result in plain words."""
        return f"Report: {self.headline}\n\n{self.summary}"

    def _repr_html_(self) -> str:
        return framed(self.to_html(), self.headline)


def report(
    model: Model,
    *,
    text: Int[Tensor, "batch pos"] | Source | None = None,
    heads: Iterable[HeadLike] | HeadLike | None = None,
    threshold: float = 0.3,
    methods: Sequence[Method | str] = METHODS,
    n_controls: int = 20,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    progress: bool = True,
) -> Report:
    """Find the induction heads of a model, knock them out, and say what that did.

    Args:
        model: a hooked model, from `load` or your own.
        text: what to measure losses on: sequences of tokens with BOS at position 0, or a source of
            text as in `text_tokens`; None: the held-out part of Python's standard library, or
            repeated random tokens where the model has no tokenizer.
        heads: heads to knock out, instead of the induction heads that are found.
        threshold: induction score above which a head counts as an induction head.
        methods: ablation methods.
        n_controls: random control sets per method: this many, or all there are.
        n_sequences: sequences to measure losses on, unless `text` holds tokens.
        seed: seed of every draw.
        early: position of the early token of the ICL score; None: the paper's 50, or as the
            context allows.
        late: position of the late token; None: the paper's 500, or as the context allows.
        window: positions on each side of both for the windowed ICL score; made smaller where the
            context is short.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: for heads, methods, positions or text that do not fit the model.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"expected a finite threshold, got {threshold}; 0.3 is the usual one")
    methods = _checked_methods(methods)
    named = _named(model, heads)
    positions = {"early": early, "late": late, "window": window}
    data = evaluation_data(model, text, n_sequences=n_sequences, seed=seed, **positions)
    with _stages(progress, total=4) as stage:
        stage("scoring heads")
        scores = _scores(model, data, seed, progress)
        found = tuple(scores["induction"].above(threshold))
        studied, why = _studied(named, found, scores["induction"])
        possible = n_possible_controls(model, studied)
        options = {"seed": seed, "progress": progress}
        stage(f"knocking out {' '.join(map(str, studied))}")
        windowed = _studies(model, studied, data, methods, n_controls=n_controls, **options)
        stage("knocking out each head alone")
        swept = _swept(model, data)
        effects = _each_head(model, data, swept, **options)
        stage("writing the report")
        asked = {"heads": named, "threshold": threshold, "methods": methods, "seed": seed}
        asked |= {"n_controls": n_controls, "n_sequences": n_sequences, **positions}
        return Report(
            name=short_name(model),
            card=card_of(model, data, text=text, options=asked),
            scores=scores,
            threshold=threshold,
            heads=found,
            studied=studied,
            why=why,
            studies={method: study.at(window=0) for method, study in windowed.items()},
            windowed=windowed,
            effects=effects,
            n_sweep=len(swept),
            tokens=data.tokens.cpu(),
            example=example_of(model, scores["induction"].top(1)[0][0], data),
            is_text=data.is_text,
            notes=(*data.notes, *words.notes_on_controls(studied, n_controls, possible)),
        )


def _checked_methods(methods: Sequence[str]) -> tuple[Method, ...]:
    if not methods:
        raise ValueError(f"expected at least one of {', '.join(METHODS)}, got no methods")
    return tuple(checked_method(method) for method in methods)


def _named(model: Model, heads: Iterable[HeadLike] | HeadLike | None) -> tuple[Head, ...] | None:
    """The heads that the caller named, if any."""
    sizes = shape(model)
    if heads is None:
        return None
    return tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))


def _scores(model: Model, data: Data, seed: int, progress: bool) -> ScoreTable:
    text = data.tokens[:_N_SCORED_TEXT] if data.is_text else None
    return score_heads(model, text=text, seed=seed, progress=progress)


def _studied(
    heads: tuple[Head, ...] | None, found: tuple[Head, ...], induction: HeadScores
) -> tuple[tuple[Head, ...], Why]:
    if heads is not None:
        return heads, "chosen"
    if found:
        return tuple(sorted(found)), "induction"
    return (induction.top(1)[0][0],), "strongest"


def _studies(
    model: Model,
    heads: tuple[Head, ...],
    data: Data,
    methods: Sequence[Method],
    *,
    n_controls: int,
    seed: int,
    progress: bool,
) -> dict[str, AblationStudy]:
    where = data.positions
    return ablate_by_methods(
        model,
        heads,
        data.tokens,
        methods=methods,
        n_controls=n_controls,
        seed=seed,
        early=where.early,
        late=where.late,
        window=where.window,
        progress=progress,
    )


def _swept(model: Model, data: Data) -> Int[Tensor, "sweep pos"]:
    """The sequences on which each head is knocked out alone, which takes a pass per head."""
    sizes = shape(model)
    affordable = _SWEEP_PASSES // (sizes.n_layers * sizes.n_heads)
    return data.tokens[: max(_MIN_SWEEP, affordable)]


def _each_head(
    model: Model, data: Data, tokens: Int[Tensor, "sweep pos"], *, seed: int, progress: bool
) -> HeadScores:
    where = data.positions
    return ablate_each_head(
        model,
        tokens,
        seed=seed,
        early=where.early,
        late=where.late,
        window=where.window,
        progress=progress,
    )


@contextmanager
def _stages(show: bool, *, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr over named stages; yields what to call as each begins."""
    from tqdm.auto import tqdm

    with tqdm(total=total, disable=not show, leave=False, file=sys.stderr) as bar:
        started = False

        def stage(name: str) -> None:
            nonlocal started
            bar.update(int(started))
            bar.set_description(name)
            started = True

        yield stage
