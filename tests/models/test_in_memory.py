"""A model of transformers that is in memory loads as its folder does, and stays as it is."""

import copy

import pytest
import torch
import transformers

import induction_lens as il
from induction_lens import models
from tests.hf_folders import CONFIGS, random_model, tiny_tokenizer, write_model


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def hf_model(request):
    return random_model(CONFIGS[request.param])


def test_it_is_the_model_of_its_folder(hf_model, tmp_path):
    folder = write_model(hf_model, tmp_path / "model", tokenizer=True)
    expected = il.load(folder, device="cpu")
    found = il.load(hf_model, tokenizer=tiny_tokenizer(), device="cpu")
    tokens = torch.randint(1, 300, (3, 41), generator=torch.Generator().manual_seed(0))
    assert type(found) is type(expected)
    assert models.weights_hash(found) == models.weights_hash(expected)
    assert found.cfg.n_ctx == expected.cfg.n_ctx == 67
    losses = il.per_token_loss(found, tokens)
    assert torch.equal(losses[:, 1:], il.per_token_loss(expected, tokens)[:, 1:])
    with torch.no_grad():
        log_probs = hf_model(tokens).logits.log_softmax(-1)
    plain = -log_probs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses[:, 1:], plain, atol=1e-4, rtol=1e-4)
    assert found.tokenizer("def f")["input_ids"] == expected.tokenizer("def f")["input_ids"]
    assert models.model_name(found) == "model"
    zero = il.ablate(found, "0.1", tokens, method="zero", early=5, late=30, n_controls=0)
    again = il.ablate(expected, "0.1", tokens, method="zero", early=5, late=30, n_controls=0)
    assert zero == again


def test_it_stays_as_it_is(hf_model):
    hf_model.train()
    weight = next(hf_model.parameters())
    weight.grad = torch.ones_like(weight)
    tokenizer = tiny_tokenizer()
    told = copy.deepcopy(hf_model.state_dict())
    config, side = hf_model.config.to_dict(), tokenizer.padding_side
    random = torch.random.get_rng_state()
    try:
        found = il.load(hf_model, tokenizer=tokenizer, device="cpu", dtype=torch.float64)
        assert next(found.parameters()).dtype == torch.float64
        with torch.no_grad():
            for own in found.parameters():
                own.add_(1)
        assert hf_model.training
        assert next(hf_model.parameters()) is weight
        assert torch.equal(weight.grad, torch.ones_like(weight))
    finally:
        weight.grad = None
        hf_model.eval()
    assert all(torch.equal(told[name], value) for name, value in hf_model.state_dict().items())
    assert hf_model.config.to_dict() == config
    assert tokenizer.padding_side == side
    assert torch.equal(torch.random.get_rng_state(), random)
    assert found.tokenizer is not tokenizer


def test_it_needs_no_tokenizer(hf_model):
    found = il.load(hf_model, device="cpu")
    assert found.tokenizer is None
    assert il.score_heads(found, tokens=[[0, 1, 2, 1, 2]], detectors="induction")


def test_what_was_changed_in_memory_is_seen():
    hf_model = random_model(CONFIGS["gpt2"])

    def double(module, args, output):
        return (2 * output[0], *output[1:])

    hook = hf_model.transformer.h[0].attn.register_forward_hook(double)
    with pytest.raises(ValueError, match="expected a model that TransformerLens runs as Hugging"):
        il.load(hf_model, device="cpu")
    hook.remove()
    assert il.load(hf_model, device="cpu")


def test_others_are_refused_in_one_line(hf_model, tmp_path):
    headless = transformers.GPT2Model(CONFIGS["gpt2"])
    encoder = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )
    for given, options, said in (
        (headless, {}, "expected a language model with its head, got a GPT2Model"),
        (encoder, {}, "expected a decoder-only language model"),
        (hf_model, {"tokenizer": "gpt2"}, "expected a tokenizer of transformers, got str"),
        (hf_model, {"revision": "main"}, "expected no revision with a model that is in memory"),
        ("toy-1l", {"tokenizer": tiny_tokenizer()}, "expected tokenizer with a model of transform"),
        (hf_model.lm_head, {}, "expected a name, a folder, a model of transformers"),
        (torch.nn.Linear(2, 2), {}, "got a Linear; pass one of these, an adapter after"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            il.load(given, device="cpu", **options)
        assert len(str(refused.value).splitlines()) == 1
