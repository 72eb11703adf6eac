"""Families: the same battery on models of several sizes (Olsson et al. 2022, "Argument 6").

Every model is measured on the same text and prompts, each encoded with its own tokenizer: loss, the
ICL score by both estimators, heads above the threshold and at which depth, how copying goes with
prefix matching, and what knocking the found heads out removes, beside controls. Then each quantity
is compared with the size of the models (`trend`). Size is the number of parameters in the matrices
of the blocks: embeddings grow with the vocabulary and not with what the model computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.methods import AblationMethod, Method
from induction_lens.ablation.study import AblationStudy, ablate
from induction_lens.detectors import score_heads
from induction_lens.dynamics import phase_change
from induction_lens.estimates import Estimate, Measure, bootstrap_mean, columns
from induction_lens.heads import THRESHOLD, Head, HeadScores, names_of
from induction_lens.inputs import sample_text
from induction_lens.inputs.reading import Source
from induction_lens.loading import load
from induction_lens.metrics import choose_positions
from induction_lens.models import is_model, model_name, shape, units_of
from induction_lens.progress import libraries_follow, progress_bar
from induction_lens.suites.trend import Trend, trend
from induction_lens.tracking.trajectory import Trajectory

if TYPE_CHECKING:
    import pandas as pd

SEQ_LEN = 512
"""Tokens in a sequence of text where every context is as long."""
PREDICTED = 10**5.7
"""Tokens of the phase change for each root of a token in a batch: `10^5.7 · √(batch × context)`."""
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
class Member:
    """One model of a family."""

    name: str
    """What it was loaded as."""
    parameters: int
    """Numbers in the matrices of its blocks."""
    n_layers: int
    """Layers."""
    n_heads: int
    """Heads in each layer."""
    loss: Estimate
    """Mean loss of the text, nats per token."""
    icl: Estimate
    """ICL score by matched targets, in nats."""
    icl_paper: Estimate
    """ICL score as the paper defines it, in nats."""
    induction: HeadScores
    """Prefix-matching score of every head."""
    copying: HeadScores
    """Copying score of every head, from its weights."""
    found: tuple[Head, ...]
    """Heads above the threshold, strongest first."""
    study: AblationStudy
    """What knocking these heads out does; the strongest head, where none is above."""
    midpoint: Estimate | None = None
    """Midpoint of the phase change, in tokens; None where no trajectory was given or none found."""
    tokens_per_step: float | None = None
    """Of training; None without a trajectory."""

    @property
    def share_above(self) -> float:
        """Heads above the threshold, as a share of all."""
        return len(self.found) / (self.n_layers * self.n_heads)

    @property
    def depth(self) -> float:
        """Mean layer of these heads: 0 is the first, 1 the last; NaN with one layer or no head."""
        if not self.found or self.n_layers < 2:
            return math.nan
        return sum(head.layer for head in self.found) / len(self.found) / (self.n_layers - 1)

    @property
    def copying_correlation(self) -> float:
        """Pearson's correlation of both scores over heads; NaN where one does not vary."""
        scores = torch.stack([self.induction.values.flatten(), self.copying.values.flatten()])
        if bool((scores.std(1) == 0).any()):
            return math.nan
        return float(torch.corrcoef(scores.double())[0, 1])

    @property
    def control_removed(self) -> float:
        """Mean share of the ICL score that control sets remove; NaN without any."""
        effects = [control.effect.value for control in self.study.controls]
        return -sum(effects) / len(effects) / self.study.clean.value if effects else math.nan

    @property
    def midpoint_over_predicted(self) -> float:
        """The midpoint over `10^5.7 · √(batch × context)`; NaN where one is not known."""
        if self.midpoint is None or self.tokens_per_step is None:
            return math.nan
        return self.midpoint.value / (PREDICTED * math.sqrt(self.tokens_per_step))

    def to_row(self) -> dict[str, Any]:
        """The model as a row of `Family.to_frame`."""
        removed = self.study.share
        return {
            "model": self.name,
            "parameters": self.parameters,
            "layers": self.n_layers,
            "heads": self.n_heads,
            **columns("loss", self.loss),
            **columns("icl", self.icl),
            **columns("icl_paper", self.icl_paper),
            "above": len(self.found),
            "share_above": self.share_above,
            "depth": self.depth,
            "strongest": self.induction.top(1)[0][1],
            "copying_correlation": self.copying_correlation,
            "knocked_out": names_of(self.study.heads, between=" "),
            **columns("removed", removed),
            "control_removed": self.control_removed,
            "p_value": math.nan if self.study.p_value is None else self.study.p_value,
            **columns("midpoint", self.midpoint),
            "midpoint_over_predicted": self.midpoint_over_predicted,
        }


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

    def trends(self) -> tuple[Trend, ...]:
        """How each quantity changes with size, for those that at least two models have."""
        frame = self.to_frame()
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
    models: Iterable[Any],
    *,
    text: Source | None = None,
    n_sequences: int = 64,
    n_controls: int = 20,
    method: AblationMethod | Method | str = "mean",
    threshold: float = THRESHOLD,
    trajectories: Mapping[str, Trajectory] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Family:
    """Measure several models alike, and compare what is found with their sizes.

    Models that are named are loaded one at a time.

    Args:
        models: Names, folders, or hooked models.
        text: Sources of text, as `sample_text` takes them; None: Python source.
        n_sequences: Sequences of text, of 512 tokens or what the shortest context holds.
        n_controls: Random sets of heads beside the found ones.
        method: How heads are knocked out.
        threshold: Induction score above which a head counts.
        trajectories: Training runs of some of the models, by the same names, for the midpoint of
            the phase change.
        seed: Seed of text, prompts and controls.
        progress: Show a bar on stderr.

    Raises:
        ValueError: There is no model, two have one name, one cannot be loaded, or an option is out
            of range.

    Examples:
        >>> found = il.suites.family(["toy-1l", "toy-2l"], n_sequences=8, n_controls=2)
        >>> found.to_frame()[["model", "layers", "above"]]
            model  layers  above
        0  toy-1l       1      0
        1  toy-2l       2      3
    """
    given: list[Any] = (
        [models] if isinstance(models, (str, Path)) else checks.several("models", models)
    )
    names = [model_name(one) if is_model(one) else str(one) for one in given]
    if not given or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise ValueError(
            f"expected one or more models of different names, got {got}; name each once"
        )
    threshold = checks.real_number("threshold", threshold, remedy=f"{THRESHOLD} is the usual one")
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=2)
    checks.flag("progress", progress)
    runs = {} if trajectories is None else dict(_checked_runs(trajectories))
    unknown = next((name for name in runs if name not in names), None)
    if unknown is not None:
        near = checks.closest(unknown, names) or f"the models are {', '.join(names)}"
        raise ValueError(f"expected trajectories of models of the family, got {unknown!r}; {near}")
    options = {"n_controls": n_controls, "method": method, "seed": seed}
    members = []
    with progress_bar("models" if progress else None, len(given), unit="model") as done:
        for name, one in zip(names, given, strict=True):
            with libraries_follow(progress):
                model = load(one)
            tokens = sample_text(
                model,
                source=text,
                n_sequences=n_sequences,
                seq_len=min(SEQ_LEN, shape(model).n_ctx),
                seed=seed,
            )
            battery = {"threshold": threshold, "run": runs.get(name), "options": options}
            members.append(_member(name, model, tokens, **battery))
            done(1)
    return Family(tuple(sorted(members, key=lambda member: member.parameters)), threshold)


