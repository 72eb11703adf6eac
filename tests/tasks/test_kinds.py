"""Kinds of heads: known on hand-set circuits, and as plain loops say on random models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import induction_lens as il
from induction_lens.detectors import Aim, attention_on_aims
from induction_lens.detectors.kinds import (
    AntiCopyingHeads,
    NGramHeads,
    TokenCopyingHeads,
    match_aims,
)
from induction_lens.detectors.targets import two_token_match
from induction_lens.detectors.token_copying import changes, copying_prompts
from induction_lens.models import Sequences, running
from induction_lens.tasks import (
    ConceptCopyingHeads,
    FunctionVectorHeads,
    Item,
    LiteralHeads,
    PatternHeads,
    Target,
    Task,
    TranslationHeads,
    few_shot,
    few_shot_prompts,
    literal_copying,
)
from induction_lens.tasks.asking import Asking, Without
from induction_lens.tasks.function_vectors import effects
from induction_lens.tasks.kinds import aims_of, line_aims, matches_by_half
from induction_lens.tasks.prompting import encoded
from tests.hf_folders import hugging_face_model
from tests.reference_model import PREDICTION, induction_circuit
from tests.tasks.material import (
    WORDS,
    first_word_task,
    key_task,
    plain_logits,
    speaking_circuit,
    word_tokenizer,
)
from tests.tasks.two_token_circuit import two_token_circuit

PASSAGES = [" ".join(WORDS[i % len(WORDS)] for i in range(start, start + 14)) for start in (0, 5)]
PLURALS = {"dog": "dogs", "cat": "cats", "hen": "hens", "cow": "cows", "pig": "pigs"}


@pytest.fixture
def circuit(implementation):
    return speaking_circuit(implementation)


def others_are_zero(values, *, but, tolerance=1e-4):
    left = values.clone()
    left[but] = 0
    return float(left.abs().max()) < tolerance


# Attention on listed keys


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_attention_on_aims_is_that_of_plain_loops(name):
    model = hugging_face_model(name)
    generator = torch.Generator().manual_seed(0)
    lengths, rows = [23, 17, 23], []
    tokens = torch.randint(1, 300, (3, 23), generator=generator)
    for length in lengths:
        drawn = []
        for query in range(9, length, 3):
            places = (1 + torch.randperm(query, generator=generator)[:5]).tolist()
            drawn.append(Aim(query, tuple(places[:2]), tuple(places[2:])))
        rows.append(drawn)
    starts = torch.zeros(3, dtype=torch.long)
    sequences = Sequences(tokens, starts, torch.tensor(lengths))
    found = attention_on_aims(model, sequences, rows, name="mine")
    sizes = il.models.shape(model)
    n_queries = sum(map(len, rows))
    caches = [model.run_with_cache(tokens[row : row + 1, :n])[1] for row, n in enumerate(lengths)]
    for layer in range(sizes.n_layers):
        for head in range(sizes.n_heads):
            keys = others = 0.0
            for row, cache in enumerate(caches):
                pattern = cache["pattern", layer][0, head].detach()
                for aim in rows[row]:
                    keys += sum(float(pattern[aim.query, k]) for k in aim.keys)
                    part = sum(float(pattern[aim.query, k]) for k in aim.others)
                    others += part * len(aim.keys) / len(aim.others)
            assert found[layer, head] == pytest.approx(keys / n_queries, abs=1e-5)
            assert float(found.null[layer, head]) == pytest.approx(others / n_queries, abs=1e-5)
    even = [2 / (aim.query + 1) for some in rows for aim in some]
    assert found.uniform == pytest.approx(sum(even) / len(even))


def test_aims_that_cannot_be_are_refused(circuit):
    sequences = Sequences.unpadded(torch.tensor([[0, 1, 2, 3]]))
    for aim in (Aim(2, (0,), (1,)), Aim(2, (3,), (1,)), Aim(2, (1,), (1,)), Aim(2, (), (1,))):
        with pytest.raises(ValueError, match="expected each of aims to be keys and others"):
            attention_on_aims(circuit, sequences, [[aim]], name="mine")
    with pytest.raises(ValueError, match="at least one query"):
        attention_on_aims(circuit, sequences, [[]], name="mine")


# N-gram heads


def test_two_token_match_is_that_of_three_loops():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.zeros(3, 1, dtype=torch.long), torch.randint(1, 4, (3, 17), generator=generator)],
        dim=1,
    )
    expected = {
        (row, q, k)
        for row in range(3)
        for q in range(18)
        for k in range(3, q + 1)
        if x[row, k - 1] == x[row, q] and x[row, k - 2] == x[row, q - 1]
    }
    found = set(zip(*(part.tolist() for part in two_token_match(x)), strict=True))
    assert found == expected
    assert len(found) > 20


def test_a_head_that_matches_one_token_is_at_chance_and_one_that_matches_two_at_the_ceiling(
    implementation,
):
    kind = NGramHeads(n_sequences=8)
    one = kind.score(induction_circuit(implementation))
    assert one["1.0"] > 0.1
    assert float(one.over_null[1, 0]) == pytest.approx(0, abs=1e-5)
    assert one.above(0.0) == []
    model = two_token_circuit(implementation)
    two = kind.score(model)
    assert two["1.0"] == pytest.approx(1, abs=1e-3)
    assert float(two.null[1, 0]) == pytest.approx(0, abs=1e-3)
    assert two.above(0.3) == [il.Head(1, 0)]
    share = [
        len(aim.keys) / (len(aim.keys) + len(aim.others))
        for some in match_aims(kind.tokens(induction_circuit()))
        for aim in some
    ]
    assert one["1.0"] == pytest.approx(sum(share) / len(share), abs=1e-3)


# Anti-copying heads


def test_a_head_that_lowers_what_it_finds_is_at_the_ceiling(implementation):
    """Both signs attend alike; 1.0 finds what followed but for queries of unseen pairs."""
    tokens = il.detectors.prompts(two_token_circuit(), seed=0)
    lowering = two_token_circuit(implementation, sign=-1.0)
    matching = il.score_heads(lowering, tokens=tokens, detectors=["induction"])["induction"]
    assert matching["1.0"] > 0.9
    against = AntiCopyingHeads().score(lowering)
    assert against["1.0"] == pytest.approx(matching["1.0"], abs=1e-3)
    assert against.above(0.3) == [il.Head(1, 0)]
    copying = AntiCopyingHeads().score(two_token_circuit(implementation))
    assert copying["1.0"] < -0.9


# Concept copying


def test_an_induction_head_copies_tokens_and_no_concepts(circuit):
    entities = [f"{WORDS[i]} {WORDS[i + 1]}" for i in range(6)]
    kind = ConceptCopyingHeads(entities=entities, n_sequences=4)
    assert list(kind.tokens(circuit)) == [2]
    scores = kind.score(circuit)
    # 1.0 alone makes the second token likely, at its first: not from the token before
    assert float(scores.values.abs().max()) < 1e-4
    tokens = il.detectors.TokenCopyingHeads(n_sequences=4).score(circuit)
    assert tokens["1.0"] == pytest.approx(1, abs=1e-3)
    assert others_are_zero(tokens.values, but=(1, 0))


def test_concept_copying_is_that_of_a_plain_loop():
    model = hugging_face_model("llama")
    entities = torch.randint(10, 300, (3, 2), generator=torch.Generator().manual_seed(0))
    prompts = copying_prompts(
        model,
        span=9,
        n_entity=2,
        n_rows=3,
        generator=torch.Generator().manual_seed(1),
        entities=entities,
    )
    clean = prompts.clean
    assert torch.equal(clean[:, 8:10], entities)  # BOS, then nine tokens that end in it
    assert torch.equal(clean[:, -1], entities[:, 0])
    assert torch.equal(prompts.copied, entities[:, 1])
    assert torch.equal(clean[:, 1:8], clean[:, 11:18])
    with running(model):
        found = changes(model, prompts, batch_size=None, title=None)
    z_of = "blocks.0.attn.hook_z"
    for row in range(3):
        kept = []
        plain_logits(
            model, clean[row].tolist(), [(z_of, lambda z, hook, k=kept: k.append(z.clone()))]
        )
        corrupted = prompts.corrupted[row].tolist()

        def patch(z, hook, kept=kept):
            z = z.clone()
            z[:, -2, 3] = kept[0][:, -2, 3]
            return z

        right = int(prompts.copied[row])
        before = float(plain_logits(model, corrupted).softmax(-1)[right])
        after = float(plain_logits(model, corrupted, [(z_of, patch)]).softmax(-1)[right])
        assert float(found[0, 3, row]) == pytest.approx(after - before, abs=1e-5)
        assert abs(after - before) > 1e-6


# Function vectors


def naive_effects(model, task, *, shots, n_items):
    """The causal indirect effect, head by head and prompt by prompt."""
    right = few_shot_prompts(model, task, shots=shots, n_items=n_items)
    shuffled = few_shot_prompts(model, task, shots=shots, n_items=n_items, shuffled_answers=True)
    sizes = il.models.shape(model)
    found = torch.zeros(2, sizes.n_layers, sizes.n_heads, len(right))
    for layer in range(sizes.n_layers):
        name = f"blocks.{layer}.attn.hook_z"
        for which, prompts in enumerate((right, shuffled)):
            kept = []
            for ids in prompts.ids:
                plain_logits(
                    model, ids, [(name, lambda z, hook, k=kept: k.append(z[0, -1].clone()))]
                )
            mean = torch.stack(kept).mean(0)
            for head in range(sizes.n_heads):
                for row, ids in enumerate(shuffled.ids):

                    def write(z, hook, head=head, mean=mean):
                        z = z.clone()
                        z[:, -1, head] = mean[head]
                        return z

                    answer = int(shuffled.answers[row])
                    before = plain_logits(model, ids).softmax(-1)[answer]
                    after = plain_logits(model, ids, [(name, write)]).softmax(-1)[answer]
                    found[which, layer, head, row] = after - before
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_function_vector_scores_are_those_of_a_naive_loop(name):
    model = hugging_face_model(name)  # llama: grouped queries
    task = Task.from_pairs("plurals", PLURALS, template="{prompt}: {answer}\n")
    ours = effects(model, task, shots=3, n_items=3, progress=False)
    expected = naive_effects(model, task, shots=3, n_items=3)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert float(ours.abs().max()) > 2e-5


def test_function_vector_scores_on_both_classes(implementation):
    config = il.toys.ToyConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_vocab=29, n_ctx=41)
    torch.manual_seed(0)
    model = il.toys.build_toy(config, implementation=implementation, device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.tokenizer = word_tokenizer()
    ours = effects(model, key_task(), shots=4, n_items=4, progress=False)
    expected = naive_effects(model, key_task(), shots=4, n_items=4)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert float(ours.abs().max()) > 2e-5


def test_function_vector_scores_weigh_tasks_alike_whatever_their_size():
    model = hugging_face_model("gpt2")
    many = Task.from_pairs("plurals", PLURALS, template="{prompt}: {answer}\n")
    few = Task.from_pairs("back", list(PLURALS.items())[:3], template="{prompt} - {answer}\n")
    options = {"shots": 2, "n_items": len(many.items)}
    found = FunctionVectorHeads(tasks=[many, few], **options).score(model, progress=False)
    each = [effects(model, task, **options, progress=False) for task in (many, few)]
    assert each[0].shape[-1] > each[1].shape[-1]
    means = torch.stack([part[0].double().mean(-1) for part in each])
    torch.testing.assert_close(found.values.double(), means.mean(0), atol=1e-6, rtol=1e-4)
    alike = torch.cat([part[0].double() for part in each], -1).mean(-1)  # items alike
    assert not torch.allclose(found.values.double(), alike, atol=1e-6, rtol=1e-2)


def test_what_the_circuit_owes_to_one_head_is_known(circuit):
    """Examples are all wrong, so the right answer is unlikely. Written over by its mean over right
    examples, 1.0 raises both answers alike, and no other head changes anything."""
    task = key_task()
    right = few_shot_prompts(circuit, task, shots=4, n_items=12)
    swap = {"yes": "no", "no": "yes"}
    wrong = [[replace(item, answer=swap[item.answer]) for item in some] for some in right.examples]
    prompts = encoded(circuit, task, right.items, wrong)
    heads = [il.Head(layer, head) for layer in range(2) for head in range(3)]
    each = [Without((head,), il.ablation.Mean(), "last") for head in heads]
    before, *after = Asking(circuit, prompts, usual=right).probabilities(each)
    assert float(before.max()) < 1e-3
    for head, likely in zip(heads, after, strict=True):
        if head == il.Head(1, 0):
            assert float(likely.min()) > 0.4
            assert float(likely.max()) < 0.5
        else:
            assert torch.allclose(likely, before, atol=1e-4)
    scores = FunctionVectorHeads(tasks=[task], shots=4, n_items=12).score(circuit)
    assert abs(scores["1.0"]) > 0.01
    assert others_are_zero(scores.values, but=(1, 0), tolerance=1e-3)


def test_the_function_vector_is_what_heads_write_in_the_mean(circuit):
    vector = il.tasks.function_vector(circuit, key_task(), [il.Head(1, 0)], shots=4, n_items=12)
    written = vector[PREDICTION:]
    yes, no = (float(written[word_tokenizer().convert_tokens_to_ids(w)]) for w in ("yes", "no"))
    assert yes == pytest.approx(no, abs=1e-4)
    assert yes > float(written.sort().values[-3]) + 0.5


# Pattern, literal and translation heads


def test_the_circuit_is_a_pattern_head_where_words_decide(circuit):
    scores = PatternHeads(task=key_task(), n_lines=9, n_prompts=6).score(circuit)
    assert scores["1.0"] == pytest.approx(1, abs=1e-4)
    assert float(scores.null[1, 0]) == pytest.approx(0, abs=1e-4)
    assert scores.above(0.3) == [il.Head(1, 0)]
    blind = PatternHeads(task=first_word_task(), n_lines=9, n_prompts=6).score(circuit)
    assert blind["1.0"] == pytest.approx(0, abs=1e-4)


def test_lines_are_found_in_the_tokens():
    model = speaking_circuit()
    prompts = few_shot_prompts(model, key_task(), shots=8, n_items=4)
    for row, ids in enumerate(prompts.ids):
        words = ["", *prompts.texts[row].split()]
        assert len(words) == len(ids)
        [aim] = line_aims(prompts, row)
        assert aim.query == len(ids) - 1
        answer = prompts.items[row].answer
        assert [words[key] for key in aim.keys] == [answer] * 4
        assert {words[key] for key in aim.others} == {"yes", "no"} - {answer}


def test_lines_match_by_half():
    june_grape = Item("June grape", "1", kinds=("month", "fruit"))
    assert matches_by_half(june_grape, Item("July bird", "0", kinds=("month", "animal")))
    assert matches_by_half(june_grape, Item("blue pear", "3", kinds=("colour", "fruit")))
    assert not matches_by_half(june_grape, Item("grey bird", "2", kinds=("colour", "animal")))
    assert not matches_by_half(june_grape, Item("May plum", "1", kinds=("month", "fruit")))


def test_the_circuit_copies_passages_and_different_ones_not(circuit):
    task, control = literal_copying(PASSAGES), literal_copying(PASSAGES, different=True)
    assert few_shot(circuit, task).accuracy.value == 1
    scores = LiteralHeads(task).score(circuit)
    assert scores["1.0"] == pytest.approx(1, abs=1e-4)
    assert float(scores.null[1, 0]) == pytest.approx(0, abs=1e-4)
    assert LiteralHeads(control).score(circuit)["1.0"] == pytest.approx(0, abs=1e-4)
    lengths = [[len(item.prompt.split()) for item in one.items] for one in (task, control)]
    assert lengths[0] == lengths[1]


def translated(words):
    """A sentence and, below it, other words for it in another order; the last word is asked for."""
    first = "w0 w1 w2 w3"
    prompt = f"{first} . {words} "
    spans = {word: (prompt.index(word), prompt.index(word) + 2) for word in first.split()}
    begin = len(first) + 3
    queries = [(begin + 3 * i, begin + 3 * i + 2) for i in range(3)]
    order = ["w2", "w1", "w3"]  # what comes next, in the first language
    others = ["w0", "w3", "w1"]
    targets = [
        Target(query, (spans[key],), (spans[other],))
        for query, key, other in zip(queries, order, others, strict=True)
    ]
    return Item(prompt.strip(), "w9", targets=tuple(targets))


def test_a_different_passage_is_nowhere_in_the_passage():
    for seed in (
        0,
        1,
        14,
        38,
    ):  # at three of them its own second half followed a passage
        for item in literal_copying(different=True, seed=seed).items:
            passage, _, rest = item.prompt.partition("\n\n")
            words, whole = rest.split(), " ".join(passage.split())
            assert not any(" ".join(words[n : n + 4]) in whole for n in range(len(words) - 3))
    with pytest.raises(
        ValueError, match="two or more that begin differently, got some that begin alike"
    ):
        literal_copying([PASSAGES[0], PASSAGES[0]], different=True)


def test_kinds_need_sequences():
    for kind in (NGramHeads, TokenCopyingHeads, ConceptCopyingHeads):
        with pytest.raises(ValueError, match="n_sequences to be a whole number from 1"):
            kind(n_sequences=0)


def test_a_copying_head_is_no_translation_head_unless_words_are_the_same(circuit):
    other_words = Task(
        "t", (translated("w5 w6 w7"), translated("w5 w6 w8")), template="{prompt} {answer} "
    )
    scores = TranslationHeads(other_words).score(circuit)
    assert scores["1.0"] == pytest.approx(0, abs=1e-4)
    same = Task(
        "t", (translated("w1 w0 w2"), translated("w1 w0 w2")), template="{prompt} {answer} "
    )
    # w1 is followed by w2, w0 by w1, w2 by w3: all three as the targets say
    found = TranslationHeads(same).score(circuit)
    assert found["1.0"] == pytest.approx(1, abs=1e-4)
    assert found["0.2"] == pytest.approx(found.uniform, abs=1e-4)


def test_words_of_aligned_sentences_are_found_in_the_tokens():
    model = hugging_face_model("gpt2")  # nearly a token for each letter
    task = il.tasks.translated_sentences(["English", "French"])
    short = Task("short", task.items[3:4] + task.items[23:24], template=task.template)
    model_fits = [item for item in short.items if len(item.prompt.encode()) < 66]
    assert model_fits
    prompts = few_shot_prompts(model, Task("s", tuple(model_fits), template=task.template))
    [target, *_] = prompts.targets(0)
    aim = aims_of(prompts, 0)[0]
    read = lambda places: model.tokenizer.decode([prompts.ids[0][p] for p in places]).strip()  # noqa: E731
    text = prompts.texts[0]
    assert read(aim.keys) == text[slice(*target.keys[0])]
    assert text[slice(*target.query)].endswith(read([aim.query]))


def test_every_alignment_is_within_its_sentences():
    blocks = il.tasks.aligned_sentences()
    assert len(blocks) == 50
    for block in blocks:
        n = len(block["English"].words)
        for name, sentence in block.items():
            used = [word for means in sentence.english for word in means]
            assert len(sentence.words) == len(sentence.english), sentence.text
            assert len(set(used)) == len(used), sentence.text
            assert max(used) < n, sentence.text
            assert len(set(range(n)) - set(used)) <= 1, (name, sentence.text)
            assert sentence.text.endswith(".")


def test_ready_tasks_are_what_they_say():
    for name in il.tasks.READY:
        [task] = il.tasks.ready(name)
        assert len(task.items) >= 20, name
        assert len(set(task.items)) == len(task.items), name
    pattern = il.tasks.pattern()
    for item in pattern.items:
        first, second = item.prompt.split()
        assert first in il.tasks.words(item.kinds[0])
        assert second in il.tasks.words(item.kinds[1])
    assert pattern.chance == 0.25
    for form in ("ABAB", "ABBB", "ABCBA"):
        for item in il.tasks.letter_pattern(form, n_items=20).items:
            letters = item.prompt.split()
            same = [[a == b for b in letters] for a in letters]
            wanted = [[a == b for b in form] for a in form]
            assert (same == wanted) == (item.answer == "Foo")
            assert item.answer == "Foo" or len(set(letters)) == len(form)
    german = {item.prompt: item.answer for item in il.tasks.translated_words("German").items}
    assert german["May"] == "Mai"
    assert german["Germany"] == "Deutschland"
    assert "April" not in german  # the same in both
