"""A block of random letters, and then pieces of it: in the same alphabet, or in another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.languages.language import SolvedLanguage, check_sequences, with_bos


@dataclass(frozen=True)
class Copies(SolvedLanguage):
    """A block of different letters, and then pieces of it that begin anywhere: `A B C D  C D B C`.

    What an induction head is for, in its literal form: after `C` comes `D`, wherever `C` stands.
    The position says nothing, because pieces begin anywhere in the block.
    """

    n_letters: int = 64
    """Letters of the alphabet."""
    length: int = 24
    """Letters in the block."""
    restart: float = 0.1
    """How often the next letter begins a new piece; after the last letter of the block it does."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        checks.whole_number("n_letters", self.n_letters, least=2)
        checks.whole_number("length", self.length, least=2, most=self.n_letters)
        checks.real_number("restart", self.restart, above=0, most=1, remedy="for instance 0.1")

    @property
    def d_vocab(self) -> int:
        """BOS and the letters."""
        return 1 + self.n_letters

    def _sampled(self, n: int, seq_len: int, rng: torch.Generator) -> Int[Tensor, "batch pos"]:
        on = {"generator": rng, "device": "cpu"}
        block = (
            1
            + torch.rand(n, self.n_letters, dtype=torch.float32, **on).argsort(1)[:, : self.length]
        )
        places = torch.randint(self.length, (n, seq_len), **on)
        begins = torch.rand(n, seq_len, dtype=torch.float32, **on) < self.restart
        read, place = [], torch.full((n,), self.length - 1, dtype=torch.long, device="cpu")
        for fresh, begin in zip(places.unbind(1), begins.unbind(1), strict=True):
            place = torch.where(begin | (place == self.length - 1), fresh, place + 1)
            read.append(block.gather(1, place[:, None]))
        return torch.cat([block, self.written(torch.cat(read, dim=1))], dim=1)[:, :seq_len]

    def written(self, letters: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """Letters of the block as the pieces have them."""
        return letters

    def targets(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """For each position of a piece, that of the letter in the block which comes next; -1
        elsewhere, and after the block's last letter.

        What a head has to attend to that copies, or translates, what it attends to.
        """
        place = self._places(check_sequences(tokens, least=1, most=self.d_vocab - 1))
        following = torch.where((place >= 0) & (place < self.length - 1), place + 2, -1)
        return torch.nn.functional.pad(following, (1, 0), value=-1)

    def reference_losses(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Float[Tensor, "batch pos"]]:
        """Of the best predictor, and, in pieces, of one that knows the letters of the block and
        nothing of their order (`letters`): ln(length) nats."""
        optimal = self.optimal_loss(tokens)
        letters = optimal.clone()
        letters[:, 1 + self.length :] = math.log(self.length)
        return {"optimal": optimal, "letters": letters}

    def token_groups(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Bool[Tensor, "batch pos"]]:
        """All tokens, and those of pieces."""
        pieces = torch.zeros_like(tokens, dtype=torch.bool)
        pieces[:, 1 + self.length :] = True
        return {**super().token_groups(tokens), "pieces": pieces}

    def matches(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """`block`: from a letter of a piece to the letter that follows it in the block."""
        targets = self.targets(tokens)
        row, query = (targets >= 0).nonzero(as_tuple=True)
        return {"block": (row, query, targets[row, query])}

    def _places(self, body: Int[Tensor, "batch later_pos"]) -> Int[Tensor, "batch later_pos"]:
        """Where in the block the letter of a piece stands; -1 in the block."""
        block = self.written(body[:, : self.length])
        same = body[:, :, None] == block[:, None, :]
        places = same.double().argmax(2)
        in_piece = torch.arange(body.shape[1], device="cpu") >= self.length
        if not bool((same.any(2) | ~in_piece).all()):
            raise ValueError(
                f"expected pieces of the first {self.length} letters after these, got others; pass "
                "sequences of this language"
            )
        return torch.where(in_piece, places, -1)

    def optimal_loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """In the block: one of the letters that did not come yet. In a piece, which is known from
        the letter before: `restart / length`, and `1 - restart` more for the letter that follows
        in the block.

        Examples:
            >>> language = il.languages.Copies(n_letters=4, length=3, restart=0.3)
            >>> tokens = torch.tensor([[0, 4, 2, 1, 2, 1, 4, 1]])
            >>> (-language.optimal_loss(tokens)).exp()[0, 1:]
            tensor([0.2500, 0.3333, 0.5000, 0.3333, 0.8000, 0.3333, 0.1000])
        """
        body = check_sequences(tokens, least=1, most=self.d_vocab - 1)
        place = self._places(body)
        before = torch.nn.functional.pad(place, (1, 0), value=-1)[:, :-1]
        anywhere = (before < 0) | (before == self.length - 1)
        likely = torch.full(body.shape, self.restart / self.length, device="cpu").double()
        likely += (1 - self.restart) * (place == before + 1)
        likely[anywhere] = 1 / self.length
        losses = -likely.log()
        left = self.n_letters - torch.arange(min(self.length, body.shape[1]), device="cpu")
        losses[:, : self.length] = left.double().log()
        return with_bos(losses.float())


@dataclass(frozen=True)
class TwoAlphabets(Copies):
    """Copies in another alphabet by a fixed dictionary: `A B C D  c d b c d`.

    Olsson et al. 2022 ("Argument 4") call this `[A*][B*] … [A] → [B]` in its abstract form: to
    predict `d` after `c`, a head has to find `C`, which is `c` in the other alphabet, and go to
    what followed it. No token of a piece is in the block. The dictionary never changes, so that it
    can be learnt by heart; the block is drawn afresh. A pair of letters that was read before can be
    copied literally when it is read again: `is_new` says where that is impossible.
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

    def written(self, letters: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The small letters of capitals."""
        return self.dictionary[(letters - 1).clamp(0, self.n_letters - 1)]

    def token_groups(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> dict[str, Bool[Tensor, "batch pos"]]:
        """All tokens, those of pieces, and of these the ones that follow in their piece a letter
        which they follow for the first time (`new`), or not (`again`)."""
        groups = super().token_groups(tokens)
        place = self._places(check_sequences(tokens, least=1, most=self.d_vocab - 1))
        before = torch.nn.functional.pad(place, (1, 0), value=-1)[:, :-1]
        follows = (before >= 0) & (place == before + 1)
        new = self.is_new(tokens)
        again = torch.nn.functional.pad(follows, (1, 0), value=False) & ~new
        return {**groups, "new": new, "again": again}

    def is_new(self, tokens: Int[Tensor, "batch pos"]) -> Tensor:
        """Whether each token follows, in its piece, a letter that it follows for the first time:
        that it comes is known from the block alone. [batch pos]"""
        body = check_sequences(tokens, least=1, most=self.d_vocab - 1)
        place = self._places(body)
        before = torch.nn.functional.pad(place, (1, 0), value=-1)[:, :-1]
        follows = (before >= 0) & (place == before + 1)
        earlier = (place[:, :, None] == place[:, None, :]) & follows[:, None, :]
        earlier = earlier.tril(-1).any(2)
        return torch.nn.functional.pad(follows & ~earlier, (1, 0), value=False)
