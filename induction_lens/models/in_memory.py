"""Models of transformers that are in memory already: copied, wrapped, and checked as others are."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from induction_lens.models.checkpoint import Checkpoint, open_checkpoint
from induction_lens.models.from_scratch import check_device
from induction_lens.models.hooks import Model
from induction_lens.models.pretrained import best_device, first_faithful
from induction_lens.models.refusing import Refused, refusing
from induction_lens.models.surroundings import undisturbed

_NAME = "model"
"""What a model is called that was not loaded by a name: its weights may be of no name's."""


@dataclass(frozen=True)
class InMemory(Checkpoint):
    """A model whose weights are in memory, and whose configuration and tokenizer are in a folder.

    Attributes:
        hf_model: The model; only copies of it are wrapped.
    """

    hf_model: Any = field(default=None, repr=False)

    def read_model(self, *, device: str, dtype: torch.dtype, device_map: Any = None) -> Any:
        """A copy of the model, in evaluation mode, without gradients.

        Raises:
            ValueError: It cannot be copied, or does not fit on the device.
        """
        del device_map  # refused before
        with refusing("a model that can be copied", self.name, "save it, and load the folder"):
            copied = copy.deepcopy(self.hf_model)
        for weight in copied.parameters():
            weight.grad = None
        with refusing(f"a model that fits on {device}", self.name, "take another device"):
            copied = copied.to(device=device, dtype=dtype).eval()
        # others do not show their patterns
        if hasattr(copied, "set_attn_implementation"):
            copied.set_attn_implementation("eager")
        else:
            copied.config._attn_implementation = "eager"
        # TransformerLens chooses its adapter by this
        copied.config.architectures = [type(copied).__name__]
        return copied


def is_transformers_model(candidate: object) -> bool:
    """Whether this is a model object of transformers."""
    import transformers

    return isinstance(candidate, transformers.PreTrainedModel)


def load_in_memory(
    hf_model: Any,
    *,
    tokenizer: Any = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
) -> Model:
    """A hooked model with the weights of a model of transformers, which are copied.

    Args:
        hf_model: The model; it is left as it is.
        tokenizer: Its tokenizer, of which a copy is made; None: the hooked model has none.
        device: Where to put the hooked model; None for the best there is.
        dtype: Type of its weights; None for float32.
        trust_remote_code: Whether the model may be of code that transformers does not have.
        check: Whether to compare predictions.

    Raises:
        ValueError: It is not a decoder-only language model, is quantised or lies on several
            devices, or TransformerLens does not run it as transformers does; or this is no
            tokenizer of transformers.
    """
    check_device(device)
    _refuse_unreadable(hf_model, tokenizer)
    options: dict[str, Any] = {"device": str(device or best_device()), "check": check}
    options["dtype"] = dtype or torch.float32
    with undisturbed(), tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        hf_model.config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        opened = open_checkpoint(written, trust_remote_code=trust_remote_code)
        known = {name: getattr(opened, name) for name in ("name", "folder", "trust_remote_code")}
        found: Any = first_faithful(
            InMemory(config=hf_model.config, hf_model=hf_model, **known), **options
        )
    found.cfg.model_name = _NAME
    return found


def _refuse_unreadable(hf_model: Any, tokenizer: Any) -> None:
    """Refuse what would be copied wrongly.

    Raises:
        ValueError: Saying what is in the way.
    """
    kind = type(hf_model).__name__
    if any(weight.is_meta for weight in hf_model.parameters()):
        raise Refused(f"expected a model whose weights are in memory, got a {kind} without them")
    if len({weight.device for weight in hf_model.parameters()}) > 1:
        raise Refused(
            f"expected a model on one device, got a {kind} on several; save it, and load the "
            "folder with device_map"
        )
    if hf_model.get_output_embeddings() is None:
        raise Refused(
            f"expected a language model with its head, got a {kind}; pass the ...ForCausalLM that "
            "it is a part of"
        )
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise Refused(
            f"expected a tokenizer of transformers, got {type(tokenizer).__name__}; wrap it in "
            "transformers.PreTrainedTokenizerFast(tokenizer_object=...)"
        )
