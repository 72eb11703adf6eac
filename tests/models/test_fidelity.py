"""The loaded model is the model: plain Hugging Face code gives the same predictions."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers

import induction_lens as il
from induction_lens.models import (
    HAS_HOOKED_TRANSFORMER,
    check_causal,
    class_name,
    fidelity,
    model_name,
)
from induction_lens.models.classes import hooked_class, hooked_config_class
from induction_lens.toys import model as toy
from tests.hf_folders import random_model, write_model

D_VOCAB, N_CTX, N_HEADS = 131, 29, 4
GPT2: dict[str, Any] = {
    "n_layer": 2,
    "n_head": N_HEADS,
    "n_embd": 32,
    "vocab_size": D_VOCAB,
    "n_positions": N_CTX,
}
LLAMA: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": N_HEADS,
    "hidden_size": 32,
    "intermediate_size": 40,
    "vocab_size": D_VOCAB,
    "max_position_embeddings": N_CTX,
    "pad_token_id": None,
}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 17,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0, 2.0, 4.0, 5.0],
}
CONFIGS: dict[str, tuple[transformers.PretrainedConfig, str]] = {
    "gpt2": (transformers.GPT2Config(**GPT2), "transformer.h.1.attn.c_proj"),
    "neox": (transformers.GPTNeoXConfig(**LLAMA), "gpt_neox.layers.1.attention.dense"),
    "opt": (
        transformers.OPTConfig(
            **{**LLAMA, "ffn_dim": 40, "word_embed_proj_dim": 32, "pad_token_id": 1}
        ),
        "model.decoder.layers.1.self_attn.out_proj",
    ),
    "bloom": (
        transformers.BloomConfig(
            n_layer=2, n_head=N_HEADS, hidden_size=32, vocab_size=D_VOCAB, seq_length=N_CTX
        ),
        "transformer.h.1.self_attention.dense",
    ),
    "mpt": (
        transformers.MptConfig(
            n_layers=2, n_heads=N_HEADS, d_model=32, vocab_size=D_VOCAB, max_seq_len=N_CTX
        ),
        "transformer.blocks.1.attn.out_proj",
    ),
    "phi": (transformers.PhiConfig(**LLAMA), "model.layers.1.self_attn.dense"),
    "qwen2": (transformers.Qwen2Config(**GROUPED), "model.layers.1.self_attn.o_proj"),
    "gptj": (transformers.GPTJConfig(**GPT2, rotary_dim=4), "transformer.h.1.attn.out_proj"),
    "gpt-oss": (
        transformers.GptOssConfig(
            **GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=7
        ),
        "model.layers.1.self_attn.o_proj",
    ),
    "bitnet": (transformers.BitNetConfig(**GROUPED), "model.layers.1.self_attn.o_proj"),
    "longrope": (
        transformers.Phi3Config(**GROUPED, rope_parameters=LONGROPE),
        "model.layers.1.self_attn.o_proj",
    ),
}
TOKENS = torch.randint(D_VOCAB, (3, N_CTX), generator=torch.Generator().manual_seed(5))


def _log_probs(logits: torch.Tensor) -> torch.Tensor:
    return logits.detach().float().log_softmax(-1)


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory) -> tuple[Any, Any, str]:
    """A Hugging Face model that nothing has wrapped, the loaded one, and where its `z` goes in."""
    config, output = CONFIGS[request.param]
    theirs = random_model(copy.deepcopy(config))
    folder = write_model(theirs, tmp_path_factory.mktemp(request.param))
    return theirs, il.load(folder, device="cpu"), output


@torch.no_grad()
def test_a_loaded_model_predicts_what_hugging_face_predicts(pair):
    theirs, model, _ = pair
    for tokens in (TOKENS, TOKENS[:1, :5]):  # the whole context, and a short one
        assert torch.allclose(
            _log_probs(model(tokens)), _log_probs(theirs(tokens).logits), atol=1e-4
        )


@torch.no_grad()
def test_a_zero_z_removes_all_that_a_head_adds(pair):
    theirs, model, output = pair
    _check_zero_z(model, theirs, output)


def _check_zero_z(model: Any, theirs: Any, output: str) -> None:
    """Zero `z` is a zero slice of what goes into the output projection."""
    head, d_head = 2, 8

    def cut(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        mixed = inputs[0].clone()
        mixed[..., head * d_head : (head + 1) * d_head] = 0
        return (mixed, *inputs[1:])

    def zero(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z[:, :, head] = 0
        return z

    clean = _log_probs(theirs(TOKENS).logits)
    handle = theirs.get_submodule(output).register_forward_pre_hook(cut)
    expected = _log_probs(theirs(TOKENS).logits)
    handle.remove()
    found = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", zero)])
    assert (expected - clean).abs().max() > 0.05
    assert torch.allclose(_log_probs(found), expected, atol=1e-4)


def test_the_context_is_that_of_the_configuration(pair):
    _, model, _ = pair
    assert model.cfg.n_ctx == N_CTX


def test_without_a_limit_the_context_is_said(tmp_path, caplog):
    config = transformers.BloomConfig(n_layer=1, n_head=2, hidden_size=8, vocab_size=D_VOCAB)
    folder = write_model(random_model(config), tmp_path)
    with caplog.at_level(logging.INFO, logger="induction_lens"):
        model = il.load(folder, device="cpu", check=False)
    assert model.cfg.n_ctx == 2048
    assert "sets no limit to its context; 2048 is used" in caplog.text


@torch.no_grad()
def test_rotary_positions_of_adjacent_pairs_are_right_or_refused(tmp_path):
    theirs = random_model(transformers.CohereConfig(**GROUPED))
    folder = write_model(theirs, tmp_path)
    if HAS_HOOKED_TRANSFORMER:  # TransformerLens 3.9 rotates halves
        with pytest.raises(ValueError, match="as Hugging Face does"):
            il.load(folder, device="cpu")
    else:
        found = _log_probs(il.load(folder, device="cpu")(TOKENS))
        assert torch.allclose(found, _log_probs(theirs(TOKENS).logits), atol=1e-4)


def test_what_transformer_lens_runs_otherwise_is_refused(tmp_path):
    config = transformers.GPT2Config(**GPT2, scale_attn_weights=False)
    folder = write_model(random_model(config), tmp_path)
    with pytest.raises(
        ValueError, match=r"runs as Hugging Face does.* are off by up to \d"
    ) as told:
        il.load(folder, device="cpu")
    assert "\n" not in str(told.value)
    unchecked = il.load(folder, device="cpu", check=False)
    assert unchecked.cfg.n_layers == 2


def test_plainer_weights_are_taken_where_processing_them_changes_the_model(tmp_path, caplog):
    folder = write_model(random_model(copy.deepcopy(CONFIGS["bitnet"][0])), tmp_path)
    with caplog.at_level(logging.WARNING, logger="induction_lens"):
        il.load(folder, device="cpu")
    assert "weights as they are is used instead" in caplog.text


class _Plain(torch.nn.Module):
    """A Hugging Face model, called as the package calls models."""

    def __init__(self, hf_model: Any):
        super().__init__()
        self.hf_model = hf_model
        self.cfg: Any = None
        self.hook_dict: Any = {}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.hf_model(tokens).logits


def test_a_difference_at_the_last_position_of_the_context_is_seen():
    theirs = random_model(transformers.GPT2Config(**GPT2))
    reference = fidelity.reference_of(theirs, N_CTX)
    assert [tuple(tokens.shape) for tokens in reference.tokens] == [(1, N_CTX), (3, 11)]
    assert fidelity.difference_from(reference, _Plain(theirs)).largest < 1e-5
    with torch.no_grad():
        theirs.transformer.wpe.weight[-1] *= 2
    assert not fidelity.difference_from(reference, _Plain(theirs)).is_rounding


def test_the_check_draws_ids_without_special_meaning():
    special = {"bos_token_id": 0, "eos_token_id": [1, 3], "pad_token_id": 2}
    theirs = random_model(transformers.LlamaConfig(**{**GROUPED, "vocab_size": 7, **special}))
    reference = fidelity.reference_of(theirs, N_CTX)
    assert {int(token) for batch in reference.tokens for token in batch.flatten()} == {4, 5, 6}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_with_itself(tmp_path, dtype, caplog):
    theirs = random_model(transformers.LlamaConfig(**GROUPED))
    folder = write_model(theirs, tmp_path)
    with caplog.at_level(logging.WARNING, logger="induction_lens"):
        model = il.load(folder, device="cpu", dtype=dtype)
    assert not caplog.text
    assert next(model.parameters()).dtype == dtype
    theirs = theirs.to(dtype)
    with torch.no_grad():
        expected, found = _log_probs(theirs(TOKENS).logits), _log_probs(model(TOKENS))
    assert (found - expected).square().mean().sqrt() < 0.05 * expected.std()


@pytest.mark.parametrize(
    ("n_ctx", "vocab_size", "n_embd", "length"),
    [
        (50, 101, 4, 50),  # the whole context
        (4096, 101, 4, fidelity.LONGEST),
        (4096, 2_000_000, 4, 64),  # logits of 256 MB would be less, but never below 64
    ],
)
def test_the_check_is_as_long_as_it_may_cost(n_ctx, vocab_size, n_embd, length):
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=n_embd, vocab_size=vocab_size)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    model.parameters = lambda: iter([torch.empty(vocab_size, n_embd)])
    assert fidelity.affordable_length(model, n_ctx) == length


class _Fixed(torch.nn.Module):
    """Logits that a test sets."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.logits = logits
        self.cfg: Any = None
        self.hook_dict: Any = {}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_the_difference_is_the_largest_and_its_share_of_the_spread():
    expected = torch.tensor([[[0.0, 1.0, 2.0, 5.0], [3.0, 0.0, 1.0, 1.0]]]).log_softmax(-1)
    moved = expected.clone()
    moved[0, 1] = torch.tensor([3.0, 0.0, 1.0, 1.5]).log_softmax(-1)
    reference = fidelity.Reference((torch.zeros(1, 2, dtype=torch.long),), (expected,))
    difference = fidelity.difference_from(reference, _Fixed(moved))
    apart = (moved - expected)[0, 1]
    spread = expected[0, 1].std(correction=0) + 0.01
    assert difference.largest == pytest.approx(float(apart.abs().max()))
    assert difference.relative == pytest.approx(float(apart.square().mean().sqrt() / spread))
    assert not difference.is_rounding
    assert fidelity.difference_from(reference, _Fixed(expected + 3)).is_rounding
    assert not fidelity.difference_from(reference, _Fixed(expected * torch.nan)).is_rounding


