"""What heads score whose attention is set by hand, on copies of one length and of several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

import induction_lens as il
from induction_lens.detectors import TargetMass, prompts
from induction_lens.inputs.tokens import shuffled
from induction_lens.models import PatternAttention

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "scores.md"
BACK = 24  # with copies of 25, a token's follower in the copy before is 24 tokens back
OFFSET_WEIGHT, BONUS, DIFFUSE_WEIGHT = 58.0, 1.35, 10.0
KINDS = ("offset", "gated offset", "nearest copy", "first copy", "sink", "uniform", "diffuse")


def planted(tokens):
    """Patterns [batch kind query_pos key_pos] of a head of each kind that reads these tokens."""
    patterns = torch.zeros(len(tokens), len(KINDS), *[tokens.shape[1]] * 2)
    for row, x in enumerate(tokens.tolist()):
        for q in range(len(x)):
            followers = [k for k in range(2, q + 1) if x[k - 1] == x[q]]
            weights = torch.zeros(len(KINDS), q + 1)
            gated, uniform, diffuse = (
                weights[KINDS.index(kind)] for kind in ("gated offset", "uniform", "diffuse")
            )
            for even in (gated, uniform, diffuse):
                even[:] = 1.0
            if q > BACK:
                weights[0, q - BACK] = 1.0
                gated[q - BACK] = OFFSET_WEIGHT
            gated[followers] *= BONUS
            diffuse[followers] = DIFFUSE_WEIGHT
            if followers:
                weights[KINDS.index("nearest copy"), followers[-1]] = 1.0
                weights[KINDS.index("first copy"), followers[0]] = 1.0
            weights[weights.sum(-1) == 0, 0] = 1.0  # what finds nothing rests on BOS
            patterns[row, :, q, : q + 1] = weights / weights.sum(-1, keepdim=True)
    return patterns


def by_hand(length, n_pos=101):
    """The score of each kind, summed over the queries of a sequence of copies of this length, and
    how many queries there are: all from the second copy on."""
    total, n_queries = dict.fromkeys(KINDS, 0.0), 0
    for q in range(length + 1, n_pos):
        n_earlier = (q - 1) // length
        distances = [copy * length - 1 for copy in range(1, n_earlier + 1)]
        hit = BACK in distances
        on_targets = BONUS * (n_earlier + hit * (OFFSET_WEIGHT - 1))
        elsewhere = q + 1 - n_earlier + (not hit and q > BACK) * (OFFSET_WEIGHT - 1)
        n_queries += 1
        total["offset"] += hit
        total["gated offset"] += on_targets / (on_targets + elsewhere)
        total["nearest copy"] += 1
        total["first copy"] += 1
        total["uniform"] += n_earlier / (q + 1)
        on_targets = DIFFUSE_WEIGHT * n_earlier
        total["diffuse"] += on_targets / (on_targets + q + 1 - n_earlier)
    return total, n_queries


@pytest.fixture(scope="module")
def model():
    config = il.toys.ToyConfig(n_layers=1, d_model=14, n_heads=7, d_vocab=311, n_ctx=101)
    return il.toys.build_toy(config, device="cpu")


@pytest.fixture(scope="module", params=["one length", "12 to 33"])
def measured(request, model):
    """Tokens, the lengths of their copies, and the planted heads' masses and scores."""
    tokens = prompts(model, one_length=request.param == "one length")
    lengths = [row[2:].index(row[1]) + 1 for row in tokens.tolist()]
    masses = []
    for read in (tokens, shuffled(tokens, seed=1)):
        mass = TargetMass(model, tokens, ["induction"])
        mass.begin(read, slice(0, len(tokens)))
        mass.look(0, PatternAttention(planted(read)))
        masses.append(mass)
    return request.param, lengths, masses, masses[0].scores("induction", null=masses[1])


def test_copies_are_as_long_as_the_prompts_say(measured):
    name, lengths, _, _ = measured
    if name == "one length":
        assert set(lengths) == {25}
    else:
        assert set(lengths) == set(range(12, 34))
        assert max(map(lengths.count, lengths)) == 2  # 32 sequences for 22 lengths


def test_planted_heads_score_what_their_construction_says(measured):
    _, lengths, _, scores = measured
    totals = [by_hand(length) for length in lengths]
    n_queries = sum(n for _, n in totals)
    for index, kind in enumerate(KINDS):
        expected = sum(total[kind] for total, _ in totals) / n_queries
        assert scores.values[0, index].item() == pytest.approx(expected, abs=1e-5), kind
    uniform = scores.values[0, KINDS.index("uniform")].item()
    assert scores.uniform == pytest.approx(uniform, abs=1e-6)


def test_what_goes_by_position_alone_scores_its_null_exactly(measured):
    _, _, _, scores = measured
    for kind in ("offset", "sink", "uniform"):
        index = KINDS.index(kind)
        assert scores.over_null[0, index] == 0
        assert scores.over_null_sem[0, index] == 0


def test_the_error_over_the_null_is_that_of_paired_sequences(measured):
    _, _, (seen, null), scores = measured
    difference = seen.by_sequence("induction") - null.by_sequence("induction")
    n_queries = torch.tensor([by_hand(length)[1] for length in measured[1]]).float()
    # of a ratio of sums: the differences of a sequence count with its queries
    weighted = (difference - scores.over_null[..., None]) * n_queries / n_queries.mean()
    expected = stats.sem(weighted, axis=-1)
    assert torch.allclose(scores.over_null_sem, torch.tensor(expected).float(), atol=1e-6)


def test_copies_of_several_lengths_unmask_the_gated_offset(measured):
    name, _, _, scores = measured
    called = {KINDS[head.head] for head in scores.above(0.3)}
    fooled = {"gated offset"} if name == "one length" else set()
    assert called == {"nearest copy", "first copy"} | fooled


def test_the_page_shows_what_planted_heads_score(measured):
    name, _, _, scores = measured
    page = PAGE.read_text(encoding="utf-8")
    for index, kind in enumerate(KINDS):
        [row] = [line for line in page.splitlines() if line.startswith(f"| {kind} ")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        shown = cells[2:4] if name == "one length" else cells[4:6]
        numbers = scores.values[0, index], scores.null[0, index]
        assert shown == [f"{float(number):.3f}" for number in numbers], kind
