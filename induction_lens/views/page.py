"""The page of a view: one HTML document with its numbers, packed, and the script that draws them.

Numbers are rounded to 8 bits: attention to the nearest 1/255, logit attribution to the nearest
1/127 of the largest of its head. Keys that a query does not see are left out; what is rounded to
zero packs to almost nothing, and its sum is kept for each query. Each head is a block of its own,
deflated, in base64, and is unpacked when it is first shown.
"""

from __future__ import annotations

import base64
import html
import json
import math
import zlib
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from induction_lens.views.view import AttentionView

TEMPLATES = Path(__file__).parent / "templates"
STEPS = 255
"""Steps of attention, from 0 to 1."""
SIGNED_STEPS = 127
"""Steps of logit attribution on each side of 0."""
SHOWN_FIRST = 2
"""Heads side by side when a page is opened."""
PALETTE = {
    "light": {
        "paper": "#fbfbf9",
        "card": "#ffffff",
        "ink": "#1d2430",
        "soft": "#566070",
        "line": "#d9dce2",
        "accent": "#b8480f",
        "hot": "#f39457",
        "cold": "#7fb1f0",
    },
    "dark": {
        "paper": "#12151b",
        "card": "#191d25",
        "ink": "#eef0f4",
        "soft": "#a8b1bf",
        "line": "#343b47",
        "accent": "#f0925c",
        "hot": "#b04d14",
        "cold": "#2463b4",
    },
}
"""Colours by theme. Tokens are in `ink` on what lies between `card` and `hot` or `cold`."""


def document(view: AttentionView) -> str:
    """The page of a view."""
    n = len(view.tokens)
    parts = {
        "title": html.escape(f"Attention of {view.model}"),
        "model": html.escape(view.model),
        "n_tokens": f"{n:,}",
        "css": _css(),
        "script": (TEMPLATES / "attention.js").read_text(encoding="utf-8"),
        "underlined": _underlined(view),
        "notes": "".join(f'<p class="note">{html.escape(note)}</p>' for note in view.notes),
        "card": "".join(
            f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>"
            for label, value in view.card.items()
        ),
        "view": _safe(_described(view)),
        "blocks": "\n".join(_blocks(view)),
    }
    template = Template((TEMPLATES / "attention.html").read_text(encoding="utf-8"))
    return template.substitute(parts)


def framed(document: str, title: str) -> str:
    """A document as an element of another, such as a notebook, that it cannot disturb."""
    inner, named = html.escape(document, quote=True), html.escape(title, quote=True)
    return (
        f'<iframe srcdoc="{inner}" title="{named}" '
        'style="width: 100%; height: 48rem; border: 0"></iframe>'
    )


def visible(token: str) -> str:
    """A token's text with its white space made visible."""
    marked = token.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return marked or "∅"


def pattern_codes(pattern: Float[Tensor, "query_pos key_pos"]) -> UInt8[Tensor, " code"]:
    """A pattern in 8 bits: the keys that each query sees, row after row; then, for each query, the
    sum of what was rounded to zero."""
    codes = (pattern * STEPS).round().clamp(0, STEPS)
    rest = (pattern.masked_fill(codes > 0, 0).sum(-1) * STEPS).round().clamp(0, STEPS)
    return torch.cat([_lower(codes), rest]).to(torch.uint8)


def signed_codes(
    table: Float[Tensor, "query_pos key_pos"],
) -> tuple[UInt8[Tensor, " code"], float]:
    """A table of both signs in 8 bits, 128 for zero, and what the largest code stands for. Its last
    row, which is of no token, is left out."""
    known = table[:-1]
    unit = float(known.abs().max()) or 1.0
    codes = (known / unit * SIGNED_STEPS).round() + SIGNED_STEPS + 1
    return _lower(codes).to(torch.uint8), unit


def _lower(table: Float[Tensor, "query_pos key_pos"]) -> Float[Tensor, " code"]:
    """What each query sees, row after row."""
    seen = torch.ones(table.shape, dtype=torch.bool, device=table.device).tril()
    return table[seen]


