"""Runs on languages: fresh batches by seed and step, and a run that is continued exactly."""

from dataclasses import replace

import pytest
import torch

import induction_lens as il
from induction_lens.languages import Copies, MarkovChains, Mixture
from induction_lens.models import toy_weights
from induction_lens.toys.model import ToyConfig
from induction_lens.training import (
    LANGUAGE_PRESETS,
    Hapax,
    LanguagePreset,
    language_batches,
    train_language,
)

LANGUAGE = Copies(n_letters=9, length=4)
CONFIG = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=10, n_ctx=12)
TINY = LanguagePreset(LANGUAGE, CONFIG, "tiny", n_steps=6, batch_size=3, seq_len=12)


def test_batches_depend_on_seed_and_step_alone_and_are_never_drawn_again():
    draw = language_batches(LANGUAGE, batch_size=3, seq_len=12, seed=5)
    assert draw(7).equal(language_batches(LANGUAGE, batch_size=3, seq_len=12, seed=5)(7))
    assert draw(7).equal(LANGUAGE.sample(3, seq_len=12, seed=6 * 2**20 + 7))
    seen = {tuple(draw(step).flatten().tolist()) for step in range(40)}
    other = language_batches(LANGUAGE, batch_size=3, seq_len=12, seed=6)
    seen |= {tuple(other(step).flatten().tolist()) for step in range(40)}
    seen |= {tuple(LANGUAGE.sample(3, seq_len=12, seed=s).flatten().tolist()) for s in range(40)}
    assert len(seen) == 120


def test_every_preset_reads_its_language():
    for name, preset in LANGUAGE_PRESETS.items():
        assert preset.config.d_vocab == preset.language.d_vocab, name
        assert preset.seq_len <= preset.config.n_ctx, name
        assert all(one.start < preset.n_steps for one in preset.clamp), name
        steps = preset.snapshot_steps(preset.n_steps)
        assert (steps[0], steps[-1]) == (0, preset.n_steps), name
    assert [n for n, p in LANGUAGE_PRESETS.items() if p.clamp] == [
        "alphabets-clamped",
        "alphabets-clamped-late",
    ]


def test_a_run_that_is_cut_off_ends_as_one_that_is_not(tmp_path, monkeypatch):
    whole = train_language(TINY, tmp_path / "whole", progress=False)
    calls = []

    class CutOff(Copies):
        def sample(self, *args, **options):
            calls.append(1)
            if len(calls) > 4:
                raise KeyboardInterrupt
            return super().sample(*args, **options)

    cut = replace(TINY, language=CutOff(n_letters=9, length=4))
    original = il.training.loop.train
    monkeypatch.setattr(
        "induction_lens.training.language_presets.train",
        lambda *args, **options: original(*args, checkpoint_every=2, **options),
    )
    with pytest.raises(KeyboardInterrupt):
        train_language(cut, tmp_path / "cut", progress=False)
    again = train_language(TINY, tmp_path / "cut", progress=False)
    assert torch.isnan(torch.tensor(again.tokens_per_second)) is not True
    expected, found = toy_weights(whole.model), toy_weights(again.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    loaded = il.load(tmp_path / "cut" / "model", device="cpu")
    assert all(torch.equal(w, expected[name]) for name, w in toy_weights(loaded).items())


def test_clamp_and_mask_of_a_preset_act(tmp_path):
    plain = train_language(TINY, tmp_path / "plain", progress=False)
    masked = train_language(replace(TINY, loss_mask=Hapax()), tmp_path / "masked", progress=False)
    clamped = train_language(
        replace(TINY, clamp=(il.training.Clamp(heads=["0.1"]),)), tmp_path / "cut", progress=False
    )
    assert not torch.equal(plain.losses, masked.losses)
    assert not torch.equal(plain.losses, clamped.losses)
    assert clamped.snapshots[-1].extra["clamp"][0]["heads"] == ["0.1"]


def test_a_mixture_trains_like_any_language(tmp_path):
    mixed = Mixture([LANGUAGE, MarkovChains(n_states=5)])
    run = train_language(replace(TINY, language=mixed), tmp_path, n_steps=2, progress=False)
    assert run.tokens_seen == 2 * 3 * 12


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "alphabet"}, "expected preset to be .*'alphabets'"),
        ({"preset": LANGUAGE}, "expected preset to be"),
        ({"seed": -1}, "expected seed to be"),
        ({"seed": 2**30}, "expected seed to be"),
        ({"n_steps": 0}, "expected n_steps to be"),
        ({"device": "abacus"}, "expected a device"),
    ],
)
def test_impossible_runs_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train_language(**{"preset": TINY, "out": tmp_path, "progress": False, **options})


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"seq_len": 1}, {"seed": "a"}, {"language": None}]
)
def test_impossible_batches_are_refused(options):
    given = {"language": LANGUAGE, "batch_size": 2, "seq_len": 9, **options}
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} to be"):
        language_batches(given.pop("language"), **given)
