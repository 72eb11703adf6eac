"""Some of `python -m tests.architectures`: the architectures that fail in ways of their own."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from tests.architectures import __main__ as script
from tests.architectures import plain, tables, tiny
from tests.architectures.cases import CASES, LENGTH, Case
from tests.architectures.checks import Cell

TELLING = (
    "gpt2",  # biases of values, which must not be folded away
    "gpt2 unscaled",  # a switch that TransformerLens does not know
    "gpt_neo",  # local attention
    "mpt clipped",  # values that are clipped, only where they are large
    "bloom",  # alibi
    "llama with wide heads",  # grouped queries
    "phi3 longrope from 129",  # rotary factors that depend on the length
    "ministral3, queries scaled by position",
    "gemma2",  # capped scores
    "cohere2",  # rotary positions of pairs
    "gpt_oss",  # attention sinks
    "deepseek_v3",  # values of another size than keys
    "qwen3_next, attention only",  # gates after attention
)


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """All comparisons, as users call; the references are made before anything is loaded."""
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return script.compare([CASES[name] for name in TELLING])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", TELLING)
def test_exact_or_refused(cells, name):
    of_case = [cell for cell in cells if cell.case == name]
    assert of_case
    assert [cell for cell in of_case if cell.outcome in ("WRONG", "BAD")] == []


@pytest.mark.parametrize("name", ["BERT", "T5", "Mamba", "ViT", "LLaVA", "LFM2"])
@pytest.mark.usefixtures("_as_users_call")
def test_what_is_no_causal_transformer_is_refused(name):
    assert script.check_other(name).outcome == "refused"


def test_the_reference_finds_what_a_head_adds():
    """By hand: with a single layer and identity weights, the zeroed slice is what goes missing."""
    case = Case("one layer", "gpt2", {**CASES["gpt2"].options, "n_layer": 1})
    model = tiny.random_model(case)
    tokens = tiny.sample_tokens(seed=3, n_sequences=2)
    attention = model.transformer.h[0].attn
    with torch.no_grad():
        reference = plain.PlainModel(model, tokens)
        outputs = reference.head_outputs(tokens)[0]
        normed = model.transformer.h[0].ln_1(
            model.transformer.wte(tokens) + model.transformer.wpe(torch.arange(LENGTH))
        )
        values = attention.c_attn(normed)[..., 2 * 42 :].unflatten(-1, (3, 14))
        expected = torch.einsum("hbqk, bkhd -> bqhd", reference.patterns[0], values)
    torch.testing.assert_close(outputs, expected)


def test_the_page_keeps_the_section_of_the_other_version():
    cell = Cell("gpt2", "zero in a block", "exact", 1e-5)
    other = "# Title\n\n<!-- TransformerLens 9: x -->\nkept\n<!-- end of TransformerLens 9 -->\n"
    once = tables.with_section(other, [cell], [])
    assert "kept" in once
    assert "| gpt2 |" in once
    assert tables.with_section(once, [cell], []) == once
