"""Suites: the checkpoints of one training run that somebody published, told from wrong ones.

`suite` asks the hub which branches a repository has and which files they hold, with their hashes,
and downloads nothing. What is no checkpoint, or not the one that it says, is left out, with the
reason (see `integrity`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from induction_lens import checks, hub
from induction_lens.hub import HubFile
from induction_lens.models import checkpoint_files, is_own_format
from induction_lens.progress import progress_bar
from induction_lens.suites.checkpoints import Branch, Checkpoint, Folder, OwnFile, SuiteMoment
from induction_lens.suites.integrity import LeftOut, check
from induction_lens.suites.schemes import OWN_FORMAT, SCHEMES, Label, Scheme, any_branches, seed_in
from induction_lens.tracking.choice import Checkpoints, chosen_steps
from induction_lens.tracking.moments import Source, Trackable

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 8
"""Requests to the hub at a time."""
_STEP = re.compile(r"(?:.*\D)?(\d+)(?:-tokens(\d+)B)?")


@dataclass(frozen=True)
class Suite(Trackable):
    """The checkpoints of one training run: what `suite` finds and `track` measures."""

    name: str
    """The repository on the hub, or the folder."""
    checkpoints: tuple[Checkpoint, ...]
    """Those that are what they say, by step."""
    left_out: tuple[LeftOut, ...] = ()
    """The others, with the reason."""
    seed: int = 0
    """The seed that its name tells; 0 where it tells none."""

    def __repr__(self) -> str:
        """In one line: how many checkpoints, of which steps."""
        steps = [one.step for one in self.checkpoints]
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        span = f", steps {steps[0]:,} to {steps[-1]:,}" if steps else ""
        return f"Suite({self.name}: {len(steps)} checkpoints{span}{left})"

    def checkpoint(self, revision: str) -> Checkpoint:
        """The checkpoint of a branch.

        Raises:
            ValueError: It was left out, for the reason that is told; or there is none: the nearest
                are named.
        """
        revision = checks.text("revision", revision)
        for one in self.checkpoints:
            if one.revision == revision:
                return one
        for left in self.left_out:
            if left.revision == revision:
                raise self._refusal(left)
        near = hub.nearest(revision, [one.revision for one in self.checkpoints])
        remedy = f"the nearest are {', '.join(near)}" if near else "see to_frame()"
        raise ValueError(f"expected a checkpoint of {self.name}, got {revision!r}; {remedy}")

    def _refusal(self, left: LeftOut) -> ValueError:
        return ValueError(
            f"expected a checkpoint that is what it says, got {left.revision} of {self.name}, "
            f"which {left.why}; take another, or load it with il.load(revision=...)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each branch: `revision`, `step`, `tokens_seen`, `bytes`, and `left_out` and
        `why`, which are empty for checkpoints."""
        import pandas as pd

        rows = [
            (one.revision, one.step, one.tokens_seen, one.size, "", "") for one in self.checkpoints
        ]
        rows += [(one.revision, one.step, None, None, one.reason, one.why) for one in self.left_out]
        columns = ["revision", "step", "tokens_seen", "bytes", "left_out", "why"]
        numbers = {"step": "Int64", "tokens_seen": "Int64", "bytes": "Int64"}
        return pd.DataFrame(rows, columns=columns).astype(numbers)

    def source(self, checkpoints: Checkpoints | None, *, work: Path, keep: bool) -> Source:
        """What `track` measures: as `Trackable.source`.

        Raises:
            ValueError: A step is left out or is not there, or none can be measured.
        """
        steps = [one.step for one in self.checkpoints]
        if checkpoints is not None and not isinstance(checkpoints, str):
            wanted = set(checkpoints) - set(steps)
            left = next((one for one in self.left_out if one.step in wanted), None)
            if left is not None:
                raise self._refusal(left)
        steps = chosen_steps(steps, checkpoints)
        chosen = [one for one in self.checkpoints if one.step in set(steps)]
        if not chosen:
            why = "".join(f": {one.revision} {one.why}" for one in self.left_out[:1])
            raise ValueError(
                f"expected a suite with checkpoints, got {self.name}, of which none can be "
                f"measured{why}; left_out says why of each"
            )
        sizes = [one.size for one in chosen]
        note = f"{self.name}: {len(chosen)} checkpoints"
        if any(sizes):
            kept = sum(sizes) if keep else max(sizes)
            note += f", {hub.gigabytes(sum(sizes))} to download, at most {hub.gigabytes(kept)}"
            note += " on disk at a time"
        if self.left_out:
            note += f", {len(self.left_out)} branches left out"
        return Source(
            name=self.name.rstrip("/").split("/")[-1],
            moments=[
                SuiteMoment(one.step, one.tokens_seen, one, work.absolute(), keep) for one in chosen
            ],
            seed=self.seed,
            note=note,
            published=True,
        )


