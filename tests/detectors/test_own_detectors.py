"""Detectors are objects: the built-in ones against plain loops, and users' own beside them."""

from __future__ import annotations

import dataclasses
import json
import math

import pandas as pd
import pytest
import torch
from markupsafe import escape

import induction_lens as il
from induction_lens.detectors import (
    BUILT_IN,
    DETECTORS,
    INDUCTION,
    AttentionDetector,
    CopyingDetector,
    Detector,
    target_mask,
)
from induction_lens.toys.model import ToyConfig, build_toy, set_weights, toy_weights

BY_ATTENTION = [one for one in BUILT_IN if isinstance(one, AttentionDetector)]
ROADS = ["pattern", "streaming"]


def _toy(implementation=None, **changes):
    config = dict(n_layers=2, d_model=30, n_heads=3, d_head=14, d_vocab=53, n_ctx=41, seed=1)
    return build_toy(ToyConfig(**config | changes), implementation=implementation, device="cpu")


def _sequences(n=5, length=23, n_ids=7, lowest=0):
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randint(lowest, lowest + n_ids, (n, length), generator=generator)
    drawn[:, 0] = lowest
    return drawn


def _is_target(name, x, q, k):
    """The definitions of the page on scores, position by position."""
    match name:
        case "previous_token":
            return q >= 2 and k == q - 1
        case "duplicate_token":
            return 1 <= k < q and x[k] == x[q]
        case "induction":
            return 2 <= k <= q and x[k - 1] == x[q]
        case "two_back":
            return q >= 3 and k == q - 2
        case "larger":
            return 1 <= k < q and x[k] > x[q]


def _loop(name, tokens):
    """A mask by three nested loops."""
    places = range(tokens.shape[1])
    rows = tokens.tolist()
    return torch.tensor(
        [[[_is_target(name, x, q, k) for k in places] for q in places] for x in rows]
    )


def _by_loop(name, **options):
    """A detector of the same targets as lists of places, found by the loops."""
    return AttentionDetector(
        f"own_{name}", lambda tokens: _loop(name, tokens).nonzero(as_tuple=True), **options
    )


def two_back(tokens):
    n_rows, n_pos = tokens.shape
    row = torch.arange(n_rows).repeat_interleave(max(n_pos - 3, 0))
    query = torch.arange(3, max(n_pos, 3)).repeat(n_rows)
    return row, query, query - 2


def larger(tokens):
    """Earlier tokens with a larger id, which depends on tokens in another way than by equality."""
    seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril(-1)
    seen[:, 0] = False
    return (seen & (tokens[:, None, :] > tokens[:, :, None])).nonzero(as_tuple=True)


TWO_BACK = AttentionDetector(
    "two_back",
    two_back,
    title="Two <b>back</b>",
    caption="Attention on the token before the previous one & nothing else.",
    by_content=False,
    unmeasured="no token has two others than BOS before it",
)
LARGER = AttentionDetector("larger", larger)


# --- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", BY_ATTENTION, ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("n", "length", "n_ids", "lowest"),
    [(5, 23, 7, 0), (3, 17, 2, 0), (2, 13, 5, -3), (3, 11, 4, 50), (3, 2, 5, 0), (2, 1, 5, 0)],
)
def test_a_built_in_mask_equals_three_nested_loops(detector, n, length, n_ids, lowest):
    tokens = _sequences(n, length, n_ids, lowest)
    expected = _loop(detector.name, tokens)
    for given in (detector, detector.name):
        mask = target_mask(tokens, given)
        assert (mask.dtype, mask.shape) == (torch.bool, (n, length, length))
        assert torch.equal(mask, expected)
    for dtype in (torch.int32, torch.int8):
        assert torch.equal(detector.mask(tokens.to(dtype)), expected)


@pytest.mark.parametrize("detector", [TWO_BACK, LARGER], ids=lambda one: one.name)
def test_the_mask_of_an_own_detector_equals_three_nested_loops(detector):
    tokens = _sequences()
    mask = detector.mask(tokens)
    assert torch.equal(mask, _loop(detector.name, tokens))
    assert torch.equal(target_mask(tokens, detector), mask)
    assert mask.any()


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ROADS)
@pytest.mark.parametrize("detector", BY_ATTENTION, ids=lambda one: one.name)
def test_a_built_in_detector_under_another_name_has_the_same_scores(
    detector, attention, implementation
):
    model, tokens = _toy(implementation), _sequences()
    copy = dataclasses.replace(detector, name="the_same")
    by_loop = _by_loop(detector.name, by_content=detector.by_content)
    table = il.score_heads(
        model,
        tokens=tokens,
        detectors=[by_loop, detector.name, copy],
        attention=attention,
        batch_size=2,
        progress=False,
    )
    assert list(table) == [detector.name, by_loop.name, "the_same"]
    expected, exact, close = (table[name] for name in (detector.name, "the_same", by_loop.name))
    for field in ("values", "sem", "null"):
        one = getattr(expected, field)
        if field == "null":
            assert (one is None) == (not detector.by_content)
        if one is not None:
            assert torch.equal(one, getattr(exact, field))
            torch.testing.assert_close(one, getattr(close, field), atol=1e-6, rtol=0)
        else:
            assert getattr(exact, field) is getattr(close, field) is None
    for field in ("uniform", "ceiling", "unit", "note"):
        assert getattr(expected, field) == getattr(exact, field)
    assert close.uniform == pytest.approx(expected.uniform)
    assert exact.name == "the_same"


