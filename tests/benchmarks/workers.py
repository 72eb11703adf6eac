"""`python -m tests.benchmarks.workers [--write PAGE]`: a suite by the number of Ray workers.

A trained model of two layers at 16 steps is tracked by this process, and by 1, 2 and 3 nodes of a
Ray cluster on this machine, of one core each. Workers start before the clock does, since a cluster
starts once; the first checkpoint is the driver's, as always. Every trajectory has to be the same
file.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import induction_lens as il
from induction_lens.files import write_text
from induction_lens.suites import Suite, suite
from tests.suites.trained import TOKENS_PER_STEP, text, write_folders

STEPS = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120)
OPTIONS: dict[str, Any] = {
    "text": text(128, seed=1),
    "n_prompts": 32,
    "n_ablated": 128,
    "n_examples": 99,
    "methods": ("mean", "zero", "resample"),
    "device": "cpu",
    "progress": False,
}
BEGIN = "<!-- workers: python -m tests.benchmarks.workers writes this -->"
END = "<!-- /workers -->"


def measured(found: Suite, out: Path, workers: Sequence[int]) -> list[tuple[str, float, bytes]]:
    """Engine, seconds, and the file, for this process and each number of workers."""
    rows = [("this process", *_timed(found, out / "local", "local"))]
    for n in workers:
        rows.append((f"Ray, {n} worker{'s' * (n > 1)}", *_on_ray(found, out, n)))
    return rows


def _on_ray(found: Suite, out: Path, n: int) -> tuple[float, bytes]:
    import ray  # pyright: ignore[reportMissingImports]
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(n):
        cluster.add_node(num_cpus=1)
    engine = il.tracking.RayEngine(address=cluster.address)
    try:
        few = suite([(one.step, one.tokens_seen, one.name, None) for one in found.checkpoints[:8]])
        il.track(few, out=out / f"warm-{n}", engine=engine, **OPTIONS | {"n_ablated": 2})
        return _timed(found, out / f"ray-{n}", engine)
    finally:
        ray.shutdown()
        cluster.shutdown()


def _timed(found: Suite, out: Path, engine: Any) -> tuple[float, bytes]:
    begin = time.monotonic()
    il.track(found, out=out, engine=engine, **OPTIONS)
    return time.monotonic() - begin, (out / "trajectory.parquet").read_bytes()


def table(rows: Sequence[tuple[str, float, bytes]], load: float) -> str:
    """The same in Markdown, with what else ran on the machine."""
    first = rows[0][1]
    lines = ["| who | seconds | times as fast | same file |", "|---|---:|---:|---|"]
    for who, seconds, content in rows:
        same = "yes" if content == rows[0][2] else "NO"
        lines.append(f"| {who} | {seconds:.1f} | {first / seconds:.2f} | {same} |")
    about = (
        f"{len(STEPS)} checkpoints of a model of two layers; {os.cpu_count()} cores, on which "
        f"{load:.1f} processes waited for one on average; torch {torch.__version__}."
    )
    return "\n".join([*lines, "", about])


def main() -> int:
    """Measure, print, and write; 1 where files differ."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--write", type=Path, help="a page with the place for the table")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # the workers' Python has to find these modules
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        made = write_folders(Path(folder) / "run", STEPS)
        found = suite(made, tokens_per_step=TOKENS_PER_STEP)
        rows = measured(found, Path(folder), options.workers)
    told = table(rows, os.getloadavg()[1])
    print(told)
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        whole = f"{BEGIN}\n\n{told}\n\n{END}"
        write_text(options.write, re.sub(pattern, lambda _: whole, page, flags=re.DOTALL))
    return int(any(content != rows[0][2] for _, _, content in rows))


if __name__ == "__main__":
    sys.exit(main())
