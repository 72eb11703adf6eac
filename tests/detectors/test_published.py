"""Published scores: each against its own loop, its yardsticks by hand, and the hand-set circuit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import induction_lens as il
from induction_lens.detectors import published
from induction_lens.detectors.token_copying import TOKEN_COPYING
from tests.hf_folders import CONFIGS, hugging_face_model, random_model

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "published-scores.md"
N = 50
BY_NAME = {one.name: one for one in published.ATTENTION_SCORES}


def copies(n, repeats, rows=3, seed=0):
    """BOS (0), then different tokens in each copy."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([1 + torch.randperm(4 * n, generator=generator)[:n] for _ in range(rows)])
    return torch.cat([torch.zeros(rows, 1, dtype=torch.long), drawn.repeat(1, repeats)], dim=1)


def random_patterns(tokens, n_heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n_pos = tokens.shape[1]
    scores = 3 * torch.randn(len(tokens), n_heads, n_pos, n_pos, generator=generator)
    future = torch.ones(n_pos, n_pos, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


# Each published score, as a loop


def olsson(pattern, x, n):
    total, count = 0.0, 0
    for q in range(len(x)):
        keys = [k for k in range(2, q + 1) if x[k - 1] == x[q]]
        total += sum(float(pattern[q, k]) for k in keys)
        count += bool(keys)
    return total / count


def detect_head(pattern, x, measure):
    """TransformerLens's own function, on its own detection pattern."""
    detector = pytest.importorskip("transformer_lens.head_detector")
    target = detector.get_induction_head_detection_pattern(torch.tensor(x)[None])
    return detector.compute_head_attention_similarity_score(
        pattern.clone(),
        target,
        exclude_bos=False,
        exclude_current_token=False,
        error_measure=measure,
    )


def stripe(pattern, x, n):
    entries = [float(pattern[q, q - (n - 1)]) for q in range(n - 1, len(x))]
    return sum(entries) / len(entries)


def crosbie(pattern, x, n):
    """Positions counted from 0 with BOS, as in the published loop."""
    total, queries = 0.0, range(n + 1, 4 * n + 1)
    for i in queries:
        for earlier in range(i // n):
            total += float(pattern[i, earlier * n + i % n + 1])
    return total / len(queries)


def aoyama(pattern, x, n):
    """Positions counted without BOS, which the original does not have."""
    return sum(float(pattern[s + 1, s - (n - 1) + 1]) for s in range(n, 2 * n)) / n


def retrieval(pattern, x, n):
    found = 0
    for step in range(n):  # the token generated after position n + step
        q = n + step
        key = int(pattern[q].argmax())
        found += 1 <= key <= n and x[key] == x[q + 1]
    return found / n


LOOPS = {
    "olsson": olsson,
    "detect_head_mul": lambda pattern, x, n: detect_head(pattern, x, "mul"),
    "detect_head_abs": lambda pattern, x, n: detect_head(pattern, x, "abs"),
    "stripe": stripe,
    "crosbie": crosbie,
    "aoyama": aoyama,
    "retrieval": retrieval,
}


@pytest.mark.parametrize("name", LOOPS)
def test_every_score_is_its_published_loop(name):
    one = BY_NAME[name]
    tokens = copies(7, one.n_repeats)
    patterns = random_patterns(tokens)
    found = one.of(patterns, tokens)
    rounding = 5.1e-4 if name == "detect_head_abs" else 1e-5  # the original rounds
    for row in range(3):
        for head in range(2):
            expected = LOOPS[name](patterns[row, head], tokens[row].tolist(), 7)
            assert float(found[row, head]) == pytest.approx(expected, abs=rounding)


# Yardsticks, by hand, for copies of n

YARDSTICKS = {  # of a perfect head that rests on BOS, and of one that only rests there
    "olsson": (1, 0),
    "detect_head_mul": (N / (2 * N + 1), 0),
    "detect_head_abs": (N / (2 * N + 1), -N / (2 * N + 1)),
    "stripe": ((N + 1) / (N + 2), 1 / (N + 2)),
    "crosbie": (1, 0),
    "aoyama": (1, 0),
    "retrieval": ((N - 1) / N, 0),
}


def even(queries):
    """What even attention puts on one key, summed over queries."""
    return sum(1 / (q + 1) for q in queries)


# queries of the second copy, without the last one of the first
SECOND = even(range(N + 1, 2 * N + 1))
UNIFORM = {
    "olsson": sum((q - 1) // 25 / (q + 1) for q in range(26, 101)) / 75,
    "detect_head_mul": SECOND / (2 * N + 1),
    # a query without targets is 1 away, one with a target 1 - 1/(q+1) and q/(q+1)
    "detect_head_abs": 1 - (N + 1 + 2 * N - 2 * SECOND) / (2 * N + 1),
    "stripe": even(range(N - 1, 2 * N + 1)) / (N + 2),
    "crosbie": sum((q // N) / (q + 1) for q in range(N + 1, 4 * N + 1)) / (3 * N),
    "aoyama": SECOND / N,
    "retrieval": even(range(N, 2 * N)) / N,
}


@pytest.mark.parametrize("name", YARDSTICKS)
def test_ceiling_and_chance_are_those_computed_by_hand(name):
    one = BY_NAME[name]
    tokens = copies(one.n_tokens, one.n_repeats, rows=1)
    ceiling, resting = YARDSTICKS[name]
    assert one.ceiling(tokens) == pytest.approx(ceiling, abs=1e-5)
    assert one.resting(tokens) == pytest.approx(resting, abs=1e-5)
    assert one.uniform(tokens) == pytest.approx(UNIFORM[name], abs=1e-5)


def test_a_head_that_always_looks_at_the_first_token_is_crosbies_alone():
    """Position 1 follows BOS; its loop counts it for the last token of each copy."""
    tokens = copies(N, 4, rows=1)
    first = torch.zeros(1, 1, 4 * N + 1, 4 * N + 1)
    first[..., 1] = 1.0
    first[..., 0, :2] = torch.tensor([1.0, 0.0])
    # queries N+1 (a target: what follows the first token's copy is 2, not 1) to 4N; 2N, 3N and 4N
    assert float(BY_NAME["crosbie"].of(first, tokens)) == pytest.approx(3 / (3 * N), abs=1e-6)
    short = copies(25, 4, rows=1)
    assert float(BY_NAME["olsson"].of(first[..., :101, :101], short)) == 0


# The hand-set circuit


def test_the_hand_set_circuit_is_at_its_yardsticks(circuit):
    table = published.published_scores(circuit, n_sequences=4)
    assert list(table) == list(published.PUBLISHED)
    for name, one in BY_NAME.items():
        n = one.length(circuit)
        tokens = one.prompts(circuit, n_sequences=4)
        scores = table[name]
        assert n == {2: 20, 4: 10}[one.n_repeats]  # its context is 41
        assert scores["1.0"] == pytest.approx(one.ceiling(tokens), abs=1e-5)
        assert scores.ceiling == pytest.approx(one.ceiling(tokens[:1]))
        assert scores["0.1"] == pytest.approx(one.resting(tokens), abs=1e-5)
        if name != "retrieval":  # whose largest of equal scores is a matter of rounding
            assert scores["0.2"] == pytest.approx(one.uniform(tokens), abs=1e-5)
            assert scores["1.1"] < scores["1.0"] - 0.2
    copying = table["token_copying"]
    # 1.0 makes the token certain, and the run without repetition certain of BOS
    assert copying["1.0"] == pytest.approx(1.0, abs=1e-4)
    others = copying.values.clone()
    others[1, 0] = 0
    assert float(others.abs().max()) < 1e-4


def test_olsson_is_the_detector_on_copies_of_one_length(circuit):
    scores = published.published_scores(circuit, definitions="olsson", n_sequences=5)["olsson"]
    tokens = BY_NAME["olsson"].prompts(circuit, n_sequences=5)
    ours = il.score_heads(circuit, tokens=tokens, detectors=["induction"])["induction"]
    assert torch.allclose(scores.values, ours.values, atol=1e-4)
    assert scores.uniform == pytest.approx(ours.uniform, abs=1e-5)
    assert scores.sem is not None
    assert torch.allclose(scores.sem, ours.sem, atol=1e-4)


# Token copying, against plain Hugging Face code


PROJECTIONS = {
    "gpt2": lambda model, layer: model.transformer.h[layer].attn.c_proj,
    "llama": lambda model, layer: model.model.layers[layer].self_attn.o_proj,
    "neox": lambda model, layer: model.gpt_neox.layers[layer].attention.dense,
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_token_copying_is_that_of_plain_hugging_face_code(name):
    model, plain = hugging_face_model(name), random_model(CONFIGS[name])
    n_heads = model.cfg.n_heads
    scores = TOKEN_COPYING.score(model, n_sequences=5, progress=False)
    groups = list(TOKEN_COPYING.prompts(model, n_sequences=5))
    assert [len(group.clean) for group in groups] == [2, 1, 1, 1]
    for layer, head in ((0, 0), (0, n_heads - 1), (1, 1)):
        module = PROJECTIONS[name](plain, layer)
        changes = []
        for group in groups:
            kept = []

            def keep(module, args, kept=kept):
                kept.append(args[0].clone())

            def patch(module, args, kept=kept, head=head):
                x = args[0].clone()
                width = x.shape[-1] // n_heads
                at = slice(head * width, (head + 1) * width)
                x[:, -2, at] = kept[0][:, -2, at]
                return (x,)

            with torch.no_grad():
                handle = module.register_forward_pre_hook(keep)
                plain(group.clean)
                handle.remove()
                base = plain(group.corrupted).logits[:, -2].softmax(-1)
                handle = module.register_forward_pre_hook(patch)
                patched = plain(group.corrupted).logits[:, -2].softmax(-1)
                handle.remove()
            index = group.copied[:, None]
            changes.append((patched - base).gather(1, index)[:, 0])
        expected = float(torch.cat(changes).mean())
        assert scores[layer, head] == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 1e-6


def test_prompts_of_token_copying_repeat_up_to_the_entity():
    model = hugging_face_model("gpt2")
    newline = model.tokenizer("\n", add_special_tokens=False)["input_ids"]
    for n_entity, group in zip(
        (2, 3, 4, 5), TOKEN_COPYING.prompts(model, n_sequences=4), strict=True
    ):
        [clean], [corrupted] = group.clean.tolist(), group.corrupted.tolist()
        assert len(clean) == len(corrupted) == 1 + 30 + 1 + 30 - n_entity + 1
        assert clean[32:] == clean[1 : 1 + 31 - n_entity] == corrupted[32:]
        assert [clean[31]] == newline
        assert not set(clean[1:31]) & set(corrupted[1:31])
        assert int(group.copied) == clean[31 - n_entity]


def test_batches_change_nothing(circuit):
    whole = published.published_scores(circuit, n_sequences=4)
    alone = published.published_scores(circuit, n_sequences=4, batch_size=1)
    for name in published.PUBLISHED:
        assert torch.allclose(whole[name].values, alone[name].values, atol=1e-6)


@pytest.mark.usefixtures("_as_users_call")
def test_what_is_refused(circuit):
    with pytest.raises(ValueError, match="each of definitions to be one of olsson"):
        published.published_scores(circuit, definitions=["olson"])
    tokens = torch.arange(11)[None]
    with pytest.raises(ValueError, match="expected tokens to be BOS and 2 copies"):
        BY_NAME["stripe"].of(torch.zeros(1, 1, 11, 11), tokens)
    with pytest.raises(ValueError, match="expected pattern to be of 3 sequences of 15 tokens"):
        BY_NAME["stripe"].of(torch.zeros(1, 1, 15, 15), copies(7, 2))


# The page


def planted(n, repeats):
    """Patterns of heads that are set by hand, on copies of n."""
    tokens = copies(n, repeats, rows=1)
    n_pos = tokens.shape[1]
    perfect = published.perfect_pattern(tokens)
    bos = torch.zeros_like(perfect)
    bos[..., 0] = 1.0
    back = bos.clone()
    first = bos.clone()
    duplicate = bos.clone()
    for q in range(n_pos):
        if q >= n - 1:
            back[0, 0, q] = torch.eye(n_pos)[q - (n - 1)]
        if q >= 1:
            first[0, 0, q] = torch.eye(n_pos)[1]
        if q > n:
            duplicate[0, 0, q] = torch.eye(n_pos)[q - n]
    heads = {
        "perfect": perfect,
        "55% of perfect, the rest on BOS": 0.55 * perfect + 0.45 * bos,
        "45% of perfect, the rest on BOS": 0.45 * perfect + 0.55 * bos,
        "always one less than a copy back": back,
        "earlier copies of the token itself": duplicate,
        "always the first token": first,
        "only BOS": bos,
        "even attention": torch.ones(n_pos, n_pos)
        .tril()
        .div(torch.arange(1, n_pos + 1)[:, None])[None, None],
    }
    return tokens, heads


def test_the_page_shows_what_planted_heads_score():
    rows = {}
    for one in published.ATTENTION_SCORES:
        tokens, heads = planted(one.n_tokens, one.n_repeats)
        for head, pattern in heads.items():
            rows.setdefault(head, []).append(f"{float(one.of(pattern, tokens)):.3f}")
    page = PAGE.read_text()
    for head, numbers in rows.items():
        line = f"| {head} | {' | '.join(numbers)} |".replace("-", "−")
        assert line.replace("−0.000", "0.000") in page, line


def test_the_page_names_every_definition():
    page = PAGE.read_text()
    for name in published.PUBLISHED:
        assert f"`{name}`" in page
