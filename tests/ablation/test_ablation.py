from __future__ import annotations

import math

import pytest
import torch

import induction_lens as il
from induction_lens import metrics
from induction_lens.ablation import (
    METHODS,
    Mean,
    PatternPreserving,
    Resample,
    context,
    controls,
    hooks,
    knocked_out,
)
from induction_lens.ablation import sets as ablation
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.ablation.outputs import other_rows
from induction_lens.heads import Head
from induction_lens.inputs import tokens
from induction_lens.models import (
    HAS_HOOKED_TRANSFORMER,
    InterventionError,
    hook_name,
    installed,
    keep,
)
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.hf_folders import hugging_face_model

MODELS = ["hooked", "bridge", "gpt2", "llama", "neox"]
if not HAS_HOOKED_TRANSFORMER:
    MODELS.remove("hooked")


def _model(name, **changes):
    if name not in ("hooked", "bridge"):
        return hugging_face_model(name)
    config = dict(n_layers=2, d_model=30, n_heads=5, d_head=14, d_vocab=53, n_ctx=61, seed=1)
    return build_toy(ToyConfig(**config | changes), implementation=name, device="cpu")


def _sequences(n=7, length=23, seed=0, d_vocab=53):
    drawn = torch.randint(1, d_vocab, (n, length), generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] = 0
    return drawn


def _n_hooks(model):
    return sum(len(point.fwd_hooks) for point in set(model.hook_dict.values()))


