"""Measures models of several sizes, for the page about argument 6.

    python docs/scripts/make_family.py family        # hours on one core: trains the small family
    python docs/scripts/measure_family.py family     # minutes
    python docs/scripts/write_arguments.py           # the page, from what this wrote

What it writes, docs/arguments/continuity.json, is all that the page's numbers are from: the runs
that ship with the package, the runs in the folder that are tracked, and what `induction-lens
family` finds on the models that ended them.
"""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

import induction_lens as il
from induction_lens.dynamics import mean_over_seeds, phase_change
from induction_lens.estimates import columns
from induction_lens.heads import THRESHOLD
from induction_lens.reports.training.runs import shipped_runs
from induction_lens.suites import family, trend
from induction_lens.suites.member import PREDICTED
from induction_lens.toys.snapshots import TOKENIZER
from induction_lens.tracking.runs import TrackedRun
from induction_lens.tracking.track import TRACKED
from induction_lens.tracking.trajectory import TRAJECTORY

OUT = Path(__file__).parents[1] / "arguments" / "continuity.json"
KEPT = OUT.parent / "family"
"""The trajectories of the small family, and the models of the smaller sizes."""
WITH_WEIGHTS = ("family-64x1-seed-0", "family-64x2-seed-0", "family-128x3-seed-0")
METHOD = "mean"
QUANTITIES = {
    "loss": "nats",
    "early_loss": "nats",
    "icl": "nats",
    "share_above": "ratio",
    "depth": "ratio",
    "copying_correlation": "ratio",
    "removed": "ratio",
    "midpoint_over_predicted": "ratio",
}


def row_of(run: TrackedRun) -> dict[str, Any]:
    """What one run says about size."""
    found = run.trajectory
    config = found.config
    n_layers, d_model = config["n_layers"], config["d_model"]
    d_mlp = 0 if config["attn_only"] else config["d_mlp"]
    wide = config["n_heads"] * config["d_head"]
    induction, copying = (found.scores[name][-1] for name in ("induction", "copying_weights"))
    above = (induction > THRESHOLD).nonzero()
    change = phase_change(found)
    per_step = float(found.tokens_seen[-1] / found.steps[-1])
    around = slice(found.early - found.window, found.early + found.window + 1)
    deep = n_layers > 1 and len(above) > 0
    pair = torch.stack([induction.flatten(), copying.flatten()]).double()
    return {
        "run": found.name,
        "size": f"{n_layers} layer{'s' * (n_layers > 1)}, {d_model} wide"
        + ", MLPs" * (not config["attn_only"]),
        "seed": found.seed,
        "parameters": n_layers * d_model * (4 * wide + 2 * d_mlp),
        "tokens": int(found.tokens_seen[-1]),
        "loss": float(found.held_out_loss[-1]),
        "early_loss": float(found.loss_by_position[-1][around].mean()),
        "icl": float(found.icl[-1].mean()),
        "heads": int(induction.numel()),
        "above": len(above),
        "share_above": len(above) / induction.numel(),
        "depth": float(above[:, 0].double().mean() / (n_layers - 1)) if deep else math.nan,
        "copying_correlation": float(torch.corrcoef(pair)[0, 1]),
        **removed(run),
        "p_value": change.p_value,
        **columns("midpoint", change.midpoint),
        "midpoint_over_predicted": (change.midpoint.value if change.midpoint else math.nan)
        / (PREDICTED * math.sqrt(per_step)),
    }


def removed(run: TrackedRun) -> dict[str, float]:
    """The share of the ICL score that goes with the heads, and with random sets; NaN where no head
    is above the threshold."""
    rows = [row for row in run.end.get("knockouts", []) if row["method"] == METHOD]
    rows = [row for row in rows if rows[0]["are_induction_heads"]]
    shares: dict[str, list[float]] = {"tested": [], "control": []}
    clean = next((row["clean"] for row in rows if row["set"] == "tested"), math.nan)
    for row in rows:
        shares[row["set"]].append(-row["effect"] / clean)
    means = {name: sum(of) / len(of) if of else math.nan for name, of in shares.items()}
    return {"removed": means["tested"], "control_removed": means["control"]}


