"""Literal copying by what heads write: logit attribution in a passage's repeat.

For a position in the repeat and each source position, the head's direct contribution to the logit
of the token that really comes next: attention times value, through `W_O` and `W_U`, centred over
the vocabulary, at the final norm's scale of the position. A head that copies gets its positive
contributions from sources that hold that token. The score is the share of them that it does.

Source: Olsson et al. 2022, "Argument 4", the second of its two maps of a head; the score is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors.copying import of_query_heads
from induction_lens.detectors.kinds import HeadKind
from induction_lens.detectors.measure import measure, ratio_and_error
from induction_lens.heads import HeadScores
from induction_lens.models import (
    FINAL_SCALE,
    HookFunction,
    Model,
    check_written,
    hook_name,
    output_weights,
    shape,
    unembedding,
)
from induction_lens.progress import progress_bar
from induction_lens.tasks.prompting import few_shot_prompts
from induction_lens.tasks.task import Task
from induction_lens.tasks.texts import literal_copying

N_PROMPTS = 32


@dataclass(frozen=True, eq=False)
class LiteralAttributionHeads(HeadKind):
    """Heads whose direct contribution to the next token of a repeat comes from where it stood."""

    task: Task | None = None
    """Passages with their repeats; None takes `literal_copying()`."""
    control: Task | None = None
    """The same followed by other passages; None takes `literal_copying(different=True)`, where
    `task` is not given either, and no null elsewhere."""
    name: ClassVar[str] = "literal_attribution"
    title: ClassVar[str] = "Literal copying by logit attribution"
    caption: ClassVar[str] = (
        "Share of a head's positive direct contributions to the right next token, in a passage's "
        "repeat, that comes from sources which hold that token: 1 for a perfect head; chance is "
        "its share where a different passage follows."
    )
    source: ClassVar[str] = 'ours, after Olsson et al. 2022, "Argument 4"'

    def score(self, model: Model, *, seed: int = 0, progress: bool = True) -> HeadScores:
        """As `HeadKind.score`.

        Raises:
            ValueError: If heads do not add attention times values to the residual stream.
        """
        check_written(model, what="logit attribution")
        task = literal_copying() if self.task is None else self.task
        control = self.control
        if self.task is None and control is None:
            control = literal_copying(different=True)
        title = self.title if progress else None
        found = _shares(model, task, self.name, seed=seed, progress=title)
        if control is None:
            return found
        null = _shares(model, control, self.name, seed=seed, progress=title)
        assert found.sem is not None
        assert null.sem is not None
        apart = (found.sem.square() + null.sem.square()).sqrt()
        return replace(found, null=null.values, over_null_sem=apart)


def _shares(model: Model, task: Task, name: str, *, seed: int, progress: str | None) -> HeadScores:
    checks.instance("task", task, Task, "for instance literal_copying()")
    if not task.of_whole_texts:
        remedy = "for instance tasks.literal_copying(passages)"
        raise checks.refuse("task", "one whose items have targets", task, remedy)
    prompts = few_shot_prompts(model, task, n_items=N_PROMPTS, seed=seed)
    parts = []
    with progress_bar(progress, len(prompts)) as done:
        for row, ids in enumerate(prompts.ids):
            tokens = torch.tensor([ids], device="cpu")
            queries = [prompts.positions(row, target.query) for target in prompts.targets(row)]
            read = torch.zeros_like(tokens, dtype=torch.bool)
            places = [place for of_one in queries for place in of_one]
            # the last token predicts the answer, which is not in the text
            read[0, min(places) : min(max(places) + 1, len(ids) - 1)] = True
            one = AttributionMass(model, tokens, read)
            measure(model, tokens, [one])
            parts.append(one)
            done(1)
    own, total = (torch.cat([getattr(one, part) for one in parts], -1) for part in ("own", "total"))
    values, sem = ratio_and_error(own, total)
    return HeadScores(name, values.float(), ceiling=1.0, sem=sem.float(), n_sequences=len(prompts))


class AttributionMass:
    """Reduces every layer to its positive contributions to next tokens, by what sources hold."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, "batch pos"], read: Bool[Tensor, "batch pos"]
    ) -> None:
        """Of these tokens at the positions to read, none of them a sequence's last."""
        self._model = model
        self._shape = shape(model)
        self._next = tokens.roll(-1, dims=1)
        self._read = read
        sizes = (self._shape.n_layers, self._shape.n_heads, len(tokens))
        self.own = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        """Positive contributions from sources that hold the next token."""
        self.total = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        """All positive contributions."""
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    @property
    def last_hook(self) -> None:
        """The final norm's scale is measured too, so the whole model is run."""

    def hooks(
        self, tokens: Int[Tensor, "batch pos"], rows: slice
    ) -> list[tuple[str, HookFunction]]:
        """Hooks on each layer's values and pattern, and on the final norm's scale."""
        W_U = unembedding(self._model).float()
        W_U = W_U - W_U.mean(dim=1, keepdim=True)
        wanted = self._next[rows].to(tokens.device)
        self._readout = W_U.T[wanted]  # [batch pos d_model]
        self._holds = tokens[:, None, :] == wanted[:, :, None]  # [batch query_pos key_pos]
        self._scale = torch.ones(tokens.shape, dtype=torch.float32, device=tokens.device)
        self._pending = []
        hooks: list[tuple[str, HookFunction]] = []
        if FINAL_SCALE in self._model.hook_dict:
            hooks.append((FINAL_SCALE, self._keep_scale))
        for layer in range(self._shape.n_layers):
            on_value, on_pattern = self._layer_hooks(layer)
            hooks += [(hook_name("v", layer), on_value), (hook_name("pattern", layer), on_pattern)]
        return hooks

    def _keep_scale(self, scale: Float[Tensor, "batch pos 1"]) -> None:
        self._scale = scale.detach().float()[..., 0]

    def _layer_hooks(self, layer: int) -> tuple[HookFunction, HookFunction]:
        raised: list[Tensor] = []

        def on_value(value: Float[Tensor, "batch pos kv_head d_head"]) -> None:
            values = of_query_heads(value.detach().float(), self._shape.n_heads)
            to_logit = torch.einsum(
                "hem,bqm->bhqe", output_weights(self._model, layer).float(), self._readout
            )
            raised.append(torch.einsum("bkhe,bhqe->bhqk", values, to_logit))

        def on_pattern(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
            positive = (pattern.detach().float() * raised.pop()).relu()
            own = (positive * self._holds[:, None]).sum(-1)
            self._pending.append((layer, own, positive.sum(-1)))

        return on_value, on_pattern

    def finish(self, rows: slice) -> None:
        """Divide by the final norm's scale at each query, and sum over those that are read."""
        read = self._read[rows].to(self._scale.device) / self._scale
        for layer, own, total in self._pending:
            for mass, store in ((own, self.own), (total, self.total)):
                store[layer, :, rows] = (mass * read[:, None]).sum(-1).T.double().cpu()
