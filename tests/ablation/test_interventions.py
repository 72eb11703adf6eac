"""What a knock-out promises, whatever its caller does: it acts, all of it, until the block ends,
and leaves nothing behind."""

from __future__ import annotations

import copy
import sys
import threading

import pytest
import torch

import induction_lens as il
from induction_lens.ablation import METHODS, Mean, knocked_out
from induction_lens.models import HAS_HOOKED_TRANSFORMER, InterventionError
from induction_lens.toys.model import ToyConfig, build_toy, toy_weights
from tests.hf_folders import CONFIGS, hugging_face_model, loaded_from_config

TOY = ToyConfig(
    n_layers=2, d_model=20, n_heads=3, d_head=6, d_vocab=41, n_ctx=48, smeared_keys=True
)


def _toy(implementation, **changes):
    model = build_toy(
        ToyConfig(**{**TOY.to_dict(), **changes}), implementation=implementation, device="cpu"
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in toy_weights(model).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.6)
    return model


def _tokens(n=4, n_pos=30, seed=0):
    tokens = torch.randint(1, 41, (n, n_pos), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def _logits(model, tokens):
    with torch.no_grad():
        return model(tokens)


def _n_hooks(model):
    points = model.hook_dict.values()
    return sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in points)


# --- hooks that are taken away


@pytest.mark.parametrize("method", ["zero", "pattern-preserving"])
def test_hooks_that_are_reset_inside_the_block_are_noticed(implementation, method):
    model = _toy(implementation)
    before = _n_hooks(model)
    with (
        pytest.raises(InterventionError, match="something removed them"),
        knocked_out(model, "0.1", method=method),
    ):
        model(_tokens())
        model.reset_hooks()
        model(_tokens())
    assert _n_hooks(model) == before


def test_run_with_hooks_inside_the_block_takes_only_its_own(implementation):
    model, tokens = _toy(implementation), _tokens()
    with knocked_out(model, "0.1", method="zero"):
        first = _logits(model, tokens)
        model.run_with_hooks(
            tokens, fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: 2 * x)]
        )
        assert torch.equal(_logits(model, tokens), first)
    assert not torch.equal(_logits(model, tokens), first)


# --- knock-outs inside knock-outs


def test_zero_inside_zero_is_their_union(implementation):
    model, tokens = _toy(implementation), _tokens()
    with knocked_out(model, ["0.1", "1.2"], method="zero"):
        union = _logits(model, tokens)
    with knocked_out(model, "0.1", method="zero"), knocked_out(model, "1.2", method="zero"):
        assert torch.equal(_logits(model, tokens), union)


@pytest.mark.parametrize("outer", METHODS)
@pytest.mark.parametrize("inner", METHODS)
def test_nesting_is_the_union_or_refused(implementation, outer, inner):
    model, tokens = _toy(implementation), _tokens()
    options = {"reference": _tokens(6, seed=1)}
    if inner != "zero" or outer == "pattern-preserving":
        with knocked_out(model, "0.1", method=outer, **options):
            model(tokens)
            with (
                pytest.raises(ValueError, match="name the heads of both in one call"),
                knocked_out(model, "1.2", method=inner, **options),
            ):
                pass
    with knocked_out(model, "0.1", method=outer, **options):  # the list of open ones is as before
        model(tokens)


# --- caches, masks and generation


