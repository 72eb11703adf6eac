from __future__ import annotations

import pytest
import torch

from induction_lens.ablation import Resample, sweep
from induction_lens.heads import Head
from induction_lens.metrics import per_token_loss
from induction_lens.models import (
    InterventionError,
    logits_at,
)
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import hugging_face_model

TOKENS = torch.randint(1, 53, (5, 17), generator=torch.Generator().manual_seed(0))


def _toy(implementation, **changes):
    config = {"n_layers": 3, "d_model": 30, "n_heads": 5, "d_head": 14, "d_vocab": 53, "n_ctx": 61}
    return build_toy(ToyConfig(**config | changes), implementation=implementation, device="cpu")


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama", "neox"])
def test_logits_at_positions_are_those_of_the_whole_pass(name, implementation):
    model = _toy(implementation) if name == "toy" else hugging_face_model(name)
    with torch.no_grad():
        whole = model(TOKENS)
        some = logits_at(model, TOKENS, [3, 11, 4])
    assert torch.allclose(some, whole[:, [3, 11, 4]], atol=1e-5)


def test_a_model_that_unembeds_everything_all_the_same_is_found_out(implementation):
    model = _toy(implementation)
    point = model.hook_dict["unembed.hook_in"]
    original = point.add_hook

    def deaf(function, **options):
        def run(activation, hook):
            function(activation, hook=hook)

        original(run, **options)

    point.add_hook = deaf
    with pytest.raises(InterventionError, match="logits at 2 positions, got 17"):
        logits_at(model, TOKENS, [3, 11])


def test_a_sweep_reads_only_the_positions_that_are_asked_for(implementation):
    model = _toy(implementation)
    sets = [(Head(0, 1),), (Head(1, 2), Head(2, 4))]
    whole, some = (
        [
            losses.long
            for losses in sweep.ablation_losses(
                model, [sweep.Job(heads, Resample(), read) for heads in sets], TOKENS, batch_size=2
            )
        ]
        for read in (None, (4, 16))
    )
    for full, part in zip(whole, some, strict=True):
        assert torch.allclose(full[..., [4, 16]], part[..., [4, 16]], atol=1e-5)
        left_out = [position for position in range(17) if position not in (4, 16)]
        assert part[..., left_out].isnan().all()
    assert torch.allclose(whole[0][:, 1:], per_token_loss(model, TOKENS)[:, 1:], atol=1e-5)
    assert not torch.allclose(whole[1][0, :, 1:], whole[1][1, :, 1:], atol=1e-2)
