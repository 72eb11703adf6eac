"""Trains and tracks the runs of the synthetic laboratory, one process of one thread; resumes.

    python docs/scripts/make_language_runs.py language-runs
    python docs/scripts/make_language_runs.py language-runs --until 02:40

About 13 minutes of one core. Of each run on a language its trajectory goes to its folder, measured
as the whole model and, where it was clamped, under the clamp as well. Runs on text share theirs.
"""

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import Any

import torch

import induction_lens as il
from induction_lens.tracking import track_language
from induction_lens.training import LANGUAGE_PRESETS, train_language, train_preset

SEEDS = (0, 1, 2)
TEXT = ("all-tokens", "hapax")
"""Presets of `train_preset`; the others are of `train_language`."""
NAMES = ("alphabets", "markov", "alphabets-clamped", "alphabets-clamped-late")
NAMES += ("chains-2l", "chains-3l")
MEASURED: dict[str, Any] = {"n_sequences": 48, "progress": False}
WHOLE, CLAMPED = "trajectory.safetensors", "under-clamp.safetensors"


def make(out: Path, name: str, seed: int) -> None:
    """Train a run, and measure it, where that is not done yet."""
    folder = out / f"{name}-seed-{seed}"
    if name in TEXT:
        if not (folder / "model" / "card.json").is_file():
            options: dict[str, Any] = {"text": out / "text"}
            options["tokenizer"] = getattr(il.load("toy-2l"), "tokenizer")  # noqa: B009
            train_preset(name, folder, seed=seed, progress=False, device="cpu", **options)
        return
    preset = LANGUAGE_PRESETS[name]
    if not (folder / WHOLE).is_file():
        train_language(name, folder, seed=seed, progress=False)
        if preset.clamp:
            under = track_language(folder, preset.language, clamp=preset.clamp, **MEASURED)
            under.save(folder / CLAMPED)
        track_language(folder, preset.language, **MEASURED).save(folder / WHOLE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", help="begin nothing after this time, UTC, such as 02:40")
    given = parser.parse_args()
    torch.set_num_threads(1)
    planned = [(name, seed) for names in (NAMES, TEXT) for seed in SEEDS for name in names]
    for name, seed in planned:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%H:%M")
        if given.until and now >= given.until:
            sys.exit(f"{now}: stopped before {name} seed {seed}; run again to resume")
        start = time.process_time()
        make(given.out, name, seed)
        took = time.process_time() - start
        print(f"begun {now}: {name} seed {seed}, {took:.0f} s", flush=True)
