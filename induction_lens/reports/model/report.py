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
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.controls import MAX_CONTROLS, control_sets, n_possible_controls
from induction_lens.ablation.jointly import studies_and_single_heads
from induction_lens.ablation.measured_text import MeasuredText
from induction_lens.ablation.methods import (
    MAIN_METHOD,
    METHODS,
    AblationMethod,
    Mean,
    Methods,
    as_methods,
)
from induction_lens.ablation.stopping import Stopping
from induction_lens.ablation.study import StudiedSets
from induction_lens.circuits import Circuit, Material
from induction_lens.circuits import circuit as find_circuit
from induction_lens.circuits.material import N_SEQUENCES, N_SEQUENCES_OF_LARGE
from induction_lens.detectors import DETECTORS, AttentionDetector, own_detectors, score_heads
from induction_lens.files import atomic_path, output_folder, tidy, write_text
from induction_lens.heads import (
    THRESHOLD,
    Head,
    HeadLike,
    HeadScores,
    ScoreTable,
    parse_heads,
)
from induction_lens.inputs.tokens import Source
from induction_lens.models import Model, TextTokens, has_bfloat16, model_name, shape
from induction_lens.progress import wanted
from induction_lens.reports.circuit import records, write_tables
from induction_lens.reports.model import page, sentences
from induction_lens.reports.model.card import card_of, short_name
from induction_lens.reports.model.evaluation import Data, evaluation_data, example_of, is_large
from induction_lens.reports.model.findings import Findings, Why, finite
from induction_lens.reports.model.plan import Costs, Plan, spoken
from induction_lens.reports.pages import framed

_N_SCORED_TEXT = 32  # sequences of text for the previous-token score


@dataclass(frozen=True, eq=False)
class Report(Findings):
    """Findings that can be read: as words, as a page, in a notebook, as files."""

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

    def save(self, folder: str | Path) -> Path:
        """Write the page and its data; each file appears whole or not at all.

        The files are `index.html`, `heads.csv`, `icl.csv`, `losses.parquet`,
        `short_losses.parquet` and `report.json`; with a circuit also `circuit.svg`,
        `circuit_edges.csv`, `circuit_cuts.csv` and `circuit_sets.csv`.

        Returns:
            The path of `index.html`.

        Raises:
            ValueError: If `folder` is a file, or nothing can be written to it.
        """
        folder = output_folder(folder)
        tidy(folder)
        write_text(folder / "heads.csv", self.heads_frame().to_csv(index=False))
        write_text(folder / "icl.csv", self.to_frame().to_csv(index=False))
        frames = {"losses": self.losses_frame(), "short_losses": self.short_losses_frame()}
        for name, frame in frames.items():
            with atomic_path(folder / f"{name}.parquet") as path:
                frame.to_parquet(path, index=False, write_page_checksum=True)
        content = {"headline": self.headline, "summary": self.summary, **self.to_dict()}
        if self.circuit is not None:
            write_tables(self.circuit, folder, prefix="circuit_")
            content["circuit"] = finite(records(self.circuit))
        write_text(folder / "report.json", json.dumps(content, indent=1, allow_nan=False))
        write_text(folder / "index.html", self.to_html())
        return folder / "index.html"

    def __repr__(self) -> str:
        """The result in plain sentences."""
        return f"Report: {self.headline}\n\n{self.summary}"

    def _repr_html_(self) -> str:
        return framed(self.to_html(), self.headline)


