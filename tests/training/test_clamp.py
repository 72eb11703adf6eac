"""Knock-outs during training: the same with and without hooks, and gone when they should be."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from induction_lens.detectors import score_heads
from induction_lens.heads import Head
from induction_lens.models import HAS_HOOKED_TRANSFORMER, InterventionError, toy_weights
from induction_lens.toys.forward import Cut, toy_logits
from induction_lens.toys.model import ToyConfig, build_toy, set_weights
from induction_lens.training import optimizers as optimization
from induction_lens.training.clamp import Clamp, checked_clamps, cut_at, cutting
from induction_lens.training.loop import train
from induction_lens.training.run_folder import CHECKPOINT

SIZES: dict[str, Any] = {"n_layers": 3, "d_model": 24, "n_heads": 3, "d_vocab": 37, "n_ctx": 17}
CONFIGS = [
    ToyConfig(**SIZES, smeared_keys=True, smear_init=0.4),
    ToyConfig(**SIZES, attn_only=False, positions="standard"),
    *([ToyConfig(**SIZES, positions="shortformer")] if HAS_HOOKED_TRANSFORMER else []),
]
CUTS = [
    Cut(heads=(Head(0, 2), Head(1, 0), Head(1, 1))),
    Cut(k_composition=True),
    Cut(heads=(Head(0, 1), Head(2, 2)), k_composition=True),
]
# Low rates, and no bfloat16 inside the optimizer: both magnify rounding.
OPTIONS: dict[str, Any] = {
    "n_steps": 20,
    "batch_size": 4,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "warmup": 2,
    "progress": False,
}


def _toy(config: ToyConfig, implementation=None):
    """A toy whose biases are not zero."""
    if config.positions == "shortformer":
        implementation = "hooked"
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(3)
    drawn = {n: w + 0.1 * torch.randn(w.shape, generator=generator) for n, w in _weights(model)}
    set_weights(model, drawn)
    return model


def _weights(model):
    return [(name, weight.detach().clone()) for name, weight in toy_weights(model).items()]


def _tokens(n: int = 24, length: int = 17) -> torch.Tensor:
    return torch.randint(37, (n, length), generator=torch.Generator().manual_seed(1))


def _gradients(model, logits, tokens):
    model.zero_grad(set_to_none=True)
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradients = toy_weights(model, of=lambda parameter: parameter.grad)
    return {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("cut", CUTS, ids=["heads", "composition", "both"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.positions)
def test_with_and_without_hooks_the_cut_is_the_same(implementation, config, cut):
    model, tokens = _toy(config, implementation), _tokens(3)
    with cutting(model, cut):
        hooked = model(tokens)
    fused = toy_logits(toy_weights(model), config, tokens, cut=cut)
    assert (hooked - fused).abs().max() < 1e-5
    assert (hooked - model(tokens)).abs().max() > 0.01  # the cut acts, and is gone after the block
    by_hooks, by_fused = (_gradients(model, logits, tokens) for logits in (hooked, fused))
    for name in by_hooks:
        assert (by_hooks[name] - by_fused[name]).abs().max() < 1e-5, name


def test_a_silent_head_gets_no_gradient_and_the_others_do(implementation):
    cut = Cut(heads=(Head(1, 1),))
    model, tokens = _toy(CONFIGS[0], implementation), _tokens(3)
    gradients = _gradients(
        model, toy_logits(toy_weights(model), CONFIGS[0], tokens, cut=cut), tokens
    )
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "smear"):
        gradient = gradients[f"blocks.1.attn.{name}"]
        assert gradient[1].count_nonzero() == 0, name
        assert gradient[0].abs().max() > 0, name
        assert gradient[2].abs().max() > 0, name


def test_a_silent_head_equals_one_whose_output_weights_are_zero():
    model, tokens = _toy(CONFIGS[0]), _tokens(3)
    logits = toy_logits(toy_weights(model), CONFIGS[0], tokens, cut=Cut(heads=(Head(1, 2),)))
    weights = dict(_weights(model))
    weights["blocks.1.attn.W_O"][2] = 0.0
    set_weights(model, weights)
    assert (model(tokens) - logits).abs().max() < 1e-5


def test_without_k_composition_keys_are_those_of_a_model_without_layer_0(implementation):
    """Keys from a model whose layer 0 writes nothing, put into the whole model."""
    config = ToyConfig(**SIZES)
    model, tokens = _toy(config, implementation), _tokens(3)
    weights = dict(_weights(model))
    nothing = {
        name: torch.zeros_like(weights[name]) for name in weights if name.endswith("0.attn.W_O")
    }
    nothing["blocks.0.attn.b_O"] = torch.zeros_like(weights["blocks.0.attn.b_O"])
    set_weights(model, {**weights, **nothing})
    _, cache = model.run_with_cache(tokens)
    keys = cache["blocks.1.attn.hook_k"]
    set_weights(model, weights)
    expected = model.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.attn.hook_k", lambda _, hook: keys)]
    )
    logits = toy_logits(toy_weights(model), config, tokens, cut=Cut(k_composition=True))
    assert (logits - expected).abs().max() < 1e-5


def test_the_circuit_has_no_induction_head_without_k_composition(circuit):
    """Head 1.0 finds its target through the keys alone; head 0.0 does not need the cut path."""

    def score(name: str, head: str) -> float:
        tokens = torch.cat([torch.zeros(3, 1, dtype=torch.long), _repeated(3)], dim=1)
        scores = score_heads(circuit, detectors=[name], tokens=tokens, shuffled_null=False)
        return scores[name][head]

    assert score("induction", "1.0") == pytest.approx(1.0, abs=1e-3)
    with cutting(circuit, Cut(k_composition=True)):
        assert score("induction", "1.0") < 0.1
        assert score("previous_token", "0.0") == pytest.approx(1.0, abs=1e-3)


def _repeated(n: int) -> torch.Tensor:
    """Two copies of the tokens 1 to 19, in a new order in each sequence."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(19, generator=generator) + 1 for _ in range(n)])
    return rows.repeat(1, 2)


