"""Models that TransformerLens keeps in a format of its own, with their checkpoints.

Their repositories hold `config.json` and state dicts as pickles (`*final.pth`, and
`checkpoints/*_<tokens>.pth`), which are read as weights only. Only TransformerLens reads them, so
there is no Hugging Face model to compare with.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from induction_lens import hub
from induction_lens.models.classes import HAS_HOOKED_TRANSFORMER, bridge_class, hooked_class
from induction_lens.models.refusing import Refused, refusing
from induction_lens.models.surroundings import pickles_hold_weights_only, undisturbed

_log = logging.getLogger(__name__)
_OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
_CHECKPOINT = re.compile(r"checkpoints/.*_(\d+)\.pth")


def is_own_format(name: str) -> bool:
    """Whether a hub name is of a model in TransformerLens's own format."""
    return name.startswith(_OWNERS)


def checkpoint_files(paths: Iterable[str]) -> dict[int, str]:
    """The checkpoints among the files of a repository, by the number in their name, rising."""
    found = {int(match[1]): path for path in paths if (match := _CHECKPOINT.fullmatch(path))}
    return dict(sorted(found.items()))


def load_own_format(
    name: str,
    *,
    device: str,
    dtype: torch.dtype,
    checkpoint: int | None = None,
    cache: Path | None = None,
) -> Any:
    """Load such a model: its end, or the checkpoint with a number.

    Args:
        name: Its hub name.
        device: Where to put it.
        dtype: Type of its weights.
        checkpoint: The number in the name of the checkpoint's file; None: the trained model.
        cache: Folder for the download; None: the usual cache.

    Raises:
        ValueError: There is no such model or checkpoint, or TransformerLens would read the file of
            another.
    """
    _log.info("only TransformerLens reads %s: there is no Hugging Face model to compare with", name)
    if checkpoint is not None:
        _check_found(name, checkpoint)
    remedy = "check the network; TransformerLens has to download it"
    chosen: dict[str, Any] = {} if checkpoint is None else {"checkpoint_value": checkpoint}
    with (
        undisturbed(),
        refusing("a model that TransformerLens can read", name, remedy),
        pickles_hold_weights_only(),
        _cached_in(cache),
    ):
        if HAS_HOOKED_TRANSFORMER:
            if cache is not None:
                chosen["cache_dir"] = str(cache)
            return hooked_class().from_pretrained(
                name, device=device, dtype=dtype, fold_value_biases=False, **chosen
            )
        return bridge_class().boot_tl_legacy(name, device=device, dtype=dtype, **chosen)


def _check_found(name: str, checkpoint: int) -> None:
    """Check that the loader of TransformerLens finds the file of this checkpoint and no other: it
    takes the first whose name ends with the number, and 21000 ends with 1000."""
    paths = [file.path for file in hub.files(name, "main")]
    known = checkpoint_files(paths)
    if checkpoint not in known:
        near = sorted(known, key=lambda number: abs(number - checkpoint))[:3]
        listed = ", ".join(map(str, near)) or "none: it has no checkpoints"
        raise Refused(
            f"expected a checkpoint of {name}, got {checkpoint}; the nearest are {listed}"
        )
    taken = next((path for path in paths if path.endswith(f"{checkpoint}.pth")), None)
    if taken != known[checkpoint]:
        raise Refused(
            f"expected TransformerLens to read {known[checkpoint]} of {name}, got {taken}, whose "
            "name ends with the same number; take another checkpoint"
        )


@contextmanager
def _cached_in(folder: Path | None) -> Iterator[None]:
    """Let the hub's client keep in a folder what is downloaded inside the block."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE
    if folder is not None:
        constants.HF_HUB_CACHE = str(folder)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = before
