"""The page on training says what its trajectories hold: on synthetic runs whose answer is known."""

import dataclasses
import json
import math
import re

import pandas as pd
import pytest
import torch
from markupsafe import escape

from induction_lens.dynamics import co_occurrence, model_order, phase_change, ratio_over_seeds
from induction_lens.estimates import Estimate, short_number
from induction_lens.reports.training import (
    TrackedRun,
    overview,
    page,
    read_run,
    sentences,
    training_report,
)
from induction_lens.reports.training.findings import find
from induction_lens.reports.training.runs import group_runs
from induction_lens.toys.model import ToyConfig
from induction_lens.tracking.final_model import write_end
from tests.dynamics.test_dynamics import X, _logistic, _measured, _trajectory

OPTIONS = {"n_resamples": 149, "progress": False}
MIDDLE, EARLY = math.log(9e6), math.log(5e6)
ENDS = {
    "knockouts": [
        {
            "method": method,
            "heads": "1.2",
            "are_induction_heads": True,
            "set": name,
            "control_heads": "" if name == "tested" else "1.0",
            "rank": 1 if name == "tested" else math.nan,
            **{"clean": -0.4, "clean_low": -0.5, "clean_high": -0.3},
            **{"ablated": -0.1, "ablated_low": -0.2, "ablated_high": 0.0},
            **{"effect": effect, "effect_low": effect - 0.1, "effect_high": effect + 0.1},
        }
        for method in ("zero", "pattern-preserving")
        for name, effect in (("tested", 0.3), ("control", -0.02))
    ],
    "ngrams": [
        {"tokens": kind, "predictor": name, "loss": 2.5, "low": 2.25, "high": 2.75, "n": 9}
        for kind in ("text", "shuffled", "repeated")
        for name in ("bigram", "trigram", "model", "model without heads")
    ],
}


def _run(middle, *, seed=0, smeared=False, n_layers=2, clamp=(), name="run"):
    """A run whose ICL score falls by 0.4 around `middle`, induction just before; None: neither."""
    generator = torch.Generator().manual_seed(seed)
    curve = 0 * X if middle is None else _logistic(middle, 0.1, -0.4)(X)
    rising = 0 * X if middle is None else _logistic(middle - 0.05, 0.1, 0.8)(X)
    run = _trajectory(
        _measured(curve, generator, noise=0.01),
        _measured(rising, generator, noise=0.01, n=13),
        seed=seed,
        name=f"{name}-{seed}",
    )
    config = ToyConfig(n_layers=n_layers, smeared_keys=smeared, seed=seed)
    slope = torch.linspace(0, 0.05 * n_layers + 0.01 * seed, len(run.steps))
    falling = 7 - slope[:, None] * torch.arange(19)
    tokens = torch.randn(len(run.steps), 7, generator=generator).cumsum(0)
    return dataclasses.replace(
        run,
        config=config.to_dict(),
        effects={"pattern-preserving": run.scores["induction"] / 2},
        loss_by_position=falling,
        token_losses=tokens,
        smear=run.scores["induction"] if smeared else None,
        clamp=clamp,
    )


@pytest.fixture(scope="module")
def runs():
    plain = [_run(MIDDLE, seed=seed, name="plain") for seed in (0, 1)]
    smeared = _run(EARLY, seed=2, smeared=True, name="smeared")
    return [smeared, *plain, _run(None, n_layers=1, name="one")]


@pytest.fixture(scope="module")
def report(runs):
    return training_report(runs, **OPTIONS)


def test_seeds_are_taken_together_and_plain_models_come_first(report):
    assert [model.label for model in report.models] == [
        "1 layer",
        "2 layers",
        "2 layers, smeared keys",
    ]
    assert [run.name for run in report.models[1].model.trajectories] == ["plain-0", "plain-1"]


def test_models_of_several_widths_are_told_apart(runs):
    wide = [
        dataclasses.replace(run, config={**run.config, "d_model": 256}, name=f"wide {run.name}")
        for run in (runs[0], runs[1])
    ]
    groups = group_runs(map(TrackedRun, [*wide, *runs]))
    assert {group.label: [run.name for run in group.trajectories] for group in groups} == {
        "1 layer": ["one-0"],
        "2 layers": ["plain-0", "plain-1"],
        "2 layers, d_model 256": ["wide plain-0"],
        "2 layers, smeared keys": ["smeared-2"],
        "2 layers, smeared keys, d_model 256": ["wide smeared-2"],
    }
    [alone] = group_runs([TrackedRun(wide[0])])
    assert alone.label == "2 layers, smeared keys"  # nothing to tell it apart from


