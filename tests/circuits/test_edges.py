"""Edges cut at test time, against plain Hugging Face code and on the hand-set circuit."""

from __future__ import annotations

import math

import pytest
import torch

import induction_lens as il
from induction_lens.ablation import Zero
from induction_lens.ablation.hooks import Ablation
from induction_lens.ablation.seen import HeadAttention
from induction_lens.ablation.sweep import Job, ablation_losses
from induction_lens.circuits.cuts import cut_edge
from induction_lens.circuits.edges import CompositionCut, Masked, RandomKeys, TargetKeys, Zeroed
from induction_lens.circuits.ideal import IdealInduction
from induction_lens.circuits.material import Material
from induction_lens.circuits.measured import outcomes
from induction_lens.circuits.other_runs import Nothing
from induction_lens.circuits.patching import Edge, Patches
from induction_lens.heads import Head
from induction_lens.models import InterventionError, LayerByLayer, run, toy_weights
from induction_lens.toys.forward import Cut
from induction_lens.toys.model import set_weights
from induction_lens.training.clamp import cutting
from tests.circuits.plain import N_POS, Plain, drawn, losses
from tests.hf_folders import hugging_face_model
from tests.reference_model import D_VOCAB, induction_circuit

HEAD = Head(1, 2)


@pytest.fixture(scope="module", params=["gpt2", "llama", "neox"])
def both(request):
    tokens = drawn(0)
    return hugging_face_model(request.param), Plain(request.param, tokens), tokens


def is_target(ids, query, key):
    return 2 <= key <= query and ids[key - 1] == ids[query]


def expected_with(plain, change):
    """Losses with the head's pattern changed, entry by entry."""
    base, output = plain.run()
    pattern = output.attentions[HEAD.layer][:, HEAD.head].clone()
    for row, ids in enumerate(plain.tokens.tolist()):
        for query in range(len(ids)):
            targets = [key for key in range(query + 1) if is_target(ids, query, key)]
            pattern[row, query] = change(pattern[row, query], targets, query)
    value = plain.part(base["v"][HEAD.layer], "v", HEAD.head)

    def write(z):
        z[:, :, HEAD.head] = pattern @ value
        return z

    _, output = plain.run(z={HEAD.layer: write})
    return losses(output.logits, plain.tokens)


def masked(row, targets, query):
    scores = row.log()
    scores[targets] = -math.inf
    scores[query + 1 :] = -math.inf
    return scores.softmax(0)


def zeroed(row, targets, query):
    row = row.clone()
    row[targets] = 0
    return row


