"""The real client of the hub against a hub on loopback, with planted faults."""

from __future__ import annotations

import errno
import hashlib

import pytest

from induction_lens import hub
from tests.local_hub import Fault

REPO = "somebody/model"


@pytest.fixture
def repo(local_hub, tmp_path, monkeypatch):
    """A repository with four branches, each with a configuration and a large file."""
    monkeypatch.setattr(hub, "WAITS", (0.01, 0.01))
    for n, revision in enumerate(("main", "step10", "step20", "step1000")):
        folder = tmp_path / revision
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"n": {n}}}')
        (folder / "model.safetensors").write_bytes(bytes([n]) * 4000)
        for extra in ("a", "b"):
            (folder / f"{extra}.txt").write_text(extra)
        local_hub.add(REPO, revision, folder)
    return local_hub


def test_branches_and_sums_come_without_a_download(repo):
    assert hub.revisions(REPO)["step10"] == repo.commits[REPO, "step10"]
    found = {file.path: file for file in hub.files(REPO, "step10")}
    assert set(found) == {"config.json", "model.safetensors", "a.txt", "b.txt"}
    assert found["model.safetensors"].sha256 == hashlib.sha256(b"\1" * 4000).hexdigest()
    assert found["model.safetensors"].size == 4000
    assert found["config.json"].sha256 is None
    assert not any("/resolve/" in path for path in repo.downloads())


def test_files_are_downloaded_and_not_twice(repo, tmp_path):
    files = hub.files(REPO, "step20")
    for _ in range(2):
        hub.download(REPO, files, "step20", tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"\2" * 4000
    assert sum("/store/" in path for path in repo.downloads()) == 1


@pytest.mark.parametrize("fault", ["reset", "slow", "429", "500"])
def test_a_passing_fault_is_survived(repo, tmp_path, fault):
    repo.faults.append(
        {
            "reset": Fault("/store/", reset=True, times=1),
            "slow": Fault("/store/", delay=0.3, times=1),
            "429": Fault("/store/", status=429, times=1),
            "500": Fault("/store/", status=500, times=1),
        }[fault]
    )
    hub.download(REPO, hub.files(REPO, "step20"), "step20", tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"\2" * 4000
    assert repo.faults[0].seen == 1


@pytest.mark.parametrize("fault", ["truncated", "corrupt"])
def test_a_damaged_file_is_found_and_removed(repo, tmp_path, fault):
    repo.faults.append(Fault("/store/", **{fault: True}))
    with pytest.raises(ValueError, match=r"^expected [^\n]*$") as told:
        hub.download(REPO, hub.files(REPO, "step20"), "step20", tmp_path / "there")
    if fault == "corrupt":
        assert "another SHA-256" in str(told.value)
    assert not (tmp_path / "there" / "model.safetensors").exists()
    repo.faults.clear()
    hub.download(REPO, hub.files(REPO, "step20"), "step20", tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"\2" * 4000


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/refs", status=401), "does not exist or needs a login"),
        (Fault("/refs", status=403), "accept its terms"),
        (Fault("/refs", status=404), "check the spelling"),
        (Fault("/refs", status=429), "too many requests"),
    ],
)
def test_a_refusal_is_one_line(repo, fault, said):
    repo.faults.append(fault)
    with pytest.raises(ValueError, match=said) as told:
        hub.revisions(REPO)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("expected ")


def test_an_unknown_revision_names_the_nearest(repo):
    with pytest.raises(ValueError, match="the nearest are step1000, step20, step10"):
        hub.resolved(REPO, "step900")
    with pytest.raises(ValueError, match="the nearest are step10, step20, step1000"):
        hub.files(REPO, "step11")
    with pytest.raises(ValueError, match="nobody/nothing"):
        hub.revisions("nobody/nothing")
    assert repo.repos


def test_a_hub_that_is_gone_is_one_line(repo, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="check the network") as told:
        hub.revisions(REPO)
    assert "\n" not in str(told.value)


def test_too_little_disk_is_said_before_the_download(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3000})())
    with pytest.raises(ValueError, match=r"expected room for 4 kB .* got 3 kB free"):
        hub.download(REPO, hub.files(REPO, "main"), "main", tmp_path / "there")
    assert not any("/resolve/" in path for path in repo.downloads())


def test_a_disk_that_fills_up_in_a_download_is_one_line_and_nothing_is_lost(
    repo, tmp_path, monkeypatch
):
    from huggingface_hub import file_download

    real = file_download.http_get

    def half(url, temp_file, **options):
        temp_file.write(b"\2" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    files = hub.files(REPO, "step20")
    small = [file for file in files if file.sha256 is None]
    hub.download(REPO, small, "step20", tmp_path / "there")
    monkeypatch.setattr(file_download, "http_get", half)
    with pytest.raises(ValueError, match="a full disk in the middle of it; free some") as told:
        hub.download(REPO, files, "step20", tmp_path / "there")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "there" / "model.safetensors").exists()
    monkeypatch.setattr(file_download, "http_get", real)
    repo.requests.clear()
    hub.download(REPO, files, "step20", tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"\2" * 4000
    assert not any("config.json" in path for path in repo.downloads())  # is there already


@pytest.mark.parametrize(
    ("size", "text"), [(12_000, "12 kB"), (3.8e8, "380 MB"), (1.44e9, "1.4 GB"), (4e11, "400 GB")]
)
def test_sizes_are_short(size, text):
    assert hub.gigabytes(size) == text
