"""Whether a model fits into memory, said before it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from induction_lens.hub import gigabytes
from induction_lens.models.refusing import Refused


def available_memory(device: str) -> int | None:
    """Bytes that are free on a device; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        said = dict(line.split(":", 1) for line in lines)
        return 1024 * int(said["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        return None


def parameters_in(files: Sequence[Path]) -> int:
    """How many numbers safetensors files hold, from their headers."""
    from safetensors import safe_open

    n = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            n += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return n


def check_memory(name: str, n_parameters: int, *, dtype: torch.dtype, device: str) -> None:
    """Check that weights fit into what is free; more is needed to run them.

    Raises:
        ValueError: They do not.
    """
    needed, free = n_parameters * dtype.itemsize, available_memory(device)
    if free is not None and needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise Refused(
            f"expected a model that fits into memory, got {name}, whose weights take "
            f"{gigabytes(needed)} in {kind} where {gigabytes(free)} are free on {device}; take a "
            "smaller one, dtype=torch.bfloat16 or another device"
        )