def _generate(model, tokens, *, cached):
    return model.generate(
        tokens, max_new_tokens=4, do_sample=False, stop_at_eos=False, use_past_kv_cache=cached,
        return_type="tokens", verbose=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("which", ["toy", "gpt2", "llama", "neox"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("zero", {}), ("mean", {}), (Mean(per_position=True), {}), ("resample", {})],
    ids=str,
)
def test_generation_with_a_cache_is_generation_without(implementation, which, method, options):
    """Positions of a call are not positions of the sequence: a cached step runs the last alone."""
    if which == "toy":
        model, tokens = _toy(implementation, smeared_keys=False), _tokens(2, 9)
        model.tokenizer = il.load(
            "toy-2l-narrow", device="cpu", implementation=implementation
        ).tokenizer
    else:
        model, tokens = hugging_face_model(which), _tokens(2, 9)
    reference = _tokens(5, 20, seed=2)
    options = {**options, "method": method, "reference": reference}
    expected = tokens
    for _ in range(4):  # a loop over whole sequences
        with knocked_out(model, ["0.1", "1.0"], **options):
            expected = torch.cat([expected, _logits(model, expected)[:, -1:].argmax(-1)], 1)
    with knocked_out(model, ["0.1", "1.0"], **options):
        assert torch.equal(_generate(model, tokens, cached=False), expected)
    if which in ("gpt2", "llama"):  # these bridges leave the cache out, knocked out or not
        with (
            pytest.raises(InterventionError, match="in the key/value cache, but this"),
            knocked_out(model, ["0.1", "1.0"], **options),
        ):
            _generate(model, tokens, cached=True)
        return
    with knocked_out(model, ["0.1", "1.0"], **options):
        assert torch.equal(_generate(model, tokens, cached=True), expected)


def test_patterns_cannot_be_preserved_with_a_cache(implementation):
    model = _toy(implementation, smeared_keys=False)
    model.tokenizer = il.load(
        "toy-2l-narrow", device="cpu", implementation=implementation
    ).tokenizer
    tokens = _tokens(2, 9)
    with (
        pytest.raises(InterventionError, match="use_past_kv_cache=False"),
        knocked_out(model, "0.1", method="pattern-preserving"),
    ):
        _generate(model, tokens, cached=True)
    expected = tokens
    for _ in range(4):
        with knocked_out(model, "0.1", method="pattern-preserving"):
            expected = torch.cat([expected, _logits(model, expected)[:, -1:].argmax(-1)], 1)
    with knocked_out(model, "0.1", method="pattern-preserving"):
        assert torch.equal(_generate(model, tokens, cached=False), expected)


def test_columns_of_a_masked_batch_are_not_positions():
    model, tokens = hugging_face_model("llama"), _tokens(2, 12)
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    reference = _tokens(4, 12, seed=1)
    for options in ({"method": "resample"}, {"method": Mean(per_position=True)}):
        with (
            pytest.raises(InterventionError, match="got masked tokens"),
            knocked_out(model, "0.1", reference=reference, **options),
        ):
            model(tokens, attention_mask=mask)
    with knocked_out(model, "0.1", reference=reference, method="mean"):
        masked = model(tokens, attention_mask=mask)[1, 5:]
        alone = model(tokens[1:, 5:])[0]
    assert torch.allclose(masked, alone, atol=1e-4)


def _padding_left(model):
    """The model with a tokenizer that pads on the left, with token 0, which no text begins with."""
    tokenizer = il.load("toy-2l-narrow", device="cpu").tokenizer
    tokenizer.padding_side, tokenizer.pad_token_id = "left", 0
    tokenizer.bos_token_id = 1
    model.tokenizer = tokenizer
    return model


BY_POSITION = [{"method": "resample"}, {"method": Mean(per_position=True)}]


@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="the class that masks by itself")
@pytest.mark.parametrize("options", BY_POSITION, ids=str)
def test_columns_that_the_model_masks_by_itself_are_not_positions(options):
    model = _padding_left(_toy("hooked", smeared_keys=False))
    tokens, reference = _tokens(2, 12).clamp(min=1), _tokens(4, 12, seed=1).clamp(min=1)
    padded = tokens.clone()
    padded[1, :5] = 0
    with knocked_out(model, "0.1", reference=reference, **options):
        expected = _logits(model, tokens)
        for passed in (((padded,), {}), ((), {"input": padded})):
            with pytest.raises(InterventionError, match="got masked tokens"):
                model(*passed[0], **passed[1])
        # said to be text, or padded on the right, its columns are positions
        model(padded, padding_side="right")
        model(padded, attention_mask=torch.ones_like(padded))
        assert torch.equal(_logits(model, tokens), expected)
    with knocked_out(model, "0.1", reference=reference, method="mean"):
        masked, alone = _logits(model, padded)[1, 5:], _logits(model, tokens[1:, 5:])[0]
    assert torch.allclose(masked, alone, atol=1e-4)


