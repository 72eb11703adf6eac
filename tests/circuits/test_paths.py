"""Path patching against plain Hugging Face code with torch's own hooks, and known answers."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

import induction_lens as il
from induction_lens.circuits.edges import CompositionCut
from induction_lens.circuits.material import Material, copied
from induction_lens.circuits.measured import copying_share, outcomes
from induction_lens.circuits.other_runs import Nothing, OtherTokens, PreviousTokenChanged
from induction_lens.circuits.patching import Edge, Patches
from induction_lens.circuits.paths import path_patch
from induction_lens.circuits.shares import Share
from induction_lens.heads import Head
from tests.circuits.plain import N_POS, Plain, drawn, losses
from tests.hf_folders import hugging_face_model, loaded_from_config
from tests.reference_model import D_VOCAB

SENDER = Head(0, 1)
RECEIVER = Head(1, 2)


@pytest.fixture(scope="module", params=["gpt2", "llama", "neox"])
def both(request):
    tokens = drawn(0)
    return hugging_face_model(request.param), Plain(request.param, tokens), tokens


@pytest.mark.parametrize("through_mlps", [False, True])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_patched_edge_is_that_of_plain_hugging_face_code(both, which, through_mlps):
    model, plain, tokens = both
    other = drawn(1)
    other_z = plain.run(other)[0]["z"]
    expected, pattern = plain.patched(SENDER, RECEIVER, which, other_z, through_mlps=through_mlps)
    patches = Patches(OtherTokens(other), through_mlps)
    edge = Edge((SENDER,), (RECEIVER,), which)
    found = outcomes(model, [edge], tokens, patches, read=list(range(1, N_POS)), scored=True)
    clean = losses(plain.run()[1].logits, tokens)
    assert float((expected - clean).abs().max()) > 1e-3  # the edge carries something here
    torch.testing.assert_close(found.clean[:, 1:], clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patched[0, :, 1:], expected, atol=1e-5, rtol=1e-5)
    clean_pattern = plain.run()[1].attentions[RECEIVER.layer][:, RECEIVER.head]
    for run, of_run in enumerate((clean_pattern, pattern)):
        score = prefix_matching(of_run, tokens)
        torch.testing.assert_close(found.scores[run, 0], score, atol=1e-5, rtol=1e-5)


def prefix_matching(pattern, tokens):
    """The mean over queries with targets of the attention on these, in plain loops."""
    rows = []
    for row, ids in enumerate(tokens.tolist()):
        sums = []
        for query in range(len(ids)):
            keys = [key for key in range(2, query + 1) if ids[key - 1] == ids[query]]
            if keys:
                sums.append(sum(float(pattern[row, query, key]) for key in keys))
        rows.append(sum(sums) / len(sums))
    return torch.tensor(rows)


def test_receivers_in_two_layers_see_the_clean_run_of_each_other(circuit):
    """Of a three-layer model: a later receiver's patched input is that of the frozen run, and its
    other inputs are live."""
    config = transformers.GPT2Config(n_layer=3, n_head=3, n_embd=33, vocab_size=311, n_positions=67)
    model, tokens = loaded_from_config(config), drawn(2)
    other = drawn(3)
    edge = Edge((Head(0, 1),), (Head(1, 0), Head(2, 2)), "k")
    patches = Patches(OtherTokens(other))
    found = outcomes(model, [edge], tokens, patches, read=list(range(1, N_POS)))
    expected = by_hooks(model, tokens, other)
    torch.testing.assert_close(found.patched[0, :, 1:], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def by_hooks(model, tokens, other):
    """The same by TransformerLens's own hooks: keys recorded in a frozen run, then written."""
    _, base = model.run_with_cache(tokens)
    _, donor = model.run_with_cache(other)
    mlps = [
        (f"blocks.{n}.hook_mlp_out", replaced(base[f"blocks.{n}.hook_mlp_out"])) for n in (0, 1)
    ]
    z = base["blocks.0.attn.hook_z"].clone()
    z[:, :, 1] = donor["blocks.0.attn.hook_z"][:, :, 1]
    frozen = [("blocks.0.attn.hook_z", replaced(z)), *mlps]
    frozen += [("blocks.1.attn.hook_z", replaced(base["blocks.1.attn.hook_z"]))]
    kept = {}
    keep = [
        (f"blocks.{n}.attn.hook_k", lambda x, hook, n=n: kept.__setitem__(n, x.clone()))
        for n in (1, 2)
    ]
    model.run_with_hooks(tokens, fwd_hooks=[*frozen, *keep])

    def write(n, head):
        def hook(x, hook):
            x = x.clone()
            x[:, :, head] = kept[n][:, :, head]
            return x

        return f"blocks.{n}.attn.hook_k", hook

    logits = model.run_with_hooks(tokens, fwd_hooks=[write(1, 0), write(2, 2)])
    return losses(logits, tokens)


