"""The report: its numbers, its words, its page, and every model that needs a case of its own."""

from __future__ import annotations

import dataclasses
import html
import importlib
import inspect
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from induction_lens import checks
from induction_lens.ablation.sets import ablate
from induction_lens.ablation.study import AblationStudy, Control
from induction_lens.cli.models import report_command
from induction_lens.detectors import score_heads
from induction_lens.estimates import Estimate
from induction_lens.heads import Head, HeadScores, ScoreTable
from induction_lens.inputs import TextSource
from induction_lens.loading import zoo, zoo_names
from induction_lens.metrics import Positions, per_token_loss
from induction_lens.models import properties
from induction_lens.reports import pages
from induction_lens.reports.model import Example, card, evaluation, page, plan, report, sentences
from induction_lens.reports.model.evaluation import (
    Data,
    evaluation_data,
    example_of,
    positions_and_notes,
)
from induction_lens.reports.numbers import percent, shown
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import D_VOCAB, tiny_tokenizer
from tests.reference_model import induction_circuit

METHODS = ["zero", "mean", "resample", "pattern-preserving"]
QUICK = {"n_sequences": 9, "progress": False}
TEXT = "\n".join(f"def name_{i}(argument): return argument + {i}" for i in range(400))


def _toy(*, tokenizer: bool = True, **changes):
    sizes: dict[str, Any] = dict(
        n_layers=2, d_model=24, n_heads=3, d_vocab=D_VOCAB, n_ctx=67, seed=3
    )
    model = build_toy(ToyConfig(**sizes | changes), device="cpu")
    model.tokenizer = tiny_tokenizer() if tokenizer else None
    return model


@pytest.fixture(scope="module")
def toy():
    return _toy()


@pytest.fixture(scope="module")
def found(toy):
    """A report on a random model and text."""
    return report(toy, text=TEXT, control_every_method=True, **QUICK)


@pytest.fixture(scope="module")
def of_circuit():
    """A report on the hand-set circuit: no tokenizer, 41 tokens of context, one induction head."""
    return report(induction_circuit(), **QUICK)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert found.save(folder) == folder / "index.html"
    return folder


# --- numbers ---------------------------------------------------------------------------------


def _icl(folder: Path, run: str, row: Any) -> np.ndarray:
    """ICL score of each sequence, from the saved losses alone."""
    early_file = "short_losses" if row.estimator == "matched-target" else "losses"
    means = []
    for file, at in ((early_file, row.early), ("losses", row.late)):
        losses = pd.read_parquet(folder / f"{file}.parquet")
        table = losses.pivot(index="sequence", columns="position", values=run)
        means.append(table.loc[:, at - row.window : at + row.window].mean(axis=1))
    return (means[1] - means[0]).to_numpy(float)


def test_icl_table_follows_from_the_saved_losses(folder):
    table: Any = pd.read_csv(folder / "icl.csv").query("kind == 'tested'")
    assert sorted(zip(table.definition, table.method, strict=True)) == sorted(
        (definition, method)
        for definition in ("matched", "paper", "windowed")
        for method in METHODS
    )
    assert set(table.window[table.definition == "matched"]) == {0}
    assert set(table.estimator[table.definition == "paper"]) == {"paper"}
    assert set(table.estimator[table.definition != "paper"]) == {"matched-target"}
    assert set(table.window[table.definition == "paper"]) == {0}
    assert set(table.window[table.definition == "windowed"]) == {6}
    rows: Any = table.itertuples()
    for row in rows:
        clean, ablated = _icl(folder, "clean", row), _icl(folder, row.method, row)
        for name, values in {"clean": clean, "ablated": ablated, "effect": ablated - clean}.items():
            assert getattr(row, name) == pytest.approx(values.mean(), abs=1e-5)
            margin = scipy.stats.t.ppf(0.975, 8) * values.std(ddof=1) / 3
            assert getattr(row, f"{name}_low") == pytest.approx(values.mean() - margin, abs=1e-5)
            assert getattr(row, f"{name}_high") == pytest.approx(values.mean() + margin, abs=1e-5)
            assert row.n_sequences == 9
            assert math.isnan(row.n_documents)  # one, which says nothing of others


def test_short_losses_are_those_of_the_saved_cuts(toy, found, folder):
    losses = pd.read_parquet(folder / "short_losses.parquet")
    study = found.matched["mean"]
    row = losses[losses.sequence == 4]
    tokens = torch.tensor([[0, *row.token]])
    assert tokens[0, study.early] == found.tokens[4, study.late]
    with torch.no_grad():
        logits = toy(tokens)[0]
    expected = -logits.log_softmax(-1)[torch.arange(len(row)), tokens[0, 1:]]
    assert row.clean.to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_saved_losses_are_those_of_the_saved_tokens(toy, found, folder):
    losses = pd.read_parquet(folder / "losses.parquet")
    assert list(losses.columns) == ["sequence", "position", "token", "clean", *METHODS]
    assert (losses.position.min(), losses.position.max()) == (1, 66)
    row = losses[losses.sequence == 4]
    tokens = torch.tensor([[0, *row.token]])
    with torch.no_grad():
        logits = toy(tokens)[0]
    expected = -logits.log_softmax(-1)[torch.arange(66), tokens[0, 1:]]
    assert row.clean.to_numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert torch.equal(found.tokens[4], tokens[0])


