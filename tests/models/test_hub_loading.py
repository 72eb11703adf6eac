"""Revisions, checkpoints, shards and pickles of the hub, through the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import induction_lens as il
from induction_lens import models
from induction_lens.models import memory, own_format
from tests.hf_folders import CONFIGS, random_model, tiny_tokenizer, write_folder
from tests.local_hub import serving

REPO = "somebody/tiny"
TOKENS = torch.tensor([[0, 3, 5, 7, 11, 3, 5, 7]])


def _predicted(model):
    with torch.no_grad():
        return model(TOKENS).log_softmax(-1)


def _scaled(name: str, folder: Path, factor: float, **options) -> transformers.PreTrainedModel:
    """The random model of an architecture with its weights scaled, saved; another for each."""
    model = random_model(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    model.save_pretrained(folder, **options)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture
def steps(local_hub, tmp_path):
    """A repository with three moments of one model; and the models."""
    saved = {}
    for step, factor in ((1, 0.5), (10, 0.8), (143, 1.0)):
        folder = tmp_path / f"step{step}"
        saved[f"step{step}"] = _scaled("neox", folder, factor, max_shard_size="20KB")
        local_hub.add(REPO, f"step{step}", folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    local_hub.add(REPO, "main", folder)
    return saved


def test_a_revision_gives_the_weights_of_that_revision(steps):
    for revision, saved in steps.items():
        model = il.load(REPO, revision=revision, device="cpu")
        expected = saved(TOKENS).logits.log_softmax(-1)
        torch.testing.assert_close(_predicted(model), expected, atol=1e-4, rtol=0)
        assert models.model_name(model) == f"{REPO}@{revision}"
        assert model.tokenizer is not None


def test_a_revision_that_is_not_there_names_the_nearest(steps):
    with pytest.raises(ValueError, match="the nearest are step143, step10, step1") as told:
        il.load(REPO, revision="step150", device="cpu")
    assert "\n" not in str(told.value)
    assert steps


def test_pickles_of_a_revision_are_read_as_weights_only(local_hub, tmp_path):
    for revision, harmful in (("good", False), ("bad", True)):
        folder = tmp_path / revision
        model = _scaled("gpt2", folder, 1.0)
        state = dict(model.state_dict())
        (folder / "model.safetensors").unlink()
        if harmful:
            state["transformer.wte.weight"] = _Harmful()
        torch.save(state, folder / "pytorch_model.bin")
        local_hub.add("stanford-crfm/tiny", revision, folder)
    loaded = il.load("stanford-crfm/tiny", revision="good", device="cpu")
    expected = model(TOKENS).logits.log_softmax(-1)
    torch.testing.assert_close(_predicted(loaded), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="weights that transformers can read"):
        il.load("stanford-crfm/tiny", revision="bad", device="cpu")
    assert not _Harmful.ran


class _Harmful:
    """A pickle that runs code where pickles may."""

    ran = False

    def __reduce__(self):
        return (setattr, (_Harmful, "ran", True))


def test_a_checkpoint_is_the_step_of_a_suite(local_hub, tmp_path):
    _scaled("neox", tmp_path / "a", 0.7)
    local_hub.add("EleutherAI/pythia-0m", "step512", tmp_path / "a")
    model = il.load("EleutherAI/pythia-0m", checkpoint=512, device="cpu")
    assert models.model_name(model) == "EleutherAI/pythia-0m@512"
    with pytest.raises(ValueError, match="the nearest are step512"):
        il.load("EleutherAI/pythia-0m", checkpoint=511, device="cpu")
    with pytest.raises(ValueError, match="name its branch with revision"):
        il.load("somebody/else", checkpoint=511, device="cpu")


def test_a_device_map_leaves_weights_where_accelerate_puts_them(tmp_path):
    folder = write_folder("llama", tmp_path / "llama", tokenizer=True)
    spread = il.load(folder, device_map={"": "cpu"})
    torch.testing.assert_close(_predicted(spread), _predicted(il.load(folder, device="cpu")))
    assert models.class_name(spread) == "TransformerBridge"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"revision": "a", "checkpoint": 3}, "revision or checkpoint, got both"),
        ({"device": "cpu", "device_map": "auto"}, "device or device_map, got both"),
        ({"revision": "a"}, "got the folder"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, options, said):
    folder = write_folder("gpt2", tmp_path / "gpt2", tokenizer=False)
    with pytest.raises(ValueError, match=said):
        il.load(folder, **options)
    with pytest.raises(ValueError, match=r"^expected "):
        il.load("toy-1l", **options)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantised_weights_are_refused(tmp_path, method):
    folder = write_folder("llama", tmp_path / "llama", tokenizer=False)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"which is quantised \({method}\); pass the repository"):
        il.load(folder, device="cpu")


def test_too_little_memory_is_said_before_weights_are_read(tmp_path, monkeypatch):
    folder = write_folder("llama", tmp_path / "llama", tokenizer=False)
    n = sum(p.numel() for p in random_model(CONFIGS["llama"]).parameters())
    monkeypatch.setattr(memory, "available_memory", lambda _: 4 * n - 1)
    with pytest.raises(ValueError, match=rf"take {4 * n / 1e3:.0f} kB in float32 where"):
        il.load(folder, device="cpu")
    monkeypatch.setattr(memory, "available_memory", lambda _: 4 * n)
    il.load(folder, device="cpu")
    monkeypatch.undo()
    assert memory.available_memory("cpu") > 2**20


NEEL = "NeelNanda/Attn_Only_2L512W_C4_Code"
OWN = {
    "d_model": 16,
    "n_layers": 2,
    "d_mlp": 64,
    "d_head": 8,
    "n_heads": 2,
    "n_ctx": 24,
    "d_vocab": 29,
    "act_fn": "gelu",
    "attn_only": True,
    "normalization_type": "LNPre",
    "tokenizer_name": None,
}


def write_own_format(folder: Path, values: tuple[int, ...]) -> Path:
    """A repository in TransformerLens's own format: each checkpoint has its own weights."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(OWN))
    for value in values:
        state = own_weights(value)
        torch.save(state, folder / "checkpoints" / f"model_{value:012d}.pth")
    torch.save(state, folder / "model_final.pth")
    return folder


