"""A training report as one HTML page: its figures, its tables and their captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from induction_lens import checks, plots
from induction_lens.dynamics import holm, loss_derivative
from induction_lens.dynamics.change import LEVEL
from induction_lens.estimates import short_number
from induction_lens.reports import pages as html
from induction_lens.reports.numbers import number
from induction_lens.reports.pages import Figure, Table
from induction_lens.reports.training import overview, sentences
from induction_lens.reports.training.findings import (
    METHOD,
    ModelFindings,
    TrainingFindings,
    rows_of,
)
from induction_lens.reports.training.looks import looks_of

if TYPE_CHECKING:
    from induction_lens.tracking.trajectory import Trajectory

SHARED = {
    "icl": "ICL score over training, all models",
    "windows": "Phase change of the ICL score, all models",
    "pca": "Paths of the models' per-token losses",
}
"""What is drawn once for all models, by name."""
KINDS = {
    "text": "text",
    "shuffled": "shuffled text",
    "repeated": "repeated random tokens",
    "copying": "first copy minus later ones",
}
PANELS = {
    "induction": "Prefix-matching score of every head",
    "effects": "What each head alone contributes",
    "losses": "Loss by position",
    "derivative": "Loss derivative",
    "smear": "σ(α) of every head",
    "composition": "K-composition of every head",
    "matching": "QK matching of every head",
}
"""What is drawn for every model, by name."""


def render(found: TrainingFindings, *, static: bool = False) -> str:
    """The page, as one self-contained HTML document; `static`: with pictures of what all models
    share, and without what is drawn for each."""
    return html.render(
        "training.html",
        static=static,
        headline=sentences.headline(found),
        findings=overview.findings(found),
        arguments={number: sentences.argument(found, number) for number in (1, 2, 3)},
        figures={name: shared_figure(name, found) for name in SHARED},
        panels={name: None if static else panel(name, found) for name in PANELS},
        titles=PANELS,
        tables={
            "models": models_table(found),
            "together": together_table(found),
            "knockouts": knockouts_table(found),
            "ngrams": ngrams_table(found),
            "orders": orders_table(found),
        },
        captions=sentences.captions(found),
        card=sentences.card(found),
    )


def figures(found: TrainingFindings) -> list[Figure]:
    """Every figure of the page."""
    panels = [panel(name, found) for name in PANELS]
    return [*(shared_figure(name, found) for name in SHARED), *filter(None, panels)]


def draw(name: str, found: TrainingFindings) -> Any:
    """One of the figures of the page, for plotly.

    Raises:
        ValueError: There is no such figure, or the runs have nothing for it.
    """
    checks.one_of("name", name, [*SHARED, *PANELS])
    figure = shared_figure(name, found) if name in SHARED else panel(name, found)
    if figure is None:
        raise ValueError(
            f"expected runs with what {name!r} shows, got none; choose another of "
            f"{', '.join([*SHARED, *PANELS])}"
        )
    return figure.drawn


def shared_figure(name: str, found: TrainingFindings) -> Figure:
    """One of the figures that all models share, a name in `SHARED`."""
    changes = {model.label: model.icl_change for model in found.models}
    looks = looks_of(found.models)
    drawn: Any
    if name == "icl":
        runs = {model.label: model.model.trajectories for model in found.models}
        shaded = list(runs) if len(runs) == 1 else []  # windows of several hide each other
        drawn = plots.icl_over_training(runs, changes, window_of=shaded, looks=looks)
    elif name == "windows":
        drawn = plots.window_chart(changes, last=max(map(_last, found.models)), looks=looks)
    else:
        of_first_run = {model.label: model.together[0].icl for model in found.models}
        names = [model.label for model in found.compared]
        drawn = plots.pca_paths(found.pca, of_first_run, models=names, looks=looks)
    return Figure.of(name, drawn, SHARED[name])


def panel(name: str, found: TrainingFindings) -> Figure | None:
    """A figure of each model's first run, side by side; None where no run has it."""
    drawn = {}
    for model in found.models:
        figure = _drawn(name, model)
        if figure is not None:
            seed = (
                f", seed\N{NO-BREAK SPACE}{model.model.first.seed}"
                if len(model.model.runs) > 1
                else ""
            )
            drawn[model.label + seed] = figure
    if not drawn:
        return None
    return Figure.of(name, plots.small_multiples(drawn), f"{PANELS[name]}, a panel for each model")


def model_figure(name: str, found: ModelFindings) -> Figure | None:
    """One of the figures that each model has, of its first run; None where it has none."""
    drawn = _drawn(name, found)
    if drawn is None:
        return None
    title = f"{PANELS[name]}: {found.label}"
    return Figure.of(f"{name}-{_identifier(found.model.first)}", drawn, title)


