from __future__ import annotations

import math

import pytest
import torch
from transformer_lens.head_detector import detect_head

from induction_lens import detectors
from induction_lens.detectors import target_mask
from induction_lens.heads import Head
from induction_lens.inputs import tokens
from induction_lens.metrics import per_token_loss
from induction_lens.models import hook_name, run
from induction_lens.toys.model import ToyConfig, build_toy, set_weights, toy_weights
from tests.hf_folders import hugging_face_model


def _toy(implementation, **changes):
    config = dict(n_layers=2, d_model=30, n_heads=3, d_head=14, d_vocab=53, n_ctx=61, seed=1)
    return build_toy(ToyConfig(**config | changes), implementation=implementation, device="cpu")


def _patterns(model, sequences):
    """Every layer's attention pattern, [layer batch head query_pos key_pos]."""
    names = [hook_name("pattern", layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, cache = model.run_with_cache(sequences, names_filter=lambda name: name in names)
    return torch.stack([cache[name] for name in names])


def _is_target(detector, x, q, k):
    if detector == "previous_token":
        return q >= 2 and k == q - 1
    if detector == "duplicate_token":
        return 1 <= k < q and x[k] == x[q]
    return 2 <= k <= q and x[k - 1] == x[q]


@pytest.mark.parametrize("detector", ["previous_token", "induction", "duplicate_token"])
def test_scores_equal_a_loop_over_positions(implementation, detector):
    model = _toy(implementation)
    generator = torch.Generator().manual_seed(2)
    # few distinct tokens, BOS among them, so that sequences differ in how many queries count
    sequences = torch.randint(0, 7, (5, 23), generator=generator)
    sequences[:, 0] = 0
    scores = detectors.score_heads(
        model, tokens=sequences, detectors=[detector], batch_size=2, shuffled_null=False
    )[detector]
    patterns = _patterns(model, sequences)
    uniform = []
    for layer in range(2):
        for head in range(3):
            masses = []
            for row, x in enumerate(sequences.tolist()):
                for q in range(23):
                    keys = [k for k in range(q + 1) if _is_target(detector, x, q, k)]
                    if keys:
                        masses.append(sum(patterns[layer, row, head, q, k].item() for k in keys))
                        uniform.append(len(keys) / (q + 1))
            expected = sum(masses) / len(masses)
            assert scores.values[layer, head].item() == pytest.approx(expected, abs=1e-6)
    assert scores.uniform == pytest.approx(sum(uniform) / len(uniform), abs=1e-6)
    assert scores.ceiling == 1.0


def test_targets_by_hand():
    #                    BOS a  b  a  b  a
    x = torch.tensor([[0, 7, 8, 7, 8, 7]])
    induction = target_mask(x, "induction")[0]
    assert induction[3].nonzero().flatten().tolist() == [2]  # a: after the first a
    assert induction[4].nonzero().flatten().tolist() == [3]  # b: after the first b
    assert induction[5].nonzero().flatten().tolist() == [2, 4]  # a: after both earlier a
    assert not induction[:3].any()
    duplicate = target_mask(x, "duplicate_token")[0]
    assert [row.nonzero().flatten().tolist() for row in duplicate] == [[], [], [], [1], [2], [1, 3]]
    previous = target_mask(x, "previous_token")[0]
    assert [row.nonzero().flatten().tolist() for row in previous] == [[], [], [1], [2], [3], [4]]


def test_an_immediate_repetition_is_its_own_target():
    x = torch.tensor([[0, 7, 7, 7]])
    induction = target_mask(x, "induction")[0]
    assert [row.nonzero().flatten().tolist() for row in induction] == [[], [], [2], [2, 3]]


def test_the_circuit_scores_what_its_construction_says(circuit):
    n, r = 7, 4
    sequences = tokens.repeated_random_tokens(circuit, n_tokens=n, n_repeats=r, n_sequences=11)
    scores = detectors.score_heads(circuit, tokens=sequences)

    def score(detector, head):
        return scores[detector][head]

    assert score("previous_token", "0.0") == pytest.approx(1, abs=1e-3)
    assert score("induction", "1.0") == pytest.approx(1, abs=1e-3)
    # 1.1 attends to all j occurrences up to its own, which is no target: (j - 1) / j
    occurrences = [(j - 1) / j for j in range(2, r + 1)]
    assert score("duplicate_token", "1.1") == pytest.approx(sum(occurrences) / 3, abs=1e-3)
    for head in ("0.2", "1.2"):  # uniform heads
        for detector in ("previous_token", "induction", "duplicate_token"):
            assert score(detector, head) == pytest.approx(scores[detector].uniform, abs=1e-5)
    in_copies = range(n + 1, n * r + 1)
    uniform = sum(((q - 1) // n) / (q + 1) for q in in_copies) / len(in_copies)
    assert scores["induction"].uniform == pytest.approx(uniform, abs=1e-6)
    for detector in ("previous_token", "induction", "duplicate_token", "copying"):
        assert score(detector, "0.1") == 0  # rests on BOS: zero, and never NaN
    assert scores["induction"].above() == [Head(1, 0)]
    assert scores["previous_token"].above() == [Head(0, 0)]
    assert scores["copying"].above() == scores["copying_weights"].above() == [Head(1, 0)]
    assert score("copying", "1.0") == pytest.approx(1, abs=1e-3)
    assert score("copying_weights", "1.0") == pytest.approx(1, abs=1e-3)


def test_a_model_of_sinks_scores_zero_everywhere(implementation):
    model = _toy(implementation, n_ctx=41, positions="standard")
    weights = {name: torch.zeros_like(weight) for name, weight in toy_weights(model).items()}
    weights["embed.W_E"] = torch.randn(53, 30, generator=torch.Generator().manual_seed(0))
    weights["pos_embed.W_pos"][0, 0] = 1000.0
    weights["unembed.W_U"] = torch.eye(30, 53)
    for layer in range(2):
        weights[f"blocks.{layer}.attn.W_K"][:, 0, 0] = 100.0
        weights[f"blocks.{layer}.attn.b_Q"][:, 0] = 100.0
        weights[f"blocks.{layer}.attn.W_V"][:, :14] = torch.eye(14)
        weights[f"blocks.{layer}.attn.W_O"][:] = torch.eye(14, 30)
    set_weights(model, weights)
    sequences = tokens.repeated_random_tokens(model, n_tokens=11, n_repeats=3, n_sequences=5)
    scores = detectors.score_heads(model, tokens=sequences)
    for detector in ("previous_token", "induction", "duplicate_token", "copying"):
        assert scores[detector].values.abs().max() < 1e-6, detector
        assert scores[detector].above() == []


def test_the_shuffled_null_unmasks_a_head_that_knows_only_positions(implementation):
    model = _toy(implementation, d_model=64, d_head=32, n_ctx=31, positions="standard")
    weights = {name: torch.zeros_like(weight) for name, weight in toy_weights(model).items()}
    weights["pos_embed.W_pos"][:, :31] = torch.eye(31)
    weights["embed.W_E"][:, 33:] = torch.randn(53, 31, generator=torch.Generator().manual_seed(0))
    for position in range(10, 31):  # head 0.0 looks nine positions back, whatever is there
        weights["blocks.0.attn.W_Q"][0, position, position - 9] = 100.0
    weights["blocks.0.attn.W_K"][0, :31, :31] = 100 * torch.eye(31)
    set_weights(model, weights)
    sequences = tokens.repeated_random_tokens(model, n_tokens=10, n_repeats=3, n_sequences=7)
    induction = detectors.score_heads(model, tokens=sequences, detectors=["induction"])["induction"]
    assert induction["0.0"] > 0.9
    assert induction.null is not None
    assert induction.null[0, 0] == pytest.approx(induction["0.0"], abs=0.02)
    assert induction.above(0.3) == []


def test_the_null_is_the_score_on_shuffled_tokens_with_the_targets_left_in_place(implementation):
    model = _toy(implementation)
    sequences = tokens.repeated_random_tokens(model, n_tokens=7, n_repeats=3, n_sequences=5)
    scores = detectors.score_heads(model, tokens=sequences, detectors=["induction"], seed=4)
    patterns = _patterns(model, tokens.shuffled(sequences, seed=5))
    mask = target_mask(sequences, "induction")
    clean = _patterns(model, sequences)

    def per_sequence(patterns):
        on_targets = (patterns * mask[None, :, None]).sum((-1, -2))
        return on_targets / mask.any(-1).sum(-1)[:, None]

    induction = scores["induction"]
    assert induction.null is not None
    assert torch.allclose(induction.null, per_sequence(patterns).mean(1), atol=1e-6)
    difference = per_sequence(clean) - per_sequence(patterns)
    assert induction.over_null is not None
    assert torch.allclose(induction.over_null, difference.mean(1), atol=1e-6)
    assert induction.over_null_sem is not None
    paired = difference.std(1) / math.sqrt(5)
    assert torch.allclose(induction.over_null_sem, paired, atol=1e-6)
    assert induction.n_sequences == 5


def test_the_standard_error_is_that_of_the_mean_over_sequences(implementation):
    model = _toy(implementation)
    sequences = tokens.repeated_random_tokens(model, n_tokens=7, n_repeats=3, n_sequences=6)
    scores = detectors.score_heads(model, tokens=sequences, detectors=["induction", "copying"])
    single = [
        detectors.score_heads(model, tokens=row[None], detectors=["induction"])["induction"].values
        for row in sequences
    ]
    expected = torch.stack(single).std(0) / math.sqrt(6)
    sem = scores["induction"].sem
    assert sem is not None
    assert torch.allclose(sem, expected, atol=1e-6)


def test_previous_token_is_scored_on_text_where_there_is_some(circuit):
    random = tokens.repeated_random_tokens(circuit, n_tokens=3, n_repeats=2, n_sequences=2)
    text = torch.randint(1, 29, (3, 11), generator=torch.Generator().manual_seed(0))
    text[:, 0] = 0
    on_text = detectors.score_heads(circuit, tokens=random, text=text)["previous_token"]
    # the uniform head 0.2 tells which tokens were scored: mean of 1 / (q + 1) for q >= 2
    assert on_text["0.2"] == pytest.approx(sum(1 / (q + 1) for q in range(2, 11)) / 9, abs=1e-5)
    on_random = detectors.score_heads(circuit, tokens=random)["previous_token"]
    assert on_random["0.2"] == pytest.approx(sum(1 / (q + 1) for q in range(2, 7)) / 5, abs=1e-5)


MODELS = ["toy", "toy with MLPs", "no norms", "gpt2", "llama", "neox"]


def _without_norms(implementation):
    """As toys are often configured in TransformerLens."""
    if implementation == "bridge":
        pytest.skip("made from a configuration of HookedTransformer")
    from transformer_lens import HookedTransformer

    sizes = dict(n_layers=2, d_model=24, n_ctx=61, d_head=8, n_heads=3, d_vocab=53)
    return HookedTransformer({**sizes, "attn_only": True, "normalization_type": None, "seed": 2})


@pytest.mark.parametrize("name", MODELS)
def test_copying_equals_a_loop_over_every_path(name, implementation):
    if name == "no norms":
        model = _without_norms(implementation)
    elif name.startswith("toy"):
        model = _toy(implementation, attn_only=name == "toy")
    else:
        model = hugging_face_model(name)
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(1, 50, (3, 12), generator=generator)
    sequences[:, 7:] = sequences[:, 1:6]
    sequences[:, 0] = 0
    scores = detectors.score_heads(model, tokens=sequences, detectors=["copying"])["copying"]
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    with torch.no_grad():
        _, cache = model.run_with_cache(sequences)
    W_U = model.W_U.detach()
    centred = str(model.cfg.normalization_type).startswith("LN")
    for layer in range(n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        value = cache[f"blocks.{layer}.attn.hook_v"]
        for head in range(n_heads):
            own = total = 0.0
            chances = []
            for b in range(3):
                distinct = sorted(set(sequences[b, 1:].tolist()))
                chances.append(1 / len(distinct))
                for q in range(1, 12):
                    scale = 1.0 if name == "no norms" else cache["ln_final.hook_scale"][b, q, 0]
                    for k in range(1, q + 1):
                        group = head // (n_heads // value.shape[2])
                        written = value[b, k, group] @ model.W_O[layer, head]
                        if centred:
                            written = written - written.mean()
                        logits = pattern[b, head, q, k] * (written / scale) @ W_U
                        raised = (logits - logits.mean()).relu()
                        own += raised[sequences[b, k]].item()
                        total += raised[distinct].sum().item()
            share, chance = own / total, sum(chances) / 3
            rescaled = (share - chance) / (1 - chance if share >= chance else chance)
            assert scores.values[layer, head].item() == pytest.approx(rescaled, abs=2e-4)


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama", "neox"])
def test_eigenvalues_equal_those_of_the_whole_circuit(name, implementation):
    model = _toy(implementation) if name == "toy" else hugging_face_model(name)
    scores = detectors.score_heads(model, detectors=["copying_weights"])["copying_weights"]
    W_E, W_U = model.W_E.detach(), model.W_U.detach()
    if str(model.cfg.normalization_type).startswith("LN"):
        W_E = W_E - W_E.mean(1, keepdim=True)
        W_U = W_U - W_U.mean(0, keepdim=True)
    W_U = W_U - W_U.mean(1, keepdim=True)  # what is added to all logits alike
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            W_V = model.W_V[layer]
            W_V = W_V[head // (model.cfg.n_heads // len(W_V))]
            full = W_E @ W_V @ model.W_O[layer, head] @ W_U  # d_vocab x d_vocab
            eigenvalues = torch.linalg.eigvals(full.detach().double())
            expected = (eigenvalues.real.sum() / eigenvalues.abs().sum()).item()
            assert scores.values[layer, head].item() == pytest.approx(expected, abs=2e-3)


def test_what_is_added_to_all_logits_alike_changes_no_copying_score(implementation):
    model = _toy(implementation)
    sequences = tokens.repeated_random_tokens(model, n_tokens=7, n_sequences=3)
    names = ["copying", "copying_weights"]
    before = detectors.score_heads(model, tokens=sequences, detectors=names)
    losses = per_token_loss(model, sequences)[:, 1:]
    weights = {name: w.detach().clone() for name, w in toy_weights(model).items()}
    generator = torch.Generator().manual_seed(6)
    weights["unembed.W_U"] += torch.randn(len(weights["unembed.W_U"]), 1, generator=generator)
    set_weights(model, weights)
    assert torch.allclose(per_token_loss(model, sequences)[:, 1:], losses, atol=1e-4)
    after = detectors.score_heads(model, tokens=sequences, detectors=names)
    for name in names:
        assert torch.allclose(after[name].values, before[name].values, atol=1e-3), name


def test_copying_is_minus_one_where_the_attended_token_alone_is_never_raised(circuit):
    weights = {name: w.detach().clone() for name, w in toy_weights(circuit).items()}
    weights["blocks.1.attn.W_V"][0] *= -1
    set_weights(circuit, weights)
    sequences = tokens.repeated_random_tokens(circuit, n_tokens=7, n_sequences=3)
    scores = detectors.score_heads(circuit, tokens=sequences)
    assert scores["copying"]["1.0"] == pytest.approx(-1, abs=1e-3)
    assert scores["copying_weights"]["1.0"] == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("previous_token_head", "previous"),
        ("duplicate_token_head", "duplicate_token"),
        ("induction_head", "induction"),
    ],
)
@pytest.mark.parametrize("error_measure", ["mul", "abs"])
def test_transformer_lens_detect_head_follows_from_our_masks(
    implementation, theirs, ours, error_measure
):
    """Both of `detect_head`'s error measures, computed from our targets on a single prompt."""
    model = _toy(implementation)
    prompt = torch.randint(1, 9, (1, 17), generator=torch.Generator().manual_seed(3))
    model.to_tokens = lambda *_, **__: prompt  # it tokenises a text, and we have none
    found = detect_head(model, "x", theirs, error_measure=error_measure)
    if ours == "previous":
        mask = torch.diag(torch.ones(16), -1)  # theirs counts the token after BOS as well
    else:
        # theirs has no BOS to leave out: the targets of ours with a BOS put before the prompt
        with_bos = torch.cat([torch.zeros(1, 1, dtype=torch.long), prompt], 1)
        mask = target_mask(with_bos, ours)[0, 1:, 1:].float()
    pattern = _patterns(model, prompt)[:, 0]
    if error_measure == "mul":
        expected = (pattern * mask).sum((-1, -2)) / pattern.sum((-1, -2))
    else:
        expected = 1 - (pattern - mask).abs().sum((-1, -2)) / 17  # rounded to 3 digits by theirs
    assert torch.allclose(found, expected, atol=1e-6 if error_measure == "mul" else 6e-4)


def test_a_perfect_induction_head_reads_less_in_detect_head(circuit):
    """It divides by the attention of all queries, the first copy's included."""
    sequences = tokens.repeated_random_tokens(circuit, n_tokens=13, n_repeats=2, n_sequences=1)
    circuit.to_tokens = lambda *_, **__: sequences
    theirs = detect_head(circuit, "x", "induction_head")
    ours = detectors.score_heads(circuit, tokens=sequences)["induction"]
    assert ours["1.0"] == pytest.approx(1, abs=1e-3)
    assert theirs[1, 0].item() == pytest.approx(13 / 27, abs=2e-3)


def test_a_model_without_norms_is_measured_like_any_other(implementation):
    model = _without_norms(implementation)
    sequences = tokens.repeated_random_tokens(model, n_tokens=7, n_sequences=3)
    with run(model, sequences[:1]) as road:
        assert road.why_whole is None
    scores = detectors.score_heads(model, tokens=sequences)
    patterns = _patterns(model, sequences)
    marked = target_mask(sequences, "induction")
    counted = marked.any(-1)
    expected = (patterns * marked[:, None]).sum(-1)[:, :, :].transpose(2, 3)
    expected = expected.permute(0, 3, 1, 2)[..., counted].mean(-1)
    assert torch.allclose(scores["induction"].values, expected, atol=1e-6)
    with torch.no_grad():
        logits = model(sequences)[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.mT, sequences[:, 1:], reduction="none")
    assert torch.allclose(per_token_loss(model, sequences)[:, 1:], losses, atol=1e-5)


def test_numbers_that_are_none_are_refused(implementation):
    model = _toy(implementation)
    weights = toy_weights(model)
    for name, cases in (("W_Q", (None, ["induction"])), ("W_V", (None, ["copying_weights"]))):
        weight = weights[f"blocks.1.attn.{name}"]
        kept = weight.clone()
        with torch.no_grad():
            weight[1, 0, 0] = math.nan
        for names in cases:
            with pytest.raises(ValueError, match=r"finite weights, got NaN .* in .*\.1\..*attn"):
                detectors.score_heads(model, detectors=names)
        with torch.no_grad():
            weight.copy_(kept)
    with torch.no_grad():
        weights["blocks.0.attn.W_V"].mul_(1e38)
        weights["blocks.0.attn.b_V"].fill_(3e38)
    with pytest.raises(ValueError, match="finite activations"):
        detectors.score_heads(model, detectors=["copying"])


def test_an_unknown_detector_names_the_closest():
    with pytest.raises(ValueError, match="did you mean 'induction'"):
        detectors.score_heads(_toy("bridge"), detectors=["inductoin"])
    with pytest.raises(ValueError, match="got 'nothing'; choose one of them"):
        detectors.score_heads(_toy("bridge"), detectors=["nothing"])
    with pytest.raises(ValueError, match="got none"):
        detectors.score_heads(_toy("bridge"), detectors=[])