def _naive_logits(model, sequences, heads, method, reference, *, per_position=False, seed=0):
    """`run_with_hooks`, whole-batch, one head and one row at a time."""
    with torch.no_grad():
        _, clean = model.run_with_cache(sequences)
        _, other = model.run_with_cache(reference)
    donors = other_rows(len(reference), seed=seed).tolist()

    def write(z, hook):
        layer = int(hook.name.split(".")[1])
        z = z.clone()
        if method == "pattern-preserving":
            for row in range(z.shape[0]):
                for head in range(z.shape[2]):
                    pattern = clean[hook_name("pattern", layer)][row, head]
                    value = live[layer]
                    group = head // (z.shape[2] // value.shape[2])
                    z[row, :, head] = pattern @ value[row, :, group]
        for head in (h.head for h in heads if h.layer == layer):
            reference_z = other[hook_name("z", layer)][:, :, head]
            for row in range(z.shape[0]):
                if method in ("zero", "pattern-preserving"):
                    z[row, :, head] = 0
                elif method == "mean" and per_position:
                    z[row, :, head] = reference_z.mean(0)[: z.shape[1]]
                elif method == "mean":
                    z[row, :, head] = reference_z.mean((0, 1))
                else:
                    z[row, :, head] = reference_z[donors[row], : z.shape[1]]
        return z

    live = {}

    def keep(value, hook):
        live[int(hook.name.split(".")[1])] = value

    hooks = [(hook_name("v", layer), keep) for layer in range(model.cfg.n_layers)]
    hooks += [(hook_name("z", layer), write) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        return model.run_with_hooks(sequences, fwd_hooks=hooks)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("heads", [["1.2"], ["0.1", "1.0", "1.2"]])
def test_every_method_equals_the_naive_one(name, method, heads):
    model, sequences, reference = _model(name), _sequences(), _sequences(n=9, length=29, seed=1)
    parsed = [Head.parse(head) for head in heads]
    expected = _naive_logits(model, sequences, parsed, method, reference, seed=5)
    with torch.no_grad():
        clean = model(sequences)
        with knocked_out(model, heads, method=method, reference=reference, seed=5):
            called = model(sequences)
            hooked = model.run_with_hooks(sequences, fwd_hooks=[])
        after = model(sequences)
    assert torch.allclose(called, expected, atol=1e-5)
    assert torch.equal(called, hooked)
    assert torch.equal(clean, after)
    assert (called - clean).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_a_mean_per_position_equals_the_naive_one(name):
    model, sequences, reference = _model(name), _sequences(), _sequences(n=9, length=29, seed=1)
    expected = _naive_logits(model, sequences, [Head(0, 1)], "mean", reference, per_position=True)
    with (
        torch.no_grad(),
        knocked_out(model, "0.1", method=Mean(per_position=True), reference=reference),
    ):
        found = model(sequences)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_a_study_measures_what_the_naive_run_loses(name, method):
    model, sequences = _model(name), _sequences()
    study = ablation.ablate(
        model,
        ["1.2"],
        sequences,
        method=method,
        early=4,
        late=17,
        seed=5,
        batch_size=3,
        estimator="paper",
    )
    logits = _naive_logits(model, sequences, [Head(1, 2)], method, sequences, seed=5)
    losses = -logits.log_softmax(-1)[:, :-1].gather(-1, sequences[:, 1:, None])[..., 0]
    assert torch.allclose(study.ablated_losses[:, 1:], losses, atol=1e-5)
    clean = metrics.per_token_loss(model, sequences)
    assert torch.allclose(study.clean_losses[:, 1:], clean[:, 1:], atol=1e-5)
    # losses[:, t - 1] of the naive run is the loss of the token at position t
    ablated_score = losses[:, 16] - losses[:, 3]
    effect = ablated_score - (clean[:, 17] - clean[:, 4])
    assert study.ablated.value == pytest.approx(ablated_score.mean().item(), abs=1e-5)
    assert study.effect.value == pytest.approx(effect.mean().item(), abs=1e-5)
    assert study.clean.value == pytest.approx(metrics.icl_score(clean, 4, 17).value, abs=1e-5)
    assert _n_hooks(model) == 0


@pytest.mark.parametrize("name", MODELS)
def test_freezing_patterns_alone_changes_nothing(name):
    """With no head removed, pattern-preserving is the clean run."""
    model, sequences = _model(name), _sequences()
    frozen = hooks.Ablation(model, [], PatternPreserving())
    with torch.no_grad():
        clean = model(sequences)
        with context._frozen(frozen):
            found = model(sequences)
    assert torch.allclose(found, clean, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_each_head_alone_equals_its_own_study(implementation, method):
    model, sequences = _model(implementation), _sequences()
    options = dict(method=method, early=4, late=17, window=2, seed=3, estimator="paper")
    sweep = ablate_each_head(model, sequences, **options)
    for head in ("0.0", "1.4"):
        study = ablation.ablate(model, head, sequences, n_controls=0, **options)
        assert sweep[head] == pytest.approx(study.effect.value, abs=1e-6)
        per_sequence = [
            metrics.icl_per_sequence(losses, 4, 17, window=2)
            for losses in (study.ablated_losses, study.clean_losses)
        ]
        difference = per_sequence[0] - per_sequence[1]
        assert sweep.sem is not None
        parsed = Head.parse(head)
        assert sweep.sem[parsed.layer, parsed.head].item() == pytest.approx(
            (difference.std() / math.sqrt(7)).item(), abs=1e-6
        )


@pytest.fixture
def repeated(circuit):
    return tokens.repeated_random_tokens(circuit, n_tokens=10, n_repeats=3, n_sequences=9)


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
@pytest.mark.parametrize("head", ["0.0", "1.0"])
def test_either_head_of_the_circuit_is_needed(circuit, repeated, method, head):
    study = ablation.ablate(circuit, head, repeated, method=method, early=5, late=25)
    assert study.clean_losses[:, 12:].max() < 1e-3
    # resampling predicts right now and then: another sequence holds the same few tokens
    assert study.ablated_losses[:, 12:].mean() > 3
    assert study.effect.low > 15
    if (method, head) == ("zero", "1.0"):  # nothing is left to predict from: uniform over tokens
        assert study.ablated_losses[:, 1:].mean().item() == pytest.approx(math.log(29), abs=1e-4)
    assert study.rank == 1
    assert [c.effect.value for c in study.controls] == pytest.approx([0.0, 0.0], abs=1e-5)


def test_frozen_patterns_do_not_need_the_previous_token_head(circuit, repeated):
    study = ablation.ablate(circuit, "0.0", repeated, method="pattern-preserving", early=5, late=25)
    assert study.ablated_losses[:, 12:].max() < 1e-3
    induction = ablation.ablate(
        circuit, "1.0", repeated, method="pattern-preserving", early=5, late=25
    )
    assert induction.ablated_losses[:, 12:].min() > 3


def test_methods_that_share_a_run_give_what_each_gives_alone(implementation):
    model, sequences = _model(implementation), _sequences()
    options = {"early": 4, "late": 17, "seed": 2, "batch_size": 3}
    together = ablation.ablate_by_methods(model, ["0.1", "1.2"], sequences, **options)
    assert list(together) == list(METHODS)
    for method, study in together.items():
        alone = ablation.ablate(model, ["0.1", "1.2"], sequences, method=method, **options)
        assert torch.equal(study.clean_losses[:, 1:], alone.clean_losses[:, 1:])
        assert torch.allclose(study.ablated_losses[:, 1:], alone.ablated_losses[:, 1:], atol=1e-6)
        assert [c.heads for c in study.controls] == [c.heads for c in alone.controls]
        assert study.effect.value == pytest.approx(alone.effect.value, abs=1e-6)


def test_controls_are_measured_around_the_positions_only(implementation):
    model, sequences = _model(implementation), _sequences(length=50)
    study = ablation.ablate(model, "1.2", sequences, method="zero", early=17, late=49)
    assert study.short_losses is not None
    of_cuts = ~study.short_losses[2, 0].isnan()
    assert of_cuts.nonzero().flatten().tolist() == [*range(2, 18)]
    measured = ~study.control_losses[0, 0].isnan()
    assert measured.nonzero().flatten().tolist() == [*range(2, 33), *range(34, 50)]
    assert study.ablated_losses[:, 1:].isfinite().all()
    with pytest.raises(ValueError, match="run ablate again with these"):
        study.at(early=33, estimator="paper")
    with pytest.raises(ValueError, match="32 tokens apart, as the short cuts are"):
        study.at(early=18)


def test_controls_match_the_layers_and_leave_the_set_out(implementation):
    model = _model(implementation)
    heads = [Head(0, 1), Head(1, 0), Head(1, 3)]
    assert controls.n_possible_controls(model, heads) == 4 * 3
    sets = ablation.control_sets(model, heads, n=20)
    assert len(sets) == len(set(sets)) == 12
    few = ablation.control_sets(model, heads, n=5, seed=1)
    assert len(few) == len(set(few)) == 5
    assert set(few) <= set(sets)
    assert few == ablation.control_sets(model, heads, n=5, seed=1)
    assert few != ablation.control_sets(model, heads, n=5, seed=2)
    for chosen in sets:
        assert [head.layer for head in chosen] == [0, 1, 1]
        assert not set(chosen) & set(heads)


def test_the_rank_counts_the_controls_that_weaken_icl_more(implementation):
    model, sequences = _model(implementation), _sequences()
    options = dict(method="zero", early=4, late=17)
    study = ablation.ablate(model, "1.2", sequences, **options)
    alone = ablate_each_head(model, sequences, **options)
    others = {f"1.{head}": alone[f"1.{head}"] for head in (0, 1, 3, 4)}
    assert {str(c.heads[0]): pytest.approx(c.effect.value, abs=1e-6) for c in study.controls} == (
        others
    )
    assert study.rank == 1 + sum(effect >= alone["1.2"] for effect in others.values())
    values = [control.effect.value for control in study.controls]
    assert values == sorted(values, reverse=True)


def test_a_study_read_at_other_positions_is_the_study_made_there(implementation):
    model, sequences = _model(implementation), _sequences()
    first = ablation.ablate(model, "1.2", sequences, method="mean", early=4, late=17)
    options = dict(early=5, late=19, window=3)
    made = ablation.ablate(model, "1.2", sequences, method="mean", estimator="paper", **options)
    read = first.at(estimator="paper", **options)
    for field in ("clean", "ablated", "effect", "controls", "rank", "early", "late", "window"):
        assert getattr(read, field) == getattr(made, field), field
    assert first.at().effect == first.effect
    frame = read.to_frame()
    assert frame["what"].tolist() == ["clean", "ablated", "effect", *["control"] * 4]
    assert frame["value"].iloc[2] == read.effect.value
    assert "effect" in read._repr_html_()


@pytest.mark.parametrize("name", MODELS)
def test_no_hook_of_ours_survives_and_the_callers_do(name):
    model, sequences = _model(name), _sequences()
    seen = []
    point = model.hook_dict[hook_name("z", 1)]
    point.add_hook(lambda z, hook: seen.append(1))
    try:
        with pytest.raises(KeyboardInterrupt), knocked_out(model, "1.2", method="zero"):
            model(sequences)
            raise KeyboardInterrupt
        ablation.ablate(model, "1.2", sequences, method="pattern-preserving", early=4, late=17)
        assert _n_hooks(model) == 1
        assert "forward" not in vars(model)
        seen.clear()
        model(sequences)
        assert seen == [1]
    finally:
        point.remove_hooks()


@pytest.mark.parametrize("method", METHODS)
def test_a_write_that_the_model_drops_is_found_out(implementation, method):
    """Hooks run, but what they return is lost: the numbers would be those of a clean run."""
    model, sequences = _model(implementation), _sequences()
    point = model.hook_dict[hook_name("z", 1)]
    original = point.add_hook

    def deaf(function, **options):
        def run(z, hook):
            function(z, hook=hook)

        original(run, **options)

    point.add_hook = deaf
    with pytest.raises(InterventionError, match=r"blocks\.1\.attn\.hook_z.* dropped it"):
        ablation.ablate(model, "1.2", sequences, method=method, early=4, late=17)
    with (
        pytest.raises(InterventionError, match="dropped it"),
        knocked_out(model, ["0.1", "1.2"], method=method, reference=sequences),
    ):
        model(sequences)
    assert _n_hooks(model) == 0


def test_a_block_that_never_runs_the_model_is_an_error(implementation):
    model = _model(implementation)
    with (
        pytest.raises(InterventionError, match="expected a forward pass"),
        knocked_out(model, "1.2", method="zero"),
    ):
        pass


def test_a_layer_that_writes_nothing_can_be_knocked_out(implementation):
    model, sequences = _model(implementation), _sequences()
    with torch.no_grad():
        toy_weights(model)["blocks.1.attn.W_O"].zero_()
    study = ablation.ablate(model, "1.2", sequences, method="zero", early=4, late=17)
    assert study.effect.value == 0


def test_donors_are_a_permutation_without_a_fixed_point():
    for n in (2, 3, 17):
        for seed in range(20):
            donors = other_rows(n, seed=seed).tolist()
            assert sorted(donors) == list(range(n))
            assert all(donor != row for row, donor in enumerate(donors))
    assert other_rows(17, seed=0).tolist() == other_rows(17, seed=0).tolist()
    assert other_rows(17, seed=0).tolist() != other_rows(17, seed=1).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads="2.0"), r"heads from 0\.0 to 1\.4, got 2\.0"),
        (dict(heads=["1.2", "1.2"]), "each head once"),
        (dict(method="meen"), "did you mean 'mean'"),
        (dict(late=23), r"late \+ window <= 22"),
        (dict(n_controls=-1), "n_controls to be a whole number from 0 to 10000, got -1"),
        (dict(method=Resample(_sequences(n=1))), "at least two reference"),
        (dict(method=Resample(_sequences(n=3))), "a larger reference"),
        (
            dict(method=Mean(_sequences(length=9), per_position=True)),
            "a longer reference",
        ),
    ],
)
def test_bad_studies_are_refused(implementation, options, message):
    arguments = dict(heads="1.2", method="zero", early=4, late=17) | options
    model = _model(implementation)
    with pytest.raises(ValueError, match=message):
        ablation.ablate(model, arguments.pop("heads"), _sequences(), **arguments)
    assert _n_hooks(model) == 0


