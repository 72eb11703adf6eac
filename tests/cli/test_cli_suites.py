"""`track` and `family` from the command line; `track` as a process that asks a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import induction_lens as il
from induction_lens.cli import app
from tests.local_hub import serving
from tests.suites.trained import write_folders

STEPS = (0, 8, 40)


@pytest.mark.slow
def test_track_reads_a_suite_from_the_hub(tmp_path):
    folders = write_folders(tmp_path / "run", STEPS)
    with serving() as hub:
        for step in STEPS:
            hub.add("EleutherAI/pythia-14m", f"step{step}", folders / f"step{step}")
        hub.add("EleutherAI/pythia-14m", "step9", folders / "step8")
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
        }
        command = [
            *(sys.executable, "-W", "ignore", "-c", "from induction_lens.cli import app; app()"),
            *("track", "pythia-14m", "--out", str(tmp_path / "out"), "--device", "cpu"),
            *("--sequences", "3", "--ablated", "2", "--json"),
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert [row["step"] for row in told["checkpoints"]] == [0, 40]
        assert [left["revision"] for left in told["left_out"]] == ["step8", "step9"]
        assert "2 checkpoints, " in done.stderr
        command[command.index("pythia-14m")] = "pythia-14n"
        wrong = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "the closest are EleutherAI/pythia-14m" in wrong.stderr
    assert il.tracking.Trajectory.read(told["trajectory"]).steps.tolist() == [0, 40]


def test_track_lists_what_is_left_out(tmp_path):
    folders = write_folders(tmp_path / "run", (0, 8))
    (folders / "notes").mkdir()
    options = ["track", str(folders), "--tokens-per-step", "7", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*options, "--list", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["revision"], row["tokens_seen"]) for row in rows] == [
        *(("step0", 0), ("step8", 56), ("notes", None)),
    ]
    assert "left out" in CliRunner().invoke(app, [*options, "--list"]).stdout
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_family_prints_and_writes_a_page(tmp_path):
    options = ["--out", str(tmp_path / "page"), "--sequences", "4", "--controls", "2", "-q"]
    done = CliRunner().invoke(app, ["family", "toy-1l", "toy-2l", *options])
    assert done.exit_code == 0, done.output
    assert "toy-2l" in done.stdout
    assert (tmp_path / "page" / "index.html").is_file()
    done = CliRunner().invoke(app, ["family", "toy-1l", "toy-2l", *options, "--json"])
    assert len(json.loads(done.stdout)["models"]) == 2
    assert Path(json.loads(done.stdout)["page"]).is_file()
