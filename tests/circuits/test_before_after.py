"""The before-and-after vector: exact where the change is a knock-out itself."""

from __future__ import annotations

import pytest
import torch

import induction_lens as il
from induction_lens.circuits.before_after import before_and_after
from induction_lens.dynamics import before_and_after_training
from induction_lens.heads import Head
from induction_lens.models import toy_weights
from induction_lens.toys.model import set_weights
from tests.reference_model import induction_circuit


def without_induction(implementation):
    """The hand-set circuit before its induction head writes anything."""
    model = induction_circuit(implementation)
    weights = {name: weight.clone() for name, weight in toy_weights(model).items()}
    weights["blocks.1.attn.W_O"][0] = 0
    set_weights(model, weights)
    return model


def test_a_knock_out_that_is_the_change_undoes_it_all(implementation):
    before, after = without_induction(implementation), induction_circuit(implementation)
    tokens = il.repeated_random_tokens(after, n_tokens=9, n_repeats=4, n_sequences=40)
    found = before_and_after(before, after, tokens, method="zero")
    length = float(found.change.norm())
    assert length > 1
    assert found.projection("1.0").value == pytest.approx(-length, rel=1e-4)
    assert found.undone("1.0") == pytest.approx(1, rel=1e-4)
    for head in ("0.1", "0.2", "1.1", "1.2"):
        assert found.projection(head).value == pytest.approx(0, abs=1e-3)


def test_the_projection_is_the_dot_product_at_the_chosen_tokens(implementation):
    before, after = without_induction(implementation), induction_circuit(implementation)
    tokens = il.repeated_random_tokens(after, n_tokens=9, n_repeats=4, n_sequences=12)
    found = before_and_after(before, after, tokens, method="zero", seed=3)
    losses = {}
    losses["before"] = il.per_token_loss(before, tokens)
    losses["after"] = il.per_token_loss(after, tokens)
    with il.knocked_out(after, "0.0", method="zero"):
        losses["without"] = il.per_token_loss(after, tokens)
    change, effect = [], []
    for row, position in enumerate(found.positions.tolist()):
        assert position >= 1
        at = {name: float(of[row, position]) for name, of in losses.items()}
        change.append(at["after"] - at["before"])
        effect.append(at["without"] - at["after"])
    u = torch.tensor(change) / torch.tensor(change).norm()
    expected = float(u @ torch.tensor(effect))
    assert found.projection(Head(0, 0)).value == pytest.approx(expected, rel=1e-4)
    frame = found.to_frame()
    assert frame["projection"][0] == pytest.approx(expected, rel=1e-4)
    assert "undoes" in repr(found)


def test_what_is_no_change_is_refused(circuit):
    tokens = il.repeated_random_tokens(circuit, n_tokens=9, n_repeats=2, n_sequences=4)
    with pytest.raises(ValueError, match="expected losses that changed, got the same"):
        before_and_after(circuit, circuit, tokens)
    other = il.load("toy-2l-narrow", device="cpu")
    with pytest.raises(ValueError, match="expected models of one vocabulary"):
        before_and_after(other, circuit, tokens)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run of two snapshots: before the induction head writes anything, and after."""
    folder = tmp_path_factory.mktemp("change")
    before, after = without_induction(None), induction_circuit()
    il.toys.snapshots.save(before, folder / "run", step=2, tokens_seen=10)
    il.toys.snapshots.save(after, folder / "run", step=5, tokens_seen=30)
    text = il.repeated_random_tokens(after, n_tokens=9, n_repeats=4, n_sequences=7)
    options = dict(n_examples=150, early=5, late=30, window=2, methods=["zero"], progress=False)
    run = il.track(folder / "run", out=folder / "tracked", text=text, device="cpu", **options)
    return run, before, after, text


def test_a_run_holds_the_losses_before_the_change(tracked):
    run, before, after, text = tracked
    found = before_and_after_training(run, after, before=2, text=text, n_sequences=5, method="zero")
    assert found.undone("1.0") == pytest.approx(1, abs=2e-3)  # losses before are float16
    assert found.undone("1.1") == pytest.approx(0, abs=2e-3)
    losses = [il.per_token_loss(model, text)[:5] for model in (before, after)]
    rows = found.documents
    expected = (losses[1] - losses[0])[rows, found.positions]
    torch.testing.assert_close(found.change, expected, atol=5e-3, rtol=1e-3)
    assert len(found.change) < 150
    assert int(rows.max()) == 4
    assert found.plot().data[0].z[1][0] == pytest.approx(found.undone("1.0"))


def test_what_is_not_of_the_run_is_refused(tracked):
    run, _, after, text = tracked
    options = dict(before=2, text=text, method="zero")
    with pytest.raises(ValueError, match="expected before to be a step of"):
        before_and_after_training(run, after, **{**options, "before": 3})
    with pytest.raises(ValueError, match="whose weights are those of a snapshot"):
        before_and_after_training(run, il.load("toy-2l-narrow", device="cpu"), **options)
    with pytest.raises(ValueError, match="expected the text that the trajectory was measured on"):
        before_and_after_training(run, after, **{**options, "text": text.flip(0)})
    with pytest.raises(ValueError, match="expected another model than that of step 5"):
        before_and_after_training(run, after, **{**options, "before": 5})
