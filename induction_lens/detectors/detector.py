"""What a detector is: an object that says what to measure of a head, and how to describe it.

`AttentionDetector` is the kind to write your own of: a name, and a function from tokens to targets,
the keys that a perfect head would attend to. Its score of a head is the attention on targets,
summed over the targets of a query, averaged over the queries that have one. A perfect head scores
1; one that rests on BOS, or never looks at a target, scores 0. What the head does with what it
attends to is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.heads import Unit
from induction_lens.models import Targets
from induction_lens.packing import packable_by, parts_of

TargetFunction = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
# columns that stand beside the scores, which are named after detectors, in tables of heads
_OTHER_COLUMNS = ("layer", "head", "is_induction_head", "knocked_out", "effect_alone")
_SUFFIXES = ("_sem", "_null")  # of which `_over_null` is one


@dataclass(frozen=True)
class Detector:
    """What every detector says of itself: its scores' name in tables, and its words on a page."""

    name: str
    """Its name in tables, files and on the command line: an ASCII word such as `two_back`."""
    _: KW_ONLY
    title: str = ""
    """Its name on a page; left empty, it is made from `name`: `Two back`."""
    caption: str = ""
    """What it measures, in a sentence or two below its map of heads."""
    unmeasured: str = "no query has a target"
    """Why there may be nothing to measure, as a clause that `in these sequences` completes."""
    source: str = ""
    """Where the definition comes from."""
    outlines_induction_heads: bool = False
    """Whether its map of heads outlines the induction heads that a report found."""
    unit: ClassVar[Unit] = "attention"
    """The unit of its scores, as in `HeadScores`."""

    def __post_init__(self) -> None:
        """Check the name and the texts, and make the title where there is none.

        Raises:
            ValueError: If the name is no such word, or that of another column in tables of heads,
                or a text is none.
        """
        name = checks.text("name", self.name)
        if not (name.isascii() and name.isidentifier()):
            condition = "a word of ASCII letters, digits and underscores"
            raise checks.refuse("name", condition, name, "for instance 'two_back'")
        if name in _OTHER_COLUMNS or name.endswith(_SUFFIXES):
            listed = ", ".join((*_OTHER_COLUMNS, *(f"…{suffix}" for suffix in _SUFFIXES)))
            condition = f"none of {listed}, which are other columns"
            raise checks.refuse("name", condition, name, "choose another name")
        for field in ("title", "caption", "unmeasured", "source"):
            checks.text(field, getattr(self, field))
        checks.flag("outlines_induction_heads", self.outlines_induction_heads)
        if not self.title.strip():
            words = name.replace("_", " ").strip() or name
            object.__setattr__(self, "title", words[:1].upper() + words[1:])

    @property
    def reads_patterns(self) -> bool:
        """Whether whole attention patterns are needed, which streaming never has in memory."""
        return False


