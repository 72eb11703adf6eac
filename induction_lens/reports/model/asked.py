"""What a caller asks a report for, checked before anything is measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from induction_lens import checks
from induction_lens.ablation.controls import MAX_CONTROLS
from induction_lens.ablation.methods import MAIN_METHOD, AblationMethod, Methods, as_methods
from induction_lens.ablation.stopping import Stopping
from induction_lens.circuits import Circuit
from induction_lens.detectors import AttentionDetector, own_detectors
from induction_lens.heads import THRESHOLD, Head, HeadLike, parse_heads
from induction_lens.models import Model, model_name, shape


@dataclass(frozen=True)
class Asked:
    """The options of `report`, checked; see there what they mean."""

    heads: tuple[Head, ...] | None
    detectors: tuple[AttentionDetector, ...]
    threshold: float
    methods: tuple[AblationMethod, ...]
    n_controls: int
    control_every_method: bool
    n_sequences: int | None
    budget: float | None
    precision: float | None
    seed: int
    early: int | None
    late: int | None
    window: int
    circuit: Circuit | bool
    progress: bool

    @classmethod
    def checked(
        cls,
        model: Model,
        *,
        heads: Iterable[HeadLike] | HeadLike | None,
        detectors: Sequence[AttentionDetector],
        methods: Methods,
        circuit: Circuit | bool,
        **numbers: Any,
    ) -> Asked:
        """Of a model that these options fit.

        Raises:
            ValueError: If one does not, or is out of range.
        """
        checks.model(model)
        usual = f"{THRESHOLD} is the usual one"
        seed = checks.seed(numbers["seed"])
        return cls(
            heads=_named(model, heads),
            detectors=tuple(own_detectors(detectors)),
            threshold=checks.real_number("threshold", numbers["threshold"], remedy=usual),
            methods=tuple(as_methods(methods, seed=seed)),
            n_controls=checks.whole_number(
                "n_controls", numbers["n_controls"], least=0, most=MAX_CONTROLS
            ),
            control_every_method=checks.flag(
                "control_every_method", numbers["control_every_method"]
            ),
            n_sequences=numbers["n_sequences"],  # checked with the text
            budget=checks.seconds("budget", numbers["budget"]),
            precision=checks.real_number(
                "precision",
                numbers["precision"],
                above=0,
                optional=True,
                remedy="nats, for instance 0.05",
            ),
            seed=seed,
            early=checks.whole_number("early", numbers["early"], least=1, optional=True),
            late=checks.whole_number("late", numbers["late"], least=1, optional=True),
            window=checks.whole_number("window", numbers["window"], least=0),
            circuit=_checked_circuit(circuit, model),
            progress=checks.flag("progress", numbers["progress"]),
        )

    @property
    def positions(self) -> dict[str, Any]:
        """Where the ICL score is taken."""
        return {"early": self.early, "late": self.late, "window": self.window}

    @property
    def controlled(self) -> tuple[AblationMethod, ...]:
        """The methods that control sets are run with: the main one, or every one."""
        return self.methods if self.control_every_method else (self.main,)

    @property
    def main(self) -> AblationMethod:
        """The method that the summary quotes: mean ablation if it is there, else the first."""
        return next((one for one in self.methods if one.label == MAIN_METHOD), self.methods[0])

    def stopping(self) -> Stopping:
        """When to end before all sequences are measured, from now on."""
        deadline = None if self.budget is None else time.perf_counter() + self.budget
        return Stopping(deadline=deadline, precision=self.precision)

    def for_card(self, *, n_controls: int, n_sequences: int, stopped: bool) -> dict[str, Any]:
        """The options of a call that measures the same again.

        Args:
            n_controls: Control sets that were measured.
            n_sequences: Sequences that were.
            stopped: Whether it ended early.
        """
        limited = self.budget is not None or stopped  # then it is what was measured that counts
        return {
            "heads": self.heads,
            "threshold": self.threshold,
            "seed": self.seed,
            "methods": tuple(method.label for method in self.methods),
            "control_every_method": self.control_every_method,
            **self.positions,
            "n_controls": n_controls if limited else self.n_controls,
            "n_sequences": n_sequences if limited else self.n_sequences,
            "detectors": [one.name for one in self.detectors],
            "circuit": self.circuit is not False,
        }


def _named(model: Model, heads: Iterable[HeadLike] | HeadLike | None) -> tuple[Head, ...] | None:
    """The heads that the caller named, if any."""
    sizes = shape(model)
    if heads is None:
        return None
    return tuple(parse_heads(heads, n_layers=sizes.n_layers, n_heads=sizes.n_heads))


def _checked_circuit(asked: Circuit | bool, model: Model) -> Circuit | bool:
    """One of this model, or whether to find one.

    Raises:
        ValueError: It is of another model.
    """
    if not isinstance(asked, Circuit):
        return checks.flag("circuit", asked)
    if asked.model != model_name(model):
        raise ValueError(
            f"expected a circuit of {model_name(model)}, got one of {asked.model}; pass True to "
            "have it found"
        )
    return asked
