"""Families: the same battery on models of several sizes (Olsson et al. 2022, "Argument 6").

Every model is measured on the same text and prompts, each encoded with its own tokenizer: loss, the
ICL score by both estimators, heads above the threshold and at which depth, how copying goes with
prefix matching, and what knocking the found heads out removes, beside controls. Then each quantity
is compared with the size of the models (`trend`). Size is the number of parameters in the matrices
of the blocks: embeddings grow with the vocabulary and not with what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from induction_lens import checks
from induction_lens.ablation.controls import checked_n_controls
from induction_lens.ablation.methods import AblationMethod, Method, as_method
from induction_lens.dynamics import phase_change
from induction_lens.estimates import Measure, columns
from induction_lens.files import output_folder, tidy
from induction_lens.heads import THRESHOLD
from induction_lens.inputs.reading import Source
from induction_lens.inputs.tokens import read_documents
from induction_lens.loading import check_names
from induction_lens.locks import locked
from induction_lens.models import is_model, model_name
from induction_lens.progress import libraries_follow, progress_bar
from induction_lens.style import Theme, themed
from induction_lens.suites.battery import MODELS, Battery, measured_members
from induction_lens.suites.drawing import size_figure
from induction_lens.suites.member import Member
from induction_lens.suites.trend import Trend, trend
from induction_lens.toys.snapshots import CONFIG
from induction_lens.tracking.engine import Engine
from induction_lens.tracking.engines import as_engine
from induction_lens.tracking.track import TRACKED
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MODEL = "model"
"""Folder of the trained model, in the folder of a training run."""
LOCK = ".family.lock"
"""What keeps a second process from measuring into the same folder."""
QUANTITIES: Mapping[str, tuple[str, Measure]] = {
    "loss": ("loss", "nats"),
    "icl": ("ICL score, matched targets", "nats"),
    "icl_paper": ("ICL score, the paper's", "nats"),
    "share_above": ("share of heads above the threshold", "ratio"),
    "depth": ("relative depth of these heads", "ratio"),
    "copying_correlation": ("correlation of copying and prefix matching", "ratio"),
    "removed": ("share of the ICL score that is removed", "ratio"),
    "midpoint_over_predicted": ("midpoint over the predicted one", "ratio"),
}
"""What is compared with size, in words, with its unit."""


@dataclass(frozen=True)
class Family:
    """Models of several sizes, measured alike."""

    members: tuple[Member, ...]
    """The models, smallest first."""
    threshold: float
    """Above which a head counts as an induction head."""

    def to_frame(self) -> pd.DataFrame:
        """One row for each model, smallest first; estimates with their intervals."""
        import pandas as pd

        return pd.DataFrame([member.to_row() for member in self.members])

    def plot(self, quantity: str = "icl", *, theme: Theme | None = None) -> go.Figure:
        """A quantity of every model, with its interval where it has one, against its size.

        Raises:
            ValueError: If there is no such quantity (see `QUANTITIES`) or theme.
        """
        words, unit = QUANTITIES[checks.one_of("quantity", quantity, QUANTITIES)]
        figure = size_figure(self.to_frame(), quantity, words=words, unit=unit)
        return themed(figure, theme)

    def trends(self) -> tuple[Trend, ...]:
        """How each quantity changes with size, for those that at least two models have.

        A share of an ICL score that is not told from zero is left out.
        """
        frame = self.to_frame()
        bounded = frame[["removed_low", "removed_high"]].abs().max(axis=1, skipna=False) < math.inf
        frame["removed"] = frame["removed"].where(bounded)
        found = [
            trend(
                frame["parameters"].tolist(),
                frame[name].tolist(),
                quantity=name,
                unit=unit,
            )
            for name, (_, unit) in QUANTITIES.items()
        ]
        return tuple(one for one in found if not math.isnan(one.slope.value))

    def trends_frame(self) -> pd.DataFrame:
        """One row for each quantity: `slope` for ten times the parameters, `slope_low`,
        `slope_high`, `p_value`, and `n` models."""
        import pandas as pd

        rows = [
            {
                "quantity": one.quantity,
                **columns("slope", one.slope),
                "p_value": one.p_value,
                "n": one.slope.n,
            }
            for one in self.trends()
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """The models, and what changes with their size."""
        lines = [str(one) for one in self.trends()]
        return "\n".join([f"Family({', '.join(one.name for one in self.members)})", *lines])


def family(
    models: Iterable[Any] | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    text: Source | None = None,
    n_sequences: int = 64,
    n_controls: int = 20,
    method: AblationMethod | Method | str = "mean",
    threshold: float = THRESHOLD,
    trajectories: Mapping[str, Trajectory] | None = None,
    seed: int = 0,
    engine: Engine | str = "local",
    resume: bool = True,
    progress: bool = True,
) -> Family:
    """Measure several models alike, and compare what is found with their sizes.

    Models that are named are loaded one at a time. With `out`, each model's measures are kept there
    as soon as they are made: called again after an interruption, it measures the models that are
    missing.

    Args:
        models: Names, folders, or hooked models. Of the folder of a training run its model is
            measured, and its trajectory is used where it was tracked. A dictionary says what each
            is called.
        out: Folder for the measures; None keeps none.
        text: Sources of text, as `sample_text` takes them; None: Python source. It is read once.
        n_sequences: Sequences of text, of 512 tokens or what the shortest context holds.
        n_controls: Random sets of heads beside the found ones.
        method: How heads are knocked out.
        threshold: Induction score above which a head counts.
        trajectories: Training runs of some of the models, by the same names, for the midpoint of
            the phase change.
        seed: Seed of text, prompts and controls.
        engine: Who measures: `local`, this process; or `ray`, the machines of a Ray cluster, one
            task a model.
        resume: Keep what is in `out` already; False measures everything again.
        progress: Show a bar on stderr.

    Raises:
        ValueError: There is no model, two have one name, one cannot be loaded, or an option is out
            of range; the cluster does not answer; another process measures into `out`; or `out`
            holds measures of other weights or text, or made with other options.

    Examples:
        >>> found = il.suites.family(["toy-1l", "toy-2l"], n_sequences=8, n_controls=2)
        >>> found.to_frame()[["model", "layers", "above"]]
            model  layers  above
        0  toy-1l       1      0
        1  toy-2l       2      3
    """
    checks.flag("resume", resume)
    checks.flag("progress", progress)
    engine = as_engine(engine)
    given = _checked_models(models, engine)
    runs = _tracked(given) | dict(_checked_runs(trajectories or {}, list(given)))
    given = {name: model_of_run(one) for name, one in given.items()}
    battery = Battery(
        documents=tuple(read_documents(text)),
        n_sequences=checks.whole_number("n_sequences", n_sequences, least=2),
        n_controls=checked_n_controls(n_controls),
        method=method if isinstance(method, AblationMethod) else str(as_method(method).name),
        threshold=checks.real_number("threshold", threshold, remedy=f"{THRESHOLD} is usual"),
        seed=checks.seed(seed),
        device=engine.device(None),
    )
    folder = None if out is None else output_folder(out)
    with nullcontext() if folder is None else _measuring_in(folder, resume=resume):
        members = _members(given, battery, engine=engine, out=folder, progress=progress)
    members = [_with_run(member, runs.get(member.name)) for member in members]
    return Family(tuple(sorted(members, key=lambda one: one.parameters)), float(threshold))


def _members(
    models: Mapping[str, Any],
    battery: Battery,
    *,
    engine: Engine,
    out: Path | None,
    progress: bool,
) -> list[Member]:
    """The models, in the order in which they were given."""
    found: dict[str, Member] = {}
    title = "models" if progress else None
    with progress_bar(title, len(models), unit="model") as done, libraries_follow(progress):
        for member in measured_members(list(models.items()), battery, engine=engine, out=out):
            found[member.name] = member
            done(1)
    return [found[name] for name in models]


@contextmanager
def _measuring_in(out: Path, *, resume: bool) -> Iterator[None]:
    """Keep other processes out of a folder, and clear it of what is not to be kept."""
    (out / MODELS).mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):
        tidy(out / MODELS)
        if not resume:
            for kept in (out / MODELS).glob("*.safetensors"):
                kept.unlink()
        yield


def _checked_models(models: Any, engine: Engine) -> dict[str, Any]:
    """The models by name."""
    if isinstance(models, Mapping):
        names = [checks.text("each name of models", name) for name in models]
        given = list(models.values())
    else:
        alone = isinstance(models, (str, Path)) or is_model(models)
        given: list[Any] = [models] if alone else checks.several("models", models)
        names = [model_name(one) if is_model(one) else str(one) for one in given]
    if not given or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise ValueError(
            f"expected one or more models of different names, got {got}; name each once, or pass "
            "a dictionary with a name for each"
        )
    check_names(model_of_run(one) for one in given)
    loaded = next((name for name, one in zip(names, given, strict=True) if is_model(one)), None)
    if loaded is not None and engine.name != "local":
        raise ValueError(
            f"expected names or folders of models with engine={engine.name!r}, which loads them on "
            f"other machines, got the loaded model {loaded}; pass its name, or engine='local'"
        )
    return dict(zip(names, given, strict=True))


def _checked_runs(trajectories: Any, names: list[str]) -> Mapping[str, Trajectory]:
    remedy = "for instance {'toy-2l': il.tracking.Trajectory.read(folder)}"
    if not isinstance(trajectories, Mapping):
        raise checks.refuse("trajectories", "trajectories by name", trajectories, remedy)
    for name, run in trajectories.items():
        checks.instance(f"the trajectory of {name}", run, Trajectory, remedy)
    unknown = next((name for name in trajectories if name not in names), None)
    if unknown is not None:
        near = checks.closest(unknown, names) or f"the models are {', '.join(names)}"
        raise ValueError(f"expected trajectories of models of the family, got {unknown!r}; {near}")
    return trajectories


def model_of_run(given: Any) -> Any:
    """The model in the folder of a training run; anything else as it is."""
    if isinstance(given, (str, Path)) and (Path(given) / MODEL / CONFIG).is_file():
        return Path(given) / MODEL
    return given


def _tracked(models: Mapping[str, Any]) -> dict[str, Trajectory]:
    """The trajectories of those that are folders of training runs and were tracked."""
    runs = {name: one for name, one in models.items() if model_of_run(one) is not one}
    files = {name: Path(one) / TRACKED / TRAJECTORY for name, one in runs.items()}
    return {name: Trajectory.read(file) for name, file in files.items() if file.is_file()}


def _with_run(member: Member, run: Trajectory | None) -> Member:
    """The member with what its training run tells."""
    if run is None:
        return member
    per_step = float(run.tokens_seen[-1] / run.steps[-1])
    return replace(member, midpoint=phase_change(run).midpoint, tokens_per_step=per_step)
