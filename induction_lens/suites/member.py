"""One model of a family, and how it is kept on disk: what was measured, and with what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from induction_lens.ablation.study import AblationStudy, study_of_losses
from induction_lens.estimates import Estimate, bootstrap_mean, columns
from induction_lens.estimators import Losses, as_estimator
from induction_lens.files import atomic_path
from induction_lens.heads import Head, HeadScores, names_of, parse_heads
from induction_lens.metrics import Positions
from induction_lens.models import shape, units_of
from induction_lens.seals import read_tensors, save_tensors

PREDICTED = 10**5.7
"""Tokens of the phase change for each root of a token in a batch: `10^5.7 · √(batch × context)`."""
_REMEDY = "delete it, and the model is measured again"
_SCORES = ("induction", "copying")


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


def member_of(
    name: str,
    sizes: Mapping[str, int],
    *,
    induction: HeadScores,
    copying: HeadScores,
    study: AblationStudy,
    threshold: float,
) -> Member:
    """The model that was measured: what it has, from the scores and the study of the heads found.

    Args:
        name: What it was loaded as.
        sizes: `parameters`, `n_layers` and `n_heads`.
        induction: Prefix-matching score of every head.
        copying: Copying score of every head.
        study: What knocking the found heads out does.
        threshold: Induction score above which a head counts.
    """
    losses = study.clean_losses
    units = units_of(study.documents, losses.shape[1] // 2)
    return Member(
        name=name,
        parameters=sizes["parameters"],
        n_layers=sizes["n_layers"],
        n_heads=sizes["n_heads"],
        loss=bootstrap_mean(losses[:, 1:].double().mean(1), documents=units),
        icl=study.clean,
        icl_paper=study.at(estimator="paper").clean,
        induction=induction,
        copying=copying,
        found=found_heads(induction, threshold),
        study=study,
    )


def found_heads(induction: HeadScores, threshold: float) -> tuple[Head, ...]:
    """The heads above the threshold, strongest first."""
    above = set(induction.above(threshold))
    return tuple(head for head, _ in induction.top(induction.values.numel()) if head in above)


def write_member(path: Path, member: Member, fingerprint: Mapping[str, Any]) -> None:
    """Keep what was measured of a model, whole or not at all."""
    study = member.study
    tensors = {
        "clean_losses": study.clean_losses,
        "ablated_losses": study.ablated_losses,
        "control_losses": study.control_losses,
    }
    for name in ("short_losses", "documents"):
        value = getattr(study, name)
        if value is not None:
            tensors[name] = value
    about: dict[str, Any] = {"fingerprint": dict(fingerprint), "name": member.name}
    about |= {name: getattr(member, name) for name in ("parameters", "n_layers", "n_heads")}
    about["study"] = {
        "heads": list(map(str, study.heads)),
        "controls": [list(map(str, heads)) for heads in study.control_heads],
        "at": [study.early, study.late, study.window],
        "method": study.method,
        "estimator": study.estimator,
    }
    for which in _SCORES:
        scores = getattr(member, which)
        kept_apart = ("provenance",)  # which the fingerprint tells
        names = [field.name for field in fields(scores) if field.name not in kept_apart]
        values = {name: getattr(scores, name) for name in names}
        tensors |= {f"{which}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        about[which] = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
    with atomic_path(path) as temporary:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_tensors(temporary, kept, about)


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """What a kept model was measured with; None where there is none.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file():
        return None
    found = read_tensors(path, remedy=_REMEDY)[1].get("fingerprint")
    return found if isinstance(found, dict) else {}


def read_member(path: Path, *, threshold: float) -> Member:
    """What `write_member` kept.

    Raises:
        ValueError: The file is damaged.
    """
    tensors, about = read_tensors(path, remedy=_REMEDY)
    sizes = {name: about[name] for name in ("parameters", "n_layers", "n_heads")}
    of_model = {"n_layers": sizes["n_layers"], "n_heads": sizes["n_heads"]}
    told = about["study"]
    scores = {which: _scores(which, tensors, about[which]) for which in _SCORES}
    losses = [tensors["clean_losses"][None], tensors["ablated_losses"][None]]
    study = study_of_losses(
        tuple(parse_heads(told["heads"], **of_model)),
        told["method"],
        Losses(torch.cat([*losses, tensors["control_losses"]]), tensors.get("short_losses")),
        tuple(tuple(parse_heads(heads, **of_model)) for heads in told["controls"]),
        documents=tensors.get("documents"),
        at=Positions(*told["at"]),
        estimator=as_estimator(told["estimator"]),
    )
    return member_of(about["name"], sizes, study=study, threshold=threshold, **scores)


def _scores(which: str, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> HeadScores:
    tables = {
        name.partition(".")[2]: value
        for name, value in tensors.items()
        if name.startswith(f"{which}.")
    }
    values: dict[str, Any] = {**told, **tables}
    return HeadScores(**values)