def _checked_runs(trajectories: Any) -> Mapping[str, Trajectory]:
    remedy = "for instance {'toy-2l': il.tracking.Trajectory.read(folder)}"
    if not isinstance(trajectories, Mapping):
        raise checks.refuse("trajectories", "trajectories by name", trajectories, remedy)
    for name, run in trajectories.items():
        checks.instance(f"the trajectory of {name}", run, Trajectory, remedy)
    return trajectories


def _member(
    name: str,
    model: Any,
    text: Any,
    *,
    threshold: float,
    run: Trajectory | None,
    options: dict[str, Any],
) -> Member:
    sizes = shape(model)
    detectors = ["induction", "copying_weights"]
    scores = score_heads(model, detectors=detectors, seed=options["seed"], progress=False)
    induction = scores["induction"]
    above = set(induction.above(threshold))
    found = tuple(
        head for head, _ in induction.top(sizes.n_layers * sizes.n_heads) if head in above
    )
    where = choose_positions(text.tokens.shape[1])
    study = ablate(
        model,
        found or [induction.top(1)[0][0]],
        text,
        **asdict(where),
        estimator="matched-target",
        progress=False,
        **options,
    )
    midpoint, per_step = (None, None) if run is None else _change(run)
    return Member(
        name=name,
        parameters=block_parameters(model),
        n_layers=sizes.n_layers,
        n_heads=sizes.n_heads,
        loss=_mean_loss(study.clean_losses, text.documents),
        icl=study.clean,
        icl_paper=study.at(estimator="paper").clean,
        induction=induction,
        copying=scores["copying_weights"],
        found=found,
        study=study,
        midpoint=midpoint,
        tokens_per_step=per_step,
    )


def block_parameters(model: Any) -> int:
    """The numbers in the matrices of a model's blocks: no embeddings, biases and norms."""
    sizes = shape(model)
    heads = 2 * sizes.n_heads + 2 * sizes.n_kv_heads  # queries and outputs, keys and values
    attention = heads * sizes.d_head * sizes.d_model
    cfg = model.cfg
    d_mlp = 0 if getattr(cfg, "attn_only", False) else int(getattr(cfg, "d_mlp", None) or 0)
    n_matrices = 3 if getattr(cfg, "gated_mlp", False) else 2
    n_experts = int(getattr(cfg, "num_experts", None) or 1)
    return sizes.n_layers * (attention + n_experts * n_matrices * d_mlp * sizes.d_model)


def _mean_loss(losses: Tensor, documents: Tensor) -> Estimate:
    """Over the sequences, or the documents that their middles come from."""
    middle = losses.shape[1] // 2
    return bootstrap_mean(losses[:, 1:].double().mean(1), documents=units_of(documents, middle))


def _change(run: Trajectory) -> tuple[Estimate | None, float]:
    change = phase_change(run)
    return change.midpoint, float(run.tokens_seen[-1] / run.steps[-1])
