"""Text mixed with written tasks: what is drawn, what training begins with, and what is written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import induction_lens as il
from induction_lens.inputs.corpus import is_held_out, load_tokenizer
from induction_lens.languages import Copies, Packed, Text
from induction_lens.models import toy_weights
from induction_lens.seals import read_json
from induction_lens.tasks import WrittenTasks, few_shot, ready
from induction_lens.toys import snapshots
from induction_lens.training import cards, presets, train_preset
from induction_lens.training.mixtures import (
    ASKED,
    RUNS,
    TextMixture,
    answered,
    begun_with,
    first_weights,
)

RUN = "phase-3l-seed-0"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(RUNS / "tokenizer.json")


def test_the_shares_are_those_that_it_names(tokenizer):
    text = torch.randint(1, 1024, (7, 40), dtype=torch.int32)
    text[:, 0] = 0
    mixture = TextMixture(text=0.5, copies=0.2, tasks=0.3).language(text, tokenizer)
    of_text, copies, tasks = mixture.languages
    assert isinstance(of_text, Text)
    assert isinstance(copies, Packed)
    assert isinstance(copies.language, Copies)
    assert isinstance(tasks, WrittenTasks)
    assert {part.d_vocab for part in mixture.languages} == {1024}
    parts = mixture.parts(2000, seed=1)
    shares = [float((parts == part).double().mean()) for part in range(3)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.04)
    said = str(TextMixture(text=0.5, copies=0.2, tasks=0.3))
    assert "20% are random tokens" in said
    assert "30% worked examples" in said
    batches = TextMixture().batches(text, tokenizer, batch_size=3, seq_len=40, seed=2)
    expected = TextMixture().language(text, tokenizer).sample(3, seq_len=40, seed=3 * 2**20 + 5)
    assert batches(5).equal(expected)
    with pytest.raises(ValueError, match="expected copies to be"):
        TextMixture(copies=0.0)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of training files; what ships is trained on them for two updates, and its card is of
    a short text."""
    names = [name for name in (f"file_{i}.py" for i in range(30)) if not is_held_out(name)]
    (tmp_path / "source").mkdir()
    for i, name in enumerate(names):
        lines = "".join(f"value_{i}_{j} = compute(value_{i}_{j - 1})\n" for j in range(60))
        (tmp_path / "source" / name).write_text(lines)
    ours = presets.MIXTURE_PRESETS["toy-3l-mixture"]
    monkeypatch.setitem(presets.MIXTURE_PRESETS, "tiny", replace(ours, prose=0.0, batch_size=2))
    monkeypatch.setattr(cards, "held_out", lambda *_, **options: {"held_out_loss": 2.5})
    monkeypatch.setattr(cards, "answered", lambda model: {"ABAB": {"accuracy": 0.75}})
    return tmp_path / "source"


def test_training_begins_with_the_run_and_ends_rounded(source, tmp_path):
    out = tmp_path / "out"
    options = {"n_tokens": 2 * 2 * 512, "progress": False, "device": "cpu"}
    run = train_preset("tiny", out, roots=[source], **options)
    assert run.n_steps == 2
    # by hand: the shipped model's loss on the first batch, drawn from the mixture
    shipped = snapshots.load(RUNS / RUN / "model", device="cpu")
    tokenizer, text = presets.prepare_text("tiny", out, n_tokens=2 * 2 * 512)
    batch = TextMixture().language(text, tokenizer).sample(2, seq_len=512, seed=2**20)
    with torch.no_grad():
        loss = F.cross_entropy(shipped(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    assert run.losses[0].item() == pytest.approx(loss.item(), abs=1e-4)
    assert tokenizer.get_vocab() == shipped.tokenizer.get_vocab()
    # what is on disk is what was measured
    stored = toy_weights(run.model)
    read = toy_weights(il.load(out / "model", device="cpu"))
    assert all(torch.equal(read[name], weight) for name, weight in stored.items())
    assert all(torch.equal(weight.half().float(), weight) for weight in stored.values())
    size = (out / "model" / snapshots.WEIGHTS).stat().st_size
    assert size == pytest.approx(2 * sum(w.numel() for w in stored.values()), rel=0.02)
    card = read_json(out / "model" / "card.json", remedy="train again")
    assert card["few_shot"] == {"ABAB": {"accuracy": 0.75}}
    assert card["training_text"].endswith(
        f"{TextMixture()}; begun with the last weights of the run {RUN}, which ships too (9.0M "
        "tokens of Python source)"
    )
    with pytest.raises(ValueError, match="expected no tokenizer with tiny"):
        train_preset("tiny", tmp_path / "other", roots=[source], tokenizer=tokenizer, **options)


def test_the_weights_of_another_tokenizer_are_refused(tokenizer):
    assert begun_with(RUN).startswith(f"begun with the last weights of the run {RUN}")
    weights = first_weights(RUN, tokenizer)
    shipped = toy_weights(snapshots.load(RUNS / RUN / "model", device="cpu"))
    assert all(torch.equal(weight, shipped[name]) for name, weight in weights.items())
    with pytest.raises(ValueError, match=f"expected the tokenizer of the run {RUN}"):
        first_weights(RUN, il.load("toy-2l", device="cpu").tokenizer)


def test_a_card_says_what_few_shot_says(monkeypatch):
    monkeypatch.setattr("induction_lens.training.mixtures.N_ITEMS", 6)
    model = il.load("toy-2l-narrow", device="cpu")
    found = answered(model)
    assert list(found) == list(ASKED)
    [task] = ready("ABAB")
    result = few_shot(model, task, shots=8, n_items=6)
    estimate = result.accuracy
    told = {"accuracy": estimate.value, "low": estimate.low, "high": estimate.high}
    assert found["ABAB"] == {**told, "chance": 0.5, "shots": 8, "items": 6}
    assert found["literal"]["shots"] == 0
    assert not math.isnan(found["plurals"]["accuracy"])
