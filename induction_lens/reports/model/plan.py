"""What a report will run and about how long that takes, said before it starts.

The time of one pass is measured on two sequences; the rest is counted. A pass with heads knocked
out runs from the first layer of these heads on, where the model is run layer by layer. Losses of
all positions are wanted of the clean pass and of the tested heads; controls and single heads are
read around two positions, which spares them most of the unembedding.

Control sets and single heads end once they are decided (see `ablation.allocation`), which nobody
knows before: at least the first sequences are measured, and at most all of them.

With a budget, everything is measured on fewer sequences, then there are fewer controls: intervals
are wider, and nothing is left out that the page shows. As many sequences are planned as there is
time for if all is decided early; where it is not, the report ends when the time is over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from induction_lens.ablation.allocation import FIRST_PART, MOST_CANDIDATES
from induction_lens.ablation.first_order import FEWEST_EXACT, MOST, pays
from induction_lens.ablation.precision import compares_in_bfloat16
from induction_lens.heads import Head
from induction_lens.metrics import per_token_loss
from induction_lens.models import Model, device_of, run, shape
from induction_lens.reports.model.evaluation import Data

FEWEST_SEQUENCES = 16
"""Fewer have no interval to speak of."""
_SCORING = 45  # passes of 512 tokens: prompts, shuffled prompts, and 32 sequences of text
_ROUGH = 0.65  # what a pass in bfloat16 takes of one in float32, about
_ANNOUNCED = 20  # seconds; of shorter work there is nothing to say


@dataclass(frozen=True)
class Plan:
    """How much of everything a report measures."""

    n_sequences: int
    """Sequences that losses are measured on."""
    n_controls: int
    """Control sets of each method that has controls."""
    n_methods: int
    """Ablation methods."""
    n_controlled: int
    """How many of them have controls."""
    n_heads: int
    """Heads that are knocked out alone."""
    costs: Costs
    """What a pass costs."""

    @property
    def n_passes(self) -> int:
        """Passes of a sequence, or of a part of the model over one, at most."""
        knocked_out = self.n_methods + self.n_controlled * self.n_controls
        return self.n_sequences * (2 + knocked_out) + self._n_alone + self._n_first_order

    @property
    def n_alone(self) -> int:
        """How many sequences each head is knocked out alone on, at least."""
        return min(self.n_sequences, FEWEST_EXACT if self.by_first_order else FIRST_PART)

    @property
    def by_first_order(self) -> bool:
        """Whether effects to first order take part of the chance out of those of single heads."""
        return pays(self.n_heads, self.n_sequences)

    @property
    def _n_first_order(self) -> int:
        """Backward passes over a sequence, each of which takes as long as three others."""
        return min(self.n_sequences, MOST) if self.by_first_order else 0

    @property
    def _n_alone(self) -> int:
        """Passes with one head knocked out, at most."""
        of_all = min(self.n_sequences, FIRST_PART)
        more = min(self.n_heads, MOST_CANDIDATES) * (self.n_sequences - of_all)
        return self.n_heads * of_all + more

    @property
    def seconds(self) -> float:
        """About how long all of it takes, at most."""
        return self._seconds(self.n_sequences, self._n_alone)

    @property
    def least_seconds(self) -> float:
        """About how long it takes if all is decided on the first sequences."""
        return self._seconds(self.n_alone, self.n_alone * self.n_heads)

    def _seconds(self, n_controlled_on: int, n_alone: int) -> float:
        costs = self.costs
        of_each = 2 * costs.clean + costs.tested + (self.n_methods - 1) * costs.other
        controls = self.n_controlled * self.n_controls * n_controlled_on
        of_scores = _SCORING * costs.layers + self._n_first_order * costs.slopes
        alone = controls * costs.control + n_alone * costs.alone
        return self.n_sequences * of_each + alone + of_scores

    def within(self, budget: float | None) -> Plan:
        """The largest plan that fits a budget in seconds, or the smallest that there is."""
        if budget is None:
            return self
        smaller = self
        for smaller in self._smaller():
            if smaller.least_seconds <= budget:
                break
        return smaller

    def _smaller(self) -> Iterator[Plan]:
        yield self
        least = self
        for n in (192, 128, 96, 64, 48, 32, FEWEST_SEQUENCES):
            if n < self.n_sequences:
                least = replace(self, n_sequences=n)
                yield least
        for n_controls in (10, 5, 0):
            if n_controls < self.n_controls:
                yield replace(least, n_controls=n_controls)

    def announcement(self, budget: float | None) -> str | None:
        """What to say before it starts; None where it is done at once."""
        if self.seconds < _ANNOUNCED and budget is None:
            return None
        over = ""
        if budget is not None and self.least_seconds > budget:
            over = ", the least that a report can do"
        change = "" if budget is not None else "; --budget 2m, say, makes it shorter"
        return (
            f"About {spoken(self.least_seconds)}, at most {spoken(self.seconds)}{over}: "
            f"{self.n_sequences} sequences, {self.n_controls} controls, single heads on "
            f"{self.n_alone} sequences or more, {self.n_passes:,} passes at most{change}."
        )


@dataclass(frozen=True)
class Costs:
    """Seconds that one sequence takes, with its short cut."""

    clean: float
    """The whole model, losses of all positions."""
    tested: float
    """The tested heads knocked out by the main method, losses of all positions."""
    other: float
    """The same by another method; of large models losses around two positions."""
    control: float
    """A control set knocked out, losses around two positions."""
    alone: float
    """One head knocked out, losses around two positions, on average over layers."""
    layers: float
    """The layers of the whole model, without losses and without a short cut."""
    slopes: float
    """The layers and the slopes of losses around two positions: three times a pass."""

    @classmethod
    def measure(cls, model: Model, data: Data, studied: Sequence[Head]) -> Costs:
        """Time a pass, and share it out over the layers by their arithmetic."""
        tokens = data.tokens[:2]
        per_token_loss(model, tokens[:1], progress=False)  # what is paid once
        started = time.perf_counter()
        per_token_loss(model, tokens, progress=False)
        clean = (time.perf_counter() - started) / len(tokens)
        sizes = shape(model)
        with run(model, tokens[:1].to(device_of(model)), unembeds=True) as road:
            whole = road.why_whole is not None
        if whole:
            return cls(clean, clean, clean, clean, clean, clean, 3 * clean)
        layers = 12 * sizes.n_layers * sizes.d_model**2
        body = clean * layers / (layers + sizes.d_vocab * sizes.d_model)
        first = min(head.layer for head in studied)
        below = body * first / sizes.n_layers
        short = 1 + (data.positions.early + data.positions.window) / tokens.shape[1]
        average = body * (sizes.n_layers + 1) / (2 * sizes.n_layers)
        tested, control = (clean - below) * short, (body - below) * short
        in_bfloat16 = compares_in_bfloat16(model)
        rough = _ROUGH if in_bfloat16 else 1.0
        return cls(
            clean=clean * short,
            tested=tested,
            other=rough * control if in_bfloat16 else tested,
            control=rough * control,
            alone=rough * average * short,
            layers=body,
            slopes=rough * 3 * body * short,
        )


def spoken(seconds: float) -> str:
    """A time as people say it: `40 seconds`, `6 minutes`, `2.5 hours`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
