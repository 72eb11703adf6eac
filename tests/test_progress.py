"""Progress bars: on a terminal, after two seconds, where they are wanted; nothing otherwise."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
import torch
import tqdm.auto

import induction_lens as il
from induction_lens import progress
from induction_lens.metrics import batches


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def _terminal(monkeypatch) -> Terminal:
    """Stderr as a terminal on which bars need not wait; for a test's body, as pytest has a stderr
    of its own for each phase."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)

    class AtOnce(tqdm.auto.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(tqdm.auto, "tqdm", AtOnce)
    return stream


@pytest.fixture
def _switch() -> Iterator[None]:
    """The switch as it was before."""
    before = progress._Switch.set_to
    yield
    progress._Switch.set_to = before


@pytest.fixture(scope="module")
def model():
    config = il.toys.ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=11, n_ctx=13)
    return il.toys.build_toy(config, device="cpu")


def _measure(model, *, shown: bool) -> None:
    tokens = torch.randint(1, 11, (3, 13))
    options = {"batch_size": 1, "progress": shown}
    il.per_token_loss(model, tokens, **options)
    il.score_heads(model, tokens=tokens, **options)
    il.ablate(model, "0.0", tokens, early=2, late=9, n_controls=2, **options)
    il.ablate_each_head(model, tokens, early=2, late=9, **options)


def test_a_terminal_sees_how_far_the_work_is(monkeypatch, model):
    terminal = _terminal(monkeypatch)
    assert [rows.stop for rows in batches(3, 2, progress="losses")] == [2, 3]
    assert "losses" in terminal.getvalue()
    assert "2/3" in terminal.getvalue()
    _measure(model, shown=True)
    assert "heads on tokens" in terminal.getvalue()


def test_progress_false_is_silent_on_a_terminal_too(monkeypatch, model, capsys):
    terminal = _terminal(monkeypatch)
    _measure(model, shown=False)
    il.report(model, n_sequences=3, n_controls=1, methods=["zero"], window=0, progress=False)
    assert terminal.getvalue() == ""
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("_switch")
def test_one_switch_turns_all_bars_off_and_on(monkeypatch, model):
    terminal = _terminal(monkeypatch)
    il.show_progress(False)
    _measure(model, shown=True)
    assert terminal.getvalue() == ""
    il.show_progress()
    _measure(model, shown=True)
    assert terminal.getvalue() != ""


def test_a_log_gets_no_bar(monkeypatch, model):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert not progress.wanted()
    _measure(model, shown=True)
    assert log.getvalue() == ""


def test_where_there_is_no_stderr_there_is_no_bar(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        assert not progress.wanted()


@pytest.mark.usefixtures("_switch")
@pytest.mark.parametrize(("value", "on"), [("0", False), ("Off", False), ("1", True), ("", True)])
def test_the_environment_has_the_switch_too(monkeypatch, value, on):
    _terminal(monkeypatch)
    progress._Switch.set_to = None
    monkeypatch.setenv("INDUCTION_LENS_PROGRESS", value)
    assert progress.wanted() is on
    il.show_progress(not on)  # who asks in Python is heard first
    assert progress.wanted() is not on


@pytest.mark.usefixtures("_as_users_call")
def test_the_switch_takes_true_and_false_alone():
    with pytest.raises(ValueError, match="expected shown to be True or False, got 'no'"):
        il.show_progress("no")


def test_several_bars_show_the_share_of_each(monkeypatch):
    terminal = _terminal(monkeypatch)
    with progress.progress_bars(["one", "other"]) as show:
        show([0.25, 0.0])
        show([0.5, 1.0])
    for text in ("one", " 25%", " 50%", "other", "100%"):
        assert text in terminal.getvalue()
    shown = len(terminal.getvalue())
    with progress.progress_bars(["one"], shown=False) as show:
        show([1.0])
    assert len(terminal.getvalue()) == shown