def test_controls_and_ranks_in_the_table(found, folder):
    table: Any = pd.read_csv(folder / "icl.csv")
    for definition, studies in found.definitions.items():
        for method, study in studies.items():
            rows = table[(table.definition == definition) & (table.method == method)]
            tested, controls = rows[rows.kind == "tested"].iloc[0], rows[rows.kind == "control"]
            assert len(controls) == tested.n_controls == len(study.controls) == 2
            assert tested["rank"] == 1 + (controls.effect >= tested.effect).sum() == study.rank
            assert (controls.ablated - controls.clean - controls.effect).abs().max() < 1e-9
            assert {str(heads) for heads in controls.heads} == {
                f"{head.layer}.{other}"
                for head in found.studied
                for other in range(3)
                if other != head.head
            }


def test_heads_table_holds_the_scores_of_score_heads(toy, found, folder):
    table: Any = pd.read_csv(folder / "heads.csv")
    scores: Any = score_heads(toy, text=found.tokens)
    for name, one in scores.items():
        assert table[name].tolist() == pytest.approx(one.values.flatten().tolist(), abs=1e-5)
    assert table.induction_null.tolist() == pytest.approx(
        scores["induction"].null.flatten().tolist(), abs=1e-5
    )
    assert table.effect_alone.tolist() == pytest.approx(found.effects.values.flatten().tolist())
    assert not table.is_induction_head.any()
    assert table.knocked_out.sum() == 1


def test_effect_of_each_head_alone_is_that_of_the_study_of_one_head(found):
    [head] = found.studied
    assert found.effects[head] == pytest.approx(found.windowed["mean"].effect.value, abs=1e-5)


def _alone(toy, of_report, head, n):
    """How the ICL score of each of the first `n` sequences changes without a head."""
    study = of_report.windowed["mean"]
    early, late, half = study.early, study.late, study.window
    options = {"early": early, "late": late, "n_controls": 0, "progress": False}
    alone = ablate(toy, [head], of_report.tokens[:n], **options)
    long = (alone.ablated_losses - alone.clean_losses).double().numpy()
    short = (alone.short_losses[1] - alone.short_losses[0]).double().numpy()
    changes = (short[:, early - half : early + half + 1], long[:, late - half : late + half + 1])
    return changes[1].mean(axis=1) - changes[0].mean(axis=1)


def test_summary_has_the_largest_effect_of_a_head_with_its_interval(toy, found, monkeypatch):
    changes = {
        head: _alone(toy, found, head, 9) for head in map(Head, (0, 0, 0, 1, 1, 1), (0, 1, 2) * 2)
    }
    best = max(changes, key=lambda head: changes[head].mean())
    critical = scipy.stats.t.ppf((1 + 0.95 ** (1 / 6)) / 2, 9 - 1)  # of six heads
    mean, margin = float(changes[best].mean()), critical * changes[best].std(ddof=1) / 3
    middle, low, high = (sentences.number(float(x)) for x in (mean, mean - margin, mean + margin))
    said = f"{best} weakens in-context learning most: {middle} [{low}, {high}]"
    assert f"knocked out one at a time, {said}" in found.summary


def test_json_says_what_the_tables_say(found, folder):
    content = json.loads((folder / "report.json").read_text())
    table: Any = pd.read_csv(folder / "icl.csv")
    assert [row["effect"] for row in content["icl"]] == pytest.approx(table.effect.tolist())
    heads = pd.read_csv(folder / "heads.csv")
    assert [row["induction"] for row in content["heads"]] == pytest.approx(heads.induction.tolist())
    assert content["induction_heads"] == []
    assert content["knocked_out"] == [str(head) for head in found.studied]
    assert content["summary"] == found.summary
    control = next(row for row in content["icl"] if row["kind"] == "control")
    assert control.get("ablated_low") is None


def test_the_circuit_is_found_and_its_induction_does_the_in_context_learning(of_circuit):
    assert of_circuit.heads == of_circuit.studied == (Head(1, 0),)
    assert of_circuit.why == "induction"
    assert of_circuit.scores["induction"]["1.0"] == pytest.approx(1, abs=1e-3)
    study = of_circuit.windowed["mean"]
    assert study.clean.value < -10
    assert study.ablated.value == pytest.approx(0, abs=0.2)
    assert study.rank == 1
    assert of_circuit.effects["0.0"] > 10  # without the previous-token head there is no induction
    assert of_circuit.effects["1.1"] == pytest.approx(0, abs=1e-4)


