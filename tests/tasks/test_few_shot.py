"""Few-shot accuracy: known on the hand-set circuit, and as plain code says on random models."""

from __future__ import annotations

import copy
from functools import partial

import pandas as pd
import pytest
import torch
from tokenizers import pre_tokenizers

import induction_lens as il
from induction_lens.heads import Head
from induction_lens.models import bos_id
from induction_lens.tasks import Task, few_shot, few_shot_prompts
from induction_lens.tasks.asking import Asking, Without
from induction_lens.tasks.scoring import answered
from tests.hf_folders import D_VOCAB, hugging_face_model
from tests.tasks.material import (
    first_word_task,
    key_task,
    plain_logits,
    plain_scores,
    speaking_circuit,
)

MEAN = il.ablation.Mean()
PLURALS = {"dog": "dogs", "cat": "cats", "hen": "hens", "cow": "cows", "pig": "pigs"}


@pytest.fixture
def circuit(implementation):
    return speaking_circuit(implementation)


@pytest.fixture(scope="module")
def hooked():
    return speaking_circuit()


# Known answers


def test_the_circuit_solves_what_copying_solves_and_no_more(circuit):
    solved = few_shot(circuit, key_task(), shots=4, n_items=20)
    assert solved.accuracy.value == 1
    assert solved.chance == 0.5
    assert solved.beats_chance
    missed = few_shot(circuit, first_word_task(), shots=4, n_items=20)
    assert missed.accuracy.value == pytest.approx(0.5)
    assert not missed.beats_chance