def test_a_set_without_controls_is_studied_all_the_same(implementation):
    model, sequences = _model(implementation), _sequences()
    most = [f"1.{h}" for h in range(3)]  # of five: no other three are left
    assert ablation.control_sets(model, most) == []
    study = ablation.ablate(model, most, sequences, method="zero", early=4, late=17)
    assert (study.controls, study.rank) == ((), None)
    assert repr(study).endswith(f"effect {study.effect}, no controls")
    other = ablation.ablate(model, most[:1], sequences, method="zero", early=4, late=17, window=2)
    assert repr(other).splitlines() == [
        "AblationStudy(1.0, zero, positions 4 and 17 ±2, matched-target)",
        f"  ICL score {other.clean}, without {other.ablated} nats",
        f"  effect {other.effect}, rank {other.rank} of 5",
    ]


def test_mean_and_resample_need_a_reference(implementation):
    model = _model(implementation)
    with (
        pytest.raises(ValueError, match="a reference for method 'mean'"),
        knocked_out(model, "1.2"),
    ):
        model(_sequences())


def test_pattern_preserving_takes_what_the_model_takes(implementation):
    """Text, as well as its tokens: the clean run is called as the model was."""
    model = il.load("toy-2l-narrow", device="cpu", implementation=implementation)
    text = "def f(x):\n    return x + x\n"
    tokens = model.to_tokens(text)
    with torch.no_grad(), knocked_out(model, "0.1", method="pattern-preserving"):
        assert torch.equal(model(text), model(tokens))
        assert not torch.equal(model(tokens), model(tokens.flip(1)))


def test_pattern_preserving_refuses_patterns_of_other_tokens(implementation):
    model, sequences = _model(implementation), _sequences()
    frozen = hooks.Ablation(model, [Head(1, 2)], PatternPreserving())
    patterns: dict[int, torch.Tensor] = {}
    with torch.no_grad(), installed(model, keep("pattern", range(2), into=patterns)):
        model(sequences[:2])
    frozen.freeze(patterns)
    with (
        pytest.raises(InterventionError, match="of a clean run on the same tokens"),
        torch.no_grad(),
        installed(model, frozen.hooks()),
    ):
        model(sequences)
