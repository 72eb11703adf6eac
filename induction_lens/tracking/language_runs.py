"""Measuring a run on a language, snapshot by snapshot, beside what the language's structure says.

On the same fresh sequences at every snapshot:

- the loss of each kind of token, beside the losses of the language's best predictor and of lesser
  ones (`SolvedLanguage.reference_losses`);
- the attention of every head on the language's matches (`SolvedLanguage.matches`), on previous
  tokens, on what followed earlier copies (induction) and on duplicates;
- the K-composition of every pair of heads, from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits import composition
from induction_lens.detectors import AttentionDetector, score_heads
from induction_lens.heads import Head
from induction_lens.languages import SolvedLanguage
from induction_lens.metrics import per_token_loss
from induction_lens.packing import Comparable
from induction_lens.progress import progress_bar
from induction_lens.seals import read_tensors, write_tensors
from induction_lens.style import CLEAN, CONTROL, Theme, new_figure, themed
from induction_lens.toys.snapshots import load as load_snapshot
from induction_lens.tracking.moments import snapshots_of
from induction_lens.training.clamp import Clamp, cut_at, cutting
from induction_lens.training.loop import TrainingRun

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DETECTORS = ("previous_token", "induction", "duplicate_token")
"""What is scored beside the language's own matches."""
_GROUPS = ("losses", "scores", "distances")
_REMEDY = "write one with LanguageTrajectory.save"


