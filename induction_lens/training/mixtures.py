"""A mixture of text with sequences that are written in its tokens, to train a toy on.

It is to teach tasks, and not induction: a toy that has induction heads already begins with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.inputs.corpus import tokenizer_json
from induction_lens.languages import Copies, Mixture, Packed, Text
from induction_lens.models import toy_weights
from induction_lens.seals import DATA
from induction_lens.tasks import EVALUATED, WrittenTasks, few_shot, ready
from induction_lens.toys import snapshots
from induction_lens.training.language_presets import language_batches

ASKED = (*EVALUATED, "classes-4", "antonyms")
"""The ready tasks that a card quotes the accuracy on."""
SHOTS, N_ITEMS = 8, 200
RUNS = DATA / "runs"
"""The runs that ship, with their tokenizer."""


@dataclass(frozen=True)
class TextMixture:
    """Which shares of the sequences are what."""

    text: float = 0.35
    """Text."""
    copies: float = 0.05
    """Random tokens, and then pieces of them again (`languages.Copies`, packed)."""
    tasks: float = 0.6
    """Worked examples of tasks (`tasks.WrittenTasks`)."""

    def __post_init__(self) -> None:
        """Check the shares."""
        for field in fields(self):
            share = getattr(self, field.name)
            checks.real_number(field.name, share, above=0, below=1, remedy="a share, such as 0.5")

    def language(self, tokens: Int[Tensor, "sequence pos"], tokenizer: Any) -> Mixture:
        """The mixture as a language.

        Args:
            tokens: The text, packed.
            tokenizer: What made its tokens.
        """
        d_vocab = len(tokenizer)
        copies = Copies(n_letters=d_vocab - 1, length=24, restart=0.1)
        parts = (Text(tokens, d_vocab), Packed(copies, 128), WrittenTasks(tokenizer))
        return Mixture(parts, weights=(self.text, self.copies, self.tasks))

    def batches(
        self,
        tokens: Int[Tensor, "sequence pos"],
        tokenizer: Any,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
    ) -> Callable[[int], Int[Tensor, "batch pos"]]:
        """The batch of every step, as `language_batches` of the mixture gives it."""
        language = self.language(tokens, tokenizer)
        return language_batches(language, batch_size=batch_size, seq_len=seq_len, seed=seed)

    def __str__(self) -> str:
        """What a card says of it."""
        return (
            f"of the sequences {self.copies:.0%} are random tokens and pieces of them again, and "
            f"{self.tasks:.0%} worked examples of tasks"
        )


def first_weights(run: str, tokenizer: Any) -> dict[str, Tensor]:
    """The last weights of a run that ships, by their names, to begin with.

    Raises:
        ValueError: The tokenizer is not that of the run.
    """
    model = snapshots.load(RUNS / run / "model", device="cpu")
    if tokenizer_json(tokenizer) != tokenizer_json(model.tokenizer):
        raise ValueError(
            f"expected the tokenizer of the run {run}, whose weights are begun with, got another; "
            "use a folder for the text that has none yet"
        )
    return toy_weights(model)


def begun_with(run: str) -> str:
    """What a card says of the weights that a model began with."""
    tokens_seen = snapshots.read_snapshot(RUNS / run / "model").tokens_seen
    return (
        f"begun with the last weights of the run {run}, which ships too "
        f"({tokens_seen / 1e6:.1f}M tokens of Python source)"
    )


def answered(model: Any) -> dict[str, dict[str, Any]]:
    """What a card says of few-shot accuracy: of each of `ASKED`, with an interval over items."""
    found = {}
    for name, task in zip(ASKED, ready(*ASKED), strict=True):
        result = few_shot(model, task, shots=SHOTS, n_items=N_ITEMS)
        found[name] = {
            "accuracy": result.accuracy.value,
            "low": result.accuracy.low,
            "high": result.accuracy.high,
            "chance": result.chance,
            "shots": result.shots,
            "items": len(result.clean),
        }
    return found