@pytest.mark.parametrize(("method", "change"), [(Masked(), masked), (Zeroed(), zeroed)])
def test_a_changed_pattern_is_that_of_plain_hugging_face_code(both, method, change):
    model, plain, tokens = both
    expected = expected_with(plain, change)
    with il.knocked_out(model, HEAD, method=method):
        found = il.per_token_loss(model, tokens)[:, 1:]
    clean = il.per_token_loss(model, tokens)[:, 1:]
    assert float((expected - clean).abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_composition_cut_is_that_of_plain_hugging_face_code(both, which):
    model, plain, tokens = both
    sender = Head(0, 1)
    nothing = {0: torch.zeros_like(plain.run()[0]["z"][0])}
    expected, _ = plain.patched(sender, HEAD, which, nothing, through_mlps=False)
    with il.knocked_out(model, HEAD, method=CompositionCut([sender], which)):
        found = il.per_token_loss(model, tokens)[:, 1:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    clean = il.per_token_loss(model, tokens)[:, 1:]
    assert float((found - clean).abs().max()) > 1e-3


def test_a_composition_cut_is_a_path_patched_with_nothing(both):
    model, _, tokens = both
    senders = [Head(0, 0), Head(0, 2)]
    edge = Edge(tuple(senders), (HEAD,), "k")
    read = list(range(1, N_POS))
    patched = outcomes(model, [edge], tokens, Patches(Nothing()), read=read).patched[0]
    with il.knocked_out(model, HEAD, method=CompositionCut(senders)):
        found = il.per_token_loss(model, tokens)
    torch.testing.assert_close(found[:, 1:], patched[:, 1:], atol=1e-5, rtol=1e-5)


def test_cutting_all_keys_from_layer_0_is_the_clamp_of_training(implementation):
    model = il.load("toy-2l-narrow", implementation=implementation, device="cpu")
    weights = toy_weights(model)
    # the clamp leaves out the bias of layer 0's attention too, which is no head's
    weights["blocks.0.attn.b_O"] = torch.zeros_like(weights["blocks.0.attn.b_O"])
    set_weights(model, weights)
    tokens = il.repeated_random_tokens(model, n_sequences=3)
    layers = [[Head(layer, head) for head in range(4)] for layer in range(2)]
    with il.knocked_out(model, layers[1], method=CompositionCut(layers[0])):
        cut = il.per_token_loss(model, tokens)
    with cutting(model, Cut((), True)):
        clamped = il.per_token_loss(model, tokens)
    torch.testing.assert_close(cut[:, 1:], clamped[:, 1:], atol=1e-4, rtol=1e-4)


def test_a_later_receiver_reads_what_the_cut_left_of_an_earlier_one():
    """Cuts are live: what reaches layer 2 has gone through the cut layer 1."""
    config = il.toys.ToyConfig(
        n_layers=3, d_model=24, n_heads=3, d_head=8, d_vocab=31, n_ctx=23, seed=3
    )
    model = il.toys.build_toy(config, device="cpu")
    tokens = torch.randint(1, 31, (2, 17), generator=torch.Generator().manual_seed(0))
    with il.knocked_out(model, ["1.0", "2.1"], method=CompositionCut(["0.1"])):
        both_cut = il.per_token_loss(model, tokens)
    edge = Edge((Head(0, 1),), (Head(1, 0),), "k")
    with il.knocked_out(model, ["1.0"], method=CompositionCut(["0.1"])):
        first = il.per_token_loss(model, tokens)
    patched = outcomes(model, [edge], tokens, Patches(Nothing()), read=[*range(1, 17)]).patched[0]
    torch.testing.assert_close(first[:, 1:], patched[:, 1:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both_cut[:, 1:], first[:, 1:], atol=1e-6)


METHODS = [
    Masked(),
    Zeroed(),
    Zeroed(RandomKeys(seed=3)),
    IdealInduction(),
    CompositionCut(["0.1", "1.0", "2.1"]),
    CompositionCut(["0.1", "1.0"], "q"),
    CompositionCut(["0.2", "1.2"], "v"),
]


@pytest.mark.parametrize("heads", [["2.2"], ["1.0", "1.2", "2.1", "3.0"], ["3.0", "3.1"]])
def test_layers_one_by_one_give_what_hooks_give(heads):
    """Whole sequences are seen, and only some positions are read; cuts of a later layer see what
    those of an earlier one left."""
    config = il.toys.ToyConfig(
        n_layers=4, d_model=24, n_heads=3, d_head=8, d_vocab=31, n_ctx=23, seed=3
    )
    model = il.toys.build_toy(config, device="cpu")
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.mul_(3)
    tokens = torch.randint(1, 31, (5, 17), generator=torch.Generator().manual_seed(0))
    parsed = tuple(map(Head.parse, heads))
    jobs = [Job(parsed, method, (3, 9, 14)) for method in METHODS]
    jobs += [Job(parsed, METHODS[0], (4, 16)), Job((Head(0, 1),), Zero(), (3, 9))]
    with run(model, tokens, unembeds=True) as road:
        assert isinstance(road, LayerByLayer)
    clean, by_layers = ablation_losses(model, jobs, tokens, batch_size=2)
    for job, found in zip(jobs, by_layers.long, strict=True):
        with il.knocked_out(model, job.heads, method=job.method):
            expected = il.per_token_loss(model, tokens)
        at = list(job.positions)
        torch.testing.assert_close(found[:, at], expected[:, at], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found[:, at], clean.long[:, at], atol=1e-5)


@pytest.fixture(scope="module")
def material():
    model = induction_circuit()
    tokens = il.repeated_random_tokens(model, n_tokens=9, n_repeats=4, n_sequences=6)
    return Material.of(model, tokens=tokens, n_texts=0)


def test_cuts_of_the_hand_set_circuit(circuit, material):
    found = cut_edge(circuit, "1.0", senders=["0.0"], n_controls=2, material=material)
    shares = {}
    for one in found.cuts:
        shares.setdefault((one.method.split(" (")[0], one.is_control), []).append(one.share().value)
    # masked: the head rests on BOS, and predicts it as it does where nothing matches
    assert shares["masked", False] == pytest.approx([1], abs=1e-4)
    # zeroed: it predicts nothing, so that all tokens are as likely
    clean = il.per_token_loss(circuit, material.tokens)
    new, copies = clean[:, 2:11].mean().item(), clean[:, 11:].mean().item()
    uniform = (math.log(D_VOCAB) - copies) / (new - copies)
    assert shares["zeroed", False] == pytest.approx([uniform], abs=1e-4)
    assert shares["composition cut", False] == pytest.approx([1], abs=1e-4)
    assert shares["composition cut", True] == pytest.approx([0, 0], abs=1e-4)
    # the head has no attention on other keys that could be taken
    assert shares["zeroed", True] == pytest.approx([0, 0], abs=1e-4)


def seen(tokens, pattern):
    """A head's attention, for choices of keys: these look at no values."""
    return HeadAttention(tokens, pattern, torch.zeros(*tokens.shape, 1, 1))


def test_random_keys_hold_as_much_attention_and_are_no_targets(both):
    model, _, tokens = both
    _, cache = model.run_with_cache(tokens)
    pattern = cache[f"blocks.{HEAD.layer}.attn.hook_pattern"][:, [HEAD.head]]
    attention = seen(tokens, pattern)
    targets = TargetKeys().taken(attention, slice(0, 3))
    taken = RandomKeys(seed=5).taken(attention, slice(0, 3))
    assert bool(((taken * targets) == 0).all())
    assert bool(((taken >= 0) & (taken <= 1)).all())
    wanted = (pattern * targets).sum(-1)
    room = (pattern * (1 - targets)).sum(-1)
    torch.testing.assert_close(
        (pattern * taken).sum(-1), torch.minimum(wanted, room), atol=1e-6, rtol=1e-5
    )
    in_parts = RandomKeys(seed=5).taken(
        seen(tokens[1:], pattern[1:]),
        torch.tensor([1, 2]),
    )
    assert torch.equal(in_parts, taken[1:])


def test_as_much_attention_is_taken_as_there_is():
    pattern = torch.tensor([[[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.7, 0.1, 0]]]])
    pattern = torch.cat([pattern, torch.tensor([[[[0.1, 0.2, 0.6, 0.1]]]])], dim=2)
    tokens = torch.tensor([[0, 7, 8, 7]])  # of query 3 the key 2 is a target
    attention = seen(tokens, pattern)
    taken = RandomKeys().taken(attention, slice(0, 1))
    assert torch.equal(taken[0, 0, :3], torch.zeros(3, 4))
    torch.testing.assert_close(taken[0, 0, 3], torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_ablate_takes_a_cut_as_it_takes_any_method(circuit):
    tokens = il.repeated_random_tokens(circuit, n_tokens=9, n_repeats=4, n_sequences=4)
    options = dict(early=5, late=30, n_controls=0, estimator="paper")
    cut = il.ablate(circuit, "1.0", tokens, method=CompositionCut(["0.0"]), **options)
    with il.knocked_out(circuit, "1.0", method=CompositionCut(["0.0"])):
        inside = il.per_token_loss(circuit, tokens)
    torch.testing.assert_close(cut.ablated_losses[:, 1:], inside[:, 1:])
    assert cut.method == "composition cut (K from 0.0)"


def test_nothing_is_left_behind(circuit):
    tokens = il.repeated_random_tokens(circuit, n_tokens=9, n_repeats=2, n_sequences=2)
    before = il.per_token_loss(circuit, tokens)
    for method in (Masked(), CompositionCut(["0.0"])):
        with (
            pytest.raises(RuntimeError, match="stop"),
            il.knocked_out(circuit, "1.0", method=method),
        ):
            circuit(tokens)
            raise RuntimeError("stop")
    assert not any(point.fwd_hooks for point in circuit.hook_dict.values())
    assert not circuit.embed._forward_pre_hooks
    assert not circuit.blocks[0]._forward_pre_hooks
    assert torch.equal(before[:, 1:], il.per_token_loss(circuit, tokens)[:, 1:])


def test_a_write_that_something_else_changes_is_refused(circuit):
    tokens = il.repeated_random_tokens(circuit, n_tokens=9, n_repeats=2, n_sequences=2)
    circuit.add_hook("blocks.1.attn.hook_z", lambda z, hook: z * 1.5)
    try:
        refused = pytest.raises(InterventionError, match=r"something acts between|shows it later")
        with refused, il.knocked_out(circuit, "1.0", method=Masked()):
            circuit(tokens)
        refused = pytest.raises(InterventionError, match="whose layers can be run one by one")
        with refused, il.knocked_out(circuit, "1.0", method=CompositionCut(["0.0"])):
            circuit(tokens)
    finally:
        circuit.reset_hooks()


def test_a_mask_that_leaves_nothing_is_refused():
    pattern = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    with pytest.raises(InterventionError, match="expected attention on other keys"):
        Masked().changed(pattern, torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))


def test_what_cannot_be_cut_is_refused(circuit):
    with pytest.raises(ValueError, match="expected senders to be earlier heads, got none"):
        CompositionCut([])
    with pytest.raises(ValueError, match="expected input to be one of q, k, v"):
        CompositionCut(["0.0"], "z")
    assert Ablation(circuit, [Head(1, 0)], Masked()).method.label == "masked (induction)"