def test_a_toy_is_causal(implementation):
    model = il.load("toy-2l-narrow", implementation=implementation, device="cpu")
    check_causal(model)


def test_models_that_look_ahead_are_refused(implementation, monkeypatch):
    model = _toy(implementation)
    assert il.load(model) is model
    backwards = _toy(implementation)
    forward = backwards.forward
    monkeypatch.setattr(backwards, "forward", lambda tokens: forward(tokens.flip(1)).flip(1))
    for _ in range(2):  # the refusal is not forgotten
        with pytest.raises(ValueError, match="whose predictions move by up to"):
            il.load(backwards)
    assert il.load(backwards, check=False) is backwards


def _toy(implementation: Any) -> Any:
    config = toy.ToyConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=53, n_ctx=20)
    return toy.build_toy(config, implementation=implementation, device="cpu")


def test_bidirectional_attention_is_refused():
    if not HAS_HOOKED_TRANSFORMER:
        return  # only that class has the option
    config = hooked_config_class()(
        n_layers=1,
        d_model=16,
        n_heads=2,
        d_head=8,
        n_ctx=20,
        d_vocab=53,
        act_fn="relu",
        attention_dir="bidirectional",
        seed=0,
    )
    with pytest.raises(ValueError, match="decoder-only model: encoders"):
        il.load(hooked_class()(config))


