"""The before-and-after vector of a tracked run: which heads are behind the change, token by token.

The losses of the same tokens are in every snapshot of a trajectory. Their difference between two
moments, brought to length 1, is the direction in which training moved the model; each head is
knocked out of the model at the later moment, on the same tokens (`circuits.before_and_after`).

Source: Olsson et al. 2022, "Argument 3": ablations against the before-and-after vector of 10,000
tokens; as we operationalise it.
"""

from __future__ import annotations

import torch

from induction_lens import checks
from induction_lens.ablation import AblationMethod
from induction_lens.ablation.methods import MAIN_METHOD, Method, as_method
from induction_lens.circuits.before_after import BeforeAndAfter, along_change
from induction_lens.models import Model, weights_hash
from induction_lens.tracking.measures import Settings, draw
from induction_lens.tracking.trajectory import Trajectory


def before_and_after_training(
    run: Trajectory,
    after: Model,
    *,
    before: int = 0,
    text: torch.Tensor | None = None,
    n_sequences: int = 64,
    method: AblationMethod | Method | str = MAIN_METHOD,
    seed: int = 0,
) -> BeforeAndAfter:
    """Project each head's knock-out on the direction in which a run moved its losses.

    Losses before the change are those that the trajectory holds, to the precision of float16.
    Intervals are over sequences.

    Args:
        run: A trajectory, as `track` makes it.
        after: The model at the end of the change, such as `il.load` of the folder of a snapshot:
            heads are knocked out of this one.
        before: The step of the snapshot before the change.
        text: The text that `track` was given; None: it drew its own.
        n_sequences: Sequences that heads are knocked out on: the first ones, at most all.
        method: How heads are knocked out, one at a time.
        seed: The seed that `track` was given; also that of resample ablation.

    Raises:
        ValueError: If the trajectory has no such step, the model is no snapshot of it, its text
            cannot be drawn again, or no loss changed.

    Examples:
        >>> model = il.toys.build_toy(il.toys.ToyConfig(n_layers=1, d_model=32, n_ctx=128))
        >>> tokens = il.repeated_random_tokens(model, n_sequences=8)
        >>> run = il.train(model, tokens, n_steps=4, batch_size=4, snapshots=[0, 4], out="run-ba")
        >>> tracked = il.track(run, out="tracked-ba", text=tokens)
        >>> found = il.dynamics.before_and_after_training(tracked, run.model, text=tokens)
        >>> found.effects.shape[:2]
        torch.Size([1, 4])
    """
    checks.instance("run", run, Trajectory, "read one with Trajectory.read")
    checks.model(after, name="after")
    before = checks.whole_number("before", before, least=0, remedy="a step of the trajectory")
    n_sequences = checks.whole_number("n_sequences", n_sequences, least=1)
    chosen = as_method(method, seed=checks.seed(seed))
    steps = run.steps.tolist()
    if before not in steps:
        raise checks.refuse("before", f"a step of {run.name}", before, f"there are {steps}")
    weights = weights_hash(after)
    if weights not in run.weights:
        raise ValueError(
            f"expected a model whose weights are those of a snapshot of {run.name}, got others; "
            "load one of its snapshots"
        )
    if weights == run.weights[steps.index(before)]:
        raise ValueError(
            f"expected another model than that of step {before}, got the same weights; pass a "
            "later snapshot"
        )
    material = draw(after, text, _settings(run, seed=seed))
    if material.digest() != run.evaluation:
        raise ValueError(
            "expected the text that the trajectory was measured on, got another (another Python "
            "version has other source files); pass the text and the seed that track was given"
        )
    n_pos = material.text.shape[1]
    rows, places = material.examples // (n_pos - 1), material.examples % (n_pos - 1)
    kept = rows < n_sequences
    tokens = material.text[:n_sequences]
    return along_change(
        after,
        tokens,
        (rows[kept], places[kept] + 1),  # there is no loss at position 0
        run.token_losses[steps.index(before)][kept],
        method=chosen,
        documents=rows[kept],
    )


def _settings(run: Trajectory, *, seed: int) -> Settings:
    """What `track` drew its material by, as far as the trajectory's shapes tell."""
    return Settings(
        text=None,
        n_sequences=run.icl.shape[1],
        n_prompts=run.induction_by_sequence.shape[-1],
        n_ablated=0,
        n_examples=run.token_losses.shape[1],
        methods=(),
        early=run.early,
        late=run.late,
        window=run.window,
        seed=seed,
    )
