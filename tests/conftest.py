"""Models that several test modules share."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest
import torch

from induction_lens.models import HAS_HOOKED_TRANSFORMER
from tests.reference_model import induction_circuit

IMPLEMENTATIONS = ["hooked", "bridge"] if HAS_HOOKED_TRANSFORMER else ["bridge"]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    """Every class that the installed TransformerLens has."""
    return request.param


@pytest.fixture
def circuit(implementation):
    """The hand-set induction circuit, in each class."""
    return induction_circuit(implementation)


@pytest.fixture
def _as_users_call():
    """Without the types that calls are checked against in tests: users have no such checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small models are fastest on one thread, and their sums do not depend on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
