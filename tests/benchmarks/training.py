"""What a training step costs: against a lean loop in plain PyTorch on the same model and recipe."""

from __future__ import annotations

import torch

import induction_lens as il
from induction_lens.models import toy_weights
from tests.benchmarks import lean
from tests.benchmarks.harness import Row, Run, Target, interleave


def training(*, quick: bool) -> list[Row]:
    """Steps of `il.train`, plain and with smeared keys, against the plain model's lean loop."""
    shape = {"d_model": 32, "d_vocab": 211, "n_ctx": 64} if quick else {}
    config, n_steps, batch_size, micro_batch = il.toys.ToyConfig(**shape), 2 if quick else 6, 16, 4
    plain = il.toys.build_toy(config, device="cpu")
    smeared = il.toys.build_toy(il.toys.ToyConfig(**shape, smeared_keys=True), device="cpu")
    plain_torch = lean.LeanModel(config)
    plain_torch.load(toy_weights(plain))
    generator = torch.Generator().manual_seed(0)
    sizes = (n_steps * batch_size, config.n_ctx)
    tokens = torch.randint(config.d_vocab, sizes, generator=generator)
    batches = tokens.split(batch_size)

    def steps(model: object) -> None:
        il.train(
            model, batches.__getitem__, n_steps=n_steps, micro_batch=micro_batch, progress=False
        )

    baseline, ours, ours_smeared = interleave(
        {
            "lean PyTorch loop": lambda: lean.train(plain_torch, batches, micro_batch=micro_batch),
            "il.train": lambda: steps(plain),
            "il.train, smeared keys": lambda: steps(smeared),
        },
        repeats=2 if quick else 5,
    )

    def row(name: str, run: Run, least: float) -> Row:
        speeds = [tokens.numel() / arm.median for arm in (baseline, run)]
        note = "tokens/s: lean {:,.0f}, ours {:,.0f}".format(*speeds)
        target = Target("ratio", "at least", least)
        return Row(f"training/{name}", baseline, run, "baseline / ours", (target,), note=note)

    return [row("toy-2l", ours, 0.9), row("toy-2l-smeared", ours_smeared, 0.85)]


BENCHMARKS = {"training": training}
