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
from induction_lens.training.presets import FAMILY_PRESETS, prepare_text, train_preset

MORE_SEEDS = ("family-64x1", "family-64x2", "family-96x2-mlp", "family-128x3")
"""Sizes of which there are three seeds; of the others one."""
# few sequences: two of three minutes are to be the training's
MEASURED = {"n_sequences": 64, "n_prompts": 16, "n_ablated": 2, "n_examples": 1500}


def planned() -> list[tuple[str, int]]:
    """Every run, by preset and seed, in the order in which they are made."""
    first = [(name, 0) for name in FAMILY_PRESETS]
    return first + [(name, seed) for seed in (1, 2) for name in MORE_SEEDS]


def make(out: Path, preset: str, seed: int) -> None:
    """Train a run, and track it, where that is not done yet."""
    text = out / "text"
    tokenizer = il.load("toy-2l").tokenizer
    prepare_text(preset, text, tokenizer=tokenizer)
    folder = out / f"{preset}-seed-{seed}"
    if not (folder / "model" / "card.json").is_file():
        train_preset(preset, folder, text=text, seed=seed, device="cpu", progress=False)
    il.track(folder, out=folder / TRACKED, device="cpu", progress=False, **MEASURED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", help="begin no run after this time, UTC, such as 23:20")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, number in planned():
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%H:%M")
        if given.until and now >= given.until:
            sys.exit(f"{now}: stopped before {name} seed {number}; run again to resume")
        make(given.out, name, number)
        print(f"{now}: {name} seed {number}", flush=True)
