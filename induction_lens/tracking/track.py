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
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.methods import MAIN_METHOD, METHODS, Method, PatternPreserving
from induction_lens.detectors import DETECTORS, TargetMass, measure, prompts, score_heads
from induction_lens.files import atomic_folder, output_folder, recover, tidy
from induction_lens.inputs.tokens import text_tokens
from induction_lens.locks import Lock, locked
from induction_lens.metrics import choose_positions, icl_per_sequence, per_token_loss
from induction_lens.models import best_device, check_device, toy_weights, weights_hash
from induction_lens.progress import progress_bar
from induction_lens.seals import read_json, read_tensors, save_tensors, tokens_digest, write_json
from induction_lens.toys.model import ToyConfig
from induction_lens.toys.snapshots import CONFIG, Snapshot, list_snapshots, load, read_snapshot
from induction_lens.tracking.trajectory import TRAJECTORY, Trajectory
from induction_lens.training.loop import TrainingRun
from induction_lens.training.run_folder import SNAPSHOTS

ABOUT, MEASURES = "point.json", "measures.safetensors"
TRACKED, POINTS = "tracked", "points"
"""Folder of a run's measures, where they are kept with the run; and of the snapshots' in that."""
SEQ_LEN = 512
"""Tokens in a sequence of text, BOS included, where the context is not shorter."""
_REMEDY = "delete the folder of the point, and it is measured again"
LOCK = ".tracking.lock"
"""What keeps a second process from measuring into the same folder."""
N_SEQUENCES = 512
"""Sequences of text. With 128, the change of a model went unfound in two of sixteen draws of
sequences, and the intervals of plain and smeared keys could overlap."""


def track(
    run: str | Path | TrainingRun,
    *,
    out: str | Path,
    text: Int[Tensor, "sequence pos"] | None = None,
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
    resume: bool = True,
    progress: bool = True,
) -> Trajectory:
    """Measure every snapshot of a training run.

    Snapshots are loaded one at a time. What is measured of each goes to `out/points/step-…` at once
    and is kept; the whole goes to `out/trajectory.parquet`. Called again after an interruption, or
    when there are more snapshots, it measures those that are missing.

    Args:
        run: A run, its folder, or a folder of snapshots.
        out: Folder for the measures.
        text: Sequences to measure on, BOS at position 0; None draws held-out Python source, in
            sequences of 512 tokens, or as many as a shorter context holds.
        n_sequences: Sequences to draw where `text` is None.
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
        resume: Keep what was measured already; False measures everything again.
        progress: Show a bar on stderr where it takes over two seconds.

    Returns:
        The trajectory, equal to what `Trajectory.read` reads from `out/trajectory.parquet`.

    Warns:
        UserWarning: Snapshots of different steps have the same weights.

    Raises:
        ValueError: There are no snapshots, or they are of different models; an option is out of
            range; the run has no tokenizer to draw text with; a file is damaged; another process
            measures into `out`; or `out` holds measures of another run, of other text, or made
            with other options.

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
    check_device(device)
    out = output_folder(out)
    snapshots = snapshots_of(run)
    config = snapshots[0].config
    text = None if text is None else _checked_text(text, config)
    length = _length(config) if text is None else text.shape[1]
    where = choose_positions(length, early=early, late=late, window=window)
    settings = _Settings(
        text=None if text is None else tokens_digest(text),
        n_sequences=n_sequences if text is None else len(text),
        n_prompts=n_prompts,
        n_ablated=n_ablated,
        n_examples=n_examples,
        methods=_checked_methods(methods, attn_only=config.attn_only),
        **dataclasses.asdict(where),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK) as lock:
        _tidy(out, resume=resume)
        _measure_missing(snapshots, lock, text, settings, device=device, progress=progress)
        trajectory = _join(out / POINTS, snapshots, settings)
        lock.check()
        trajectory.save(out / TRAJECTORY)
    _warn_of_equal_weights(trajectory)
    return trajectory


def _measure_missing(
    snapshots: Sequence[Snapshot],
    lock: Lock,
    text: Tensor | None,
    settings: _Settings,
    *,
    device: torch.device | str | None,
    progress: bool,
) -> None:
    """Make the points that are not there yet, in the folder of the lock."""
    points = lock.path.parent / POINTS
    known = [_read_about(points, snapshot, settings) for snapshot in snapshots]
    missing = [s for s, about in zip(snapshots, known, strict=True) if about is None]
    evaluations = {about["evaluation"] for about in known if about is not None}
    material = None
    title = "snapshots" if progress else None
    with progress_bar(title, len(missing), unit="snapshot") as done:
        for snapshot in missing:
            model = load(snapshot, device=best_device() if device is None else device)
            if material is None:
                material = _draw(model, text, settings)
                _check_evaluation(points, evaluations, material)
            measures = _measure(model, material, settings)
            about = {
                "evaluation": material.digest(),
                "weights": weights_hash(model),
                **_wanted(snapshot, settings),
            }
            lock.check()
            _write_point(points, snapshot, measures, about)
            done(1)


@dataclass(frozen=True)
class _Settings:
    """Everything but the weights that the numbers depend on."""

    text: str | None
    n_sequences: int
    n_prompts: int
    n_ablated: int
    n_examples: int
    methods: tuple[str, ...]
    early: int
    late: int
    window: int
    seed: int

    def __post_init__(self) -> None:
        """Check everything, and make plain numbers of NumPy's."""
        for name in ("n_sequences", "n_prompts", "n_ablated", "n_examples"):
            number = checks.whole_number(name, getattr(self, name), least=1)
            object.__setattr__(self, name, number)
        object.__setattr__(self, "seed", checks.seed(self.seed))


