"""Models beside each other: differences by hand, pairing, correction, names, files, the page."""

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import induction_lens as il
from induction_lens.cli import app
from induction_lens.estimates import Estimate, bootstrap_mean, difference_of
from induction_lens.reports.comparison.page import pairing, summary
from induction_lens.suites.comparison import distinct_names

SOURCES = Path(il.__file__).parent / "ablation"
AT = {"early": 20, "late": 60, "window": 2}


@pytest.fixture(scope="module")
def studies():
    """Two models that read the same tokens, and one of them on other tokens."""
    found, texts = {}, il.inputs.texts_in(SOURCES)
    for name in ("toy-1l", "toy-2l-narrow"):
        model = il.load(name, device="cpu")
        text = il.sample_text(model, text=texts, n_sequences=12, seq_len=70)
        found[name] = il.ablate(model, "0.1", text, n_controls=1, progress=False, **AT)
    other = il.sample_text(model, text=texts, n_sequences=12, seq_len=70, seed=1)
    found["other"] = il.ablate(model, "0.1", other, n_controls=1, progress=False, **AT)
    return found


@pytest.fixture(scope="module")
def three(studies):
    return il.compare(studies.values())


def by_hand(study):
    """ICL scores by matched targets, in three loops: minus the loss of the same token in a cut
    that begins `late - early` later."""
    scores = []
    for run, losses in enumerate((study.clean_losses, study.ablated_losses)):
        rows = []
        for row in range(len(losses)):
            total = 0.0
            for offset in range(-study.window, study.window + 1):
                late = losses[row, study.late + offset].double()
                total += float(late - study.short_losses[run, row, study.early + offset].double())
            rows.append(total / (2 * study.window + 1))
        scores.append(torch.tensor(rows, dtype=torch.float64))
    return scores


def test_differences_are_those_by_hand(studies, three):
    one, two = studies["toy-1l"], studies["toy-2l-narrow"]
    level = 1 - 0.05 / 3
    mine, theirs = by_hand(one), by_hand(two)
    documents = one.documents[:, one.late]
    assert len(documents.unique()) >= 5
    expected = {
        "loss": one.clean_losses[:, 1:].double().mean(1) - two.clean_losses[:, 1:].double().mean(1),
        "icl": mine[0] - theirs[0],
        "effect": (mine[1] - mine[0]) - (theirs[1] - theirs[0]),
    }
    for quantity, values in expected.items():
        found = three.differences(quantity)[0]
        assert (found.first, found.second, found.paired) == ("toy-1l", "toy-2l-narrow", True)
        wanted = bootstrap_mean(values, documents=documents, confidence=level)
        for end in ("value", "low", "high"):
            got = getattr(found.difference, end)
            assert got == pytest.approx(getattr(wanted, end), abs=1e-5)
        assert found.difference.confidence == level
        assert found.difference.n_documents == len(documents.unique())


def test_other_tokens_are_independent(three):
    told = {(one.first, one.second): one for one in three.differences("icl")}
    pair = told["toy-1l", "toy-2l-narrow (2)"]
    assert not pair.paired
    level = 1 - 0.05 / 3
    pair_of = [three[name] for name in ("toy-1l", "toy-2l-narrow (2)")]
    first, second = (one.estimate("icl", confidence=level) for one in pair_of)
    assert pair.difference.value == pytest.approx(first.value - second.value)
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    assert pair.difference.value - pair.difference.low == pytest.approx(below)
    assert pair.difference.high - pair.difference.value == pytest.approx(above)
    assert pair.difference.n is None
    [said] = [line for line in pairing(three) if "independent" in line]
    assert "toy-1l and toy-2l-narrow (2); toy-2l-narrow and toy-2l-narrow (2)" in said
    paired = three.differences("loss")[0].difference
    first, second = (
        three[name].estimate("loss", confidence=level) for name in ("toy-1l", "toy-2l-narrow")
    )
    independent = math.hypot(first.high - first.low, second.high - second.low)
    assert paired.high - paired.low < independent  # pairing takes off what texts have in common


