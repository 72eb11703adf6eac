"""Tokens in every form that people have them in give the numbers of the plain tensor."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import induction_lens as il
from induction_lens.inputs.prompt import one_sequence
from induction_lens.models import bos_id, sequences_of
from induction_lens.models.prompts import given_tokens

EQUAL = ["for i in range(9): f(i)", "for j in range(8): g(j)", "for i in range(9): f(i)"]
AT = {"early": 3, "late": 8}


@pytest.fixture(scope="module")
def model():
    return il.load("toy-2l-narrow", device="cpu")


@pytest.fixture(scope="module")
def rows(model):
    """The ids of three texts, BOS first, by the tokenizer alone."""
    return [[bos_id(model), *model.tokenizer(text)["input_ids"]] for text in EQUAL]


@pytest.fixture(scope="module")
def tokens(model, rows):
    assert len({len(row) for row in rows}) == 1
    return torch.tensor(rows)


FORMS = {
    "int32": lambda ids: ids.int(),
    "int16": lambda ids: ids.short(),
    "numpy": lambda ids: ids.numpy(),
    "numpy uint16": lambda ids: ids.numpy().astype(np.uint16),
    "lists": lambda ids: ids.tolist(),
    "a tuple of arrays": lambda ids: tuple(ids.numpy()),
    "a list of tensors": list,
    "numpy's integers": lambda ids: [[np.int64(i) for i in row] for row in ids.tolist()],
    "a column of lists": lambda ids: pd.Series(ids.tolist()),
    "a tokenizer's lists": lambda ids: {"input_ids": ids.tolist()},
    "a tokenizer's arrays": lambda ids: {
        "input_ids": ids.numpy(),
        "attention_mask": np.ones_like(ids.numpy()),
    },
}
TEXTS = {
    "a list of texts": list,
    "a tuple of texts": tuple,
    "a column of texts": pd.Series,
    "an array of texts": np.array,
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_read_in_every_form(model, tokens, form):
    found = sequences_of(model, FORMS[form](tokens))
    assert torch.equal(found.tokens, tokens)
    assert not found.is_padded
    assert found.documents is None
    assert not found.at_beginnings


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("a tokenizer")])
def test_ids_are_read_in_every_form_without_a_model(tokens, form):
    given = FORMS[form](tokens)
    assert torch.equal(il.inputs.shuffled(given).long(), il.inputs.shuffled(tokens))
    counted, expected = (il.tracking.count_ngrams(ids, d_vocab=2048) for ids in (given, tokens))
    losses = counted.losses(given, order=2)
    assert torch.equal(losses[:, 1:], expected.losses(tokens, order=2)[:, 1:])


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_ids_are_ids(model, tokens, dtype):
    for mask in (None, torch.ones_like(tokens)):
        assert torch.equal(sequences_of(model, tokens.to(dtype), mask).tokens, tokens)
    with pytest.raises(ValueError, match=r"token ids from 0 to \d+, got ids from -1"):
        sequences_of(model, torch.full((1, 3), -1).to(torch.uint64))


def test_booleans_are_no_ids(model, tokens):
    for given, mask in ((tokens > 0, None), (tokens > 0, torch.ones_like(tokens))):
        with pytest.raises(ValueError, match=r"token ids.*, got torch.bool"):
            sequences_of(model, given, mask)


@pytest.mark.parametrize("form", TEXTS)
def test_texts_are_read_in_every_form(model, tokens, form):
    found = sequences_of(model, TEXTS[form](EQUAL))
    assert torch.equal(found.tokens, tokens)
    assert found.at_beginnings
    assert found.documents[:, 0].tolist() == [0, 1, 0]  # the same text is no new evidence


def test_one_sequence_needs_no_list(model, tokens):
    for form in (EQUAL[0], tokens[0], tokens[0].tolist(), tokens[0].numpy()):
        assert torch.equal(sequences_of(model, form).tokens, tokens[:1])


def test_rows_of_several_lengths_are_padded_and_no_number_knows(model, rows):
    uneven = [rows[0], rows[1][:7], rows[2][:9]]
    text = ["a = b", "for i in range(9): f(i)", "x"]
    for given in (uneven, [torch.tensor(row) for row in uneven], {"input_ids": uneven}, text):
        found = sequences_of(model, given)
        alone = [sequences_of(model, [row]).tokens[0] for row in given] if given is text else None
        expected = [torch.tensor(row) for row in uneven] if alone is None else alone
        assert found.lengths.tolist() == [len(row) for row in expected]
        for row, ids in enumerate(expected):
            assert torch.equal(found.tokens[row, : len(ids)], ids)
        losses = il.per_token_loss(model, given)
        for row, ids in enumerate(expected):
            alone = il.per_token_loss(model, ids[None])[0]
            torch.testing.assert_close(losses[row, : len(ids)], alone, equal_nan=True)
            assert losses[row, len(ids) :].isnan().all()


def test_a_tokenizers_rows_keep_their_mask(model, rows):
    ones = [[1] * len(row) for row in (rows[0], rows[1][:7])]
    uneven = {"input_ids": [rows[0], rows[1][:7]], "attention_mask": ones}
    assert sequences_of(model, uneven).lengths.tolist() == [len(rows[0]), 7]
    padded = {
        "input_ids": [rows[0], [0] * 3 + rows[1][:-3]],
        "attention_mask": [[1] * len(rows[0]), [0] * 3 + [1] * (len(rows[1]) - 3)],
    }
    found = sequences_of(model, padded)
    assert found.starts.tolist() == [0, 3]
    uneven["attention_mask"][1][0] = 0
    with pytest.raises(ValueError, match="expected rows of one length with a mask"):
        sequences_of(model, uneven)


def as_text_tokens(tokens):
    """What texts are: beginnings of documents, equal ones the same."""
    numbers = torch.tensor([0, 1, 0])[:, None].expand(tokens.shape)
    return il.inputs.TextTokens(tokens, numbers, at_beginnings=True)


def losses_without(model, reference):
    with il.knocked_out(model, "1.1", reference=reference):
        return il.per_token_loss(model, torch.arange(2, 22).view(2, 10))


CALLS = {
    "per_token_loss": il.per_token_loss,
    "score_heads": lambda model, given: il.score_heads(model, tokens=given),
    "score_heads, text": lambda model, given: il.score_heads(
        model, text=given, detectors=["previous_token", "induction"]
    ),
    "ablate": lambda model, given: il.ablate(model, "1.1", given, n_controls=1, **AT),
    "ablate_by_methods": lambda model, given: il.ablation.ablate_by_methods(
        model, "1.1", given, methods=["zero", "resample"], n_controls=1, **AT
    ),
    "ablate_each_head": lambda model, given: il.ablate_each_head(model, given, **AT),
    "knocked_out": losses_without,
    "Mean": lambda model, given: losses_without_by(model, il.ablation.Mean(reference=given)),
    "Resample": lambda model, given: losses_without_by(
        model, il.ablation.Resample(reference=given)
    ),
    "qk_matching": il.circuits.qk_matching,
}


def losses_without_by(model, method):
    with il.knocked_out(model, "1.1", method=method):
        return il.per_token_loss(model, torch.arange(2, 22).view(2, 10))


def is_same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.allclose(first, second, equal_nan=True)
    if isinstance(first, dict):
        return list(first) == list(second) and all(map(is_same, first.values(), second.values()))
    return first == second


QUICK = ("per_token_loss", "score_heads", "knocked_out")


@pytest.mark.parametrize(
    "call",
    [pytest.param(call, marks=[] if call in QUICK else [pytest.mark.slow]) for call in CALLS],
)
def test_every_function_gives_the_numbers_of_the_tensor(model, tokens, call):
    plain = CALLS[call](model, tokens)
    for form in ("int32", "numpy", "lists"):
        assert is_same(CALLS[call](model, FORMS[form](tokens)), plain)
    as_text = CALLS[call](model, as_text_tokens(tokens))
    assert is_same(CALLS[call](model, EQUAL), as_text)
    assert is_same(CALLS[call](model, pd.Series(EQUAL)), as_text)


@pytest.mark.slow
def test_reports_take_ids_in_every_form(model):
    tokens = il.repeated_random_tokens(model, n_sequences=16)
    options = {"methods": ["mean"], "n_controls": 1, "early": 20, "late": 60, "progress": False}
    plain = il.report(model, text=tokens, **options)
    for form in ("int32", "numpy", "lists", "a tokenizer's lists"):
        found = il.report(model, text=FORMS[form](tokens), **options)
        assert found == plain
        assert found.card["Command"] == plain.card["Command"]


@pytest.mark.slow
def test_circuits_take_ids_in_every_form(model):
    copies = il.repeated_random_tokens(model, n_sequences=3)
    plain = il.circuits.Material.of(model, tokens=copies, n_texts=0)
    assert torch.equal(
        il.circuits.Material.of(model, tokens=copies.tolist(), n_texts=0).tokens, plain.tokens
    )
    for form in (copies, copies.numpy(), copies.tolist()):
        other = il.circuits.OtherTokens(form).tokens(model, copies)
        assert torch.equal(other, copies[None])


def test_the_estimator_is_that_of_beginnings_of_documents(model):
    assert il.ablate(model, "1.1", EQUAL, n_controls=0, **AT).estimator == "paper"
    with pytest.raises(ValueError, match="expected the paper's estimator"):
        il.ablate(model, "1.1", EQUAL, n_controls=0, estimator="matched-target", **AT)


def test_special_tokens_in_texts_are_text(model):
    bos = model.tokenizer.bos_token
    ids = given_tokens(model, f"a {bos} b").ids[0, 1:].tolist()
    assert model.tokenizer.bos_token_id not in ids
    assert model.tokenizer.decode(ids) == f"a {bos} b"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "expected texts, got an empty one at 0"),
        (["a b", ""], "got an empty one at 1"),
        (["a b", None], "expected texts alone, got None at 1"),
        (["a b", [1, 2]], "expected texts alone, got .* at 1"),
        ("<|bos|>a b", "expected texts without BOS, which is put before each"),
        ("a b " * 600, r"expected texts of at most 512 tokens with BOS .*in text 0; cut it"),
        ({"a b"}, "expected tokens to be in order"),
        (iter(["a b"]), "expected tokens to be a list"),
        (pd.DataFrame({"text": ["a b"]}), "expected tokens to be one column"),
        ([[0.0, 1.0]], "expected a tensor of token ids, got list"),
        ([[True, False]], "expected a tensor of token ids, got list"),
        (np.zeros((2, 3)), "expected a tensor of token ids, got ndarray"),
        (np.array(3), r"expected tokens of shape \[batch pos\]"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "expected a tensor of token ids"),
        ([[0, 99999]], "expected token ids from 0 to"),
        ([[[0, 1]]], "expected a tensor of token ids"),
        ([], "expected a tensor of token ids, got list"),
        ([[]], "expected a tensor of token ids, got list"),
        ([[0, 2**64]], "expected a tensor of token ids, got list"),
        ([[0, 1, 2], [0]], "expected at least two tokens in every row"),
        (b"a b", "expected a tensor of token ids, got bytes"),
        (3, "expected a tensor of token ids, got int"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_what_is_no_tokens_is_refused_in_one_line(model, given, said):
    with pytest.raises(ValueError, match=said) as refused:
        il.per_token_loss(model, given)
    assert len(str(refused.value).splitlines()) == 1


def test_names_of_files_and_masks_of_texts_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"q": "a b a b"}\n\n{"q": "x = 1"}\n{"q": "a b a b"}')
    with pytest.raises(ValueError, match=r"got the name of a file, 'prompts\.jsonl'; read it with"):
        il.per_token_loss(model, "prompts.jsonl")
    prompts = il.inputs.texts_in("prompts.jsonl", column="q")
    assert prompts == ["a b a b", "x = 1"]
    assert sequences_of(model, prompts).lengths.tolist() == [
        1 + len(model.tokenizer(text)["input_ids"]) for text in prompts
    ]
    with pytest.raises(ValueError, match="expected no mask with texts"):
        il.per_token_loss(model, prompts, mask=torch.ones(2, 9).long())


def test_a_model_without_tokenizer_takes_ids_alone(model):
    bare = il.toys.build_toy(il.toys.ToyConfig(1, d_model=8, n_heads=2, d_vocab=9, n_ctx=8))
    assert il.per_token_loss(bare, [[0, 1, 2]]).shape == (1, 3)
    with pytest.raises(ValueError, match="which has no tokenizer, got a text"):
        il.per_token_loss(bare, "a b")


def test_no_file_of_another_name_is_read(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "word").write_text("not this")
    assert sequences_of(model, "word").tokens.shape[0] == 1
    assert dataclasses.is_dataclass(given_tokens(model, "word"))


PROMPTS = {
    "a text": "a b a b",
    "a list of one text": ["a b a b"],
    "a column": pd.Series(["a b a b"]),
    "a cut column": pd.Series(["x", "a b a b"])[1:],
}


@pytest.mark.parametrize("form", PROMPTS)
def test_a_view_takes_a_prompt_in_every_form(model, form):
    ids = [bos_id(model), *model.tokenizer("a b a b")["input_ids"]]
    assert one_sequence(model, PROMPTS[form]).tolist() == ids
    for kind in (np.int16, np.int32, np.uint16):
        assert one_sequence(model, np.array(ids, dtype=kind)).tolist() == ids
        assert one_sequence(model, [kind(i) for i in ids]).tolist() == ids
        assert one_sequence(model, np.array([ids], dtype=kind)).tolist() == ids
    assert one_sequence(model, torch.tensor(ids).short()).tolist() == ids


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("prompts.jsonl", r"got the name of a file, 'prompts\.jsonl'"),
        ("<|bos|>a b", "expected texts without BOS, which is put before each"),
        ("", "expected texts, got an empty one"),
        (["a b", "a b a b"], r"one sequence, got 2; pass one of them, such as prompts\[0\]"),
    ],
)
def test_a_view_reads_texts_as_everything_else_does(model, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=said):
        il.views.attention(model, given)
