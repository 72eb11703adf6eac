"""Which document a token comes from, and what intervals are over."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens import metrics
from induction_lens.inputs import corpus
from induction_lens.models import TextTokens, sequences_of, units_of
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import D_VOCAB, tiny_tokenizer


@pytest.fixture
def model():
    toy = build_toy(ToyConfig(n_layers=1, d_model=12, n_heads=2, d_vocab=D_VOCAB, n_ctx=33))
    toy.tokenizer = tiny_tokenizer()
    return toy


def _texts(n, words=60):
    return [" ".join(f"w{i}x{word}" for word in range(words)) for i in range(n)]


def _holds(ids, piece):
    """Whether some ids hold others, one after another."""
    return any(ids[i : i + len(piece)] == piece for i in range(len(ids) - len(piece) + 1))


def test_every_packed_token_is_of_the_document_that_it_was_cut_from():
    tokenizer, texts = tiny_tokenizer(), ["a bc", "d", "ef ghi j"]
    encoded = [list(ids) for ids in corpus.encode(texts, tokenizer)]
    stream = [(i, 0) for i in encoded[0]]
    for number in (1, 2):
        stream += [(0, number), *((i, number) for i in encoded[number])]
    tokens, documents = corpus.pack_documents(texts, tokenizer, 4, bos=0)
    assert len(tokens) == len(stream) // 3
    for row in range(len(tokens)):
        piece = stream[3 * row : 3 * row + 3]
        assert tokens[row].tolist() == [0, *(i for i, _ in piece)]
        assert documents[row, 1:].tolist() == [number for _, number in piece]
        assert documents[row, 0] == piece[0][1]
    assert torch.equal(tokens, corpus.pack(texts, tokenizer, 4, bos=0))


def test_a_sample_knows_the_documents_of_its_tokens(model):
    texts = _texts(7)
    sample = il.sample_text(model, text=texts, n_sequences=12, seq_len=33, seed=3)
    assert torch.equal(
        sample.tokens, il.text_tokens(model, text=texts, n_sequences=12, seq_len=33, seed=3)
    )
    assert not sample.at_beginnings
    whole = [list(ids) for ids in corpus.encode(texts, model.tokenizer)]
    found: dict[int, int] = {}
    for row, numbers in zip(sample.tokens.tolist(), sample.documents.tolist(), strict=True):
        for number in set(numbers[1:]):
            piece = [i for i, n in zip(row[1:], numbers[1:], strict=True) if n == number and i]
            of = [n for n, ids in enumerate(whole) if _holds(ids, piece)]
            if len(of) == 1:
                assert found.setdefault(number, of[0]) == of[0]
            assert of
    assert len(set(found.values())) == len(found) >= 3
    few = sample[:5]
    assert (len(few), few.documents.shape) == (5, (5, 33))


def test_all_that_a_text_gives(model):
    every = il.sample_text(model, text=_texts(7), n_sequences=None, seq_len=33)
    n_tokens = sum(len(ids) + 1 for ids in corpus.encode(_texts(7), model.tokenizer)) - 1
    assert len(every) == n_tokens // 32
    with pytest.raises(ValueError, match="expected text for 1 sequences"):
        il.sample_text(model, text="short", n_sequences=None, seq_len=33)


def test_beginnings_are_one_document_each(model):
    texts = _texts(6)
    sample = il.sample_text(model, text=texts, n_sequences=6, seq_len=20, short_documents="drop")
    assert sample.at_beginnings
    assert (sample.documents == sample.documents[:, :1]).all()
    assert sorted(sample.documents[:, 0].tolist()) == list(range(6))


def test_documents_become_the_units_of_a_score(model):
    documents = torch.arange(12)[:, None].expand(-1, 9) // 2
    losses = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    losses[:, 0] = torch.nan
    score = il.icl_score(losses, 2, 7, documents=documents)
    by_hand = il.icl_score(losses, 2, 7)
    assert (score.value, score.n, score.n_documents) == (by_hand.value, 12, 6)
    assert score.low != by_hand.low
    assert il.icl_score(losses, 2, 7, documents=documents // 2).n_documents is None  # only 3


def test_there_is_a_document_for_every_token():
    tokens = torch.zeros(2, 5, dtype=torch.long)
    for documents in (tokens[:, :4], tokens[:1], tokens[0]):
        with pytest.raises((ValueError, TypeError), match="documents"):
            TextTokens(tokens, documents)


def test_units_are_the_documents_at_the_position():
    documents = torch.tensor([[0, 0, 1], [2, 2, 2], [2, 3, 3], [4, 4, 4], [5, 5, 6]])
    assert units_of(documents, 2) is not None
    assert units_of(documents, 2).tolist() == [1, 2, 3, 4, 6]
    assert units_of(documents, 0) is None  # four documents: 0, 2, 4 and 5
    assert units_of(None, 2) is None


def test_a_row_that_begins_at_a_boundary_of_documents_is_no_padding(model):
    """BOS stands for padding too in our tokenizers."""
    assert model.tokenizer.pad_token_id == model.tokenizer.bos_token_id == 0
    tokens = torch.tensor([[0, 0, 5, 6, 7, 8], [0, 9, 8, 7, 6, 5]])
    losses = il.per_token_loss(model, tokens, progress=False)
    text = TextTokens(tokens, torch.zeros_like(tokens))
    assert torch.equal(losses[:, 1:], metrics.per_token_loss(model, text, progress=False)[:, 1:])
    padded = torch.tensor([[0, 0, 0, 6, 7, 8], [0, 9, 8, 7, 6, 5]])
    with pytest.raises(ValueError, match="row 0, which begins or ends with token 0"):
        sequences_of(model, padded)
    with pytest.raises(ValueError, match="row 1, which begins or ends with token 0"):
        sequences_of(model, torch.tensor([[0, 3, 5, 6, 7, 8], [0, 9, 8, 7, 0, 0]]))
