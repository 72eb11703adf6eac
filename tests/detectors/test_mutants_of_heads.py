"""Values of knock-outs and detectors that faults survived without: see `test_mutants`."""

from __future__ import annotations

import importlib
import math
import re

import pytest
import torch

from induction_lens.ablation import METHODS, Mean, hooks, knocked_out, outputs
from induction_lens.ablation.methods import as_method
from induction_lens.detectors import attention, copying, score_heads
from induction_lens.detectors.measure import ratio_and_error
from induction_lens.heads import Head
from induction_lens.models import Call, InterventionError, hook_name, run
from induction_lens.models import attention as attention_of_models
from induction_lens.toys.model import toy_weights
from tests.models.test_mutants import _sequences, _toy

pytestmark = pytest.mark.slow  # one test for each fault put in

# knock-outs


@pytest.mark.parametrize("apart", [True, False], ids=["taken apart", "whole"])
def test_outputs_are_kept_of_every_layer_that_is_asked_for(apart):
    """A hook of the user's has the model run whole; the outputs are the same."""
    model, tokens = _toy(n_layers=3), _sequences()
    names = [hook_name("z", layer) for layer in range(3)]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
    if not apart:
        model.hook_dict[names[0]].add_hook(lambda z, hook: None)
    heads = {0: [1], 1: [0, 2], 2: [2]}
    kept = outputs.keep_outputs(model, heads, tokens, each=True, whole=True, batch_size=2)
    for layer, chosen in heads.items():
        z = cache[names[layer]][:, :, chosen]
        torch.testing.assert_close(kept.each[layer], z)
        torch.testing.assert_close(kept.means[layer], z.mean(0))
        if apart:
            torch.testing.assert_close(kept.whole[layer], cache[names[layer]])
    assert kept.counts.tolist() == [5] * 23
    assert sorted(kept.whole) == ([0, 1, 2] if apart else [])
    fewer = kept.of({1: [2]})
    torch.testing.assert_close(fewer.each[1], cache[names[1]][:, :, [2]])
    torch.testing.assert_close(fewer.means[1], cache[names[1]][:, :, [2]].mean(0))
    assert (list(fewer.means), fewer.heads) == ([1], {1: [2]})


@pytest.mark.parametrize(("spare", "kept"), [(0, [0, 1]), (-1, [])])
def test_whole_outputs_are_kept_where_they_fit_the_memory(monkeypatch, spare, kept):
    n_bytes = 4 * (5 * 23) * 2 * 3 * 6  # tokens, layers up to the last, heads, d_head
    monkeypatch.setattr(outputs, "_WHOLE_BYTES", n_bytes + spare)
    model, options = _toy(n_layers=3), dict(each=False, whole=True)
    found = outputs.keep_outputs(model, {1: [0]}, _sequences(), **options)
    assert sorted(found.whole) == kept
    assert dict(found.each) == {}


@pytest.mark.parametrize("method", ["resample", Mean(per_position=True)], ids=str)
def test_a_reference_serves_sequences_up_to_its_own_size(method):
    model, reference = _toy(), _sequences(4, 11)
    with torch.no_grad(), knocked_out(model, "1.1", reference=reference, method=method):
        model(_sequences(4, 11, seed=1))
        with pytest.raises(ValueError, match=r"got (4 of )?12; pass a l"):
            model(_sequences(4, 12))
        if method == "resample":
            with pytest.raises(ValueError, match="got 5 of 11; pass a larger reference"):
                model(_sequences(5, 11))


def test_outputs_of_every_sequence_need_sequences_of_one_length():
    tokens, mask = _sequences(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    padded, model, heads = dict(input_ids=tokens, attention_mask=mask), _toy(), {0: [1]}
    means = outputs.keep_outputs(model, heads, padded, each=False)
    assert means.counts.tolist() == [2] * 7 + [1] * 4
    alone = outputs.keep_outputs(model, heads, tokens[:1], each=True)
    torch.testing.assert_close(means.means[0][7:], alone.each[0][0, 7:])
    with pytest.raises(ValueError, match="resample ablation"):
        outputs.keep_outputs(model, heads, padded, each=True)


@pytest.mark.usefixtures("_as_users_call")
def test_a_mistyped_method_has_a_closest_one():
    for wrong, close in (("meen", "mean"), ("pattern", "pattern-preserving")):
        with pytest.raises(
            ValueError, match=f"got {re.escape(repr(wrong))}; did you mean '{close}"
        ):
            as_method(wrong)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 3e-2)])
