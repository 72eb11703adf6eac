"""`load` turns anything that names a model into a hooked model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from induction_lens import checks, seals
from induction_lens.models import (
    Model,
    best_device,
    check_causal,
    check_device,
    check_model_folder,
    is_model,
    is_transformers_model,
    load_in_memory,
    load_pretrained,
    undisturbed,
)
from induction_lens.toys import snapshots

if TYPE_CHECKING:
    import pandas as pd

ZOO = Path(__file__).parent / "data" / "zoo"
_CHOOSE = "for instance toy-2l, which ships with the package"


def zoo_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/card.json"))


def zoo_card(name: str) -> dict[str, Any]:
    """The card of a model that ships with the package: what is known about it.

    Raises:
        ValueError: The file was altered.
    """
    return seals.read_json(ZOO / name / "card.json", remedy="install induction_lens again")


def zoo() -> pd.DataFrame:
    """The models that ship with the package, one row each.

    Columns: `name`, `layers`, `heads` (per layer), `d_model`, `parameters`, `training_tokens`,
    `held_out_loss` (nats per token), `icl_score` (by matched targets, nats) with `icl_low` and
    `icl_high`, and `description`.

    Examples:
        >>> il.zoo()[["name", "layers", "heads", "parameters"]]
                     name  layers  heads  parameters
        0          toy-1l       1      4      590336
        1  toy-1l-smeared       1      4      590340
        2          toy-2l       2      8     1050624
        3   toy-2l-narrow       2      4      656384
        4  toy-3l-mixture       3      4      460288
        5          toy-4l       4      4     1053184
    """
    import pandas as pd

    cards = [zoo_card(name) for name in zoo_names()]
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
    trust_remote_code: bool = False,
    check: bool = True,
    revision: str | None = None,
    checkpoint: int | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
) -> Model:
    """Load a hooked model.

    A Hugging Face model first runs unchanged: the loaded one must predict the same, and each token
    only from earlier ones. That costs two passes over at most 2,048 tokens. A plain LoRA adapter is
    merged into its base model, which the log says.

    Args:
        model: A model that ships with the package (`zoo()` lists them); a snapshot that `train`
            wrote; a local Hugging Face folder, with or without a tokenizer; a name on the Hugging
            Face hub; a model of transformers that is in memory, which stays as it is: its weights
            are copied; or a `HookedTransformer` or `TransformerBridge`, which is returned
            unchanged.
        device: Where to put it; None picks the best there is.
        dtype: Type of its weights; None is float32.
        implementation: For models of this package, `hooked` or `bridge`; None takes
            `HookedTransformer` where TransformerLens has it.
        trust_remote_code: Whether Python code that comes with a Hugging Face model may run; without
            it such models are refused.
        check: Whether to compare predictions with Hugging Face's, and to look whether the model is
            causal. Without it, a model that TransformerLens runs wrongly goes unnoticed.
        revision: Of a name on the hub: a branch, a tag or a commit. Weights that are there as
            pickles only are read as weights, which runs no code.
        checkpoint: Instead of a revision: a step of Pythia or of stanford-crfm's GPT-2, or the
            number in the name of a checkpoint in TransformerLens's own format (`NeelNanda/…`).
        device_map: Instead of a device: how accelerate spreads a model over several, for instance
            `auto`. It is then a `TransformerBridge`, in TransformerLens 3.9 and 4.
        tokenizer: Of a model of transformers that is in memory; of all others it is known.

    Raises:
        ValueError: If there is no such model or revision (the nearest are named), its files are
            damaged, it is not a decoder-only language model, its weights are quantised, it is a
            PEFT adapter that is more than plain LoRA, it does not fit into memory, or
            TransformerLens does not run it as Hugging Face does.

    Examples:
        >>> model = il.load("toy-2l", device="cpu")
        >>> model.cfg.n_layers, model.cfg.n_heads
        (2, 8)
    """
    if dtype is not None:
        dtype = checks.instance("dtype", dtype, torch.dtype, "for instance torch.float16, or None")
    trust_remote_code = checks.flag("trust_remote_code", trust_remote_code)
    check = checks.flag("check", check)
    check_device(device)
    where = _checked_where(device, revision, checkpoint, device_map)
    if tokenizer is not None and not is_transformers_model(model):
        raise ValueError(
            f"expected tokenizer with a model of transformers that is in memory, got it with "
            f"{checks.shown(model)}, whose own is used; leave it out, or set model.tokenizer"
        )
    if isinstance(model, (str, Path)):
        loaded: Any = _load_named(
            str(model),
            device=device,
            dtype=dtype,
            implementation=implementation,
            trust_remote_code=trust_remote_code,
            check=check,
            where=where,
        )
        chosen = checkpoint if revision is None else revision
        loaded.induction_lens_name = str(model) if chosen is None else f"{model}@{chosen}"
    elif is_model(model):
        loaded = model
    elif is_transformers_model(model):
        _check_no_moment(where)
        loaded = load_in_memory(
            model,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            check=check,
        )
    else:
        raise ValueError(
            "expected a name, a folder, a model of transformers, a HookedTransformer or a "
            f"TransformerBridge, got {checks.shown(model)}; pass one of these, an adapter after "
            "merge_and_unload()"
        )
    if check:
        check_causal(loaded)
    return loaded


def check_names(models: Iterable[object]) -> None:
    """Check names and folders of models before the work that needs all of them, without reading
    weights or asking a network: a name on the hub is taken as it is.

    Raises:
        ValueError: One is misspelt, or its folder holds no model.
    """
    for model in models:
        if isinstance(model, (str, Path)):
            name = str(model)
            folder = _folder_of(name)
            if folder.exists() and not _is_snapshot(folder):
                check_model_folder(folder)
            elif not folder.exists() and _looks_misspelt(name):
                raise _misspelt(name)


def _checked_where(
    device: str | None, revision: Any, checkpoint: Any, device_map: Any
) -> dict[str, Any]:
    """What names a moment of training, and several devices; empty where nothing was given.

    Raises:
        ValueError: It is of another type, or two of them contradict each other.
    """
    revision = checks.text("revision", revision, optional=True)
    checkpoint = checks.whole_number("checkpoint", checkpoint, least=0, optional=True)
    if revision is not None and checkpoint is not None:
        raise ValueError("expected revision or checkpoint, got both; name the moment with one")
    if device is not None and device_map is not None:
        raise ValueError("expected device or device_map, got both; leave one of them out")
    if device_map is not None and not isinstance(device_map, (str, Mapping)):
        raise checks.refuse("device_map", "a text or a mapping", device_map, "for instance 'auto'")
    given = {"revision": revision, "checkpoint": checkpoint, "device_map": device_map}
    return {name: value for name, value in given.items() if value is not None}


def _check_no_moment(where: Mapping[str, Any]) -> None:
    """Check that nothing is asked for that names files.

    Raises:
        ValueError: Something is.
    """
    if where:
        raise ValueError(
            f"expected no {', '.join(where)} with a model that is in memory, got some; they are "
            "for models of the Hugging Face hub"
        )


def _load_named(
    name: str,
    *,
    device: str | None,
    dtype: torch.dtype | None,
    implementation: Literal["hooked", "bridge"] | None,
    trust_remote_code: bool,
    check: bool,
    where: dict[str, Any],
) -> Model:
    folder = _folder_of(name)
    if _is_snapshot(folder):
        if where:
            raise ValueError(
                f"expected no {', '.join(where)} with {name}, a model of this package, got "
                "some; they are for models of the Hugging Face hub"
            )
        with undisturbed():
            return snapshots.load(
                folder,
                implementation=implementation,
                device=best_device() if device is None else device,
                dtype=dtype or torch.float32,
            )
    if folder.exists() or not _looks_misspelt(name):
        return load_pretrained(
            name,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            check=check,
            **where,
        )
    raise _misspelt(name)


def _folder_of(name: str) -> Path:
    """The folder of a model of this package, or the one that a name is, if it is there.

    Raises:
        ValueError: No folder can have that name.
    """
    if not name.strip():
        raise checks.refuse("model", "the name or the folder of a model", name, _CHOOSE)
    folder = ZOO / name if name in zoo_names() else Path(name)
    try:
        folder.exists()
    except (OSError, ValueError) as error:  # a name that is too long for a file, or has a NUL
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"expected the name or the folder of a model, got {name[:60]!r} ({reason}); check the "
            "spelling"
        ) from error
    return folder


def _misspelt(name: str) -> ValueError:
    return ValueError(
        f"expected a model that exists, got {name!r}; did you mean {_closest(name)!r}?"
    )


def _is_snapshot(folder: Path) -> bool:
    file = folder / snapshots.CONFIG
    if not file.is_file():
        return False
    try:
        config = json.loads(file.read_text("utf-8"))
        return isinstance(config, dict) and "tokens_seen" in config
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return (folder / snapshots.WEIGHTS).is_file()


def _looks_misspelt(name: str) -> bool:
    """Whether this is nearly the name of one of our models, and so unlikely to be one on the
    hub."""
    return "/" not in name and _closest(name) is not None


def _closest(name: str) -> str | None:
    """The name of one of our models that is nearly this one, whatever its case."""
    near = difflib.get_close_matches(name.lower(), zoo_names(), n=1, cutoff=0.8)
    return near[0] if near else None