@pytest.mark.parametrize("options", BY_POSITION, ids=str)
def test_strings_padded_on_the_left_have_no_columns_for_positions(options):
    model = il.load("toy-1l", device="cpu", implementation="bridge")
    reference = il.text_tokens(model, n_sequences=3, seq_len=8)
    model.tokenizer.padding_side = "left"
    model.tokenizer.pad_token_id = 3
    with knocked_out(model, "0.1", reference=reference, **options):
        model(["x = 1", "x = 2"])  # of one length
        with pytest.raises(InterventionError, match="got masked tokens"):
            model(["x = 1", "for x in range(3)"])


def test_positions_of_the_callers_own_are_not_columns():
    model, tokens = hugging_face_model("llama"), _tokens(2, 12)
    reference = _tokens(4, 12, seed=1)
    columns = torch.arange(12)[None]
    for options in BY_POSITION:
        with knocked_out(model, "0.1", reference=reference, **options):
            assert torch.equal(model(tokens, position_ids=columns), model(tokens))
            with pytest.raises(InterventionError, match="positions of the caller's"):
                model(tokens, position_ids=columns + 3)


@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="the class with this cache")
@pytest.mark.parametrize("options", BY_POSITION, ids=str)
def test_a_cache_is_seen_however_it_is_passed(options):
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    model, tokens = _toy("hooked", smeared_keys=False), _tokens(2, 12)
    reference = _tokens(4, 12, seed=1)
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, torch.device("cpu"), 2)
    model.tokenizer = il.load(
        "toy-2l-narrow", device="cpu"
    ).tokenizer  # which its masks are made with
    with torch.no_grad(), knocked_out(model, "0.1", reference=reference, **options):
        expected = model(tokens)[:, -1]
        model(tokens[:, :-1], past_kv_cache=cache)
        cache.freeze()
        last = tokens[:, -1:]
        named = model(last, past_kv_cache=cache)[:, -1]
        by_place = model(
            last, "logits", False, None, None, None, None, None, None, None, cache
        )[:, -1]  # fmt: skip
    torch.testing.assert_close(named, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_place, expected, rtol=1e-4, atol=1e-5)
    with (
        pytest.raises(InterventionError, match="use_past_kv_cache=False"),
        knocked_out(model, "0.1", method="pattern-preserving"),
    ):
        model(last, "logits", False, None, None, None, None, None, None, None, cache)


def test_a_frozen_run_sees_the_same_mask():
    model, tokens = hugging_face_model("llama"), _tokens(2, 12)
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    with torch.no_grad(), knocked_out(model, "0.1", method="pattern-preserving"):
        masked = model(tokens, attention_mask=mask)[1, 5:]
        alone = model(tokens[1:, 5:])[0]
    assert torch.allclose(masked, alone, atol=1e-4)


# --- outputs that are not pattern times values, or not by head


def test_what_acts_between_pattern_and_output_is_refused(implementation):
    model, tokens = _toy(implementation), _tokens()
    model.hook_dict["blocks.1.attn.hook_z"].add_hook(lambda z, hook: z.clamp(-0.1, 0.1))
    with (
        pytest.raises(InterventionError, match="something acts between"),
        knocked_out(model, "0.1", method="pattern-preserving"),
    ):
        model(tokens)
    with pytest.raises(InterventionError, match="something acts between"):
        il.ablate(
            model, "0.1", tokens, method="pattern-preserving", early=2, late=20, progress=False
        )