def test_outputs_may_differ_from_their_pattern_by_rounding_alone(dtype, bound):
    pattern = torch.eye(3).expand(1, 2, 3, 3).to(dtype)
    value = torch.ones(1, 3, 2, 5, dtype=dtype)  # so that the bound is twice the tolerance
    for factor, right in ((1.9, True), (2.2, False)):
        z = value.clone()
        z[0, 1, 1, 4] = 1 - factor * bound
        clean = hooks.CleanAttention({7: pattern}, {7: value}, {7: z})
        if right:
            clean.check()
        else:
            with pytest.raises(InterventionError, match="heads of layer 7"):
                clean.check()


def test_values_of_a_group_serve_its_query_heads():
    """Heads 0 and 1 read the first key/value head, 2 and 3 the second."""
    value = torch.arange(12.0).view(1, 3, 2, 2)
    pattern = torch.zeros(1, 4, 3, 3)
    pattern[0, [0, 1, 2, 3], :, [0, 1, 0, 2]] = 1.0
    z = hooks.attended(pattern, value, torch.empty(1, 3, 4, 2, dtype=torch.float64))
    assert z.dtype == torch.float64
    expected = [value[0, 0, 0], value[0, 1, 0], value[0, 0, 1], value[0, 2, 1]]
    for query in range(3):
        assert torch.equal(z[0, query], torch.stack(expected).double())


def test_what_is_frozen_and_what_depends_on_the_position():
    model = _toy(n_layers=3)
    kept = outputs.keep_outputs(model, {1: [0, 2]}, _sequences(), each=True)
    heads = [Head(1, 2), Head(1, 0)]
    found = {}
    for method in (*map(as_method, METHODS), Mean(per_position=True)):
        made = hooks.Ablation(model, heads, method, outputs=kept)
        names = [name for name, _ in made.hooks()]
        assert (made.heads, made.first_layer, made.n_before) == ({1: [0, 2]}, 1, 0)
        found[method.label] = (made.freezes, method.reads_positions, names)
    z, later = [hook_name("z", 1)], [hook_name(site, n) for site in "zv" for n in (1, 2)]
    assert found == {
        "zero": (False, False, z),
        "mean": (False, False, z),
        "mean per position": (False, True, z),
        "resample": (False, True, z),
        "pattern-preserving": (True, False, later),
    }


def test_positions_before_those_of_a_pass():
    """By a mask that is longer than the tokens; a mask of one axis says nothing."""
    tokens, mask = torch.ones(2, 3).long(), torch.ones(2, 8)
    model = _toy()

    def earlier(args, kwargs):
        return Call(model, args, kwargs).n_earlier

    assert earlier((tokens,), {}) == 0
    assert earlier((tokens,), dict(attention_mask=mask)) == 5
    assert earlier((tokens, "loss"), dict(attention_mask=mask)) == 5
    assert earlier((), dict(input=tokens, attention_mask=mask)) == 5
    assert earlier((tokens,), dict(attention_mask=mask[:, :3])) == 0
    assert earlier((tokens,), dict(attention_mask=mask[0])) == 0
    assert earlier((tokens[0],), dict(attention_mask=mask)) == 0


# detectors


def test_a_head_without_weights_copies_nothing():
    """Its eigenvalues are zero, and so is the score: never NaN."""
    model = _toy()
    with torch.no_grad():
        toy_weights(model)["blocks.1.attn.W_O"][2].zero_()
        toy_weights(model)["blocks.0.attn.W_V"][0].zero_()
    table = score_heads(
        model, tokens=_sequences(), detectors=["copying", "copying_weights"], progress=False
    )
    for scores in table.values():
        assert scores.ceiling == 1.0
        assert scores.values.isfinite().all()
        for layer in range(2):
            for head in range(3):
                nothing = (layer, head) in ((1, 2), (0, 0))
                assert (scores.values[layer, head].item() == 0) == nothing


def test_a_sample_of_one_token_has_nothing_to_prefer():
    """The share on the attended token is one by chance too."""
    tokens = torch.tensor([[0, 7, 7, 7, 7]])
    scores = score_heads(_toy(), tokens=tokens, detectors=["copying"], progress=False)["copying"]
    assert scores.values.tolist() == [[0.0] * 3] * 2


