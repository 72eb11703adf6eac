"""Measuring a training run at each of its snapshots, on the same text and prompts.

1. Held-out text, prompts of repeated random tokens and a choice of tokens are drawn once, from a
   seed and the run's own tokenizer: runs that share both are measured on the same tokens.
2. For every snapshot: one pass over the text gives the losses, the ICL score and the per-token loss
   vector; every detector scores every head; every head is knocked out alone.
3. A snapshot's measures are written as soon as they are made, whole or not at all, and are not made
   again: a run that is cut off continues, and ends with the same file.
4. All of them become one `Trajectory`.

Source: Olsson et al. 2022, "Argument 1" (scores over training) and "Per-token loss vectors".
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.methods import Method
from induction_lens.detectors import DETECTORS
from induction_lens.files import atomic_folder, atomic_path, output_folder, recover, tidy
from induction_lens.inputs import reading
from induction_lens.locks import Lock, locked
from induction_lens.models import Tokens, check_device
from induction_lens.progress import progress_bar
from induction_lens.seals import read_json, read_tensors, save_tensors, write_json
from induction_lens.tracking.choice import Checkpoints
from induction_lens.tracking.engine import Engine, Result, measure_moment
from induction_lens.tracking.engines import as_engine
from induction_lens.tracking.measures import (
    N_SEQUENCES,
    Asked,
    Material,
    ModelInfo,
    Settings,
)
from induction_lens.tracking.moments import Moment, PastMoment, Source, Trackable, source_of
from induction_lens.tracking.norms import off_curve
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory
from induction_lens.training.loop import TrainingRun

ABOUT, MEASURES = "point.json", "measures.safetensors"
TRACKED, POINTS = "tracked", "points"
"""Folder of a run's measures, where they are kept with the run; and of the snapshots' in that."""
MODEL = "model.json"
"""What model the measures are of, where that is known only once one is loaded."""
DOWNLOADS = "checkpoints"
"""Folder of the checkpoints that are downloaded, in the folder of the measures."""
EDGES = "edges."
"""How the names of the measures of edges begin."""
_REMEDY = "delete the folder of the point, and it is measured again"
LOCK = ".tracking.lock"
"""What keeps a second process from measuring into the same folder."""


def track(
    run: str | Path | TrainingRun | Trackable | Iterable[Any],
    *,
    out: str | Path,
    text: Tokens | reading.Source | None = None,
    n_sequences: int = N_SEQUENCES,
    n_prompts: int = 32,
    n_ablated: int = 64,
    n_examples: int = 10_000,
    methods: Sequence[Method | str] | None = None,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoints: Checkpoints | None = None,
    keep: bool = False,
    engine: Engine | str = "local",
    resume: bool = True,
    progress: bool = True,
) -> Trajectory:
    """Measure a model at many moments of its training.

    Models are loaded one at a time. What is measured of each goes to `out/points/step-…` at once
    and is kept; the whole goes to `out/trajectory.parquet`. Called again after an interruption, or
    when there are more of them, it measures those that are missing.

    Args:
        run: A run, its folder, or a folder of snapshots; a suite of checkpoints
            (`induction_lens.suites.suite`), of which one at a time is downloaded, measured and
            deleted; or hooked models as they come, as `(step, tokens seen, model)`, such as a
            training loop yields.
        out: Folder for the measures.
        text: Sequences of token ids to measure on, BOS at position 0, as `sample_text` gives them;
            or sources of text as it takes them; None: held-out Python source. From text, sequences
            of 512 tokens are drawn, or of as many as a shorter context holds.
        n_sequences: Sequences to draw, where `text` holds no token ids.
        n_prompts: Prompts of repeated random tokens, four copies of 25, or of as many as fit a
            shorter context.
        n_ablated: Sequences that heads are knocked out on: the first ones, at most all.
        n_examples: Tokens of the text, at positions 1 and later, whose losses are kept one by one;
            at most all.
        methods: How to knock heads out; None: pattern-preserving in attention-only models (the
            paper's method), mean in others.
        early: Position of the early token of the ICL score; None: the paper's 50, or as the context
            allows.
        late: Position of the late token; None: the paper's 500, or as the context allows.
        window: Positions averaged on each side of both; made smaller where there is no room.
        seed: Seed of the text, the prompts, the choice of tokens, and of resample ablation.
        device: Where to run; None chooses as `load` does: CUDA, else Apple's MPS, else the CPU.
        checkpoints: Which of many: `log:40` takes 40 that are even in the logarithm of the step,
            `linear:40` and `every:5` likewise, a list names steps; None: all. Not for models that
            come one by one.
        keep: Whether downloaded checkpoints stay in `out/checkpoints`.
        engine: Who measures: `local`, this process; or `ray`, the machines of a Ray cluster.
        resume: Keep what was measured already; False measures everything again.
        progress: Show a bar on stderr where it takes over two seconds.

    Returns:
        The trajectory, equal to what `Trajectory.read` reads from `out/trajectory.parquet`.

    Warns:
        UserWarning: Models of different steps have the same weights, or a checkpoint of a suite has
            embeddings unlike those before and after.

    Raises:
        ValueError: There are no checkpoints, or they are of different models; an option is out of
            range; the hub or the cluster does not answer; the run has no tokenizer to draw text
            with; a file is damaged; another process measures into `out`; or `out` holds measures of
            another run, of other text, or made with other options.

    Examples:
        >>> tokens = il.repeated_random_tokens(il.load("toy-2l"), n_sequences=8)
        >>> model = il.toys.build_toy(il.toys.ToyConfig(n_layers=1, d_model=32, n_ctx=128))
        >>> run = il.train(model, tokens, n_steps=4, batch_size=4, snapshots=[0, 2, 4], out="run")
        >>> il.track(run, out="tracked", text=tokens).to_frame()[["step", "tokens_seen"]]
           step  tokens_seen
        0     0            0
        1     2          808
        2     4         1616
    """
    checks.flag("resume", resume)
    checks.flag("progress", progress)
    checks.flag("keep", keep)
    check_device(device)
    engine = as_engine(engine)
    out = output_folder(out)
    source = source_of(run, checkpoints, work=out / DOWNLOADS, keep=keep)
    asked = Asked(
        text=text,
        n_sequences=n_sequences,
        n_prompts=n_prompts,
        n_ablated=n_ablated,
        n_examples=n_examples,
        methods=methods,
        early=early,
        late=late,
        window=window,
        seed=seed,
    )
    if source.info is not None:
        asked.settled(source.info)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK) as lock:
        _tidy(out, resume=resume)
        points = _Points(lock, asked, source.info)
        moments = _measure_missing(source, points, engine=engine, device=device, progress=progress)
        trajectory = _join(points, source, moments)
        lock.check()
        trajectory.save(out / TRAJECTORY)
    _warn_of_equal_weights(trajectory)
    if source.published:
        _warn_off_curve(points, source.name, moments)
    return trajectory


class _Points:
    """The measures of a run on disk, moment by moment, in the folder of a lock."""

    def __init__(self, lock: Lock, asked: Asked, info: ModelInfo | None) -> None:
        self.lock = lock
        self.folder = lock.path.parent / POINTS
        self.asked = asked
        self.known = info
        if info is None:
            self.known = _read_info(lock.path.parent)
        self.evaluations: set[str] = set()

    @property
    def info(self) -> ModelInfo:
        """The model of the run, once one was seen."""
        assert self.known is not None
        return self.known

    @property
    def settings(self) -> Settings:
        """What the measures depend on."""
        return self.asked.settled(self.info)

    def is_there(self, moment: Moment) -> bool:
        """Whether a moment is measured, as it is wanted."""
        if self.known is None:
            return False
        about = _read_about(self.folder, moment, self.settings)
        if about is not None:
            self.evaluations.add(about["evaluation"])
        return about is not None

    def measure(self, moment: Moment, material: Material | None, device: Any) -> Result:
        """Measure a moment here, and keep what comes out."""
        options = {"info": self.known, "material": material, "device": device}
        result = measure_moment(moment, self.asked, **options)
        self.keep(moment, result)
        return result

    def keep(self, moment: Moment, result: Result) -> None:
        """Write what came out of a moment."""
        if self.known is None:
            _write_info(self.lock.path.parent, result.info)
            self.known = result.info
        evaluation = result.material.digest()
        _check_evaluation(self.folder, self.evaluations, evaluation)
        wanted = _wanted(moment, self.settings)
        about = {"evaluation": evaluation, "weights": result.weights, **wanted}
        about["embedding_norm"] = result.embedding_norm
        self.lock.check()
        _write_point(self.folder, moment, result.measures, about)


def _measure_missing(
    source: Source, points: _Points, *, engine: Engine, device: Any, progress: bool
) -> list[Moment]:
    """Make the points that are not there yet; all moments of the run."""
    if not isinstance(source.moments, Sequence):
        return _measure_passing(source.moments, points, progress=progress)
    moments = list(source.moments)
    missing = [moment for moment in moments if not points.is_there(moment)]
    title = "checkpoints" if progress else None
    n_done = len(moments) - len(missing)
    _say(source.note and f"{source.note}; {n_done} of {len(moments)} are measured", progress)
    with progress_bar(title, len(missing), unit="checkpoint") as done:
        if not missing:
            return moments
        first, *others = missing
        # the first one here: it shows which model this is, what to measure on, and the time
        result = points.measure(first, None, device)
        done(1)
        estimate = _estimated(result.seconds, len(others), points, engine)
        _say(source.note and estimate, progress)
        rest = engine.measured(
            others, points.asked, info=points.info, material=result.material, device=device
        )
        for moment, found in rest:
            points.keep(moment, found)
            done(1)
    return moments


def _measure_passing(passing: Iterable[Moment], points: _Points, *, progress: bool) -> list[Moment]:
    """Measure models as they come; without the models, what is known of them afterwards."""
    seen: list[Moment] = []
    material = None
    with progress_bar("models" if progress else None, 0, unit="model") as done:
        for moment in passing:
            if points.known is None:
                with moment.opened(None) as model:
                    _write_info(points.lock.path.parent, ModelInfo.of(model))
                    points.known = ModelInfo.of(model)
            if not points.is_there(moment):
                material = points.measure(moment, material, None).material
            seen.append(PastMoment(moment.step, moment.tokens_seen))
            done(1)
    if not seen:
        raise ValueError(
            "expected at least one model, got none; hand over (step, tokens seen, model)"
        )
    return seen


def _estimated(seconds: float, n: int, points: _Points, engine: Engine) -> str:
    """What the rest is: sequences through the model, and the time, from that of the first."""
    settings, config = points.settings, points.info.config
    n_heads = config["n_layers"] * config["n_heads"]
    ablated = len(settings.methods) * n_heads * min(settings.n_ablated, settings.n_sequences)
    sequences = settings.n_sequences + settings.n_prompts + ablated
    hours, minutes = divmod(round(seconds * n / 60), 60)
    rest = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    if seconds * n < 90:
        rest = f"{max(1, round(seconds * n))} s"
    by = "" if engine.name == "local" else f" by one worker of {engine.name}"
    return (
        f"each is at most {sequences:,} sequences through the model; the first took {seconds:.1f} "
        f"s, the other {n} take about {rest}{by}"
    )


def _say(line: str, progress: bool) -> None:
    if line and progress:
        print(line, file=sys.stderr)


def _tidy(out: Path, *, resume: bool) -> None:
    """Remove what a killed call left half-written and, without resume, all points."""
    tidy(out)
    tidy(out / POINTS)
    if not resume:
        (out / MODEL).unlink(missing_ok=True)
        for point in out.glob(f"{POINTS}/step-*"):
            shutil.rmtree(point)


def _read_info(out: Path) -> ModelInfo | None:
    """What model the points in a folder are of, where that was written down."""
    if not (out / MODEL).is_file():
        return None
    return ModelInfo(**read_json(out / MODEL, remedy="pass resume=False to measure again"))


def _write_info(out: Path, info: ModelInfo) -> None:
    with atomic_path(out / MODEL) as temporary:
        write_json(temporary, dataclasses.asdict(info))


def _wanted(moment: Moment, settings: Settings) -> dict[str, Any]:
    """What a point has to have been made from, as JSON reads it back."""
    options = {**dataclasses.asdict(settings), "detectors": DETECTORS}
    return json.loads(json.dumps({"weights_file": moment.digest, **options}))


def _read_about(points: Path, moment: Moment, settings: Settings) -> dict[str, Any] | None:
    """What is known of a moment's point; None where it is not made yet."""
    path = points / moment.key / ABOUT
    recover(path.parent)
    if not path.is_file():
        return None
    about = read_json(path, remedy=_REMEDY)
    wanted = _wanted(moment, settings)
    differs = [name for name in wanted if about.get(name) != wanted[name]]
    differs += [name for name in ("evaluation", "weights") if not isinstance(about.get(name), str)]
    if differs:
        raise ValueError(
            f"expected measures made of this run and with these options, got {path.parent} with "
            f"another {', '.join(differs)}; use another folder, or pass resume=False to measure "
            "everything again"
        )
    return about


def _check_evaluation(points: Path, evaluations: set[str], drawn: str) -> None:
    if evaluations - {drawn}:
        raise ValueError(
            f"expected the measures in {points} to be of the text that is drawn here, got other "
            "text or prompts (another Python version has other source files); use another folder, "
            "or pass resume=False to measure everything again"
        )


def _write_point(
    points: Path, moment: Moment, measures: dict[str, Tensor], about: dict[str, Any]
) -> None:
    with atomic_folder(points / moment.key) as fresh:
        save_tensors(fresh / MEASURES, measures)
        write_json(fresh / ABOUT, about)


def _join(points: _Points, source: Source, moments: Sequence[Moment]) -> Trajectory:
    """The points of all moments as one trajectory."""
    folders = [points.folder / moment.key for moment in moments]
    abouts = [read_json(folder / ABOUT, remedy=_REMEDY) for folder in folders]
    by_point = [read_tensors(folder / MEASURES, remedy=_REMEDY)[0] for folder in folders]
    in_all = set.intersection(*(set(point) for point in by_point))
    # measured before there were edges: the trajectory is as it was then
    old = {name for point in by_point for name in point if name.startswith(EDGES)} - in_all
    by_point = [{k: v for k, v in point.items() if k not in old} for point in by_point]
    for folder, point in zip(folders, by_point, strict=True):
        if point.keys() != by_point[0].keys():
            raise ValueError(
                f"expected the measures of {folders[0]} in {folder} too, got others; {_REMEDY}"
            )
    joined = {name: torch.stack([point[name] for point in by_point]) for name in by_point[0]}
    settings = points.settings
    losses = [moment.loss for moment in moments]
    return Trajectory(
        name=source.name,
        config=points.info.config,
        seed=source.seed,
        steps=torch.tensor([moment.step for moment in moments], device="cpu"),
        tokens_seen=torch.tensor([moment.tokens_seen for moment in moments], device="cpu"),
        training_loss=torch.tensor(losses, dtype=torch.float32, device="cpu"),
        held_out_loss=joined["held_out_loss"],
        icl=joined["icl"],
        early=settings.early,
        late=settings.late,
        window=settings.window,
        scores={name: joined[f"scores.{name}"] for name in DETECTORS},
        induction_by_sequence=joined["induction_by_sequence"],
        effects={method: joined[f"effects.{method}"] for method in settings.methods},
        loss_by_position=joined["loss_by_position"],
        token_losses=joined["token_losses"].float(),
        smear=joined.get("smear"),
        weights=tuple(about["weights"] for about in abouts),
        evaluation=abouts[0]["evaluation"],
        clamp=source.clamp,
        edges={k.removeprefix(EDGES): v for k, v in joined.items() if k.startswith(EDGES)},
    )


def _warn_of_equal_weights(trajectory: Trajectory) -> None:
    steps: dict[str, list[int]] = {}
    for weights, step in zip(trajectory.weights, trajectory.steps.tolist(), strict=True):
        steps.setdefault(weights, []).append(step)
    for same in steps.values():
        if len(same) > 1:
            named = ", ".join(map(str, same))
            warnings.warn(
                f"the snapshots of {trajectory.name} at steps {named} have the same weights: "
                "either nothing was learned between them, or some are not of the step they say",
                UserWarning,
                stacklevel=3,
            )


def _warn_off_curve(points: _Points, name: str, moments: Sequence[Moment]) -> None:
    """Say which checkpoints have embeddings unlike those before and after."""
    abouts = [read_json(points.folder / one.key / ABOUT, remedy=_REMEDY) for one in moments]
    norms = {
        moment.step: float(about["embedding_norm"])
        for moment, about in zip(moments, abouts, strict=True)
        if "embedding_norm" in about  # earlier versions kept none
    }
    for step in off_curve(list(norms), list(norms.values())):
        warnings.warn(
            f"the embeddings of {name} at step {step} have a mean norm of {norms[step]:.3g}, which "
            "is not on the curve of the steps before and after: it may be the checkpoint of "
            "another step; look at it, and leave it out if it is",
            UserWarning,
            stacklevel=3,
        )
