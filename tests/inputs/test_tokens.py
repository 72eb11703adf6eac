from __future__ import annotations

import pytest
import torch

from induction_lens.detectors import target_mask
from induction_lens.inputs import corpus, tokens
from induction_lens.models import bos_id, ordinary_ids
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import tiny_tokenizer


def _model(*, tokenizer=True, d_vocab=311, n_ctx=128):
    return build_toy(
        ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=d_vocab, n_ctx=n_ctx),
        implementation="bridge",
        device="cpu",
        tokenizer=tiny_tokenizer() if tokenizer else None,
    )


def test_copies_are_equal_and_drawn_without_replacement():
    drawn = tokens.repeated_random_tokens(_model(), n_tokens=11, n_repeats=3, n_sequences=7)
    assert drawn.shape == (7, 34)
    assert (drawn[:, 0] == 0).all()
    for row in drawn.tolist():
        assert row[1:12] == row[12:23] == row[23:34]
        assert len(set(row[1:12])) == 11
    assert len({tuple(row) for row in drawn.tolist()}) == 7


def test_copies_of_a_range_of_lengths_fill_every_sequence():
    drawn = tokens.repeated_random_tokens(
        _model(), n_tokens=(3, 8), n_sequences=13, seq_len=24, seed=4
    )
    assert drawn.shape == (13, 24)
    assert (drawn[:, 0] == 0).all()
    lengths = []
    for row in drawn[:, 1:].tolist():
        length = len(set(row))
        assert row == (row[:length] * 24)[:23]  # copy after copy, the last one cut off
        lengths.append(length)
    assert {lengths.count(length) for length in range(3, 9)} == {2, 3}
    assert lengths != sorted(lengths)