@pytest.mark.parametrize("attention", ROADS)
def test_own_scores_equal_a_loop_over_the_pattern(attention, implementation):
    model, tokens = _toy(implementation), _sequences()
    table = il.score_heads(
        model,
        tokens=tokens,
        detectors=[LARGER, TWO_BACK],
        attention=attention,
        batch_size=2,
        progress=False,
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for name, scores in table.items():
        mask = _loop(name, tokens)
        counted = mask.any(-1)
        for layer in range(2):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
            for head in range(3):
                mass = (pattern[:, head] * mask).sum(-1)[counted]
                assert scores.values[layer, head].item() == pytest.approx(
                    mass.mean().item(), abs=1e-5
                )
        shares = mask.sum(-1) / torch.arange(1, 24)
        assert scores.uniform == pytest.approx(shares[counted].mean().item(), abs=1e-6)
    assert table["two_back"].null is None
    assert table["larger"].null is not None


def test_a_head_that_looks_two_back_scores_one(implementation):
    """Set by hand: position p asks for position p - 2, whatever is there."""
    model = _toy(implementation, d_model=64, d_head=32, n_ctx=31, positions="standard")
    weights = {name: torch.zeros_like(weight) for name, weight in toy_weights(model).items()}
    weights["pos_embed.W_pos"][:, :31] = torch.eye(31)
    for position in range(3, 31):
        weights["blocks.0.attn.W_Q"][1, position, position - 2] = 3.0
    weights["blocks.0.attn.W_K"][1, :31, :31] = 3 * torch.eye(31)
    set_weights(model, weights)
    detectors = [TWO_BACK, "previous_token"]
    table = il.score_heads(model, tokens=_sequences(5, 29), detectors=detectors, progress=False)
    assert table["two_back"]["0.1"] == pytest.approx(1, abs=1e-4)
    assert table["two_back"].above(0.3) == [il.Head(0, 1)]
    assert table["previous_token"]["0.1"] < 0.05


def test_what_is_about_positions_is_scored_on_text_where_there_is_some():
    model, tokens, text = _toy(), _sequences(), _sequences(4, 31, 50)
    options = dict(attention="pattern", progress=False)
    detectors = [TWO_BACK, LARGER, "previous_token"]
    both = il.score_heads(model, tokens=tokens, text=text, detectors=detectors, **options)
    on_text = il.score_heads(model, tokens=text, detectors=detectors, **options)
    on_tokens = il.score_heads(model, tokens=tokens, detectors=detectors, **options)
    for name, other in (
        ("two_back", on_text),
        ("previous_token", on_text),
        ("larger", on_tokens),
    ):
        torch.testing.assert_close(both[name].values, other[name].values)
        assert both[name].uniform == pytest.approx(other[name].uniform)


def test_an_own_detector_is_in_tables_and_figures_like_the_others():
    table = il.score_heads(_toy(), tokens=_sequences(), detectors=[LARGER, "induction", "copying"])
    assert list(table) == ["induction", "copying", "larger"]
    frame = table.to_frame()
    assert frame["larger"].tolist() == pytest.approx(table["larger"].values.flatten().tolist())
    assert [title.text for title in table.plot().layout.annotations] == list(table)
    one = table["larger"].to_frame()
    numbers = ["score", "sem", "null", "over_null", "over_null_sem"]
    assert list(one.columns) == ["model", "layer", "head", *numbers]


@pytest.mark.parametrize("attention", ROADS)
def test_an_own_detector_without_targets_is_not_measured(attention):
    short = torch.tensor([[0, 5, 6]])
    plain = AttentionDetector("plain", two_back)
    table = il.score_heads(
        _toy(), tokens=short, detectors=[TWO_BACK, plain], attention=attention, progress=False
    )
    assert table["two_back"].note == "no token has two others than BOS before it in these sequences"
    assert table["plain"].note == "no query has a target in these sequences"
    for scores in table.values():
        assert scores.values.isnan().all()
        assert scores.above(-1.0) == []


def test_one_detector_needs_no_list():
    alone = il.score_heads(_toy(), tokens=_sequences(), detectors=LARGER, progress=False)
    assert list(alone) == ["larger"]


# --- objects -----------------------------------------------------------------------------------


def test_the_registry_describes_every_built_in_detector():
    assert DETECTORS == (
        "previous_token",
        "induction",
        "duplicate_token",
        "copying",
        "copying_weights",
    )
    for detector in BUILT_IN:
        assert detector.title != ""
        assert detector.caption.endswith(".")
    assert [one.name for one in BUILT_IN if one.outlines_induction_heads] == ["induction"]
    assert [one.name for one in BUILT_IN if one.reads_patterns] == ["copying"]
    table = il.score_heads(_toy(), tokens=_sequences(), progress=False)
    assert [scores.unit for scores in table.values()] == [one.unit for one in BUILT_IN]


def test_a_title_is_made_from_the_name():
    assert AttentionDetector("two_back", two_back).title == "Two back"
    assert AttentionDetector("_", two_back).title == "_"
    assert TWO_BACK.title == "Two <b>back</b>"


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("two back", "a word of ASCII letters, digits and underscores, got 'two back'"),
        ("2_back", "got '2_back'"),
        ("", "got ''"),
        ("zwei_zurück", "got 'zwei_zurück'"),
        ("a,b", "for instance 'two_back'"),
        (3, "expected name to be a text, got 3"),
        ("layer", "which are other columns, got 'layer'"),
        ("knocked_out", "got 'knocked_out'"),
        ("induction_sem", "got 'induction_sem'"),
    ],
)
def test_a_name_that_is_no_word_or_another_column_is_refused(name, got):
    with pytest.raises(ValueError, match=got):
        AttentionDetector(name, two_back)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    "changes",
    [{"targets": "two_back"}, {"title": 3}, {"caption": None}, {"by_content": "no"}],
    ids=str,
)
def test_a_detector_of_wrong_parts_is_refused(changes):
    with pytest.raises(ValueError, match=f"expected {next(iter(changes))} to be "):
        dataclasses.replace(TWO_BACK, **changes)


