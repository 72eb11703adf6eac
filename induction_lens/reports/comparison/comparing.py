"""Takes models, results and saved results, measures those that are models, and compares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from induction_lens import checks, results
from induction_lens.ablation.controls import checked_n_controls
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.ablation.study import AblationStudy
from induction_lens.heads import THRESHOLD, HeadScores, ScoreTable
from induction_lens.inputs.reading import Source
from induction_lens.inputs.tokens import read_documents
from induction_lens.loading import check_names
from induction_lens.models import is_model, model_name
from induction_lens.progress import libraries_follow, progress_bar
from induction_lens.reports.model import Report
from induction_lens.suites.battery import Battery, measured_members
from induction_lens.suites.comparison import Compared, Comparison, distinct_names
from induction_lens.suites.family import Family, model_of_run
from induction_lens.suites.member import Member, found_heads
from induction_lens.tracking.engines import as_engine

_TAKEN = "a model, its name or folder, a report, a study, scores or a family, saved or not"


def compare(
    models: Iterable[Any] | Mapping[str, Any],
    *,
    text: Source | None = None,
    n_sequences: int = 64,
    n_controls: int = 20,
    method: AblationMethod | Method | str = "mean",
    threshold: float = THRESHOLD,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Put models beside each other: one row a model, and how much they differ.

    Models are measured now, all on the same text: their heads are scored, those above the threshold
    (the strongest, where none is) are knocked out together, beside random sets. Reports, studies,
    scores and families, and what these were saved to, are taken as they are.

    Args:
        models: Two or more: hooked models, names and folders of models; `Report`, `AblationStudy`,
            `ScoreTable`, `HeadScores` of induction, `Family`; folders of saved results. A
            dictionary says what each is called, `{"before": one, "after": other}`.
        text: Sources of text for the models, as `sample_text` takes them; None: Python source. It
            is read once.
        n_sequences: Sequences of text, of 512 tokens or what a model's context holds.
        n_controls: Random sets of heads beside the found ones.
        method: How heads are knocked out.
        threshold: Induction score above which a head counts.
        seed: Seed of text, prompts and controls.
        progress: Show a bar on stderr.

    Returns:
        The models in the order given. Where both were measured on the same tokens, two models are
        compared sequence by sequence.

    Raises:
        ValueError: There are fewer than two, one is something else, or an option is out of range.

    Examples:
        >>> found = il.compare(["toy-1l", "toy-2l-narrow"], n_sequences=16, n_controls=2)
        >>> found.to_frame()[["model", "above", "strongest"]]
                   model  above strongest
        0         toy-1l      0       0.3
        1  toy-2l-narrow      1       1.1
        >>> found.lowest("icl"), found.differences("icl")[0].paired
        ('toy-2l-narrow', True)
    """
    checks.flag("progress", progress)
    threshold = checks.real_number("threshold", threshold, remedy=f"{THRESHOLD} is usual")
    seed = checks.seed(seed)
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=2)
    n_controls = checked_n_controls(n_controls)
    method = method if isinstance(method, AblationMethod) else str(as_method(method).name)
    given, names = _named(models)
    if len(given) < 2:
        raise ValueError(
            f"expected two models or more to compare, got {names[0]} alone; add another"
        )
    to_measure = [_model(one) for one in given if _is_to_measure(one)]
    check_names(model for _, model in to_measure)
    measured: list[Member] = []
    if to_measure:
        battery = Battery(
            documents=tuple(read_documents(text)),
            n_sequences=n_sequences,
            n_controls=n_controls,
            method=method,
            threshold=threshold,
            seed=seed,
        )
        measured = _measured(to_measure, battery, progress=progress)
    elif text is not None:
        raise ValueError(
            "expected no text with results that are measured already, got some; leave it out, or "
            "pass a model to measure on it"
        )
    kept = iter(measured)
    found = [
        _compared(next(kept) if _is_to_measure(one) else one, name, threshold)
        for one, name in zip(given, names, strict=True)
    ]
    return Comparison(tuple(found), threshold)


def _named(models: Any) -> tuple[list[Any], list[str]]:
    """What is compared, and what each is called: as the caller says, or by its own name."""
    if not isinstance(models, Mapping) or isinstance(models, results.Result):
        given = [one for some in _several(models) for one in _read(some)]
        return given, distinct_names([_name(one) for one in given])
    given: list[Any] = []
    names: list[str] = []
    for key, model in models.items():
        name = checks.text("each name of models", key)
        read = _read(model)
        given += read
        # of a family, or another comparison
        names += [f"{name}: {one.name}" for one in read] if len(read) > 1 else [name]
    if not given:
        raise checks.refuse("models", "two or more", models, f"pass {_TAKEN}", given="none")
    return given, names


def _several(models: Any) -> list[Any]:
    alone = isinstance(models, (str, Path, results.Result)) or is_model(models)
    given = [models] if alone else checks.several("models", models)
    if not given:
        raise checks.refuse("models", "two or more", models, f"pass {_TAKEN}", given="none")
    return given


def _read(given: Any) -> Sequence[Any]:
    """What a name stands for, and what a family or comparison holds."""
    if isinstance(given, (str, Path)) and _is_saved(Path(given)):
        given = results.load(given)
    if isinstance(given, Family):
        return given.members
    if isinstance(given, Comparison):
        return given.models
    known = (str, Path, Report, AblationStudy, ScoreTable, HeadScores, Compared, Member)
    if isinstance(given, known) or is_model(given):
        return [given]
    raise checks.refuse("each of models", _TAKEN, given, "pass one of these")


def _is_saved(path: Path) -> bool:
    """Whether a saved result is there, that of a report among its other files too."""
    inside = (path, path / Report.inside)
    return any((folder / results.RESULT).is_file() for folder in inside)


def _is_to_measure(given: Any) -> bool:
    return isinstance(given, (str, Path)) or is_model(given)


def _model(given: Any) -> tuple[str, Any]:
    """A model to measure, with its whole name."""
    return (model_name(given) if is_model(given) else str(given)), model_of_run(given)


def _measured(models: list[tuple[str, Any]], battery: Battery, *, progress: bool) -> list[Member]:
    title = "models" if progress else None
    found = []
    with progress_bar(title, len(models), unit="model") as done, libraries_follow(progress):
        for member in measured_members(models, battery, engine=as_engine("local"), out=None):
            found.append(member)
            done(1)
    return found


def _name(given: Any) -> str:
    """The whole name of a model, or of what a result was measured on."""
    if _is_to_measure(given):
        return _model(given)[0]
    of = getattr(given, "provenance", None)
    if of is not None:
        return of.model
    return str(getattr(given, "name", None) or "unnamed")


def _compared(given: Any, name: str, threshold: float) -> Compared:
    """A model of the comparison, under the name that it has there."""
    induction: HeadScores | None = None
    study: AblationStudy | None = None
    kind = type(given).__name__
    if isinstance(given, Compared):
        return Compared(name, given.given, given.induction, given.found, given.study)
    if isinstance(given, Member):
        induction, study, kind = given.induction, given.study, "model"
    elif isinstance(given, Report):
        induction, study = given.scores["induction"], given.windowed[given.main_method]
    elif isinstance(given, AblationStudy):
        study = given
    elif isinstance(given, HeadScores):
        induction = given
    elif isinstance(given, ScoreTable):
        induction = given.get("induction")
    if study is None and (induction is None or induction.unit != "attention"):
        raise ValueError(
            f"expected scores of induction, got {given!r}; pass what score_heads returns, with "
            "induction among its detectors"
        )
    found = () if induction is None else found_heads(induction, threshold)
    return Compared(name, kind, induction, found, study)