@dataclass(frozen=True, eq=False)
class LanguageTrajectory(Comparable):
    """One run on a language, measured at each of its snapshots on the same sequences.

    Examples:
        >>> language = il.languages.MarkovChains(n_states=4)
        >>> run = il.training.train_language("markov", "chains", n_steps=8, progress=False)
        >>> found = il.tracking.track_language(run, il.training.LANGUAGE_PRESETS["markov"].language)
        >>> sorted(found.scores), found.composed.shape[1:]
        (['chain', 'duplicate_token', 'induction', 'previous_token'], torch.Size([2, 4, 2, 4]))
    """

    language: str
    """What the language is."""
    config: Mapping[str, Any]
    """The model: `ToyConfig.to_dict()`."""
    seed: int
    """Seed that the run's first weights were drawn with."""
    steps: Int[Tensor, " snapshot"]
    """Updates of the weights before each snapshot, rising."""
    tokens_seen: Int[Tensor, " snapshot"]
    """Training tokens before each snapshot, BOS included."""
    losses: Mapping[str, Float[Tensor, "snapshot sequence"]]
    """By kind of token: the model's mean loss on each sequence, nats per token; NaN in a sequence
    that has no such token."""
    references: Mapping[str, Mapping[str, float]]
    """By predictor and kind of token: the mean loss on the same tokens, nats per token."""
    scores: Mapping[str, Float[Tensor, "snapshot layer head"]]
    """By match or detector: the attention of every head on its targets."""
    distances: Mapping[str, Float[Tensor, " snapshot"]]
    """By predictor: the root mean square difference of its losses and the model's, token by token,
    in nats. Two predictors of one mean loss may be far apart by it."""
    uniform: Mapping[str, float]
    """By match or detector: the score of uniform attention."""
    composed: Float[Tensor, "snapshot layer head earlier_layer earlier_head"]
    """K-composition, minus what random matrices give; NaN where the second is not earlier."""
    clamp: tuple[Mapping[str, Any], ...] = ()
    """What was held at zero while it was measured: `Clamp.to_dict()` of each clamp."""

    def __repr__(self) -> str:
        """In one line: the language, and its snapshots."""
        return f"LanguageTrajectory({self.language}: {len(self.steps)} snapshots)"

    def loss(self, kind: str = "all") -> Float[Tensor, " snapshot"]:
        """The mean loss of a kind of token at each snapshot.

        Raises:
            ValueError: If the language has no such kind.
        """
        checks.one_of("kind", kind, self.losses)
        return self.losses[kind].nanmean(1)

    def gap(self, kind: str = "all") -> Float[Tensor, " snapshot"]:
        """The mean loss of a kind of token beyond that of the best predictor, at each snapshot.

        Raises:
            ValueError: If the language has no such kind.
        """
        return self.loss(kind) - self.references["optimal"][kind]

    def reference_gaps(self, kind: str = "all") -> dict[str, float]:
        """The same of other predictors, by name; of the best one it is 0.

        Raises:
            ValueError: If the language has no such kind.
        """
        checks.one_of("kind", kind, self.losses)
        best = self.references["optimal"][kind]
        return {name: by_kind[kind] - best for name, by_kind in self.references.items()}

    def between(self, first: int, last: int) -> LanguageTrajectory:
        """The snapshots from one step to another, both included.

        Raises:
            ValueError: If there is none.
        """
        least = checks.whole_number("first", first, least=0)
        most = checks.whole_number("last", last, least=least)
        kept = (self.steps >= least) & (self.steps <= most)
        if not bool(kept.any()):
            raise ValueError(
                f"expected snapshots between the steps {least} and {most}, got those of "
                f"{self.steps.tolist()}; choose a wider part"
            )
        groups = {
            group: {name: values[kept] for name, values in getattr(self, group).items()}
            for group in _GROUPS
        }
        plain = {name: getattr(self, name)[kept] for name in ("steps", "tokens_seen", "composed")}
        return replace(self, **plain, **groups)

    def strongest(self, name: str) -> Head:
        """The head with the highest score at the last snapshot.

        Raises:
            ValueError: If nothing of this name was scored.
        """
        checks.one_of("name", name, self.scores)
        last = self.scores[name][-1]
        return Head(*divmod(int(last.argmax()), last.shape[1]))

    def learnt_at(self, below: float, *, kind: str = "all", after: int = 0) -> int | None:
        """The step of the first snapshot from which on the loss stays below a value; None if it
        does not.

        Args:
            below: In nats per token.
            kind: Of which kind of token.
            after: Snapshots before this step do not count.

        Raises:
            ValueError: If the language has no such kind.
        """
        is_below = (self.loss(kind) < below) & (self.steps >= after)
        last_above = (~is_below).nonzero()
        first = 0 if not len(last_above) else int(last_above[-1]) + 1
        return None if first == len(self.steps) else int(self.steps[first])

    def to_frame(self) -> pd.DataFrame:
        """One row per snapshot: `step`, `tokens_seen`, `loss_…` of each kind, the losses of other
        predictors as `optimal_…`, distances as `from_…`, and of each score the highest, `max_…`.
        """
        import pandas as pd

        columns: dict[str, Any] = {"step": self.steps, "tokens_seen": self.tokens_seen}
        columns |= {f"loss_{kind}": self.loss(kind) for kind in self.losses}
        for predictor, by_kind in self.references.items():
            columns |= {f"{predictor}_{kind}": value for kind, value in by_kind.items()}
        columns |= {f"from_{name}": values for name, values in self.distances.items()}
        columns |= {f"max_{name}": values.amax((1, 2)) for name, values in self.scores.items()}
        return pd.DataFrame(
            {k: v.numpy() if isinstance(v, Tensor) else v for k, v in columns.items()}
        )

    def plot(self, kind: str = "all", *, theme: Theme | None = None) -> go.Figure:
        """The loss of a kind of token over training, and, as lines, those of other predictors.

        Raises:
            ValueError: If the language has no such kind, or there is no such theme.
        """
        import plotly.graph_objects as go

        loss = self.loss(kind)
        drawn = go.Scatter(
            x=self.steps.tolist(), y=loss.tolist(), name="model", mode="lines", line_color=CLEAN
        )
        figure = new_figure([drawn], height=320)
        for predictor, by_kind in self.references.items():
            figure.add_hline(by_kind[kind], line_color=CONTROL, annotation_text=predictor)
        figure.update_xaxes(title="updates")
        figure.update_yaxes(title="loss, nats per token")
        return themed(figure, theme)

    def save(self, path: str | Path) -> None:
        """Write the trajectory as one safetensors file, atomically."""
        tensors = {"steps": self.steps, "tokens_seen": self.tokens_seen, "composed": self.composed}
        for group in _GROUPS:
            tensors |= {f"{group}/{name}": value for name, value in getattr(self, group).items()}
        about = {
            "language": self.language,
            "config": dict(self.config),
            "seed": self.seed,
            "references": {name: dict(by_kind) for name, by_kind in self.references.items()},
            "uniform": dict(self.uniform),
            "clamp": list(self.clamp),
            "names": {group: list(getattr(self, group)) for group in _GROUPS},
        }
        write_tensors(path, {name: value.contiguous() for name, value in tensors.items()}, about)

    @classmethod
    def read(cls, path: str | Path) -> LanguageTrajectory:
        """Read what `save` wrote.

        Raises:
            ValueError: There is no such file, it is no trajectory, or it is damaged.
        """
        tensors, about = read_tensors(checks.path("path", path), remedy=_REMEDY)
        try:
            names = about.pop("names")  # in their order, which the file does not keep
            groups: dict[str, Any] = {
                group: {name: tensors[f"{group}/{name}"] for name in names[group]}
                for group in _GROUPS
            }
            plain = {name: tensors[name] for name in ("steps", "tokens_seen", "composed")}
            return cls(**plain, **groups, **{**about, "clamp": tuple(about["clamp"])})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"expected a trajectory of a language in {path}, got another file ({error!r}); "
                f"{_REMEDY}"
            ) from error


