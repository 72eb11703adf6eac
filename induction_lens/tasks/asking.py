"""A model asked prompts, whole or without heads.

Heads are knocked out by the objects of `ablation.methods`, at all positions, or at the last one of
the prompt alone, where the answer is made (Todd et al. 2024, Yin and Steinhardt 2025). What `mean`
and `resample` write is then taken from the last positions of prompts: the task's mean output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation.context import check_nesting
from induction_lens.ablation.hooks import Ablation, CleanAttention
from induction_lens.ablation.methods import AblationMethod
from induction_lens.ablation.outputs import NO_OUTPUTS, Outputs, by_layer, keep_outputs
from induction_lens.ablation.passes import Batch, passes
from induction_lens.heads import Head
from induction_lens.metrics import batches, not_finite
from induction_lens.models import (
    Model,
    Sequences,
    batch_size_for,
    check_weights,
    check_zero_removes,
    device_of,
    forward,
    hook_name,
    installed,
    keep,
    logits_after,
    prove_writes_land,
    run,
    run_until,
    running,
    sequences_of,
    shape,
)
from induction_lens.progress import progress_bar
from induction_lens.tasks.prompting import Prompts, groups
from induction_lens.tasks.scoring import Scoring

At = Literal["all", "last"]


@dataclass(frozen=True, eq=False)
class Without:
    """Heads to knock out together."""

    heads: tuple[Head, ...]
    """The heads."""
    method: AblationMethod
    """What is written in their place."""
    at: At = "all"
    """At all positions, or at the last of each prompt alone."""


class Asking:
    """A model that is asked the same prompts several times.

    What heads usually put out is taken once, from the prompts themselves or from others.
    """

    def __init__(
        self,
        model: Model,
        prompts: Prompts,
        *,
        scoring: Scoring | None = None,
        usual: Prompts | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: A hooked model.
            prompts: What it is asked.
            scoring: How answers are scored; None: as the task says.
            usual: Prompts from which `mean` and `resample` take outputs; None: those asked.
            batch_size: Prompts per forward pass; None chooses by a memory budget.
        """
        check_weights(model)
        self.model = model
        self.prompts = prompts
        self._scoring = prompts.task.scoring if scoring is None else scoring
        self._usual = prompts if usual is None else usual
        self._batch_size = batch_size
        self._proven: set[int] = set()  # layers that pass on what is written there

    def scores(
        self, without: Without | None = None, *, progress: str | None = None
    ) -> Float[Tensor, " item"]:
        """The score of each prompt's answer.

        Raises:
            ValueError: If a method lacks a reference, or the model's numbers are not finite.
            InterventionError: If the model drops the writes.
        """
        prepared = None if without is None else self._prepared(without)
        scores = torch.full((len(self.prompts),), torch.nan, dtype=torch.float32, device="cpu")
        with running(self.model), progress_bar(progress, len(self.prompts)) as done:
            for group, tokens in groups(self.model, self.prompts):
                size = self._batch_size or batch_size_for(self.model, tokens.shape[1])
                for some in batches(len(group), size):
                    rows = group[some]
                    read = self._reader(prepared, rows)
                    measured = self._scoring.measure(self.prompts, rows, tokens[some], read)
                    scores[rows] = measured.float().cpu()
                    done(len(rows))
        return scores

    def probabilities(
        self, several: Sequence[Without], *, progress: str | None = None
    ) -> Float[Tensor, "job item"]:
        """How likely the first token of each right answer is: of the whole model, and then without
        each of several sets of heads.

        What the runs have in common is run once, where layers can be run one by one.

        Raises:
            ValueError: As `scores`.
            InterventionError: As `scores`.
        """
        ablations = [self._prepared(without) for without in several]
        answers = self.prompts.answers[:, None]
        size = (1 + len(several), len(self.prompts))
        found = torch.full(size, torch.nan, dtype=torch.float32, device="cpu")
        with progress_bar(progress, len(self.prompts)) as done:
            for group, prompted in groups(self.model, self.prompts):
                due = prompted.shape[1]
                tokens = torch.cat([prompted, answers[group].to(prompted)], dim=1)
                with run(self.model, tokens[:1], unembeds=True) as road:
                    for some in batches(len(group), self._batch_size or road.batch_size(due + 1)):
                        rows, wanted = group[some], [[due]] * len(ablations)
                        batch = Batch(tokens[some], rows, ablations, wanted, [due], known={})
                        for members, losses in passes(road, batch):
                            right = (-losses[..., 0]).exp().cpu()
                            places = torch.tensor(members, device="cpu")[:, None]
                            found[places, rows] = right
                        done(len(rows))
        if not bool(torch.isfinite(found).all()):
            raise not_finite(
                self.model, self.prompts.sequences.tokens[:1].to(device_of(self.model))
            )
        return found

    def _reader(self, ablation: Ablation | None, rows: Int[Tensor, " row"]):
        """What gives the logits after the last token."""

        def read(tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
            logits = self._logits(ablation, rows, tokens).float()
            if not bool(torch.isfinite(logits).all()):
                raise not_finite(self.model, tokens)
            return logits

        return read

    def _logits(
        self, ablation: Ablation | None, rows: Int[Tensor, " row"], tokens: Int[Tensor, "row pos"]
    ) -> Float[Tensor, "row d_vocab"]:
        if ablation is None:
            return logits_after(self.model, tokens)
        if ablation.freezes:
            clean = CleanAttention()
            with installed(self.model, clean.hooks(range(shape(self.model).n_layers))):
                forward(self.model, tokens)
            clean.check()
            ablation.freeze(clean.patterns)
        with ablation.watching(), installed(self.model, ablation.hooks(rows)):
            return logits_after(self.model, tokens)

    def _prepared(self, without: Without) -> Ablation:
        """The ablation as hooks.

        Raises:
            ValueError: If a method lacks a reference, or cannot be used like this.
        """
        method, grouped = without.method, by_layer(without.heads)
        at_last = checks.one_of("at", without.at, get_args(At)) == "last"
        check_nesting(self.model, method)
        if at_last and not method.position_wise:
            raise ValueError(
                f"expected a method that writes at each position by itself, to write at the last "
                f"one alone, got {method.label!r}; use at='all'"
            )
        unproven = [layer for layer in grouped if layer not in self._proven]
        if unproven:
            prove_writes_land(self.model, unproven, vocabulary=shape(self.model).d_vocab)
            self._proven.update(unproven)
        if method.removes:
            check_zero_removes(self.model, list(grouped))
        outputs = self._outputs(method, grouped, at_last=at_last)
        ends = self.prompts.sequences.lengths - 1 if at_last else None
        return Ablation(self.model, without.heads, method, outputs=outputs, only_at=ends)

    def _outputs(
        self, method: AblationMethod, heads: Mapping[int, list[int]], *, at_last: bool
    ) -> Outputs:
        """What a method takes from a reference: its own, or the usual prompts."""
        if method.needs == "nothing":
            return NO_OUTPUTS
        each = method.needs == "each sequence"
        reference = self._usual.sequences
        if method.reference is not None:
            reference = sequences_of(self.model, method.reference)
        if at_last:
            own = method.reference is not None
            last = last_outputs(self.model, reference) if own else self._usual_at_end
            return at_end(last, heads)
        if each and method.reference is None and reference.is_padded:
            raise ValueError(
                "expected a reference to resample from at all positions, since prompts differ in "
                "length, got none; pass Resample(reference=text), or at='last'"
            )
        return keep_outputs(
            self.model, dict(heads), reference, each=each, batch_size=self._batch_size
        )

    @cached_property
    def _usual_at_end(self) -> dict[int, Float[Tensor, "item head d_head"]]:
        return last_outputs(self.model, self._usual.sequences)


def last_outputs(
    model: Model, sequences: Sequences
) -> dict[int, Float[Tensor, "item head d_head"]]:
    """What every head puts out at the last token of each sequence, by layer, on the CPU."""
    sizes = shape(model)
    layers = range(sizes.n_layers)
    size = (len(sequences), sizes.n_heads, sizes.d_head)
    found = {n: torch.zeros(size, dtype=torch.float32, device="cpu") for n in layers}
    with running(model):
        for group, tokens in sequences.groups():
            for some in batches(len(group), batch_size_for(model, tokens.shape[1])):
                outputs: dict[int, Tensor] = {}
                with installed(model, keep("z", layers, into=outputs)):
                    last = hook_name("z", sizes.n_layers - 1)
                    run_until(model, tokens[some].to(device_of(model)), last)
                for layer, z in outputs.items():
                    found[layer][group[some]] = z[:, -1].float().cpu()
    return found


def at_end(
    last: Mapping[int, Float[Tensor, "item head d_head"]], heads: Mapping[int, Sequence[int]]
) -> Outputs:
    """Outputs of heads at last tokens, as if these were the only position."""
    chosen = {layer: last[layer][:, None, list(some)] for layer, some in heads.items()}
    n = len(next(iter(chosen.values())))
    return Outputs(
        {layer: list(some) for layer, some in heads.items()},
        {layer: z.double().mean(0).float() for layer, z in chosen.items()},
        torch.tensor([n], device="cpu"),
        chosen,
        {},
    )
