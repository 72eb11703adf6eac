from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from induction_lens.heads import Head, HeadScores, ScoreTable, names_of, parse_heads


def test_a_head_prints_as_it_parses():
    assert str(Head(1, 6)) == "1.6"
    assert Head.parse("1.6") == Head.parse((1, 6)) == Head.parse(Head(1, 6)) == Head(1, 6)
    assert Head.parse(" 11.10 ") == Head(11, 10)


@pytest.mark.parametrize("wrong", ["1", "1.6.2", "1.-6", "L1H6", (1,), (1, -6), (1, "6")])
def test_what_is_no_head_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected a head such as '1\.6'"):
        Head.parse(wrong)


def test_one_head_or_several_are_read_alike():
    for heads in ("1.6", (1, 6), Head(1, 6), ["1.6"], [(1, 6)]):
        assert parse_heads(heads, n_layers=2, n_heads=7) == [Head(1, 6)]
    assert parse_heads(["1.6", (0, 3)], n_layers=2, n_heads=7) == [Head(0, 3), Head(1, 6)]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "at least one head, got none"),
        (["2.0"], r"from 0\.0 to 1\.6, got 2\.0"),
        (["0.7"], r"from 0\.0 to 1\.6, got 0\.7"),
        (["0.3", (0, 3)], r"each head once, got 0\.3"),
    ],
)
def test_bad_sets_of_heads_are_refused(heads, message):
    with pytest.raises(ValueError, match=message):
        parse_heads(heads, n_layers=2, n_heads=7)


@pytest.mark.usefixtures("_as_users_call")
def test_heads_of_other_types():
    for heads in (1.1, [1.1], 3, [None]):
        with pytest.raises(ValueError, match=r"expected a head such as '1\.6' or \(1, 6\), got "):
            parse_heads(heads, n_layers=2, n_heads=7)
    one, six = np.array([1, 6])
    assert parse_heads((one, six), n_layers=2, n_heads=7) == [Head(1, 6)]
    assert type(Head.parse((one, six)).head) is int


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("index", [-1, 1.0, True, "1", None, np.nan])
def test_a_head_counts_from_0_in_whole_numbers(index):
    for place in ((index, 0), (0, index)):
        with pytest.raises(ValueError, match=r"expected (layer|head) to be a whole number"):
            Head(*place)
    assert type(Head(np.int64(1), torch.tensor(2)).head) is int


SCORES = HeadScores(
    "induction",
    torch.tensor([[0.1, 0.9, 0.4], [0.35, 0.2, 0.6]]),
    ceiling=1.0,
    uniform=0.05,
    null=torch.tensor([[0.0, 0.1, 0.5], [0.0, 0.0, 0.0]]),
    sem=torch.tensor([[0.01, 0.02, 0.03], [0.04, 0.05, 0.06]]),
)


def test_top_is_sorted_and_carries_the_scores():
    assert [head for head, _ in SCORES.top(3)] == [Head(0, 1), Head(1, 2), Head(0, 2)]
    assert [score for _, score in SCORES.top(3)] == pytest.approx([0.9, 0.6, 0.4])
    assert SCORES["1.2"] == pytest.approx(0.6)


def test_above_asks_for_the_threshold_and_for_more_than_chance():
    # 0.2 scores 0.4, but the same head scores 0.5 on shuffled tokens
    assert SCORES.above(0.3) == [Head(0, 1), Head(1, 2), Head(1, 0)]
    assert SCORES.above(0.7) == [Head(0, 1)]
    assert SCORES.chance("0.0") == pytest.approx(0.05)
    assert SCORES.chance("0.2") == pytest.approx(0.5)


TESTED = HeadScores(
    "induction",
    torch.tensor([[0.4, 0.4, 0.4], [0.4, 0.4, 0.4]]),
    uniform=0.05,
    null=torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 0.39]]),
    over_null_sem=torch.tensor([[0.077, 0.079, math.inf], [0.01, 0.0, 0.0]]),
    n_sequences=7,
)


def test_the_test_against_the_null_knows_both_errors_and_how_many_heads_there_are():
    # each of six heads is tested at such a level that all six together pass at 97.5% (Šidák)
    of_one_head = 0.975 ** (1 / 6)
    n_errors = stats.t(df=6).ppf(of_one_head)
    assert TESTED.chance("0.0") == pytest.approx(0.1 + n_errors * 0.077)
    assert TESTED.chance("1.0") == pytest.approx(max(0.05, n_errors * 0.01))
    assert TESTED.chance("1.2") == pytest.approx(0.39)
    assert TESTED.chance("0.2") == math.inf  # of a single sequence no error is known
    # 0.3 above the null: 3.90 errors of 0.0, 3.80 of 0.1, where chance explains 3.85
    assert n_errors == pytest.approx(3.854, abs=1e-3)
    called = [Head(0, 0), Head(1, 0), Head(1, 1), Head(1, 2)]
    assert TESTED.above(0.3) == called
    unknown = dataclasses.replace(TESTED, n_sequences=None)
    n_errors = stats.norm.ppf(of_one_head)
    assert unknown.chance("0.0") == pytest.approx(0.1 + n_errors * 0.077)
    assert unknown.above(0.3) == [Head(0, 0), Head(0, 1), *called[1:]]