def replaced(value):
    return lambda x, hook: value


def test_the_built_in_other_run_changes_one_token_before_each(circuit):
    tokens = il.repeated_random_tokens(circuit, n_tokens=7, n_repeats=2, n_sequences=2)
    n_pos = tokens.shape[1]
    other = PreviousTokenChanged(spacing=n_pos)
    runs = other.tokens(circuit, tokens)
    for run, changed in enumerate(runs):
        differs = (changed != tokens).nonzero()[:, 1].tolist()
        assert differs == ([] if run == 0 else [run, run])
    of_runs = [{0: some[:, :, None, None].float()} for some in runs]
    read = other.outputs({0: tokens[:, :, None, None].float()}, of_runs)[0]
    # a head that puts out its token sees no change; one that puts out the token before does
    assert torch.equal(read[:, :, 0, 0], tokens.float())
    before = [{0: some.roll(1, 1)[:, :, None, None].float()} for some in runs]
    clean = tokens.roll(1, 1)[:, :, None, None].float()
    seen = other.outputs({0: clean}, before)[0]
    same = (seen == clean)[:, :, 0, 0]
    assert same[:, :2].all()
    assert not same[:, 2:].any()


@pytest.mark.parametrize("spacing", [2, 5])
def test_at_each_position_its_token_is_kept_and_the_one_before_is_not(circuit, spacing):
    tokens = il.repeated_random_tokens(circuit, n_tokens=7, n_repeats=2, n_sequences=2)
    other = PreviousTokenChanged(spacing=spacing)
    runs = other.tokens(circuit, tokens)
    pairs = [torch.stack([some, some.roll(1, 1)], -1)[:, :, None].float() for some in runs]
    clean = torch.stack([tokens, tokens.roll(1, 1)], -1)[:, :, None].float()
    read = other.outputs({0: clean}, [{0: pair} for pair in pairs])[0]
    same = (read == clean)[:, :, 0]
    assert same[:, :, 0].all()
    assert same[:, :2, 1].all()
    assert not same[:, 2:, 1].any()


@pytest.fixture(scope="module")
def material():
    from tests.reference_model import induction_circuit

    model = induction_circuit()
    tokens = il.repeated_random_tokens(model, n_tokens=9, n_repeats=4, n_sequences=6)
    return Material.of(model, tokens=tokens, n_texts=0)


def test_on_the_hand_set_circuit_the_keys_carry_all(circuit, material):
    found = path_patch(circuit, "0.0", ["1.0", "1.1"], inputs="kqv", material=material)
    assert len(found.edges) == 3 * 2 + 3 + 3 * 2 * 2
    for one in found.edges:
        expected = 0.0
        if one.edge.receivers == (Head(1, 0),) and str(one.edge) == "0.0 -> 1.0 (K)":
            expected = 1.0
        if len(one.edge.receivers) > 1 and one.edge.input == "k":
            # the score is the mean of two heads, of which 1.1 has none
            expected = 1.0
        share = one.share("prefix")
        if one.edge.receivers == (Head(1, 1),):
            continue  # whose score is 0: no share of it
        assert share.value == pytest.approx(expected, abs=1e-4), str(one.edge)
        assert one.share("copying").value == pytest.approx(expected, abs=1e-4)


def test_without_the_sender_the_keys_match_nothing(circuit, material):
    found = path_patch(circuit, "0.0", "1.0", inputs="kv", other=Nothing(), material=material)
    assert found["0.0 -> 1.0 (K)"].share().value == pytest.approx(1, abs=1e-4)
    assert found["0.0 -> 1.0 (V)"].share("copying").value == pytest.approx(0, abs=1e-4)