def suite(
    name: str | Path | Iterable[Sequence[Any]],
    *,
    tokens_per_step: int | None = None,
    progress: bool = True,
) -> Suite:
    """The checkpoints of a training run, from what the hub lists, without a download.

    Args:
        name: A known suite (`pythia-160m`, `stanford-crfm/alias-gpt2-small-x21`, OLMo, SmolLM; see
            `induction_lens.suites.SCHEMES`); one in TransformerLens's own format
            (`NeelNanda/Attn_Only_2L512W_C4_Code`), whose files name their tokens, which then count
            as steps too; any repository whose branches end with a step, with `tokens_per_step`; a
            folder of folders that end with one; or a list of `(step, tokens, name, revision)`,
            with None as the revision of folders.
        tokens_per_step: Training tokens a step, where names do not tell them.
        progress: Show a bar on stderr while many branches are asked for.

    Raises:
        ValueError: There is no such suite (the closest are named) or no checkpoint; names do not
            tell tokens, and `tokens_per_step` is not given; or the hub does not answer.

    Examples:
        >>> import transformers
        >>> small = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50)
        >>> for step in (0, 10):
        ...     transformers.GPT2LMHeadModel(small).save_pretrained(f"run/step{step}")
        >>> il.suites.suite("run", tokens_per_step=512)
        Suite(run: 2 checkpoints, steps 0 to 10)
    """
    tokens_per_step = checks.whole_number(
        "tokens_per_step", tokens_per_step, least=1, optional=True
    )
    checks.flag("progress", progress)
    if not isinstance(name, (str, Path)):
        return _listed(name, progress=progress)
    if Path(name).is_dir():
        return _folders(Path(name), tokens_per_step)
    name = str(name)
    if is_own_format(name):
        return _own_format(name)
    found = next(((one, repo) for one in SCHEMES if (repo := one.repo(name))), None)
    if found is None and tokens_per_step is not None and name.count("/") == 1:
        found = (any_branches(name, tokens_per_step), name)
    if found is None:
        raise ValueError(_unknown(name))
    return _on_hub(*found, progress=progress)


def suite_names() -> list[str]:
    """Names of known suites; each has others like it.

    Examples:
        >>> il.suites.suite_names()[2:4]
        ['EleutherAI/pythia-160m', 'EleutherAI/pythia-160m-deduped']
    """
    return [*(name for scheme in SCHEMES for name in scheme.examples), *OWN_FORMAT]


def _unknown(name: str) -> str:
    known = {short: full for full in suite_names() for short in (full, full.split("/")[-1])}
    near = difflib.get_close_matches(name, known, n=6, cutoff=0.5)
    closest = list(dict.fromkeys(known[short] for short in near))[:3]
    remedy = f"the closest are {', '.join(closest)}" if closest else "see suites.suite_names()"
    return (
        f"expected a known suite or a folder, got {name!r}; {remedy}; for a repository of your own "
        "pass tokens_per_step"
    )


def _on_hub(scheme: Scheme, repo: str, *, progress: bool) -> Suite:
    commits = hub.revisions(repo)
    labels, others = scheme.labels(repo, commits)
    if not labels:
        raise ValueError(
            f"expected checkpoints as branches of {repo}, got {len(commits)} branches without any "
            f"({', '.join(list(commits)[:4])}); name another repository"
        )
    branches = [label.revision for label in labels] + ["main"] * ("main" in commits)
    files = _all_files(repo, branches, commits, progress=progress)
    found: list[Checkpoint] = []
    for label in labels:
        one = _branch(repo, label, commits, files)
        if one is None:
            why = "has no weights and configuration"
            others.append(LeftOut(label.revision, label.step, "files", why))
        else:
            found.append(one)
    end = None
    if "main" in files:
        end = _branch(repo, Label("main", 0, 0), commits, files)
    kept, wrong = check(found, end)
    return Suite(repo, tuple(kept), tuple(wrong + others), seed_in(repo))