@dataclass(frozen=True)
class _Material:
    """What every snapshot is measured on."""

    text: Int[Tensor, "sequence pos"]
    prompts: Int[Tensor, "prompt prompt_pos"]
    # indices into the losses [sequence, pos - 1] of positions 1 and later, flattened
    examples: Int[Tensor, " example"]

    def digest(self) -> str:
        return tokens_digest(self.text, self.prompts, self.examples)


def held_out_text(
    model: Any, *, n_sequences: int = N_SEQUENCES, seed: int = 0
) -> Int[Tensor, "sequence pos"]:
    """The text that `track` draws for a toy model where none is given."""
    length = _length(model.toy_config)
    return text_tokens(model, n_sequences=n_sequences, seq_len=length, seed=seed)


def _length(config: ToyConfig) -> int:
    return min(SEQ_LEN, config.n_ctx)


def _draw(model: Any, text: Tensor | None, settings: _Settings) -> _Material:
    if text is None:
        text = held_out_text(model, n_sequences=settings.n_sequences, seed=settings.seed)
    n_losses = len(text) * (text.shape[1] - 1)
    # as in the runs that ship, with which others are compared
    random = prompts(model, n_sequences=settings.n_prompts, seed=settings.seed, one_length=True)
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(n_losses, generator=generator, device="cpu")[: settings.n_examples]
    return _Material(
        text=text.cpu(),
        prompts=random.cpu(),
        examples=chosen.sort().values,
    )


def _measure(model: Any, material: _Material, settings: _Settings) -> dict[str, Tensor]:
    """All that is measured of one snapshot, by the names of `Trajectory`."""
    text = material.text
    random = material.prompts
    losses = per_token_loss(model, text, progress=False)
    predicted = losses[:, 1:].double()
    measures = {
        "held_out_loss": predicted.mean().float(),
        "icl": icl_per_sequence(losses, settings.early, settings.late, window=settings.window),
        "loss_by_position": losses.double().mean(0).float(),
        "token_losses": losses[:, 1:].flatten()[material.examples].half(),
        "induction_by_sequence": _induction_by_sequence(model, random),
    }
    scores = score_heads(model, tokens=random, text=text, shuffled_null=False, progress=False)
    measures |= {f"scores.{name}": score.values for name, score in scores.items()}
    for method in settings.methods:
        effects = ablate_each_head(
            model,
            text[: settings.n_ablated],
            method=method,
            seed=settings.seed,
            early=settings.early,
            late=settings.late,
            window=settings.window,
            estimator="paper",  # as in the runs that ship
            progress=False,
        )
        measures[f"effects.{method}"] = effects.values
    config = model.toy_config
    if config.smeared_keys:
        weights = toy_weights(model)
        alphas = [weights[f"blocks.{layer}.attn.smear"] for layer in range(config.n_layers)]
        measures["smear"] = torch.stack(alphas).detach().float().sigmoid()
    return {name: value.cpu().contiguous() for name, value in measures.items()}


def _induction_by_sequence(model: Any, random: Tensor) -> Tensor:
    """[layer head prompt]: the induction score on each prompt alone."""
    mass = TargetMass(model, random, ["induction"])
    measure(model, random, [mass])
    return mass.by_sequence("induction")


def snapshots_of(run: str | Path | TrainingRun) -> Sequence[Snapshot]:
    """The snapshots of a run, of its folder, or of a folder of snapshots, by step.

    Raises:
        ValueError: There are none, or they are of different models.
    """
    if isinstance(run, TrainingRun):
        snapshots = run.snapshots
        where = "a run that kept none"
    else:
        folder = checks.path("run", run)
        inside = folder / SNAPSHOTS
        if not inside.is_dir() and (folder / CONFIG).is_file():
            found = read_snapshot(folder)  # refuses models of others, with what to do instead
            raise ValueError(
                f"expected a training run, got {folder}, the snapshot of step {found.step}; name "
                "the folder that the step-... folders are in"
            )
        snapshots = list_snapshots(inside if inside.is_dir() else folder)
        where = f"{folder} without any"
    if not snapshots:
        raise ValueError(
            f"expected a training run with snapshots, got {where}; train with out=..., or name the "
            "folder that holds the step-... folders"
        )
    for snapshot in snapshots:
        if snapshot.config != snapshots[0].config:
            raise ValueError(
                f"expected snapshots of one model, got another configuration in {snapshot.path} "
                f"than in {snapshots[0].path}; track each run by itself"
            )
    return snapshots