def test_a_token_is_copied_where_it_followed_the_one_before(circuit):
    tokens = torch.tensor([[0, 5, 6, 7, 5, 6, 8, 5, 7]])
    expected = [False, False, False, False, False, True, False, False, False]
    assert copied(tokens)[0].tolist() == expected
    assert max(D_VOCAB, 9) == D_VOCAB


def test_what_is_no_edge_is_refused(circuit, material):
    with pytest.raises(ValueError, match="expected a receiver in a later layer"):
        path_patch(circuit, "1.0", "0.0", material=material)
    with pytest.raises(ValueError, match="expected each of inputs to be one of q, k, v"):
        path_patch(circuit, "0.0", "1.0", inputs="x", material=material)
    with pytest.raises(ValueError, match="expected other tokens of shape"):
        other = OtherTokens(torch.zeros(2, 3, dtype=torch.long))
        path_patch(circuit, "0.0", "1.0", other=other, material=material)
    random = torch.arange(1, 9)[None]
    with pytest.raises(ValueError, match="sequences that repeat themselves"):
        Material.of(circuit, tokens=random)


def test_a_model_that_acts_otherwise_is_refused(circuit, material):
    circuit.add_hook("blocks.1.attn.hook_z", lambda z, hook: z)
    try:
        with pytest.raises(ValueError, match="whose layers can be run one by one"):
            path_patch(circuit, "0.0", "1.0", material=material)
    finally:
        circuit.reset_hooks()


def test_the_table_has_an_edge_a_row(circuit, material):
    found = path_patch(circuit, "0.0", "1.0", inputs=["k", "v"], n_controls=1, material=material)
    frame = found.to_frame()
    assert frame["is_control"].tolist() == [False, False, True, True]
    assert frame["prefix_share"][0] == pytest.approx(1, abs=1e-4)
    assert frame["icl_share"].isna().all()
    assert [str(one.edge) for one in found.top(1)] == ["0.0 -> 1.0 (K)"]
    assert len(found.plot().data) == 2
    assert "0.0 -> 1.0 (K): 1.00" in repr(found)


def test_copying_is_how_much_better_copied_tokens_are_predicted_than_new_ones():
    clean = torch.tensor([[math.nan, 9.0, 4.0, 6.0, 1.0, 2.0]])
    changed = torch.tensor([[math.nan, 9.0, 9.0, 9.0, 2.0, 3.5]])
    is_copied = torch.tensor([[False, False, False, False, True, True]])
    found = copying_share(clean, changed, is_copied)
    assert found.lost.tolist() == [2.75 - 1.5]
    assert found.whole.tolist() == [5.0 - 1.5]  # position 1 follows BOS, and is left out
    assert not is_copied[0, 0]


def test_a_share_is_paired_by_sequence():
    whole = torch.linspace(4, 6, 20)
    found = Share(whole / 2, whole)
    assert (found.share.value, found.share.low, found.share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.loss.value == pytest.approx(2.5)
    assert found.minus(Share(whole / 4, whole)).value == pytest.approx(0.25)


def test_the_icl_share_is_of_minus_the_clean_score(implementation):
    model = il.load("toy-2l-narrow", implementation=implementation, device="cpu")
    text = il.sample_text(model, n_sequences=8, seq_len=128)
    copies = il.repeated_random_tokens(model, n_tokens=9, n_repeats=2, n_sequences=2)
    material = Material.of(model, tokens=copies, text=text, window=3)
    found = path_patch(model, "0.1", "1.1", other=Nothing(), n_controls=0, material=material).edges[
        0
    ]
    at = material.text.at
    with il.knocked_out(model, "1.1", method=CompositionCut(["0.1"])):
        options = dict(early=at.early, late=at.late, window=at.window)
        cut = icl(model, text.tokens, options)
    clean = icl(model, text.tokens, options)
    torch.testing.assert_close(found.of["icl"].whole, -clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.of["icl"].lost, cut - clean, atol=1e-4, rtol=1e-4)


def icl(model, tokens, options):
    """The matched-target ICL score of each sequence."""
    losses = il.per_token_loss(model, tokens)
    short = il.per_token_loss(model, il.metrics.short_cuts(tokens, **options))
    return il.metrics.matched_per_sequence(losses, short, **options)
