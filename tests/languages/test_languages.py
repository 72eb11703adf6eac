"""Languages: their structure by hand, and their optimal losses by enumeration."""

import itertools
import math

import pytest
import torch

from induction_lens.languages import (
    Copies,
    InterleavedChains,
    MarkovChains,
    Mixture,
    Packed,
    RepeatedBigrams,
    SolvedLanguage,
    Text,
    TwoAlphabets,
    WordClasses,
)
from induction_lens.languages.language import BOS

ALL = [
    Copies(n_letters=5, length=3),
    TwoAlphabets(n_letters=5, length=3),
    MarkovChains(n_states=4),
    InterleavedChains(n_states=4, n_chains=3),
    WordClasses(n_words=3),
    RepeatedBigrams(n_tokens=6, n_triggers=2),
]


@pytest.mark.parametrize("language", ALL, ids=lambda one: type(one).__name__)
def test_sequences_begin_with_bos_and_stay_in_the_vocabulary(language):
    for seq_len in (2, 3, 7, 24, 25):
        tokens = language.sample(6, seq_len=seq_len, seed=1)
        assert tokens.shape == (6, seq_len)
        assert (tokens[:, 0] == BOS).all()
        assert 1 <= int(tokens[:, 1:].min()) <= int(tokens.max()) < language.d_vocab
        losses = language.optimal_loss(tokens)
        assert losses.shape == tokens.shape
        assert losses[:, 0].isnan().all()
        assert (losses[:, 1:] >= 0).all()
    assert torch.equal(language.sample(6, seed=1), language.sample(6, seed=1))
    assert not torch.equal(language.sample(6, seed=1), language.sample(6, seed=2))


@pytest.mark.parametrize("language", ALL, ids=lambda one: type(one).__name__)
def test_what_is_no_sequence_of_the_language_is_refused(language):
    tokens = language.sample(2, seq_len=8)
    for wrong in (tokens[:, 1:], torch.cat([tokens, tokens * 0 + 99], dim=1)):
        with pytest.raises(ValueError, match=r"^expected "):
            language.optimal_loss(wrong)


@pytest.mark.parametrize("language", ALL, ids=lambda one: type(one).__name__)
def test_the_global_random_state_is_left_alone(language):
    before = torch.get_rng_state()
    language.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("language", ALL, ids=lambda one: type(one).__name__)
