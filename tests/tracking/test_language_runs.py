"""Runs on languages, measured: losses, attention and composition as loops give them."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import induction_lens as il
from induction_lens.languages import Copies, InterleavedChains, MarkovChains, TwoAlphabets
from induction_lens.models import toy_weights
from induction_lens.toys.forward import Cut, toy_logits
from induction_lens.toys.model import ToyConfig
from induction_lens.tracking import (
    LanguageTrajectory,
    language_detectors,
    plot_gaps,
    track_language,
)
from induction_lens.training import Clamp, LanguagePreset, train_language

LANGUAGE = TwoAlphabets(n_letters=7, length=5)
CONFIG = ToyConfig(n_layers=2, d_model=12, n_heads=3, d_vocab=15, n_ctx=19)
TINY = LanguagePreset(LANGUAGE, CONFIG, "tiny", n_steps=5, batch_size=4, seq_len=19)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_language(TINY, tmp_path_factory.mktemp("language"), progress=False)


@pytest.fixture(scope="module")
def found(run):
    return track_language(run, LANGUAGE, n_sequences=6, seed=3, progress=False)


def test_losses_are_means_over_the_tokens_of_each_kind(run, found):
    tokens = LANGUAGE.sample(6, seq_len=19, seed=3)
    groups = LANGUAGE.token_groups(tokens)
    assert list(found.losses) == ["all", "pieces", "new", "again"]
    for point, snapshot in enumerate(run.snapshots):
        logits = il.load(snapshot.path, device="cpu")(tokens)
        for kind, among in groups.items():
            for row in range(6):
                losses = [
                    -F.log_softmax(logits[row, pos - 1], -1)[tokens[row, pos]].item()
                    for pos in range(1, 19)
                    if among[row, pos]
                ]
                value = found.losses[kind][point, row].item()
                if losses:
                    assert value == pytest.approx(sum(losses) / len(losses), abs=1e-4)
                else:
                    assert math.isnan(value)
    optimal = LANGUAGE.optimal_loss(tokens)[groups["new"]].mean().item()
    assert found.references["optimal"]["new"] == pytest.approx(optimal)
    assert found.references["letters"]["new"] == pytest.approx(math.log(5))
    assert found.loss("new")[-1] == found.losses["new"][-1].nanmean()


def test_distances_are_between_losses_token_by_token(run, found):
    tokens = LANGUAGE.sample(6, seq_len=19, seed=3)
    model = il.load(run.snapshots[2].path, device="cpu")
    logits = model(tokens)
    for predictor, known in LANGUAGE.reference_losses(tokens).items():
        total = sum(
            (known[row, pos] + F.log_softmax(logits[row, pos - 1], -1)[tokens[row, pos]]).item()
            ** 2
            for row in range(6)
            for pos in range(1, 19)
        )
        expected = math.sqrt(total / (6 * 18))
        assert found.distances[predictor][2].item() == pytest.approx(expected, abs=1e-4)


def test_scores_are_the_attention_on_the_matches(run, found):
    tokens = LANGUAGE.sample(6, seq_len=19, seed=3)
    targets = LANGUAGE.targets(tokens)
    _, cache = il.load(run.snapshots[-1].path, device="cpu").run_with_cache(tokens)
    for layer in range(2):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        for head in range(3):
            on_targets = [
                pattern[row, head, query, targets[row, query]].item()
                for row in range(6)
                for query in range(19)
                if targets[row, query] >= 0
            ]
            expected = sum(on_targets) / len(on_targets)
            assert found.scores["block"][-1, layer, head].item() == pytest.approx(
                expected, abs=1e-5
            )
    assert set(found.scores) == {"block", "previous_token", "induction", "duplicate_token"}
    assert found.strongest("block").layer in (0, 1)


def test_composition_is_that_of_the_circuits(run, found):
    model = il.load(run.snapshots[-1].path, device="cpu")
    expected = il.circuits.composition(model)
    frame = expected.to_frame()
    for row in frame[frame["kind"] == "K"].to_dict("records"):
        at = (row["layer"], row["head"], row["earlier_layer"], row["earlier_head"])
        assert found.composed[-1][at].item() == pytest.approx(row["score"], abs=1e-5)
    assert found.composed[:, 0].isnan().all()


def test_under_a_clamp_the_cut_model_is_measured(run):
    clamp = Clamp(k_composition=True, start=2, end=3)
    found = track_language(run, LANGUAGE, n_sequences=6, seed=3, clamp=clamp, progress=False)
    tokens = LANGUAGE.sample(6, seq_len=19, seed=3)
    model = il.load(run.snapshots[-1].path, device="cpu")
    logits = toy_logits(toy_weights(model), CONFIG, tokens, cut=Cut(k_composition=True))
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert torch.allclose(found.losses["all"][-1], losses.mean(1), atol=1e-4)
    assert found.clamp == (clamp.to_dict(),)
    free = track_language(run, LANGUAGE, n_sequences=6, seed=3, progress=False)
    assert not torch.allclose(found.scores["block"][-1, 1], free.scores["block"][-1, 1], atol=1e-4)
    assert torch.allclose(found.scores["block"][-1, 0], free.scores["block"][-1, 0], atol=1e-6)


def test_it_is_saved_and_read_as_it_is(found, tmp_path):
    file = tmp_path / "run.safetensors"
    found.save(file)
    read = LanguageTrajectory.read(file)
    assert (read.language, read.seed, read.config) == (found.language, found.seed, found.config)
    assert read.references == found.references
    assert read.clamp == ()
    assert torch.equal(read.steps, found.steps)
    for group in ("losses", "scores", "distances"):
        one, other = getattr(read, group), getattr(found, group)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k].nan_to_num(-9), other[k].nan_to_num(-9)) for k in one)
    assert read.to_frame().equals(found.to_frame())
    assert [trace.name for trace in found.plot("new").data] == ["model"]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"^expected .*; "):
        LanguageTrajectory.read(file)


def test_gaps_are_what_is_left_to_the_best_predictor(found):
    losses = {"all": torch.tensor([[3.0, 5.0], [2.5, 1.5], [1.0, float("nan")]])}
    known = {"optimal": {"all": 0.5}, "letters": {"all": 1.25}}
    steps = torch.tensor([0, 3, 7])
    sizes = {"steps": steps, "tokens_seen": 10 * steps, "composed": found.composed[:3]}
    groups = {
        name: {key: values[:3] for key, values in getattr(found, name).items()}
        for name in ("scores", "distances")
    }
    made = replace(found, losses=losses, references=known, **sizes, **groups)
    assert made.gap().tolist() == [3.5, 1.5, 0.5]
    assert made.reference_gaps() == {"optimal": 0.0, "letters": 0.75}
    part = made.between(3, 7)
    assert part.steps.tolist() == [3, 7]
    assert part.gap().tolist() == [1.5, 0.5]
    for one in (part.tokens_seen, part.composed, *part.scores.values(), *part.distances.values()):
        assert len(one) == 2
    with pytest.raises(ValueError, match=r"between the steps 1 and 2, got those of \[0, 3, 7\]"):
        made.between(1, 2)
    figure = plot_gaps({"free": [made, part], "held": [made.between(0, 0)]})
    lines = [(list(one.x), list(one.y), one.name, one.showlegend) for one in figure.data]
    assert lines == [
        ([0, 3, 7], [3.5, 1.5, 0.5], "free", True),
        ([3, 7], [1.5, 0.5], "free", False),
        ([0], [3.5], "held", True),
    ]
    assert figure.data[0].line.color == figure.data[1].line.color != figure.data[2].line.color
    assert [line.y0 for line in figure.layout.shapes] == [0.0, 0.75]
    assert [note.text for note in figure.layout.annotations] == ["optimal", "letters"]
    assert list(plot_gaps(made).data[0].y) == [3.5, 1.5, 0.5]
    for wrong in ({}, {"free": []}):
        with pytest.raises(ValueError, match="expected runs to be at least one run, got none"):
            plot_gaps(wrong)
    with pytest.raises(ValueError, match="expected kind to be"):
        plot_gaps(made, "letters")


def test_learnt_at_is_where_the_loss_stays_below(found):
    losses = torch.tensor([3.0, 0.5, 2.0, 0.4, 0.3, 0.4])[:, None]
    made = replace(found, steps=torch.tensor([0, 1, 2, 4, 8, 9]), losses={"all": losses})
    assert made.learnt_at(1.0) == 4
    assert made.learnt_at(2.5) == 1
    assert made.learnt_at(2.5, after=2) == 2
    assert made.learnt_at(0.1) is None
    assert made.learnt_at(9.0) == 0


def test_detectors_of_chains_find_what_followed_the_state_that_the_next_depends_on():
    for language in (InterleavedChains(n_states=3, n_chains=2), MarkovChains(n_states=3)):
        tokens, lag = language.sample(4, seq_len=15, seed=1), language.lag
        [detector] = language_detectors(language)
        mask = detector.mask(tokens)
        for row in range(4):
            for query in range(15):
                for key in range(15):
                    wanted = (
                        lag < key <= query
                        and query + 1 > lag
                        and tokens[row, key - lag] == tokens[row, query + 1 - lag]
                    )
                    assert bool(mask[row, query, key]) == bool(wanted), (row, query, key)
    assert language_detectors(il.languages.WordClasses()) == []


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": Copies(n_letters=40)}, "expected a language of at most 15 tokens"),
        ({"language": "copies"}, "expected language to be"),
        ({"language": il.languages.Mixture([LANGUAGE])}, "the best predictor is not known"),
        ({"n_sequences": 1}, "expected n_sequences to be"),
        ({"seq_len": 20}, "expected seq_len to be"),
        ({"seed": 2**20}, "expected seed to be"),
        ({"run": "nowhere"}, "expected a folder of snapshots"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, options, message):
    given = {"run": run, "language": LANGUAGE, "progress": False, **options}
    with pytest.raises(ValueError, match=message):
        track_language(**given)