def test_changes_are_those_of_the_analyses(report, runs):
    smeared, *plain, one = runs
    found = {model.label: model for model in report.models}
    expected = phase_change(plain, of="icl", n_resamples=149)
    assert str(found["2 layers"].icl_change) == str(expected)
    assert found["2 layers"].icl_change.midpoint.value == pytest.approx(9e6, rel=0.05)
    assert not found["1 layer"].icl_change.found
    together = co_occurrence(smeared, n_resamples=149)
    assert found["2 layers, smeared keys"].together[0].lag == together.lag
    frame = report.models_frame().set_index("model")
    assert frame.loc["2 layers", "seeds"] == 2
    assert frame.loc["2 layers", "icl"] == pytest.approx(
        torch.stack([run.icl[-1] for run in plain]).mean().item(), abs=1e-6
    )
    assert frame.loc["2 layers", "icl_midpoint"] == expected.midpoint.value
    assert frame.loc["2 layers", "held_out_loss"] == 0.0
    assert math.isnan(frame.loc["1 layer", "icl_midpoint"])
    by_run = report.runs_frame().set_index(["model", "seed"])
    assert by_run.loc[("2 layers, smeared keys", 2), "lag"] == together.lag.value
    assert by_run.loc[("2 layers, smeared keys", 2), "correlation"] == together.correlation
    assert by_run.loc[("2 layers", 1), "head"] == "1.2"
    assert list(report.by_label("1 layer").model.runs) == [TrackedRun(one)]
    with pytest.raises(ValueError, match="expected a model of this page, one of 1 layer; 2 layers"):
        report.by_label("9 layers")


def test_a_smeared_model_is_set_beside_the_same_model_without(report):
    [pair] = report.smearings
    assert (pair.plain.label, pair.smeared.label) == ("2 layers", "2 layers, smeared keys")
    ratio = pair.smeared.icl_change.midpoint.value / pair.plain.icl_change.midpoint.value
    assert pair.ratio.value == pytest.approx(ratio)
    assert ratio == pytest.approx(5 / 9, rel=0.05)
    assert pair.apart
    assert pair.smeared.icl_change.midpoint.high < pair.plain.icl_change.midpoint.low
    sentence = sentences.smearing_sentence(pair)
    assert f"The ratio of the midpoints is {ratio:.2f} [" in sentence
    assert sentence.endswith("] (over seeds), which is below 1.")
    assert pair.ratio == ratio_over_seeds(
        pair.smeared.icl_change.seed_midpoints, pair.plain.icl_change.seed_midpoints
    )
    onset, middle = pair.smeared.icl_change.onset, pair.smeared.icl_change.midpoint
    assert (
        f"with smeared keys the change begins at {onset} tokens and is halfway at {middle};"
        in sentence
    )
    unsure = dataclasses.replace(pair, ratio=Estimate(0.8, 0.6, 1.1, unit="ratio"))
    assert not unsure.apart
    assert sentences.smearing_sentence(unsure).endswith("which may be 1.")
    never = dataclasses.replace(pair, smeared=report.models[0])
    assert sentences.smearing_sentence(never) == (
        "2 layers: no phase change with smeared keys, so smearing brought none about."
    )
    born = dataclasses.replace(pair, plain=report.models[0])
    assert sentences.smearing_sentence(born).startswith(
        "1 layer: no phase change with plain keys; with smeared keys the change begins at "
    )


def test_a_clamped_run_is_a_model_of_its_own(runs):
    clamp = ({"heads": ["0.1"], "k_composition": True, "start": 0, "end": 800},)
    clamped = _run(MIDDLE, seed=0, clamp=clamp, name="clamped")
    found = find([TrackedRun(run) for run in (clamped, *runs[1:3])], n_resamples=149)
    assert [model.label for model in found.models] == [
        "2 layers",
        "2 layers, K-composition cut and 0.1 at zero until step 800",
    ]
    assert found.smearings == ()


def test_orders_are_those_at_five_per_cent_and_at_the_end(report, runs):
    last = float(runs[0].tokens_seen[-1])
    assert report.moments == (0.05 * last, last)
    firsts = [runs[3], runs[1], runs[0]]
    for order in report.orders:
        before, after = report.moments
        expected = model_order(firsts, 18, by=order.by, before=before, after=after)
        assert order == expected


def test_knock_outs_are_shares_of_the_clean_score(runs):
    found = find([TrackedRun(runs[1], ENDS), TrackedRun(runs[2])], n_resamples=149)
    frame = found.knockouts_frame()
    assert len(frame) == 4
    assert frame["removed"].tolist() == pytest.approx([0.75, -0.05] * 2)
    assert set(frame["model"]) == {"2 layers"}
    assert sentences.knockout_sentence(found) == (
        "Share of the final ICL score that goes with the induction heads (pattern-preserving), for "
        "each seed: 2 layers 75%."
    )
    assert len(found.ngrams_frame()) == 12