def _drawn(name: str, found: ModelFindings) -> Any:
    run = found.model.first
    change = found.together[0].icl
    if name == "induction":
        return plots.induction_over_training(run, change)
    if name == "effects":
        return plots.effects_over_training(run, change=change)
    if name == "losses":
        return plots.loss_curves(run)
    if name == "derivative":
        return plots.loss_derivative_map(loss_derivative(run), change=change)
    if name in ("composition", "matching"):
        measure = "matching" if name == "matching" else "k_composition"
        return plots.edges_over_training(run, change, measure=measure) if run.has_edges else None
    return None if run.smear is None else plots.smear_over_training(run, change)


def models_table(found: TrainingFindings) -> Table:
    """A row for each model: how it ends, and when it changes."""
    rows = tuple(
        (
            model.label,
            sentences.seeds(model),
            f"{row['held_out_loss']:.2f}",
            f"{row['induction']:.2f}",
            sentences.estimate(row, "icl"),
            sentences.window(model.icl_change),
            sentences.interval(model.icl_change.midpoint),
            sentences.interval(model.induction_change.midpoint),
        )
        for model, row in zip(found.models, rows_of(found.models_frame()), strict=True)
    )
    columns = (
        "model",
        "seeds: change, all",
        "held-out loss",
        "best induction score",
        "ICL score at the end",
    )
    columns += ("window of the change", "midpoint, ICL", "midpoint, induction")
    strong = tuple(i for i, model in enumerate(found.models) if model.icl_change.found)
    return Table(columns, rows, strong)


def together_table(found: TrainingFindings) -> Table | None:
    """A row for each run with both changes: the lag, and the correlation inside the window."""
    rows = tuple(
        (
            row["model"],
            str(row["seed"]),
            sentences.tokens(row, "induction_midpoint"),
            sentences.tokens(row, "icl_midpoint"),
            sentences.tokens(row, "lag"),
            number(row["correlation"]),
            str(row["n_snapshots"]),
        )
        for row in rows_of(found.runs_frame())
        if row["n_snapshots"]
    )
    columns = ("model", "seed", "midpoint, induction", "midpoint, ICL", "lag of ICL")
    columns += ("rank correlation", "snapshots")
    return Table(columns, rows) if rows else None


def knockouts_table(found: TrainingFindings) -> Table | None:
    """A row for each run: the ICL score with and without the induction heads."""
    frame = found.knockouts_frame()
    if frame.empty:
        return None
    rows = []
    strong = []
    tested = rows_of(frame, method=METHOD, set="tested")
    for row, p_value in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        same = {name: row[name] for name in ("model", "seed", "method")}
        controls = rows_of(frame, set="control", **same)
        strong += [len(rows)] * (row["effect"] > 0 and p_value < LEVEL)
        best = max(controls, key=lambda control: control["effect"], default=None)
        largest = sentences.estimate(best, "effect") if best else sentences.NOTHING
        rows.append(
            (
                row["model"],
                str(row["seed"]),
                row["heads"] + ("" if row["are_induction_heads"] else " (strongest)"),
                *(sentences.estimate(row, name) for name in ("clean", "ablated", "effect")),
                sentences.share(row),
                largest,
                f"{row['rank']:.0f} of {len(controls) + 1}" if controls else sentences.NOTHING,
            )
        )
    columns = ("model", "seed", "heads", "clean", "without", "change", "removed")
    return Table((*columns, "largest control change", "rank"), tuple(rows), tuple(strong))


def ngrams_table(found: TrainingFindings) -> Table | None:
    """Rows for each model, of its first seed: losses beside those of the n-gram tables."""
    frame = found.ngrams_frame()
    if frame.empty:
        return None
    columns = ("bigram", "trigram", "model", "model without heads")
    rows = []
    for model in found.models:
        for kind, title in KINDS.items():
            measured = rows_of(frame, model=model.label, seed=model.model.first.seed, tokens=kind)
            losses = {row["predictor"]: row for row in measured}
            if measured:
                cells = (sentences.loss(losses.get(name)) for name in columns)
                rows.append((f"{model.label}: {title}", *cells))
    return Table(("model and tokens", *columns), tuple(rows))


def orders_table(found: TrainingFindings) -> Table | None:
    """A row for each model compared: its loss and its derivative, with ranks, early and late."""
    if not found.orders:
        return None
    orders = [(rows_of(order.to_frame()), order.by) for order in found.orders]
    rows = tuple(
        (
            model.label,
            *(
                f"{sentences.ordered(ranked[i][moment], by)} ({ranked[i][f'rank_{moment}']})"
                for ranked, by in orders
                for moment in ("before", "after")
            ),
        )
        for i, model in enumerate(found.compared)
    )
    moments = [short_number(tokens) for tokens in found.moments]
    columns = (f"{order.by} at {moment}" for order in found.orders for moment in moments)
    return Table(("model", *columns), rows)


def _last(model: ModelFindings) -> float:
    return float(model.model.first.tokens_seen[-1])


def _identifier(run: Trajectory) -> str:
    return "".join(c if c.isalnum() else "-" for c in run.name)
