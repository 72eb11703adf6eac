from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

import induction_lens as il
from induction_lens import loading, models
from induction_lens.models import HAS_HOOKED_TRANSFORMER, families, pretrained
from induction_lens.toys import model as toy
from induction_lens.toys import snapshots
from tests.hf_folders import CONFIGS, random_model, write_folder, write_model

TOKENS = torch.tensor([[0, 3, 5, 7, 11, 3, 5, 7]])


def _assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits of the same weights: where in memory a file's weights lie changes the last bits."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_local_folder_predicts_what_hugging_face_predicts(tmp_path, name, tokenizer):
    folder = write_folder(name, tmp_path / name, tokenizer=tokenizer)
    model = il.load(folder, device="cpu")
    assert models.class_name(model) == "TransformerBridge"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = theirs(TOKENS).logits.log_softmax(-1)
        found = model(TOKENS).log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-4)
    assert (model.tokenizer is not None) == tokenizer
    scores = il.score_heads(model)
    assert scores["induction"].values.min() >= 0
    if tokenizer:
        text = il.text_tokens(model, n_sequences=2, seq_len=60)
        assert torch.isfinite(il.per_token_loss(model, text)[:, 1:]).all()
    else:
        with pytest.raises(ValueError, match="a model with a tokenizer"):
            il.text_tokens(model, n_sequences=2, seq_len=60)


def test_a_model_is_returned_as_it_is(implementation):
    model = toy.build_toy(
        toy.ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=13, n_ctx=8),
        implementation=implementation,
    )
    assert il.load(model) is model


def test_a_snapshot_folder_loads(tmp_path, implementation):
    config = toy.ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=13, n_ctx=8)
    model = toy.build_toy(config, implementation=implementation, device="cpu")
    snapshot = snapshots.save(model, tmp_path, step=3, tokens_seen=24)
    loaded = il.load(str(snapshot.path), implementation=implementation, device="cpu")
    _assert_same(loaded(TOKENS), model(TOKENS))
    assert models.model_name(loaded) == str(snapshot.path)


def test_a_truncated_snapshot_is_found_out(tmp_path):
    config = toy.ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=13, n_ctx=8)
    snapshot = snapshots.save(toy.build_toy(config), tmp_path, step=3, tokens_seen=24)
    weights = snapshot.path / snapshots.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated or altered"):
        il.load(snapshot.path)
    (snapshot.path / snapshots.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        il.load(snapshot.path)


def test_the_zoo_lists_what_its_cards_say_and_loads_all_of_it(implementation):
    frame = il.zoo()
    assert {"toy-1l", "toy-1l-smeared", "toy-2l"} <= set(frame["name"])
    for row in frame.to_dict("records"):
        model = il.load(row["name"], implementation=implementation, device="cpu")
        shape = models.shape(model)
        assert (shape.n_layers, shape.n_heads) == (row["layers"], row["heads"])
        config = json.loads((loading.ZOO / row["name"] / "config.json").read_text())
        assert row["training_tokens"] == config["tokens_seen"]
        weights = toy.toy_weights(model).values()
        assert row["parameters"] == sum(weight.numel() for weight in weights)
        assert models.model_name(model) == row["name"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("toy-2", "did you mean 'toy-2l'"),
        ("toy-2L", "did you mean 'toy-2l'"),
        ("x" * 5000, "check the spelling"),
        ("a\0b", "check the spelling"),
        ("TOY-1L", "did you mean 'toy-1l'"),
        ("", "the name or the folder of a model, got ''; for instance toy-2l"),
        (" ", "the name or the folder of a model"),
        (".", "has no config.json"),
        ("no/such name", "check the spelling"),
        (3, "a model of transformers, a HookedTransformer or a TransformerBridge, got 3"),
        (torch.nn.Linear(2, 2), "a model of transformers, .* got a Linear"),
    ],
)
def test_what_cannot_be_loaded_is_refused(what, message):
    with pytest.raises(ValueError, match=message):
        il.load(what)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        il.load(tmp_path)