def test_a_ratio_and_its_error_by_hand():
    part = torch.tensor([[[1.0, 2.0, 6.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    whole = torch.tensor([2.0, 4.0, 4.0], dtype=torch.float64)
    ratio, error = ratio_and_error(part, whole)
    assert ratio.flatten().tolist() == pytest.approx([0.9, 0.0])
    residuals = [1 - 0.9 * 2, 2 - 0.9 * 4, 6 - 0.9 * 4]
    expected = math.sqrt(sum(r * r for r in residuals) * 3 / 2) / 10
    assert error.flatten().tolist() == pytest.approx([expected, 0.0])


def test_two_sequences_have_an_error():
    part, whole = torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0, 2.0])
    ratio, error = ratio_and_error(part, whole)
    assert (ratio.item(), error.item()) == pytest.approx((1.0, 2 / 4))  # of 1/2 and 3/2, by halves


def test_nothing_out_of_nothing_is_zero_and_one_sequence_has_an_infinite_error():
    zero = torch.zeros(1, 2, 3)
    assert [x.tolist() for x in ratio_and_error(zero, zero[0, 0])] == [[[0.0, 0.0]]] * 2
    half = torch.tensor([[[0.25]]])
    assert [x.item() for x in ratio_and_error(half, torch.tensor([0.5]))] == [0.5, math.inf]
    alone = ratio_and_error(torch.tensor([[[0.25, 0.0]]]), torch.tensor([0.5, 0.0]))
    assert [x.item() for x in alone] == [0.5, math.inf]  # the other has nothing to be asked


def test_sequences_without_a_query_do_not_make_the_error_smaller():
    part, whole = torch.tensor([[[1.0, 3.0]]]), torch.tensor([2.0, 2.0])
    more = torch.cat([part, torch.zeros(1, 1, 5)], dim=-1), torch.cat([whole, torch.zeros(5)])
    assert [x.item() for x in ratio_and_error(*more)] == [
        x.item() for x in ratio_and_error(part, whole)
    ]


@pytest.mark.parametrize(("part", "whole"), [(math.nan, 1.0), (1.0, math.inf), (-math.inf, 1.0)])
def test_sums_that_are_not_finite_are_refused(part, whole):
    with pytest.raises(ValueError, match="expected finite activations"):
        ratio_and_error(torch.tensor([[[part, 1.0]]]), torch.tensor([1.0, whole]))


def test_a_batch_is_as_large_as_its_length_allows(monkeypatch):
    module, asked = importlib.import_module("induction_lens.detectors.measure"), []

    def budget(model, length):
        asked.append(length)
        return 2

    monkeypatch.setattr(module, "batch_size_for", budget)
    model, tokens, rows = _toy(), _sequences(), []

    class Look:
        last_hook = None

        def hooks(self, batch, of):
            assert torch.equal(batch, tokens[of])
            return []

        def finish(self, of):
            rows.append((of.start, of.stop))

    module.measure(model, tokens, [Look()])
    assert (asked, rows) == ([23], [(0, 2), (2, 4), (4, 5)])
    module.measure(model, tokens, [Look()], batch_size=3)
    assert rows[3:] == [(0, 3), (3, 5)]


def test_a_pass_ends_where_all_measures_have_seen_enough():
    model, ran = _toy(n_layers=3), []
    module = importlib.import_module("induction_lens.detectors.measure")
    for layer in range(3):
        model.hook_dict[hook_name("z", layer)].add_hook(lambda z, hook: ran.append(hook.name[7]))

    class Look:
        def __init__(self, layer):
            self.last_hook = hook_name("pattern", layer)

        def hooks(self, batch, of):
            return [(self.last_hook, lambda _: None)]

        def finish(self, of):
            pass

    # a pass ends at the pattern, before `z` of that layer; where measures differ, at the very end
    for layers, expected in (([0], ""), ([1], "0"), ([2, 2], "01"), ([0, 1], "012")):
        ran.clear()
        module.measure(model, _sequences(), [Look(layer) for layer in layers])
        assert "".join(ran) == expected
    ran.clear()
    module.measure(model, _sequences(), [])  # nobody says where to stop
    assert "".join(ran) == "012"


@pytest.mark.parametrize("n_pos", [1, 2])
@pytest.mark.parametrize("detector", ["previous_token", "induction", "duplicate_token"])
def test_bos_and_one_token_ask_for_nothing(detector, n_pos):
    tokens = torch.zeros(3, n_pos, dtype=torch.long)
    assert [len(part) for part in attention.attention_detector(detector).find(tokens)] == [0, 0, 0]
    assert not attention.target_mask(tokens, detector).any()


def test_blocks_off_the_cpu_are_larger():
    """Measured: an H200 took 31 times as long in blocks as small as a CPU's."""
    assert attention_of_models._block(torch.empty(1)) == 2**19
    assert attention_of_models._block(torch.empty(1, device="meta")) == 2**26


@pytest.mark.parametrize(
    ("known", "block", "n_blocks"),
    [
        (
            False,
            4 * 5 * 3 * 23,
            6,
        ),  # 23 queries, 4 at a time: of each, 5 rows of 3 heads of 23 keys
        (False, 1, 23),  # at least one at a time
        (True, 17 * 3 * 6, 7),  # 5 * 21 targets, 17 at a time with the coordinates of 3 heads
        (True, 1, 105),
    ],
)
def test_blocks_are_as_large_as_the_memory_for_them(monkeypatch, known, block, n_blocks):
    monkeypatch.setattr(attention_of_models, "_BLOCK", block)
    blocks, add = [], attention.TargetMass._add

    def counted(self, layer, *arguments):
        blocks.append(layer)
        add(self, layer, *arguments)

    monkeypatch.setattr(attention.TargetMass, "_add", counted)
    model, tokens = _toy(n_layers=1), _sequences()
    mass = attention.TargetMass(model, tokens, ["previous_token"])
    with torch.no_grad(), run(model, tokens) as road:
        mass.begin(tokens, slice(0, 5))
        inputs = road.attention_inputs(0, road.enter(tokens))
        scale = road.scale(0)
        query, key = (x.transpose(1, 2) for x in (inputs.query, inputs.key))
        future = torch.ones(23, 23, dtype=torch.bool).triu(1)
        scores = (query @ key.mT * scale).masked_fill(future, -math.inf)
        totals = scores.logsumexp(-1) if known else None
        mass.look(0, attention_of_models.FusedAttention(inputs, totals, scale=scale))
    assert blocks == [0] * n_blocks
    expected = scores.softmax(-1).diagonal(-1, 2, 3)[..., 1:].mean(-1)
    torch.testing.assert_close(mass.by_sequence("previous_token")[0], expected.T)


def test_copying_and_its_error_follow_from_the_masses():
    """A head above chance and one below: each is rescaled by its own side."""
    mass = copying.CopyingMass(_toy(n_layers=1), _sequences(3))
    own = torch.tensor([[3.0, 5.0, 4.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    total = torch.tensor([[4.0, 6.0, 10.0], [4.0, 6.0, 10.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    mass._attended[0], mass._all[0] = own, total
    mass._distinct[:] = torch.tensor([4.0, 4.0, 8.0])
    scores, chance = mass.scores(), (1 / 4 + 1 / 4 + 1 / 8) / 3
    above, below = 12 / 20, 1.5 / 20
    expected = [(above - chance) / (1 - chance), (below - chance) / chance, 0.0]
    assert scores.values[0].tolist() == pytest.approx(expected)
    errors = []
    for head, share, side in ((0, above, 1 - chance), (1, below, chance)):
        spread = (own[head] - share * total[head]).square().sum() * 3 / 2
        errors.append(spread.sqrt().item() / 20 / side)
    assert scores.sem is not None
    assert scores.sem[0].tolist() == pytest.approx([*errors, 0.0])
    assert (scores.ceiling, scores.uniform, scores.unit) == (1.0, 0.0, "copying")


@pytest.mark.parametrize("kind", ["copying", "targets"])
def test_measures_of_parts_are_joined_to_that_of_the_whole(kind):
    module = importlib.import_module("induction_lens.detectors.measure")
    model, tokens = _toy(), _sequences(5, d_vocab=7)
    names = ["induction", "previous_token"]

    def measured(part):
        if kind == "copying":
            mass = copying.CopyingMass(model, part)
        else:
            mass = attention.TargetMass(model, part, names)
        module.measure(model, part, [mass])
        return mass

    whole, joined = measured(tokens), measured(tokens[:2]).join(measured(tokens[2:]))
    if kind == "copying":
        one, other = whole.scores(), joined.scores()
    else:
        one, other = (mass.scores("induction", null=mass) for mass in (whole, joined))
        torch.testing.assert_close(one.null, other.null)
        assert one.uniform == pytest.approx(other.uniform)
        assert torch.equal(whole.by_sequence("induction"), joined.by_sequence("induction"))
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.sem, other.sem)