@pytest.mark.parametrize("method", ["zero", "mean", "resample", "pattern-preserving"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_without_its_head_it_is_at_chance(hooked, method, at):
    result = few_shot(hooked, key_task(), shots=4, heads="1.0", method=method, at=at, n_items=40)
    assert result.accuracy.value == 1
    assert result.without.value == pytest.approx(0.5, abs=0.16)
    assert result.effect.high < -0.2
    other = few_shot(hooked, key_task(), shots=4, heads="1.1", method=method, at=at, n_items=20)
    assert other.effect.value == 0


def test_the_previous_token_head_matters_before_the_last_position_alone(hooked):
    ask = partial(few_shot, hooked, key_task(), shots=4, heads="0.0", method="zero", n_items=20)
    assert ask(at="all").effect.value == pytest.approx(-0.5)
    assert ask(at="last").effect.value == 0


def test_it_works_inside_knocked_out_too(hooked):
    with il.knocked_out(hooked, "1.0", method="zero"):
        inside = few_shot(hooked, key_task(), shots=4, n_items=20)
    outside = few_shot(hooked, key_task(), shots=4, heads="1.0", method="zero", n_items=20)
    assert torch.equal(inside.clean, outside.ablated)
    with (
        il.knocked_out(hooked, "1.0", method="zero"),
        pytest.raises(ValueError, match="no other ablation around"),
    ):
        few_shot(hooked, key_task(), shots=4, heads="1.1", method="mean", n_items=20)


# A plain second way


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_answers_are_those_of_plain_code(name):
    model = hugging_face_model(name)
    task = Task.from_pairs("plurals", PLURALS, template="{prompt}: {answer}\n")
    prompts = few_shot_prompts(model, task, shots=2)
    assert len({len(ids) for ids in prompts.ids}) > 1  # several lengths
    head, layer = 1, 1
    z_of = f"blocks.{layer}.attn.hook_z"

    def kept(ids):
        found = []
        plain_logits(model, ids, [(z_of, lambda z, hook: found.append(z[0, :, head]))])
        return found[0].detach()

    outputs = [kept(ids) for ids in prompts.ids]
    mean_at_last = torch.stack([z[-1] for z in outputs]).mean(0)
    overall = torch.cat(outputs).mean(0)

    def at_last(z, hook):
        z = z.clone()
        z[:, -1, head] = mean_at_last
        return z

    def everywhere(z, hook):
        z = z.clone()
        z[:, :, head] = overall
        return z

    for at, hook in (("last", at_last), ("all", everywhere)):
        without = Without((Head(layer, head),), MEAN, at)
        asking = Asking(model, prompts, scoring=il.tasks.Probability())
        expected = [
            float(plain_logits(model, ids, [(z_of, hook)]).softmax(-1)[answer])
            for ids, answer in zip(prompts.ids, prompts.answers.tolist(), strict=True)
        ]
        assert asking.scores(without).tolist() == pytest.approx(expected, abs=1e-5)
        clean = [
            float(plain_logits(model, ids).softmax(-1)[answer])
            for ids, answer in zip(prompts.ids, prompts.answers.tolist(), strict=True)
        ]
        assert asking.scores().tolist() == pytest.approx(clean, abs=1e-5)
        assert max(abs(a - b) for a, b in zip(clean, expected, strict=True)) > 1e-4


def test_accuracy_is_that_of_plain_code(circuit):
    for task in (key_task(), first_word_task(), key_task().scored("first-token")):
        prompts = few_shot_prompts(circuit, task, shots=3, n_items=11)
        found = few_shot(circuit, task, shots=3, n_items=11)
        assert found.clean.tolist() == plain_scores(circuit, prompts)


# Prompts


def test_prompts_are_balanced_and_never_show_the_answer_in_advance(hooked):
    prompts = few_shot_prompts(hooked, key_task(), shots=4, n_items=20)
    assert [item.answer for item in prompts.items].count("yes") == 10
    for item, some in zip(prompts.items, prompts.examples, strict=True):
        assert [one.answer for one in some].count("yes") == 2
        assert item.prompt not in {one.prompt for one in some}
    text = prompts.texts[0]
    first = prompts.examples[0][0]
    assert text.startswith(f"{first.prompt} {first.answer} . ")
    assert text.endswith(f" . {prompts.items[0].prompt}")
    opposites = Task.from_pairs("open", {"a": "x", "b": "x", "c": "y", "d": "z"})
    model = hugging_face_model("gpt2")
    for item, some in zip(*_asked(model, opposites), strict=True):
        assert item.answer not in {one.answer for one in some}


def _asked(model, task):
    prompts = few_shot_prompts(model, task, shots=2)
    return prompts.items, prompts.examples


def test_tokens_are_those_of_the_text_and_positions_are_found():
    model = hugging_face_model("gpt2")
    task = Task.from_pairs("plurals", PLURALS)
    prompts = few_shot_prompts(model, task, shots=2, n_items=3)
    for row, ids in enumerate(prompts.ids):
        assert model.tokenizer.decode(ids[1:]) == prompts.texts[row]
        start = prompts.texts[row].index("\nA:")
        places = prompts.positions(row, (start + 1, start + 3))
        assert model.tokenizer.decode([ids[place] for place in places]).strip() == "A:"
        answer = model.tokenizer.decode([int(prompts.answers[row])])
        assert f" {prompts.items[row].answer}".startswith(answer)


def test_a_tokenizer_that_was_used_before_gives_the_same_prompts_and_stays_as_it_was():
    model = hugging_face_model("gpt2")
    task = Task.from_pairs("plurals", [*PLURALS.items(), ("<s>a", "<s>as")])
    plain = few_shot_prompts(model, task, shots=2)
    own = model.tokenizer
    model.tokenizer = used = copy.deepcopy(own)
    used.padding_side, used.truncation_side = "left", "left"
    used.backend_tokenizer.enable_truncation(3)
    used.backend_tokenizer.enable_padding(length=40)
    used.backend_tokenizer.model.dropout = 0.7
    before = used.backend_tokenizer.to_str()
    try:
        assert few_shot_prompts(model, task, shots=2).ids == plain.ids
        assert used.backend_tokenizer.to_str() == before
    finally:
        model.tokenizer = own
        model.cfg.d_vocab = D_VOCAB  # which a bridge takes from any tokenizer it is given
    read = [model.tokenizer.decode(ids[1:]) for ids in plain.ids]
    assert read == list(plain.texts)
    assert all(bos_id(model) not in ids[1:] for ids in plain.ids)  # <s> is text there


def test_draws_go_by_the_seed():
    model = hugging_face_model("gpt2")
    task = Task.from_pairs("plurals", PLURALS)
    same = [few_shot_prompts(model, task, shots=2, seed=seed).texts for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


def test_shuffled_answers_are_the_same_answers(hooked):
    plain = few_shot_prompts(hooked, key_task(), shots=6, n_items=10)
    mixed = few_shot_prompts(hooked, key_task(), shots=6, n_items=10, shuffled_answers=True)
    assert plain.items == mixed.items
    different = 0
    for before, after in zip(plain.examples, mixed.examples, strict=True):
        assert [one.prompt for one in before] == [one.prompt for one in after]
        assert sorted(one.answer for one in before) == sorted(one.answer for one in after)
        different += before != after
    assert different > 3


# Tasks


def test_a_task_from_a_frame_is_one_line():
    frame = pd.DataFrame(
        {"n": [1, 2, 3], "word": ["dog", "cat", None], "more": ["dogs", "cats", "x"]}
    )
    task = Task.from_frame("plurals", frame, prompt="word", answer="more")
    assert [(item.prompt, item.answer) for item in task.items] == [("dog", "dogs"), ("cat", "cats")]
    assert task.chance == 0.5
    numbers = Task.from_frame("numbers", frame, prompt="n", answer="more")
    assert numbers.items[1].prompt == "2"
    pairs = frame[["word", "more"]]
    for asked, right in (("word", "more"), ("more", "word")):
        one = Task.from_frame("pairs", frame[[asked, right]]).items[0]
        assert (one.prompt, one.answer) == (frame[asked][0], frame[right][0])
        for named in ({"prompt": asked}, {"answer": right}):
            one = Task.from_frame("pairs", pairs, **named).items[0]
            assert (one.prompt, one.answer) == (frame[asked][0], frame[right][0])


def test_columns_named_prompt_and_answer_are_found_in_any_order():
    frame = pd.DataFrame({"answer": ["dogs"], "id": [7], "prompt": ["dog"]})
    [item] = Task.from_frame("plurals", frame).items
    assert (item.prompt, item.answer) == ("dog", "dogs")
    [item] = Task.from_frame("plurals", frame, prompt="id").items
    assert (item.prompt, item.answer) == ("7", "dogs")


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (["id", "q", "a"], {}, r"got id, q, a; name them with prompt= and answer="),
        (["id", "q", "a"], {"prompt": "q"}, r"got id, q, a; name them with answer="),
        (["q", "a"], {"prompt": "q", "answer": "q"}, "got 'q' for both prompt and answer"),
        (["q", "q"], {}, "columns of different names, got 'q' more than once"),
        (["q", "a"], {"prompt": "p"}, "prompt to be one of q, a, got 'p'"),
        (["q"], {}, "a data frame of two columns or more"),
    ],
)
def test_columns_that_are_not_clear_are_refused(columns, options, said):
    frame = pd.DataFrame([["x"] * len(columns)], columns=columns)
    with pytest.raises(ValueError, match=said):
        Task.from_frame("mine", frame, **options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"q": ["x"]}), r"make one with tasks\.Task\.from_frame\(name, frame\)"),
        ("ABAB", r"tasks\.ready\('ABAB'\) makes ready ones"),
        ({"hot": "cold"}, r"make one with tasks\.Task\.from_pairs"),
        ([Task.from_pairs("x", {"hot": "cold"})], r"pass one of them, such as the first, \[0\]"),
    ],
)
@pytest.mark.usefixtures("_as_users_call")
def test_what_is_no_task_becomes_one_as_is_said(given, said):
    with pytest.raises(ValueError, match=said):
        few_shot(hugging_face_model("gpt2"), given)
    if not isinstance(given, (list, dict)):
        with pytest.raises(ValueError, match=r"make one with|makes ready ones|from_pairs"):
            il.tasks.dissociate(hugging_face_model("gpt2"), given)


