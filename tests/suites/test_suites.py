"""Suites on a hub on loopback: what the hub lists, told from branches that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import induction_lens as il
from induction_lens.suites import suite
from induction_lens.suites.schemes import CRFM, OLMO, PYTHIA, SMOLLM2, SMOLLM3
from tests.local_hub import Fault
from tests.suites.trained import TOKENS_PER_STEP, write_folders

REPO = "EleutherAI/pythia-14m-seed3"
STEPS = (0, 1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A trained model in several shards at eight steps."""
    folder = tmp_path_factory.mktemp("trained")
    return write_folders(folder, STEPS, max_shard_size="20KB")


@pytest.fixture
def published(local_hub, folders):
    """The same on the hub, as it should be."""
    for step in STEPS:
        local_hub.add(REPO, f"step{step}", folders / f"step{step}")
    local_hub.add(REPO, "main", folders / f"step{STEPS[-1]}")
    return local_hub


def _copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_checkpoints_come_from_what_the_hub_lists(published):
    found = suite("pythia-14m-seed3")
    assert [one.step for one in found.checkpoints] == list(STEPS)
    assert [one.tokens_seen for one in found.checkpoints] == [2_097_152 * n for n in STEPS]
    assert found.left_out == ()
    assert (found.name, found.seed) == (REPO, 3)
    assert found.checkpoint("step8").commit == published.commits[REPO, "step8"]
    assert not any("/resolve/" in path for path in published.downloads())
    assert "8 checkpoints, steps 0 to 64" in repr(found)


