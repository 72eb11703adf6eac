"""One way in: `load` takes whatever names a model, and gives a hooked model."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from induction_lens import snapshots
from induction_lens.models import Model, best_device, is_model, load_pretrained

if TYPE_CHECKING:
    import pandas as pd

ZOO = Path(__file__).parent / "zoo"


def zoo_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/card.json"))


def zoo() -> pd.DataFrame:
    """The models that ship with the package, one row each.

    Columns: `name`, `layers`, `heads` (per layer), `d_model`, `parameters`, `training_tokens`,
    `held_out_loss` (nats per token), `icl_score` (windowed, nats) with `icl_low` and `icl_high`,
    and `description`.
    """
    import pandas as pd

    cards = [json.loads((ZOO / name / "card.json").read_text("utf-8")) for name in zoo_names()]
    columns = [
        *("name", "layers", "heads", "d_model", "parameters", "training_tokens"),
        *("held_out_loss", "icl_score", "icl_low", "icl_high", "description"),
    ]
    return pd.DataFrame(cards, columns=columns)


def load(
    model: str | Path | Model | Any,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    implementation: Literal["hooked", "bridge"] | None = None,
) -> Model:
    """Load a hooked model.

    Args:
        model: a model that ships with the package (`zoo()` lists them); a snapshot that `train`
            wrote; a local Hugging Face folder, with or without a tokenizer; a name on the Hugging
            Face hub; or a `HookedTransformer` or `TransformerBridge`, which is returned as it is.
        device: where to put it; None picks the best there is.
        dtype: type of its weights; None is float32.
        implementation: for models of this package, `hooked` or `bridge`; None takes
            `HookedTransformer` where TransformerLens has it.

    Raises:
        ValueError: if there is no such model, or its files are damaged.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"expected a dtype such as torch.float16, got {dtype!r}; pass torch's own")
    if not isinstance(model, (str, Path)):
        if is_model(model):
            return model
        raise ValueError(
            "expected a name, a folder, a HookedTransformer or a TransformerBridge, got "
            f"{type(model).__name__}; wrap a Hugging Face model with TransformerBridge first"
        )
    folder = ZOO / model if str(model) in zoo_names() else Path(model)
    if _is_snapshot(folder):
        loaded: Any = snapshots.load(
            folder,
            implementation=implementation,
            device=device or best_device(),
            dtype=dtype or torch.float32,
        )
    elif folder.exists() or not _looks_misspelt(str(model)):
        loaded = load_pretrained(str(model), device=device, dtype=dtype)
    else:
        [close] = difflib.get_close_matches(str(model), zoo_names(), n=1)
        raise ValueError(
            f"expected a model that exists, got {str(model)!r}; did you mean {close!r}?"
        )
    loaded.induction_lens_name = str(model)
    return loaded


def _is_snapshot(folder: Path) -> bool:
    file = folder / snapshots.CONFIG
    if not file.is_file():
        return False
    try:
        return "tokens_seen" in json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return (folder / snapshots.WEIGHTS).is_file()


def _looks_misspelt(name: str) -> bool:
    """Whether this is nearly the name of one of our models, and so hardly one on the hub."""
    return "/" not in name and bool(difflib.get_close_matches(name, zoo_names(), n=1, cutoff=0.8))
