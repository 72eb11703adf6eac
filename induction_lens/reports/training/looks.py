"""How the lines of models look: a colour for each kind of model, dashes for its depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from induction_lens.reports.training.findings import ModelFindings
from induction_lens.reports.training.runs import label_of
from induction_lens.style import CATEGORICAL, Dash, Look

DASHES: Mapping[int, Dash] = {1: "dot", 2: "solid", 3: "dash", 4: "longdash", 5: "dashdot"}
"""Dashes by the number of layers; deeper models have those of `_DEEPER`."""
_DEEPER: Dash = "longdashdot"
_PLAIN, _SMEARED, _MLPS, _CLAMPED = "#3b7dd8", "#d9662b", "#9b5fc0", "#8a6d3b"
_WIDE = {_PLAIN: "#0e8a9e", _SMEARED: "#c2427f", _MLPS: "#5a63c8", _CLAMPED: "#b98410"}


def looks_of(models: Sequence[ModelFindings]) -> dict[str, Look]:
    """A look for each model: plain ones are blue, smeared ones orange, those with MLPs purple,
    clamped ones brown; wider ones have a colour beside it. No two look the same, while there are
    colours."""
    looks: dict[str, Look] = {}
    for model in models:
        config = model.model.first.config
        color = _color(model)
        dash = DASHES.get(config["n_layers"], _DEEPER)
        free = [one for one in (color, *CATEGORICAL) if Look(one, dash) not in looks.values()]
        looks[model.label] = Look(free[0] if free else color, dash)
    return looks


def _color(model: ModelFindings) -> str:
    run = model.model.first
    if run.clamp:
        color = _CLAMPED
    elif not run.config["attn_only"]:
        color = _MLPS
    else:
        color = _SMEARED if run.config["smeared_keys"] else _PLAIN
    return _WIDE[color] if model.label != label_of(run) else color