def test_the_page_holds_every_number_and_figure(runs, tmp_path):
    for index, run in enumerate(runs):
        run.save(tmp_path / f"run-{index}" / "tracked" / "trajectory.parquet")
    write_end(ENDS, tmp_path / "run-1" / "tracked")
    folders = [tmp_path / f"run-{index}" for index in range(4)]
    report = training_report(folders, **OPTIONS)
    page = report.save(tmp_path / "page")
    text = page.read_text()
    ids = re.findall(r'data-figure="([^"]+)"', text)
    panels = {"induction", "effects", "losses", "derivative"}
    assert set(ids) == {"icl", "windows", "pca", "smear"} | panels
    assert len(ids) == len(set(ids))
    for name in panels:  # a panel for each model
        assert report.plot(name).layout.meta["grid"]["n"] == 3
    assert report.plot("smear").layout.meta["grid"]["n"] == 1
    with pytest.raises(ValueError, match="expected runs with what 'matching' shows, got none"):
        report.plot("matching")
    for id, _, sentence in overview.findings(report):
        assert f'<li>{escape(sentence)} <a href="#{id}">' in text
        assert f'id="{id}"' in text
    for figure in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S):
        assert json.loads(figure)["data"] or "annotations" in json.loads(figure)["layout"]
    for change in (model.icl_change for model in report.models):
        shown = sentences.interval(change.midpoint) if change.found else sentences.window(change)
        assert f"<td>{shown}</td>" in text
    assert "<td>−0.40 [−0.50, −0.30]</td><td>−0.10 [−0.20, 0.00]</td>" in text
    assert "<td>75%</td><td>−0.02 [−0.12, +0.08]</td><td>1 of 2</td>" in text
    assert "<td>2.50 [2.25, 2.75]</td>" in text
    assert report.headline in text
    files = {path.name for path in page.parent.iterdir()}
    assert files == {
        "index.html",
        *(f"{name}.csv" for name in ("models", "runs", "snapshots", "knockouts", "ngrams")),
    }
    snapshots = pd.read_csv(page.parent / "snapshots.csv")
    assert len(snapshots) == sum(len(run.steps) for run in runs)
    own = snapshots[snapshots["run"] == "smeared-2"]
    assert own["icl"].tolist() == pytest.approx(runs[0].icl.double().mean(1).tolist())
    assert report.summary == "\n\n".join(sentences.summary(report))
    assert report._repr_html_().startswith("<iframe srcdoc=")
    with pytest.raises(ValueError, match="expected a folder to write to, got the file"):
        report.save(page)


def test_edges_are_shown_where_they_were_measured(runs, tmp_path):
    plain = training_report(runs[:1], **OPTIONS)
    assert page.PANELS["composition"] not in plain.to_html()
    assert plain.edges_frame().empty
    shape = runs[0].scores["induction"].shape
    edges = {
        name: torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for name in ("k_composition", "k_z", "matching")
    }
    edges["k_from"] = torch.zeros(shape)
    for values in edges.values():
        values[:, 0] = math.nan
    shown = training_report([dataclasses.replace(runs[0], edges=edges)], **OPTIONS)
    assert page.PANELS["composition"] in shown.to_html()
    shown.save(tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "edges.csv")
    assert len(table) == shape[0] * (shape[1] - 1) * shape[2]
    assert table["k_composition"].tolist() == pytest.approx(
        edges["k_composition"][:, 1:].flatten().tolist()
    )


def test_names_from_outside_cannot_become_markup(runs):
    run = dataclasses.replace(runs[1], name="<b>run</b>")
    page = training_report([run], **OPTIONS).to_html()
    assert "<b>run</b>" not in page


def test_one_model_has_a_page_of_its_own(runs):
    changed, never = (training_report(run, **OPTIONS) for run in (runs[1], runs[3]))
    correlation = co_occurrence(runs[1], n_resamples=149).correlation
    assert "In the one run with both, the midpoints" in changed.summary
    assert f"a rank correlation of {sentences.number(correlation)}." in changed.summary
    assert changed.headline == "2 layers: in-context learning appears abruptly"
    assert never.headline == "1 layer: in-context learning does not appear abruptly"
    assert never.summary.startswith("1 layer: no phase change (")
    assert changed.orders == ()
    assert "Argument 2" not in changed.to_html()
    nothing = "No run changes in both, so there is nothing to compare."
    assert nothing in never.to_html()
    assert nothing not in changed.to_html()
    assert repr(never) == f"TrainingReport: {never.headline}\n\n{never.summary}"
    score = f"mean loss at position {runs[1].late} minus that at {runs[1].early}"
    window = f", ±{runs[1].window}" if runs[1].window else ""
    assert sentences.captions(changed)["icl"].startswith(f"ICL score: {score}{window}, on held-out")


