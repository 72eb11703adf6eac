"""Loss masks: which tokens count by loops, and what a step then minimises."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import induction_lens as il
from induction_lens.models import toy_weights
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.training import Hapax, LossMask
from induction_lens.training.loop import train

CONFIG = ToyConfig(n_layers=2, d_model=24, n_heads=3, d_vocab=7, n_ctx=19)
OPTIONS = {"n_steps": 1, "optimizer": "adamw", "warmup": 0, "decay": 0.0, "clip": None}
OPTIONS |= {"progress": False}


def some_tokens(n=6, length=19):
    return torch.randint(7, (n, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_hapax_leaves_out_every_n_gram_that_came_before(n):
    tokens = some_tokens()
    expected = torch.ones_like(tokens, dtype=torch.bool)
    for row in range(len(tokens)):
        seen = set()
        for position in range(n - 1, tokens.shape[1]):
            gram = tuple(tokens[row, position - n + 1 : position + 1].tolist())
            expected[row, position] = gram not in seen
            seen.add(gram)
    assert Hapax(n).counts(tokens).equal(expected)
    assert expected.all() == (n == 30)


def test_what_hapax_leaves_out_is_what_an_induction_head_can_copy():
    """A token is left out where a target of induction, before it, holds that token."""
    tokens = some_tokens()
    targets = il.detectors.target_mask(tokens[:, :-1], "induction")
    row, query, key = targets.nonzero(as_tuple=True)
    copied = torch.zeros_like(tokens, dtype=torch.bool)
    right = tokens[row, key] == tokens[row, query + 1]
    copied[row[right], query[right] + 1] = True
    left_out = ~Hapax().counts(tokens)
    bos = tokens[:, :1] == tokens  # pairs with a first token that is no BOS: only here
    assert left_out.where(~bos.roll(1, 1), False).equal(copied.where(~bos.roll(1, 1), False))


class EveryThird(LossMask):
    def counts(self, tokens):
        return (torch.arange(tokens.shape[1]) % 3 == 1).expand_as(tokens)

    def to_dict(self):
        return {"every": 3}


@pytest.mark.parametrize("mask", [Hapax(), EveryThird()], ids=["hapax", "own"])
@pytest.mark.parametrize("options", [{}, {"micro_batch": 1}, {"fused": False}], ids=str)
def test_a_step_minimises_the_mean_loss_of_what_counts(mask, options):
    tokens = some_tokens()
    counted = mask.counts(tokens)[:, 1:]
    plain = build_toy(CONFIG, device="cpu")
    losses = F.cross_entropy(plain(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    expected = losses[counted].mean()
    expected.backward()
    gradients = toy_weights(plain, of=lambda parameter: parameter.grad)
    rate = 1e-3
    model = build_toy(CONFIG, device="cpu")
    before = {name: weight.detach().clone() for name, weight in toy_weights(model).items()}
    run = train(model, lambda _: tokens, loss_mask=mask, learning_rate=rate, **OPTIONS, **options)
    assert run.losses[0] == pytest.approx(expected.item(), abs=1e-5)
    for name, weight in toy_weights(model).items():
        # Adam's first step goes by the sign of the gradient
        large = gradients[name].abs() > 1e-4
        step = (before[name] - weight)[large]
        assert torch.allclose(step, rate * gradients[name][large].sign(), atol=rate * 0.01), name


def test_without_a_mask_all_tokens_count():
    runs = []
    for mask in (None, Hapax(30)):
        model = build_toy(CONFIG, device="cpu")
        train(model, lambda _: some_tokens(), loss_mask=mask, **OPTIONS)
        runs.append({name: weight.clone() for name, weight in toy_weights(model).items()})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_run_is_continued_with_its_own_mask_alone(tmp_path):
    options = {**OPTIONS, "n_steps": 4, "snapshots": [4], "checkpoint_every": 2}
    tokens = some_tokens()

    def go(mask, folder, **other):
        model = build_toy(CONFIG, device="cpu")
        train(model, tokens, batch_size=2, loss_mask=mask, out=folder, **{**options, **other})
        return {name: weight.clone() for name, weight in toy_weights(model).items()}

    whole = go(Hapax(), tmp_path / "whole")
    saved = il.toys.list_snapshots(tmp_path / "whole" / "snapshots")
    assert saved[-1].extra["loss_mask"] == {"hapax": 2}
    assert all(torch.equal(whole[n], again) for n, again in go(Hapax(), tmp_path / "whole").items())
    for other in (None, Hapax(3)):
        with pytest.raises(ValueError, match="another loss_mask"):
            go(other, tmp_path / "whole")


class Nothing(LossMask):
    def __init__(self, given):
        self.given = given

    def counts(self, tokens):
        return self.given(tokens)

    def to_dict(self):
        return {}


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("hapax", "expected loss_mask to be"),
        (
            Nothing(lambda t: t < 0),
            "expected a loss mask that counts tokens, got none in the batch",
        ),
        (Nothing(lambda t: t[:, 1:] >= 0), "expected loss_mask to give booleans of"),
        (Nothing(lambda t: t), "expected loss_mask to give booleans of"),
        (Nothing(lambda t: None), "expected what loss_mask counts to be"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(mask, message):
    model = build_toy(CONFIG, device="cpu")
    with pytest.raises(ValueError, match=message):
        train(model, lambda _: some_tokens(), loss_mask=mask, **OPTIONS)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("n", [0, 1.5, "2", None])
def test_hapax_of_no_length_is_refused(n):
    with pytest.raises(ValueError, match="expected n to be a whole number"):
        Hapax(n)
