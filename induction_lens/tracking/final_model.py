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
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from induction_lens.ablation.methods import METHODS
from induction_lens.ablation.sets import ablate_by_methods
from induction_lens.ablation.study import AblationStudy
from induction_lens.detectors import score_heads
from induction_lens.estimates import columns
from induction_lens.files import atomic_path
from induction_lens.heads import THRESHOLD, names_of
from induction_lens.metrics import choose_positions
from induction_lens.models import Model, shape
from induction_lens.seals import read_json, write_json
from induction_lens.tracking.ngrams import count_ngrams, ngram_control

ENDPOINT = "endpoint.json"
N_CONTROLS = 20
_WEIGHTS = "weights"
"""What the file calls the weights that it is of."""

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
        estimator="paper",  # as in the runs that ship
        seed=seed,
        progress=progress,
    )
    rows: dict[str, Rows] = {"knockouts": [], "ngrams": []}
    for method, study in studies.items():
        named = {
            "method": method,
            "heads": names_of(heads, between=" "),
            "are_induction_heads": bool(found),
        }
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


def write_end(rows: dict[str, Rows], folder: str | Path, *, weights: str | None = None) -> None:
    """Write what `measure_end` found beside a trajectory, atomically.

    Args:
        rows: What it found.
        folder: Where the trajectory is, or will be.
        weights: SHA-256 of the model's weights (see `models.weights_hash`), which tells later that
            both are of the same run; None leaves it out.
    """
    about = {} if weights is None else {_WEIGHTS: weights}
    with atomic_path(Path(folder) / ENDPOINT) as temporary:
        write_json(temporary, {**rows, **about}, indent=1)


def read_end(folder: str | Path, *, weights: str | None = None) -> dict[str, Rows] | None:
    """What `write_end` wrote; None where it did not.

    Args:
        folder: Where it was written.
        weights: SHA-256 of the weights that it has to be of, where it says any; None: of any.

    Raises:
        ValueError: The file is damaged, or it is of other weights.
    """
    path = Path(folder) / ENDPOINT
    remedy = "delete it, and measure again"
    if not path.is_file():
        return None
    kinds = read_json(path, remedy=remedy)
    measured = kinds.pop(_WEIGHTS, None)
    are_rows = [
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        for rows in kinds.values()
    ]
    if not all(are_rows):
        raise ValueError(f"expected lists of rows in {path}, which is damaged; {remedy}")
    if None not in (measured, weights) and measured != weights:
        raise ValueError(
            f"expected measures of the last snapshot of this run, got {path} of other weights; "
            f"{remedy}"
        )
    return kinds


def _study_rows(study: AblationStudy) -> Rows:
    tested = {"set": "tested", "control_heads": "", "rank": study.rank}
    rows = [{**tested, **columns("clean", study.clean), **columns("ablated", study.ablated)}]
    rows[0] |= columns("effect", study.effect)
    for control in study.controls:
        rows.append({"set": "control", "control_heads": names_of(control.heads, between=" ")})
        rows[-1] |= columns("effect", control.effect)
    return rows
