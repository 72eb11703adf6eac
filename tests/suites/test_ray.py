"""Ray on three nodes of one machine, one of them killed, writes the file of the local engine."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import induction_lens as il
from induction_lens.suites import family, suite
from induction_lens.tracking import engines
from induction_lens.tracking.measures import Asked, ModelInfo, draw
from tests.suites.test_family import TINY
from tests.suites.test_tracking_suites import OPTIONS
from tests.suites.trained import write_folders

STEPS = (0, 5, 10, 20, 40, 60, 80, 100, 120, 140)


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    model = il.load("toy-1l", device="cpu")
    moment = il.tracking.moments.LiveMoment(1, 1, model)
    text = torch.zeros(2, 20, dtype=torch.long)
    asked = Asked(text, 2, 2, 2, 2, ["mean"], None, None, 1, 0)
    info = ModelInfo.of(model)
    given = {"info": info, "material": draw(model, text, asked.settled(info)), "device": None}
    with pytest.raises(ValueError, match=r"pip install 'induction_lens\[ray\]'"):
        list(engines.as_engine("ray").measured([moment], asked, **given))
    with pytest.raises(ValueError, match="expected engine to be one of local, ray, got 'spark'"):
        engines.as_engine("spark")


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    class NoCluster:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(**_: object) -> None:
            raise ConnectionError("Could not find any running Ray instance.\nMore lines.")

    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    engine = il.tracking.RayEngine(address="10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"a Ray cluster at 10\.0\.0\.1:6379, got none") as told:
        list(engine.run(max, [1], 2, named=str))
    assert "\n" not in str(told.value)
    assert "pass engine='local'" in str(told.value)


@pytest.fixture
def cluster():
    """Three nodes of one core each, besides the driver's own without any."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1) for _ in range(3)]
    try:
        yield ray, made, nodes
    finally:
        ray.shutdown()
        made.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_nodes_one_of_them_killed_give_the_file_of_the_local_engine(cluster, tmp_path):
    _, made, nodes = cluster
    torch.set_num_threads(1)
    found = suite(write_folders(tmp_path / "run", STEPS), tokens_per_step=132)
    il.track(found, out=tmp_path / "local", **OPTIONS)
    expected = (tmp_path / "local" / "trajectory.parquet").read_bytes()
    engine = il.tracking.RayEngine(address=made.address)
    il.track(found, out=tmp_path / "three", engine=engine, **OPTIONS)
    assert (tmp_path / "three" / "trajectory.parquet").read_bytes() == expected

    points = tmp_path / "killed" / "points"

    def kill() -> None:
        while len(list(points.glob("step-*"))) < 3:
            time.sleep(0.05)
        made.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    il.track(found, out=tmp_path / "killed", engine=engine, **OPTIONS)
    killer.join()
    assert (tmp_path / "killed" / "trajectory.parquet").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_family_on_three_nodes_is_that_of_this_process(cluster, tmp_path):
    _, made, nodes = cluster
    torch.set_num_threads(1)
    names = []
    for seed in range(5):
        config = il.toys.ToyConfig(d_model=16, n_heads=2, d_vocab=1024, n_ctx=64, seed=seed)
        model = il.toys.build_toy(config, tokenizer=il.load("toy-2l").tokenizer, device="cpu")
        names.append(str(il.toys.save(model, tmp_path, step=seed, tokens_seen=0).path))
    expected = family(names, out=tmp_path / "local", **TINY)
    engine = il.tracking.RayEngine(address=made.address)
    out = tmp_path / "three"

    def kill() -> None:
        while not list(out.glob("models/*.safetensors")):
            time.sleep(0.02)
        made.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = family(names, out=out, engine=engine, **TINY)
    killer.join()
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), check_exact=True)
    for kept in (tmp_path / "local" / "models").iterdir():
        assert (out / "models" / kept.name).read_bytes() == kept.read_bytes()
    again = family(names, out=out, engine=engine, **TINY)
    pd.testing.assert_frame_equal(again.to_frame(), expected.to_frame(), check_exact=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_goes_is_one_line_and_what_is_measured_stays(cluster, tmp_path):
    _, made, nodes = cluster
    torch.set_num_threads(1)
    found = suite(write_folders(tmp_path / "run", STEPS), tokens_per_step=132)
    engine = il.tracking.RayEngine(address=made.address, retries=0)
    points = tmp_path / "out" / "points"

    def kill() -> None:
        while len(list(points.glob("step-*"))) < 3:
            time.sleep(0.05)
        for node in nodes:
            made.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(ValueError, match="the cluster to measure step") as told:
        il.track(found, out=tmp_path / "out", engine=engine, **OPTIONS)
    killer.join()
    assert "\n" not in str(told.value)
    kept = len(list(points.glob("step-*")))
    assert kept >= 3
    il.track(found, out=tmp_path / "out", **OPTIONS)
    il.track(found, out=tmp_path / "local", **OPTIONS)
    wanted = (tmp_path / "local" / "trajectory.parquet").read_bytes()
    assert (tmp_path / "out" / "trajectory.parquet").read_bytes() == wanted
