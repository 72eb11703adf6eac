"""The Hugging Face hub: which revisions a repository has, which files, and their downloads.

All of it goes through `huggingface_hub`, so that `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`
work as everywhere. What the hub or the network refuses becomes one line: what was expected, what
came, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from induction_lens.checks import first_line

SPARE_DISK = 64 * 2**20
"""Bytes that stay free when a download is done."""
WAITS = (1.0, 4.0)
"""Seconds before a download is tried again after an error of the hub's own (5xx), which its client
does not try again."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 20
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
TOKENIZER = frozenset(
    {
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
        *("merges.txt", "tokenizer.model", "added_tokens.json", "chat_template.jinja"),
    }
)
"""Files of a tokenizer."""
_SMALL = TOKENIZER | {"config.json", "generation_config.json"}
_BY_DIGITS = re.compile(r"(\d+)")


class HubError(ValueError):
    """The hub does not give what was asked for, with the reason in one line."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it."""

    path: str
    """Its path in the repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """SHA-256 of its content; None of small files, which the hub keeps in git."""
    blob: str = ""
    """Git's sum of it, or of what stands for a large file."""

    @property
    def identity(self) -> str:
        """What two files share only if their content is the same."""
        return self.sha256 or f"git:{self.blob}"


def revisions(repo: str) -> dict[str, str]:
    """The branches and tags of a repository, by name, with the commit that each points at.

    Raises:
        ValueError: There is no such repository, it needs a login, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with explaining(repo):
        refs = HfApi().list_repo_refs(repo)
    named = {ref.name: ref.target_commit for ref in refs.tags}
    return named | {ref.name: ref.target_commit for ref in refs.branches}


def files(repo: str, revision: str) -> tuple[HubFile, ...]:
    """The files of a revision with the sums of the large ones, without a download.

    Raises:
        ValueError: There is no such repository or revision, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with explaining(repo, revision):
        listed = list(HfApi().list_repo_tree(repo, recursive=True, revision=revision))
    return tuple(
        HubFile(one.path, one.size, None if one.lfs is None else one.lfs.sha256, one.blob_id)
        for one in listed
        if isinstance(one, RepoFile)
    )


def download(repo: str, wanted: Iterable[HubFile], revision: str, folder: Path) -> None:
    """Download files of a revision into a folder, and compare them with the hub's sums.

    A download that was cut off goes on where it was. What does not have the hub's sum is removed.

    Raises:
        ValueError: There is not enough room, the hub cannot be reached, or a file came with another
            content than the hub's list says.
    """
    from huggingface_hub import hf_hub_download

    wanted = tuple(wanted)
    missing = [file for file in wanted if not _is_there(folder / file.path, file)]
    _check_room(repo, missing, folder)
    for file in missing:
        (folder / file.path).unlink(missing_ok=True)
        for wait in (*WAITS, None):
            try:
                with explaining(repo, revision), _without_bars():
                    hf_hub_download(repo, file.path, revision=revision, local_dir=folder)
                break
            except HubError as error:
                if wait is None or not _is_the_hubs_own(error):
                    raise
                time.sleep(wait)
        check_file(folder / file.path, file, f"{repo} at {revision}")


def check_file(path: Path, file: HubFile, where: str) -> None:
    """Compare a file with the hub's size and sum; one that differs is removed.

    Raises:
        ValueError: It differs.
    """
    if not _is_there(path, file):
        size = path.stat().st_size if path.is_file() else 0
        got = f"{size:,} bytes" if size != file.size else "another SHA-256"
        path.unlink(missing_ok=True)
        raise HubError(
            f"expected {file.path} of {where} with the size and the SHA-256 that the hub lists, "
            f"got {got}; it is removed: run the same again, and see whether the network or the "
            "disk damages files"
        )


def model_files(paths: Iterable[str]) -> list[str]:
    """Of the files of a repository, those that a model is read from: configuration, tokenizer, and
    weights, as safetensors where there are any, else as pickles."""
    names = [path for path in paths if "/" not in path]
    weights = weight_files(names)
    if "config.json" not in names or not weights:
        return []
    indices = [name for name in names if name.endswith(".index.json")]
    kind = Path(weights[0]).suffix
    chosen = [name for name in indices if f"{kind}." in name]
    return sorted({*weights, *chosen, *_SMALL & set(names)})