@pytest.mark.parametrize(
    "clamp",
    [
        Clamp(heads=["0.1", (1, 2)], start=4, end=11),
        [Clamp(k_composition=True), Clamp(heads=["1.0"], start=9)],
    ],
    ids=["heads", "several"],
)
def test_clamped_training_agrees_with_and_without_hooks(implementation, clamp):
    hooked, fused = (
        train(
            _toy(CONFIGS[0], implementation),
            _tokens(),
            clamp=clamp,
            fused=fused,
            micro_batch=3,
            **OPTIONS,
        )
        for fused in (False, True)
    )
    assert (hooked.losses - fused.losses).abs().max() < 1e-4


def test_a_clamp_lasts_from_its_start_to_before_its_end():
    free = train(_toy(CONFIGS[0]), _tokens(), **OPTIONS)
    late = train(_toy(CONFIGS[0]), _tokens(), clamp=Clamp(heads=["1.1"], start=7), **OPTIONS)
    assert late.losses[:7].equal(free.losses[:7])
    assert (late.losses[7:] != free.losses[7:]).all()
    clamp = Clamp(heads=["1.1"], start=0, end=7)
    cuts = [cut_at([clamp, Clamp(k_composition=True, start=6)], step) for step in (0, 6, 7)]
    assert cuts == [
        Cut((Head(1, 1),)),
        Cut((Head(1, 1),), k_composition=True),
        Cut(k_composition=True),
    ]


