"""How many pairs of heads compose by chance: `python -m tests.simulations.composition`.

Untrained models, whose weights are normal, of several shapes; and shuffled partners: the trained
models that ship, with what the earlier head writes turned by random rotations of the residual
stream.
"""

from __future__ import annotations

import torch

import induction_lens as il
from induction_lens.circuits import Z_THRESHOLD, composition, head_weights, read_width
from induction_lens.circuits.composition import KINDS

SHAPES = ((2, 8, 64, 1), (2, 8, 64, 8), (2, 8, 256, 32), (4, 8, 256, 32), (6, 12, 384, 32))
"""Layers, heads in each, d_model and d_head."""


def untrained(n_layers: int, n_heads: int, d_model: int, d_head: int, *, n: int) -> float:
    """The share of pairs of `n` models that pass."""
    passed = pairs = 0
    for seed in range(n):
        config = il.toys.ToyConfig(
            n_layers=n_layers,
            n_heads=n_heads,
            d_model=d_model,
            d_head=d_head,
            d_vocab=31,
            n_ctx=16,
            positions="standard",
        )
        model = il.toys.build_toy(config, device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        found = composition(model, n_draws=2)
        passed += len(found.above())
        pairs += int(found.z_shuffled.isfinite().sum())
    return passed / pairs


def shuffled_partners(name: str, *, n: int) -> float:
    """The share of rotated pairs of a trained model that pass, each pair with `n` rotations."""
    model = il.load(name, device="cpu")
    found, width = composition(model), read_width(model)
    first, second = head_weights(model, 0), head_weights(model, 1)
    d_model = first.W_V.shape[1]
    directions = torch.eye(d_model, dtype=torch.float64)
    if width < d_model:  # norms centre: rotations leave the mean alone
        directions = torch.linalg.svd(torch.ones(1, d_model, dtype=torch.float64))[2][1:]
    written = (first.W_V @ first.W_O).double()
    read = torch.stack(
        [second.W_Q @ second.W_K.mT, second.W_K @ second.W_Q.mT, second.W_V @ second.W_O]
    ).double()
    written = written / written.norm(dim=(-2, -1), keepdim=True)
    read = read / read.norm(dim=(-2, -1), keepdim=True)
    raw = found.raw[:, 1, :, 0].double()
    sd = (raw.square() - 1 / width) / found.z_shuffled[:, 1, :, 0]
    generator = torch.Generator().manual_seed(0)
    passed = 0
    for _ in range(n):
        noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
        turn = directions.T @ torch.linalg.qr(noise)[0] @ directions
        products = torch.einsum("gab,khbc->khgac", written @ turn, read)
        squares = products.square().sum(dim=(-2, -1))
        passed += int(((squares - 1 / width) / sd > Z_THRESHOLD).sum())
    return passed / (n * raw.numel())


if __name__ == "__main__":
    print(f"pairs above z = {Z_THRESHOLD:g}, of all three kinds ({', '.join(KINDS)})")
    for shape in SHAPES:
        n_layers, n_heads, d_model, d_head = shape
        share = untrained(*shape, n=20)
        sizes = f"{n_layers} layers of {n_heads} heads, d_model {d_model}, d_head {d_head}"
        print(f"untrained, {sizes}: {share:.2%}")
    for name in ("toy-2l-narrow", "toy-2l"):
        print(f"shuffled partners of {name}: {shuffled_partners(name, n=50):.2%}")