def test_planted_faults_are_all_found_and_no_good_branch_is_left_out(published, folders, tmp_path):
    """Two equal branches, a chimera, main in another branch, no weights, and a strange name."""
    published.add(REPO, "step128", _copied(folders / "step32", tmp_path / "equal"))
    chimera = _copied(folders / "step16", tmp_path / "chimera")
    [first] = chimera.glob("model-00001-of-*.safetensors")
    shutil.copy(folders / "step64" / first.name, first)
    published.add(REPO, "step16", chimera)
    published.add(REPO, "step4", _copied(folders / "step64", tmp_path / "main"))
    published.add(REPO, "step3", _copied(folders / "step2", tmp_path / "none"))
    for file in (tmp_path / "none").glob("model*"):
        file.unlink()
    published.add(REPO, "step3", tmp_path / "none")
    published.add(REPO, "old-run", folders / "step2")
    published.add(REPO, "step64", _copied(folders / "step64", tmp_path / "last"))
    weights = tmp_path / "last" / first.name
    tensors = {name: 1.5 * value for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    for file in sorted((tmp_path / "last").glob("model-0000[2-9]*.safetensors")):
        tensors = {name: 1.5 * value for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    published.add(REPO, "step64", tmp_path / "last")
    found = suite(REPO)
    told = {left.revision: (left.reason, left.why) for left in found.left_out}
    assert {name: reason for name, (reason, _) in told.items()} == {
        "step32": "equal",
        "step128": "equal",
        "step4": "equal",
        "step16": "chimera",
        "step3": "files",
        "old-run": "name",
    }
    assert [one.revision for one in found.checkpoints] == [
        *("step0", "step1", "step2", "step8", "step64"),
    ]
    assert "step128" in told["step32"][1]
    assert "main" in told["step16"][1]
    with pytest.raises(ValueError, match=r"step16 of .*, which has a weight file of main"):
        found.checkpoint("step16")
    with pytest.raises(ValueError, match="the nearest are step64, step8, step2"):
        found.checkpoint("step61")
    with pytest.raises(ValueError, match=r"step16 of .*, which has a weight file of main") as of:
        il.track(found, out=tmp_path / "out", checkpoints=[0, 16])
    assert "\n" not in str(of.value)
    with pytest.raises(ValueError, match="got 61; the nearest are 2, 8, 64"):
        il.track(found, out=tmp_path / "out", checkpoints=[0, 61])
    frame = found.to_frame()
    assert list(frame["left_out"]).count("equal") == 3
    assert frame["bytes"][0] > 10_000


def test_equal_first_steps_are_reported_and_the_first_stays(published, folders):
    published.add(REPO, "step1", folders / "step0")
    found = suite(REPO)
    assert [left.revision for left in found.left_out] == ["step1"]
    assert "step0" in found.left_out[0].why
    assert found.checkpoints[0].step == 0


def test_main_may_be_the_last_one(published):
    assert suite(REPO).checkpoint("step64").digest
    assert suite(REPO).left_out == ()


def test_a_step_that_is_main_and_not_the_last_is_left_out(published, folders):
    published.add(REPO, "main", folders / "step8")
    [left] = suite(REPO).left_out
    assert left.revision == "step8"
    assert "main" in left.why


def test_own_checkpoints_are_files(local_hub, tmp_path):
    name = "NeelNanda/Attn_Only_2L512W_C4_Code"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    for tokens in (500_000, 21_000_000, 4_000_000):
        path = tmp_path / "checkpoints" / f"attn_{tokens:012d}.pth"
        torch.save({"a": torch.tensor([tokens])}, path)
    local_hub.add(name, "main", tmp_path)
    found = suite(name)
    assert [one.tokens_seen for one in found.checkpoints] == [500_000, 4_000_000, 21_000_000]


def test_a_folder_of_folders_needs_tokens(folders):
    with pytest.raises(ValueError, match=r"expected tokens_per_step for .* \(step0\)"):
        suite(folders)
    found = suite(folders, tokens_per_step=TOKENS_PER_STEP)
    assert [one.tokens_seen for one in found.checkpoints] == [TOKENS_PER_STEP * n for n in STEPS]
    assert sum(one.size for one in found.checkpoints) == 0


def test_a_suite_without_checkpoints_says_why(folders, tmp_path):
    first = sorted(folders.iterdir())[0]
    for step in (1, 2):
        shutil.copytree(first, tmp_path / f"step{step}")
    found = il.suites.suite(tmp_path, tokens_per_step=9)
    with pytest.raises(ValueError, match=r"none can be measured: step1 .*; left_out says why"):
        found.source(None, work=tmp_path, keep=False)


def test_a_list_is_a_suite(published, folders):
    given = [(8, 80, REPO, "step8"), (2, 20, str(folders / "step2"), None)]
    found = suite(given)
    assert [(one.step, one.tokens_seen) for one in found.checkpoints] == [(2, 20), (8, 80)]
    with pytest.raises(ValueError, match="the nearest are step8, step4, step2"):
        suite([(8, 80, REPO, "step9")])
    assert published.repos


def test_branches_of_ones_own_need_tokens(local_hub, folders):
    local_hub.add("me/run", "epoch-1-step-8", folders / "step8")
    local_hub.add("me/run", "epoch-2-step-16", folders / "step16")
    found = suite("me/run", tokens_per_step=100)
    assert [(one.step, one.tokens_seen) for one in found.checkpoints] == [(8, 800), (16, 1600)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pythia-160", "the closest are EleutherAI/pythia-160m"),
        ("EleutherAI/pythia-161m", "the closest are EleutherAI/pythia-160m"),
        ("alias-gpt2-small", "stanford-crfm/alias-gpt2-small-x21"),
        ("qqqq", "see suites.suite_names"),
        ([], "at least one checkpoint"),
        ([(1, 2)], r"\(step, tokens, name, revision\)"),
        ([(1, 2, "a/b", None), (1, 3, "a/b", None)], "each step once"),
    ],
)
def test_an_unknown_suite_names_the_closest(name, said):
    with pytest.raises(ValueError, match=said) as told:
        suite(name)
    assert "\n" not in str(told.value)


def test_a_hub_that_refuses_is_one_line(published):
    published.faults.append(Fault("/tree/", status=403))
    with pytest.raises(ValueError, match="accept its terms"):
        suite(REPO)


@pytest.mark.parametrize(
    ("scheme", "name", "branch", "step", "tokens"),
    [
        (PYTHIA, "pythia-2.8b-deduped", "step143000", 143_000, 299_892_736_000),
        (CRFM, "alias-gpt2-small-x21", "checkpoint-700", 700, 367_001_600),
        (CRFM, "eowyn-gpt2-medium-x777", "checkpoint-10", 10, 5_242_880),
        (
            SMOLLM2,
            "SmolLM2-360M-intermediate-checkpoints",
            "step-160000",
            160_000,
            251_658_240_000,
        ),
        (SMOLLM3, "SmolLM3-3B-checkpoints", "stage1-step-40000", 40_000, 94_371_840_000),
    ],
)
def test_names_of_public_suites(scheme, name, branch, step, tokens):
    repo = scheme.repo(name)
    assert repo.endswith("/" + name)
    labels, others = scheme.labels(repo, ["main", branch, "something"])
    assert [(label.step, label.tokens_seen) for label in labels] == [(step, tokens)]
    assert [left.revision for left in others] == ["something"]
    assert all(scheme.repo(example) == example for example in scheme.examples)


def test_olmo_names_its_tokens_and_a_wrong_label_is_found():
    steps = (150, 1000, 10_000, 100_000, 928_000)
    names = [f"stage1-step{n}-tokens{round(4.194304e-3 * n + 0.5)}B" for n in steps]
    names += ["stage1-step50000-tokens5B", "stage2-ingredient1-step1000-tokens5B"]
    labels, others = OLMO.labels("allenai/OLMo-2-1124-7B", names)
    assert [label.step for label in labels] == list(steps)
    for label in labels:
        assert label.tokens_seen == pytest.approx(4_194_304 * label.step, rel=1e-3)
    assert {left.revision: left.reason for left in others} == {
        "stage1-step50000-tokens5B": "label",
        "stage2-ingredient1-step1000-tokens5B": "name",
    }


def test_suites_are_public():
    assert il.suites.suite is suite
    assert json.dumps(il.suites.suite_names())