def test_many_models_are_named_in_short(runs):
    smeared, plain, _, one = runs
    deep = [_run(MIDDLE, n_layers=n, name="deep") for n in (3, 4)]
    found = find([TrackedRun(run) for run in (smeared, plain, one, *deep)], n_resamples=149)
    halfway = {m.label: short_number(m.icl_change.midpoint.value) for m in found.models[1:]}
    assert list(halfway) == ["2 layers", "3 layers", "4 layers", "2 layers, smeared keys"]
    listed = "; ".join(f"{label} (halfway at {middle})" for label, middle in halfway.items())
    [never] = [m.icl_change for m in found.models if not m.icl_change.found]
    assert sentences.argument(found, 1).startswith(
        f"The ICL score falls abruptly in: {listed}. It does not, as far as can be told, in: "
        f"1 layer (p = {never.p_value:.2g}). In all 4 runs with both, "
    )


def test_runs_whose_changes_are_far_apart_are_named(runs):
    found = find([TrackedRun(run) for run in runs[:3]], n_resamples=149)
    [plain, smeared] = found.models
    far = dataclasses.replace(smeared.together[0], ratio=Estimate(0.4, 0.3, 0.5, unit="ratio"))
    apart = dataclasses.replace(smeared, together=(far,))
    text = sentences.together_sentence(dataclasses.replace(found, models=(plain, apart)))
    assert text.startswith("In 2 of the 3 runs with both, the midpoints")
    assert "within 25% of each other (2 layers, smeared keys, seed 2: 60%), and inside" in text
    text = sentences.together_sentence(dataclasses.replace(found, models=(apart,)))
    assert text.startswith("In the one run with both, the midpoints")
    assert "within 60% of each other, and inside" in text


def test_runs_left_out_of_a_table_are_named(runs):
    late = dataclasses.replace(runs[3], config=runs[2].config, seed=1, name="late")
    found = find([TrackedRun(run) for run in (runs[1], late)], n_resamples=149)
    rows = page.together_table(found).rows
    assert [row[:2] for row in rows] == [("2 layers", "0")]
    text = sentences.captions(found)["together"]
    assert text.endswith(" Left out, without both changes by itself: 2 layers, seed 1.")
    panel = page.panel("losses", found)
    assert [note.text for note in panel.drawn.layout.annotations] == [
        "2 layers, seed\N{NO-BREAK SPACE}0"
    ]


def test_models_measured_on_other_tokens_are_left_out_where_tokens_are_paired(runs):
    smeared, plain, _, one = (dataclasses.replace(run, evaluation="ours") for run in runs)
    other = dataclasses.replace(plain, evaluation="theirs", icl=plain.icl[:, :5])
    found = find([TrackedRun(run) for run in (one, other, smeared)], n_resamples=149)
    compared = ["1 layer", "2 layers, smeared keys"]
    assert [model.label for model in found.models] == [compared[0], "2 layers", compared[1]]
    assert [model.label for model in found.compared] == compared
    assert found.pca.names == (one.name, smeared.name)
    assert [order.names for order in found.orders] == [(one.name, smeared.name)] * 2
    assert [row[0] for row in page.orders_table(found).rows] == compared
    drawn = [json.loads(page.shared_figure(name, found).json)["data"] for name in ("pca", "icl")]
    paths, curves = ({t["name"]: t["line"] | {"width": 0} for t in data} for data in drawn)
    assert paths == {model: curves[model] for model in compared}
    alone = find([TrackedRun(other)], n_resamples=149)
    assert str(found.by_label("2 layers").icl_change) == str(alone.models[0].icl_change)
    texts, own = sentences.captions(found), sentences.captions(alone)
    assert {name for name in texts if texts[name] != own[name]} == {
        "pca",
        "orders",
        "models",
        "windows",
    }
    assert texts["pca"].endswith(" Left out, as measured on other tokens: 2 layers.")
    assert own["pca"] == sentences.CAPTIONS["pca"]
    card = dict(sentences.card(found))
    assert card["Held-out text of 2 layers"].startswith("5 sequences of 19 tokens, 7 of them")
    assert card["Held-out text of 1 layer; 2 layers, smeared keys"].endswith("SHA-256 ours")
    assert "Held-out text" in dict(sentences.card(alone))


def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="expected at least one run, got none"):
        training_report([], **OPTIONS)
    with pytest.raises(ValueError, match="2 layers with seeds 0, 0"):
        training_report([runs[1], runs[1]], **OPTIONS)
    with pytest.raises(ValueError, match=r"measured on the same text, got 'plain-0', 'plain-1'"):
        training_report([runs[1], dataclasses.replace(runs[2], evaluation="other")], **OPTIONS)
    with pytest.raises(ValueError, match=r"expected a run, got .*nowhere, which does not exist"):
        read_run(tmp_path / "nowhere")
