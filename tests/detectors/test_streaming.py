"""Attention that is scored without a pattern in memory, against the patterns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from induction_lens import detectors
from induction_lens.detectors import target_mask
from induction_lens.detectors.registry import attention_detector
from induction_lens.models import attention as attention_of_models
from induction_lens.models import hook_name
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import hugging_face_model

NAMES = ["previous_token", "induction", "duplicate_token"]


def _toy(implementation, **changes):
    config = dict(n_layers=2, d_model=30, n_heads=3, d_head=14, d_vocab=53, n_ctx=61, seed=1)
    return build_toy(ToyConfig(**config | changes), implementation=implementation, device="cpu")


def _sequences(n=5, length=23, n_ids=9):
    drawn = torch.randint(1, n_ids, (n, length), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


@pytest.mark.parametrize("detector", NAMES)
@pytest.mark.parametrize(("n", "length", "n_ids"), [(5, 23, 7), (3, 17, 2), (2, 2, 5), (1, 41, 90)])
def test_targets_are_the_marks_of_the_mask(detector, n, length, n_ids):
    sequences = torch.randint(0, n_ids, (n, length), generator=torch.Generator().manual_seed(0))
    mask = target_mask(sequences, detector)
    row, query, key = attention_detector(detector).find(sequences)
    listed = torch.zeros_like(mask)
    listed[row, query, key] = True
    assert torch.equal(listed, mask)
    assert len(row) == mask.sum()  # none is listed twice


@pytest.mark.parametrize("totals", ["fused", "summed"])
@pytest.mark.parametrize("name", ["rotary", "standard", "gpt2", "llama", "neox"])
def test_streamed_scores_are_those_of_the_patterns(name, totals, implementation, monkeypatch):
    toy = name in ("rotary", "standard")
    model = (
        _toy(implementation, positions=name, smeared_keys=True) if toy else hugging_face_model(name)
    )
    # a few queries or targets at a time
    monkeypatch.setattr(attention_of_models, "_BLOCK", 2 * 23 * 3 * 4)
    known = []
    if totals == "summed":
        monkeypatch.setattr(attention_of_models, "knows_totals", lambda device: False)
    prepare = attention_of_models.FusedAttention.__init__

    def watched(self, inputs, totals, **options):
        known.append(totals is not None)
        prepare(self, inputs, totals, **options)

    monkeypatch.setattr(attention_of_models.FusedAttention, "__init__", watched)
    options = dict(tokens=_sequences(), detectors=NAMES, progress=False, batch_size=2)
    whole = detectors.score_heads(model, attention="pattern", **options)
    streamed = detectors.score_heads(model, attention="streaming", **options)
    for detector in NAMES:
        for field in ("values", "sem"):
            one, other = (getattr(scores[detector], field) for scores in (whole, streamed))
            assert torch.allclose(one, other, atol=1e-5)
        assert whole[detector].uniform == streamed[detector].uniform
    assert set(known) == {totals == "fused"}
    assert whole["previous_token"].values.max() > 0.02
    assert torch.allclose(whole["induction"].null, streamed["induction"].null, atol=1e-5)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda query, key, value, *_, scale: (value, (query @ key.mT * scale).logsumexp(-1)),
        lambda query, key, value, dropout, causal, scale: (
            F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale),
            (query @ key.mT * scale).logsumexp(-1),  # of later keys too
        ),
        lambda query, key, value: None,
    ],
    ids=["other outputs", "other totals", "other arguments"],
)
def test_a_kernel_that_changed_is_not_trusted(kernel, monkeypatch):
    assert attention_of_models.knows_totals("cpu")
    name = "_scaled_dot_product_flash_attention_for_cpu"
    monkeypatch.setattr(torch.ops.aten, name, kernel)
    assert not attention_of_models.knows_totals.__wrapped__("cpu")


class _Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that any operation made."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor):
                self.n = max(self.n, made.numel())
        return result


def test_no_pattern_is_ever_in_memory(implementation, monkeypatch):
    monkeypatch.setattr(attention_of_models, "_BLOCK", 2**14)
    largest = {}
    for how in ("pattern", "streaming"):
        for length in (400, 800):
            model = _toy(implementation, n_ctx=800, n_heads=7, d_head=4)
            sequences = _sequences(1, length, 53)
            with _Largest() as seen:
                detectors.score_heads(
                    model,
                    tokens=sequences,
                    detectors=["previous_token"],
                    attention=how,
                    progress=False,
                )
            largest[how, length] = seen.n
    assert largest["pattern", 400] == 7 * 400**2
    # 64 tokens are run in whole, to see that the model can be taken apart, and a bridge's mask for
    # them is as wide as the model's context
    assert largest["streaming", 400] <= 64 * 800
    assert largest["streaming", 800] <= 64 * 800


def test_what_streaming_cannot_serve_is_refused(implementation):
    model, options = _toy(implementation), dict(tokens=_sequences(), progress=False)
    with pytest.raises(ValueError, match="one of auto, pattern, streaming, got 'flash'"):
        detectors.score_heads(model, attention="flash", **options)
    with pytest.raises(ValueError, match="got 'copying'; it reads whole patterns"):
        detectors.score_heads(model, attention="streaming", detectors=["copying"], **options)
    point = model.hook_dict[hook_name("z", 0)]
    point.add_hook(lambda z, hook: None)
    with pytest.raises(ValueError, match='because there are hooks on it; pass attention="pattern"'):
        detectors.score_heads(model, attention="streaming", **options)
    detectors.score_heads(model, attention="auto", **options)  # runs the model in whole
    point.remove_hooks()
    assert list(detectors.score_heads(model, attention="streaming", **options)) == [
        *NAMES,
        "copying_weights",
    ]


def test_detection_ends_at_the_last_pattern(implementation):
    """What comes after it is never computed, unless a detector looks at it."""
    model, seen = _toy(implementation), []
    point = model.hook_dict["unembed.hook_in"]
    point.add_hook(lambda residual, hook: seen.append(residual.shape[1]))
    detectors.score_heads(
        model, tokens=_sequences(), detectors=NAMES, attention="pattern", progress=False
    )
    assert seen == []
    detectors.score_heads(
        model, tokens=_sequences(), detectors=["copying"], shuffled_null=False, progress=False
    )
    assert seen == [23] * len(seen) != []
    point.remove_hooks()
