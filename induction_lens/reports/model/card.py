"""The card of a report: what the model and the data are, and how to get the same numbers again."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from induction_lens.ablation.methods import METHODS
from induction_lens.heads import THRESHOLD
from induction_lens.inputs.reading import TextSource, is_name
from induction_lens.loading import zoo_card, zoo_names
from induction_lens.models import (
    Model,
    class_name,
    device_of,
    model_name,
    run,
    shape,
    tokenizer_of,
    units_of,
    versions,
    weights_hash,
)
from induction_lens.reports.model.evaluation import Data

_DEFAULTS: Mapping[str, Any] = {
    "threshold": THRESHOLD,
    "n_controls": 20,
    "control_every_method": False,
    "n_sequences": None,
    "seed": 0,
    "early": None,
    "late": None,
    "window": 10,
    "circuit": False,
}
NAMELESS = ("custom", "model", "native")  # what models are called that were built, not loaded


def card_of(
    model: Model, data: Data, *, text: object, options: Mapping[str, Any]
) -> dict[str, str]:
    """The card of a report on a model, as ordered labels and texts."""
    sizes = shape(model)
    kv = "" if sizes.n_kv_heads == sizes.n_heads else f" ({sizes.n_kv_heads} key-value heads)"
    n, length = data.tokens.shape
    where = data.positions
    tokenizer = tokenizer_of(model)
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    name = model_name(model)
    return {
        "Model": name,
        "Class": class_name(model),
        "Shape": f"{sizes.n_layers} layers of {sizes.n_heads} heads{kv}, d_model {sizes.d_model}, "
        f"d_head {sizes.d_head}, vocabulary {sizes.d_vocab}, context {sizes.n_ctx}",
        "Weights": f"SHA-256 {weights_hash(model)[:16]}… ({dtype}, {device_of(model)})",
        "Run": _how_it_runs(model, data),
        **_training(name),
        "Tokenizer": "none" if tokenizer is None else f"{len(tokenizer)} tokens",
        "Losses on": f"{n} sequences of {length} tokens{_from(data)}: {data.about}",
        "ICL score": f"positions {where.early} and {where.late}; windowed: ±{where.window}",
        "Seed": str(options["seed"]),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions())
        + f", Python {platform.python_version()}",
        "Command": command(name, text=text, options=options),
    }


def _from(data: Data) -> str:
    """From how many documents the sequences' late tokens are, where that is known."""
    units = units_of(data.documents, data.positions.late)
    return "" if units is None else f" from {len(units.unique())} documents"


def _how_it_runs(model: Model, data: Data) -> str:
    """Whether the model's layers are run one by one, and if not, why."""
    with run(model, data.tokens[:1].to(device_of(model)), unembeds=True) as road:
        why_whole = road.why_whole
    return "layer by layer" if why_whole is None else f"whole, because {why_whole}"


def _training(name: str) -> dict[str, str]:
    """What is known of the training of a model that ships with the package."""
    if name not in zoo_names():
        return {}
    card = zoo_card(name)
    return {"Training": f"{card['training_tokens'] / 1e6:.1f}M tokens; {card['training_text']}"}


def short_name(model: Model) -> str:
    """A model's name in a sentence: the last part of a path, `this model` where it has none."""
    name = model_name(model)
    if name in NAMELESS:
        return "this model"
    return Path(name).name or name


def _can_be_named(text: TextSource) -> bool:
    """Whether a command line can say which text this is: files, folders and data sets."""
    is_listed = isinstance(text.source, (str, Path, list, tuple))
    if not is_listed or text.split != "train" or text.revision is not None:
        return False
    return all(isinstance(item, (str, Path)) and is_name(item) for item in text.items)


def command(name: str, *, text: object, options: Mapping[str, Any]) -> str:
    """The command line of a report; for a model or tokens that only Python has, the call."""
    changed = {key: options[key] for key, value in _DEFAULTS.items() if options[key] != value}
    heads = None if options["heads"] is None else ",".join(map(str, options["heads"]))
    methods = () if tuple(options["methods"]) == METHODS else tuple(options["methods"])
    given: Any = () if text is None else text
    read = given if isinstance(given, TextSource) else TextSource(given)
    detectors = options.get("detectors", ())
    in_python = not _can_be_named(read)
    sources = [] if in_python else read.items
    in_python = in_python or not set(methods) <= set(METHODS)  # objects of the caller's own
    in_python |= bool(detectors)  # which are objects, so no command line names them
    if name in NAMELESS or in_python:
        arguments = ["model"] + ([] if text is None else ["text=..."])
        arguments += [] if heads is None else [f"heads={heads.split(',')}"]
        arguments += [f"detectors=[{', '.join(detectors)}]"] if detectors else []
        arguments += [f"methods={list(methods)}"] if methods else []
        arguments += [f"{key}={value}" for key, value in changed.items()]
        return f"induction_lens.report({', '.join(arguments)})"
    parts = ["induction-lens", "report", name]
    parts += [part for source in sources for part in ("--text", str(source))]
    parts += [] if read.column == "text" else ["--column", read.column]
    parts += [] if read.encoding is None else ["--encoding", read.encoding]
    parts += [] if heads is None else ["--heads", heads]
    parts += [part for method in methods for part in ("--method", method)]
    for key, value in changed.items():
        parts.append(f"--{key.removeprefix('n_').replace('_', '-')}")
        parts += [] if value is True else [str(value)]
    return shlex.join(parts)
