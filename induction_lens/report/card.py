"""The card of a report: what the model and the data are, and how to get the same numbers again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from induction_lens.knockout import METHODS
from induction_lens.loading import ZOO, zoo_names
from induction_lens.models import (
    Model,
    class_name,
    device_of,
    model_name,
    shape,
    tokenizer_of,
    weights_hash,
)
from induction_lens.report.evaluation import N_SEQUENCES, Data

_DEFAULTS: Mapping[str, Any] = {
    "threshold": 0.3,
    "n_controls": 20,
    "n_sequences": N_SEQUENCES,
    "seed": 0,
    "early": None,
    "late": None,
    "window": 10,
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
        **_training(name),
        "Tokenizer": "none" if tokenizer is None else f"{len(tokenizer)} tokens",
        "Losses on": f"{n} sequences of {length} tokens: {data.about}",
        "ICL score": f"positions {where.early} and {where.late}; windowed: ±{where.window}",
        "Seed": str(options["seed"]),
        "Versions": ", ".join(
            f"{name} {version(name)}"
            for name in ("induction_lens", "torch", "transformer-lens", "transformers")
        )
        + f", Python {platform.python_version()}",
        "Command": command(name, text=text, options=options),
    }


def _training(name: str) -> dict[str, str]:
    """What is known of the training of a model that ships with the package."""
    if name not in zoo_names():
        return {}
    card = json.loads((ZOO / name / "card.json").read_text("utf-8"))
    return {"Training": f"{card['training_tokens'] / 1e6:.1f}M tokens; {card['training_text']}"}


def short_name(model: Model) -> str:
    """A model's name in a sentence: the last part of a path, `this model` where it has none."""
    name = model_name(model)
    if name in NAMELESS:
        return "this model"
    return Path(name).name or name


def command(name: str, *, text: object, options: Mapping[str, Any]) -> str:
    """The command line of a report; for a model or tokens that only Python has, the call."""
    changed = {key: options[key] for key, value in _DEFAULTS.items() if options[key] != value}
    heads = None if options["heads"] is None else ",".join(map(str, options["heads"]))
    methods = () if tuple(options["methods"]) == METHODS else tuple(options["methods"])
    sources = [] if text is None else [text] if not isinstance(text, (list, tuple)) else text
    in_python = isinstance(text, Tensor) or any("\n" in str(source) for source in sources)
    if name in NAMELESS or in_python:
        arguments = ["model"] + ([] if text is None else ["text=..."])
        arguments += [] if heads is None else [f"heads={heads.split(',')}"]
        arguments += [f"methods={list(methods)}"] if methods else []
        arguments += [f"{key}={value}" for key, value in changed.items()]
        return f"induction_lens.report({', '.join(arguments)})"
    parts = ["induction-lens", "report", name]
    parts += [part for source in sources for part in ("--text", str(source))]
    parts += [] if heads is None else ["--heads", heads]
    parts += [part for method in methods for part in ("--method", method)]
    for key, value in changed.items():
        parts += [f"--{key.removeprefix('n_')}", str(value)]
    return shlex.join(parts)
