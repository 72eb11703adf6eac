"""Random letters, and then the same again: in the same alphabet, or in another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages.language import Language, check_sequences, with_bos


@dataclass(frozen=True)
class Copies(Language):
    """Blocks of random letters, each followed by its copy: `A B C A B C  D A A D A A …`.

    What an induction head is for, in its literal form. The best predictor knows the length of a
    block, is at ln(letters) in every first copy, and at zero in every second one.
    """

    n_letters: int = 64
    """Letters of the alphabet."""
    length: int = 16
    """Letters in a block."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        checks.whole_number("n_letters", self.n_letters, least=2)
        checks.whole_number("length", self.length, least=1)

    @property
    def d_vocab(self) -> int:
        """BOS and the letters."""
        return 1 + self.n_letters

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        first = _letters(n, seq_len, self.length, self.n_letters, rng=rng)
        return torch.cat([first, self._copy(first)], dim=2).flatten(1)[:, :seq_len]

    def _copy(self, letters: Int[Tensor, "batch block pos"]) -> Int[Tensor, "batch block pos"]:
        return letters

    def is_copy(self, seq_len: int) -> Tensor:
        """Whether each position after BOS lies in a second copy."""
        return torch.arange(seq_len, device="cpu") % (2 * self.length) >= self.length

    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """ln(letters) in first copies, zero in second ones.

        Examples:
            >>> language = il.languages.Copies(n_letters=4, length=2)
            >>> tokens = language.sample(1, seq_len=6)
            >>> language.optimal_loss(tokens)[0, 1:]
            tensor([1.3863, 1.3863, 0.0000, 0.0000, 1.3863])
        """
        body = check_sequences(tokens, least=1, most=self.d_vocab - 1)
        n_blocks = body.shape[1] // (2 * self.length) + 1
        spare = n_blocks * 2 * self.length - body.shape[1]
        blocks = torch.nn.functional.pad(body, (0, spare)).view(len(body), n_blocks, 2, self.length)
        expected = torch.stack([blocks[:, :, 0], self._copy(blocks[:, :, 0])], dim=2)
        agrees = (expected.flatten(1)[:, : body.shape[1]] == body) | ~self.is_copy(body.shape[1])
        if not bool(agrees.all()):
            raise ValueError(
                f"expected blocks of {self.length} letters that are followed by their copies, got "
                "others; pass sequences of this language"
            )
        known = self.is_copy(body.shape[1]).expand_as(body)
        losses = torch.full(body.shape, math.log(self.n_letters), dtype=torch.float32, device="cpu")
        return with_bos(losses.masked_fill(known, 0.0))


@dataclass(frozen=True)
class TwoAlphabets(Copies):
    """Copies in another alphabet by a fixed dictionary: `A B C a b c  D A A d a a …`.

    Olsson et al. 2022 ("Argument 4") call this `[A*][B*] … [A] → [B]` in its abstract form: to
    predict `b` after `a`, a head has to find `A`, which is `a` in the other alphabet, and go to
    what followed it. Nothing can be copied literally: no token of a copy is in what it copies. The
    dictionary never changes, so that it can be learnt by heart, and the letters are drawn afresh
    for each block.
    """

    seed: int = 0
    """Seed of the dictionary."""

    @property
    def d_vocab(self) -> int:
        """BOS and both alphabets: capitals from 1, small ones after them."""
        return 1 + 2 * self.n_letters

    @property
    def dictionary(self) -> Int[Tensor, " letter"]:
        """The small letter of each capital, as token ids; that of capital `1 + i` is at `i`."""
        generator = torch.Generator().manual_seed(checks.seed(self.seed))
        order = torch.randperm(self.n_letters, generator=generator, device="cpu")
        return 1 + self.n_letters + order

    def _copy(self, letters: Int[Tensor, "batch block pos"]) -> Int[Tensor, "batch block pos"]:
        return self.dictionary[(letters - 1).clamp(0, self.n_letters - 1)]


def _letters(
    n: int, seq_len: int, length: int, n_letters: int, *, rng: torch.Generator
) -> Int[Tensor, "batch block pos"]:
    """The first copies, of as many blocks as a sequence may hold."""
    n_blocks = seq_len // (2 * length) + 1
    size = (n, n_blocks, length)
    return torch.randint(1, 1 + n_letters, size, generator=rng, device="cpu")
