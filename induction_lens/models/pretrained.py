"""Loading pretrained models: a name on the Hugging Face hub, or a local folder.

With TransformerLens 3.9 an official model name gives a `HookedTransformer`. Everything else, and
everything with TransformerLens 4, gives a `TransformerBridge` in compatibility mode, whose hook
names and weights are those of a `HookedTransformer`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from induction_lens.models.classes import (
    HAS_HOOKED_TRANSFORMER,
    bridge_class,
    hooked_class,
    is_bridge,
    is_hooked,
)
from induction_lens.models.hooks import Model
from induction_lens.models.native import check_device

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def best_device() -> str:
    """`cuda` or `mps` where there is one, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_model(candidate: object) -> bool:
    """Whether this is a `HookedTransformer` or `TransformerBridge` object."""
    return is_bridge(candidate) or is_hooked(candidate)


def is_official_name(name: str) -> bool:
    """Whether TransformerLens lists this model, by its hub name or an alias."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    aliases = {alias for listed in MODEL_ALIASES.values() for alias in listed}
    return name in OFFICIAL_MODEL_NAMES or name in aliases


def load_pretrained(
    name: str, *, device: str | None = None, dtype: torch.dtype | None = None
) -> Model:
    """Load a model by hub name or from a local Hugging Face folder.

    A folder without a tokenizer loads too: `model.tokenizer` is then None.

    Raises:
        ValueError: if the folder holds no model, the hub does not give one of that name, or there
            is no such device.
    """
    check_device(device)
    device = device or best_device()
    dtype = dtype or torch.float32
    folder = Path(name)
    if folder.exists():
        return _load_folder(folder, device=device, dtype=dtype)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:  # none on the hub
        raise ValueError(f"expected a model, got the folder {name}, which does not exist")
    try:
        if HAS_HOOKED_TRANSFORMER and is_official_name(name):
            with _quiet():
                return hooked_class().from_pretrained(name, device=device, dtype=dtype)
        with _quiet():
            bridge = bridge_class().boot_transformers(name, device=device, dtype=dtype)
    except OSError as error:
        raise ValueError(
            f"expected a model of this package, a Hugging Face model name or a local folder, got "
            f"{name!r}, which could not be loaded ({str(error).splitlines()[0]}); check the "
            "spelling and the network, or download the model and pass its folder"
        ) from error
    return _compatible(bridge)


def _load_folder(folder: Path, *, device: str, dtype: torch.dtype) -> Model:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"expected a folder with a model (config.json and weights), got {folder}, which has no "
            "config.json; pass the folder that save_pretrained or a snapshot wrote"
        )
    import transformers

    has_tokenizer = any((folder / file).is_file() for file in _TOKENIZER_FILES)
    with _quiet():
        hf_model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )
        tokenizer = (
            transformers.AutoTokenizer.from_pretrained(folder)
            if has_tokenizer
            else _placeholder_tokenizer()
        )
        bridge = bridge_class().boot_transformers(
            str(folder), hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype
        )
    if not has_tokenizer:
        bridge.tokenizer = None
    return _compatible(bridge)


def _placeholder_tokenizer() -> Any:
    # TransformerLens cannot boot a folder that has no tokenizer; this one is dropped after booting.
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    empty = Tokenizer(WordLevel({"<bos>": 0}, unk_token="<bos>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=empty,
        bos_token="<bos>",
        eos_token="<bos>",
        pad_token="<bos>",
        # TransformerLens reloads a tokenizer from this name unless it adds BOS by itself
        name_or_path="none",
        add_bos_token=True,
    )


def _compatible(bridge: Any) -> Model:
    with _quiet():
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


class _quiet:  # noqa: N801
    """Hide the warnings that loading libraries print about their own internals."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exception: object) -> None:
        self._caught.__exit__(None, None, None)
