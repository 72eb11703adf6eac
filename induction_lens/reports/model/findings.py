"""What a report found: all its numbers, as frozen data and as tables. Sees no model.

`Findings` holds the results of one run over a model: detector scores, one ablation study per
method, the effect of each head alone, an attention pattern on an example. The tables are derived
from these alone, so that what the page shows, what the files hold and what Python returns agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.ablation.methods import MAIN_METHOD
from induction_lens.ablation.study import AblationStudy
from induction_lens.circuits import Circuit
from induction_lens.detectors import AttentionDetector
from induction_lens.estimates import columns
from induction_lens.heads import Head, HeadScores, ScoreTable, names_of
from induction_lens.packing import packable, plain
from induction_lens.results import Provenance, with_model
from induction_lens.views import AttentionView

if TYPE_CHECKING:
    import pandas as pd

Why = Literal["induction", "strongest", "chosen"]


@packable
@dataclass(frozen=True)
class Example:
    """One head's attention on one short sequence."""

    head: Head
    """The head."""
    tokens: tuple[str, ...]
    """The text of each token, position 0 first; ids written out where there is no tokenizer."""
    ids: Int[Tensor, " pos"]
    """The token ids."""
    pattern: Float[Tensor, "query_pos key_pos"]
    """The head's attention pattern; rows sum to 1."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything one report measured, and on what."""

    name: str
    """Name of the model."""
    card: Mapping[str, str]
    """What the model and the data are, and how to get these numbers again."""
    scores: ScoreTable
    """Every detector's score of every head."""
    threshold: float
    """Induction score above which a head counts as an induction head."""
    heads: tuple[Head, ...]
    """Induction heads: above the threshold and above chance, strongest first; there may be none."""
    studied: tuple[Head, ...]
    """The heads that were knocked out together."""
    why: Why
    """Why those: all `induction` heads; the `strongest` candidate, if none is an induction head;
    or `chosen` by the caller."""
    studies: Mapping[str, AblationStudy]
    """By method: the knock-out, with the ICL score as the paper defines it, at two positions."""
    matched: Mapping[str, AblationStudy]
    """The same knock-outs, the score at two positions estimated by matched targets. Empty where
    sequences are beginnings of documents, of which it estimates something else."""
    windowed: Mapping[str, AblationStudy]
    """The same knock-outs, the score averaged over windows around the positions, by matched targets
    except where `matched` is empty."""
    effects: HeadScores
    """The effect of each head alone on the windowed ICL score, by mean ablation, in nats."""
    n_alone: int
    """How many sequences each of `effects` is of, at least; of heads that may have the largest one
    there are more."""
    tokens: Int[Tensor, "batch pos"]
    """The sequences that the losses are of."""
    example: Example
    """The best induction head (or candidate) on a short passage."""
    is_text: bool
    """Whether the sequences are text; otherwise they are repeated random tokens."""
    notes: tuple[str, ...]
    """What had to be done differently for this model, in sentences."""
    own_detectors: tuple[AttentionDetector, ...] = ()
    """Detectors of the caller's own, whose scores are among `scores`."""
    circuit: Circuit | None = None
    """The induction circuit, where it was asked for and there is one."""
    attention: AttentionView | None = None
    """Heads to look at on the passage of `example`: all, or the strongest that a page holds."""
    provenance: Provenance | None = field(default=None, repr=False, compare=False)
    """Which model and tokens it is of, where that is known."""

    @property
    def main_method(self) -> str:
        """The method that the summary quotes: mean ablation where it was run, else the first."""
        return MAIN_METHOD if MAIN_METHOD in self.studies else next(iter(self.studies))

    @property
    def clean_losses(self) -> Float[Tensor, "batch pos"]:
        """The unchanged model's loss of every token, in nats; NaN at position 0."""
        return next(iter(self.studies.values())).clean_losses

    @property
    def losses_everywhere(self) -> dict[str, Float[Tensor, "batch pos"]]:
        """The losses without the tested heads, by those methods that were measured everywhere: of
        large models the quoted one alone."""
        clean = self.clean_losses.isnan()
        losses = {method: study.ablated_losses for method, study in self.studies.items()}
        return {method: one for method, one in losses.items() if one.isnan().equal(clean)}

    @property
    def definitions(self) -> dict[str, Mapping[str, AblationStudy]]:
        """The studies by definition of the ICL score: `windowed`, `matched` and `paper`."""
        every = {"windowed": self.windowed, "matched": self.matched, "paper": self.studies}
        return {name: studies for name, studies in every.items() if studies}

    def to_frame(self) -> pd.DataFrame:
        """The ICL table: one row per definition and method, and one per random control.

        `kind` is `tested` or `control`. `clean`, `ablated` and `effect` are in nats with the ends
        of their 95% intervals; `effect` is ablated minus clean, paired by sequence. For controls
        the interval of `ablated` is not kept.
        """
        import pandas as pd

        frame = pd.DataFrame(list(self._icl_rows()))
        whole = ["rank", "n_controls", "n_documents"]  # integers that are missing for some
        return with_model(frame.astype(dict.fromkeys(whole, "Int64")), self.provenance)

    def heads_frame(self) -> pd.DataFrame:
        """One row per head: every score with its standard error and null, and its effect alone."""
        frame = self.scores.to_frame()
        for name, scores in self.scores.items():
            for suffix, values in (("sem", scores.sem), ("null", scores.null)):
                if values is not None:
                    frame[f"{name}_{suffix}"] = values.flatten().tolist()
        frame["is_induction_head"] = _among(self.heads, frame)
        frame["knocked_out"] = _among(self.studied, frame)
        frame["effect_alone"] = self.effects.values.flatten().tolist()
        if self.effects.sem is not None:
            frame["effect_alone_sem"] = self.effects.sem.flatten().tolist()
        if self.effects.n_units is not None:
            frame["effect_alone_n_units"] = self.effects.n_units.flatten().tolist()
        return frame

    def losses_frame(self) -> pd.DataFrame:
        """One row per sequence and position (from 1): the token id, and the loss of each run.

        Columns: `sequence`, `position`, `token`, `clean`, and one per method; losses in nats, NaN
        where they were not measured.
        """
        runs = {"clean": self.clean_losses}
        runs |= {method: study.ablated_losses for method, study in self.studies.items()}
        return _by_token(self.tokens, runs)

    def short_losses_frame(self) -> pd.DataFrame:
        """The same table of the short cuts that matched targets need; empty without these.

        Positions are those of the cuts: position `early` holds the token that is at `late` in the
        sequence.
        """
        runs: dict[str, Tensor] = {}
        tokens = self.tokens[:, :1]
        for method, study in self.matched.items():
            assert study.short_losses is not None
            clean, ablated = study.short_losses[:2]
            runs |= {"clean": clean, method: ablated}
            first = study.late - study.early + 1
            last = first + clean.shape[1] - 1
            tokens = torch.cat([self.tokens[:, :1], self.tokens[:, first:last]], dim=1)
        return _by_token(tokens, runs)

    def to_dict(self) -> dict[str, Any]:
        """The whole result but the losses, ready for JSON. Numbers that are not finite are null."""
        return {
            "model": self.name,
            "threshold": self.threshold,
            "induction_heads": [str(head) for head in self.heads],
            "knocked_out": [str(head) for head in self.studied],
            "why": self.why,
            "data": "text" if self.is_text else "repeated random tokens",
            "icl": finite(list(self._icl_rows())),
            "heads": finite(self.heads_frame().to_dict("records")),
            "notes": list(self.notes),
            "card": dict(self.card),
            "provenance": plain(self.provenance),
        }

    def _icl_rows(self) -> Iterator[dict[str, Any]]:
        for definition, studies in self.definitions.items():
            for method, study in studies.items():
                where = {
                    "definition": definition,
                    "early": study.early,
                    "late": study.late,
                    "window": study.window,
                    "estimator": study.estimator,
                    "method": method,
                }
                yield {
                    **where,
                    "kind": "tested",
                    "heads": names_of(study.heads, between=" "),
                    "n_sequences": study.clean.n,
                    "n_documents": study.clean.n_documents,
                    **columns("clean", study.clean),
                    **columns("ablated", study.ablated),
                    **columns("effect", study.effect),
                    "rank": study.rank,
                    "n_controls": len(study.controls),
                    "p_value": study.p_value,
                }
                for control in study.controls:
                    yield {
                        **where,
                        "kind": "control",
                        "heads": names_of(control.heads, between=" "),
                        "n_sequences": control.effect.n,
                        "n_documents": control.effect.n_documents,
                        **columns("clean", study.clean),
                        "ablated": study.clean.value + control.effect.value,
                        **columns("effect", control.effect),
                    }


def _by_token(tokens: Int[Tensor, "batch pos"], runs: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row per sequence and position (from 1): the token id, and the loss of each run."""
    import numpy as np
    import pandas as pd

    n, length = tokens.shape
    columns: dict[str, Any] = {
        "sequence": np.repeat(np.arange(n, dtype=np.int32), length - 1),
        "position": np.tile(np.arange(1, length, dtype=np.int32), n),
        "token": tokens[:, 1:].cpu().flatten().int().numpy(),
    }
    for name, losses in runs.items():
        columns[name] = losses[:, 1:].flatten().numpy()
    return pd.DataFrame(columns)


def finite(value: Any) -> Any:
    """The same structure with NaN and infinities, which JSON has no words for, as None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _among(heads: tuple[Head, ...], frame: pd.DataFrame) -> list[bool]:
    pairs = zip(frame["layer"], frame["head"], strict=True)
    return [Head(int(layer), int(head)) in heads for layer, head in pairs]
