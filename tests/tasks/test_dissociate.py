"""Which heads carry what: known on the hand-set circuit, and on losses that are set by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import induction_lens as il
from induction_lens import cli
from induction_lens.heads import Head
from induction_lens.reports.dissociation import about, headline, save_dissociation, summary
from induction_lens.tasks import (
    Dissociation,
    Extent,
    FewShot,
    KnockedOut,
    LiteralHeads,
    Lost,
    PatternHeads,
    dissociate,
    literal_copying,
    rank_correlation,
    same_heads,
)
from tests.tasks.material import key_task, speaking_circuit
from tests.tasks.test_kinds import PASSAGES

EXTENT = Extent(shots=4, n_items=12, n_controls=5)


@pytest.fixture(scope="module")
def found():
    model = speaking_circuit()
    text = il.repeated_random_tokens(model, n_tokens=10, n_repeats=4, n_sequences=12)
    announced = []
    result = dissociate(
        model,
        key_task(),
        text,
        kinds=["induction", PatternHeads(key_task(), n_lines=9, n_prompts=6)],
        methods=["zero", "mean", "resample", "pattern-preserving"],
        extent=EXTENT,
        announce=announced.append,
    )
    assert len(announced) == 1
    assert 0 < announced[0] < 600
    return result


# The hand-set circuit


def test_both_kinds_are_one_head_which_carries_both_kinds_of_learning(found):
    assert found.heads == {"induction": (Head(1, 0),), "pattern": (Head(1, 0),)}
    assert found.overlap == {("induction", "pattern"): (Head(1, 0),)}
    assert found.main_method == "mean"
    assert [one.lost.method for one in found.knocked_out[:4]] == [
        *("zero", "mean", "resample", "pattern-preserving"),
    ]
    assert found.few_shot[0].accuracy.value == 1
    for one in found.knocked_out:
        assert one.lost.icl.low > 0
        assert one.lost.few_shot.low > 0
        assert one.lost.few_shot_share.value == pytest.approx(1, abs=0.4)
        assert not one.without_overlap  # nothing is left
    assert found.contrasts == ()


def test_random_sets_carry_nothing(found):
    one = found.of("induction")
    assert {lost.heads for lost in one.controls} == {(Head(1, 1),), (Head(1, 2),)}
    for lost in one.controls:
        assert lost.icl.value == pytest.approx(0, abs=1e-4)
        assert lost.few_shot.value == 0
    assert one.exceeds_controls("icl")
    assert one.exceeds_controls("few_shot")
    assert any("2 control sets for 1.0" in note for note in found.notes)


def test_the_numbers_are_those_of_ablate_and_few_shot(found):
    model = speaking_circuit()
    text = il.repeated_random_tokens(model, n_tokens=10, n_repeats=4, n_sequences=12)
    at = il.metrics.choose_positions(41, window=10)
    where = {"early": at.early, "late": at.late, "window": at.window}
    study = il.ablate(model, "1.0", text, method="zero", n_controls=0, **where)
    ours = found.knocked_out[0].lost
    assert ours.icl.value == pytest.approx(study.effect.value, abs=1e-5)
    assert (ours.icl.low, ours.icl.high) == pytest.approx(
        (study.effect.low, study.effect.high), abs=1e-5
    )
    assert ours.icl_share.value == pytest.approx(study.share.value, abs=1e-5)
    asked = il.tasks.few_shot(model, key_task(), shots=4, n_items=12, heads="1.0", method="zero")
    assert ours.few_shot.value == pytest.approx(-asked.effect.value)


def test_tables_and_figure(found, tmp_path):
    frame = found.to_frame()
    assert len(frame) == 2 * 4 + 2 * 2
    tested = frame[~frame["is_control"]]
    assert tested["icl_rank"].dropna().tolist() == [1, 1]
    assert len(found.plot().data) == 3
    page = save_dissociation(found, tmp_path / "out", same=_same())
    text = page.read_text(encoding="utf-8")
    assert "Induction heads: 1.0" in text
    assert "The same heads?" in text
    assert len(pd.read_csv(page.parent / "sets.csv")) == len(frame)
    assert pd.read_csv(page.parent / "same-heads.csv")["literal_passes"].tolist() == [True]
    assert "pattern" in repr(found)


def test_a_page_is_written_whole_or_not_at_all(found, tmp_path, monkeypatch):
    out = tmp_path / "out"
    save_dissociation(found, out, same=_same())
    names = {"index.html", *(f"{name}.csv" for name in ("sets", "tasks", "scores"))}
    assert {path.name for path in out.iterdir()} == names | {"same-heads.csv", "correlations.csv"}
    save_dissociation(found, out)  # no table of the earlier one stays beside it
    assert {path.name for path in out.iterdir()} == names
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def broken(*arguments, **options):
        raise RuntimeError("no page")

    with monkeypatch.context() as patched:
        patched.setattr("induction_lens.reports.dissociation.dissociation_page", broken)
        for folder in (out, tmp_path / "new"):
            with pytest.raises(RuntimeError, match="no page"):
                save_dissociation(found, folder)
    assert not (tmp_path / "new").exists()

    def cut_off(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # the file is there, under its temporary name
        patched.setattr("induction_lens.files.os.replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            save_dissociation(found, out)
    found_after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {name: found_after[name] for name in names} == before


def test_a_model_that_can_nothing_has_no_heads_of_any_kind():
    config = il.toys.ToyConfig(n_layers=2, d_model=32, n_heads=3, d_head=8, d_vocab=29, n_ctx=41)
    model = il.toys.build_toy(config, device="cpu")
    model.tokenizer = speaking_circuit().tokenizer
    text = il.repeated_random_tokens(model, n_tokens=10, n_repeats=4, n_sequences=8)
    result = dissociate(model, key_task(), text, kinds=["induction"], methods="mean", extent=EXTENT)
    assert result.heads == {"induction": ()}
    assert result.knocked_out == ()
    assert result.of("induction") is None
    assert not result.tasks_done
    assert len(result.to_frame()) == 0
    said = summary(result)
    assert said == [
        "On none of 1 tasks is the model told from chance, so that what heads carry of few-shot "
        "accuracy cannot be measured on them."
    ]
    assert headline(result).startswith("No heads of these kinds")


# Losses set by hand


def lost(heads, icl, right, *, spread=0.1, n=40):
    noise = spread * torch.linspace(-1, 1, n)
    items = (torch.arange(n) < round(right * n)).float()
    above = (torch.arange(n) % 4 > 0).float() - 0.25
    return Lost(tuple(map(Head.parse, heads)), "mean", icl + noise, 1 + noise, None, items, above)


def by_hand(first, second, shared=()):
    heads = {"induction": first.heads, "function_vector": second.heads}
    zeros = torch.zeros(2, 4)
    scores = il.ScoreTable({name: il.HeadScores(name, zeros) for name in heads})
    sets = [KnockedOut("induction", False, first), KnockedOut("function_vector", False, second)]
    clean = torch.ones(40)
    clean[:10] = 0
    return Dissociation(
        model="by hand",
        scores=scores,
        heads=heads,
        few_shot=(FewShot("a task", 10, "first-token", 0.25, clean),),
        icl=il.Estimate(-1.0, -1.1, -0.9),
        knocked_out=(*sets, *shared),
        main_method="mean",
    )


def test_a_double_dissociation_is_told():
    result = by_hand(lost(["0.0"], 0.6, 0.0), lost(["1.0"], 0.0, 0.5))
    [contrast] = result.contrasts
    assert contrast.icl.value == pytest.approx(0.6)
    assert contrast.few_shot.value == pytest.approx(-0.5)
    assert contrast.icl.confidence == pytest.approx(1 - 0.05 / 2)
    assert contrast.is_double
    assert headline(result).startswith("Two kinds of in-context learning")
    assert any("heads dissociate: without" in sentence for sentence in summary(result))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.6, 0.5), (0.0, 0.0)),  # one carries both
        ((0.6, 0.1), (0.0, 0.15)),  # accuracy does not differ enough
        ((0.02, 0.0), (0.0, 0.5)),  # nor does the ICL score
    ],
)
def test_what_intervals_do_not_allow_is_not_claimed(first, second):
    result = by_hand(lost(["0.0"], *first), lost(["1.0"], *second, spread=-0.3))
    assert not result.contrasts[0].is_double
    said = " ".join(summary(result))
    assert "are not shown to dissociate" in said
    assert "heads dissociate" not in said


def test_contrasts_are_without_shared_heads():
    both = lost(["0.0", "0.1"], 0.6, 0.2)
    alone = KnockedOut("induction", True, lost(["0.0"], 0.3, 0.0))
    result = by_hand(both, lost(["0.1", "1.0"], 0.1, 0.4), shared=(alone,))
    assert result.overlap["induction", "function_vector"] == (Head(0, 1),)
    assert result.contrasts[0].icl.value == pytest.approx(0.2)


def test_sentences_on_what_is_not_told_from_zero():
    nothing = KnockedOut("induction", False, lost(["0.0"], 0.0, 0.0))
    assert about(nothing).count("changes by no amount that is told from zero") == 2
    more = KnockedOut(
        "induction", False, lost(["0.0"], 0.5, 0.3), (lost(["0.1"], 0.6, 0.0, spread=0.0),)
    )
    assert "rank 2 among itself and 1 random set of" in about(more)
    assert "more than without any of 1 random set of" in about(more)
    better = KnockedOut("induction", False, lost(["0.0"], -0.5, 0.0))
    assert "The ICL score gains" in about(better)


# The same heads


def _same():
    model = speaking_circuit()
    kinds = [LiteralHeads(literal_copying(PASSAGES)), PatternHeads(key_task(), 9, 6)]
    return same_heads(model, kinds=kinds)


def test_the_circuits_head_copies_and_completes_patterns():
    same = _same()
    assert same.strict == (Head(1, 0),)
    [row] = same.to_frame().to_dict("records")
    assert row["literal"] == pytest.approx(1, abs=1e-3)
    assert row["pattern"] == pytest.approx(1, abs=1e-3)
    assert row["literal_passes"]
    assert row["pattern_passes"]
    assert same.correlations[0].rho > 0.5
    assert set(same.correlations_frame()["first"]) == {"induction", "literal"}


def test_rank_correlations_are_scipys_and_depth_alone_is_no_evidence():
    import scipy.stats

    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 8, generator=generator)
    by_depth = torch.tensor([[0.0], [5.0], [10.0]])
    scores = [
        il.HeadScores(name, values + by_depth, null=by_depth.expand(3, 8))
        for name, values in (("a", a), ("b", b))
    ]
    found = rank_correlation(*scores)
    expected = scipy.stats.spearmanr((a + by_depth).flatten(), (b + by_depth).flatten()).statistic
    assert found.rho == pytest.approx(float(expected))
    assert found.rho > 0.8
    assert found.p_value > 0.05  # within layers they have nothing to do with each other
    assert found.rho_null == pytest.approx(1)
    assert found.p_over_null > 0.05
    assert found.rho_over_null == pytest.approx(
        float(scipy.stats.spearmanr(a.flatten(), b.flatten()).statistic)
    )
    same = rank_correlation(scores[0], scores[0])
    assert same.p_value < 0.01
    flat = il.HeadScores("flat", torch.zeros(3, 8))
    assert math.isnan(rank_correlation(scores[0], flat).rho)


def test_bad_calls_are_refused():
    model = speaking_circuit()
    with pytest.raises(ValueError, match="tasks of different names"):
        dissociate(model, [key_task(), key_task()])
    with pytest.raises(ValueError, match="did you mean 'induction'"):
        dissociate(model, key_task(), kinds=["inducton"])
    with pytest.raises(ValueError, match="expected n_items to be"):
        Extent(n_items=0)


@pytest.mark.slow
def test_the_command_writes_a_page(tmp_path):
    options = ["--items", "6", "--random", "1", "--texts", "4", "--tasks", "ABAB", "--shots", "2"]
    options += ["--kinds", "induction,pattern"]
    arguments = ["dissociate", "toy-2l-narrow", "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "At most about" in result.output
    assert (tmp_path / "out" / "index.html").is_file()
    told = CliRunner().invoke(cli.app, [*arguments, "--json", "--quiet"])
    assert json.loads(told.stdout)["sets"][0]["heads"] == "1.1"


def test_the_page_on_generality_has_the_numbers_that_were_measured():
    script = Path(__file__).parents[2] / "docs" / "scripts" / "write_arguments.py"
    spec = importlib.util.spec_from_file_location("write_arguments", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.plain_environment().get_template("generality.md").render()
    assert page == (module.PAGES / "generality.md").read_text(encoding="utf-8")
    [row, *_] = json.loads(module.GENERALITY.read_text())["toy-2l"]["lost"]
    assert f"ICL score loses {row['icl']:+.2f}" in page
