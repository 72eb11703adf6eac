"""Queries, keys and values from another residual stream, while the model itself runs.

`run` gives these where nobody else runs the model. Inside a caller's forward pass the same layers
are used, with what the blocks are called with in that pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lens.models.exclusive import undone
from induction_lens.models.hooks import InterventionError, Model, device_of, installed, untyped
from induction_lens.models.layerwise import LayerByLayer
from induction_lens.models.projections import AttentionInputs
from induction_lens.models.roads import run


class Projector:
    """What a layer's attention would be computed from if another residual stream entered it."""

    def __init__(self, model: Model) -> None:
        """Of a model whose layers give what it gives.

        Raises:
            InterventionError: If they do not, or somebody's hooks are on the model.
        """
        n_ids, length = int(model.cfg.d_vocab), min(8, int(model.cfg.n_ctx))
        tokens = torch.arange(length, device=device_of(model))[None] % n_ids
        with run(model, tokens) as road:
            if not isinstance(road, LayerByLayer):
                raise InterventionError(
                    "expected a model whose layers can be run one by one, to compute a head's "
                    f"inputs again, got one that cannot, because {road.why_whole}; enter the block "
                    "before adding hooks, or take another model"
                )
            self._layers = road
        self._model = model
        self._inside = False

    @property
    def is_projecting(self) -> bool:
        """Whether parts of the model run for `attention_inputs` now, and not for a caller."""
        return self._inside

    @contextmanager
    def following(self) -> Iterator[None]:
        """Inside the block, take over how each forward pass calls the model's blocks."""
        first, handles = untyped(self._model).blocks[0], []

        def follow(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._inside:
                self._layers.called_with(args[1:], kwargs)

        def remove() -> None:
            for handle in handles:
                handle.remove()

        with undone(remove):
            handles.append(first.register_forward_pre_hook(follow, with_kwargs=True))
            yield

    def attention_inputs(
        self, layer: int, residual: Float[Tensor, "batch pos d_model"]
    ) -> AttentionInputs:
        """Queries, keys and values, positions in them."""
        self._inside = True
        try:
            with ExitStack() as stack:
                hooks = self._layers.hooks()
                if hooks:
                    stack.enter_context(installed(self._model, hooks, all_fire=False))
                return self._layers.attention_inputs(layer, residual)
        finally:
            self._inside = False

    def attend(self, layer: int, inputs: AttentionInputs) -> Float[Tensor, "batch pos head d_head"]:
        """What heads put out that have these inputs."""
        return self._layers.attend(layer, inputs)

    def change(
        self, layer: int, z: Float[Tensor, "batch pos chosen d_head"], heads: list[int]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What some heads' outputs add to the residual stream, the bias left out."""
        return self._layers.change(layer, z, heads)

    def scale(self, layer: int) -> float:
        """What attention scores are multiplied with."""
        return self._layers.scale(layer)