def _checked_methods(methods: Sequence[Method | str] | None, *, attn_only: bool) -> tuple[str, ...]:
    if methods is None:
        return (PatternPreserving.name if attn_only else MAIN_METHOD,)
    return tuple(checks.some_of("methods", methods, METHODS))


def _checked_text(text: Any, config: ToyConfig) -> Tensor:
    remedy = "give token ids, as `text_tokens` makes them"
    text = checks.tensor("text", text, axes=["sequence", "pos"], whole=True, remedy=remedy)
    least = int(text.min())
    most = int(text.max())
    if text.shape[1] > config.n_ctx or least < 0 or most >= config.d_vocab:
        raise ValueError(
            f"expected text of at most {config.n_ctx} tokens a sequence, with ids from 0 to "
            f"{config.d_vocab - 1}, got {text.shape[1]} tokens with ids from {least} to {most}; "
            "cut it, and encode it with the model's tokenizer"
        )
    return text


def _tidy(out: Path, *, resume: bool) -> None:
    """Remove what a killed call left half-written and, without resume, all points."""
    tidy(out)
    tidy(out / POINTS)
    if not resume:
        for point in out.glob(f"{POINTS}/step-*"):
            shutil.rmtree(point)


def _wanted(snapshot: Snapshot, settings: _Settings) -> dict[str, Any]:
    """What a point has to have been made from, as JSON reads it back."""
    options = {**dataclasses.asdict(settings), "detectors": DETECTORS}
    return json.loads(json.dumps({"weights_file": snapshot.sha256, **options}))


def _read_about(points: Path, snapshot: Snapshot, settings: _Settings) -> dict[str, Any] | None:
    """What is known of a snapshot's point; None where it is not made yet."""
    path = points / snapshot.path.name / ABOUT
    recover(path.parent)
    if not path.is_file():
        return None
    about = read_json(path, remedy=_REMEDY)
    wanted = _wanted(snapshot, settings)
    differs = [name for name in wanted if about.get(name) != wanted[name]]
    differs += [name for name in ("evaluation", "weights") if not isinstance(about.get(name), str)]
    if differs:
        raise ValueError(
            f"expected measures made of this run and with these options, got {path.parent} with "
            f"another {', '.join(differs)}; use another folder, or pass resume=False to measure "
            "everything again"
        )
    return about


def _check_evaluation(points: Path, evaluations: set[str], material: _Material) -> None:
    if evaluations - {material.digest()}:
        raise ValueError(
            f"expected the measures in {points} to be of the text that is drawn here, got other "
            "text or prompts (another Python version has other source files); use another folder, "
            "or pass resume=False to measure everything again"
        )


def _write_point(
    points: Path, snapshot: Snapshot, measures: dict[str, Tensor], about: dict[str, Any]
) -> None:
    with atomic_folder(points / snapshot.path.name) as fresh:
        save_tensors(fresh / MEASURES, measures)
        write_json(fresh / ABOUT, about)


def _join(points: Path, snapshots: Sequence[Snapshot], settings: _Settings) -> Trajectory:
    """The points of all snapshots as one trajectory."""
    folders = [points / snapshot.path.name for snapshot in snapshots]
    abouts = [read_json(folder / ABOUT, remedy=_REMEDY) for folder in folders]
    by_point = [read_tensors(folder / MEASURES, remedy=_REMEDY)[0] for folder in folders]
    for folder, point in zip(folders, by_point, strict=True):
        if point.keys() != by_point[0].keys():
            raise ValueError(
                f"expected the measures of {folders[0]} in {folder} too, got others; {_REMEDY}"
            )
    joined = {name: torch.stack([point[name] for point in by_point]) for name in by_point[0]}
    config = snapshots[0].config
    losses = [snapshot.extra.get("loss", float("nan")) for snapshot in snapshots]
    return Trajectory(
        name=_name_of(snapshots[0]),
        config=config.to_dict(),
        seed=config.seed,
        steps=torch.tensor([snapshot.step for snapshot in snapshots], device="cpu"),
        tokens_seen=torch.tensor([snapshot.tokens_seen for snapshot in snapshots], device="cpu"),
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
        clamp=tuple(snapshots[-1].extra.get("clamp", ())),
    )


def _name_of(snapshot: Snapshot) -> str:
    """The name of the folder of a snapshot's run."""
    folder = snapshot.path.resolve().parent
    return folder.parent.name if folder.name == "snapshots" else folder.name


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
