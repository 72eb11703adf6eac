"""What the tests of tasks share: words for the hand-set circuit, and a plain way to ask a model."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from induction_lens.models import bos_id
from induction_lens.tasks import Task
from tests.reference_model import D_VOCAB, induction_circuit

KEYS = ("k1", "k2")
WORDS = [f"w{i}" for i in range(D_VOCAB - 8)]
VOCABULARY = ["<s>", *KEYS, "yes", "no", ".", "Q", "A", *WORDS]


def word_tokenizer() -> Any:
    """One token for each word of the vocabulary."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", unk_token="<s>"
    )


def speaking_circuit(implementation: Any = None) -> Any:
    """The hand-set induction circuit, with a tokenizer."""
    model = induction_circuit(implementation)
    model.tokenizer = word_tokenizer()
    return model


def key_task() -> Task:
    """The answer goes by the last word, so that a model that copies what followed it is right."""
    pairs = [(f"{word} {key}", {"k1": "yes", "k2": "no"}[key]) for key in KEYS for word in WORDS]
    return Task.from_pairs("keys", pairs, template="{prompt} {answer} . ")


def first_word_task() -> Task:
    """The answer goes by the first word, and no last word comes twice: there is nothing to copy."""
    half = len(WORDS) // 2
    some = {"k1": WORDS[:half], "k2": WORDS[half : 2 * half]}
    pairs = [
        (f"{key} {word}", {"k1": "yes", "k2": "no"}[key]) for key in KEYS for word in some[key]
    ]
    return Task.from_pairs("first words", pairs, template="{prompt} {answer} . ")


def plain_scores(model: Any, prompts: Any, *, hooks: Any = ()) -> list[float]:
    """1 where the right answer is the likeliest (of the classes, of a choice), prompt by prompt."""
    found = []
    for row, ids in enumerate(prompts.ids):
        logits = plain_logits(model, ids, hooks)
        if prompts.task.is_choice:
            kept = logits[prompts.choices]
            found.append(float(prompts.choices[kept.argmax()] == prompts.answers[row]))
        else:
            found.append(float(logits.argmax() == prompts.answers[row]))
    return found


def plain_logits(model: Any, ids: Any, hooks: Any = ()) -> torch.Tensor:
    """The logits after the last token of one prompt, by the library's own function."""
    assert ids[0] == bos_id(model)
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([ids]), fwd_hooks=list(hooks))[0, -1]