def _returning(change):
    """The targets of induction, changed."""
    return AttentionDetector("mine", lambda tokens: change(*INDUCTION.targets(tokens)))


LISTS = r"expected the targets of mine to be three int64 tensors \[target\] of one length, got "


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("attention", ROADS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, q, k: (r, q), LISTS + r"a Tensor of torch.int64 and shape \[\d+\], a Tensor"),
        (lambda r, q, k: None, LISTS + "None; return rows, queries and keys"),
        (lambda r, q, k: (), LISTS + "nothing"),
        (lambda r, q, k: (r, q, k, k), LISTS),
        (lambda r, q, k: (r, q, k.tolist()), LISTS),
        (lambda r, q, k: (r, q, k[1:]), LISTS),
        (lambda r, q, k: (r, q, k[:, None]), LISTS),
        (lambda r, q, k: (r, q, k.float()), LISTS + ".*torch.float32"),
        (lambda r, q, k: (r.int(), q, k), LISTS + ".*torch.int32"),
        (lambda r, q, k: (r, q, k > 3), LISTS + ".*torch.bool"),
        (lambda r, q, k: torch.stack([r, q, k]), LISTS),
        (lambda r, q, k: (r + 3, q, k), "to be in rows 0 to 4, got key .* in row 5; rows are"),
        (lambda r, q, k: (r - 1, q, k), "to be in rows 0 to 4, got key .* in row -1;"),
        (lambda r, q, k: (r, q + 9, k), "to be of queries 0 to 22, got key .* of query [23]"),
        (lambda r, q, k: (r, q - 9, k), "to be of queries 0 to 22, got key .* of query -"),
        (lambda r, q, k: (r, k, q + 1), "to be keys up to their query, got key .*; no head sees"),
        (lambda r, q, k: (r, q, k - 2), "to be keys from 1 up, got key 0 of query .*BOS"),
        (lambda r, q, k: (r, q, k - 9), "to be keys from 1 up, got key (0|-)"),
        (
            lambda r, q, k: tuple(torch.cat([x, x[4:5]]) for x in (r, q, k)),
            "to be different ones, got key .* more than once; list it once",
        ),
    ],
)
def test_targets_that_no_query_sees_are_refused(change, message, attention):
    model, tokens = _toy(), _sequences()
    if "row 5" in message:  # the default batch holds all five rows
        change_rows = change
        change = lambda r, q, k: change_rows(r.clamp(min=2), q, k)  # noqa: E731
    detector = _returning(change)
    for call in (
        lambda: detector.mask(tokens),
        lambda: il.score_heads(
            model, tokens=tokens, detectors=[detector], attention=attention, progress=False
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_place_that_is_named_is_the_one_that_comes_twice():
    places = torch.tensor([0, 1, 1, 1]), torch.tensor([7, 9, 8, 9]), torch.tensor([2, 5, 5, 5])
    twice = AttentionDetector("twice", lambda tokens: places)
    with pytest.raises(ValueError, match="got key 5 of query 9 in row 1 more than once"):
        twice.mask(_sequences())


def test_attention_to_itself_is_a_target_like_another():
    """Induction has such targets too, where a token comes twice in a row."""

    def diagonal(tokens):
        row, place = (tokens >= 0).nonzero(as_tuple=True)
        kept = place >= 1
        return row[kept], place[kept], place[kept]

    itself = AttentionDetector("itself", diagonal, by_content=False)
    model, tokens = _toy(), _sequences()
    scores = il.score_heads(model, tokens=tokens, detectors=[itself], progress=False)["itself"]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for layer in range(2):
        on_itself = cache[f"blocks.{layer}.attn.hook_pattern"].diagonal(0, 2, 3)[..., 1:]
        torch.testing.assert_close(scores.values[layer], on_itself.mean((0, 2)))


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        (["inductoin", TWO_BACK], "got 'inductoin'; did you mean 'induction'"),
        ([TWO_BACK, dataclasses.replace(LARGER, name="two_back")], "got two two_back; name two_b"),
        ([TWO_BACK, TWO_BACK], "expected detectors to be of different names, got two two_back"),
        (["induction", INDUCTION], "got two induction"),
        ([dataclasses.replace(TWO_BACK, name="copying")], "no name of a built-in detector, got"),
        ([3], "one of previous_token, .*, or an AttentionDetector, got 3"),
        ([two_back], "or an AttentionDetector, got a function"),
        ([torch.zeros(2)], "or an AttentionDetector, got a Tensor"),
        ([Detector("mine")], "or an AttentionDetector, got a Detector"),
        ([CopyingDetector("mine", from_weights=True)], "an AttentionDetector, got a Copying"),
        ([], "got none"),
    ],
)
def test_a_list_of_detectors_that_is_none_is_refused(detectors, message):
    with pytest.raises(ValueError, match=message):
        il.score_heads(_toy(), tokens=_sequences(), detectors=detectors)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        (["induction"], "to be own detectors, got 'induction'; the built-in ones are always"),
        ([INDUCTION], "to be own detectors, got induction"),
        ([TWO_BACK, TWO_BACK], "got two two_back"),
        ([dataclasses.replace(TWO_BACK, name="induction")], "no name of a built-in detector"),
        (3, "expected detectors to be a list or another sequence, got 3"),
        (None, "got None"),
    ],
)
def test_a_report_takes_own_detectors_alone(detectors, message):
    with pytest.raises(ValueError, match=message):
        il.report(_toy(), detectors=detectors, progress=False)


