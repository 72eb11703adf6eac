"""lm-evaluation-harness on hooked models: its own HFLM's numbers, and those without heads."""

import sys

import pytest
import torch

import induction_lens as il
from tests.hf_folders import write_folder

pytest.importorskip("lm_eval")
pytest.importorskip("lm_eval.models.huggingface")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from induction_lens.harness import HookedLM

PAIRS = [
    ("def function(", "argument): return"),
    ("", "argument + 1"),
    ("def f(a):  ", " return a"),
    ("x" * 200, "yz argument"),
    ("def function(argument): ", "r"),
]
TEXTS = ["def function(argument): return argument + 1\n" * 9, "x", "return"]
PROMPTS = [
    ("def function(", {"until": ["\n", "zq"], "max_gen_toks": 12}),
    ("return argument", {"until": "ar", "max_new_tokens": 9, "do_sample": False}),
    ("def " * 60, {"max_gen_toks": 20}),
]


def asked(kind, args):
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=number)
        for number, one in enumerate(args)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder("gpt2", tmp_path_factory.mktemp("harness") / "gpt2", tokenizer=True)


@pytest.fixture(scope="module")
def theirs(folder):
    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=1)


@pytest.fixture(scope="module")
def model(folder):
    return il.load(folder, device="cpu")


@pytest.fixture(scope="module")
def ours(model):
    return HookedLM(model)


def results(lm):
    """What each kind of request gives."""
    return (
        lm.loglikelihood(asked("loglikelihood", PAIRS), disable_tqdm=True),
        lm.loglikelihood_rolling(
            asked("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True
        ),
        lm.generate_until(asked("generate_until", PROMPTS), disable_tqdm=True),
    )


def test_it_gives_the_numbers_of_their_own(ours, theirs):
    mine, others = results(ours), results(theirs)
    assert [greedy for _, greedy in mine[0]] == [greedy for _, greedy in others[0]]
    assert [total for total, _ in mine[0]] == pytest.approx([t for t, _ in others[0]], abs=1e-3)
    assert mine[1] == pytest.approx(others[1], abs=2e-3)
    assert mine[2] == others[2]


def test_batches_change_nothing(model, ours):
    alone = results(HookedLM(model, batch_size=1))
    for mine, one in zip(results(ours)[0], alone[0], strict=True):
        assert mine == pytest.approx(one, abs=1e-4)


def test_with_bos_it_is_theirs_with_bos(folder, model):
    mine = results(HookedLM(model, add_bos_token=True))
    bos = HFLM(str(folder), device="cpu", dtype="float32", batch_size=1)
    encode = bos.tok_encode

    def with_bos(string, add_special_tokens=None, **options):
        ids = encode(string, add_special_tokens=False, **options)
        return ids if add_special_tokens is False else [bos.prefix_token_id, *ids]

    bos.tok_encode = with_bos  # their tokenizer's files do not ask for BOS
    others = bos.loglikelihood(asked("loglikelihood", PAIRS), disable_tqdm=True)
    assert [total for total, _ in mine[0]] == pytest.approx([t for t, _ in others], abs=1e-3)


def test_knocked_out_heads_are_gone_from_every_kind(model, ours, theirs):
    """Against Hugging Face's model with the heads' part of the output matrix set to zero."""
    clean = results(ours)
    with il.knocked_out(model, ["0.1", "1.2"], method="zero"):
        without = results(ours)
    d_head = model.cfg.d_head
    saved = {name: value.clone() for name, value in theirs.model.state_dict().items()}
    with torch.no_grad():
        for layer, head in ((0, 1), (1, 2)):
            weight = theirs.model.transformer.h[layer].attn.c_proj.weight
            weight[head * d_head : (head + 1) * d_head] = 0
    try:
        others = results(theirs)
    finally:
        theirs.model.load_state_dict(saved)
    assert [total for total, _ in without[0]] == pytest.approx([t for t, _ in others[0]], abs=1e-3)
    assert without[1] == pytest.approx(others[1], abs=2e-3)
    assert without[2] == others[2]
    assert without[1] != pytest.approx(clean[1], abs=0.1)
    assert results(ours)[2] == clean[2]


def test_what_the_caller_passed_stays(ours):
    options = {"until": ["\n"], "max_gen_toks": 2}
    ours.generate_until(asked("generate_until", [("def", options)]))
    assert options == {"until": ["\n"], "max_gen_toks": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True, "temperature": 0.7}, "expected a task that takes the most probable"),
        ({"num_beams": 3}, "got num_beams=3"),
        ({"max_gen_toks": 67}, "expected room for a context in 67 tokens"),
    ],
)
def test_what_it_cannot_do_is_refused(ours, options, said):
    with pytest.raises(ValueError, match=said):
        ours.generate_until(asked("generate_until", [("def", options)]))


def test_a_model_needs_a_tokenizer():
    bare = il.toys.build_toy(il.toys.ToyConfig(1, d_model=8, n_heads=2, d_vocab=9, n_ctx=8))
    with pytest.raises(ValueError, match="expected a model with a tokenizer"):
        HookedLM(bare)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "induction_lens.harness")
    with pytest.raises(ImportError, match=r"pip install 'induction_lens\[harness\]'"):
        import induction_lens.harness  # noqa: F401
