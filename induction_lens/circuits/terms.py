"""Term importance: what paths through no head, one head, two heads … do for the loss.

With attention patterns as they are, an attention-only model is a sum of paths: from the embedding
straight to the logits, through the OV circuit of one head, of a head whose values read another
head's output, and so on. The loss with the paths of at most `n` heads is found by running again and
again (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Term importance
analysis"):

1. Run the model, and keep all attention patterns.
2. Run it with these patterns, where what heads put out is recorded but adds nothing: the loss of
   order 0, that of the direct path.
3. Run it again, where heads add what was recorded the time before: the loss of order 1. And so on,
   up to as many as there are layers, which gives the model's own loss.

The differences are what the terms of each order add. The text leaves open what norms do. Here they
divide by what they divide by in the model itself (`freeze_norms`), so that logits are a plain sum
of the paths'; or by the scale of what is there (`freeze_norms=False`), as running the model's own
code would.

Biases of values and patterns belong to heads; positions, biases of outputs and of the unembedding
belong to order 0. What queries and keys owe to earlier heads is in the patterns, and so in no term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.circuits.weights import check_bilinear, head_weights
from induction_lens.estimates import Estimate, bootstrap_mean, columns
from induction_lens.metrics import batches
from induction_lens.models import (
    UNEMBED,
    Model,
    Tokens,
    Unembedder,
    batch_size_for,
    centres,
    device_of,
    installed,
    keep,
    losses_at,
    norm_weight,
    residual_scale,
    run_until,
    running,
    sequences_of,
    shape,
    tolerance,
    unembedded_losses,
    untyped,
)
from induction_lens.packing import Comparable
from induction_lens.style import CLEAN, TEXT, Theme, new_figure, themed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class TermImportance(Comparable):
    """The loss with the paths of at most 0, 1, 2 … heads.

    Examples:
        >>> model = il.load("toy-2l")
        >>> found = il.circuits.term_importance(model, il.sample_text(model, n_sequences=8))
        >>> len(found.losses), len(found.effects)  # no head, one, two
        (3, 2)
    """

    by_sequence: Float[Tensor, "order batch"]
    """Mean loss of each sequence, in nats, with the paths of at most so many heads."""
    losses: tuple[Estimate, ...]
    """Mean loss by order, from 0; the last is the model's own."""
    effects: tuple[Estimate, ...]
    """What the terms of each order change, from 1: loss of the order minus that of the one below,
    paired by sequence; negative where they help."""
    norms_frozen: bool
    """Whether norms divide by what they divide by in the model itself."""
    mlps_frozen: bool
    """Whether there are MLPs, which put out what they do in the model itself, at every order."""

    def __repr__(self) -> str:
        """In one line: the loss of each order."""
        said = ", ".join(f"{loss.value:.3f}" for loss in self.losses)
        return f"TermImportance(loss by order: {said})"

    def to_frame(self) -> pd.DataFrame:
        """One row per order: `order`, `loss` and `effect`, each with `_low` and `_high`; the effect
        of order 0 is NaN."""
        import pandas as pd

        effects = [None, *self.effects]
        return pd.DataFrame(
            [
                {"order": order, **columns("loss", loss), **columns("effect", effect)}
                for order, (loss, effect) in enumerate(zip(self.losses, effects, strict=True))
            ]
        )

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """Bars of the loss by order, with intervals.

        Raises:
            ValueError: If there is no such theme.
        """
        import plotly.graph_objects as go

        bars = go.Bar(
            x=[f"≤ {order} heads" for order in range(len(self.losses))],
            y=[loss.value for loss in self.losses],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [loss.high - loss.value for loss in self.losses],
                "arrayminus": [loss.value - loss.low for loss in self.losses],
                "color": TEXT,
                "width": 0,
            },
            marker_color=CLEAN,
            hovertemplate="%{x}: %{y:.3f} nats<extra></extra>",
        )
        figure = new_figure([bars], height=330)
        figure.update_xaxes(title_text="paths")
        figure.update_yaxes(title_text="loss (nats)")
        return themed(figure, theme)

    def _repr_html_(self) -> str:
        return self.to_frame().round(3).to_html(index=False)


