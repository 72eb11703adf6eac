from __future__ import annotations

import json

import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

import induction_lens as il
from induction_lens import loading, models, snapshots, toy
from induction_lens.models import HAS_HOOKED_TRANSFORMER, pretrained
from tests.hf_folders import CONFIGS, write_folder

TOKENS = torch.tensor([[0, 3, 5, 7, 11, 3, 5, 7]])


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
    assert torch.equal(loaded(TOKENS), model(TOKENS))
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
        (3, "a name, a folder, a HookedTransformer or a TransformerBridge, got int"),
        (torch.nn.Linear(2, 2), "wrap a Hugging Face model with TransformerBridge first"),
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


@pytest.mark.usefixtures("_as_users_call")
def test_a_dtype_is_torchs():
    with pytest.raises(ValueError, match=r"such as torch\.float16, got 'float16'"):
        il.load("toy-1l", dtype="float16")


class _AskedError(Exception):
    pass


def test_official_names_become_the_class_that_has_them(monkeypatch):
    def asked(name, **options):
        raise _AskedError(name, options["device"], options["dtype"])

    if HAS_HOOKED_TRANSFORMER:
        import transformer_lens

        monkeypatch.setattr(transformer_lens.HookedTransformer, "from_pretrained", asked)
    else:
        monkeypatch.setattr(TransformerBridge, "boot_transformers", asked)
    with pytest.raises(_AskedError) as caught:
        il.load("gpt2", device="cpu", dtype=torch.float64)
    assert caught.value.args == ("gpt2", "cpu", torch.float64)


def test_other_names_become_bridges_in_compatibility_mode(monkeypatch, tmp_path):
    folder = write_folder("gpt2", tmp_path, tokenizer=True)
    boot = TransformerBridge.boot_transformers
    monkeypatch.setattr(
        TransformerBridge,
        "boot_transformers",
        lambda name, **options: boot(str(folder), **options),
    )
    assert not pretrained.is_official_name("somebody/gpt-2-tuned")
    model = il.load("somebody/gpt-2-tuned", device="cpu")
    assert model.compatibility_mode
    assert torch.allclose(model(TOKENS), il.load(folder, device="cpu")(TOKENS), atol=1e-5)


def test_the_best_device_is_one_that_works():
    assert torch.zeros(1, device=pretrained.best_device()).item() == 0