def own_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights by the names that `HookedTransformer` gives them."""
    generator = torch.Generator().manual_seed(seed)
    d, h, e, v, p = 16, 2, 8, 29, 24
    shapes = {"embed.W_E": (v, d), "pos_embed.W_pos": (p, d), "unembed.W_U": (d, v)}
    shapes["unembed.b_U"] = (v,)
    for layer in range(2):
        at = f"blocks.{layer}.attn."
        shapes |= {at + name: (h, d, e) for name in ("W_Q", "W_K", "W_V")}
        shapes |= {at + "W_O": (h, e, d), at + "b_O": (d,)}
        shapes |= {at + name: (h, e) for name in ("b_Q", "b_K", "b_V")}
    weights = {n: 0.3 * torch.randn(s, generator=generator) for n, s in shapes.items()}
    for layer in range(2):
        weights[f"blocks.{layer}.attn.mask"] = torch.ones(p, p, dtype=torch.bool).tril()
        weights[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-1e5)
    return weights


LOAD_OWN = """
import sys, torch
import induction_lens as il
for value in (None, 1000, 21000):
    model = il.load(sys.argv[1], checkpoint=value, device="cpu")
    value = 300000 if value is None else value
    wanted = torch.load(sys.argv[2], weights_only=True)[value]
    found = model.W_E.detach()
    wanted = wanted - wanted.mean(-1, keepdim=True)
    found = found - found.mean(-1, keepdim=True)
    print(value, torch.allclose(found, wanted, atol=1e-5), len(model.blocks))
try:
    il.load(sys.argv[1], checkpoint=20000)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_own_checkpoints_are_those_that_were_asked_for(tmp_path):
    """In a process of its own: TransformerLens 3.9 reads where its cache is when it is imported."""
    values = (1000, 21000, 300000)
    folder = write_own_format(tmp_path / "neel", values)
    torch.save({v: own_weights(v)["embed.W_E"] for v in values}, tmp_path / "wanted.pt")
    with serving() as hub:
        hub.add(NEEL, "main", folder)
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD_OWN, NEEL, str(tmp_path / "wanted.pt")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["300000 True 2", "1000 True 2", "21000 True 2"], done.stdout
    assert "the nearest are 21000, 1000, 300000" in lines[-1]


def test_a_number_at_the_end_of_another_is_no_checkpoint(local_hub, tmp_path):
    """TransformerLens would take the file of 21000 for the checkpoint 1000."""
    (tmp_path / "checkpoints").mkdir()
    for value in (21000, 1000):
        torch.save({}, tmp_path / "checkpoints" / f"{'a' if value > 9999 else 'b'}_{value}.pth")
    local_hub.add(NEEL, "main", tmp_path)
    options = {"device": "cpu", "dtype": torch.float32}
    with pytest.raises(ValueError, match=r"to read checkpoints/b_1000.pth .* got .*a_21000.pth"):
        own_format.load_own_format(NEEL, checkpoint=1000, **options)