def term_importance(
    model: Model,
    text: Tokens,
    *,
    freeze_norms: bool = True,
    freeze_mlps: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
) -> TermImportance:
    """The loss by order of the paths, attention patterns as they are.

    Intervals are over documents where the text knows them: those of each sequence's last token.

    Args:
        model: A hooked model without MLPs.
        text: Sequences of one length, BOS at position 0.
        freeze_norms: Whether norms divide by what they divide by in the model itself.
        freeze_mlps: Takes models with MLPs too. What their MLPs put out in the model itself is then
            part of order 0, with all that heads do through them.
        batch_size: Sequences at a time; None chooses by a memory budget.
        progress: Show a progress bar on stderr if it takes over two seconds.

    Raises:
        ValueError: If the model has MLPs and `freeze_mlps` is False; if it does not read by
            products of weights (`check_bilinear`); if all paths together do not give its own loss;
            or if the tokens do not fit the model.

    Examples:
        >>> model = il.load("toy-2l")
        >>> found = il.circuits.term_importance(model, il.sample_text(model, n_sequences=16))
        >>> [round(loss.value, 1) for loss in found.losses]
        [6.7, 4.5, 2.4]
    """
    checks.model(model)
    flags = {"freeze_norms": freeze_norms, "freeze_mlps": freeze_mlps, "progress": progress}
    freeze_norms, freeze_mlps, progress = (checks.flag(*flag) for flag in flags.items())
    batch_size = checks.batch_size(batch_size)
    has_mlps = not getattr(model.cfg, "attn_only", False)
    if has_mlps and not freeze_mlps:
        raise ValueError(
            "expected a model without MLPs, whose logits are a sum of paths through heads, got one "
            "with MLPs; pass freeze_mlps=True, which leaves what they put out as it is"
        )
    check_bilinear(model)
    sequences = sequences_of(model, text)
    tokens = sequences.one_length("term importance")
    if tokens.shape[1] < 2:
        remedy = "position 0 has no loss, so pass longer ones"
        raise checks.refuse("text", "sequences of at least 2 tokens", tokens, remedy)
    n_layers = shape(model).n_layers
    by_sequence = torch.empty(n_layers + 1, len(tokens), dtype=torch.float64, device="cpu")
    size = batch_size or max(1, batch_size_for(model, tokens.shape[1]) // n_layers)
    with running(model):
        for rows in batches(len(tokens), size, progress="terms" if progress else None):
            batch = tokens[rows].to(device_of(model))
            orders = _Paths(model, batch).losses(freeze_norms=freeze_norms)
            by_sequence[:, rows] = orders.double().mean(dim=-1).cpu()
    units = sequences.units(tokens.shape[1] - 1)
    losses = tuple(bootstrap_mean(one.float(), documents=units) for one in by_sequence)
    effects = tuple(bootstrap_mean(one.float(), documents=units) for one in by_sequence.diff(dim=0))
    return TermImportance(by_sequence.float(), losses, effects, freeze_norms, has_mlps)


class _Paths:
    """One batch: a run of the model, kept, and what is left of it without some paths."""

    def __init__(self, model: Model, tokens: Int[Tensor, "batch pos"]) -> None:
        self._model = model
        self._tokens = tokens
        layers = range(shape(model).n_layers)
        self._patterns: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._entering: dict[int, Tensor] = {}
        self._leaving: dict[int, Tensor] = {}
        final: list[Tensor] = []
        hooks = [
            *keep("pattern", layers, into=self._patterns),
            *keep("v", layers, into=self._values),
            *keep("resid_pre", layers, into=self._entering),
            *keep("resid_post", layers[-1:], into=self._leaving),
            (UNEMBED, final.append),
        ]
        with installed(model, hooks):
            run_until(model, tokens, UNEMBED)
        self._final = final[0].float()
        self._weights = [head_weights(model, layer) for layer in layers]

    def losses(self, *, freeze_norms: bool) -> Float[Tensor, "order batch predicted_pos"]:
        """The losses at positions 1 and later, by order.

        Raises:
            ValueError: If all paths together do not give the model's own losses.
        """
        n_layers = len(self._weights)
        own = [self._added(layer, self._entering[layer].float(), True) for layer in range(n_layers)]
        added = [torch.zeros_like(one) for one in own]
        unembed = Unembedder(self._model)
        dtype = next(untyped(self._model).parameters()).dtype
        orders = []
        for _ in range(n_layers + 1):
            missing = self._missing(own, added)
            final = self._final_without(missing[-1], freeze_norms)[:, :-1].to(dtype)
            orders.append(unembedded_losses(unembed, final, self._tokens[:, 1:]))
            added = [
                self._added(layer, self._entering[layer].float() - missing[layer], freeze_norms)
                for layer in range(n_layers)
            ]
        read = list(range(1, self._tokens.shape[1]))
        expected = losses_at(self._model, self._tokens, read)
        bound = tolerance(dtype) * max(1.0, float(expected.abs().max()))
        if not torch.allclose(orders[-1], expected, atol=bound, rtol=0):
            raise ValueError(
                "expected all paths together to give the model's own losses, got others; the model "
                "does more than its heads, norms and unembedding, so its paths cannot be told apart"
            )
        return torch.stack(orders)

    def _missing(self, own: list[Tensor], added: list[Tensor]) -> list[Tensor]:
        """What the residual stream lacks on entering each layer, and on leaving the last."""
        missing = [torch.zeros_like(own[0])]
        for of_model, here in zip(own, added, strict=True):
            missing.append(missing[-1] + of_model - here)
        return missing

    def _added(
        self, layer: int, x: Float[Tensor, "batch pos d_model"], freeze_norms: bool
    ) -> Float[Tensor, "batch pos d_model"]:
        """What a layer's heads add, with the model's patterns, where `x` enters it."""
        weights = self._weights[layer]
        entering, value = self._entering[layer].float(), self._values[layer].float()
        own_scale = residual_scale(self._model, entering)
        scale = own_scale if freeze_norms else residual_scale(self._model, x)
        value = value.repeat_interleave(len(weights.W_V) // value.shape[2], dim=2)
        # the model's values, and what they change by: biases stay as they are
        change = x / scale - entering / own_scale
        value = value + torch.einsum("bpd,hde->bphe", change, weights.W_V)
        z = torch.einsum("bhqk,bkhe->bqhe", self._patterns[layer].float(), value)
        return torch.einsum("bqhe,hed->bqd", z, weights.W_O)

    def _final_without(
        self, missing: Float[Tensor, "batch pos d_model"], freeze_norms: bool
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads, if the residual stream lacks something."""
        [leaving] = self._leaving.values()
        leaving = leaving.float()
        own_scale = residual_scale(self._model, leaving)
        left = leaving - missing
        scale = own_scale if freeze_norms else residual_scale(self._model, left)
        change = left / scale - leaving / own_scale
        if centres(self._model):
            change = change - change.mean(dim=-1, keepdim=True)
        weight = norm_weight(self._model, None)
        return self._final + (change if weight is None else change * weight.detach().float())