@pytest.mark.slow
def test_independent_differences_cover():
    """Of 300 differences of skewed means, the share of intervals that hold the truth."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(300):
        draws = [torch.randn(n, generator=generator).exp() for n in (40, 20)]
        estimates = [bootstrap_mean(values, n_resamples=400) for values in draws]
        found = difference_of(*estimates)
        held += found.low <= 0 <= found.high
    assert held / 300 > 0.93


def test_a_difference_is_of_like_numbers():
    one = Estimate(1.0, 0.5, 2.0)
    assert difference_of(one, one).value == 0
    with pytest.raises(ValueError, match="expected both estimates to be like"):
        difference_of(one, dataclasses.replace(one, confidence=0.9))
    assert difference_of(one, Estimate(0.0, -math.inf, math.inf)).high == math.inf


def test_the_best_is_named_only_if_told_from_all_others(studies):
    low = studies["toy-2l-narrow"]
    worse = dataclasses.replace(low, short_losses=low.short_losses - 0.5)  # context helps less
    assert il.compare([worse, low]).lowest("icl") == "toy-2l-narrow (2)"
    assert il.compare([low, worse, low]).lowest("icl") is None
    assert il.compare([low, low]).lowest("icl") is None
    said = summary(il.compare([worse, low]))
    assert said[0].startswith("No model's loss")
    assert said[1].startswith("toy-2l-narrow (2) gains most from context")


def test_only_like_scores_are_compared(studies):
    study = studies["toy-1l"]
    elsewhere = studies["toy-2l-narrow"].at(window=0)
    found = il.compare([study, elsewhere])
    assert [one.quantity for one in found.differences()] == ["loss"]
    assert "Left out are differences of scores at other positions" in pairing(found)[-1]
    by_zero = dataclasses.replace(studies["toy-2l-narrow"], method="zero")
    found = il.compare([study, by_zero])
    assert [one.quantity for one in found.differences()] == ["loss", "icl"]
    unknown = dataclasses.replace(studies["toy-2l-narrow"], provenance=None)
    assert not il.compare([study, unknown]).differences("loss")[0].paired


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["a/gpt2", "b/neox"], ["gpt2", "neox"]),
        (["runs/a/model", "runs/b/model", "toy"], ["runs/a/model", "runs/b/model", "toy"]),
        (["toy", "toy", "x/toy"], ["toy", "toy (2)", "x/toy"]),
        (["./"], ["./"]),
    ],
)
def test_names_are_short_where_they_differ(given, named):
    assert distinct_names(given) == named


def test_tables_scores_and_what_is_missing(studies, tmp_path):
    scores = il.score_heads(il.load("toy-2l-narrow", device="cpu"), detectors=["induction"])
    studies["toy-1l"].save(tmp_path / "study")
    found = il.compare([scores, scores["induction"], tmp_path / "study"])
    frame = found.to_frame()
    assert frame["model"].tolist() == ["toy-2l-narrow", "toy-2l-narrow (2)", "toy-1l"]
    assert frame["given"].tolist() == ["ScoreTable", "HeadScores", "AblationStudy"]
    assert frame["above"].tolist()[:2] == [len(scores["induction"].above(0.3))] * 2
    assert frame["strongest"].tolist()[0] == str(scores["induction"].top(1)[0][0])
    assert math.isnan(frame["loss"][0])
    study = studies["toy-1l"]
    loss = study.clean_losses[:, 1:].double().mean().item()
    assert frame["loss"][2] == pytest.approx(loss, abs=1e-6)
    assert frame["icl"][2] == pytest.approx(study.clean.value, abs=1e-6)
    assert frame["effect"][2] == pytest.approx(study.effect.value, abs=1e-6)
    assert frame["removed"][2] == study.share.value
    assert frame["weights"][2] == study.provenance.weights
    assert found.differences() == ()
    assert found.differences_frame().empty
    assert il.compare([found, scores]).models[0].name == "toy-2l-narrow"
    page = il.reports.save_comparison(found, tmp_path / "page").read_text()
    assert "How they differ" not in page


def test_a_comparison_is_a_result_with_a_page(three, tmp_path):
    three.save(tmp_path / "kept")
    again = il.suites.Comparison.load(tmp_path / "kept")
    assert again == three
    assert again.plot() == three.plot()
    assert repr(again).splitlines()[0] == "Comparison(3 models)"
    page = il.reports.save_comparison(three, tmp_path / "page")
    assert il.results.load(page.parent) == three
    models = pd.read_csv(page.parent / "models.csv")
    assert models["icl"].tolist() == pytest.approx(three.to_frame()["icl"].tolist())
    differences = pd.read_csv(page.parent / "differences.csv")
    assert differences["paired"].tolist() == [True, False, False] * 3
    text = page.read_text()
    assert "toy-1l, toy-2l-narrow and toy-2l-narrow (2)" in text
    assert "Bonferroni" in text
    assert "http" not in text.split("<script>")[0]
    with pytest.raises(KeyError, match=r"no model .toy-2l. here; did you mean .toy-2l-narrow"):
        three["toy-2l"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "expected models to be two or more, got none"),
        ("toy-1l", "expected two models or more to compare, got toy-1l alone"),
        ([3, "toy-1l"], "expected each of models to be a model"),
    ],
)
def test_bad_calls(models, said):
    with pytest.raises(ValueError, match=said):
        il.compare(models, n_sequences=4, n_controls=0, progress=False)


def test_the_caller_may_say_what_each_is_called(studies, three):
    one, two, other = studies.values()
    found = il.compare({"before": one, "after": two, "toy-1l": other})
    assert [model.name for model in found.models] == ["before", "after", "toy-1l"]
    unnamed = three.differences("icl")
    assert [d.difference for d in found.differences("icl")] == [d.difference for d in unnamed]
    within = il.compare({"those": three, "this": one})
    named = [f"those: {model.name}" for model in three.models]
    assert [model.name for model in within.models] == [*named, "this"]
    for wrong, said in (({3: one, "a": two}, "each name of models"), ({}, "two or more, got none")):
        with pytest.raises(ValueError, match=said):
            il.compare(wrong)


@pytest.mark.parametrize(
    ("second", "said"),
    [("toy-2", "did you mean 'toy-2l'"), (".", r"has no config\.json"), ("", "got ''")],
)
def test_a_name_that_is_wrong_is_found_before_the_work(second, said, monkeypatch):
    def work(*_, **__):
        raise LookupError("the work began")

    monkeypatch.setattr("induction_lens.reports.comparison.comparing._measured", work)
    with pytest.raises(ValueError, match=said):
        il.compare(["toy-1l", second])


def test_effects_are_no_induction_scores(studies):
    effects = il.HeadScores("effect", torch.zeros(1, 4), unit="nats")
    with pytest.raises(ValueError, match="expected scores of induction, got HeadScores"):
        il.compare([effects, studies["toy-1l"]])
    with pytest.raises(ValueError, match="expected no text with results"):
        il.compare(list(studies.values()), text="some text")


@pytest.mark.slow
def test_the_command_line(tmp_path):
    out = tmp_path / "out"
    options = ["--sequences", "2", "--controls", "1", "--quiet", "--text", str(SOURCES)]
    told = CliRunner().invoke(
        app, ["compare", "toy-1l", "toy-2l-narrow", *options, "--json", "-o", str(out)]
    )
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert said["headline"] == "toy-1l and toy-2l-narrow"
    assert [row["model"] for row in said["models"]] == ["toy-1l", "toy-2l-narrow"]
    assert all(row["paired"] for row in said["differences"])
    assert (out / "index.html").is_file()
    again = CliRunner().invoke(app, ["compare", str(out), str(out / "result"), "--quiet"])
    assert again.exit_code == 0, again.output
    assert "toy-1l (2)" in again.stdout
