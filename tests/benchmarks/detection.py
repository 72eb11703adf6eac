"""What finding heads costs: against a bare pass, `detect_head`, `run_with_cache`, and streaming."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import tokenizers
import torch
import transformers
from torch import Tensor

import induction_lens as il
from induction_lens.detectors.scoring import prompts
from induction_lens.models import HAS_HOOKED_TRANSFORMER
from tests.benchmarks.harness import Row, Target, interleave
from tests.benchmarks.shapes import build, tokens_for

Length = Literal["short", "long"]
BY_ATTENTION = ("previous_token", "induction", "duplicate_token")


def detection(shape: str, *, quick: bool) -> list[Row]:
    """Three detectors against a bare pass that stops once the last pattern is there."""
    model = build(shape, quick=quick)
    tokens, batch_size = _tokens(model, quick), 4
    baseline, ours = interleave(
        {
            "pass up to the last pattern": lambda: bare_pass(model, tokens, batch_size),
            "score_heads, three detectors": lambda: score(model, tokens, batch_size=batch_size),
        },
        repeats=2 if quick else 5,
    )
    target = Target("ratio", "at most", 1.05)
    return [Row(f"detection/{shape}", baseline, ours, "ours / baseline", (target,))]


def against_detect_head(shape: str, length: Length, *, quick: bool) -> list[Row]:
    """TransformerLens's own detector, once for each kind of head, against one `score_heads`; on the
    tokens that `score_heads` draws by itself, or on long ones."""
    if not HAS_HOOKED_TRANSFORMER:  # it reads a HookedTransformer
        return []
    from transformer_lens.head_detector import detect_head

    model = build(shape, quick=quick)
    long = _tokens(model, quick)
    tokens = long if quick or length == "long" else prompts(model)
    read = as_prompts(model, tokens)
    kinds = ("previous_token_head", "induction_head", "duplicate_token_head")
    baseline, ours = interleave(
        {
            "detect_head, three times": torch.no_grad()(
                lambda: [detect_head(model, read, kind) for kind in kinds]
            ),
            "score_heads, three detectors": lambda: score(model, tokens),
        },
        repeats=1 if quick else 3,
    )
    target = Target("ratio", "at least", {"gpt2-small": 6.0, "attn-only-2l": 50.0}[shape])
    name = f"detect-head/{shape}, {tokens.shape[0]} × {tokens.shape[1]}"
    return [Row(name, baseline, ours, "baseline / ours", (target,))]


def against_cache(shape: str, *, quick: bool) -> list[Row]:
    """`run_with_cache` and a reduction of its patterns, of everything and of patterns alone."""
    model = build(shape, quick=quick)
    tokens = _tokens(model, quick)
    everything, patterns, ours = interleave(
        {
            "run_with_cache": lambda: cached_scores(model, tokens, only_patterns=False),
            "run_with_cache, patterns alone": lambda: cached_scores(
                model, tokens, only_patterns=True
            ),
            "score_heads, three detectors": lambda: score(model, tokens),
        },
        repeats=1 if quick else 3,
    )
    by_cache = cached_scores(model, tokens, only_patterns=True)
    scores = score(model, tokens)
    difference = max((scores[name].values - by_cache[name]).abs().max().item() for name in by_cache)
    targets = (Target("memory", "at most", 0.1), Target("difference", "at most", 1e-5))
    return [
        Row(f"cache/{shape}", everything, ours, "baseline / ours", targets, difference),
        Row(f"cache-patterns/{shape}", patterns, ours, "baseline / ours", (), difference),
    ]


def streaming(*, quick: bool) -> list[Row]:
    """Attention computed in pieces against whole patterns, on the same number of tokens."""
    contexts = (64, 128, 256) if quick else (128, 256, 512, 1024, 2048, 4096)
    model = il.toys.build_toy(il.toys.ToyConfig(n_ctx=contexts[-1]), device="cpu")
    rows = []
    for context in contexts:
        tokens = tokens_for(model, contexts[-1] // context, context)
        whole = functools.partial(score, model, tokens, attention="pattern")
        pieces = functools.partial(score, model, tokens, attention="streaming")
        difference = max((whole()[n].values - pieces()[n].values).abs().max() for n in BY_ATTENTION)
        baseline, ours = interleave(
            {'attention="pattern"': whole, 'attention="streaming"': pieces},
            repeats=2 if quick else 5,
        )
        rows.append(
            Row(
                f"streaming/{context} tokens",
                baseline,
                ours,
                "baseline / ours",
                (Target("difference", "at most", 1e-5),),
                float(difference),
            )
        )
    return rows


def score(model: Any, tokens: Tensor, **options: Any) -> il.ScoreTable:
    """The three attention detectors, by the package."""
    return il.score_heads(
        model,
        tokens=tokens,
        detectors=BY_ATTENTION,
        shuffled_null=False,
        progress=False,
        **options,
    )


class _Stop(Exception):  # noqa: N818
    """Ends a pass that has gone far enough."""


@torch.no_grad()
def bare_pass(model: Any, tokens: Tensor, batch_size: int) -> None:
    """The model's own forward pass up to the pattern of its last layer, looking at nothing."""

    def stop(pattern: Tensor, hook: object) -> None:
        raise _Stop

    last = f"blocks.{model.cfg.n_layers - 1}.attn.hook_pattern"
    for batch in tokens.split(batch_size):
        try:
            model.run_with_hooks(batch, fwd_hooks=[(last, stop)])
        except _Stop:
            continue
        raise AssertionError(f"{last} never fired")


@torch.no_grad()
def cached_scores(model: Any, tokens: Tensor, *, only_patterns: bool) -> dict[str, Tensor]:
    """The three scores [layer head] from a cache of the whole pass."""
    names = (lambda name: name.endswith("attn.hook_pattern")) if only_patterns else None
    _, cache = model.run_with_cache(tokens, names_filter=names)
    found = {}
    for name in BY_ATTENTION:
        marked = il.detectors.target_mask(tokens, name).float()
        queries = marked.any(-1).sum()
        layers = range(model.cfg.n_layers)
        mass = [
            torch.einsum("bhqk,bqk->h", cache[f"blocks.{n}.attn.hook_pattern"], marked)
            for n in layers
        ]
        found[name] = torch.stack(mass) / queries
    return found


def as_prompts(model: Any, tokens: Tensor) -> list[str]:
    """Texts that the model, given a tokenizer with one word for each id, reads as these tokens."""
    words = ["<bos>", *(str(i) for i in range(1, model.cfg.d_vocab))]
    vocabulary = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<bos>")
    tokenizer = tokenizers.Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = False
    prompts = [" ".join(words[i] for i in row) for row in tokens.tolist()]
    assert model.to_tokens(prompts).equal(tokens)
    return prompts


def _tokens(model: Any, quick: bool) -> Tensor:
    return tokens_for(model, 2, 128) if quick else tokens_for(model, 8, 512)


SHAPES: Sequence[str] = ("gpt2-small", "attn-only-2l", "toy-2l", "llama-gqa-6l")
BENCHMARKS = {
    **{f"detection/{shape}": functools.partial(detection, shape) for shape in SHAPES},
    **{
        f"detect-head/{shape}-{length}": functools.partial(against_detect_head, shape, length)
        for shape in ("gpt2-small", "attn-only-2l")
        for length in get_args(Length)
    },
    "cache/gpt2-small": functools.partial(against_cache, "gpt2-small"),
    "streaming": streaming,
}
