"""Checkpoints of a suite: what is known of each before a download, and how each is loaded."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from induction_lens import hub
from induction_lens.hub import HubFile
from induction_lens.models import Model, load_downloaded, load_own_format, load_pretrained
from induction_lens.progress import libraries_follow
from induction_lens.tracking.moments import Moment


@dataclass(frozen=True)
class Checkpoint(ABC):
    """One checkpoint of a suite, where it is kept."""

    step: int
    """Updates of the weights before it, as its name says."""
    tokens_seen: int
    """Training tokens before it."""
    name: str
    """The repository on the hub, or the folder."""
    revision: str
    """Its branch, its file, or the name of its folder."""
    files: tuple[HubFile, ...]
    """What is downloaded, with sizes and sums as the hub lists them."""

    @property
    def weights(self) -> tuple[HubFile, ...]:
        """The files with its weights."""
        named = set(hub.weight_files(file.path for file in self.files))
        return tuple(file for file in self.files if file.path in named)

    @property
    def size(self) -> int:
        """Bytes to download; 0 where it is on this machine."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """A sum over the sums of its weight files: equal for equal weights."""
        sums = sorted(file.identity for file in self.weights)
        return hashlib.sha256(" ".join(sums).encode()).hexdigest()

    @contextmanager
    def opened(self, work: Path, *, keep: bool, device: Any) -> Iterator[Model]:
        """A block with the model; what was downloaded for it is deleted afterwards.

        Args:
            work: Folder for the download.
            keep: Whether it stays there.
            device: Where to put the model.

        Raises:
            ValueError: It cannot be downloaded or loaded, or has other sums than the hub lists.
        """
        folder = work / f"step-{self.step:08d}"
        if not keep and work.is_dir():
            for left in work.iterdir():  # what a killed call left, but for this checkpoint
                if left != folder:
                    shutil.rmtree(left)
        with libraries_follow():
            model = self._load(folder, device)  # before an error, downloads stay for the next call
        try:
            yield model
        finally:
            if not keep and work.is_dir():
                shutil.rmtree(work)

    @abstractmethod
    def _load(self, folder: Path, device: Any) -> Model:
        """The model, with the folder for what has to be downloaded."""


@dataclass(frozen=True)
class Branch(Checkpoint):
    """A checkpoint that is a branch on the hub."""

    commit: str = ""
    """The commit that the branch points at."""
    tokenizer: tuple[HubFile, ...] = ()
    """Files of the tokenizer on `main`, where the branch has none."""

    def _load(self, folder: Path, device: Any) -> Model:
        hub.download(self.name, self.files, self.commit, folder)
        if self.tokenizer:
            hub.download(self.name, self.tokenizer, "main", folder)
        model: Any = load_downloaded(
            folder, self.name, device=str(device), dtype=torch.float32, check=True
        )
        model.induction_lens_name = f"{self.name}@{self.revision}"
        return model


@dataclass(frozen=True)
class Folder(Checkpoint):
    """A checkpoint that is a folder on this machine."""

    @property
    def size(self) -> int:
        """Nothing is downloaded."""
        return 0

    def _load(self, folder: Path, device: Any) -> Model:
        del folder
        for file in self.weights:
            path = Path(self.name) / file.path
            if not path.is_file() or hub.sha256_of(path) != file.sha256:
                raise ValueError(
                    f"expected {path} as it was when the suite was made, got another content; "
                    "make the suite again, and let nobody write there"
                )
        return load_pretrained(self.name, device=str(device))


@dataclass(frozen=True)
class OwnFile(Checkpoint):
    """A checkpoint that is a file in TransformerLens's own format."""

    @property
    def weights(self) -> tuple[HubFile, ...]:
        """The one file."""
        return self.files

    def _load(self, folder: Path, device: Any) -> Model:
        folder.mkdir(parents=True, exist_ok=True)
        options = {"device": str(device), "dtype": torch.float32, "checkpoint": self.step}
        model: Any = load_own_format(self.name, cache=folder, **options)
        [file] = self.files
        for path in folder.rglob(Path(file.path).name):
            hub.check_file(path, file, self.name)
        model.induction_lens_name = f"{self.name}@{self.step}"
        return model


@dataclass(frozen=True)
class SuiteMoment(Moment):
    """A checkpoint of a suite, as `track` takes it."""

    step: int
    tokens_seen: int
    checkpoint: Checkpoint
    work: Path
    keep: bool

    @property
    def digest(self) -> str:
        """Of its weight files."""
        return self.checkpoint.digest

    def downloaded_to(self, work: Path) -> SuiteMoment:
        """As `Moment.downloaded_to`."""
        return replace(self, work=work, keep=False)

    def opened(self, device: Any) -> Any:
        """Download and load it."""
        return self.checkpoint.opened(self.work, keep=self.keep, device=device)
