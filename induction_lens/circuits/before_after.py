"""The before-and-after vector: which heads are behind what a phase of training changed.

The losses of many tokens, one chosen at random from each sequence, are measured with the weights
before a change and after it. Their difference, brought to length 1, is the direction `u` in which
the change moved the model. Knocking a head out of the model after the change moves the same losses;
the projection of that on `u` is negative where the knock-out undoes what the change did.

Source: Olsson et al. 2022, "Argument 3", where ablations are compared with the before-and-after
vector of the phase change; as we operationalise it, for two sets of weights of the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.ablation import AblationMethod
from induction_lens.ablation.methods import MAIN_METHOD, Method, as_method
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.estimates import Estimate, bootstrap_mean, columns
from induction_lens.heads import Head, HeadLike
from induction_lens.metrics import per_token_loss
from induction_lens.models import Model, Tokens, sequences_of, shape
from induction_lens.style import HeadMap, Theme, head_maps, largest, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class BeforeAndAfter:
    """Each head's knock-out along the direction in which losses changed."""

    method: str
    """How heads were knocked out of the model after the change."""
    change: Float[Tensor, " example"]
    """Loss after minus loss before, of each chosen token, in nats."""
    effects: Float[Tensor, "layer head example"]
    """Loss without each head minus loss with it, of the same tokens, after the change, in nats."""
    positions: Int[Tensor, " example"]
    """At which position of its sequence each is."""
    documents: Int[Tensor, " example"] | None = None
    """What intervals are over, where that is not the sequences."""

    @property
    def direction(self) -> Float[Tensor, " example"]:
        """The change, brought to length 1."""
        return self.change / self.change.norm()

    def projection(self, head: HeadLike) -> Estimate:
        """What knocking a head out moves the losses along the change, in nats: minus the length of
        the change where it undoes the whole of it, 0 where it moves something else.

        The interval takes the direction as given.
        """
        at = Head.parse(head)
        each = self.direction * self.effects[at.layer, at.head]
        return bootstrap_mean(each * len(each), documents=self.documents)

    def undone(self, head: HeadLike) -> float:
        """Which part of the change a knock-out undoes: minus the projection, over the length."""
        return -self.projection(head).value / float(self.change.norm())

    def __repr__(self) -> str:
        """In a few lines: the heads whose knock-out undoes most of it."""
        frame = self.to_frame().sort_values("projection").head(3)
        lines = [
            f"  {row.layer}.{row.head}: undoes {row.undone:+.2f}" for row in frame.itertuples()
        ]
        return "\n".join([f"BeforeAndAfter({len(self.change)} tokens, {self.method})", *lines])

    def to_frame(self) -> pd.DataFrame:
        """One row per head: `layer`, `head`, `projection` in nats with the ends of its interval,
        and `undone`, the part of the change."""
        import pandas as pd

        n_layers, n_heads, _ = self.effects.shape
        rows = []
        for layer in range(n_layers):
            for index in range(n_heads):
                head = Head(layer, index)
                row: dict[str, object] = {"layer": layer, "head": index}
                row |= columns("projection", self.projection(head))
                rows.append(row | {"undone": self.undone(head)})
        return pd.DataFrame(rows)

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Which part of the change each head's knock-out undoes: layers down, heads across.

        Raises:
            ValueError: If there is no such theme.
        """
        n_layers, n_heads, _ = self.effects.shape
        undone = self.to_frame()["undone"].tolist()
        table = torch.tensor(undone, dtype=torch.float32, device="cpu").view(n_layers, n_heads)
        shown = HeadMap("undoes", table, signed=True, limit=largest(table))
        return themed(head_maps([shown]), theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def before_and_after(
    before: Model,
    after: Model,
    text: Tokens,
    *,
    method: AblationMethod | Method | str = MAIN_METHOD,
    seed: int = 0,
) -> BeforeAndAfter:
    """Project each head's knock-out on the direction in which a change moved losses.

    Args:
        before: The model with the weights before the change.
        after: The same with those after it; heads are knocked out of this one.
        text: Sequences of one length: one token is chosen at random from each.
        method: How heads are knocked out, one at a time.
        seed: Seed of the choice.

    Raises:
        ValueError: If the models do not read the same tokens, sequences differ in length, or no
            loss changed.

    Examples:
        >>> after = il.load("toy-2l-narrow")
        >>> before = il.toys.build_toy(after.toy_config, device="cpu")  # untrained
        >>> text = il.sample_text(after, n_sequences=16, seq_len=128)
        >>> found = il.circuits.before_and_after(before, after, text)
        >>> found.effects.shape
        torch.Size([2, 4, 16])
    """
    checks.model(before, name="before")
    checks.model(after, name="after")
    sizes = [shape(model).d_vocab for model in (before, after)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"expected models of one vocabulary, got {sizes[0]} and {sizes[1]} tokens; pass two "
            "snapshots of one run"
        )
    chosen = as_method(method, seed=checks.seed(seed))
    sequences = sequences_of(after, text)
    tokens = sequences.one_length("before and after")
    positions = _one_of_each(tokens, seed=seed)
    rows = torch.arange(len(tokens), device="cpu")
    documents = sequences.documents
    return along_change(
        after,
        tokens,
        (rows, positions),
        per_token_loss(before, tokens)[rows, positions],
        method=chosen,
        documents=None if documents is None else sequences.units(tokens.shape[1] - 1),
    )


def along_change(
    after: Model,
    tokens: Int[Tensor, "batch pos"],
    chosen: tuple[Int[Tensor, " example"], Int[Tensor, " example"]],
    before: Float[Tensor, " example"],
    *,
    method: AblationMethod,
    documents: Int[Tensor, " example"] | None,
) -> BeforeAndAfter:
    """Each head's knock-out out of `after`, along what changed since losses were `before`.

    Args:
        after: The model after the change.
        tokens: Sequences of one length.
        chosen: Rows and positions of the tokens whose losses are taken.
        before: Their losses before the change, in nats.
        method: How heads are knocked out, one at a time.
        documents: What intervals are over, where that is not the tokens.

    Raises:
        ValueError: If no loss changed.
    """
    rows, positions = chosen
    n_layers, n_heads = shape(after).n_layers, shape(after).n_heads
    read = tuple(sorted(set(positions.tolist())))
    jobs = [Job((Head(n, h),), method, read) for n in range(n_layers) for h in range(n_heads)]
    clean, without = ablation_losses(after, jobs, tokens)
    losses_after = clean.long[rows, positions]
    change = losses_after - before
    if not bool((change != 0).any()):
        raise ValueError("expected losses that changed, got the same; pass other weights before")
    effects = without.long[:, rows, positions] - losses_after
    effects = effects.unflatten(0, (n_layers, n_heads))
    return BeforeAndAfter(method.label, change, effects, positions, documents)


def _one_of_each(tokens: Int[Tensor, "batch pos"], *, seed: int) -> Int[Tensor, " batch"]:
    """A position of each sequence, not that of BOS."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randint(1, tokens.shape[1], (len(tokens),), generator=generator, device="cpu")
