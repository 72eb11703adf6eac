"""Tasks as a language: what is written, in which form, and what is never written."""

import copy
from collections import defaultdict

import pytest
import torch

import induction_lens as il
from induction_lens.languages import SolvedLanguage
from induction_lens.tasks import (
    READY,
    WrittenTasks,
    labelled_letters,
    labelled_words,
    listed_pairs,
    pairs,
    ready,
    words,
)
from induction_lens.tasks.written import HELD_OUT, KINDS, LABELS, held_out

RNG = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def tokenizer():
    return il.load("toy-2l", device="cpu").tokenizer


@pytest.fixture(scope="module")
def drawn():
    makers = (labelled_words, labelled_letters, listed_pairs)
    return {make.__name__: [make(RNG, 20) for _ in range(150)] for make in makers}


def test_sequences_are_documents_in_the_form_that_is_asked(tokenizer):
    language = WrittenTasks(tokenizer)
    tokens = language.sample(3, seq_len=200, seed=4)
    assert tokens.shape == (3, 200)
    assert tokens.equal(language.sample(3, seq_len=200, seed=4))
    assert not isinstance(language, SolvedLanguage)
    assert language.d_vocab == len(tokenizer) == 1024
    # the same documents by hand, one after another, as the generator gives them
    generator = torch.Generator().manual_seed(4)
    for row in tokens:
        expected = [0]
        while len(expected) < 200:
            text = language.document(generator)
            expected += tokenizer(text, add_special_tokens=False)["input_ids"] + [0]
        assert row.tolist() == expected[:200]


def test_a_tokenizer_that_was_used_before_writes_the_same_and_stays_as_it_was(tokenizer):
    used = copy.deepcopy(tokenizer)
    used.backend_tokenizer.enable_truncation(3)
    used.backend_tokenizer.enable_padding(length=40)
    before = used.backend_tokenizer.to_str()
    plain = WrittenTasks(tokenizer).sample(2, seq_len=120, seed=5)
    assert WrittenTasks(used).sample(2, seq_len=120, seed=5).equal(plain)
    assert used.backend_tokenizer.to_str() == before


def test_a_document_is_a_prompt_of_few_shot(tokenizer):
    """What `few_shot` asks is, token by token, the beginning of what is trained on."""
    model = il.load("toy-2l", device="cpu")
    for task in ready("pattern", "antonyms"):
        prompts = il.tasks.few_shot_prompts(model, task, shots=3, n_items=2)
        language = WrittenTasks(tokenizer, makers=[lambda *_, prompts=prompts: whole(prompts)])
        ids = language.sample(1, seq_len=400)[0].tolist()
        assert ids[: len(prompts.ids[0])] == list(prompts.ids[0])
        assert ids[len(prompts.ids[0])] == int(prompts.answers[0])


def whole(prompts):
    """The first prompt with its answer, as a task."""
    kept = (*prompts.examples[0], prompts.items[0])
    task = prompts.task
    return il.tasks.Task(task.name, kept, template=task.template, scoring=task.scoring)


def test_what_is_held_out_is_never_written(drawn):
    written = {item.prompt for tasks in drawn.values() for task in tasks for item in task.items}
    asked = {item.prompt for name in HELD_OUT for item in READY[name]().items}
    assert len(asked) > 1000
    assert asked == held_out()
    assert not asked & written
    plurals = {frozenset(pair) for pair in pairs("plurals")}
    assert not any(
        {item.prompt, item.answer} in plurals
        for task in drawn["listed_pairs"]
        for item in task.items
    )


def test_every_two_kinds_have_pairs_that_are_not_held_out():
    for first in KINDS:
        for second in KINDS:
            left = {f"{a} {b}" for a in words(first) for b in words(second)} - held_out()
            assert len(left) >= 20, (first, second)


def test_labels_go_by_the_words_classes_and_are_dealt_out_anew(drawn):
    of_kinds = defaultdict(set)
    for task in drawn["labelled_words"]:
        labels = {}
        for item in task.items:
            parts = item.prompt.split()
            assert all(part in words(kind) for part, kind in zip(parts, item.kinds, strict=True))
            assert labels.setdefault(item.kinds, item.answer) == item.answer
            of_kinds[item.kinds].add(item.answer)
        assert len(set(labels.values())) == len(labels) <= 4
    assert {len(kinds) for kinds in of_kinds} == {1, 2}
    assert len(of_kinds["fruit",]) > 8
    assert set().union(*of_kinds.values()) == set(LABELS)


def test_letters_have_the_form_of_their_label(drawn):
    for task in drawn["labelled_letters"]:
        form = task.name.removeprefix("labelled ")
        labels = defaultdict(set)
        for item in task.items:
            letters = item.prompt.split()
            assert len(letters) == len(form)
            same = [[a == b for b in letters] for a in letters]
            wanted = [[a == b for b in form] for a in form]
            is_form = same == wanted
            assert is_form or len(set(letters)) == len(letters)
            labels[is_form].add(item.answer)
        assert all(len(some) == 1 for some in labels.values())
        assert len(set().union(*labels.values())) == len(labels)


def test_pairs_are_forward_backward_or_the_same_throughout_a_document(drawn):
    ways = defaultdict(int)
    for task in drawn["listed_pairs"]:
        if task.name == "successors":
            known = {(item.prompt, item.answer) for item in READY["successors"]().items}
        else:
            known = set(pairs(task.name))
        found = [(item.prompt, item.answer) for item in task.items]
        fits = {
            "forward": all(pair in known for pair in found),
            "backward": all(pair[::-1] in known for pair in found),
            "same": all(a == b for a, b in found),
        }
        assert any(fits.values())
        ways[next(way for way, is_so in fits.items() if is_so)] += 1
    assert ways["forward"] > ways["backward"] > 15
    assert ways["same"] > 15


@pytest.mark.usefixtures("_as_users_call")
def test_what_cannot_be_written_is_refused(tokenizer):
    with pytest.raises(ValueError, match="expected tokenizer to be one with BOS 0"):
        WrittenTasks(None)
    with pytest.raises(ValueError, match="expected most to be"):
        WrittenTasks(tokenizer, least=5, most=4)