def test_answers_that_come_often_are_classes():
    assert key_task().is_choice
    assert not Task.from_pairs("plurals", PLURALS).is_choice
    assert key_task().scored("first-token").scoring.name == "first-token"


def test_f1_is_that_of_squad():
    assert il.tasks.f1("The cat!", "a cat") == 1
    assert il.tasks.f1("New York", "new york city") == pytest.approx(0.8)
    assert il.tasks.f1("", "cat") == 0
    assert answered(" Paris\nQ: next") == "Paris"
    assert answered(" New Delhi Q: next") == "New Delhi"
    assert answered(" St. John, maybe") == "St. John"


def test_f1_reads_what_is_generated(hooked):
    result = few_shot(hooked, key_task().scored(il.tasks.F1(n_new=1)), shots=4, n_items=10)
    assert result.accuracy.value == 1
    assert result.scoring == "f1"
    without = few_shot(
        hooked, key_task().scored(il.tasks.F1(n_new=1)), shots=4, n_items=10, heads="1.0"
    )
    assert without.without.value < 1


# Doses and rankings


def test_more_heads_cost_more_and_random_ones_are_beside(hooked):
    ranked = ["1.0", "0.0"]
    found = il.tasks.dose_response(hooked, key_task(), ranked, counts=[1, 2], shots=4)
    frame = found.to_frame()
    assert frame["n_heads"].tolist() == [1, 2, 1, 2]
    assert frame["is_random"].tolist() == [False, False, True, True]
    assert frame["without"][0] == pytest.approx(0.5, abs=0.2)
    for ours, random in zip(found.ranked, found.random, strict=True):
        assert not set(ours.heads) & set(random.heads)
    assert len(found.plot().data) == 2