def test_draws_go_by_the_seed_alone(language):
    expected = language.sample(4, seq_len=40, seed=3)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(language.sample(4, seq_len=40, seed=3), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_copies_by_hand():
    language = Copies(n_letters=5, length=3, restart=0.4)
    body = language.sample(200, seq_len=14)[:, 1:]
    block, pieces = body[:, :3], body[:, 3:]
    assert all(len(set(row)) == 3 for row in block.tolist())
    place = (pieces[:, :, None] == block[:, None, :]).double().argmax(2)
    assert torch.equal(block.gather(1, place), pieces)
    follows = place[:, 1:] == place[:, :-1] + 1
    ends = place[:, :-1] == 2
    assert not follows[ends].any()
    assert float(follows[~ends].double().mean()) == pytest.approx(0.6 + 0.4 / 3, abs=0.03)
    broken = torch.cat([torch.zeros(200, 1, dtype=torch.long), body], dim=1)
    broken[0, 5] = next(iter({1, 2, 3, 4, 5} - set(block[0].tolist())))
    with pytest.raises(ValueError, match="expected pieces of the first 3 letters"):
        language.optimal_loss(broken)


def test_targets_by_hand():
    language = Copies(n_letters=9, length=4)
    # BOS, block at 1 to 4, pieces: the second letter, the third, the last, the first
    tokens = torch.tensor([[0, 7, 3, 9, 1, 3, 9, 1, 7]])
    assert language.targets(tokens).tolist() == [[-1, -1, -1, -1, -1, 3, 4, -1, 2]]


def test_two_alphabets_by_hand():
    language = TwoAlphabets(n_letters=5, length=3, seed=2)
    assert sorted(language.dictionary.tolist()) == [6, 7, 8, 9, 10]
    assert torch.equal(language.dictionary, TwoAlphabets(n_letters=5, length=2, seed=2).dictionary)
    body = language.sample(50, seq_len=13)[:, 1:]
    capitals, small = body[:, :3], body[:, 3:]
    assert (capitals <= 5).all()
    assert (small > 5).all()
    translated = language.dictionary[capitals - 1]
    assert (small[:, :, None] == translated[:, None, :]).any(2).all()


def test_what_is_new_by_hand():
    language = TwoAlphabets(n_letters=4, length=4)
    a, b, c, d = language.dictionary.tolist()
    tokens = torch.tensor([[0, 1, 2, 3, 4, b, c, d, b, c, a, b, c]])
    # at a piece's first letter nothing follows; b c comes three times, a b and c d once
    new = [False] * 5 + [False, True, True, False, False, False, True, False]
    assert language.is_new(tokens).tolist() == [new]


@pytest.mark.parametrize("language", [Copies(3, 3, 0.3), TwoAlphabets(3, 3, 0.3)])
def test_copies_are_predicted_as_by_enumeration(language):
    """Every block, and every way to read the pieces."""

    def likelihood(block, sequence):
        probability = 1 / 6 if tuple(sequence[:3]) == block[: len(sequence)] else 0.0
        written = language.written(torch.tensor([block]))[0].tolist()
        before = 2
        for token in sequence[3:]:
            if token not in written:
                return 0.0
            place = written.index(token)
            share = 1.0 if before == 2 else 0.3
            probability *= share / 3 + (1 - share) * (place == before + 1)
            before = place
        return probability

    hypotheses = list(itertools.permutations((1, 2, 3)))
    for tokens in language.sample(6, seq_len=12, seed=4):
        expected = _bayes(likelihood, hypotheses, tuple(tokens[1:].tolist()))
        found = language.optimal_loss(tokens[None])[0, 1:].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


def _bayes(likelihood, hypotheses, sequence):
    """Losses of the Bayes-optimal predictor: hypotheses with equal prior, by enumeration."""
    losses, before = [], sum(likelihood(h, ()) for h in hypotheses)
    for n in range(1, len(sequence) + 1):
        now = sum(likelihood(h, sequence[:n]) for h in hypotheses)
        losses.append(-math.log(now / before))
        before = now
    return losses


def test_repeated_bigrams_are_predicted_as_by_enumeration():
    """Every pair of partners of two triggers."""
    language = RepeatedBigrams(n_tokens=3, n_triggers=2, frequency=0.4, reliability=0.7)

    def likelihood(partners, sequence):
        probability, after = 1.0, None
        for token in sequence:
            if after is not None:
                probability *= 0.7 * (token == partners[after]) + 0.3 / 3
                after = None
            elif token > 3:
                probability *= 0.4 / 2
                after = token - 4
            else:
                probability *= 0.6 / 3
        return probability

    hypotheses = list(itertools.product((1, 2, 3), repeat=2))
    for tokens in language.sample(12, seq_len=15, seed=4):
        expected = _bayes(likelihood, hypotheses, tuple(tokens[1:].tolist()))
        found = language.optimal_loss(tokens[None])[0, 1:].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


def test_word_classes_are_predicted_as_by_enumeration():
    """Every order of the labels."""
    language = WordClasses(n_first=2, n_second=2, n_words=2)

    def likelihood(labels, sequence):
        probability = 1.0
        for place, token in enumerate(sequence):
            if place % 3 < 2:
                probability /= 4
            else:
                first, second = sequence[place - 2] - 1, sequence[place - 1] - 5
                probability *= token - 9 == labels[first // 2 * 2 + second // 2]
        return probability

    hypotheses = list(itertools.permutations(range(4)))
    for tokens in language.sample(8, seq_len=20, seed=4):
        expected = _bayes(likelihood, hypotheses, tuple(tokens[1:].tolist()))
        found = language.optimal_loss(tokens[None])[0, 1:].tolist()
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("lag", [1, 2])
def test_chains_are_predicted_as_by_integrating_over_transitions(lag):
    """Two states: the probability of going to state 2 from each, on a grid, with a flat prior."""
    language = MarkovChains(n_states=2)
    if lag > 1:
        language = InterleavedChains(n_states=2, n_chains=lag)
    grid = [(k + 0.5) / 60 for k in range(60)]

    def likelihood(to_second, sequence):
        probability = 1.0
        for place, token in enumerate(sequence):
            if place < lag:
                probability /= 2
                continue
            p = to_second[sequence[place - lag] - 1]
            probability *= p if token == 2 else 1 - p
        return probability

    hypotheses = list(itertools.product(grid, repeat=2))
    for tokens in language.sample(3, seq_len=9, seed=4):
        expected = _bayes(likelihood, hypotheses, tuple(tokens[1:].tolist()))
        found = language.optimal_loss(tokens[None])[0, 1:].tolist()
        assert found == pytest.approx(expected, abs=2e-3)


def test_unigrams_by_hand():
    language = MarkovChains(n_states=3)
    losses = language.unigram_loss(torch.tensor([[0, 1, 1, 3, 1]]))[0, 1:]
    assert (-losses).exp().tolist() == pytest.approx([1 / 3, 2 / 4, 1 / 5, 3 / 6])


def test_reading_the_transitions_beats_reading_the_frequencies():
    """And nobody beats the best predictor: the true transitions' entropy is below it."""
    language = MarkovChains(n_states=5, concentration=0.3)
    tokens = language.sample(200, seq_len=200)
    best = language.optimal_loss(tokens)[:, 100:].mean()
    counting = language.unigram_loss(tokens)[:, 100:].mean()
    assert best < counting - 0.2
    interleaved = InterleavedChains(n_states=5, concentration=0.3, n_chains=3)
    tokens = interleaved.sample(200, seq_len=200)
    assert interleaved.optimal_loss(tokens)[:, 100:].mean() < 0.9
    assert language.optimal_loss(tokens)[:, 100:].mean() > 1.2  # one back says little


def test_triggers_are_as_frequent_and_reliable_as_they_say():
    language = RepeatedBigrams(n_tokens=20, n_triggers=3, frequency=0.3, reliability=0.8)
    body = language.sample(400, seq_len=101, seed=1)[:, 1:]
    is_trigger = body > 20
    # one stands in 0.3 of the places where none stands before
    free = ~is_trigger[:, :-1]
    assert float(is_trigger[:, 1:][free].double().mean()) == pytest.approx(0.3, abs=0.01)
    assert not (is_trigger[:, 1:] & is_trigger[:, :-1]).any()
    commonest = []
    for row, triggers in zip(body, is_trigger, strict=True):
        for trigger in (21, 22, 23):
            follow = row[1:][(row == trigger)[:-1]]
            if len(follow) >= 8:
                commonest.append(float((follow == follow.mode().values).double().mean()))
        assert triggers.any()
    assert sum(commonest) / len(commonest) == pytest.approx(0.8 + 0.2 / 20, abs=0.03)


def test_a_mixture_takes_whole_sequences_from_each():
    parts = [Copies(n_letters=6, length=2), MarkovChains(n_states=3)]
    mixture = Mixture(parts, weights=[3.0, 1.0])
    tokens, which = mixture.sample(400, seq_len=9, seed=3), mixture.parts(400, seed=3)
    assert mixture.d_vocab == 7
    assert float((which == 0).double().mean()) == pytest.approx(0.75, abs=0.06)
    parts[0].optimal_loss(tokens[which == 0])  # they are of the language, or it would raise
    parts[1].optimal_loss(tokens[which == 1])
    assert not isinstance(mixture, SolvedLanguage)
    for wrong in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="a weight above zero"):
            Mixture(parts, weights=wrong)
    with pytest.raises(ValueError, match="at least one language"):
        Mixture([])


def test_short_sequences_are_packed_whole():
    chains = MarkovChains(n_states=3)
    tokens = Packed(chains, 4).sample(5, seq_len=10, seed=1)
    assert tokens.shape == (5, 10)
    assert (tokens == 0).nonzero()[:, 1].unique().tolist() == [0, 4, 8]
    for start in (0, 4):  # or it would raise
        chains.optimal_loss(tokens[:, start : start + 4])
    assert not tokens[:, 1:4].equal(tokens[:, 5:8])
    assert Packed(chains, 4).d_vocab == 4
    with pytest.raises(ValueError, match="expected piece to be"):
        Packed(chains, 1)


def test_text_is_drawn_row_by_row_and_nobody_knows_its_best_predictor():
    rows = torch.tensor([[0, 3, 1, 0], [0, 2, 2, 2], [0, 1, 0, 3]], dtype=torch.int32)
    text = Text(rows, 4)
    tokens = text.sample(600, seq_len=4, seed=1)
    counts = [int((tokens == row).all(1).sum()) for row in rows]
    assert sum(counts) == 600
    assert min(counts) > 150
    assert text.sample(5, seq_len=3).equal(text.sample(5, seq_len=4)[:, :3])
    assert not isinstance(text, SolvedLanguage)
    with pytest.raises(ValueError, match="at most 4 tokens in a sequence of this text, got 5"):
        text.sample(1, seq_len=5)
    copies = Copies(n_letters=3, length=2)
    mixture = Mixture([text, copies], weights=[1.0, 1.0])
    drawn, which = mixture.sample(50, seq_len=4, seed=2), mixture.parts(50, seed=2)
    assert (drawn[which == 0][:, None] == rows).all(2).any(1).all()
    copies.optimal_loss(drawn[which == 1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Text(torch.tensor([[1, 2]]), 3), "sequences that begin with BOS"),
        (lambda: Text(torch.tensor([[0, 2]]), 2), "token ids from 0 to 1, got 0 to 2"),
    ],
)
def test_other_tokens_are_no_text(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Copies(n_letters=1), "n_letters"),
        (lambda: Copies(n_letters=5, length=6), "length"),
        (lambda: Copies(restart=0.0), "restart"),
        (lambda: MarkovChains(concentration=0.0), "concentration"),
        (lambda: InterleavedChains(n_chains=0), "n_chains"),
        (lambda: WordClasses(n_words=0), "n_words"),
        (lambda: RepeatedBigrams(reliability=1.5), "reliability"),
        (lambda: MarkovChains().sample(0), "n_sequences"),
        (lambda: MarkovChains().sample(1, seq_len=1), "seq_len"),
    ],
)
def test_bad_sizes_are_refused(make, said):
    with pytest.raises(ValueError, match=f"^expected {said}"):
        make()
