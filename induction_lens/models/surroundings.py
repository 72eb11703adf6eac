"""The state around a call of the loading libraries: set for them, and restored afterwards."""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

import numpy as np
import torch

from induction_lens.models.classes import usual_defaults


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let nothing outside change what the block does, and let the block change nothing outside.

    Inside, torch's default dtype is float32 and its default device the CPU; warnings and what is
    printed to standard output are hidden: they are about the libraries' own internals. Random
    states, defaults and warning filters are restored afterwards.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        stack.callback(np.random.set_state, numpy_state)
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(usual_defaults())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(io.StringIO()))
        warnings.simplefilter("ignore")
        yield


@contextmanager
def pickles_hold_weights_only() -> Iterator[None]:
    """Let torch read no code from pickles inside the block, even if a caller allows it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
