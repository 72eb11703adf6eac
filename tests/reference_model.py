"""The reference model of this project: an induction circuit whose weights are set by hand.

Two attention-only layers of three heads. The residual stream has four parts: the token, the
position, the previous token (written by head 0.0) and the prediction (read by the unembedding).

- 0.0 attends to the previous position and copies its token into the previous-token part.
- 0.1 rests on BOS and writes nothing.
- 0.2 attends uniformly and writes nothing.
- 1.0 matches its token with the previous-token part of the keys, attends to BOS where nothing
  matches, and copies the token it attends to into the prediction.
- 1.1 attends to every occurrence of its own token, itself included, and writes nothing.
- 1.2 attends uniformly and writes nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from induction_lens.toys.model import ToyConfig, build_toy, set_weights

D_VOCAB, N_CTX, N_HEADS, D_HEAD = 29, 41, 3, 43
TOKEN, POSITION = 0, D_VOCAB
PREVIOUS, PREDICTION = D_VOCAB + N_CTX, 2 * D_VOCAB + N_CTX
D_MODEL = 3 * D_VOCAB + N_CTX
SHARP = 40.0  # gain of the attention scores: what is not attended to gets less than e^-40
BOS = 0


def induction_circuit(implementation: Any = None) -> Any:
    """The circuit, in one of the two classes."""
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
    set_weights(model, _weights())
    return model


def _weights() -> dict[str, torch.Tensor]:
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
    _previous_token_head(weights, "blocks.0.attn", 0)
    _rest_on_bos(weights, "blocks.0.attn", 1, gain=SHARP)
    _match(weights, "blocks.1.attn", 0, key_part=PREVIOUS)
    _rest_on_bos(weights, "blocks.1.attn", 0, gain=SHARP / 3)
    _copy(weights, "blocks.1.attn", 0, to=PREDICTION)
    _match(weights, "blocks.1.attn", 1, key_part=TOKEN)
    return weights


def _previous_token_head(weights: dict[str, torch.Tensor], at: str, head: int) -> None:
    for position in range(1, N_CTX):
        weights[f"{at}.W_Q"][head, POSITION + position, position - 1] = SHARP
    for position in range(N_CTX):
        weights[f"{at}.W_K"][head, POSITION + position, position] = 1.0
    _copy(weights, at, head, to=PREVIOUS)


def _match(weights: dict[str, torch.Tensor], at: str, head: int, *, key_part: int) -> None:
    """Attend where the key's part holds the query's token. BOS (token 0) matches nothing."""
    for token in range(1, D_VOCAB):
        weights[f"{at}.W_Q"][head, TOKEN + token, token] = SHARP
        weights[f"{at}.W_K"][head, key_part + token, token] = 1.0


def _rest_on_bos(weights: dict[str, torch.Tensor], at: str, head: int, *, gain: float) -> None:
    """Attend to position 0, whatever the query; the last coordinate of the head is used."""
    weights[f"{at}.b_Q"][head, D_HEAD - 1] = gain * 10
    weights[f"{at}.W_K"][head, POSITION, D_HEAD - 1] = 1.0


def _copy(weights: dict[str, torch.Tensor], at: str, head: int, *, to: int) -> None:
    for token in range(D_VOCAB):
        weights[f"{at}.W_V"][head, TOKEN + token, token] = 1.0
        weights[f"{at}.W_O"][head, token, to + token] = 1.0
