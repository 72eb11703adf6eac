"""One way to run a model: losses, and what heads put out, of sequences of one length.

There are two implementations, and nobody else needs to know which one a model gets:
`LayerByLayer` (`layerwise`) runs fused attention and skips what nobody reads; `Whole` runs the
model's own code with hooks, where layers cannot be run one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens.models.attention import Attention, PatternAttention
from induction_lens.models.hooks import HookFunction, Model, hook_name, installed, keep
from induction_lens.models.passes import losses_at, run_until
from induction_lens.models.properties import batch_size_for


class Run(ABC):
    """A model that is ready to run on sequences of one length; made by `run`."""

    def __init__(self, model: Model) -> None:
        """Of this model."""
        self.model = model
        """The model. It cannot be called itself while it is run layer by layer."""
        self.n_layers: int = model.cfg.n_layers
        """Layers of the model."""

    why_whole: str | None = None
    """Why the model is run whole; None where it is run layer by layer."""
    takes_known_outputs: bool = False
    """Whether a pass is spared the attention of layers whose outputs are known already."""

    def batch_size(self, n_pos: int, *, patterns: bool = False) -> int:
        """How many sequences of a length fit the memory budget; `patterns`: with patterns too."""
        return batch_size_for(self.model, n_pos, fused=self.why_whole is None and not patterns)

    @abstractmethod
    def losses(
        self, tokens: Int[Tensor, "batch pos"], positions: Sequence[int] | None = None
    ) -> Float[Tensor, "batch read_pos"]:
        """The losses, in nats, of the tokens at some positions; None: at 1 and later.

        They may be NaN or infinite, where the model's numbers are.
        """

    @abstractmethod
    def outputs(
        self, tokens: Int[Tensor, "batch pos"], last: int
    ) -> Mapping[int, Float[Tensor, "batch pos head d_head"]]:
        """What all heads put out, `z`, by layer, up to the layer `last`."""

    @abstractmethod
    def attention(
        self, tokens: Int[Tensor, "batch pos"], look: Callable[[int, Attention], None]
    ) -> None:
        """Show every layer's attention, in order, to `look`: its index, and what is to be read."""


class Whole(Run):
    """A model that runs its own code, with hooks."""

    def __init__(self, model: Model, why: str) -> None:
        """`why` it is not run layer by layer."""
        super().__init__(model)
        self.why_whole = why

    def losses(
        self, tokens: Int[Tensor, "batch pos"], positions: Sequence[int] | None = None
    ) -> Float[Tensor, "batch read_pos"]:
        """As `Run.losses`."""
        read = range(1, tokens.shape[1]) if positions is None else positions
        return losses_at(self.model, tokens, list(read))

    def outputs(
        self, tokens: Int[Tensor, "batch pos"], last: int
    ) -> Mapping[int, Float[Tensor, "batch pos head d_head"]]:
        """As `Run.outputs`."""
        outputs: dict[int, torch.Tensor] = {}
        with installed(self.model, keep("z", range(last + 1), into=outputs)):
            run_until(self.model, tokens, hook_name("z", last))
        return outputs

    def attention(
        self, tokens: Int[Tensor, "batch pos"], look: Callable[[int, Attention], None]
    ) -> None:
        """As `Run.attention`, off the model's patterns."""
        names = [hook_name("pattern", layer) for layer in range(self.n_layers)]

        def on(layer: int) -> HookFunction:
            def hook(pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
                look(layer, PatternAttention(pattern))

            return hook

        with installed(self.model, [(name, on(layer)) for layer, name in enumerate(names)]):
            run_until(self.model, tokens, names[-1])