def weight_files(paths: Iterable[str]) -> list[str]:
    """The files with a model's weights: safetensors, or pickles where there are none."""
    names = [path for path in paths if "/" not in path]
    for pattern in (_SAFETENSORS, _PICKLE):
        if found := sorted(name for name in names if pattern.fullmatch(name)):
            return found
    return []


def resolved(repo: str, revision: str) -> str:
    """The commit of a branch, a tag or a commit.

    Raises:
        ValueError: There is no such revision: the nearest ones are named.
    """
    named = revisions(repo)
    if revision in named:
        return named[revision]
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    raise HubError(
        f"expected a revision of {repo}, got {revision!r}, which the hub does not list; "
        f"{_nearest(revision, named)}"
    )


def nearest(wanted: str, names: Iterable[str], *, n: int = 3) -> list[str]:
    """The names that are closest to one: by their number if they differ in that alone."""
    names = list(names)
    shape = _BY_DIGITS.sub("#", wanted)
    numbers = [int(digits) for digits in _BY_DIGITS.findall(wanted)]
    alike = [name for name in names if _BY_DIGITS.sub("#", name) == shape]
    if numbers and alike:

        def distance(name: str) -> list[int]:
            found = [int(digits) for digits in _BY_DIGITS.findall(name)]
            return [abs(a - b) for a, b in zip(found, numbers, strict=True)]

        return sorted(alike, key=distance)[:n]
    return difflib.get_close_matches(wanted, names, n=n, cutoff=0.4)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def explaining(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's client raises inside the block into one line; what else the file system
    refuses stays as it is.

    Raises:
        ValueError: For anything that went wrong with the hub.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise HubError(
                f"expected room for a download of {repo}, got a full disk in the middle of it; "
                "free some, or name another folder, and run the same again: what is there is kept"
            ) from error
        if getattr(error, "errno", None) is not None and getattr(error, "filename", None):
            raise  # of the file system, not of the hub
        raise HubError(_explained(repo, revision, error)) from error


def _explained(repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    where = repo if revision is None else f"{repo} at {revision}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"expected a repository that anybody may read, got {repo}, which asks for a login and "
            "an agreement; accept its terms on the hub, and run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"expected a repository on the hub, got {repo!r}, which does not exist or needs a "
            "login; check the spelling, or run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        remedy = "see induction_lens.suites.suite for those that there are"
        with suppress(HubError):
            remedy = _nearest(revision or "", revisions(repo))
        return f"expected a revision of {repo}, got {revision!r}, which is not there; {remedy}"
    if status == 429:
        return (
            f"expected an answer of the hub for {where}, got 429, too many requests; wait some "
            "minutes and run the same again: what is there is kept; a login allows more"
        )
    return (
        f"expected an answer of the hub for {where}, got none that can be used "
        f"({first_line(error)}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run the "
        "same again: what is there is kept"
    )


def _is_the_hubs_own(error: HubError) -> bool:
    status = getattr(getattr(error.__cause__, "response", None), "status_code", None)
    return status is not None and status >= 500


def _nearest(wanted: str, names: Iterable[str]) -> str:
    near = nearest(wanted, names)
    return f"the nearest are {', '.join(near)}" if near else "see which branches it has on the hub"


def _is_there(path: Path, file: HubFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.sha256 is None or sha256_of(path) == file.sha256


def _check_room(repo: str, missing: Iterable[HubFile], folder: Path) -> None:
    needed = sum(file.size for file in missing)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_DISK > free:
        raise HubError(
            f"expected room for {gigabytes(needed)} of {repo} in {folder}, got {gigabytes(free)} "
            "free; free some, or name another folder"
        )


def gigabytes(size: float | int) -> str:
    """A number of bytes as people say it: `1.4 GB`, `380 MB`, `12 kB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 100 * unit else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.0f} kB"


@contextmanager
def _without_bars() -> Iterator[Any]:
    """One bar for each file of hundreds of checkpoints says less than ours."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
