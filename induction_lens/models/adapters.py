"""PEFT adapters: plain LoRA is merged into its base model, exactly; everything else is refused.

LoRA adds `scale · x Aᵀ Bᵀ` to what a matrix gives, so that adding `scale · B A` to the matrix
itself gives the same (Hu et al. 2021, section 4.1). `scale` is `lora_alpha / r`, or with
`use_rslora` `lora_alpha / √r`. What is not known to be harmless in a configuration is refused.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from induction_lens.models.refusing import Refused, refusing

ADAPTER = "adapter_config.json"
"""The configuration, by which an adapter is known."""
WEIGHTS = "adapter_model.safetensors"
_log = logging.getLogger(__name__)
_PREFIX = "base_model.model."
_AGAIN = "download the adapter again"
_REMEDY = (
    "merge it into its base model with peft's merge_and_unload(), save that elsewhere, and load it"
)
_READ = {"peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"}
_HARMLESS = {
    *("auto_mapping", "inference_mode", "task_type", "peft_version", "target_modules"),
    *("lora_dropout", "fan_in_fan_out", "layers_to_transform", "megatron_core"),
    *("layers_pattern", "exclude_modules", "runtime_config", "ephemeral_gpu_offload"),
    *("qalora_group_size", "ensure_weight_tying"),
}
"""What says how an adapter was trained, or which matrices its file has anyway."""
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, "gaussian")}
"""What other keys are in plain LoRA, where they are not empty, zero, false or none. Other first
values, such as PiSSA's, change the base model too."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that can be merged."""

    name: str
    """Its folder or its name on the hub."""
    base: str
    """The model that it is for."""
    revision: str | None
    """Of the base model on the hub."""
    scale: float
    """What the products are multiplied with."""
    matrices: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False)
    """By module: A [r, in] and B [out, r]."""

    def merge_into(self, model: Any) -> None:
        """Add the products to the weights of the base model, in place.

        Raises:
            ValueError: A module is not there, is no `Linear` or `Conv1D`, or has other sizes.
        """
        modules = dict(model.named_modules())
        holders: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            holders.setdefault(id(parameter), []).append(name)
        for path, (a, b) in self.matrices.items():
            weight, turned = _weight_of(modules.get(path), path, self)
            change = self.scale * (b.double() @ a.double())
            change = change.T if turned else change
            if change.shape != weight.shape:
                raise Refused(
                    f"expected matrices of {list(weight.shape)} for {path} of {self.base}, got "
                    f"{list(change.shape)} in {self.name}; it belongs to another model"
                )
            if len(holders[id(weight)]) > 1:
                tied = " and ".join(holders[id(weight)])
                raise _other(self.name, f"weights for {path}, where {tied} are one matrix")
            with torch.no_grad():
                merged = weight.double() + change.to(weight.device)
                weight.copy_(merged.to(weight.dtype))
        _log.warning(
            "%s is a LoRA adapter: it is merged into %d matrices of %s",
            self.name,
            len(self.matrices),
            self.base,
        )


def read_adapter(name: str, config: Path, weights: Path) -> Adapter:
    """Read an adapter, and refuse one that is more than plain LoRA.

    Args:
        name: What it is called.
        config: Its configuration.
        weights: Its weights, as safetensors.

    Raises:
        ValueError: It is of another kind, has parts that are not merged, or is damaged.
    """
    from safetensors.torch import load_file

    with refusing("a JSON object", str(config), _AGAIN):
        told = json.loads(config.read_text("utf-8"))
        if not isinstance(told, dict):
            raise TypeError(f"it holds {type(told).__name__}")
    base, rank, alpha = (told.get(k) for k in ("base_model_name_or_path", "r", "lora_alpha"))
    if told.get("peft_type") != "LORA":
        raise _other(name, f"peft_type {told.get('peft_type')!r}")
    for key, value in told.items():
        known = key in _READ or key in _HARMLESS or value in _PLAIN.get(key, ())
        if value and not known:
            raise _other(name, f"{key} {value!r}")
    if not isinstance(base, str) or not base:
        raise _other(name, "no base_model_name_or_path")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise _other(name, f"r {rank!r} and lora_alpha {alpha!r}")
    if not weights.is_file():
        raise Refused(
            f"expected the weights of an adapter as safetensors, got {name} without {WEIGHTS}; "
            "save it again with safe_serialization=True"
        )
    with refusing("complete weights", str(weights), _AGAIN):
        tensors = load_file(weights)
    scale = alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)
    return Adapter(name, base, told.get("revision"), scale, _pairs(name, tensors, rank))


def _pairs(name: str, tensors: dict[str, Tensor], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The two matrices of each module.

    Raises:
        ValueError: There is anything else, or one without the other.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        kinds = {"A.weight": 0, "B.weight": 1}
        if kind not in kinds or not key.startswith(_PREFIX) or tensor.ndim != 2:
            raise _other(name, f"the weights {key}")
        if tensor.shape[kinds[kind]] != rank:
            raise _other(name, f"the weights {key} of shape {list(tensor.shape)} and r {rank}")
        found.setdefault(path, {})[kind[0]] = tensor
    if not found or any(len(pair) < 2 for pair in found.values()):
        raise _other(name, "one of two matrices, or none")
    return {path: (pair["A"], pair["B"]) for path, pair in found.items()}


def _weight_of(module: Any, path: str, adapter: Adapter) -> tuple[Tensor, bool]:
    """A module's matrix, and whether it is stored as [in, out]."""
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return module.weight, False
    if type(module) is Conv1D:
        return module.weight, True
    kind = "nothing" if module is None else f"a {type(module).__name__}"
    raise Refused(
        f"expected a Linear or Conv1D {path} in {adapter.base}, for which {adapter.name} has "
        f"weights, got {kind}; name the model that it was trained on, or {_REMEDY}"
    )


def _other(name: str, what: str) -> Refused:
    return Refused(
        f"expected a complete model or a plain LoRA adapter, got {name}, a PEFT adapter with "
        f"{' '.join(what.split())[:120]}; {_REMEDY}"
    )
