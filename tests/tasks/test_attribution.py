"""Logit attribution of literal copying, on the hand-set circuit and by loops; the diagonal."""

import pytest
import torch

import induction_lens as il
from induction_lens.models import output_weights, unembedding
from induction_lens.tasks import (
    DiagonalHeads,
    LiteralAttributionHeads,
    aligned_sentences,
    few_shot_prompts,
    literal_copying,
    translated_sentences,
)
from tests.tasks.material import WORDS, key_task, speaking_circuit

PASSAGES = [" ".join(WORDS[i % len(WORDS)] for i in range(start, start + 14)) for start in (0, 5)]


def by_loops(model, task):
    """The share of each head, from the cache, contribution by contribution."""
    prompts = few_shot_prompts(model, task, n_items=32)
    sizes = il.models.shape(model)
    own = torch.zeros(sizes.n_layers, sizes.n_heads, dtype=torch.float64)
    total = own.clone()
    W_U = unembedding(model).detach()
    for row, ids in enumerate(prompts.ids):
        queries = [p for t in prompts.targets(row) for p in prompts.positions(row, t.query)]
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([ids]))
        for query in range(min(queries), max(queries) + 1):
            if query + 1 == len(ids):
                continue
            following = ids[query + 1]
            direction = W_U[:, following] - W_U.mean(1)
            scale = cache["ln_final.hook_scale"][0, query] if "ln_final.hook_scale" in cache else 1
            for layer in range(sizes.n_layers):
                W_O = output_weights(model, layer).detach()
                for head in range(sizes.n_heads):
                    for key in range(query + 1):
                        written = cache[f"blocks.{layer}.attn.hook_v"][0, key, head] @ W_O[head]
                        attention = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, query, key]
                        raised = float(attention * (written @ direction) / scale)
                        total[layer, head] += max(raised, 0)
                        own[layer, head] += max(raised, 0) * (ids[key] == following)
    return own / total.clamp(min=1e-30)


def test_on_the_hand_set_circuit_the_induction_head_copies_and_no_other_does(implementation):
    model = speaking_circuit(implementation)
    task = literal_copying(PASSAGES)
    found = LiteralAttributionHeads(task).score(model, progress=False)
    assert found.null is None
    assert (found.values - by_loops(model, task)).abs().max() < 1e-4
    assert found.values[1, 0] > 0.9
    assert found.values[0].max() < 0.5


@pytest.mark.slow
def test_of_a_trained_model_it_is_that_of_loops_and_has_a_control():
    model = il.load("toy-2l-narrow")
    passage = " ".join(s["English"].text for s in aligned_sentences()[:3])
    found = LiteralAttributionHeads(literal_copying([passage])).score(model, progress=False)
    expected = by_loops(model, literal_copying([passage]))
    assert (found.values - expected).abs().max() < 1e-4
    usual = LiteralAttributionHeads().score(model, progress=False)
    assert str(usual.top(1)[0][0]) == "1.1"
    assert il.Head(1, 1) in usual.above(0.0)
    other = LiteralAttributionHeads(literal_copying(different=True)).score(model, progress=False)
    assert torch.equal(usual.null, other.values)
    assert usual.over_null_sem[1, 1] == pytest.approx(
        float((usual.sem[1, 1] ** 2 + other.sem[1, 1] ** 2) ** 0.5)
    )


def test_targets_by_place_are_words_at_the_place_of_the_next():
    task = translated_sentences(["English", "French"], diagonal=True)
    english, french = (aligned_sentences()[0][name] for name in ("English", "French"))
    prompt = task.items[0].prompt
    bare = [word.strip(".,!?") for word in english.words]
    found = [
        (prompt[slice(*one.query)], [prompt[slice(*key)] for key in one.keys])
        for one in task.items[0].targets
    ]
    expected = [
        (french.words[i], [bare[i + 1]]) for i in range(len(french.words) - 1) if i + 1 < len(bare)
    ]
    assert found == expected
    for one in task.items[0].targets:
        assert not set(one.keys) & set(one.others)
    assert translated_sentences(["English", "French"]).items[0].targets != task.items[0].targets


def test_the_diagonal_is_scored_beside_translation():
    model = il.load("toy-2l-narrow")
    found = DiagonalHeads().score(model, progress=False)
    assert found.name == "diagonal"
    assert found.values.shape == (2, 4)
    assert found.null is not None
    assert not found.above(0.3)


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="expected task to be one whose items have targets"):
        LiteralAttributionHeads(key_task()).score(il.load("toy-2l-narrow"), progress=False)
