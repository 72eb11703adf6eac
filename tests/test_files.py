"""Files and folders are whole or not there, whenever their writer is stopped; one writer a time."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from induction_lens import files, locks
from induction_lens.files import atomic_folder, atomic_path, output_folder, recover, tidy
from induction_lens.locks import locked

OLD, NEW = {"a": "old", "b": "old too"}, {"a": "new", "c": "new too"}


def _content(folder: Path) -> dict[str, str] | None:
    if not folder.is_dir():
        return None
    return {path.name: path.read_text() for path in folder.iterdir()}


def _fill(folder: Path, content: dict[str, str]) -> None:
    with atomic_folder(folder) as fresh:
        for name, text in content.items():
            (fresh / name).write_text(text)


# what an interrupted call had open is closed when it is collected
_CLOSED_LATER = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


class _At:
    """Raises an error at the n-th line that runs of the modules that write; counts the lines."""

    def __init__(self, n: int | None):
        self.n, self.lines = n, 0

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in (files.__file__, locks.__file__):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.n:
                raise KeyboardInterrupt
        return self


def _interrupted(work, n: int | None) -> int:
    """Do work, interrupted at the n-th line; how many lines ran."""
    at, before = _At(n), sys.gettrace()
    sys.settrace(at)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return at.lines


# what an interrupted call had open is closed when it is collected
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_at_any_line_leaves_the_old_folder_or_the_new_one(tmp_path):
    folder = tmp_path / "folder"
    _fill(folder, OLD)
    n_lines = _interrupted(lambda: _fill(folder, NEW), None)
    assert _content(folder) == NEW
    assert n_lines > 60
    seen = []
    for n in range(1, n_lines + 1):
        _fill(folder, OLD)
        _interrupted(lambda: _fill(folder, NEW), n)
        recover(folder)
        seen.append(_content(folder))
        assert seen[-1] in (OLD, NEW), n
        tidy(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"], n
        assert _content(folder) == seen[-1], n
    assert seen[0] == OLD
    assert seen[-1] == NEW
    assert seen == sorted(seen, key=lambda content: content == NEW)  # old, and from then on new


# what an interrupted call had open is closed when it is collected
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_at_any_line_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file"

    def write() -> None:
        files.write_text(path, "new")

    path.write_text("old")
    for n in range(1, _interrupted(write, None) + 1):
        path.write_text("old")
        _interrupted(write, n)
        assert path.read_text() in ("old", "new")
        write()
        assert path.read_text() == "new"
        assert [left.name for left in tmp_path.iterdir()] == ["file"], n


def test_a_writer_killed_between_its_renames_has_lost_nothing(tmp_path):
    folder = tmp_path / "folder"
    _fill(folder, OLD)
    os.replace(folder, tmp_path / ".folder.old")
    (tmp_path / ".folder.new").mkdir()
    (tmp_path / ".folder.new" / "a").write_text("half")
    (tmp_path / ".folder.lock").write_text("")
    recover(folder)
    assert _content(folder) == OLD
    # as an earlier version left it
    (tmp_path / ".folder.abcd_123").mkdir()
    os.replace(folder, tmp_path / ".folder.abcd_123" / "old")
    (tmp_path / ".other.abcd_123").mkdir()
    (tmp_path / ".other.abcd_123" / "of the user").write_text("stays")
    tidy(tmp_path)
    assert _content(folder) == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abcd_123", "folder"]
    _fill(folder, NEW)
    assert _content(folder) == NEW


def test_what_a_live_writer_writes_is_left_alone(tmp_path):
    folder = tmp_path / "folder"
    _fill(folder, OLD)
    with atomic_folder(folder) as fresh:
        (fresh / "a").write_text("new")
        other = threading.Thread(target=tidy, args=(tmp_path,))
        other.start()
        other.join()
        assert _content(fresh) == {"a": "new"}
    assert _content(folder) == {"a": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def _append(path: Path, text: str) -> None:
    for _ in range(20):
        with atomic_path(path) as temporary:
            temporary.write_text(text * 10_000)


def test_writers_of_one_file_take_turns(tmp_path):
    path = tmp_path / "file"
    threads = [threading.Thread(target=_append, args=(path, letter)) for letter in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            text = path.read_text()
            assert text in ("a" * 10_000, "b" * 10_000, "c" * 10_000)
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


HOLD = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("locks", sys.argv[1])  # without all of torch
sys.modules["locks"] = locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locks)
with locks.locked(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_owner_and_is_free_when_the_owner_is_dead(tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, locks.__file__, str(path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    message = re.escape(f"{tmp_path} to be used by one process at a time, got process {other.pid} ")
    with pytest.raises(ValueError, match=message), locked(path):
        pass
    with pytest.raises(ValueError, match=message), locked(path, wait=0.1):
        pass
    other.kill()
    other.communicate()
    assert path.exists()  # left behind
    with locked(path) as lock:
        assert str(os.getpid()) in path.read_text()
        with locked(path) as again:  # the same thread may
            assert again is lock
        lock.check()
        refusals: list[str] = []

        def try_it() -> None:
            try:
                with locked(path):
                    refusals.append("none")
            except ValueError as error:
                refusals.append(str(error))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert f"got process {os.getpid()} on " in refusals[0]
    assert not path.exists()


def test_a_folder_that_was_replaced_is_not_taken_for_the_locked_one(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder / ".lock") as lock:
        os.replace(folder, tmp_path / "moved")
        with pytest.raises(ValueError, match=r"run to stay while it is written to, got it removed"):
            lock.check()
        folder.mkdir()
        (folder / ".lock").write_text("")
        with pytest.raises(ValueError, match="removed or replaced"):
            lock.check()
    assert (folder / ".lock").exists()  # another one's


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("path", [None, 3, "", " ", "a\0b", b"bytes", ["a"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match=r"the output folder to be the path of a file or"):
        output_folder(path)


def test_folders_that_cannot_be_written_to_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for path in ("file", "file/sub", "file/sub/sub", "nowhere"):
        with pytest.raises(ValueError, match=r"a folder to write to, got .*(file|nowhere)"):
            output_folder(tmp_path / path)
    assert output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="expected a file to write, got the folder"):
        files.write_text(tmp_path, "text")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="where you may not write"):
        output_folder(tmp_path / "a")