def test_a_model_is_run_once_to_see_whether_it_is_causal(implementation, monkeypatch):
    model = _toy(implementation)
    calls: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens: calls.append(1) or forward(tokens))
    check_causal(model)
    check_causal(model)
    assert len(calls) == 2


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Any:
    """A function that puts a model into an otherwise empty Hugging Face cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def put(name: str, model: Any, *, tokenizer: bool = True) -> None:
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        commit = "0" * 40
        (repository / "refs" / "main").write_text(commit)
        write_model(model, repository / "snapshots" / commit, tokenizer=tokenizer)

    return put


@pytest.mark.parametrize(("name", "hub_name"), [("gpt2", "gpt2"), ("gpt2-small", "gpt2")])
@torch.no_grad()
def test_official_names_become_the_class_that_has_them(hub, name, hub_name):
    theirs = random_model(transformers.GPT2Config(**GPT2, n_ctx=N_CTX))
    hub(hub_name, theirs)
    model = il.load(name, device="cpu", dtype=torch.float64)
    expected = "HookedTransformer" if HAS_HOOKED_TRANSFORMER else "TransformerBridge"
    assert class_name(model) == expected
    assert next(model.parameters()).dtype == torch.float64
    found, clean = model(TOKENS).log_softmax(-1), theirs.double()(TOKENS).logits.log_softmax(-1)
    assert torch.allclose(found, clean, atol=1e-6)
    assert model_name(model) == name
    _check_zero_z(model, theirs, CONFIGS["gpt2"][1])


@torch.no_grad()
def test_an_official_model_that_hooked_transformer_cannot_hold_becomes_a_bridge(hub, caplog):
    theirs = random_model(transformers.GPT2Config(**GPT2))  # HookedTransformer wants n_ctx as well
    hub("gpt2", theirs)
    with caplog.at_level(logging.WARNING, logger="induction_lens"):
        model = il.load("gpt2", device="cpu")
    assert class_name(model) == "TransformerBridge"
    assert ("TransformerBridge is used instead" in caplog.text) == HAS_HOOKED_TRANSFORMER
    assert torch.allclose(_log_probs(model(TOKENS)), _log_probs(theirs(TOKENS).logits), atol=1e-4)


@torch.no_grad()
def test_other_names_become_bridges_in_compatibility_mode(hub):
    theirs = random_model(transformers.GPT2Config(**{**GPT2, "vocab_size": 311}))
    hub("somebody/gpt-2-tuned", theirs)
    model = il.load("somebody/gpt-2-tuned", device="cpu")
    assert model.compatibility_mode
    assert model.tokenizer.decode([3]) is not None
    assert torch.allclose(_log_probs(model(TOKENS)), _log_probs(theirs(TOKENS).logits), atol=1e-4)


def test_a_hub_name_without_safetensors_is_refused(hub, tmp_path):
    hub("somebody/pickled", random_model(transformers.GPT2Config(**GPT2)))
    [weights] = Path(tmp_path).rglob("*.safetensors")
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="safetensors") as told:
        il.load("somebody/pickled", device="cpu")
    assert "\n" not in str(told.value)