def _all_files(
    repo: str, branches: list[str], commits: Mapping[str, str], *, progress: bool
) -> dict[str, tuple[HubFile, ...]]:
    """The files of many branches, a few requests at a time."""
    with (
        progress_bar(repo if progress else None, len(branches), unit="branch") as done,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        found = {}
        asked = pool.map(lambda branch: hub.files(repo, commits[branch]), branches)
        for branch, files in zip(branches, asked, strict=True):
            found[branch] = files
            done(1)
    return found


def _branch(
    repo: str,
    label: Label,
    commits: Mapping[str, str],
    files: Mapping[str, tuple[HubFile, ...]],
) -> Branch | None:
    """A branch as a checkpoint; None where it holds no model."""
    named = {file.path: file for file in files[label.revision]}
    wanted = hub.model_files(named)
    if not wanted:
        return None
    tokenizer = ()
    if not hub.TOKENIZER & named.keys():
        tokenizer = tuple(one for one in files.get("main", ()) if one.path in hub.TOKENIZER)
    return Branch(
        label.step,
        label.tokens_seen,
        repo,
        label.revision,
        tuple(named[path] for path in wanted),
        commits[label.revision],
        tokenizer,
    )


def _own_format(repo: str) -> Suite:
    files = {file.path: file for file in hub.files(repo, "main")}
    found: list[Checkpoint] = [
        OwnFile(number, number, repo, path, (files[path],))
        for number, path in checkpoint_files(files).items()
    ]
    if not found:
        raise ValueError(
            f"expected checkpoints/*_<tokens>.pth in {repo}, got none; name one of "
            f"{', '.join(OWN_FORMAT[:2])}"
        )
    kept, wrong = check(found)
    return Suite(repo, tuple(kept), tuple(wrong))


def _folders(folder: Path, tokens_per_step: int | None) -> Suite:
    found: list[Checkpoint] = []
    others = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        match = _STEP.fullmatch(path.name)
        if match is None or not (path / "config.json").is_file():
            why = "has no config.json" if match else "does not end with a step"
            others.append(LeftOut(path.name, None, "files" if match else "name", why))
            continue
        step = int(match[1])
        if match[2] is None and tokens_per_step is None:
            raise ValueError(
                f"expected tokens_per_step for {folder}, whose folders do not name their tokens "
                f"({path.name}), got None; pass batch size times sequence length"
            )
        tokens = step * tokens_per_step if tokens_per_step else 10**9 * int(match[2])
        found.append(_folder(path, step, tokens))
    if not found:
        raise ValueError(
            f"expected a folder of model folders that end with a step, got {folder} without any; "
            "name the folder that checkpoint-100, checkpoint-200 and so on are in"
        )
    found.sort(key=lambda one: one.step)
    steps = [one.step for one in found]
    twice = next((step for step in steps if steps.count(step) > 1), None)
    if twice is not None:
        raise ValueError(
            f"expected one folder for each step in {folder}, got several of step {twice}; move one "
            "elsewhere"
        )
    kept, wrong = check(found)
    return Suite(str(folder), tuple(kept), tuple(wrong + others), seed_in(folder.name))


def _folder(path: Path, step: int, tokens: int) -> Folder:
    names = [file.name for file in path.iterdir() if file.is_file()]
    weights = hub.weight_files(names)
    if not weights:
        raise ValueError(
            f"expected weights (model.safetensors) in {path}, got none; save the model there again"
        )
    files = tuple(
        HubFile(name, (path / name).stat().st_size, hub.sha256_of(path / name)) for name in weights
    )
    return Folder(step, tokens, str(path.absolute()), path.name, files)


def _listed(items: Iterable[Any], *, progress: bool) -> Suite:
    """The checkpoints of a list of (step, tokens, name, revision)."""
    remedy = "for instance [(0, 0, 'me/model', 'step0'), (10, 5120, 'folders/step10', None)]"
    given: list[tuple[int, int, str, str | None]] = []
    for item in checks.several("name", items):
        if not (isinstance(item, (tuple, list)) and len(item) == 4):
            raise checks.refuse("each of name", "(step, tokens, name, revision)", item, remedy)
        step = checks.whole_number("each step", item[0], least=0)
        tokens = checks.whole_number("each number of tokens", item[1], least=0)
        where = str(checks.path("each name", item[2]))
        given.append((step, tokens, where, checks.text("each revision", item[3], optional=True)))
    if not given:
        raise checks.refuse("name", "at least one checkpoint", items, remedy, given="none")
    given.sort(key=lambda item: item[0])
    if len({item[0] for item in given}) < len(given):
        raise ValueError("expected each step once, got one twice; leave one of them out")
    found: list[Checkpoint] = []
    with progress_bar("branches" if progress else None, len(given), unit="branch") as done:
        for step, tokens, where, revision in given:
            found.append(_listed_one(step, tokens, where, revision))
            done(1)
    if len({one.revision for one in found}) < len(found):
        found = [replace(one, revision=f"{one.name}@{one.revision}") for one in found]
    kept, wrong = check(found)
    names = dict.fromkeys(one.name for one in found)
    return Suite(next(iter(names)) if len(names) == 1 else "checkpoints", tuple(kept), tuple(wrong))


def _listed_one(step: int, tokens: int, where: str, revision: str | None) -> Checkpoint:
    if Path(where).is_dir():
        return _folder(Path(where), step, tokens)
    revision = revision or "main"
    commits = {revision: hub.resolved(where, revision)}
    files = {revision: hub.files(where, commits[revision])}
    one = _branch(where, Label(revision, step, tokens), commits, files)
    if one is None:
        raise ValueError(
            f"expected a model (config.json and weights) in {where} at {revision}, got none; leave "
            "it out"
        )
    return one