def test_flat_outputs_are_refused():
    """An index meant for a head would take one coordinate."""
    model = hugging_face_model("gpt2")
    flat = copy.deepcopy(model)
    for name, point in flat.hook_dict.items():
        if name.endswith("attn.hook_z"):
            point.hook_conversion = None
    with (
        pytest.raises(
            InterventionError, match=r"outputs of heads of shape \[batch, pos, 3, d_head"
        ),
        knocked_out(flat, "0.1", method="mean", reference=_tokens()),
    ):
        flat(_tokens())


# --- modes, copies, threads, interrupts


@pytest.mark.parametrize("training", [True, False])
def test_each_part_keeps_its_own_mode(implementation, training):
    """A part in training under a root that is not would drop out; it comes back in training."""
    model, tokens = _toy(implementation), _tokens()
    expected = il.per_token_loss(model, tokens, progress=False)
    model.train(training)
    odd = model.blocks[1].attn
    odd.train(not training)
    drop = torch.nn.Dropout(0.5)
    model.blocks[0].ln1.add_module("drop", drop)
    model.blocks[0].ln1.register_forward_hook(lambda part, args, x: part.drop(x))
    drop.train()
    before = [part.training for part in model.modules()]
    found = il.per_token_loss(model, tokens, progress=False)
    assert torch.allclose(found[:, 1:], expected[:, 1:], atol=1e-5)
    assert [part.training for part in model.modules()] == before


def test_a_wrapped_models_parts_keep_their_modes():
    model = copy.deepcopy(hugging_face_model("gpt2"))
    inner = model.original_model
    inner.train()
    expected = [part.training for part in inner.modules()]
    il.per_token_loss(model, _tokens(), progress=False)
    assert [part.training for part in inner.modules()] == expected
    assert inner.training


def test_a_copy_smears_with_its_own_weights(implementation):
    model, tokens = _toy(implementation), _tokens()
    twin = copy.deepcopy(model)
    before = _logits(twin, tokens)
    with torch.no_grad():
        toy_weights(model)["blocks.0.attn.smear"].fill_(9.0)
    assert torch.equal(_logits(twin, tokens), before)
    assert not torch.equal(_logits(model, tokens), before)
    with torch.no_grad():
        toy_weights(twin)["blocks.0.attn.smear"].fill_(9.0)
    assert torch.equal(_logits(twin, tokens), _logits(model, tokens))


def test_smearing_survives_a_reset(implementation):
    model, tokens = _toy(implementation), _tokens()
    before = _logits(model, tokens)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(_logits(model, tokens), before)