def test_frames_carry_every_number():
    frame = SCORES.to_frame()
    assert frame.columns.tolist() == ["layer", "head", "score", "sem", "null", "over_null"]
    row = frame[(frame["layer"] == 1) & (frame["head"] == 0)].iloc[0]
    assert row[2:].tolist() == pytest.approx([0.35, 0.04, 0.0, 0.35])
    assert TESTED.to_frame()["over_null_sem"].tolist()[:2] == pytest.approx([0.077, 0.079])
    table = ScoreTable({"induction": SCORES, "effect": HeadScores("e", -SCORES.values)})
    frame = table.to_frame()
    names = ["layer", "head", "induction", "induction_over_null", "effect"]
    assert frame.columns.tolist() == names
    assert frame["induction_over_null"].tolist() == pytest.approx([0.1, 0.8, -0.1, 0.35, 0.2, 0.6])
    assert frame["effect"].tolist() == pytest.approx((-frame["induction"]).tolist())
    assert "0.35" in SCORES._repr_html_()
    assert HeadScores("e", SCORES.values, unit="nats").to_frame()["effect"].max() == pytest.approx(
        0.9
    )
    highest = "HeadScores(induction: 2 layers of 3 heads, highest 0.1 with 0.900)"
    assert repr(SCORES) == highest
    assert repr(table).splitlines()[:2] == ["ScoreTable", f"  {highest}"]
    assert "-0.35" in table._repr_html_()


UNMEASURED = HeadScores("induction", torch.full((2, 3), torch.nan), note="no token comes twice")


def test_what_was_not_measured_says_so_and_finds_no_head():
    assert UNMEASURED.above(-5.0) == []
    assert all(math.isnan(score) for _, score in UNMEASURED.top(2))
    assert repr(UNMEASURED) == (
        "HeadScores(induction: 2 layers of 3 heads, not measured: no token comes twice)"
    )
    assert set(UNMEASURED.to_frame()["note"]) == {"no token comes twice"}
    assert UNMEASURED.to_frame()["score"].isna().all()
    frame = ScoreTable({"induction": UNMEASURED, "effect": SCORES}).to_frame()
    assert frame.attrs["notes"] == {"induction": "no token comes twice"}
    assert frame["induction"].isna().all()
    figure = UNMEASURED.plot()
    assert figure.layout.annotations[0].text == "not measured: no token comes twice"
    assert list(figure.data[0].z[0]) == [None, None, None]


def test_nan_ranks_behind_every_score():
    scores = HeadScores("mixed", torch.tensor([[torch.nan, -3.0, 2.0]]), unit="nats")
    assert [head for head, _ in scores.top(3)] == [Head(0, 2), Head(0, 1), Head(0, 0)]


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(6)}, r"expected values to be a tensor .*\[layer head\], got"),
        ({"values": torch.zeros(2, 3).int()}, "expected values to be a tensor"),
        ({"values": None}, "expected values to be a tensor"),
        ({"sem": torch.zeros(3, 2)}, r"expected sem to be of the shape of values, \[2, 3\]"),
        ({"over_null_sem": torch.zeros(6)}, "expected over_null_sem to be a tensor"),
        ({"n_sequences": 0}, "expected n_sequences to be a whole number of at least 1, got 0"),
        ({"null": torch.zeros(1, 3)}, "expected null to be of the shape of values"),
        ({"unit": "nat"}, r"did you mean 'nats'\?"),
        ({"uniform": float("nan")}, "expected uniform to be a finite number"),
    ],
)
def test_scores_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        HeadScores(**{"name": "e", "values": torch.zeros(2, 3), **change})


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("k", [0, -1, 2.0, None, True])
def test_top_takes_a_whole_number(k):
    with pytest.raises(ValueError, match="expected k to be a whole number of at least 1, got"):
        SCORES.top(k)


def test_a_table_is_of_one_model():
    other = HeadScores("copying", torch.zeros(1, 3))
    with pytest.raises(ValueError, match="expected scores to be of one model"):
        ScoreTable({"induction": SCORES, "copying": other})
    with pytest.raises(ValueError, match="expected scores to be those of at least one detector"):
        ScoreTable({})


def test_an_unknown_detector_names_those_there_are():
    with pytest.raises(KeyError, match="there are induction"):
        ScoreTable({"induction": SCORES})["copying"]
    with pytest.raises(KeyError, match=r"did you mean 'induction'\?"):
        ScoreTable({"induction": SCORES})["inductoin"]


def test_the_heat_map_shows_the_values_on_their_own_scale():
    effect = HeadScores("effect", torch.tensor([[0.5, -2.0]]), unit="nats")
    figure = effect.plot()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2.0, 2.0)
    assert figure.data[0].z[0][1] == -2.0
    figure = SCORES.plot()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.0, 1.0)
    assert figure.data[0].z[1][2] == pytest.approx(0.6)


def test_the_names_of_heads_in_one_line():
    assert names_of([Head(1, 2), "0.3", (0, 1)]) == "1.2, 0.3, 0.1"
    assert names_of([Head(1, 2), Head(0, 3)], between=" ") == "1.2 0.3"


@pytest.mark.usefixtures("_as_users_call")
def test_heads_may_come_with_their_scores():
    scores = HeadScores("mine", torch.tensor([[0.1, 0.2], [0.9, 0.4]]))
    best = scores.top(2)
    assert parse_heads(best, n_layers=2, n_heads=2) == [Head(1, 0), Head(1, 1)]
    assert parse_heads(best[0], n_layers=2, n_heads=2) == [Head(1, 0)]
    assert Head.parse(best[1]) == Head(1, 1)
    for given in (scores, ScoreTable({"mine": scores})):
        with pytest.raises(ValueError, match=r"got a .*; choose some with above\(\) or top\(\)"):
            parse_heads(given, n_layers=2, n_heads=2)
    for wrong in ((Head(0, 1), 1), (Head(0, 1), Head(1, 1), 0.5), ("0.1", 0.5)):
        with pytest.raises(ValueError, match="expected a head such as"):
            Head.parse(wrong)
