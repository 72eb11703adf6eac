"""Padding is no text: numbers of padded rows are those of the sequences alone."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens import metrics
from induction_lens.ablation import METHODS, Mean, knocked_out
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.sets import ablate
from induction_lens.detectors import DETECTORS, score_heads
from induction_lens.models import sequences_of
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.hf_folders import hugging_face_model

pytestmark = pytest.mark.slow  # every function with every kind of padding

N_POS, D_VOCAB = 31, 43


def _toy(implementation, positions="standard"):
    config = ToyConfig(
        n_layers=2, d_model=20, n_heads=3, d_head=6, d_vocab=D_VOCAB, n_ctx=60, positions=positions
    )
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.6)
    return model


def _tokens(n=5, n_pos=N_POS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, D_VOCAB, (n, n_pos), generator=generator)
    tokens[:, 0] = 0
    return tokens


def _padded(tokens, *, left, right, with_id=7):
    """The tokens with as many of one id on each side, and their mask."""
    sides = (left, right)
    padded = torch.nn.functional.pad(tokens, sides, value=with_id)
    return padded, torch.nn.functional.pad(torch.ones_like(tokens), sides, value=0)


SIDES = [{"left": 0, "right": 13}, {"left": 9, "right": 0}, {"left": 4, "right": 5}]
OPTIONS = {"progress": False}


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("attention", ["auto", "pattern"])
def test_scores_are_unchanged_by_padding(implementation, sides, attention):
    model, tokens = _toy(implementation), _tokens()
    expected = score_heads(model, tokens=tokens, text=tokens[:3], attention=attention, **OPTIONS)
    padded, mask = _padded(tokens, **sides)
    text = dict(zip(("input_ids", "attention_mask"), _padded(tokens[:3], **sides), strict=True))
    found = score_heads(
        model, tokens=padded, mask=mask.bool(), text=text, attention=attention, **OPTIONS
    )
    for name in DETECTORS:
        assert torch.equal(found[name].values, expected[name].values), name
        if expected[name].null is not None:
            assert torch.equal(found[name].null, expected[name].null)
        if expected[name].sem is not None:
            assert torch.equal(found[name].sem, expected[name].sem)
        assert found[name].uniform == expected[name].uniform


def test_padding_without_a_mask_would_be_counted(implementation):
    """What the mask is for: the same rows, the padding taken for text, score otherwise."""
    model, tokens = _toy(implementation), _tokens()
    padded, mask = _padded(tokens, left=0, right=13)
    found = score_heads(model, tokens=padded, mask=torch.ones_like(mask), **OPTIONS)
    expected = score_heads(model, tokens=padded, mask=mask, **OPTIONS)
    gap = (found["induction"].values - expected["induction"].values).abs()
    assert gap.max() > 0.05


@pytest.mark.parametrize("which", ["toy", "gpt2", "llama"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_losses_are_unchanged_by_padding(implementation, which, sides):
    model = _toy(implementation) if which == "toy" else hugging_face_model(which)
    tokens = _tokens()
    expected = metrics.per_token_loss(model, tokens, **OPTIONS)
    padded, mask = _padded(tokens, **sides)
    found = metrics.per_token_loss(model, padded, mask=mask, **OPTIONS)
    columns = slice(sides["left"], sides["left"] + N_POS)
    assert torch.equal(found[:, columns].nan_to_num(), expected.nan_to_num())
    assert found.isnan().sum() == len(tokens) * (1 + sides["left"] + sides["right"])
    score = metrics.icl_score(found, 4, 25, window=2, mask=mask)
    assert score == metrics.icl_score(expected, 4, 25, window=2)


def test_rows_of_different_lengths_are_each_their_own(implementation):
    model, tokens = _toy(implementation), _tokens()
    mask = torch.ones_like(tokens)
    mask[1, 20:] = 0
    mask[2, :6] = 0
    mask[4, :3], mask[4, 29:] = 0, 0
    found = metrics.per_token_loss(model, tokens, mask=mask, **OPTIONS)
    for row, kept in enumerate(mask.bool()):
        alone = metrics.per_token_loss(model, tokens[row : row + 1, kept], **OPTIONS)
        assert torch.allclose(found[row, kept][1:], alone[0, 1:], atol=1e-6)
        assert found[row, ~kept].isnan().all()
    scores = score_heads(
        model, tokens=tokens, mask=mask, detectors=["induction"], shuffled_null=False, **OPTIONS
    )
    mass, queries = torch.zeros(2, 3), 0
    for row, kept in enumerate(mask.bool()):
        sequence = tokens[row : row + 1, kept]
        marked = il.detectors.attention.target_mask(sequence, "induction")
        n_counted = int(marked.any(-1).sum())
        alone = score_heads(
            model, tokens=sequence, detectors=["induction"], shuffled_null=False, **OPTIONS
        )
        mass += alone["induction"].values.nan_to_num() * n_counted
        queries += n_counted
    assert torch.allclose(scores["induction"].values, mass / queries, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_studies_are_unchanged_by_padding(implementation, method, sides):
    model, tokens = _toy(implementation), _tokens()
    where = {"early": 4, "late": 25, "window": 2, "method": method, **OPTIONS}
    expected = ablate(model, ["0.1", "1.2"], tokens, **where)
    padded, mask = _padded(tokens, **sides)
    found = ablate(model, ["0.1", "1.2"], padded, mask=mask, **where)
    assert torch.allclose(found.ablated_losses[:, 1:], expected.ablated_losses[:, 1:], atol=1e-6)
    assert found.effect.value == pytest.approx(expected.effect.value, abs=1e-6)
    assert [c.effect.value for c in found.controls] == pytest.approx(
        [c.effect.value for c in expected.controls], abs=1e-6
    )
    alone = ablate_each_head(model, tokens, **where).values
    each = ablate_each_head(model, {"input_ids": padded, "attention_mask": mask}, **where).values
    assert torch.allclose(each, alone, atol=1e-6)


@pytest.mark.parametrize("per_position", [False, True])
def test_means_leave_padding_out(implementation, per_position):
    """The mean over real tokens of rows of different lengths, computed here by hand."""
    model, tokens = _toy(implementation), _tokens()
    mask = torch.ones_like(tokens)
    mask[1, 20:] = 0
    mask[3, :8] = 0
    with torch.no_grad():
        outputs = []
        for row, kept in zip(tokens, mask.bool(), strict=True):
            _, cache = model.run_with_cache(row[None, kept])
            outputs.append(cache["blocks.0.attn.hook_z"][0, :, 1])
    overall = torch.cat(outputs).mean(0)
    at = [torch.stack([z[p] for z in outputs if len(z) > p]).mean(0) for p in range(N_POS)]
    expected = torch.stack(at) if per_position else overall.expand(N_POS, -1)
    seen = []
    reference = {"input_ids": tokens, "attention_mask": mask}
    with knocked_out(model, "0.1", method=Mean(reference, per_position=per_position)):
        point = model.hook_dict["blocks.0.attn.hook_z"]
        point.add_hook(lambda z, hook: seen.append(z[0, :, 1].detach()), level=3)
        model(tokens[:1])
        point.remove_hooks("fwd", level=3)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_what_does_not_fit_is_refused(implementation):
    model, tokens = _toy(implementation), _tokens()
    mask = torch.ones_like(tokens)
    uneven, holes, empty = mask.clone(), mask.clone(), mask.clone()
    uneven[1, 20:], holes[0, 5], empty[2] = 0, 0, 0
    for wrong, match in (
        (holes, "holes"),
        (empty, "at least two tokens in every row"),
        (mask[:2], "a mask of zeros and ones of shape"),
        (mask * 2, "zeros and ones"),
        ([[1]], "a mask of zeros and ones of shape"),
        ([[1, 0], [1]], "a mask of zeros and ones of shape"),
        ("11", "a mask of zeros and ones of shape"),
    ):
        with pytest.raises(ValueError, match=match):
            sequences_of(model, tokens, wrong)
    with pytest.raises(ValueError, match="one length for resample"):
        ablate(model, "0.1", tokens, mask=uneven, method="resample", early=2, late=15, **OPTIONS)
    with pytest.raises(ValueError, match="late \\+ window <= 19"):
        ablate(model, "0.1", tokens, mask=uneven, early=2, late=25, **OPTIONS)
    losses = metrics.per_token_loss(model, tokens, mask=uneven.flip(1), **OPTIONS)
    with pytest.raises(ValueError, match="expected mask to be zeros and ones of shape"):
        metrics.icl_score(losses, 4, 15, mask=uneven[:1])
    with pytest.raises(ValueError, match="padding on the left; pass mask"):
        metrics.icl_score(losses, 4, 15)


@pytest.mark.parametrize("form", ["lists", "booleans", "array", "array of booleans", "floats"])
def test_a_mask_has_any_form(implementation, form):
    model, tokens = _toy(implementation), _tokens()
    mask = torch.ones_like(tokens)
    mask[1, 15:], mask[2, :3] = 0, 0
    made = {
        "lists": mask.tolist(),
        "booleans": mask.bool().tolist(),
        "array": mask.numpy(),
        "array of booleans": mask.bool().numpy(),
        "floats": mask.double().tolist(),
    }[form]
    losses = metrics.per_token_loss(model, tokens.numpy(), mask=made, **OPTIONS)
    expected = metrics.per_token_loss(model, tokens, mask=mask, **OPTIONS)
    assert torch.equal(losses.nan_to_num(9), expected.nan_to_num(9))
    found, right = (metrics.icl_score(losses, 4, 11, mask=given) for given in (made, mask))
    assert found == right
    table = {"detectors": ["induction"], **OPTIONS}
    assert score_heads(model, tokens=tokens, mask=made, **table) == score_heads(
        model, tokens=tokens, mask=mask, **table
    )


@pytest.mark.parametrize("sides", [{"left": 0, "right": 2}, {"left": 3, "right": 0}], ids=str)
def test_rows_that_look_padded_need_a_mask(implementation, sides):
    model = il.load("toy-2l-narrow", device="cpu", implementation=implementation)
    tokens = _tokens()
    padded, mask = _padded(tokens, **sides, with_id=model.tokenizer.pad_token_id)
    for call in (
        lambda: metrics.per_token_loss(model, padded, **OPTIONS),
        lambda: score_heads(model, tokens=padded, **OPTIONS),
        lambda: score_heads(model, text=padded, **OPTIONS),
        lambda: ablate(model, "0.1", padded, early=2, late=9, **OPTIONS),
        lambda: il.report(model, text=padded, **OPTIONS),
        lambda: knocked_out(model, "0.1", reference=padded).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"begins or ends with token 0 .* pass mask"):
            call()
    expected = metrics.per_token_loss(model, tokens, **OPTIONS)
    found = metrics.per_token_loss(model, padded, mask=mask, **OPTIONS)
    assert torch.equal(found[mask.bool()].nan_to_num(), expected.flatten().nan_to_num())


def test_what_a_tokenizer_returns_is_taken(implementation):
    model = il.load("toy-2l-narrow", device="cpu", implementation=implementation)
    texts = [
        "def f(x):\n    return x\n",
        "import os\n\nfor name in os.listdir():\n    print(name)\n",
    ]
    encoded = model.tokenizer(texts, padding=True, return_tensors="pt")
    losses = metrics.per_token_loss(model, encoded, **OPTIONS)
    for row, text in enumerate(texts):
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        alone = metrics.per_token_loss(model, ids, **OPTIONS)[0]
        kept = encoded["attention_mask"][row].bool()
        assert torch.allclose(losses[row, kept][1:], alone[1:], atol=1e-5)
