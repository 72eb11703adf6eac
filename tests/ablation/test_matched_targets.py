"""Matched targets: the same token with much and with little before it, clean and ablated."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens import metrics
from induction_lens.ablation import METHODS, ablate, ablate_each_head
from induction_lens.ablation.outputs import other_rows
from induction_lens.estimates import bootstrap_mean
from induction_lens.estimators import MATCHED_TARGET, PAPER, as_estimator
from induction_lens.heads import Head
from induction_lens.models import HAS_HOOKED_TRANSFORMER, TextTokens, hook_name
from induction_lens.toys.model import ToyConfig, build_toy
from tests.ablation.test_ablation import _naive_logits
from tests.hf_folders import hugging_face_model

MODELS = ["hooked", "bridge", "gpt2", "llama"] if HAS_HOOKED_TRANSFORMER else ["bridge", "gpt2"]
EARLY, LATE, WINDOW = 6, 17, 2


def _model(name):
    if name not in ("hooked", "bridge"):
        return hugging_face_model(name)
    config = ToyConfig(n_layers=2, d_model=30, n_heads=5, d_head=14, d_vocab=53, n_ctx=61, seed=1)
    return build_toy(config, implementation=name, device="cpu")


def _sequences(n=7, length=23):
    drawn = torch.randint(1, 53, (n, length), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 0
    return drawn


def _loss_of(logits, tokens, position):
    """The loss of the token at a position, from whole logits, one row at a time."""
    rows = [
        -torch.log_softmax(logits[row, position - 1], 0)[tokens[row, position]]
        for row in range(len(tokens))
    ]
    return torch.stack(rows)


def _short_logits(model, short, head, method, *, sequences, seed):
    """The head knocked out on the cuts by hand: what is written comes from the sequences."""
    with torch.no_grad():
        _, of_long = model.run_with_cache(sequences)
    name = hook_name("z", head.layer)

    def write(z, hook):
        z = z.clone()
        reference = of_long[name][:, :, head.head]
        if method == "mean":
            z[:, :, head.head] = reference.mean((0, 1))
        elif method == "resample":
            donors = other_rows(len(sequences), seed=seed)
            z[:, :, head.head] = reference[donors, : z.shape[1]]
        else:  # a head of the last layer: patterns after it do not exist
            z[:, :, head.head] = 0
        return z

    with torch.no_grad():
        return model.run_with_hooks(short, fwd_hooks=[(name, write)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_the_effect_is_that_of_two_naive_runs(name, method):
    model, sequences = _model(name), _sequences()
    head = Head(model.cfg.n_layers - 1, 1)
    places = dict(early=EARLY, late=LATE, window=WINDOW, seed=5, batch_size=3, progress=False)
    study = ablate(model, [head], sequences, method=method, n_controls=1, **places)
    # position p of the cut is position p + 11 of the sequence
    short = torch.stack([torch.cat([row[:1], row[12:20]]) for row in sequences])
    long_ablated = _naive_logits(model, sequences, [head], method, sequences, seed=5)
    short_ablated = _short_logits(model, short, head, method, sequences=sequences, seed=5)
    with torch.no_grad():
        long_clean, short_clean = model(sequences), model(short)
    clean, ablated = torch.zeros(7), torch.zeros(7)
    for offset in range(-WINDOW, WINDOW + 1):
        target = sequences[:, LATE + offset]
        assert torch.equal(target, short[:, EARLY + offset])
        clean += _loss_of(long_clean, sequences, LATE + offset) / 5
        clean -= _loss_of(short_clean, short, EARLY + offset) / 5
        ablated += _loss_of(long_ablated, sequences, LATE + offset) / 5
        ablated -= _loss_of(short_ablated, short, EARLY + offset) / 5
    assert study.estimator == "matched-target"
    assert study.clean.value == pytest.approx(clean.mean().item(), abs=1e-5)
    assert study.ablated.value == pytest.approx(ablated.mean().item(), abs=1e-5)
    expected = bootstrap_mean(ablated - clean)
    for field in ("value", "low", "high"):
        assert getattr(study.effect, field) == pytest.approx(getattr(expected, field), abs=1e-5)
    each = ablate_each_head(model, sequences, method=method, **places)
    assert each[head] == pytest.approx(study.effect.value, abs=1e-5)


def test_the_score_is_made_of_two_calls_of_the_public_functions(implementation):
    model, sequences = _model(implementation), _sequences()
    where = dict(early=EARLY, late=LATE, window=WINDOW)
    short = metrics.short_cuts(sequences, **where)
    losses = il.per_token_loss(model, sequences, progress=False)
    of_cuts = il.per_token_loss(model, short, progress=False)
    score = il.icl_score(losses, short_losses=of_cuts, **where)
    study = ablate(model, "1.0", sequences, n_controls=0, progress=False, **where)
    assert study.clean.value == pytest.approx(score.value, abs=1e-6)
    paper = study.at(estimator="paper")
    assert paper.clean.value == pytest.approx(il.icl_score(losses, **where).value, abs=1e-6)
    assert paper.clean.value != pytest.approx(score.value, abs=1e-3)


def test_short_cuts_by_hand():
    tokens = torch.tensor([[0, 11, 12, 13, 14, 15, 16, 17], [0, 21, 22, 23, 24, 25, 26, 27]])
    assert metrics.short_cuts(tokens, 2, 6).tolist() == [[0, 15, 16], [0, 25, 26]]
    assert metrics.short_cuts(tokens, 2, 6, window=1).tolist() == [[0, 15, 16, 17], [0, 25, 26, 27]]
    long, short = torch.zeros(2, 8), torch.zeros(2, 4)
    long[:, 5:] = torch.tensor([[3.0, 6.0, 9.0], [1.0, 1.0, 4.0]])
    short[:, 1:] = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert metrics.matched_per_sequence(long, short, 2, 6).tolist() == [4.0, 1.0]
    assert metrics.matched_per_sequence(long, short, 2, 6, window=1).tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="2 sequences of more than 3 tokens, got 2 of 3"):
        metrics.matched_per_sequence(long, short[:, :3], 2, 6, window=1)


def test_what_no_context_helps_has_no_score():
    """A model without attention to the past gives a token one loss, however much comes before."""
    model = _model(MODELS[0])
    for block in model.blocks:
        with torch.no_grad():
            weights = block.attn
            for name in ("W_O", "b_O"):
                if hasattr(weights, name):
                    getattr(weights, name).data.zero_()
    sequences = _sequences(40)
    study = ablate(model, "1.0", sequences, early=EARLY, late=LATE, n_controls=0, progress=False)
    assert study.clean.value == pytest.approx(0, abs=1e-6)
    assert study.clean.high - study.clean.low < 1e-5
    paper = study.at(estimator="paper").clean
    assert paper.high - paper.low > 0.05  # two tokens differ


def test_documents_are_the_units_of_all_intervals(implementation):
    model, sequences = _model(implementation), _sequences(21)
    documents = torch.arange(21)[:, None].expand(-1, 23) // 3
    text = TextTokens(sequences, documents)
    places = dict(early=EARLY, late=LATE, progress=False)
    study = ablate(model, "1.0", text, n_controls=2, **places)
    blind = ablate(model, "1.0", sequences, n_controls=2, **places)
    for name in ("clean", "ablated", "effect"):
        found, expected = getattr(study, name), getattr(blind, name)
        assert (found.value, found.n, found.n_documents) == (expected.value, 21, 7)
        assert expected.n_documents is None
        assert found.low != expected.low
    assert study.controls[0].effect.n_documents == 7
    assert study.at(estimator="paper").effect.n_documents == 7
    assert study.share.n_documents == 7
    at = metrics.Positions(EARLY, LATE)
    change = MATCHED_TARGET.per_sequence(study._losses[1], at)
    change = change - MATCHED_TARGET.per_sequence(study._losses[0], at)
    by_document = change.view(7, 3).mean(1)
    each = ablate_each_head(model, text, **places)
    assert each.sem is not None
    expected = float(by_document.std() / 7**0.5)
    assert each.sem[1, 0].item() == pytest.approx(expected, abs=1e-6)


def test_beginnings_of_documents_are_not_cut_again(implementation):
    model, sequences = _model(implementation), _sequences()
    text = TextTokens(sequences, torch.arange(7)[:, None].expand(-1, 23), at_beginnings=True)
    study = ablate(model, "1.0", text, early=EARLY, late=LATE, n_controls=0, progress=False)
    assert (study.estimator, study.short_losses) == ("paper", None)
    with pytest.raises(ValueError, match="got matched-target, which would compare the beginning"):
        ablate(model, "1.0", text, early=EARLY, late=LATE, estimator="matched-target")
    with pytest.raises(ValueError, match="losses of short cuts"):
        study.at(estimator="matched-target")


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="matched-target"):
        as_estimator("matched")
    assert as_estimator(None) is MATCHED_TARGET
    assert as_estimator("paper") is as_estimator(PAPER) is PAPER