def _described(view: AttentionView) -> dict[str, Any]:
    """What the script needs besides the blocks."""
    detector, on_targets, scores = view.detector, view.on_targets, view.scores
    grid: list[float | None] = [None] * (view.n_layers * view.n_heads)
    if scores is not None:
        grid = [round(score, 4) for score in scores.values.flatten().tolist()]
    elif on_targets is not None:
        for head, mass in zip(view.heads, on_targets.tolist(), strict=True):
            grid[head.layer * view.n_heads + head.head] = round(mass, 4)
    grid = [None if value is None or math.isnan(value) else value for value in grid]
    units = None
    if view.logit_attribution is not None:
        units = [signed_codes(table)[1] for table in view.logit_attribution]
    return {
        "tokens": [visible(token) for token in view.tokens],
        "breaks": [index for index, token in enumerate(view.tokens) if "\n" in token],
        "ids": view.ids.tolist(),
        "nLayers": view.n_layers,
        "nHeads": view.n_heads,
        "heads": [str(head) for head in view.heads],
        "grid": grid,
        "gridOf": _grid_of(view),
        "shown": _shown(view, grid),
        "query": _first_query(view),
        "detector": None if detector is None else detector.title,
        "hasValues": view.value_norm is not None,
        "units": units,
    }


def _grid_of(view: AttentionView) -> str:
    """What the colours of the heads mean, as a clause."""
    if view.scores is not None:
        return f"score {view.scores.name.replace('_', ' ')}"
    if view.detector is None or not len(view.targets):
        return ""
    return f"attention on targets of {view.detector.name.replace('_', ' ')} in this prompt"


def _shown(view: AttentionView, grid: list[float | None]) -> list[int]:
    """The heads to show first: those with the highest scores."""

    def score(index: int) -> float:
        head = view.heads[index]
        value = grid[head.layer * view.n_heads + head.head]
        return -1.0 if value is None else value

    ranked = sorted(range(len(view.heads)), key=score, reverse=True)
    return sorted(ranked[:SHOWN_FIRST])


def _first_query(view: AttentionView) -> int:
    """The token to begin at: where most attention falls on targets; the last one without any."""
    if not len(view.targets):
        return len(view.tokens) - 1
    query, key = view.targets.T
    mass = torch.zeros(len(view.tokens), dtype=torch.float32, device="cpu")
    mass.index_add_(0, query, view.pattern[:, query, key].amax(0))
    return int(mass.argmax())


def _underlined(view: AttentionView) -> str:
    """What underlines mean, in a sentence."""
    if view.detector is None:
        return ""
    title = html.escape(view.detector.title.lower())
    if not len(view.targets):
        return f" The detector “{title}” has no targets in this prompt, so nothing is underlined."
    return f" Underlined: where a perfect head would look, by the detector “{title}”."


def _blocks(view: AttentionView) -> list[str]:
    """The packed numbers, each in a script element that is not run."""
    blocks = []
    for index, pattern in enumerate(view.pattern):
        blocks.append(_block(f"pattern-{index}", pattern_codes(pattern)))
        if view.value_norm is not None:
            blocks.append(_block(f"norms-{index}", view.value_norm[index]))
        if view.logit_attribution is not None:
            table = view.logit_attribution[index]
            blocks.append(_block(f"logits-{index}", signed_codes(table)[0]))
            blocks.append(_block(f"totals-{index}", table[:-1].sum(-1)))
    blocks.append(_block("targets", view.targets.to(torch.uint16)))
    return blocks


def _block(name: str, numbers: Tensor) -> str:
    """Numbers as their bytes, the lowest first, deflated, in base64."""
    array = numbers.contiguous().numpy()
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    packed = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return f'<script type="text/plain" id="{name}">{packed}</script>'


def _css() -> str:
    css = Template((TEMPLATES / "attention.css").read_text(encoding="utf-8"))
    colours = {
        theme: " ".join(f"--{name}: {colour};" for name, colour in palette.items())
        for theme, palette in PALETTE.items()
    }
    return css.substitute(colours)


def _safe(described: dict[str, Any]) -> str:
    """JSON that may stand in a script element: "<" could end it."""
    return json.dumps(described, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
