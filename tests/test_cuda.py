"""On a CUDA device every number is that of the CPU. Skipped where there is no such device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.sets import ablate
from induction_lens.detectors import score_heads
from induction_lens.inputs.tokens import repeated_random_tokens
from induction_lens.loading import load
from induction_lens.metrics import per_token_loss
from induction_lens.models import device_of
from induction_lens.reports.model import report
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.track import track
from induction_lens.training.clamp import Clamp
from induction_lens.training.loop import train
from tests.hf_folders import CONFIGS, write_folder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICES = ("cpu", "cuda")
METHODS = ["zero", "mean", "resample", "pattern-preserving"]
TOYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smeared": {"smeared_keys": True},
    "mlp": {"attn_only": False},
}
WHERE: dict[str, Any] = {"early": 6, "late": 40, "window": 3, "progress": False}


@pytest.fixture(params=[*TOYS, *CONFIGS])
def pair(request, implementation, tmp_path) -> list[Any]:
    """The same model on either device: every toy, every Hugging Face architecture."""
    if request.param in TOYS:
        models = [_toy(device, implementation, **TOYS[request.param]) for device in DEVICES]
    else:
        folder = write_folder(request.param, tmp_path, tokenizer=True)
        models = [load(folder, device=device, implementation=implementation) for device in DEVICES]
    assert [device_of(model).type for model in models] == list(DEVICES)
    return models


def _toy(device: str, implementation: Any = None, **changes: Any) -> Any:
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 48, "n_heads": 3, "n_ctx": 67}
    config = ToyConfig(d_vocab=53, seed=3, **sizes | changes)
    return build_toy(config, implementation=implementation, device=device)


def _text(n: int = 6, length: int = 61) -> torch.Tensor:
    drawn = torch.randint(1, 53, (n, length), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


def _same(frames: list[pd.DataFrame], tolerance: float = 2e-4) -> None:
    cpu, cuda = frames
    pd.testing.assert_frame_equal(cuda, cpu, check_exact=False, rtol=0, atol=tolerance)


def test_losses(pair):
    cpu, cuda = (per_token_loss(model, _text(), progress=False).cpu() for model in pair)
    torch.testing.assert_close(cuda, cpu, atol=2e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("attention", ["streaming", "pattern"])
def test_scores(pair, attention):
    tokens = repeated_random_tokens(pair[0], n_sequences=4, n_tokens=9)
    options: dict[str, Any] = {"attention": attention, "progress": False}
    _same([score_heads(model, tokens=tokens, **options).to_frame() for model in pair])


@pytest.mark.parametrize("method", METHODS)
def test_knock_outs(pair, method):
    text = _text()
    _same([ablate_each_head(m, text, method=method, **WHERE).to_frame() for m in pair])
    studies = [ablate(m, ["0.1"], text, method=method, n_controls=2, **WHERE) for m in pair]
    _same([study.to_frame() for study in studies])


@pytest.mark.parametrize("fused", [True, False])
def test_training(fused):
    """In float32 the losses are those of the CPU; in mixed precision they are near them."""
    losses = {}
    runs = (("cpu", "cpu", False), ("cuda", "cuda", False), ("mixed", "cuda", None))
    for name, device, mixed in runs:
        model = _toy(device, smeared_keys=True)
        clamp = Clamp(heads=("0.1",), start=2, end=9)
        options: dict[str, Any] = {"fused": fused, "mixed_precision": mixed, "progress": False}
        run = train(
            model, _text(16), n_steps=12, batch_size=8, optimizer="adamw", clamp=clamp, **options
        )
        losses[name] = run.losses
    torch.testing.assert_close(losses["cuda"], losses["cpu"], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses["mixed"], losses["cpu"], atol=0.05, rtol=0)
    assert not torch.equal(losses["mixed"], losses["cuda"])


def test_tracking(tmp_path: Path):
    run = tmp_path / "run"
    options: dict[str, Any] = {"n_steps": 6, "batch_size": 8, "snapshots": (0, 3, 6)}
    train(_toy("cuda"), _text(16), out=run, progress=False, **options)
    tracked = [
        track(run, out=tmp_path / d, text=_text(), n_prompts=4, n_ablated=3, device=d, **WHERE)
        for d in DEVICES
    ]
    _same([trajectory.to_frame() for trajectory in tracked])


def test_an_interrupted_run_goes_on(tmp_path: Path):
    """What the optimizer remembers comes back to the device."""
    text = _text(16)
    options: dict[str, Any] = {"n_steps": 8, "mixed_precision": False, "progress": False}

    def interrupted(step: int) -> torch.Tensor:
        if step == 5:
            raise KeyboardInterrupt
        return text[step % 4 :: 4]

    whole = train(_toy("cuda"), lambda step: text[step % 4 :: 4], **options)
    kept: dict[str, Any] = {"out": tmp_path, "checkpoint_every": 2, **options}
    with pytest.raises(KeyboardInterrupt):
        train(_toy("cuda"), interrupted, **kept)
    run = train(_toy("cuda"), lambda step: text[step % 4 :: 4], **kept)
    torch.testing.assert_close(run.losses, whole.losses, atol=1e-4, rtol=0)


def test_the_report_on_a_trained_model():
    options: dict[str, Any] = {"n_sequences": 16, "n_controls": 3, "progress": False}
    cpu, cuda = (report(load("toy-2l", device=device), **options) for device in DEVICES)
    _same([cpu.to_frame(), cuda.to_frame()], tolerance=1e-3)
    assert cpu.heads == cuda.heads
