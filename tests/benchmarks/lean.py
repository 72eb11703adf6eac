"""A training loop as lean as plain PyTorch allows, to measure the speed of `il.train` against.

The same function, data and recipe as `il.train` on an attention-only toy with rotary positions:
parameter-free layer norm, biases on queries, keys, values and outputs, an untied unembedding;
Muon for the attention matrices (each of the four a matrix of its own) and AdamW for the rest;
micro batches, gradient clipping, and the same rates. It has no hooks, snapshots or checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import induction_lens as il
from induction_lens.training.optimizers import _Muon


class LeanAttention(nn.Module):
    """Causal self-attention with one matrix for queries, keys and values."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        n_batch, n_pos, d_model = x.shape
        by_head = (n_batch, n_pos, -1, d_model // self.n_heads)
        query_and_key, value = self.qkv(x).split([2 * d_model, d_model], dim=-1)
        # each adjacent pair of coordinates is a complex number, which its position turns
        pairs = query_and_key.reshape(*by_head[:3], by_head[3] // 2, 2)
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(3)
        query, key = turned.chunk(2, dim=2)
        heads = (part.transpose(1, 2) for part in (query, key, value.view(by_head)))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n_batch, n_pos, d_model))


class LeanModel(nn.Module):
    """An attention-only transformer."""

    def __init__(self, config: il.toys.ToyConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.d_vocab, config.d_model)
        self.layers = nn.ModuleList(
            LeanAttention(config.d_model, config.n_heads) for _ in range(config.n_layers)
        )
        self.unembed = nn.Linear(config.d_model, config.d_vocab, bias=False)
        d_head = config.head_width
        rates = 1.0 / 10000 ** (torch.arange(0, d_head, 2).float() / d_head)
        angles = torch.outer(torch.arange(config.n_ctx).float(), rates)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles)[:, None])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        turns = self.turns[: tokens.shape[1]]
        for layer in self.layers:
            x = x + layer(F.layer_norm(x, x.shape[-1:]), turns)
        return self.unembed(F.layer_norm(x, x.shape[-1:]))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a toy, as `toy_weights` names and shapes them."""
        self.embed.weight.copy_(weights["embed.W_E"])
        self.unembed.weight.copy_(weights["unembed.W_U"].T)
        for number, layer in enumerate(self.layers):
            of = {kind: weights[f"blocks.{number}.attn.{kind}"] for kind in _KINDS}
            layer.qkv.weight.copy_(torch.cat([of[f"W_{c}"].mT.flatten(0, 1) for c in "QKV"]))
            layer.qkv.bias.copy_(torch.cat([of[f"b_{c}"].flatten() for c in "QKV"]))
            layer.out.weight.copy_(of["W_O"].flatten(0, 1).T)
            layer.out.bias.copy_(of["b_O"])


_KINDS = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")


def train(
    model: LeanModel, batches: Sequence[Tensor], *, micro_batch: int, clip: float = 1.0
) -> list[float]:
    """One step for each batch [batch pos]; the loss of each, in nats."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers, n_steps, losses = _optimizers(model), len(batches), []
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for step, batch in enumerate(batches):
        for parameter in model.parameters():
            parameter.grad.zero_()
        total = 0.0
        for piece in batch.split(micro_batch):
            logits = model(piece[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
            loss = loss * (len(piece) / len(batch))
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        rate = min(1.0, (step + 1) / 100, (n_steps - step) / max(0.3 * n_steps, 1))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.step()
        losses.append(total)
    return losses


def _optimizers(model: LeanModel) -> list[torch.optim.Optimizer]:
    """Muon for the attention matrices, AdamW for the rest, both on the weights themselves."""
    matrices, rest = [], [model.embed.weight, model.unembed.weight]
    for layer in model.layers:
        # queries, keys and values are matrices of their own: views of the one that multiplies
        for weight, gradient in zip(
            layer.qkv.weight.detach().chunk(3), layer.qkv.weight.grad.chunk(3), strict=True
        ):
            matrices.append(nn.Parameter(weight))
            matrices[-1].grad = gradient
        matrices.append(layer.out.weight)
        rest += [layer.qkv.bias, layer.out.bias]
    return [
        torch.optim.AdamW(rest, lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        _Muon(matrices, learning_rate=0.02),  # ours: torch's is far slower on most CPUs
    ]
