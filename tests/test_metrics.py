from __future__ import annotations

import math

import pytest
import torch

from induction_lens import metrics
from induction_lens.ablation import Mean
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.sets import ablate
from induction_lens.detectors import score_heads
from induction_lens.metrics import icl_per_sequence, icl_score
from induction_lens.models import check_weights
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.reference_model import induction_circuit


def _toy(implementation):
    config = ToyConfig(n_layers=2, d_model=22, n_heads=1, d_vocab=31, n_ctx=19, seed=3)
    return build_toy(config, implementation=implementation, device="cpu")


def test_the_loss_at_a_position_predicts_the_token_at_that_position(implementation):
    model = _toy(implementation)
    tokens = torch.randint(0, 31, (5, 17), generator=torch.Generator().manual_seed(0))
    losses = metrics.per_token_loss(model, tokens, batch_size=2)
    with torch.no_grad():
        logits = model(tokens)
    for row in range(5):
        for pos in range(1, 17):
            seen = logits[row, pos - 1].double()
            expected = -math.log(seen.softmax(0)[tokens[row, pos]].item())
            assert losses[row, pos].item() == pytest.approx(expected, abs=1e-5)
    assert losses[:, 0].isnan().all()


def test_the_copies_of_a_random_sequence_are_predicted(circuit):
    copy = torch.tensor([5, 2, 9, 7])
    tokens = torch.cat([torch.tensor([0]), copy, copy])[None]
    losses = metrics.per_token_loss(circuit, tokens)[0]
    # position 5 repeats position 1, but nothing before it says that a copy begins
    assert losses[6:].max() < 1e-3
    assert losses[1:6].min() > 3


def test_the_icl_score_by_hand():
    losses = torch.tensor([[math.nan, 3.0, 2.0, 5.0, 1.0], [math.nan, 4.0, 4.0, 1.0, 3.5]])
    assert icl_per_sequence(losses, 1, 4).tolist() == [-2.0, -0.5]
    assert icl_score(losses, 1, 4).value == pytest.approx(-1.25)
    assert icl_per_sequence(losses, 2, 3, window=1).tolist() == pytest.approx(
        [(2 + 5 + 1) / 3 - (3 + 2 + 5) / 3, (4 + 1 + 3.5) / 3 - (4 + 4 + 1) / 3]
    )
    flat = icl_score(torch.ones(7, 5), 1, 4)
    assert (flat.value, flat.low, flat.high, flat.n) == (0.0, 0.0, 0.0, 7)


def test_the_default_positions_are_those_of_the_paper():
    losses = torch.zeros(3, 512)
    losses[:, 50], losses[:, 500] = 2.0, 1.25
    assert icl_score(losses).value == pytest.approx(-0.75)


@pytest.mark.parametrize(
    "positions", [(0, 4, 0), (3, 3, 0), (4, 2, 0), (1, 5, 0), (1, 4, 1), (2, 4, 1), (1, 4, -1)]
)
def test_positions_outside_the_sequence_are_refused(positions):
    early, late, window = positions
    with pytest.raises(ValueError, match="the last position of these sequences"):
        icl_per_sequence(torch.zeros(2, 5), early, late, window=window)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 20, dtype=torch.long), "at most 19 tokens"),
        (torch.full((2, 7), 31), "ids from 0 to 30, got ids from 31 to 31"),
        (torch.full((2, 7), -1), "got ids from -1"),
        (torch.zeros(0, 7, dtype=torch.long), "at least one of each"),
    ],
)
def test_tokens_that_the_model_cannot_read_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        metrics.per_token_loss(_toy("bridge"), tokens)


@pytest.mark.parametrize(
    ("weight", "where"),
    [
        ("embed.W_E", "the embedding"),
        ("blocks.1.attn.W_O", "layer 1"),
        ("unembed.W_U", "the unembedding"),
    ],
)
def test_nan_logits_name_the_layer_where_they_begin(implementation, weight, where):
    model = _toy(implementation)
    with torch.no_grad():
        toy_weights(model)[weight].fill_(math.nan)
    tokens = torch.ones(2, 7, dtype=torch.long)
    with pytest.raises(ValueError, match=f"first appear in {where}"):
        raise metrics.not_finite(model, tokens)
    with pytest.raises(ValueError, match="finite weights, got NaN or infinite ones in "):
        metrics.per_token_loss(model, tokens)


def test_a_sum_of_weights_that_overflows_is_no_error(implementation):
    model = _toy(implementation)
    with torch.no_grad():
        toy_weights(model)["embed.W_E"].fill_(3e38)
    check_weights(model)


@pytest.mark.parametrize(
    ("tokens", "got"),
    [
        (torch.ones(2, 7), "torch.float32"),
        (torch.ones(2, 7).numpy(), "ndarray"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_what_is_no_tensor_of_ids_is_refused(tokens, got):
    model, options = _toy("bridge"), {"early": 1, "late": 2, "progress": False}
    for call in (
        metrics.per_token_loss,
        lambda model, tokens: score_heads(model, tokens=tokens),
        lambda model, tokens: score_heads(model, text=tokens),
        lambda model, tokens: ablate(model, "0.0", tokens, **options),
        lambda model, tokens: ablate_each_head(model, tokens, **options),
        lambda model, tokens: ablate(
            model, "0.0", torch.ones(2, 7).long(), method=Mean(tokens), **options
        ),
    ):
        with pytest.raises(ValueError, match=f"a tensor of token ids, got {got}; pass torch"):
            call(model, tokens)


def test_ids_of_any_integer_type_are_read(implementation):
    model, tokens = _toy(implementation), torch.arange(1, 15).view(2, 7)
    expected = metrics.per_token_loss(model, tokens)
    for dtype in (torch.int32, torch.int16):
        losses = metrics.per_token_loss(model, tokens.to(dtype))
        assert losses[:, 1:].equal(expected[:, 1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(9), 1, 4), r"\[batch pos\], from per_token_loss, got \[9\]"),
        ((torch.zeros(2, 9).numpy(), 1, 4), "got ndarray"),
        ((torch.zeros(2, 9), 1.0, 4), "expected early to be a whole number, got 1.0"),
        ((torch.zeros(2, 9), 1, 9), "use longer sequences"),
        ((torch.zeros(2, 9), 0, 4), "position 0 has no loss"),
        ((torch.zeros(2, 9), 5, 4), "the earlier position first"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_the_remedy_fits_what_is_wrong_with_positions(arguments, message):
    with pytest.raises(ValueError, match=message):
        icl_score(*arguments)


def test_the_progress_bar_ends_where_the_work_does(capsys):
    tokens = torch.ones(5, 7, dtype=torch.long)
    quiet = metrics.per_token_loss(induction_circuit("bridge"), tokens, batch_size=2)
    shown = metrics.per_token_loss(induction_circuit("bridge"), tokens, batch_size=2, progress=True)
    assert torch.equal(quiet[:, 1:], shown[:, 1:])
    rows = [range(5)[rows] for rows in metrics.batches(5, 2, progress="x")]
    assert rows == [range(2), range(2, 4), range(4, 5)]