# --- models that need a case of their own ------------------------------------------------------


def test_without_induction_heads_the_strongest_candidate_is_studied_and_named(found):
    [candidate] = [head for head, _ in found.scores["induction"].top(1)]
    assert (found.heads, found.studied, found.why) == ((), (candidate,), "strongest")
    assert found.headline.endswith("has no head that passes as an induction head")
    assert (
        f"head {candidate} (the strongest candidate, knocked out for comparison)" in found.summary
    )
    assert f"strongest candidate, {candidate}, puts 0." in found.summary


def test_without_a_tokenizer_losses_are_on_repeated_random_tokens(of_circuit):
    assert not of_circuit.is_text
    assert of_circuit.tokens.shape == (9, 40)  # BOS and three copies of 13
    assert torch.equal(of_circuit.tokens[:, 1:14], of_circuit.tokens[:, 14:27])
    assert "has no tokenizer" in of_circuit.notes[0]
    assert "put tokenizer.json beside the weights" in html.unescape(of_circuit.to_html())
    assert of_circuit.example.tokens[0] == "BOS"
    assert of_circuit.example.tokens[1:] == tuple(map(str, of_circuit.example.ids[1:].tolist()))


@pytest.mark.parametrize(
    ("seq_len", "options", "expected", "said"),
    [
        (512, {}, (50, 500, 10), False),
        (2048, {}, (50, 500, 10), False),
        (511, {}, (50, 500, 10), False),
        (510, {}, (49, 499, 10), True),
        (128, {}, (11, 117, 10), True),
        (41, {}, (5, 36, 4), True),
        (3, {}, (1, 2, 0), True),
        (512, {"late": 300}, (30, 300, 10), False),
        (512, {"early": 20}, (20, 500, 10), False),
        (512, {"window": 0}, (50, 500, 0), False),
        (511, {"copy": 170}, (50, 500, 10), False),
        (40, {"copy": 13}, (3, 38, 1), True),
        (501, {"copy": 20}, (18, 498, 2), True),
    ],
)
def test_positions_are_the_papers_where_they_fit(seq_len, options, expected, said):
    positions, notes = positions_and_notes(seq_len, **options)
    assert dataclasses.astuple(positions) == expected
    assert bool(notes) == said
    assert all(f"positions {expected[0]} and {expected[1]}" in note for note in notes)


def test_a_short_context_is_said_on_the_page(found):
    study = found.studies["zero"]
    assert (study.early, study.late, study.window) == (7, 60, 0)
    assert any("positions 7 and 60" in note for note in found.notes)
    assert "How this report differs from the usual one" in found.to_html()


@pytest.mark.parametrize(
    ("heads", "n_controls", "note"),
    [
        ("1.0 1.1", 0, "There are no controls: heads 1.0 and 1.1 take up more than half"),
        ("0.2", 2, "Only 2 control sets of the 20 asked for"),
    ],
)
def test_missing_controls_are_said(toy, heads, n_controls, note):
    asked = report(toy, text=TEXT, heads=heads.split(), methods=["zero"], **QUICK)
    assert asked.why == "chosen"
    assert list(asked.studies) == ["zero"]
    assert len(asked.studies["zero"].controls) == n_controls
    assert (asked.studies["zero"].rank is None) == (n_controls == 0)
    assert any(sentence.startswith(note) for sentence in asked.notes)
    assert "(named by the caller)" in asked.summary
    page_text = html.unescape(asked.to_html())
    assert note in page_text
    if n_controls == 0 and asked.windowed["zero"].effect.excludes_zero():
        assert "no control to compare to" in page_text or "stronger" in page_text


def test_no_controls_asked_for_is_nothing_to_say():
    assert sentences.notes_on_controls([Head(0, 1)], 0, 7) == ()
    assert sentences.notes_on_controls([Head(0, 1)], 7, 7) == ()
    assert "Only one control set of the 7" in sentences.notes_on_controls([Head(0, 1)], 7, 1)[0]


