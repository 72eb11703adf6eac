"""A model that is taken apart against the model itself."""

from __future__ import annotations

import pytest
import torch

from induction_lens.ablation import (
    Mean,
    PatternPreserving,
    Resample,
    Zero,
    layerwise,
    sweep,
)
from induction_lens.ablation.each_head import ablate_each_head
from induction_lens.heads import Head
from induction_lens.metrics import per_token_loss
from induction_lens.models import (
    HAS_HOOKED_TRANSFORMER,
    LayerByLayer,
    Unembedder,
    hook_name,
    losses_at,
    rotate_halves,
    run,
    toy_weights,
    unembedded_losses,
)
from induction_lens.toys.model import ToyConfig, build_toy
from tests.hf_folders import hugging_face_model

TOKENS = torch.randint(1, 53, (5, 23), generator=torch.Generator().manual_seed(0))
TOYS = [
    (implementation, positions, attn_only)
    for implementation in ["hooked"] * HAS_HOOKED_TRANSFORMER + ["bridge"]
    for positions in ["rotary", "standard"] + ["shortformer"] * (implementation == "hooked")
    for attn_only in (True, False)
]
HUGGING_FACE = ["gpt2", "llama", "neox"]


def _toy(implementation, positions="rotary", attn_only=True):
    config = ToyConfig(
        n_layers=3,
        d_model=30,
        n_heads=5,
        d_head=14,
        d_vocab=53,
        n_ctx=61,
        smeared_keys=True,
        positions=positions,
        attn_only=attn_only,
    )
    model = build_toy(config, implementation=implementation, device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases of zero would hide that one is forgotten
        for name, weight in toy_weights(model).items():
            if ".b_" in name or name.endswith("smear"):
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def _cached(model, site, layer):
    kept = []
    point = model.hook_dict[hook_name(site, layer)]
    point.add_hook(lambda activation, hook: kept.append(activation.detach()))
    with torch.no_grad():
        model(TOKENS)
    point.remove_hooks()
    return kept[0]


@pytest.mark.parametrize("which", TOYS + HUGGING_FACE, ids=str)
def test_layers_compute_what_the_model_computes(which):
    model = hugging_face_model(which) if isinstance(which, str) else _toy(*which)
    n_layers = model.cfg.n_layers
    z_of_model = [_cached(model, "z", layer) for layer in range(n_layers)]
    before = [_cached(model, "resid_pre", layer) for layer in range(n_layers)]
    with torch.no_grad():
        logits = model(TOKENS)
    with run(model, TOKENS) as road:
        assert road.why_whole is None
        residual = road.enter(TOKENS)
        for layer in range(n_layers):
            assert torch.allclose(residual, before[layer], atol=1e-5)
            inputs = road.attention_inputs(layer, residual)
            z, some = road.attend(layer, inputs), road.attend(layer, inputs, [3, 17])
            assert torch.allclose(z, z_of_model[layer], atol=1e-5)
            assert torch.allclose(some, z_of_model[layer][:, [3, 17]], atol=1e-5)
            reduced = road.attention_inputs(layer, residual, [3, 17])
            assert torch.allclose(road.attend(layer, reduced, [3, 17]), some, atol=1e-5)
            middle = residual + road.attention_out(layer, z)
            residual = road.after_attention(layer, residual, middle)
        found = road.unembed(road.final_norm(residual))
    assert torch.allclose(found, logits, atol=3e-5)
    with torch.no_grad():  # and nothing is left behind
        assert torch.equal(model(TOKENS), logits)


def test_what_a_head_adds_is_the_change_of_the_residual_stream(implementation):
    model = _toy(implementation)
    with run(model, TOKENS) as road:
        residual = road.enter(TOKENS)
        z = road.attend(0, road.attention_inputs(0, residual))
        whole = road.attention_out(0, z)
        without = z.clone()
        without[:, :, [1, 4]] = 0
        change = road.change(0, -z[:, :, [1, 4]], [1, 4])
        assert torch.allclose(road.attention_out(0, without), whole + change, atol=1e-5)
        assert change.abs().max() > 0.1


def test_a_callers_hook_is_never_left_out(implementation):
    """The caller doubles a pattern: what is measured has to be the model with that hook."""
    model = _toy(implementation)
    options = dict(method="zero", early=4, late=17, progress=False)
    plain = ablate_each_head(model, TOKENS, **options)
    point = model.hook_dict[hook_name("z", 1)]
    point.add_hook(lambda z, hook: 2 * z)
    with run(model, TOKENS) as road:
        assert road.why_whole
    hooked = ablate_each_head(model, TOKENS, **options)
    losses = per_token_loss(model, TOKENS)
    point.remove_hooks()
    assert not torch.allclose(plain.values, hooked.values, atol=1e-2)
    assert not torch.allclose(losses[:, 1:], per_token_loss(model, TOKENS)[:, 1:], atol=1e-2)


def test_a_model_that_is_put_together_in_another_way_is_run_whole(implementation):
    model = _toy(implementation)
    jobs = [sweep.Job((Head(0, 1),), Mean()), sweep.Job((Head(2, 3),), PatternPreserving())]
    before = sweep.ablation_losses(model, jobs, TOKENS, progress=False)[0].long

    def doubled(module, inputs, output):
        return 2 * output if isinstance(output, torch.Tensor) else (2 * output[0], *output[1:])

    handle = model.blocks[1].register_forward_hook(doubled)
    with run(model, TOKENS) as road:
        assert road.why_whole
    with torch.no_grad():
        logits = model(TOKENS)
    clean = sweep.ablation_losses(model, jobs, TOKENS, progress=False)[0].long
    handle.remove()
    naive = -logits.log_softmax(-1)[:, :-1].gather(-1, TOKENS[:, 1:, None])[..., 0]
    assert torch.allclose(clean[:, 1:], naive, atol=1e-5)
    assert not torch.allclose(clean[:, 1:], before[:, 1:], atol=1e-2)


@pytest.mark.parametrize("where", ["bridge", "hooked"])
def test_local_attention_is_run_whole(where):
    if where == "hooked" and HAS_HOOKED_TRANSFORMER:
        model = _toy("hooked")
        model.cfg.use_local_attn, model.cfg.window_size = True, 23
        restore = lambda: setattr(model.cfg, "use_local_attn", False)  # noqa: E731
    else:
        model = hugging_face_model("llama")
        config = model.original_model.config
        config.sliding_window = 23
        restore = lambda: delattr(config, "sliding_window")  # noqa: E731
    try:
        with run(model, TOKENS) as road:
            assert road.why_whole is None  # 23 tokens are within the window
        with run(model, torch.cat([TOKENS, TOKENS], dim=1)) as road:
            assert road.why_whole
    finally:
        restore()


def test_capped_attention_scores_are_run_whole(implementation):
    model = _toy(implementation)
    model.cfg.attn_scores_soft_cap = 50.0  # too high to show on these scores
    with run(model, TOKENS) as road:
        assert road.why_whole


def test_rotation_by_halves_is_hugging_faces():
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 7, 3, 16, generator=generator)
    angles = torch.randn(1, 7, 4, generator=generator).repeat(1, 1, 2)
    by = (angles.cos(), angles.sin())
    theirs, _ = apply_rotary_pos_emb(query.transpose(1, 2), query.transpose(1, 2), *by)
    assert torch.allclose(rotate_halves(query, by), theirs.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("name", ["toy", *HUGGING_FACE])
def test_losses_where_they_are_read_are_those_of_the_whole_pass(name, implementation, monkeypatch):
    model = _toy(implementation) if name == "toy" else hugging_face_model(name)
    monkeypatch.setattr("induction_lens.models.passes._LOGITS_BYTES", 4 * 311 * 3)  # many pieces
    monkeypatch.setattr("induction_lens.models.passes._FEWEST_ROWS", 1)
    with torch.no_grad():
        logits = model(TOKENS)
        losses = losses_at(model, TOKENS, [17, 4, 1])
    for column, position in enumerate([17, 4, 1]):
        for row in range(5):
            log_p = logits[row, position - 1].double().log_softmax(0)
            expected = -log_p[TOKENS[row, position]].item()
            assert losses[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_logits_that_are_capped_after_the_unembedding_are_found_out(implementation):
    """A product with W_U would leave the cap out."""
    model = _toy(implementation)
    original = model.forward

    def capped(*args, **kwargs):
        return 2 * torch.tanh(original(*args, **kwargs) / 2)

    model.forward = capped
    with torch.no_grad():
        logits = model(TOKENS)
        losses = losses_at(model, TOKENS, list(range(1, 23)))
    del model.forward
    naive = -logits.log_softmax(-1)[:, :-1].gather(-1, TOKENS[:, 1:, None])[..., 0]
    assert torch.allclose(losses, naive, atol=1e-5)


def test_pieces_are_no_larger_than_the_budget(monkeypatch):
    monkeypatch.setattr("induction_lens.models.passes._LOGITS_BYTES", 4 * 31 * 6)
    monkeypatch.setattr("induction_lens.models.passes._FEWEST_ROWS", 1)
    sizes = []

    class Ones(Unembedder):
        d_vocab = 31

        def __init__(self):
            pass

        def __call__(self, final):
            sizes.append(len(final))
            return final @ torch.ones(3, 31)

    final = torch.randn(4, 5, 3)
    losses = unembedded_losses(Ones(), final, torch.zeros(4, 5, dtype=torch.long))
    assert sizes == [6, 6, 6, 2]
    assert torch.allclose(losses, torch.full((4, 5), 31.0).log(), atol=1e-5)


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama"])
def test_knockouts_that_go_together_are_those_that_go_alone(name, implementation, monkeypatch):
    model = _toy(implementation) if name == "toy" else hugging_face_model(name)
    heads = [Head(layer, head) for layer in range(model.cfg.n_layers) for head in (0, 2)]
    methods = (Zero(), Mean(), Resample(), PatternPreserving())
    jobs = [sweep.Job((head,), method, (5, 9, 21)) for method in methods for head in heads]
    jobs.append(sweep.Job(tuple(heads), PatternPreserving(), (5, 9, 21)))
    found = []
    for n_positions in (1, 10**6):
        monkeypatch.setattr(layerwise, "positions_for", lambda model, n=n_positions: n)
        found.append(sweep.ablation_losses(model, jobs, TOKENS[:3], progress=False)[1].long)
    read = [5, 9, 21]
    assert torch.allclose(found[0][..., read], found[1][..., read], atol=1e-5)
    assert found[0][..., read].isfinite().all()


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama"])
@pytest.mark.parametrize("late", [21, 22])
def test_known_outputs_spare_the_clean_pass_its_attention(name, late, implementation, monkeypatch):
    """Against a reference that is passed, and so is not known to be the same sequences."""
    model = _toy(implementation) if name == "toy" else hugging_face_model(name)
    last = model.cfg.n_layers - 1
    heads = ((Head(0, 1), Head(last, 2)), (Head(last, 0),))

    def jobs(reference):
        return [
            sweep.Job(chosen, method, read)
            for chosen in heads
            for method in (Zero(), Mean(reference), Resample(reference))
            for read in ((5, 9, late), None)
        ]

    # that layers end where the model does is found out once, and no longer counted
    sweep.ablation_losses(model, jobs(None), TOKENS, batch_size=2, progress=False)
    attended = []
    attend = LayerByLayer.attend
    monkeypatch.setattr(
        LayerByLayer, "attend", lambda *args: attended.append(args[1]) or attend(*args)
    )
    found, counts = [], []
    for reference in (None, TOKENS.clone()):
        attended.clear()
        options = dict(batch_size=2, progress=False)
        of_all = sweep.ablation_losses(model, jobs(reference), TOKENS, **options)
        found.append([losses.long for losses in of_all])
        counts.append(len(attended))
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
        assert torch.allclose(ours, expected, atol=1e-5, equal_nan=True)
    assert counts[1] - counts[0] == 3 * (last + 1)  # three batches
    monkeypatch.setattr("induction_lens.ablation.outputs._WHOLE_BYTES", 0)
    attended.clear()
    sweep.ablation_losses(model, jobs(None), TOKENS, batch_size=2, progress=False)
    assert len(attended) == counts[1]


@pytest.mark.parametrize("positions", ["rotary", "standard"])
def test_the_first_layer_projects_each_token_once_where_nothing_else_is_in_the_stream(
    implementation, positions
):
    model = _toy(implementation, positions)
    normed = []
    rare = torch.arange(1, 47).view(2, 23)
    with run(model, TOKENS) as road:
        assert road.why_whole is None
        handle = model.blocks[0].ln1.register_forward_hook(
            lambda module, inputs, output: normed.append(output[..., 0].numel())
        )
        for tokens in (TOKENS, rare):
            residual = road.enter(tokens)
            normed.clear()
            road.attention_inputs(0, residual)
            # a native bridge's blocks are called as they are
            repeats = implementation == "hooked" and positions == "rotary" and tokens is TOKENS
            assert normed == [len(tokens.unique()) if repeats else tokens.numel()]
    handle.remove()


def test_a_residual_stream_that_was_written_to_is_projected_in_whole(implementation):
    """What is known of the stream that entered says nothing of another."""
    model = _toy(implementation)
    with run(model, TOKENS) as road:
        assert road.why_whole is None
        residual = road.enter(TOKENS)
        other = residual.clone()
        other[3, 11, :7] += 1
        clean, written = (road.attention_inputs(0, x) for x in (residual, other))
        change = (written.value - clean.value).abs().amax((2, 3))
        assert change[3, 11] > 0.1
        change[3, 11] = 0
        assert change.max() < 1e-5
