"""Trains the family of argument 6, one process of one thread, smallest first; run again to resume.

    python docs/scripts/make_family.py family            # every size, then more seeds
    python docs/scripts/make_family.py family --until 23:20

Everything goes to the folder: the text that all share, in the tokens of `toy-2l`, and for each run
its snapshots, its model and, in `tracked`, its trajectory.
"""

import argparse
import datetime
import sys
from pathlib import Path

import torch

import induction_lens as il
from induction_lens.tracking.track import TRACKED
from induction_lens.training.presets import FAMILY_PRESETS, train_preset

MORE_SEEDS = ("family-64x1", "family-64x2", "family-96x2-mlp", "family-128x3")
"""Sizes of which there are three seeds; of the others one."""
# half of the snapshots, and few sequences: most of the time is to be the training's
MEASURED = {"n_sequences": 64, "n_prompts": 16, "n_ablated": 2, "n_examples": 1500}
SNAPSHOTS = "every:2"


def train(out: Path, preset: str, seed: int) -> None:
    """Train a run where that is not done yet."""
    folder = out / f"{preset}-seed-{seed}"
    if (folder / "model" / "card.json").is_file():
        return
    options = {"text": out / "text", "tokenizer": il.load("toy-2l").tokenizer, "device": "cpu"}
    train_preset(preset, folder, seed=seed, progress=False, **options)


def track(out: Path, preset: str, seed: int) -> None:
    """Measure the snapshots of a run that are not measured yet."""
    folder = out / f"{preset}-seed-{seed}"
    options = {"checkpoints": SNAPSHOTS, "device": "cpu", "progress": False}
    il.track(folder, out=folder / TRACKED, **options, **MEASURED)


def planned() -> list[tuple]:
    """Every piece of work, in its order: a function, a preset and a seed."""
    first = [(work, name, 0) for work in (train, track) for name in FAMILY_PRESETS]
    more = [(name, seed) for seed in (1, 2) for name in MORE_SEEDS]
    return first + [(work, *run) for run in more for work in (train, track)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", help="begin nothing after this time, UTC, such as 23:20")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for work, name, number in planned():
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%H:%M")
        what = f"{work.__name__} {name} seed {number}"
        if given.until and now >= given.until:
            sys.exit(f"{now}: stopped before {what}; run again to resume")
        work(given.out, name, number)
        print(f"begun {now}: {what}", flush=True)
