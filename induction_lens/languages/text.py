"""Text as a language: sequences of real text, to be mixed with others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages.language import BOS, Language


@dataclass(frozen=True, eq=False)
class Text(Language):
    """Sequences of text that is given, drawn with replacement. Their best predictor is not known.

    Examples:
        >>> model = il.load("toy-2l")
        >>> text = il.text_tokens(model, n_sequences=4, seq_len=32)
        >>> language = il.languages.Text(text, n_tokens=1024)
        >>> mixed = il.languages.Mixture([language, il.languages.Copies(n_letters=1023)])
        >>> mixed.sample(8, seq_len=32).shape, mixed.d_vocab
        (torch.Size([8, 32]), 1024)
    """

    tokens: Int[Tensor, "sequence pos"] = field(repr=False)
    """Packed sequences, BOS first, as `inputs.corpus.pack` makes them."""
    n_tokens: int
    """Tokens in the vocabulary of the tokenizer that made them, BOS included."""

    def __post_init__(self) -> None:
        """Check the tokens."""
        remedy = "pass what inputs.corpus.pack returns"
        axes = ("sequence", "pos")
        tokens = checks.tensor("tokens", self.tokens, axes=axes, whole=True, remedy=remedy)
        n_tokens = checks.whole_number("n_tokens", self.n_tokens, least=2)
        if not tokens.numel() or not bool((tokens[:, 0] == BOS).all()):
            raise ValueError(
                f"expected sequences that begin with BOS ({BOS}), got others; {remedy}"
            )
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < n_tokens:
            raise ValueError(
                f"expected token ids from 0 to {n_tokens - 1}, got {int(tokens.min())} to "
                f"{int(tokens.max())}; pass the tokens of one tokenizer, and its size"
            )

    @property
    def d_vocab(self) -> int:
        """That of the tokenizer."""
        return self.n_tokens

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        n_rows, n_pos = self.tokens.shape
        if seq_len >= n_pos:
            raise ValueError(
                f"expected at most {n_pos} tokens in a sequence of this text, got {seq_len + 1}; "
                "pack the text into longer ones"
            )
        rows = torch.randint(n_rows, (n,), generator=rng, device="cpu")
        return self.tokens[rows, 1 : 1 + seq_len].long()
