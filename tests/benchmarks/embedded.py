"""A model of GPT-2 small's shape that learns in context: `toy-2l` inside it.

With random weights no head matters, nothing can be told from anything, and every interval is one
of noise. So the toy's residual stream is the first `d_model` coordinates of a larger one, its heads
are the first of two layers, and all other weights are random and write little. Without these the
model predicts what the toy does: a norm over more coordinates is larger by a factor that the
weights undo, and attention is scaled for wider heads, whose pairs of coordinates turn by angles of
which the toy's are some.
"""

from __future__ import annotations

import math
from typing import Any

import torch

import induction_lens as il
from induction_lens.models import toy_weights

LAYERS = (5, 7)
"""Where the toy's two layers are, as GPT-2's previous-token and induction heads."""
_PARTS = tuple(f"{kind}_{x}" for kind in "Wb" for x in "QKVO")
_MARK = 0.1  # what every token writes into a coordinate of its own, which rules out foreign tokens


def gpt2_with_circuit(*, quick: bool, writes: float = 0.01) -> Any:
    """The model, with the toy's tokenizer; `writes`: how much the other weights write."""
    toy = il.load("toy-2l")
    small = toy.toy_config
    sizes = (
        {"n_layers": 8, "d_model": 258, "n_heads": 8, "d_head": 64, "d_vocab": 1100}
        if quick
        else {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_vocab": 50257}
    )
    config = il.toys.ToyConfig(**sizes, n_ctx=1024, attn_only=False)
    model = il.toys.build_toy(config, device="cpu", tokenizer=toy.tokenizer)
    ours, theirs = toy_weights(model), toy_weights(toy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in ours.items():
            writer = name.endswith(("W_O", "W_out"))
            scale = writes / math.sqrt(2 * config.n_layers) if writer else 0.02
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
            if writer:
                weight[..., -2:] = 0  # where the mark is
            elif name.endswith(("b_O", "b_out")):
                weight.zero_()
        width, n_heads, n_tokens = small.d_model, small.n_heads, small.d_vocab
        larger = math.sqrt(config.d_model / width)
        embed, unembed = ours["embed.W_E"], ours["unembed.W_U"]
        embed.zero_()
        embed[:n_tokens, :width] = _centred(theirs["embed.W_E"])
        embed[:, -2], embed[:, -1] = _MARK, -_MARK
        unembed.zero_()
        unembed[:width, :n_tokens] = theirs["unembed.W_U"] / larger
        unembed[-2, n_tokens:] = -100 / _MARK
        stride = config.head_width // small.head_width
        pairs = torch.arange(small.head_width).view(-1, 2)
        turned = (stride * pairs[:, :1] + torch.tensor([0, 1])).flatten()
        for layer, place in enumerate(LAYERS):
            theirs_at = {x: theirs[f"blocks.{layer}.attn.{x}"] for x in _PARTS}
            at = {x: ours[f"blocks.{place}.attn.{x}"] for x in _PARTS}
            for x in "QKVO":
                at[f"W_{x}"][:n_heads] = 0
            for x in "QKV":
                at[f"b_{x}"][:n_heads] = 0
            for x, scale in (("Q", math.sqrt(stride)), ("K", 1.0)):
                at[f"W_{x}"][:n_heads, :width, turned] = theirs_at[f"W_{x}"] * scale / larger
                at[f"b_{x}"][:n_heads, turned] = theirs_at[f"b_{x}"] * scale
            at["W_V"][:n_heads, :width, : small.head_width] = theirs_at["W_V"] / larger
            at["b_V"][:n_heads, : small.head_width] = theirs_at["b_V"]
            at["W_O"][:n_heads, : small.head_width, :width] = _centred(theirs_at["W_O"])
            at["b_O"][:width] = _centred(theirs_at["b_O"])
    return model


def _centred(weight: torch.Tensor) -> torch.Tensor:
    """What a norm leaves of what is written: the mean over coordinates is taken off anyway."""
    return weight - weight.mean(-1, keepdim=True)
