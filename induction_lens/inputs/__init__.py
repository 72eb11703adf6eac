"""What goes into a model: random tokens and text, and where text comes from."""

from induction_lens.inputs.reading import TextSource, texts_in
from induction_lens.inputs.tokens import repeated_random_tokens, sample_text, shuffled, text_tokens
from induction_lens.models import TextTokens

__all__ = [
    "TextSource",
    "TextTokens",
    "repeated_random_tokens",
    "sample_text",
    "shuffled",
    "text_tokens",
    "texts_in",
]