def track_language(
    run: str | Path | TrainingRun,
    language: SolvedLanguage,
    *,
    n_sequences: int = 64,
    seq_len: int | None = None,
    clamp: Clamp | Sequence[Clamp] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LanguageTrajectory:
    """Measure a run at each of its snapshots on fresh sequences of a language.

    Args:
        run: A run, its folder, or a folder of snapshots.
        language: What to measure on: what the run was trained on, or another of its vocabulary.
        n_sequences: How many sequences to draw.
        seq_len: Their length; None: as long as the model reads.
        clamp: What to hold at zero while measuring, whatever the clamps' steps: a model that was
            trained under a clamp is another one without it.
        seed: Seed of the sequences, below 2**20: `language_batches` never draws these.
        progress: Show a bar.

    Raises:
        ValueError: There are no snapshots, the model does not read the language, or an option is
            out of range.

    Examples:
        >>> run = il.training.train_language("markov", "chains", n_steps=8, progress=False)
        >>> language = il.training.LANGUAGE_PRESETS["markov"].language
        >>> found = il.tracking.track_language(run, language, n_sequences=8)
        >>> [round(of_tokens["all"], 1) for of_tokens in found.references.values()]
        [1.2, 1.4]
    """
    remedy = "for instance TwoAlphabets(); of text and of mixtures the best predictor is not known"
    checks.instance("language", language, SolvedLanguage, remedy)
    snapshots = snapshots_of(run)
    config = snapshots[0].config
    seed = checks.whole_number("seed", seed, least=0, most=2**20 - 1)
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=2)
    seq_len = checks.whole_number("seq_len", seq_len, least=2, most=config.n_ctx, optional=True)
    if language.d_vocab > config.d_vocab:
        raise ValueError(
            f"expected a language of at most {config.d_vocab} tokens, which the model knows, got "
            f"one of {language.d_vocab}; pass the one that the run was trained on"
        )
    clamps = () if clamp is None else (clamp,) if isinstance(clamp, Clamp) else tuple(clamp)
    tokens = language.sample(
        n_sequences, seq_len=config.n_ctx if seq_len is None else seq_len, seed=seed
    )
    measured = []
    with progress_bar("snapshots" if progress else None, len(snapshots)) as done:
        for snapshot in snapshots:
            measured.append(
                _measure(load_snapshot(snapshot, device="cpu"), language, tokens, clamps)
            )
            done(1)
    return LanguageTrajectory(
        language=repr(language),
        config=config.to_dict(),
        seed=config.seed,
        steps=torch.tensor([snapshot.step for snapshot in snapshots], device="cpu"),
        tokens_seen=torch.tensor([one.tokens_seen for one in snapshots], device="cpu"),
        losses=_stacked([one["losses"] for one in measured]),
        references=_references(language, tokens),
        scores=_stacked([one["scores"] for one in measured]),
        distances=_stacked([one["distances"] for one in measured]),
        uniform=measured[0]["uniform"],
        composed=torch.stack([one["composed"] for one in measured]),
        clamp=tuple(one.to_dict() for one in clamps),
    )


def language_detectors(language: SolvedLanguage) -> list[AttentionDetector]:
    """A detector for each of the language's matches.

    Examples:
        >>> language = il.languages.TwoAlphabets()
        >>> [one.name for one in il.tracking.language_detectors(language)]
        ['block']
    """

    def targets_of(name: str):
        def targets(tokens: Int[Tensor, "batch pos"]) -> tuple[Tensor, Tensor, Tensor]:
            return language.matches(tokens.cpu())[name]

        return targets

    names = language.matches(language.sample(1, seq_len=2))
    return [AttentionDetector(name, targets_of(name)) for name in names]


def _measure(
    model: Any, language: SolvedLanguage, tokens: Tensor, clamps: tuple[Clamp, ...]
) -> dict[str, Any]:
    """What one snapshot gives."""
    composed = composition(model, n_draws=200)
    acting = cut_at([Clamp(**{**vars(one), "start": 0, "end": None}) for one in clamps], 0)
    detectors = [*language_detectors(language), *DETECTORS]
    with cutting(model, acting) if clamps else nullcontext():
        losses = per_token_loss(model, tokens, progress=False)
        table = score_heads(
            model, tokens=tokens, detectors=detectors, shuffled_null=False, progress=False
        )
    others = language.reference_losses(tokens)
    return {
        "distances": {
            predictor: (losses - known)[:, 1:].square().mean().sqrt()
            for predictor, known in others.items()
        },
        "losses": {
            kind: losses.where(among, torch.nan).nanmean(1)
            for kind, among in language.token_groups(tokens).items()
        },
        "scores": {name: scores.values.float() for name, scores in table.items()},
        "uniform": {
            name: float("nan") if scores.uniform is None else scores.uniform
            for name, scores in table.items()
        },
        "composed": composed.scores[1].float(),
    }


def _references(language: SolvedLanguage, tokens: Tensor) -> dict[str, dict[str, float]]:
    groups = language.token_groups(tokens)
    return {
        predictor: {kind: losses[among].mean().item() for kind, among in groups.items()}
        for predictor, losses in language.reference_losses(tokens).items()
    }


def _stacked(of_snapshots: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in of_snapshots]) for name in of_snapshots[0]}