def test_a_name_that_the_hub_does_not_give_is_refused():
    with pytest.raises(ValueError, match="check the spelling and the network"):
        il.load("nobody/no-such-model")


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "~/model", "some/folder/model"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(ValueError, match=f"the folder {name}, which does not exist"):
        il.load(name)


def test_a_folder_goes_before_an_alias_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder("llama", tmp_path / "gpt2-small", tokenizer=False)
    assert il.load("gpt2-small", device="cpu").cfg.n_heads == CONFIGS["llama"].num_attention_heads


@pytest.mark.usefixtures("_as_users_call")
def test_a_dtype_is_torchs():
    with pytest.raises(ValueError, match="expected dtype to be a dtype, got 'float16'"):
        il.load("toy-1l", dtype="float16")


def _fails_in_one_line(folder: Any, *parts: str, **options: Any) -> None:
    """Loading says what was expected and what to do in one `ValueError`, and installs nothing."""
    with pytest.raises(ValueError, match=r"^expected ") as told:
        il.load(folder, device="cpu", **options)
    message = str(told.value)
    assert "\n" not in message
    assert "; " in message
    for part in parts:
        assert part in message


@pytest.fixture
def _no_programs(monkeypatch):
    """Nothing is asked on standard input, and no other program is started."""

    def started(*args: object, **options: object) -> None:
        raise AssertionError(f"started or asked {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr("builtins.input", started)


@pytest.fixture
def folder(tmp_path) -> Path:
    """An intact folder with GPT-2 and its tokenizer."""
    return write_folder("gpt2", tmp_path / "gpt2", tokenizer=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"null", "it holds NoneType"),
        (b"[]", "it holds list"),
        (b"{", "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"model_type": "gpt2", "a": ' + b'{"a": ' * 900 + b"1" + b"}" * 901, "download"),
        ('{"model_type": "gpt2é"}'.encode("latin-1"), "UnicodeDecodeError"),
        (b"{}", "a model_type"),
        (b'{"model_type": 3}', "a model_type"),
        (b'{"model_type": "no-such"}', "update transformers"),
        (b'{"model_type": "gpt2", "n_layer": "two"}', "download the model again"),
        (b'{"model_type": "gpt2", "n_head": 0}', "gpt2"),
    ],
)
def test_a_damaged_configuration_is_refused_with_its_name(folder, content, said):
    (folder / "config.json").write_bytes(content)
    _fails_in_one_line(folder, str(folder), said)


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("bert", "an encoder"),
        ("roberta", "an encoder"),
        ("distilbert", "an encoder"),
        ("modernbert", "an encoder"),
        ("t5", "sequence-to-sequence"),
        ("bart", "sequence-to-sequence"),
        ("mamba", "a state-space model"),
        ("mamba2", "a state-space model"),
        ("rwkv", "a state-space model"),
        ("rwkv7", "a state-space model"),
        ("jamba", "a hybrid"),
        ("falcon_h1", "a hybrid"),
        ("qwen3_next", "a hybrid"),
        ("recurrent_gemma", "a hybrid"),
        ("whisper", "an audio model"),
        ("wav2vec2", "an audio model"),
        ("vit", "a vision model"),
        ("clip", "a multimodal model"),
        ("llava", "a multimodal model"),
        ("gemma3", "a multimodal model"),
        ("qwen2_5_vl", "a multimodal model"),
        ("qwen2_audio", "a multimodal model"),
        ("idefics3", "a multimodal model"),
        ("emu3", "a multimodal model"),
    ],
)
@pytest.mark.usefixtures("_no_programs")
def test_other_kinds_of_models_are_named_before_any_weights_are_read(tmp_path, model_type, said):
    config = {"model_type": model_type, "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _fails_in_one_line(tmp_path, "a decoder-only language model", said, model_type)


def test_decoder_only_models_are_not_taken_for_others():
    names = ("gpt2", "llama", "gpt_neox", "opt", "bloom", "phi", "qwen2", "gptj", "gpt_neo", "mpt")
    names += ("falcon", "gemma", "gemma2", "gemma3_text", "mistral", "mixtral", "gpt_oss", "olmo2")
    names += ("cohere2", "qwen3", "qwen3_moe", "stablelm", "starcoder2", "phi3", "bitnet", "xglm")
    found = {name: families.other_family(transformers.CONFIG_MAPPING[name]()) for name in names}
    assert found == dict.fromkeys(names)


@pytest.mark.usefixtures("_no_programs")
def test_a_configuration_that_names_another_architecture_does_not_choose_the_adapter(folder):
    config = json.loads((folder / "config.json").read_text())
    expected = il.load(folder, device="cpu")(TOKENS)
    config["architectures"] = ["LlavaForConditionalGeneration"]  # would install torchvision
    (folder / "config.json").write_text(json.dumps(config))
    _assert_same(il.load(folder, device="cpu")(TOKENS), expected)


_CODE = "raise SystemExit('the code of the folder ran')"


@pytest.mark.usefixtures("_no_programs")
def test_code_in_a_folder_does_not_run_unless_it_is_trusted(folder):
    config = json.loads((folder / "config.json").read_text())
    for file in ("configuration_own.py", "modeling_own.py"):
        (folder / file).write_text(_CODE)
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    il.load(folder, device="cpu")  # transformers has GPT-2's code
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own"}))
    _fails_in_one_line(folder, "auto_map", "trust_remote_code=True")
    with pytest.raises(SystemExit, match="the code of the folder ran"):
        il.load(folder, device="cpu", trust_remote_code=True)


def test_trusted_code_gives_a_model(folder):
    config = json.loads((folder / "config.json").read_text())
    expected = il.load(folder, device="cpu")(TOKENS)
    (folder / "own_code.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "own_code.OwnConfig",
        "AutoModelForCausalLM": "own_code.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _fails_in_one_line(folder, "trust_remote_code=True")
    # TransformerLens knows no architecture of that name, but the code did run
    _fails_in_one_line(folder, "that TransformerLens can wrap", trust_remote_code=True)
    assert expected.shape == (1, 8, 311)


def test_truncated_weights_are_refused_with_the_file(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    _fails_in_one_line(folder, str(weights), "download the model again")
    weights.write_bytes(b"")
    _fails_in_one_line(folder, str(weights), "download the model again")


@pytest.fixture
def sharded(tmp_path) -> Path:
    """A folder whose weights are in several files."""
    model = random_model(CONFIGS["llama"])
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    return tmp_path


def test_a_missing_shard_is_refused_with_its_name(sharded):
    assert torch.isfinite(il.load(sharded, device="cpu")(TOKENS)).all()
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    _fails_in_one_line(sharded, gone.name, "index.json", "download the model again")
    (sharded / "model.safetensors.index.json").write_text("{}")
    _fails_in_one_line(sharded, "a weight_map")


def test_weights_that_the_files_lack_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.attn.c_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _fails_in_one_line(folder, "every weight", "transformer.h.1.attn.c_proj.weight")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused(folder, pickle):
    torch.save(load_file(folder / "model.safetensors"), folder / pickle)
    (folder / "model.safetensors").unlink()
    _fails_in_one_line(folder, pickle, "a pickle, which can run code", "save_pretrained")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    _fails_in_one_line(folder, "without any", str(folder))


@pytest.mark.parametrize("content", ["{}", "null", "[]", "{", '{"model": {}}', "\x00"])
def test_a_damaged_tokenizer_is_refused_with_a_remedy(folder, content):
    (folder / "tokenizer.json").write_text(content)
    _fails_in_one_line(folder, str(folder), "a tokenizer", "take the tokenizer's files away")


def test_memory_that_runs_out_is_one_line(folder, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried …")

    monkeypatch.setattr(TransformerBridge, "enable_compatibility_mode", full)
    _fails_in_one_line(folder, "fits into memory", "dtype=torch.bfloat16")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    _fails_in_one_line(folder, "fits into memory", "dtype=torch.bfloat16")


@pytest.mark.parametrize("error", [KeyError("q"), NotImplementedError(), AttributeError("a\nb")])
def test_an_architecture_that_transformer_lens_fails_on_is_refused(folder, monkeypatch, error):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(TransformerBridge, "enable_compatibility_mode", fail)
    _fails_in_one_line(folder, type(error).__name__)
    monkeypatch.setattr(TransformerBridge, "boot_transformers", fail)
    _fails_in_one_line(folder, "that TransformerLens can wrap", type(error).__name__)


def test_a_folder_is_loaded_the_same_whatever_torchs_defaults(folder):
    expected = il.load(folder, device="cpu")
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    try:
        loaded = il.load(folder, device="cpu")
        shipped = il.load("toy-1l", device="cpu")
        assert torch.get_default_dtype() == torch.bfloat16
        assert torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    _assert_same(loaded(TOKENS), expected(TOKENS))
    _assert_same(shipped(TOKENS), il.load("toy-1l", device="cpu")(TOKENS))


@pytest.mark.parametrize("name", ["folder", "toy-1l"])
@pytest.mark.usefixtures("_as_users_call")  # checking types draws random numbers
def test_loading_leaves_random_states_filters_and_standard_output_alone(folder, name, capsys):
    before = (random.getstate(), str(np.random.get_state()), list(warnings.filters))
    torch_state = torch.get_rng_state()
    il.load(folder if name == "folder" else name, device="cpu")
    assert before == (random.getstate(), str(np.random.get_state()), list(warnings.filters))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert not capsys.readouterr().out


def test_names_in_transformer_lenss_own_format_go_to_its_own_loader(monkeypatch, caplog):
    def asked(name: str, **options: object) -> None:
        raise RuntimeError(name, os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"])

    if HAS_HOOKED_TRANSFORMER:
        import transformer_lens

        monkeypatch.setattr(transformer_lens.HookedTransformer, "from_pretrained", asked)
    else:
        monkeypatch.setattr(TransformerBridge, "boot_tl_legacy", asked)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with caplog.at_level(logging.INFO, logger="induction_lens"):
        _fails_in_one_line("NeelNanda/Attn_Only_2L512W_C4_Code", "'1'", "NeelNanda")
    assert "no Hugging Face model to compare with" in caplog.text
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_best_device_is_one_that_works():
    assert torch.zeros(1, device=pretrained.best_device()).item() == 0


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    for step in (100, 200):
        write_folder("gpt2", tmp_path / "run" / f"checkpoint-{step}", tokenizer=False)
    message = r"which holds 2; pass one of them, such as .*checkpoint-200, or all of them with ind"
    with pytest.raises(ValueError, match=message):
        il.load(tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-100" / "config.json"
    with pytest.raises(
        ValueError, match=r"got the file .*config\.json; pass the folder that it is"
    ):
        il.load(file)
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "n_embd": 66}))
    message = r"with transformer\.\S+ of \[\d+.*\], where it says \[\d+.*\]; put the config\.json"
    with pytest.raises(ValueError, match=message) as refused:
        il.load(file.parent)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    model = random_model(CONFIGS["llama"])
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[3, 4] = value
    write_model(model, tmp_path)
    message = (
        r"finite weights, got NaN or infinite ones in model\.layers\.1\.self_attn\.q_proj\.weight"
    )
    with pytest.raises(ValueError, match=message):
        il.load(tmp_path)


def test_names_are_checked_without_reading_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load_pretrained", None)
    write_folder("gpt2", tmp_path / "one", tokenizer=False)
    loading.check_names(["toy-2l", "gpt2", "org/name", tmp_path / "one", object()])
    for wrong in ("toy-3l", str(tmp_path), ""):
        with pytest.raises(ValueError, match=r"^expected "):
            loading.check_names(["toy-2l", wrong])
