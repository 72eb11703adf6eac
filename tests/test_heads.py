from __future__ import annotations

import numpy as np
import pytest
import torch

from induction_lens.heads import Head, HeadScores, ScoreTable, parse_heads


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
    # 0.2 scores 0.4, but the same head scores up to 0.5 on shuffled tokens
    assert SCORES.above(0.3) == [Head(0, 1), Head(1, 2), Head(1, 0)]
    assert SCORES.above(0.7) == [Head(0, 1)]
    assert SCORES.chance("0.0") == pytest.approx(0.05)
    assert SCORES.chance("0.2") == pytest.approx(0.5)


def test_frames_carry_every_number():
    frame = SCORES.to_frame()
    assert frame.columns.tolist() == ["layer", "head", "score", "sem", "null"]
    row = frame[(frame["layer"] == 1) & (frame["head"] == 0)].iloc[0]
    assert row[["score", "sem", "null"]].tolist() == pytest.approx([0.35, 0.04, 0.0])
    table = ScoreTable({"induction": SCORES, "effect": HeadScores("e", -SCORES.values)})
    frame = table.to_frame()
    assert frame.columns.tolist() == ["layer", "head", "induction", "effect"]
    assert frame["effect"].tolist() == pytest.approx((-frame["induction"]).tolist())
    assert "0.35" in SCORES._repr_html_()
    assert HeadScores("e", SCORES.values, unit="nats").to_frame()["effect"].max() == pytest.approx(
        0.9
    )
    highest = "HeadScores(induction: 2 layers of 3 heads, highest 0.1 with 0.900)"
    assert repr(SCORES) == highest
    assert repr(table).splitlines()[:2] == ["ScoreTable", f"  {highest}"]
    assert "-0.35" in table._repr_html_()


def test_an_unknown_detector_names_those_there_are():
    with pytest.raises(KeyError, match="there are induction"):
        ScoreTable({"induction": SCORES})["copying"]


def test_the_heat_map_shows_the_values_on_their_own_scale():
    effect = HeadScores("effect", torch.tensor([[0.5, -2.0]]), unit="nats")
    heat = effect.plot().data[0]
    assert (heat.zmin, heat.zmax) == (-2.0, 2.0)
    assert heat.z[0][1] == -2.0
    heat = SCORES.plot().data[0]
    assert (heat.zmin, heat.zmax) == (0.0, 1.0)
    assert heat.z[1][2] == pytest.approx(0.6)