def report(
    model: Model,
    *,
    text: Int[Tensor, "batch pos"] | TextTokens | Source | None = None,
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
        text: What to measure losses on: sequences of tokens with BOS at position 0, what
            `sample_text` returns, or a source of text as it takes them; None: the held-out part of
            Python's standard library, or repeated random tokens where the model has no tokenizer.
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
    checks.model(model)
    threshold = checks.real_number("threshold", threshold, remedy=f"{THRESHOLD} is the usual one")
    n_controls = checks.whole_number("n_controls", n_controls, least=0, most=MAX_CONTROLS)
    early = checks.whole_number("early", early, least=1, optional=True)
    late = checks.whole_number("late", late, least=1, optional=True)
    window = checks.whole_number("window", window, least=0)
    budget = checks.seconds("budget", budget)
    stopping = Stopping(
        deadline=None if budget is None else time.perf_counter() + budget,
        precision=checks.real_number(
            "precision", precision, above=0, optional=True, remedy="nats, for instance 0.05"
        ),
    )
    checks.flag("control_every_method", control_every_method)
    seed, progress = checks.seed(seed), checks.flag("progress", progress)
    chosen = as_methods(methods, seed=seed)
    own = own_detectors(detectors)
    named = _named(model, heads)
    _check_circuit(circuit, model)
    positions = {"early": early, "late": late, "window": window}
    data = evaluation_data(model, text, n_sequences=n_sequences, seed=seed, **positions)
    options = {"seed": seed, "progress": progress}
    with _stages(progress, total=3 + (circuit is True)) as stage:
        stage("scoring heads")
        scores = _scores(model, data, own, **options)
        found = tuple(scores["induction"].above(threshold))
        studied, why = _studied(named, found, scores["induction"])
        possible = n_possible_controls(model, studied)
        controlled = chosen if control_every_method else [chosen[_main(chosen)]]
        sizes = shape(model)
        plan = Plan(
            n_sequences=len(data.tokens),
            n_controls=min(n_controls, possible),
            n_methods=len(chosen),
            n_controlled=len(controlled),
            n_heads=sizes.n_layers * sizes.n_heads,
            costs=Costs.measure(model, data, studied),
        ).within(budget)
        data = data.cut(plan.n_sequences)
        said = plan.announcement(budget)
        if said and wanted(progress):
            print(said, file=sys.stderr)
        stage(f"knocking out {' '.join(map(str, studied))}, and each head alone")
        rough = is_large(model) and has_bfloat16(model)
        controls = tuple(control_sets(model, studied, n=plan.n_controls, seed=seed))
        windowed, effects = studies_and_single_heads(
            model,
            StudiedSets(studied, {m.label: controls if m in controlled else () for m in chosen}),
            chosen,
            MeasuredText.of(model, data.first(), None, where=data.positions, estimator=None),
            alone_by=Mean(),
            rough=rough,
            stopping=stopping,
            progress=progress,
        )
        planned = len(data.tokens)
        data = data.cut(len(windowed[chosen[0].label].clean_losses))
        if circuit is True:
            stage("measuring the circuit")
        found_circuit, why_none = _circuit(circuit, model, data, threshold=threshold, **options)
        stage("writing the report")
        asked = {"heads": named, "threshold": threshold, "seed": seed}
        asked |= {"methods": tuple(method.label for method in chosen)}
        asked |= {"control_every_method": control_every_method, **positions}
        asked |= {"n_controls": n_controls, "n_sequences": n_sequences}
        if budget is not None or stopping.reason is not None:
            # what was measured, and not how long it was given
            asked |= {"n_controls": plan.n_controls, "n_sequences": len(data.tokens)}
        asked |= {"detectors": [one.name for one in own], "circuit": circuit is not False}
        return Report(
            name=short_name(model),
            card=card_of(model, data, text=text, options=asked),
            scores=scores,
            threshold=threshold,
            heads=found,
            studied=studied,
            why=why,
            studies={m: study.at(window=0, estimator="paper") for m, study in windowed.items()},
            matched={
                method: study.at(window=0)
                for method, study in windowed.items()
                if study.short_losses is not None
            },
            windowed=windowed,
            effects=effects,
            n_alone=plan.n_alone,
            tokens=data.tokens.cpu(),
            example=example_of(model, scores["induction"].top(1)[0][0], data),
            is_text=data.is_text,
            notes=(
                *data.notes,
                *sentences.notes_on_scores(scores),
                *sentences.notes_on_controls(studied, n_controls, possible),
                *sentences.notes_on_rounding(rough),
                *sentences.notes_on_first_order(plan.by_first_order),
                *sentences.notes_on_stopping(stopping, len(data.tokens), planned),
                *why_none,
            ),
            own_detectors=own,
            circuit=found_circuit,
        )


def _check_circuit(asked: Circuit | bool, model: Model) -> None:
    """Check that it is one of this model, or whether to find one.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(asked, Circuit):
        checks.flag("circuit", asked)
    elif asked.model != model_name(model):
        raise ValueError(
            f"expected a circuit of {model_name(model)}, got one of {asked.model}; pass True to "
            "have it found"
        )


def _circuit(
    asked: Circuit | bool,
    model: Model,
    data: Data,
    *,
    threshold: float,
    seed: int,
    progress: bool,
) -> tuple[Circuit | None, tuple[str, ...]]:
    """The circuit, and a sentence where there is none."""
    if isinstance(asked, Circuit) or not asked:
        return asked or None, ()
    n = N_SEQUENCES_OF_LARGE if is_large(model) else N_SEQUENCES
    text = data.cut(n).first() if data.is_text else None
    try:
        material = Material.of(model, text=text, n_texts=0, seed=seed)
        found = find_circuit(
            model,
            threshold=threshold,
            material=material,
            announce=_say_time if wanted(progress) else None,
            seed=seed,
        )
        return found, ()
    except ValueError as error:
        return None, (f"The induction circuit was not measured: {error}.",)


def _say_time(seconds: float) -> None:
    print(f"The circuit: about {spoken(seconds)}.", file=sys.stderr)


def _named(model: Model, heads: Iterable[HeadLike] | HeadLike | None) -> tuple[Head, ...] | None:
    """The heads that the caller named, if any."""
    sizes = shape(model)
    if heads is None:
        return None
    return tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))


def _scores(
    model: Model, data: Data, own: Sequence[AttentionDetector], *, seed: int, progress: bool
) -> ScoreTable:
    text = data.tokens[:_N_SCORED_TEXT] if data.is_text else None
    detectors = [*DETECTORS, *own]
    return score_heads(model, text=text, detectors=detectors, seed=seed, progress=progress)


def _studied(
    heads: tuple[Head, ...] | None, found: tuple[Head, ...], induction: HeadScores
) -> tuple[tuple[Head, ...], Why]:
    if heads is not None:
        return heads, "chosen"
    if found:
        return tuple(sorted(found)), "induction"
    return (induction.top(1)[0][0],), "strongest"


def _main(methods: Sequence[AblationMethod]) -> int:
    """Which of some methods the summary quotes: mean ablation if it is there, else the first."""
    labels = [method.label for method in methods]
    return labels.index(MAIN_METHOD) if MAIN_METHOD in labels else 0


@contextmanager
def _stages(show: bool, *, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr over named stages; yields what to call as each begins."""
    from tqdm.auto import tqdm

    with tqdm(total=total, disable=not wanted(show), leave=False, file=sys.stderr) as bar:
        started = False

        def stage(name: str) -> None:
            nonlocal started
            bar.update(int(started))
            bar.set_description(name)
            started = True

        yield stage