def test_there_are_as_many_random_heads_as_ranked_ones(hooked):
    everything = [Head(layer, head) for layer in range(2) for head in range(3)]
    found = il.tasks.dose_response(hooked, key_task(), everything, shots=2)
    assert [len(one.heads) for one in found.random] == [len(one.heads) for one in found.ranked]
    with pytest.raises(ValueError, match="counts to be a whole number from 1 to 3, got 4"):
        il.tasks.dose_response(hooked, key_task(), everything, counts=[4], shots=2)


def test_what_is_generated_has_room_in_the_context():
    model = hugging_face_model("gpt2")
    task = Task.from_pairs("long", [("a " * 25, "x"), ("b", "y")])
    length = max(map(len, few_shot_prompts(model, task, shots=0).ids))
    room = model.cfg.n_ctx - length
    assert len(few_shot(model, task.scored(il.tasks.F1(n_new=room)), shots=0).clean) == 2
    message = f"at most {length - 1} tokens .* less {room + 1} for the answer.*, got {length}"
    with pytest.raises(ValueError, match=message):
        few_shot(model, task.scored(il.tasks.F1(n_new=room + 1)), shots=0)


def test_the_other_kinds_top_heads_are_left_out():
    values = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    ours, other = il.HeadScores("a", values), il.HeadScores("b", values.flip(1))
    assert il.tasks.top_heads(ours, 2) == [Head(0, 1), Head(1, 0)]
    assert il.tasks.top_heads(ours, 2, without=other) == [Head(0, 1), Head(1, 0)]
    assert il.tasks.top_heads(ours, 1, without=ours) == [Head(1, 0)]
    assert il.tasks.top_heads(ours, 4, without=other, excluded=0.5) == [Head(0, 1), Head(1, 0)]


# Bad calls


@pytest.mark.usefixtures("_as_users_call")
def test_what_cannot_be_right_is_refused(hooked):
    with pytest.raises(ValueError, match="expected at most 4 shots of plurals"):
        few_shot(hugging_face_model("gpt2"), Task.from_pairs("plurals", PLURALS), shots=5)
    with pytest.raises(ValueError, match=r"of at most 40 tokens .* pass fewer shots"):
        few_shot(hooked, key_task(), shots=12)
    with pytest.raises(ValueError, match="expected a token to end where an answer is due"):
        whole = speaking_circuit()
        whole.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(".", "isolated")
        few_shot(whole, key_task(), shots=1)
    with pytest.raises(ValueError, match="expected template to be"):
        Task.from_pairs("no room", PLURALS, template="{prompt}{answer}")
    with pytest.raises(ValueError, match="a fast tokenizer"):
        bare = speaking_circuit()
        bare.tokenizer = None
        few_shot(bare, key_task())
    with pytest.raises(ValueError, match="that begin with different tokens"):
        few_shot(hooked, Task.from_pairs("alike", key_pairs()).scored("choice"), shots=0)
    with pytest.raises(ValueError, match="expected each of pairs to be a prompt and an answer"):
        Task.from_pairs("bad", ["ab"])


def key_pairs():
    """Two answers that the tokenizer does not know, and so takes for one."""
    return [("w1", "unknown"), ("w2", "words")]


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_inside_knocked_out_it_is_what_it_is_without_the_heads(method):
    """In one line, and by its own argument, where the method takes its outputs from one text."""
    model, task = il.load("toy-2l-narrow", device="cpu"), il.tasks.letter_pattern("ABAB")
    options = {"shots": 4, "n_items": 20}
    text = il.repeated_random_tokens(model, n_sequences=4)
    by = il.ablation.Mean(reference=text) if method == "mean" else il.ablation.Zero()
    known = il.tasks.few_shot(model, task, heads=["0.1", "1.1"], method=by, **options)
    with il.knocked_out(model, ["0.1", "1.1"], method=method, reference=text):
        inside = il.tasks.few_shot(model, task, **options)
    assert torch.equal(inside.clean, known.ablated)
    assert not torch.equal(known.clean, known.ablated)
    assert inside.provenance.altered is not None
    assert inside.provenance.text == known.provenance.text
