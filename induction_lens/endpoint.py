"""What a trained model depends on, at the end of its run.

1. The induction heads of the last snapshot are knocked out together by every method, beside random
   sets with as many heads in each layer (Olsson et al. 2022, "Argument 3"); where there are none,
   the strongest candidate is.
2. The model, the model without these heads, and n-gram tables of its training text are compared on
   text, on shuffled text, and on repeated random tokens (see `ngrams`).

Both become rows of plain values, in one JSON file beside the run's trajectory.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from induction_lens.ablation import AblationStudy, ablate_by_methods
from induction_lens.detectors import score_heads
from induction_lens.files import write_text
from induction_lens.knockout import METHODS
from induction_lens.metrics import Estimate, choose_positions
from induction_lens.models import Model, shape
from induction_lens.ngrams import count_ngrams, ngram_control

ENDPOINT = "endpoint.json"
THRESHOLD = 0.3
N_CONTROLS = 20

Rows = list[dict[str, Any]]


def measure_end(
    model: Model,
    text: Int[Tensor, "sequence pos"],
    *,
    training: Int[Tensor, "training_sequence training_pos"] | None = None,
    early: int | None = None,
    late: int | None = None,
    window: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Rows]:
    """Knock out a trained model's induction heads, and compare it with n-gram tables.

    Args:
        model: The trained model.
        text: Text that it was not trained on.
        training: The text that it was trained on; None leaves the tables out.
        early: Position of the early token of the ICL score; None: the paper's 50, or as the context
            allows.
        late: Position of the late token; None: the paper's 500, or as the context allows.
        window: Positions averaged on each side of both; made smaller where there is no room.
        seed: Seed of prompts, controls and resampling.
        progress: Show bars on stderr for what takes over two seconds.

    Returns:
        `knockouts`: a row for each method, and for each of its controls. `ngrams`: a row for each
        kind of tokens and each predictor. All losses and scores are in nats, with 95% intervals
        over sequences.

    Raises:
        ValueError: The text does not fit the model.
    """
    where = choose_positions(text.shape[1], early=early, late=late, window=window)
    scores = score_heads(model, detectors=["induction"], seed=seed, progress=progress)
    induction = scores["induction"]
    found = sorted(induction.above(THRESHOLD))
    heads = found or [induction.top(1)[0][0]]
    studies = ablate_by_methods(
        model,
        heads,
        text,
        methods=METHODS,
        n_controls=N_CONTROLS,
        **dataclasses.asdict(where),
        seed=seed,
        progress=progress,
    )
    rows: dict[str, Rows] = {"knockouts": [], "ngrams": []}
    for method, study in studies.items():
        named = {"method": method, "heads": _names(heads), "are_induction_heads": bool(found)}
        rows["knockouts"] += [{**named, **row} for row in _study_rows(study)]
    if training is not None:
        sizes = shape(model)
        tables = count_ngrams(training, d_vocab=sizes.d_vocab)
        n_tokens = min(25, (sizes.n_ctx - 1) // 4)
        control = ngram_control(
            model, heads, text, tables, n_tokens=n_tokens, seed=seed, progress=progress
        )
        rows["ngrams"] = control.to_frame().to_dict("records")
    return rows


def write_end(rows: dict[str, Rows], folder: str | Path) -> None:
    """Write what `measure_end` found beside a trajectory, atomically."""
    write_text(Path(folder) / ENDPOINT, json.dumps(rows, indent=1) + "\n")


def read_end(folder: str | Path) -> dict[str, Rows] | None:
    """What `write_end` wrote; None where it did not.

    Raises:
        ValueError: The file is damaged.
    """
    path = Path(folder) / ENDPOINT
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected JSON in {path}, got a damaged file ({error}); delete it, and measure again"
        ) from error


def _study_rows(study: AblationStudy) -> Rows:
    tested = {"set": "tested", "control_heads": "", "rank": study.rank}
    rows = [{**tested, **_flat("clean", study.clean), **_flat("ablated", study.ablated)}]
    rows[0] |= _flat("effect", study.effect)
    for control in study.controls:
        rows.append({"set": "control", "control_heads": _names(control.heads)})
        rows[-1] |= _flat("effect", control.effect)
    return rows


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    values = dataclasses.asdict(estimate)
    return {name: values["value"], f"{name}_low": values["low"], f"{name}_high": values["high"]}


def _names(heads: Any) -> str:
    return " ".join(map(str, heads))