def sizes_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each size: means over seeds, with Student's t intervals of several."""
    found = []
    for size in dict.fromkeys(row["size"] for row in sorted(rows, key=lambda r: r["parameters"])):
        same = [row for row in rows if row["size"] == size]
        told: dict[str, Any] = {"size": size, "parameters": same[0]["parameters"]}
        told["seeds"] = [row["seed"] for row in same]
        told["heads"], told["above"] = same[0]["heads"], [row["above"] for row in same]
        for name, unit in {**QUANTITIES, "control_removed": "ratio"}.items():
            values = [row[name] for row in same if math.isfinite(row[name])]
            told |= columns(name, mean_over_seeds(values, unit=unit) if values else None)
        marks = [row["midpoint"] for row in same if math.isfinite(row["midpoint"])]
        told["changed"] = len(marks)
        mean = mean_over_seeds(marks, geometric=True, unit="tokens") if marks else None
        told |= columns("midpoint", mean)
        if len(marks) == 1:  # its own interval, over sequences and snapshots
            [one] = [row for row in same if math.isfinite(row["midpoint"])]
            told |= {name: one[name] for name in ("midpoint_low", "midpoint_high")}
        found.append(told)
    return found


def trends_of(sizes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How the means change with the size."""
    parameters = [float(size["parameters"]) for size in sizes]
    found = [
        trend(parameters, [size[name] for size in sizes], quantity=name, unit=unit)
        for name, unit in QUANTITIES.items()
    ]
    return [
        {"quantity": one.quantity, **columns("slope", one.slope), "p_value": one.p_value}
        | {"n": one.slope.n}
        for one in found
    ]


def runs_in(folder: Path) -> list[TrackedRun]:
    """The runs of a folder that are tracked."""
    files = sorted(folder.glob(f"*/{TRACKED}/{TRAJECTORY}"))
    return [TrackedRun(il.tracking.Trajectory.read(file)) for file in files]


def keep(folder: Path) -> None:
    """Copy the trajectories to what ships with these pages, and the smaller models of seed 0."""
    for run in sorted(folder.glob("*-seed-*")):
        file = run / TRACKED / TRAJECTORY
        kept = KEPT / run.name
        if file.is_file():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept / TRAJECTORY)
        if run.name in WITH_WEIGHTS and (run / "model" / "card.json").is_file():
            without = shutil.ignore_patterns(TOKENIZER)  # that of toy-2l
            shutil.copytree(run / "model", kept / "model", dirs_exist_ok=True, ignore=without)


def main(folder: Path) -> None:
    """Measure all, and write the file."""
    keep(folder)
    plain = [run for run in shipped_runs() if not run.trajectory.config["smeared_keys"]]
    phase = [row_of(run) for run in plain if not run.trajectory.clamp]
    own = runs_in(folder)
    models = sorted(str(path.parent.parent) for path in folder.glob("*-seed-0/model/card.json"))
    battery = family([*models, "toy-2l"], out=folder / "battery")
    frame = battery.to_frame()
    frame["model"] = [Path(name).name for name in frame["model"]]
    by_name = frame.set_index("model")
    rows = [row_of(run) for run in own]
    for row in rows:
        if row["run"] in by_name.index and row["above"]:
            row |= {k: float(by_name.loc[row["run"], k]) for k in ("removed", "control_removed")}
    told = {
        "phase": {"runs": phase, "sizes": sizes_of(phase), "trends": trends_of(sizes_of(phase))},
        "own": {"runs": rows, "sizes": sizes_of(rows), "trends": trends_of(sizes_of(rows))},
        "battery": {
            "models": frame.to_dict("records"),
            "trends": battery.trends_frame().to_dict("records"),
        },
    }
    OUT.write_text(json.dumps(_plain(told), indent=1) + "\n", encoding="utf-8")


def _plain(told: Any) -> Any:
    """The same as JSON knows it: null for what is not a finite number."""
    if isinstance(told, dict):
        return {name: _plain(value) for name, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [_plain(value) for value in told]
    if isinstance(told, float):
        return round(told, 5) if math.isfinite(told) else None
    return told


if __name__ == "__main__":
    main(Path(sys.argv[1]))
