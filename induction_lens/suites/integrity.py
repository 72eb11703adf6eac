"""Whether the branches of a suite are what they say, by the hashes of their weights.

Hub suites were uploaded by scripts, some of which failed: branches that all hold the final weights
(Pythia issue 205), a branch with the first shard of another (Pythia issue 206), a label that is not
of its step. Two checkpoints of one run never have the same weights, nor one file in common, so that
the hub's list of hashes shows this before anything is downloaded.

1. Branches are grouped by the hashes of their weight files. All members of a group of two or more
   are left out: at most one of them is what it says. Steps 0 and 1 alone may be equal, where the
   learning rate begins at zero: then step 0 stays.
2. A branch with the weights of `main`, which is not the last one, is left out.
3. A file that is in two groups makes a chimera of those that it does not belong to: it belongs to
   the end of training where that has it; if not, all are left out. A file that every branch has
   holds nothing that is trained.
4. Where names carry tokens, they must fit the steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from induction_lens.suites.checkpoints import Checkpoint

Reason = Literal["equal", "chimera", "label", "files", "name"]
_ROUNDING = 1.5e9
"""Tokens in names are whole billions."""
_MOST_NAMED = 4


@dataclass(frozen=True)
class LeftOut:
    """A branch that is no checkpoint of its suite, and why."""

    revision: str
    """The branch."""
    step: int | None
    """The step that it names; None where it names none."""
    reason: Reason
    """`equal` weights under several names, a `chimera` of two checkpoints, a `label` that does not
    fit, `files` that are missing, or a `name` of another kind."""
    why: str
    """The same in words."""


def check(
    checkpoints: Sequence[Checkpoint], main: Checkpoint | None = None
) -> tuple[list[Checkpoint], list[LeftOut]]:
    """Tell checkpoints that are what they say from others.

    Args:
        checkpoints: All of a suite, by step.
        main: The branch `main`, which may equal the last one.
    """
    found = _equal(checkpoints, main) | _chimeras(checkpoints, main)
    kept = [one for one in checkpoints if one.revision not in found]
    return kept, [found[one.revision] for one in checkpoints if one.revision in found]


def check_labels(
    labels: Sequence[tuple[str, int, float | int]],
) -> tuple[float, dict[str, LeftOut]]:
    """Compare the tokens in names with the steps in them.

    Args:
        labels: Branch, step, and tokens, which are rounded to whole billions.

    Returns:
        Tokens a step, by most of the names; and those that do not fit.
    """
    known = [(revision, step, tokens) for revision, step, tokens in labels if step]
    if not known:
        return 0.0, {}
    large = [one for one in known if one[2] >= 10 * _ROUNDING] or known
    ratio = median(tokens / step for _, step, tokens in large)
    wrong = [one for one in labels if not _fits(one[2], ratio * one[1])]
    fitting = [one for one in known if one not in wrong]
    if fitting:  # together they are rounded least
        ratio = sum(one[2] for one in fitting) / sum(one[1] for one in fitting)
    found = {
        revision: LeftOut(
            revision,
            step,
            "label",
            f"names {tokens / 1e9:.0f}B tokens, where {step} steps are {ratio * step / 1e9:.1f}B "
            "by the other names",
        )
        for revision, step, tokens in wrong
    }
    return ratio, found


def _fits(named: float | int, expected: float | int) -> bool:
    return abs(named - expected) <= _ROUNDING + 0.01 * named


def _equal(checkpoints: Sequence[Checkpoint], main: Checkpoint | None) -> dict[str, LeftOut]:
    groups: dict[str, list[Checkpoint]] = defaultdict(list)
    for one in checkpoints:
        groups[one.digest].append(one)
    found: dict[str, LeftOut] = {}
    for members in groups.values():
        is_main = main is not None and members[0].digest == main.digest
        if len(members) == 1:
            if is_main and members[0] is not checkpoints[-1]:
                why = "has the weights of main, and is not the last checkpoint"
                found[members[0].revision] = _left_out(members[0], "equal", why)
            continue
        if [one.step for one in members] == [0, 1]:
            why = f"has the weights of {members[0].revision}: no update came between, or it failed"
            found[members[1].revision] = _left_out(members[1], "equal", why)
            continue
        for one in members:
            others = [other.revision for other in members if other is not one]
            also = " and main" if is_main else ""
            why = f"has the weights of {_named(others)}{also}: at most one is what it says"
            found[one.revision] = _left_out(one, "equal", why)
    return found


def _chimeras(checkpoints: Sequence[Checkpoint], main: Checkpoint | None) -> dict[str, LeftOut]:
    everybody = [*checkpoints, *([] if main is None else [main])]
    holders: dict[str, dict[str, list[Checkpoint]]] = defaultdict(lambda: defaultdict(list))
    for one in everybody:
        for file in one.weights:
            holders[file.identity][one.digest].append(one)
    n_groups = len({one.digest for one in everybody})
    ends = {one.digest for one in (*checkpoints[-1:], *everybody[len(checkpoints) :])}
    found: dict[str, LeftOut] = {}
    for groups in holders.values():
        if len(groups) < 2 or len(groups) == n_groups > 2:
            continue
        owners = ends & groups.keys() if len(ends & groups.keys()) == 1 else set()
        wrong = [one for digest, held in groups.items() if digest not in owners for one in held]
        for one in wrong:
            others = sorted(
                {o.revision for held in groups.values() for o in held if o.digest != one.digest}
            )
            why = f"has a weight file of {_named(others)}, and others of its own"
            found[one.revision] = _left_out(one, "chimera", why)
    return found


def _left_out(one: Checkpoint, reason: Reason, why: str) -> LeftOut:
    return LeftOut(one.revision, one.step, reason, why)


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
