"""A hand-set model whose last head matches the last two tokens, and may lower what it finds.

As the reference model, with one head more in the first layer, which says what came two back.

- 0.0 writes the previous token, 0.1 the one before that.
- 1.0 attends where the key's previous token is the current one *and* the token before that is the
  previous one; where only the first is so, its attention is a tiny part of that; elsewhere, less.
"""

from __future__ import annotations

from typing import Any

import torch

from induction_lens.toys.model import ToyConfig, build_toy, set_weights

D_VOCAB, N_CTX, N_HEADS = 29, 61, 2
TOKEN, POSITION = 0, D_VOCAB
PREVIOUS = D_VOCAB + N_CTX
TWO_BACK, PREDICTION = PREVIOUS + D_VOCAB, PREVIOUS + 2 * D_VOCAB
D_MODEL, D_HEAD, SHARP = PREVIOUS + 3 * D_VOCAB, 64, 40.0


def two_token_circuit(implementation: Any = None, *, sign: float = 1.0) -> Any:
    """The circuit; with `sign=-1`, its last head lowers the logit of what it attends to."""
    config = ToyConfig(
        n_layers=2,
        d_model=D_MODEL,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_vocab=D_VOCAB,
        n_ctx=N_CTX,
        positions="standard",
    )
    model = build_toy(config, implementation=implementation, device="cpu")
    weights = {
        "embed.W_E": torch.zeros(D_VOCAB, D_MODEL),
        "pos_embed.W_pos": torch.zeros(N_CTX, D_MODEL),
        "unembed.W_U": torch.zeros(D_MODEL, D_VOCAB),
    }
    weights["embed.W_E"][:, TOKEN : TOKEN + D_VOCAB] = torch.eye(D_VOCAB)
    weights["pos_embed.W_pos"][:, POSITION : POSITION + N_CTX] = torch.eye(N_CTX)
    weights["unembed.W_U"][PREDICTION : PREDICTION + D_VOCAB] = 10 * torch.eye(D_VOCAB)
    for layer in range(2):
        at = f"blocks.{layer}.attn"
        for name in ("W_Q", "W_K", "W_V"):
            weights[f"{at}.{name}"] = torch.zeros(N_HEADS, D_MODEL, D_HEAD)
        weights[f"{at}.W_O"] = torch.zeros(N_HEADS, D_HEAD, D_MODEL)
        for name in ("b_Q", "b_K", "b_V"):
            weights[f"{at}.{name}"] = torch.zeros(N_HEADS, D_HEAD)
        weights[f"{at}.b_O"] = torch.zeros(D_MODEL)
    for head, (back, part) in enumerate(((1, PREVIOUS), (2, TWO_BACK))):
        for position in range(N_CTX):
            to = max(position - back, 0)
            weights["blocks.0.attn.W_Q"][head, POSITION + position, to] = SHARP
            weights["blocks.0.attn.W_K"][head, POSITION + position, position] = 1.0
        _copy(weights, "blocks.0.attn", head, part)
    for token in range(1, D_VOCAB):
        weights["blocks.1.attn.W_Q"][0, TOKEN + token, token] = 2 * SHARP
        weights["blocks.1.attn.W_K"][0, PREVIOUS + token, token] = 1.0
        weights["blocks.1.attn.W_Q"][0, PREVIOUS + token, 31 + token] = SHARP
        weights["blocks.1.attn.W_K"][0, TWO_BACK + token, 31 + token] = 1.0
    _copy(weights, "blocks.1.attn", 0, PREDICTION, sign=sign)
    set_weights(model, weights)
    return model


def _copy(
    weights: dict[str, torch.Tensor], at: str, head: int, to: int, *, sign: float = 1.0
) -> None:
    for token in range(D_VOCAB):
        weights[f"{at}.W_V"][head, TOKEN + token, token] = 1.0
        weights[f"{at}.W_O"][head, token, to + token] = sign