def test_a_head_clamped_from_the_first_step_keeps_its_weights():
    model = _toy(CONFIGS[0])
    before = dict(_weights(model))
    options = {**OPTIONS, "optimizer": "muon", "n_steps": 5}
    train(model, _tokens(), clamp=Clamp(heads=["1.1"]), **options)
    for kind in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "smear"):
        name = f"blocks.1.attn.{kind}"
        assert toy_weights(model)[name][1].equal(before[name][1]), name
        assert not toy_weights(model)[name][0].equal(before[name][0]), name


def test_a_clamped_run_continues_exactly_and_refuses_another_clamp(tmp_path):
    clamp = Clamp(heads=["1.1"], start=5, end=15)
    options = {**OPTIONS, "clamp": clamp, "checkpoint_every": 4}

    class _InterruptedError(Exception):
        pass

    data = _tokens()

    def batch(step: int) -> torch.Tensor:
        return data[4 * (step % 6) : 4 * (step % 6) + 4]

    def broken(step: int) -> torch.Tensor:
        if step == 10:
            raise _InterruptedError
        return batch(step)

    straight = train(_toy(CONFIGS[0]), batch, **options)
    with pytest.raises(_InterruptedError):
        train(_toy(CONFIGS[0]), broken, out=tmp_path, **options)
    for other in (None, Clamp(heads=["1.1"], start=5), [clamp, Clamp(k_composition=True)]):
        with pytest.raises(ValueError, match="with another clamp; use another folder"):
            train(_toy(CONFIGS[0]), batch, out=tmp_path, **{**options, "clamp": other})
    resumed = train(_toy(CONFIGS[0]), batch, out=tmp_path, **options)
    assert resumed.losses.equal(straight.losses)
    for (name, ours), (_, theirs) in zip(
        _weights(resumed.model), _weights(straight.model), strict=True
    ):
        assert ours.equal(theirs), name


def test_checkpoints_from_before_clamps_continue(tmp_path):
    first = train(_toy(CONFIGS[0]), _tokens(), out=tmp_path, **OPTIONS)
    tensors, about = optimization.read_checkpoint(tmp_path / CHECKPOINT)
    assert about["settings"].pop("clamp") is None
    metadata = {name: json.dumps(about[name]) for name in ("settings", "tokens_seen")}
    save_file(tensors, tmp_path / CHECKPOINT, metadata=metadata)
    again = train(_toy(CONFIGS[0]), _tokens(), out=tmp_path, **OPTIONS)
    assert again.losses.equal(first.losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "something to clamp, got neither"),
        ({"heads": "1.1"}, "a list of heads, got '1.1'"),
        ({"heads": ["one"]}, "expected a head such as '1.6'"),
        ({"heads": ["1.1"], "start": 5, "end": 5}, "end to be a whole number of at least 6, got 5"),
        ({"heads": ["1.1"], "start": -1}, "start to be a whole number of at least 0, got -1"),
    ],
)
def test_clamps_that_say_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Clamp(**options)


@pytest.mark.parametrize(
    ("clamp", "message"),
    [
        (Clamp(heads=["3.0"]), "expected heads from 0.0 to 2.2, got 3.0"),
        ([Clamp(heads=["1.0", "1.0"])], "expected each head once"),
        (Clamp(heads=["1.0"], start=20), "before step n_steps=20, got start=20"),
    ],
)
def test_clamps_that_do_not_fit_are_refused(clamp, message):
    with pytest.raises(ValueError, match=message):
        train(_toy(CONFIGS[0]), _tokens(), clamp=clamp, **OPTIONS)


def test_one_layer_has_no_composition_and_a_cut_without_a_pass_is_reported():
    shallow = ToyConfig(n_layers=1, d_model=8, n_heads=1, d_vocab=37, n_ctx=17)
    with pytest.raises(ValueError, match="at least two layers for k_composition=True"):
        checked_clamps(Clamp(k_composition=True), shallow, n_steps=5)
    model = _toy(CONFIGS[0])
    with (
        pytest.raises(InterventionError, match="expected a forward pass"),
        cutting(model, Cut(k_composition=True)),
    ):
        pass