# --- the report --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    options = dict(methods=["mean"], n_controls=1, n_sequences=3, progress=False)
    return il.report(_toy(), detectors=[TWO_BACK, LARGER], **options)


def test_a_report_measures_own_detectors_beside_the_built_in_ones(found):
    assert list(found.scores) == [*DETECTORS, "two_back", "larger"]
    expected = il.score_heads(_toy(), detectors=[TWO_BACK, LARGER], progress=False)
    for name, scores in expected.items():
        torch.testing.assert_close(found.scores[name].values, scores.values, atol=1e-6, rtol=0)


def test_a_report_shows_own_detectors_on_its_page(found):
    page = found.to_html()
    for detector in (*BUILT_IN, *found.own_detectors):
        assert f"<h3>{escape(detector.title)}</h3>" in page
        assert f"<figcaption>{escape(detector.caption)}</figcaption>" in page
        assert f'id="map-{detector.name}"' in page
        assert f"{escape(detector.title.lower())}</th>" in page or detector is INDUCTION
    assert "<b>back</b>" not in page
    head = found.scores["induction"].top(1)[0][0]
    row = page.split(f">{head}</th>")[1].split("</tr>")[0]
    assert f"{found.scores['two_back'][head]:.2f}" in row


def test_a_report_saves_the_scores_of_own_detectors(found, tmp_path):
    found.save(tmp_path)
    table = pd.read_csv(tmp_path / "heads.csv")
    heads = json.loads((tmp_path / "report.json").read_text())["heads"]
    for name in ("two_back", "larger"):
        values = found.scores[name].values.flatten().tolist()
        assert table[name].tolist() == pytest.approx(values)
        assert [head[name] for head in heads] == pytest.approx(values)
        assert all(math.isfinite(value) for value in table[f"{name}_sem"])
    assert "larger_null" in table
    assert "two_back_null" not in table


def test_the_card_names_the_call_and_not_a_command_that_leaves_them_out(found):
    assert "detectors=[two_back, larger]" in found.card["Command"]
    assert found.card["Command"].startswith("induction_lens.report(model,")