def test_token_sequences_are_taken_as_they_are(toy, found):
    given = found.tokens[:5, :33]
    again = report(toy, text=given, methods=["mean"], window=2, **QUICK)
    assert torch.equal(again.tokens, given)
    clean = per_token_loss(toy, given)
    assert torch.allclose(again.clean_losses[:, 1:], clean[:, 1:], atol=1e-5)
    assert (again.windowed["mean"].early, again.windowed["mean"].late) == (3, 30)
    assert "text=..." in again.card["Command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": []}, "expected methods to be at least one of .*, got none"),
        ({"methods": ["meen"]}, "did you mean 'mean'"),
        ({"heads": ["2.0"]}, "0.0 to 1.2"),
        ({"n_sequences": 1}, "n_sequences to be a whole number of at least 2, got 1"),
        ({"n_controls": -1}, "n_controls to be a whole number from 0 to"),
        ({"threshold": float("inf")}, "threshold to be a finite number, got inf"),
        ({"seed": -1}, "seed to be a whole number from 0 to"),
        ({"early": 0}, "early to be a whole number of at least 1, got 0"),
        ({"methods": ["mean", "mean"]}, "name mean once"),
        ({"late": 80}, "inside the model's context"),
        ({"early": 60, "late": 40}, "early < late"),
        ({"window": -1}, "window to be a whole number of at least 0, got -1"),
        ({"text": "too short"}, "got enough for 0; ask for shorter ones, or add"),
        ({"text": torch.zeros(3, 90, dtype=torch.long)}, "at most 67"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(toy, options, message):
    with pytest.raises(ValueError, match=message):
        report(toy, **{"text": TEXT, **QUICK, **options})


def test_what_was_not_measured_is_no_finding(found):
    def unmeasured(scores: HeadScores) -> HeadScores:
        nothing = torch.full_like(scores.values, math.nan)
        note = "no token comes twice in these sequences"
        return HeadScores(scores.name, nothing, sem=nothing, null=nothing, note=note)

    names = ("induction", "previous_token")
    scores = {n: unmeasured(s) if n in names else s for n, s in found.scores.items()}
    empty = dataclasses.replace(found, scores=ScoreTable(scores), heads=())
    assert sentences.headline(empty).endswith(": induction was not measured")
    assert sentences.summary(empty)[0] == (
        "No head was found to do induction, because it was not measured: "
        "no token comes twice in these sequences."
    )
    assert sentences.notes_on_scores(empty.scores) == (
        "The previous token score was not measured: no token comes twice in these sequences.",
        "The induction score was not measured: no token comes twice in these sequences.",
    )
    assert all(row["induction"] is None for row in empty.to_dict()["heads"])
    rows = page._heads_table(empty).rows
    assert {row[1:3] for row in rows} == {("–", "–")}
    assert not any("nan" in cell for row in rows for cell in row)
    merits = page._figures_of_merit(empty)[:2]
    assert {merit[1:] for merit in merits} == {("–", "not measured")}
    assert "was not measured" in page.render(empty)
    assert sentences.number(math.nan) == "–"


def test_a_context_too_short_for_anything_is_refused():
    with pytest.raises(ValueError, match="three copies of random tokens"):
        evaluation_data(_toy(tokenizer=False, n_ctx=5))
    with pytest.raises(ValueError, match="longer context"):
        positions_and_notes(2)


def test_a_file_in_the_way_is_refused(found, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="name another"):
        found.save(tmp_path / "taken")


def test_a_large_model_runs_what_is_compared_in_bfloat16(toy, found, monkeypatch):
    """Scores and the tested heads' effects do not change, and the page says what does."""
    quick = dict(text=TEXT, methods=["zero", "mean"], **QUICK)
    exact = report(toy, **quick)
    module = importlib.import_module("induction_lens.reports.model.making")
    monkeypatch.setattr(module, "compares_in_bfloat16", lambda model: True)
    rough = report(toy, **quick)
    assert any("were run in bfloat16" in note for note in rough.notes)
    assert not any("bfloat16" in note for note in exact.notes)
    assert (list(exact.losses_everywhere), list(rough.losses_everywhere)) == (
        ["zero", "mean"],
        ["mean"],
    )
    ours, its = rough.studies["zero"], exact.studies["zero"]
    assert 0 < abs(ours.effect.value - its.effect.value) < 0.02
    assert rough.losses_frame()["zero"].isna().any()
    ours, its = rough.studies["mean"], exact.studies["mean"]
    assert ours.effect == its.effect
    pairs = zip(ours.controls, its.controls, strict=True)
    differences = [abs(a.effect.value - b.effect.value) for a, b in pairs]
    assert 0 < max(differences) < 0.02
    assert (rough.effects.values - exact.effects.values).abs().max() < 0.02


def test_shares_are_in_percent_with_a_true_minus_and_no_minus_zero():
    assert percent(Estimate(0.964, 0.955, 0.972)) == "96% [96, 97]"
    assert percent(Estimate(-0.001, -0.18, 0.004)) == "0% [−18, 0]"
    assert percent(Estimate(0.5, -math.inf, math.inf)) == "50%"
    assert percent(Estimate(0.01, 0.004, 0.02)) == "1% [0.4, 2]"


@pytest.mark.parametrize(
    ("ends", "brackets"),
    [
        ((-0.4, -0.2), "[−0.40, −0.20]"),
        ((-0.4, -0.003), "[−0.40, −0.003]"),
        ((-0.4, -0.005), "[−0.40, −0.01]"),
        ((0.00004, 0.002), "[+0.00004, +0.002]"),
        ((-0.4, 0.003), "[−0.40, 0.00]"),
        ((-0.003, 0.4), "[0.00, +0.40]"),
        ((0.0, 0.4), "[0.00, +0.40]"),
    ],
)
def test_an_interval_that_excludes_0_shows_that_it_does(ends, brackets):
    assert shown(Estimate(0.1, *ends)) == f"+0.10 {brackets}"


# --- plan --------------------------------------------------------------------------------------


def _plan(**changes: Any) -> plan.Plan:
    costs = plan.Costs(2.0, tested=1.5, other=1.0, control=0.5, alone=0.25, layers=1.2, slopes=3.0)
    sizes = dict(n_sequences=256, n_controls=20, n_methods=4, n_controlled=1, n_heads=144)
    return plan.Plan(**sizes | changes, costs=costs)


def test_a_plan_counts_passes_and_seconds():
    made = _plan(n_sequences=10, n_heads=12)
    # clean, and once for what heads put out; four methods; 20 controls; single heads
    assert made.n_passes == 10 * (2 + 4 + 20) + 10 * 12
    assert made.seconds == 10 * (2 * 2.0 + 1.5 + 3 * 1.0 + 20 * 0.5) + 10 * 12 * 0.25 + 45 * 1.2
    # the first sixteen for all heads, and the rest for the eight that may be the strongest
    few = _plan(n_sequences=20, n_heads=12)
    assert few.n_passes == 20 * (2 + 4 + 20) + 16 * 12 + 4 * 8
    # of many heads, the first order on 64 sequences at most, and then eight may do for a head
    assert _plan(n_sequences=20).n_passes == 20 * (2 + 4 + 20) + 16 * 144 + 4 * 8 + 20
    many = _plan(n_sequences=100)
    assert many.n_passes == 100 * (2 + 4 + 20) + 16 * 144 + 84 * 8 + 64
    assert (many.n_alone, few.n_alone) == (8, 16)
    exact = 100 * (2 * 2.0 + 1.5 + 3 * 1.0 + 20 * 0.5) + (16 * 144 + 84 * 8) * 0.25 + 45 * 1.2
    assert many.seconds == exact + 64 * 3.0
    # all decided on the first sequences: eight of heads and controls
    least = 100 * (2 * 2.0 + 1.5 + 3 * 1.0) + 8 * 20 * 0.5 + 8 * 144 * 0.25 + 45 * 1.2
    assert many.least_seconds == least + 64 * 3.0


def test_a_budget_cuts_sequences_and_then_controls():
    whole = _plan()
    assert whole.within(None) == whole.within(whole.least_seconds) == whole
    fewer = whole.within(whole.least_seconds - 1)
    assert (fewer.n_sequences, fewer.n_controls) == (192, 20)
    fewer = whole.within(1000.0)
    assert (fewer.n_sequences, fewer.n_controls) == (48, 20)
    assert fewer.least_seconds <= 1000.0 < replace_sequences(fewer, 64).least_seconds
    least = whole.within(1.0)
    assert (least.n_sequences, least.n_alone, least.n_controls) == (16, 8, 0)
    assert "the least that a report can do" in least.announcement(1.0)
    assert _plan(n_sequences=5).within(1.0).n_sequences == 5


def replace_sequences(made, n):
    return dataclasses.replace(made, n_sequences=n)


def test_only_long_work_is_announced(toy):
    assert _plan(n_sequences=2, n_controls=0).seconds > 60
    said = _plan().announcement(None)
    assert said.startswith(
        "About 46 minutes, at most 1.7 hours: 256 sequences, 20 controls, single heads on 8 "
    )
    costs = plan.Costs(*[1e-4] * 7)
    assert dataclasses.replace(_plan(), costs=costs).announcement(None) is None
    assert [plan.spoken(s) for s in (0.2, 40.0, 400.0, 9000.0)] == [
        *("1 seconds", "40 seconds", "7 minutes", "2.5 hours")
    ]


def test_a_report_within_a_budget_says_what_it_measured(toy, capsys):
    small = report(toy, text=TEXT, methods=["mean"], budget=1e-6, n_sequences=20, progress=False)
    assert (len(small.tokens), small.n_alone) == (16, 16)
    assert small.studies["mean"].controls == ()
    assert "n_controls=0, n_sequences=16" in small.card["Command"]
    assert capsys.readouterr().err == ""
    for wrong in ("soon", "0m", -1, True, "5d"):
        with pytest.raises(ValueError, match="budget to be a time above zero"):
            report(toy, text=TEXT, budget=wrong)


def test_a_report_that_ends_early_says_so(toy):
    options = dict(text=TEXT, methods=["mean"], n_controls=2, n_sequences=20, progress=False)
    precise = report(toy, precision=1e3, **options)
    assert (len(precise.tokens), precise.studies["mean"].effect.n) == (16, 16)
    assert "n_controls=2, n_sequences=16" in precise.card["Command"]
    [note] = [note for note in precise.notes if note.startswith("Measured on 16 of 20 sequences")]
    assert "as narrow as was asked for" in note
    whole = report(toy, precision=1e-6, **options)
    assert len(whole.tokens) == 20
    assert not any("Measured on" in note for note in whole.notes)
    for wrong in (0, -0.1, math.inf):
        with pytest.raises(ValueError, match="precision to be a finite number above 0"):
            report(toy, precision=wrong, **options)


def test_large_models_are_measured_on_fewer_sequences(toy, monkeypatch):
    assert evaluation.default_n_sequences(toy) == 256
    monkeypatch.setattr(properties, "_LARGE", 10_000)  # the toy has 12 * 2 * 24**2 = 13,824
    assert evaluation.default_n_sequences(toy) == 64


@pytest.mark.parametrize(
    ("given", "expected"), [(None, None), (90, 90), ("90", 90), ("1.5m", 90), ("2h", 7200)]
)
def test_times_are_read_as_people_write_them(given, expected):
    assert checks.seconds("budget", given) == expected


# --- words -------------------------------------------------------------------------------------


def _study(value: float, low: float, high: float, *, rank: int | None, n: int = 0) -> AblationStudy:
    losses = torch.zeros(9, 3)
    losses[:, 2] = -0.5 + 0.01 * torch.arange(-4, 5)
    after = losses.clone()
    after[:, 2] += value + 0.02 * torch.tensor([1, -1, 2, -2, 0, 1, -1, 2, -2])
    return AblationStudy(
        heads=(Head(1, 0),),
        method="mean",
        early=1,
        late=2,
        window=0,
        estimator="paper",
        clean=Estimate(-0.5, -0.6, -0.4, 9),
        ablated=Estimate(-0.5 + value, -0.5 + low, -0.5 + high, 9),
        effect=Estimate(value, low, high, 9),
        controls=(Control((Head(1, 1),), Estimate(0.0, 0.0, 0.0, 9)),) * n,
        rank=rank,
        clean_losses=losses,
        ablated_losses=after,
        control_heads=(),
        control_losses=losses[None][:0],
        short_losses=None,
        documents=None,
    )


_HALF = "50% of it [45%, 55%]"  # the t interval of the change: 0.25 ± 2.306 · 0.0105


@pytest.mark.parametrize(
    ("study", "clause", "share"),
    [
        (
            _study(0.25, 0.1, 0.4, rank=1, n=3),
            "weakens it as much, though 3 are too few to rule out chance",
            _HALF,
        ),
        (
            _study(0.25, 0.1, 0.4, rank=1, n=1),
            "the one control set weakens it less",
            _HALF,
        ),
        (
            _study(0.25, 0.1, 0.4, rank=3, n=4),
            "more without 2 of the 4 control sets",
            _HALF,
        ),
        (_study(0.25, 0.1, 0.4, rank=None), "no control to compare to", _HALF),
        (_study(0.25, -0.1, 0.4, rank=1, n=3), "does not tell this change from none", ""),
        (_study(-0.25, -0.4, -0.1, rank=4, n=3), "is stronger without them", ""),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval_and_the_rank(study, clause, share):
    assert clause in sentences.verdict(study)
    assert sentences.share(study) == share


@pytest.mark.parametrize(("n", "said"), [(3, "1 of 4 (p = 0.25)"), (19, "1 of 20 (p = 0.05)")])
def test_a_rank_has_the_p_value_that_the_controls_allow(n, said):
    study = _study(0.25, 0.1, 0.4, rank=1, n=n)
    assert sentences.rank_text(study) == said
    assert ("too few to rule out chance" in sentences.verdict(study)) == (n == 3)
    assert study.p_value == 1 / (1 + n)


def test_numbers_in_sentences():
    assert sentences.number(-0.314) == "−0.31"
    assert sentences.number(0.314, signed=False) == "0.31"
    assert sentences.number(-0.001) == sentences.number(0.001) == "0.00"
    assert sentences.shown(Estimate(-0.5, -0.625, 0.25, 3)) == "−0.50 [−0.62, +0.25]"
    assert sentences.shown(Estimate(-0.5, -math.inf, math.inf, 1)) == "−0.50"
    assert sentences.heads_text([Head(1, 0), Head(2, 3), Head(2, 4)]) == "heads 1.0, 2.3 and 2.4"
    assert sentences.heads_text([Head(0, i) for i in range(11)]).endswith("0.7 and 3 more")


def test_the_summary_quotes_the_study(of_circuit):
    study = of_circuit.windowed["mean"]
    assert of_circuit.headline == "This model has one induction head: 1.0"
    assert "head 1.0 puts 1.00 of its attention" in of_circuit.summary
    change = f"it is {sentences.shown(study.ablated)}, a change of {sentences.shown(study.effect)}"
    assert change in of_circuit.summary
    assert sentences.shown(of_circuit.studies["mean"].clean) in of_circuit.summary
    many = dataclasses.replace(of_circuit, heads=tuple(Head(1, h) for h in (0, 1)), name="two")
    assert many.headline == "two has 2 induction heads"
    assert "head 1.0 puts 1.00, 1.1 puts 0.00 of its attention" in many.summary


def test_the_main_method_is_mean_or_the_first(of_circuit):
    assert of_circuit.main_method == "mean"
    only = {"resample": of_circuit.studies["resample"]}
    assert (
        dataclasses.replace(of_circuit, studies=only, matched=only, windowed=only).main_method
        == "resample"
    )


# --- page --------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Every tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._inside = "", [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data


def test_the_page_asks_nothing_of_the_network(found):
    text = found.to_html()
    parsed = _Page(text)
    assert not [attributes for _, attributes in parsed.tags if "src" in attributes]
    links = [a["href"] for _, a in parsed.tags if "href" in a]
    assert "data:," in links
    assert all(link == "data:," or link.startswith("#") for link in links)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert text.count("* plotly.js v") == 1


def test_the_saved_page_leads_to_every_head_on_its_passage(found, folder):
    parsed = _Page((folder / "index.html").read_text())
    links = [a["href"] for tag, a in parsed.tags if tag == "a" and a["href"][0] != "#"]
    shown = [head for head, _ in found.scores["induction"].top(page.TOP)]
    assert links == ["attention.html", *(f"attention.html#{head}" for head in shown)]
    assert [a["data-view"] for _, a in parsed.tags if "data-view" in a] == ["attention.html"]
    view = found.attention
    assert len(view.heads) == found.scores["induction"].values.numel()
    assert view.ids.tolist() == found.example.ids.tolist()
    torch.testing.assert_close(view[found.example.head].pattern, found.example.pattern)
    assert (folder / "attention.html").read_text() == view.html


def test_every_figure_on_the_page_is_the_figure_of_its_result(found):
    parsed = _Page(found.to_html())
    figures = {
        attributes["data-figure"]: None
        for _, attributes in parsed.tags
        if "data-figure" in attributes
    }
    scripts = [json.loads(s) for s in parsed.scripts if s.startswith('{"data"')]
    by_id = dict(zip(figures, scripts, strict=True))
    assert set(figures) == {f"map-{name}" for name in found.scores} | {
        *("icl-windowed", "icl-matched", "icl-paper", "loss", "cost", "effects", "attention"),
    }
    places = {a["id"] for _, a in parsed.tags if a.get("class") == "figure"}
    assert places == set(figures)
    induction = by_id["map-induction"]["data"][0]["z"]
    assert [cell for row in induction for cell in row] == pytest.approx(
        found.scores["induction"].values.flatten().tolist()
    )
    clean = next(trace for trace in by_id["icl-paper"]["data"] if trace["y"] == ["clean"])
    assert clean["x"] == [found.studies["zero"].clean.value]


def test_text_from_a_model_is_escaped_everywhere(found):
    evil = "<script>alert(1)</script>"
    example = Example(
        found.example.head,
        (evil, "</style>", "&amp;", *found.example.tokens[3:]),
        found.example.ids,
        found.example.pattern,
    )
    card = {**found.card, "Model": f"{evil}<b>"}
    text = dataclasses.replace(
        found, example=example, name=evil, card=card, notes=(evil,)
    ).to_html()
    parsed = _Page(text)
    plain = _Page(found.to_html())
    assert [tag for tag, _ in parsed.tags].count("script") == len(
        [tag for tag, _ in plain.tags if tag == "script"]
    )
    assert "alert(1)</script>" not in text
    assert f"{evil} has no head that passes" in parsed.text
    data = next(json.loads(s) for s in parsed.scripts if s.startswith('{"start"'))
    assert data["tokens"][:3] == [evil, "</style>", "&amp;"]


def test_the_token_strip_holds_the_pattern_and_its_targets(of_circuit):
    shown = page._example(of_circuit.example)
    ids = of_circuit.example.ids.tolist()
    for query in range(1, len(ids)):
        expected = [k for k in range(2, query + 1) if ids[k - 1] == ids[query]]
        assert shown["targets"][query] == expected
        assert sum(shown["weights"][query]) == pytest.approx(100, abs=3)
        on_targets = sum(shown["weights"][query][key] for key in expected)
        assert on_targets == pytest.approx(100 if expected else 0, abs=1)
    assert shown["targets"][shown["start"]]


def test_the_passage_is_text_with_repeats_and_no_boundary_in_it(toy, found):
    ids = found.example.ids.tolist()
    assert len(ids) == 56
    assert ids[0] == 0
    assert 0 not in ids[1:]
    rows = [row.tolist() for row in found.tokens]
    assert any(ids[1:] == row[i : i + 55] for row in rows for i in range(1, 13))
    data = Data(found.tokens, True, "", Positions(7, 60, 6), ())
    pattern = example_of(toy, Head(1, 2), data).pattern
    with torch.no_grad():
        _, cache = toy.run_with_cache(found.example.ids[None])
    assert torch.allclose(pattern, cache["blocks.1.attn.hook_pattern"][0, 2], atol=1e-5)


def test_white_space_is_visible():
    assert page.visible("a b\n\t") == "a·b⏎⇥"
    assert page.visible("") == "∅"


def test_large_models_get_a_map_of_effects_and_rows_for_their_induction_heads(found):
    values = torch.linspace(0, 1, 60).view(5, 12)
    scores = ScoreTable(
        {name: HeadScores(name, values) for name in ("induction", "previous_token")}
    )
    effects = HeadScores("effect", values, unit="nats")
    heads = tuple(scores["induction"].above(0.8))
    large = dataclasses.replace(found, scores=scores, effects=effects, heads=heads)
    frame = large.heads_frame()
    assert "effect_alone_sem" not in frame
    assert frame.effect_alone.tolist() == values.flatten().tolist()
    assert frame.is_induction_head.sum() == 12
    assert len(heads) == 12
    table = page._heads_table(large)
    assert [row[0] for row in table.rows] == [str(head) for head in heads]
    assert table.rows[0][2] == "–"
    assert table.strong == tuple(range(12))
    assert json.loads(page._effects(large).json)["data"][0]["type"] == "heatmap"
    assert "and 4 more above 0.3" in large.summary


def test_a_notebook_shows_the_page_in_a_frame(found):
    shown = found._repr_html_()
    [(tag, attributes)] = _Page(shown).tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == page.render(found, static=True)
    assert len(shown) < 300_000


# --- card --------------------------------------------------------------------------------------


def test_the_card_names_model_data_seeds_and_versions(found):
    assert found.card["Losses on"] == (
        "9 sequences of 67 tokens: text passed by the caller, of which 8,068 tokens were read"
    )
    assert found.card["ICL score"] == "positions 7 and 60; windowed: ±6"
    assert "d_model 24" in found.card["Shape"]
    assert f"torch {torch.__version__}" in found.card["Versions"]
    assert found.card["Seed"] == "0"
    assert found.card["Run"] == "layer by layer"


def test_the_card_says_where_the_text_is_from():
    assert evaluation._about(None).startswith("held-out")
    assert evaluation._about([Path("a.txt"), "b"]) == "text from a.txt, b"
    assert evaluation._about("one text\nof two lines") == "text passed by the caller"


@pytest.mark.parametrize("name", zoo_names())
def test_the_card_of_a_shipped_model_tells_its_training(name):
    tokens = zoo().set_index("name").training_tokens[name]
    assert card._training(name)["Training"].startswith(f"{tokens / 1e6:.1f}M tokens; Python")
    assert card._training(f"a/{name}") == {}


def test_defaults_are_the_same_in_python_on_the_command_line_and_on_the_card():
    python = {k: p.default for k, p in inspect.signature(report).parameters.items()}
    shell = {k: p.default for k, p in inspect.signature(report_command).parameters.items()}
    for option, default in card._DEFAULTS.items():
        assert python[option] == default
        assert shell[option.removeprefix("n_")] == default


def test_the_command_names_what_differs_from_the_defaults():
    options = {**card._DEFAULTS, "heads": None, "methods": METHODS}
    assert card.command("toy-2l", text=None, options=options) == "induction-lens report toy-2l"
    options |= {"heads": (Head(1, 2), Head(0, 1)), "methods": ["zero", "mean"], "n_controls": 5}
    assert card.command("my model", text="a b.txt", options=options) == (
        "induction-lens report 'my model' --text 'a b.txt' --heads 1.2,0.1 "
        "--method zero --method mean --controls 5"
    )
    assert card.command("custom", text=None, options=options) == (
        "induction_lens.report(model, heads=['1.2', '0.1'], methods=['zero', 'mean'], n_controls=5)"
    )


@pytest.mark.parametrize(
    "text",
    [
        pd.Series(["one line", "another line"]),
        ["one line", "another line"],
        iter(["one line"]),
        pd.DataFrame({"text": ["a.txt"]}),
        TextSource("org/name", revision="old"),
        "two\nlines",
    ],
)
def test_no_command_names_texts_that_only_python_has(text):
    options = {**card._DEFAULTS, "heads": None, "methods": METHODS}
    said = card.command("toy-2l", text=text, options=options)
    assert said == "induction_lens.report(model, text=...)"


def test_a_page_takes_the_place_of_no_other_page(tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "index.html").write_text(page_head())
    assert pages.page_folder(ours) == ours
    assert pages.page_folder(tmp_path / "new") == tmp_path / "new"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "index.html").write_text("<!doctype html><title>My thesis</title>")
    with pytest.raises(ValueError, match=r"got .*theirs, which has another index\.html; name anot"):
        pages.page_folder(theirs)
    kept = HeadScores("mine", torch.zeros(2, 3)).save(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"got .*kept, which is a saved result; name another, suc"):
        pages.page_folder(kept)


def page_head() -> str:
    """How every page begins."""
    return (pages.TEMPLATES / "base.html").read_text("utf-8")