@pytest.mark.slow
def test_threads_on_one_model_get_the_numbers_of_one(implementation):
    model, tokens = _toy(implementation), _tokens(8)

    def work():
        options = {"progress": False, "batch_size": 1}
        scores = il.score_heads(model, tokens=tokens, attention="pattern", **options)
        effects = il.ablate_each_head(model, tokens, early=2, late=25, **options)
        return torch.stack([scores["induction"].values, effects.values])

    expected, found = work(), []
    threads = [threading.Thread(target=lambda: found.append(work()), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 4
    assert all(torch.equal(one, expected) for one in found)


def test_another_thread_is_told_of_an_open_block(implementation):
    model, tokens, raised = _toy(implementation), _tokens(), []

    def other():
        try:
            il.per_token_loss(model, tokens, progress=False)
        except InterventionError as error:
            raised.append(str(error))

    with knocked_out(model, "0.1", method="zero"):
        model(tokens)
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(timeout=20)
    assert not thread.is_alive()
    assert "another thread has heads knocked out" in raised[0]
    other()
    assert len(raised) == 1


def _traced(function, visit):
    """Call a function, with `visit(file, line)` before every line of this package that it runs."""

    def trace(frame, event, argument):
        if "induction_lens" not in frame.f_globals.get("__name__", ""):
            return None
        if event == "line":
            visit((frame.f_code.co_filename, frame.f_lineno))
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(previous)


def _interrupt(function, count):
    """Call a function, and interrupt it before the `count`-th line of this package that it runs."""
    visited = 0

    def visit(place):
        nonlocal visited
        visited += 1
        if visited == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _traced(function, visit)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(
    "method", ["zero", pytest.param("mean", marks=pytest.mark.slow), "pattern-preserving"]
)
@pytest.mark.slow
def test_an_interrupt_at_any_line_leaves_nothing_behind(method):
    model, tokens = _toy(None, n_layers=1, n_heads=2, smeared_keys=False), _tokens(2, 6)
    model.train()
    before = _logits(model, tokens), _n_hooks(model), [m.training for m in model.modules()]

    def work():
        with knocked_out(model, "0.1", method=method, reference=tokens):
            model(tokens)

    work()
    places: list[tuple[str, int]] = []
    _traced(work, places.append)
    last = {place: count for count, place in enumerate(places, start=1)}
    acting = ("context.py", "exclusive.py", "calls.py", "hooks.py", "layerwise.py", "roads.py")
    counts = sorted(count for (file, _), count in last.items() if file.endswith(acting))
    for count in counts:
        _interrupt(work, count)
        where = places[count - 1]
        assert _n_hooks(model) == before[1], where
        assert [m.training for m in model.modules()] == before[2], where
        assert "forward" not in vars(model), where
        assert torch.is_grad_enabled(), where
    assert len(counts) > 60
    assert torch.equal(_logits(model, tokens), before[0])
    work()  # and it is free for others: no list of open blocks, no lock
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert done


# --- value biases


def _folded():
    """A model as `fold_value_biases` leaves it, and one as it was."""
    model = loaded_from_config(CONFIGS["gpt2"])
    folded = copy.deepcopy(model)
    folded.value_biases_kept = False
    with torch.no_grad():
        for block in folded.blocks:
            b_V, W_O = block.attn.b_V, block.attn.W_O
            block.attn.o.bias.data += torch.einsum("he,hed->d", b_V, W_O)
            block.attn.v.bias.data.zero_()
    return folded, model


@pytest.mark.parametrize("method", ["zero", "pattern-preserving"])
def test_a_folded_model_is_refused_where_zero_would_leave_a_part_in(method):
    folded, model = _folded()
    assert torch.allclose(_logits(folded, _tokens()), _logits(model, _tokens()), atol=1e-4)
    with (
        pytest.raises(ValueError, match="folded into the output bias"),
        knocked_out(folded, "1.0", method=method),
    ):
        pass
    with pytest.raises(ValueError, match="folded into the output bias"):
        il.ablate(folded, "1.0", _tokens(), method=method, early=2, late=20, progress=False)


def test_a_mean_means_the_same_in_a_folded_model():
    folded, model = _folded()
    with knocked_out(folded, "1.0", method="mean", reference=_tokens()):
        found = _logits(folded, _tokens())
    with knocked_out(model, "1.0", method="mean", reference=_tokens()):
        assert torch.allclose(found, _logits(model, _tokens()), atol=1e-4)


# --- models that look ahead


def test_public_functions_ask_whether_a_model_looks_ahead(implementation, monkeypatch):
    """`check_causal` has tests of its own, on models that do."""

    def refuse(model):
        raise ValueError("expected a model that predicts each token from earlier ones")

    monkeypatch.setattr("induction_lens.models.sequences.check_causal", refuse)
    model, tokens = _toy(implementation), _tokens()
    options = {"progress": False}
    for call in (
        lambda: il.per_token_loss(model, tokens, **options),
        lambda: il.score_heads(model, tokens=tokens, **options),
        lambda: il.score_heads(model, **options),
        lambda: il.ablate(model, "0.1", tokens, early=2, late=20, **options),
        lambda: il.ablate_each_head(model, tokens, early=2, late=20, **options),
        lambda: knocked_out(model, "0.1", reference=tokens).__enter__(),
    ):
        with pytest.raises(ValueError, match="predicts each token from earlier ones"):
            call()
