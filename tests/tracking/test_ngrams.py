"""N-gram tables: counted by hand, summing to one, and as good as a known chain allows."""

import math
from collections import Counter

import pytest
import torch

from induction_lens.ablation.context import knocked_out
from induction_lens.inputs.tokens import repeated_random_tokens, shuffled
from induction_lens.metrics import per_token_loss
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.ngrams import KNOCKED_OUT, count_ngrams, ngram_control
from tests.reference_model import D_VOCAB, N_CTX


def _chain(n: int, length: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Text of a known first-order chain over tokens 1 to 6, and its transition matrix."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.tensor([[5.0, 1, 1, 1, 1, 1]]).softmax(-1)
    matrix = torch.stack([matrix[0].roll(shift) for shift in range(1, 7)])
    rows = [torch.randint(6, (n,), generator=generator)]
    for _ in range(length - 2):
        rows.append(torch.multinomial(matrix[rows[-1]], 1, generator=generator)[:, 0])
    text = torch.stack(rows, dim=1) + 1
    return torch.cat([torch.zeros(n, 1, dtype=torch.long), text], dim=1), matrix


def test_probabilities_by_hand():
    """Rows 0 1 2 1 2 and 0 1 1 2 1 of a vocabulary of 4."""
    tables = count_ngrams(torch.tensor([[0, 1, 2, 1, 2], [0, 1, 1, 2, 1]]), d_vocab=4)
    assert tables.n_tokens == 8
    tokens = torch.tensor([[0, 1, 2, 3], [0, 3, 2, 2]])
    # Tokens: 1 five times, 2 three times; two types. 3 was never seen.
    one, two, three = ((count + 2 / 4) / (8 + 2) for count in (5, 3, 0))
    # After 0: 1 twice. After 1: 2 three times, 1 once. After 2: 1 twice. After 3: nothing.
    after_0 = {1: (2 + 1 * one) / 3, 3: (0 + 1 * three) / 3}
    after_1, after_2 = (3 + 2 * two) / 6, {2: (0 + 1 * two) / 3, 3: (0 + 1 * three) / 3}
    expected = torch.tensor(
        [[after_0[1], after_1, after_2[3]], [after_0[3], two, after_2[2]]], dtype=torch.float
    )
    bigram = tables.losses(tokens, order=2)
    assert bigram[:, 0].isnan().all()
    assert torch.allclose(bigram[:, 1:], -expected.log(), atol=1e-6)
    # After 0 1: 2 and 1 once each. After 1 2: 1 twice. Contexts with 3 were never seen.
    expected[0, 1:] = torch.tensor([(1 + 2 * after_1) / 4, (0 + 1 * after_2[3]) / 3])
    assert torch.allclose(tables.losses(tokens, order=3)[:, 1:], -expected.log(), atol=1e-6)


@pytest.mark.parametrize("order", [2, 3])
def test_probabilities_sum_to_one_after_any_context(order):
    text = torch.randint(23, (40, 19), generator=torch.Generator().manual_seed(0)) ** 2 // 23
    tables = count_ngrams(text, d_vocab=23)
    for context in ([0, 1], [5, 5], [22, 3], [19, 22]):
        every = torch.tensor([[*context, token] for token in range(23)])
        losses = tables.losses(every, order=order)
        assert (-losses[:, 2].double()).exp().sum().item() == pytest.approx(1.0, abs=1e-6)
        starts = torch.tensor([[context[0], token] for token in range(23)])
        losses = tables.losses(starts, order=order)
        assert (-losses[:, 1].double()).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_counts_are_those_of_a_counter():
    text = torch.randint(11, (30, 17), generator=torch.Generator().manual_seed(1)).int()
    tables = count_ngrams(text, d_vocab=11)
    for order in (1, 2, 3):
        rows = text[:, 1:].tolist() if order == 1 else text.tolist()
        counted = Counter(
            tuple(row[i : i + order]) for row in rows for i in range(len(row) - order + 1)
        )
        table = tables.by_order[order]
        digits = [tuple(int(k) // 11**p % 11 for p in range(order))[::-1] for k in table.keys]
        assert dict(zip(digits, table.counts.tolist(), strict=True)) == counted
        assert table.totals.sum() == counted.total()
        assert table.types.sum() == len(counted)


def test_on_a_known_chain_the_loss_is_the_chains_entropy():
    training, matrix = _chain(4000, 50, seed=0)
    fresh, _ = _chain(500, 50, seed=1)
    entropy = -(matrix * matrix.log()).sum(1).mean().item()
    tables = count_ngrams(training, d_vocab=7)
    assert math.log(6) - entropy > 0.5
    for order in (2, 3):
        loss = tables.losses(fresh, order=order)[:, 2:]
        assert loss.mean().item() == pytest.approx(entropy, abs=0.02)


def test_what_repeats_at_random_the_tables_do_not_know():
    training = torch.randint(1, 24, (4000, 50), generator=torch.Generator().manual_seed(0))
    model = build_toy(ToyConfig(d_model=8, n_heads=1, d_vocab=24, n_ctx=128), device="cpu")
    tables = count_ngrams(training, d_vocab=24)
    tokens = repeated_random_tokens(
        model, n_sequences=50, n_tokens=20, n_repeats=3, ids=torch.arange(1, 24)
    )
    for order, slack in ((2, 0.01), (3, 0.05)):  # a trigram was seen sixteen times
        loss = tables.losses(tokens, order=order)[:, 21:].mean().item()
        assert math.log(23) - 0.01 < loss < math.log(24) + slack


def test_only_the_whole_circuit_predicts_what_repeats(circuit):
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, D_VOCAB, (12, N_CTX), generator=generator)
    text[:, 0] = 0
    tables = count_ngrams(text, d_vocab=D_VOCAB)
    control = ngram_control(
        circuit, ["1.0"], text, tables, method="zero", n_tokens=13, n_repeats=3, progress=False
    )
    repeated = control.means["repeated"]
    assert repeated["model"].high < 1.0
    assert repeated[KNOCKED_OUT].value == pytest.approx(math.log(D_VOCAB), abs=1e-4)
    assert repeated["trigram"].low > math.log(D_VOCAB) - 0.5
    assert control.uniform == pytest.approx(math.log(D_VOCAB))
    random = repeated_random_tokens(circuit, n_sequences=12, n_tokens=13, n_repeats=3)
    tokens = {"text": text, "shuffled": shuffled(text), "repeated": random}
    for kind, own in control.losses.items():
        clean = per_token_loss(circuit, tokens[kind], progress=False)
        assert torch.allclose(own["model"], clean, equal_nan=True)
        with knocked_out(circuit, ["1.0"], method="zero"):
            cut = per_token_loss(circuit, tokens[kind], progress=False)
        assert torch.allclose(own[KNOCKED_OUT], cut, equal_nan=True)
        for order, name in ((2, "bigram"), (3, "trigram")):
            table = tables.losses(tokens[kind], order=order)
            assert torch.allclose(own[name], table, equal_nan=True)
    frame = control.to_frame()
    assert len(frame) == 16
    row = frame[(frame.tokens == "repeated") & (frame.predictor == "bigram")].iloc[0]
    assert row.loss == pytest.approx(control.losses["repeated"]["bigram"][:, 15:].mean().item())
    assert row.low < row.loss < row.high
    assert row.n == 12


def test_bad_input_is_refused(circuit):
    tables = count_ngrams(torch.tensor([[0, 1, 2]]), d_vocab=3)
    with pytest.raises(ValueError, match="expected order 2 or 3, got 4"):
        tables.losses(torch.tensor([[0, 1]]), order=4)
    with pytest.raises(ValueError, match="ids from 0 to 2, got 0 to 3"):
        tables.losses(torch.tensor([[0, 3]]), order=2)
    with pytest.raises(ValueError, match="ids from 0 to 1, got 0 to 2"):
        count_ngrams(torch.tensor([[0, 1, 2]]), d_vocab=2)
    with pytest.raises(ValueError, match="at least 3 tokens, got 2"):
        count_ngrams(torch.tensor([[0, 1]]), d_vocab=2)
    text = torch.tensor([[0, 1, 2], [0, 2, 1]])
    with pytest.raises(ValueError, match=f"the model's vocabulary, {D_VOCAB}, got 3"):
        ngram_control(circuit, ["1.0"], text, tables)


BAD_TOKENS = ["0 1 2", torch.zeros(1, 2, 3).long(), torch.rand(2, 3), torch.zeros(0, 3).long()]


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("tokens", BAD_TOKENS, ids=["text", "3d", "float", "empty"])
def test_what_is_no_sequence_of_ids_is_refused(tokens):
    tables = count_ngrams(torch.tensor([[0, 1, 2]]), d_vocab=3)
    with pytest.raises(ValueError, match=r"a tensor of whole numbers \[batch pos\], got"):
        count_ngrams(tokens, d_vocab=3)
    with pytest.raises(ValueError, match=r"a tensor of whole numbers \[batch pos\], got"):
        tables.losses(tokens, order=2)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("d_vocab", "message"),
    [
        (0, "d_vocab to be a whole .* of at least 1, got 0"),
        (3.0, "d_vocab to be a whole .* of at least 1, got 3.0"),
        (2**21 + 1, "d_vocab of at most 2097152"),
    ],
)
def test_vocabularies_that_cannot_be_counted_are_refused(d_vocab, message):
    with pytest.raises(ValueError, match=message):
        count_ngrams(torch.tensor([[0, 1, 2]]), d_vocab=d_vocab)


def test_the_largest_vocabulary_fits_64_bits():
    """The numbers of the highest ids are those of the lowest."""
    low = torch.tensor([[0, 0, 0, 1], [3, 0, 1, 2]])
    high = 2**21 - 1 - low
    losses = [count_ngrams(text, d_vocab=2**21).losses(text, order=3) for text in (low, high)]
    assert torch.equal(losses[0][:, 1:], losses[1][:, 1:])


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_repeats=1), "n_repeats to be a whole .* of at least 2, got 1"),
        (dict(n_tokens=1, n_repeats=2), "n_tokens to be a whole .* of at least 2, got 1"),
        (dict(heads=["7.0"]), r"expected heads from 0\.0"),
        (dict(heads=[]), "at least one head"),
        (dict(method="meen"), "did you mean 'mean'"),
        (dict(text=torch.tensor([[0]])), "text of at least 2 positions"),
        (dict(tables={}), "tables from count_ngrams, got dict"),
    ],
)
def test_a_control_that_would_mean_nothing_is_refused(circuit, monkeypatch, options, message):
    text = torch.tensor([[0, 1, 2], [0, 2, 1]])
    tables = count_ngrams(text, d_vocab=D_VOCAB)
    monkeypatch.setattr("induction_lens.tracking.ngrams.per_token_loss", None)  # checks come first
    arguments = dict(heads=["1.0"], text=text, tables=tables) | options
    with pytest.raises(ValueError, match=message):
        ngram_control(circuit, **arguments)


def test_a_single_position_has_no_loss():
    tables = count_ngrams(torch.tensor([[0, 1, 2]]), d_vocab=3)
    for order in (2, 3):
        assert tables.losses(torch.tensor([[0], [2]]), order=order).isnan().tolist() == [[1], [1]]
