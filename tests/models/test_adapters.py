"""LoRA adapters against a plain forward pass that adds what they add, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import induction_lens as il
from tests.hf_folders import CONFIGS, write_folder

RANK, ALPHA = 3, 5
TARGETS = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc"),  # Conv1D
    "llama": ("q_proj", "k_proj", "o_proj", "down_proj"),  # Linear, grouped queries
    "neox": ("query_key_value", "dense_4h_to_h"),
}
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": ALPHA,
    "bias": "none",
    "lora_dropout": 0.1,
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "megatron_core": "megatron.core",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_folder(name, folder / name, tokenizer=False) for name in CONFIGS}


def targets_of(base: Path, name: str) -> dict[str, tuple[int, int]]:
    """In and out of each module that gets an adapter."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    found = {}
    for path, module in model.named_modules():
        if path.endswith(TARGETS[name]):
            shape = tuple(module.weight.shape)
            found[path] = shape if hasattr(module, "nx") else shape[::-1]
    return found


def write_adapter(folder: Path, base: Path, name: str, **config: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for path, (n_in, n_out) in targets_of(base, name).items():
        for letter, shape in (("A", (RANK, n_in)), ("B", (n_out, RANK))):
            values = 0.3 * torch.randn(shape, generator=generator)
            weights[f"base_model.model.{path}.lora_{letter}.weight"] = values
    told = {**CONFIG, "base_model_name_or_path": str(base), **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file(weights, folder / "adapter_model.safetensors")
    return weights


def expected_logits(base: Path, weights: dict[str, torch.Tensor], scale: float, tokens: Any) -> Any:
    """The base model, where each module's output is moved by hand."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")

    def moved(a: torch.Tensor, b: torch.Tensor) -> Any:
        return lambda _, given, out: out + scale * (given[0] @ a.T) @ b.T

    for path, module in model.named_modules():
        key = f"base_model.model.{path}.lora_"
        if f"{key}A.weight" in weights:
            module.register_forward_hook(
                moved(weights[f"{key}A.weight"], weights[f"{key}B.weight"])
            )
    with torch.no_grad():
        return model(tokens).logits.log_softmax(-1)


TOKENS = torch.arange(2, 62).view(3, 20)


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.parametrize("scaled", ["by the rank", "by its root"])
def test_a_merged_adapter_is_the_base_with_what_it_adds(bases, tmp_path, name, scaled, caplog):
    root = scaled == "by its root"
    weights = write_adapter(tmp_path / "adapter", bases[name], name, use_rslora=root)
    scale = ALPHA / (RANK**0.5 if root else RANK)
    expected = expected_logits(bases[name], weights, scale, TOKENS)
    model = il.load(tmp_path / "adapter", device="cpu")
    with torch.no_grad():
        found = model(TOKENS).log_softmax(-1)
        plain = il.load(bases[name], device="cpu")(TOKENS).log_softmax(-1)
    assert float((found - expected).abs().max()) < 1e-4
    assert float((plain - expected).abs().max()) > 0.1
    assert f"it is merged into {len(weights) // 2} matrices of {bases[name]}" in caplog.text
    assert model.induction_lens_name == str(tmp_path / "adapter")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"init_lora_weights": "pissa"},
        {"something_new": 1},
        {"base_model_name_or_path": ""},
        {"r": 4},
        {"r": 0},
        {"lora_alpha": None},
    ],
)
def test_what_is_more_than_plain_lora_is_refused(bases, tmp_path, config):
    write_adapter(tmp_path / "adapter", bases["llama"], "llama", **config)
    _fails(tmp_path / "adapter", "a PEFT adapter with", "merge_and_unload")


def _fails(folder: Path, *said: str) -> None:
    with pytest.raises(ValueError, match=r"^expected [^\n]*$") as told:
        il.load(folder, device="cpu")
    for part in said:
        assert part in str(told.value), str(told.value)


def test_weights_that_are_not_merged_are_refused(bases, tmp_path):
    weights = write_adapter(tmp_path / "a", bases["gpt2"], "gpt2")
    file = tmp_path / "a" / "adapter_model.safetensors"
    first = next(iter(weights))
    prefix = "base_model.model.transformer."
    for extra in ("wte.lora_embedding_A", "h.0.attn.c_attn.lora_magnitude_vector.weight"):
        save_file({**weights, prefix + extra: torch.zeros(3, 3)}, file)
        _fails(tmp_path / "a", f"the weights {prefix}{extra}")
    save_file({key: value for key, value in weights.items() if key != first}, file)
    _fails(tmp_path / "a", "one of two matrices, or none")
    renamed = {key.replace(".h.0.", ".h.7."): value for key, value in weights.items()}
    save_file(renamed, file)
    _fails(tmp_path / "a", "h.7.attn.c_attn", "got nothing")
    head = {
        f"base_model.model.lm_head.lora_{letter}.weight": torch.ones(shape)
        for letter, shape in (("A", (RANK, 33)), ("B", (311, RANK)))
    }
    save_file(head, file)
    _fails(tmp_path / "a", "are one matrix")
    file.unlink()
    _fails(tmp_path / "a", "without adapter_model.safetensors")


def test_an_adapter_of_another_model_is_refused(bases, tmp_path):
    write_adapter(
        tmp_path / "a", bases["llama"], "llama", base_model_name_or_path=str(bases["neox"])
    )
    _fails(tmp_path / "a", "name the model that it was trained on")
    write_adapter(
        tmp_path / "b", bases["llama"], "llama", base_model_name_or_path=str(tmp_path / "a")
    )
    _fails(tmp_path / "b", "an adapter too")