def test_targets_begin_with_the_second_copy_of_each_sequence():
    drawn = tokens.repeated_random_tokens(_model(), n_tokens=(3, 8), n_sequences=6, seq_len=24)
    mask = target_mask(drawn, "induction")
    for row, marked in zip(drawn.tolist(), mask, strict=True):
        length = len(set(row[1:]))
        for q in range(24):
            followers = [q - copies * length + 1 for copies in range(1, (q - 1) // length + 1)]
            assert marked[q].nonzero().flatten().tolist() == followers[::-1]


def test_a_range_of_one_length_is_that_length():
    model = _model()
    one, same = (tokens.repeated_random_tokens(model, n_tokens=n) for n in (7, (7, 7)))
    assert torch.equal(one, same)
    assert tokens.repeated_random_tokens(model, n_tokens=(2, 5), n_repeats=3).shape == (32, 16)
    cut = tokens.repeated_random_tokens(model, n_tokens=7, seq_len=19)
    assert torch.equal(cut, one[:, :19])


def test_the_seed_decides_the_draw():
    model = _model()
    first, again, other = (tokens.repeated_random_tokens(model, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_special_and_extreme_ids_are_left_out():
    model = _model()
    n = len(model.tokenizer)
    ids = ordinary_ids(model).tolist()
    cut = int((n - 1) * 0.04)
    assert ids == list(range(1 + cut, n - cut))
    assert ordinary_ids(model, exclude_fraction=0.0).tolist() == list(range(1, n))
    drawn = tokens.repeated_random_tokens(model, n_tokens=100, n_repeats=1, n_sequences=50)
    assert set(drawn[:, 1:].flatten().tolist()) == set(ids)


def test_ids_may_be_given():
    drawn = tokens.repeated_random_tokens(_model(), n_tokens=3, ids=[5, 6, 7])
    assert set(drawn[:, 1:].flatten().tolist()) == {5, 6, 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_tokens=4, ids=[5, 6, 7]), "n_tokens of at most 3"),
        (dict(n_tokens=(2, 4), ids=[5, 6, 7]), "n_tokens of at most 3"),
        (dict(n_tokens=(4, 2)), r"expected n_tokens to be in order, got \(4, 2\); pass one number"),
        (dict(n_tokens=(0, 3)), "each of n_tokens to be a whole number of at least 1, got 0"),
        (dict(n_tokens=(2, 64), n_repeats=2), r"at most 128 tokens .* got 1 \+ 64 x 2 = 129"),
        (dict(seq_len=129), "seq_len to be a whole number from 2 to 128, got 129; the model's"),
        (dict(seq_len=1), "seq_len to be a whole number from 2 to 128, got 1"),
        (dict(n_tokens=0), "n_tokens to be a whole .* of at least 1, got 0"),
        (dict(n_tokens=64, n_repeats=2), r"at most 128 tokens .* got 1 \+ 64 x 2 = 129"),
        (dict(n_repeats=0), "n_repeats to be a whole .* of at least 1, got 0"),
        (dict(n_sequences=0), "n_sequences to be a whole number from 1 to .*, got 0"),
        (dict(n_tokens=1, ids=[311]), "ids from 0 to 310"),
    ],
)
def test_impossible_draws_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tokens.repeated_random_tokens(_model(), **options)


def test_shuffling_keeps_the_tokens_and_bos():
    drawn = tokens.repeated_random_tokens(_model(), n_sequences=5)
    mixed = tokens.shuffled(drawn, seed=3)
    assert (mixed[:, 0] == 0).all()
    for row, was in zip(mixed.tolist(), drawn.tolist(), strict=True):
        assert sorted(row) == sorted(was)
        assert row != was
    assert torch.equal(mixed, tokens.shuffled(drawn, seed=3))


TEXT = ["def function(argument): return argument + 1\n" * 9, "return 1\n" * 40, "short"]


def test_packing_joins_documents_with_bos_and_loses_nothing():
    model = _model()
    packed = tokens.text_tokens(model, text=TEXT, n_sequences=3, seq_len=32)
    assert (packed[:, 0] == 0).all()
    everything = corpus.pack(TEXT, model.tokenizer, 32).tolist()
    stream = [token for row in everything for token in row[1:]]
    expected = []
    for text in TEXT:
        expected += [*model.tokenizer.encode(text), 0]
    assert stream == expected[: len(stream)]


def test_dropping_takes_the_beginning_of_each_long_document():
    model = _model()
    encoded = [model.tokenizer.encode(text) for text in TEXT]
    kept = tokens.text_tokens(model, text=TEXT, n_sequences=2, seq_len=32, short_documents="drop")
    expected = {(0, *ids[:31]) for ids in encoded[:2]}
    assert {tuple(row) for row in kept.tolist()} == expected


def test_sources_are_files_folders_or_texts(tmp_path):
    model = _model()
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text(TEXT[0])
    (tmp_path / "inner" / "b.py").write_text(TEXT[1])
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    (tmp_path / ".hidden").write_text("hidden " * 99)
    options = dict(n_sequences=2, seq_len=20)
    as_text = tokens.text_tokens(model, source=TEXT[:2], **options)
    assert torch.equal(as_text, tokens.text_tokens(model, text=TEXT[:2], **options))
    assert torch.equal(as_text, tokens.text_tokens(model, source=tmp_path, **options))
    assert torch.equal(as_text, tokens.text_tokens(model, source=str(tmp_path), **options))
    one = tokens.text_tokens(model, source=TEXT[0], **options)
    assert torch.equal(one, tokens.text_tokens(model, source=[tmp_path / "a.txt"], **options))


@pytest.mark.slow
def test_the_default_source_is_the_held_out_standard_library():
    model = _model(n_ctx=512)
    drawn = tokens.text_tokens(model, n_sequences=16, seq_len=512)
    held_out = corpus.documents("held_out", origin="stdlib")
    whole = "\n".join(held_out)
    for row in drawn.tolist():
        pieces = model.tokenizer.decode(row[1:]).split("<s>")
        assert max(pieces, key=len).strip("\ufffd") in whole
    again = tokens.text_tokens(model, n_sequences=16, seq_len=512)
    other = tokens.text_tokens(model, n_sequences=16, seq_len=512, seed=1)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(source=""), "a source with text, got an empty one"),
        (dict(source=["  ", "\n"]), "a source with text, got an empty one"),
        (dict(text=TEXT, n_sequences=1000, seq_len=32), "text for 1000 sequences of 32"),
        (
            dict(text=TEXT, seq_len=129),
            "seq_len to be .* from 2 to 128, got 129; the model's context",
        ),
        (dict(text=TEXT, seq_len=1), "seq_len to be a whole number from 2 to .*, got 1"),
        (dict(text=TEXT, n_sequences=0), "n_sequences to be a whole .* of at least 1, got 0"),
        (dict(source="no/such-dataset-here"), "a Hugging Face dataset with a 'text' column"),
        (dict(text=TEXT, seq_len=32, short_documents="pad"), "one of pack, drop, got 'pad'"),
    ],
)
def test_impossible_texts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tokens.text_tokens(_model(), **dict(n_sequences=1, seq_len=32) | options)


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        tokens.text_tokens(_model(), source=tmp_path / "nowhere", seq_len=32)


def test_text_needs_a_tokenizer():
    model = _model(tokenizer=False)
    assert tokens.repeated_random_tokens(model).shape == (32, 101)
    with pytest.raises(ValueError, match="a model with a tokenizer"):
        tokens.text_tokens(model)


def test_bos_is_the_first_of_the_candidates_that_the_model_can_read():
    model = _model()
    assert bos_id(model) == model.tokenizer.bos_token_id == 0
    model.tokenizer.bos_token = None
    model.tokenizer.eos_token = "def"
    assert bos_id(model) == model.tokenizer.convert_tokens_to_ids("def") > 0
    assert bos_id(_model(tokenizer=False)) == 0
