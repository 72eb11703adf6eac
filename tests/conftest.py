"""Models that several test modules share."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Also of what tests start: there are as many workers as cores, and threads that wait for each other
# on busy cores made an example take 600 seconds instead of 35.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
import torch

from induction_lens.models import HAS_HOOKED_TRANSFORMER
from tests.browser import browsing, chromium
from tests.local_hub import serving
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


@pytest.fixture(scope="session")
def browser():
    """A browser; the test is skipped where there is none."""
    if chromium() is None:
        pytest.skip("there is no Chromium")
    with browsing() as running:
        yield running


@pytest.fixture
def local_hub(tmp_path_factory, monkeypatch):
    """A hub on loopback that the real client talks to, and an empty cache."""
    from huggingface_hub import constants

    with serving() as hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if hasattr(constants, "HF_URL_HOSTS"):
            hosts = constants.HF_URL_HOSTS | {"127.0.0.1"}
            monkeypatch.setattr(constants, "HF_URL_HOSTS", hosts)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub-cache")))
        yield hub