@dataclass(frozen=True)
class AttentionDetector(Detector):
    """A score of attention: how much of it a head puts on the keys where it should.

    Args:
        name: See `Detector`.
        targets: A function of tokens [batch pos], BOS at position 0, on any device. It returns the
            targets as three int64 tensors [target]: rows, queries and keys. Each target comes once.
            A key is at least 1, as position 0 is BOS, where idle heads rest, and at most its query,
            as no head sees later keys.
        by_content: Whether targets depend on what the tokens are. If so, the scores are of the
            tokens, and a second run on the same tokens in random order gives each head's `null`.
            If not, the detector is about positions, where such a run means nothing, and it is
            scored on `text` where there is some.

    Raises:
        ValueError: If `targets` cannot be called, or as `Detector`.

    Examples:
        >>> import torch
        >>> def two_back(tokens):
        ...     n_rows, n_pos = tokens.shape
        ...     row = torch.arange(n_rows).repeat_interleave(max(n_pos - 3, 0))
        ...     query = torch.arange(3, max(n_pos, 3)).repeat(n_rows)
        ...     return row, query, query - 2
        >>> detector = il.detectors.AttentionDetector("two_back", two_back, by_content=False)
        >>> scores = il.score_heads(il.load("toy-2l"), detectors=[detector, "induction"])
        >>> [[str(head) for head in scores[name].above(0.3)] for name in ("two_back", "induction")]
        [['0.3'], ['1.6', '1.7', '1.4']]
    """

    targets: TargetFunction
    """From tokens to rows, queries and keys."""
    _: KW_ONLY
    by_content: bool = True
    """Whether targets depend on what the tokens are, not on their positions alone."""

    def __post_init__(self) -> None:
        """Check what every detector has, and what is its own."""
        super().__post_init__()
        if not callable(self.targets):
            remedy = "pass one that takes tokens and returns rows, queries and keys"
            raise checks.refuse("targets", "a function", self.targets, remedy)
        checks.flag("by_content", self.by_content)

    def find(self, tokens: Int[Tensor, "batch pos"]) -> Targets:
        """The targets in tokens, BOS at position 0: rows, queries and keys, on the tokens' device.

        Raises:
            ValueError: If the tokens are no table of ids, or what `targets` returns is no list of
                targets in them.
        """
        remedy = "pass torch.tensor(ids), with BOS at position 0"
        checks.tensor("tokens", tokens, axes=("batch", "pos"), whole=True, remedy=remedy)
        row, query, key = (part.to(tokens.device) for part in self._parts(self.targets(tokens)))
        self._check_places(row, query, key, n_rows=tokens.shape[0], n_pos=tokens.shape[1])
        return row, query, key

    def mask(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query_pos key_pos"]:
        """The targets as a table: True where a perfect head attends.

        Raises:
            ValueError: As `find`.
        """
        row, query, key = self.find(tokens)
        n_rows, n_pos = tokens.shape
        marked = torch.zeros(n_rows, n_pos, n_pos, dtype=torch.bool, device=tokens.device)
        marked[row, query, key] = True
        return marked

    def _parts(self, found: object) -> list[Tensor]:
        """The three tensors of a list of targets, if it is one."""
        parts = list(found) if isinstance(found, (tuple, list)) else [found]
        tensors = [part for part in parts if isinstance(part, Tensor) and _is_list(part)]
        if len(tensors) == len(parts) == 3 and len({len(part) for part in tensors}) == 1:
            return tensors
        given = ", ".join(map(checks.shown, parts)) or "nothing"
        raise checks.refuse(
            f"the targets of {self.name}",
            "three int64 tensors [target] of one length",
            found,
            "return rows, queries and keys, such as a mask's nonzero(as_tuple=True)",
            given=given,
        )

    def _check_places(
        self, row: Tensor, query: Tensor, key: Tensor, *, n_rows: int, n_pos: int
    ) -> None:
        """Check that targets are keys that a query sees, BOS aside, and each is there once."""
        rules = (
            ((row < 0) | (row >= n_rows), f"in rows 0 to {n_rows - 1}", "rows are counted from 0"),
            (
                (query < 0) | (query >= n_pos),
                f"of queries 0 to {n_pos - 1}",
                "positions are counted from 0",
            ),
            (key > query, "keys up to their query", "no head sees later keys, so leave them out"),
            (
                key < 1,
                "keys from 1 up",
                "position 0 is BOS, where idle heads rest, so leave it out",
            ),
        )
        wrong = torch.stack([broken for broken, _, _ in rules])
        if bool(wrong.any()):
            which, place = wrong.nonzero()[0].tolist()
            at = f"key {int(key[place])} of query {int(query[place])} in row {int(row[place])}"
            _, condition, remedy = rules[which]
            raise self._refused(condition, at, remedy)
        cell = (row * n_pos + query) * n_pos + key
        different, times = torch.unique(cell, return_counts=True)
        if len(different) < len(cell):
            first = int(different[times > 1][0])
            at = f"key {first % n_pos} of query {first // n_pos % n_pos} "
            at += f"in row {first // n_pos**2} more than once"
            raise self._refused(
                "different ones", at, "list it once, or its attention counts as often"
            )

    def _refused(self, condition: str, given: str, remedy: str) -> ValueError:
        return checks.refuse(f"the targets of {self.name}", condition, None, remedy, given=given)


@dataclass(frozen=True)
class CopyingDetector(Detector):
    """A score of copying, in [-1, 1]: whether a head raises the logits of what it attends to.

    Args:
        name: See `Detector`.
        from_weights: Whether it is read off the weights, with no run over tokens.
    """

    _: KW_ONLY
    from_weights: bool
    """Whether it is read off the weights alone, or else off activations."""
    unit: ClassVar[Unit] = "copying"

    @property
    def reads_patterns(self) -> bool:
        """A run reads whole attention patterns, which streaming never has in memory."""
        return not self.from_weights


def _without_function(detector: AttentionDetector) -> dict[str, object]:
    parts = parts_of(detector)
    del parts["targets"]
    return parts


def _with_no_function(name: str, **words: Any) -> AttentionDetector:
    """A detector as it is saved with results: its words, and no code."""

    def targets(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise ValueError(
            f"expected the function of the detector {name}, got one that was saved, without it; "
            "make the detector again to score with it"
        )

    return AttentionDetector(name, targets, **words)


packable_by(AttentionDetector, _without_function, _with_no_function)


def _is_list(part: Tensor) -> bool:
    """Whether a tensor is a list of places: whole numbers in one axis, each in memory."""
    listed = part.dtype == torch.int64 and part.ndim == 1
    return listed and part.layout == torch.strided and not part.is_meta
