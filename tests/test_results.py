"""What is saved comes back equal, says where it is from, and is refused where it was touched."""

import dataclasses
import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import induction_lens as il
from induction_lens import models, results, seals
from induction_lens.models.provenance import known_weights_hash
from induction_lens.packing import pack, same, unpack
from induction_lens.toys import ToyConfig, build_toy

OPTIONS = {"early": 20, "late": 60}


def two_back(tokens):
    n_rows, n_pos = tokens.shape
    row = torch.arange(n_rows).repeat_interleave(n_pos - 3)
    query = torch.arange(3, n_pos).repeat(n_rows)
    return row, query, query - 2


@pytest.fixture(scope="module")
def model():
    return il.load("toy-2l-narrow", device="cpu")


@pytest.fixture(scope="module")
def tokens(model):
    return il.repeated_random_tokens(model, n_sequences=16)


class Made(dict):
    """A result of every kind, by the name of its class, made when it is asked for."""

    def __init__(self, model, tokens):
        super().__init__()
        self.model, self.tokens = model, tokens
        self.own = il.detectors.AttentionDetector("two_back", two_back, by_content=False)
        self.task = il.tasks.letter_pattern("ABAB")

    def __missing__(self, kind):
        self[kind] = getattr(self, f"make_{kind}")()
        return self[kind]

    def make_ScoreTable(self):
        return il.score_heads(self.model, detectors=["induction", "copying", self.own])

    def make_HeadScores(self):
        return il.ablate_each_head(self.model, self.tokens[:4], **OPTIONS)

    def make_AblationStudy(self):
        return il.ablate(self.model, "1.1", self.tokens[:4], n_controls=2, **OPTIONS)

    def make_FewShot(self):
        return il.tasks.few_shot(self.model, self.task, shots=2, heads="1.1", n_items=8)

    def make_Dissociation(self):
        extent = il.tasks.Extent(n_items=8, shots=2, n_controls=1, n_texts=8)
        kinds, methods = ["induction"], ["mean"]
        return il.tasks.dissociate(
            self.model, self.task, kinds=kinds, methods=methods, extent=extent
        )

    def make_Circuit(self):
        material = il.circuits.Material.of(self.model, n_sequences=4, n_texts=8)
        return il.circuits.circuit(self.model, n_random=1, material=material)

    def make_Report(self):
        return il.report(
            self.model,
            text=self.tokens,
            methods=["mean"],
            n_controls=2,
            detectors=[self.own],
            progress=False,
            **OPTIONS,
        )


@pytest.fixture(scope="module")
def found(model, tokens):
    return Made(model, tokens)


KINDS = [
    *("ScoreTable", "HeadScores", "AblationStudy", "FewShot", "Report"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("Dissociation", "Circuit")),
]


@pytest.fixture
def saved(found, tmp_path):
    """A saved table of scores."""
    found["ScoreTable"].save(tmp_path / "scores")
    return tmp_path / "scores"


def resealed(file, change):
    """Change what a file says, and give it a seal that fits."""
    content = json.loads(file.read_text())
    content = {name: part for name, part in content.items() if name not in ("sealed", "seal")}
    change(content)
    seals.write_json(file, content)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_comes_back_equal(found, kind, tmp_path):
    result = found[kind]
    result.save(tmp_path / "kept")
    again = type(result).load(tmp_path / "kept")
    assert type(again) is type(result)
    assert again == result
    assert hash(again) == hash(result)
    assert again.provenance == result.provenance
    assert il.results.load(tmp_path / "kept") == result
    assert repr(again) == repr(result)
    assert again.to_dict() == result.to_dict()
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    if hasattr(result, "plot"):
        assert again.plot() == result.plot()


def test_a_loaded_study_and_report_work_on(found, tmp_path):
    study, report = found["AblationStudy"], found["Report"]
    study.save(tmp_path / "study")
    report.save(tmp_path / "report")
    assert il.AblationStudy.load(tmp_path / "study").at(window=5) == study.at(window=5)
    again = il.Report.load(tmp_path / "report")
    assert again.to_html() == report.to_html()
    first = report.save(tmp_path / "report").read_text()
    for path in (again.save(tmp_path / "again"), again.save(tmp_path / "report")):
        assert path.read_text() == first
    pages = [(tmp_path / name / "attention.html").read_text() for name in ("report", "again")]
    assert pages[0] == pages[1]
    with pytest.raises(ValueError, match="expected the function of the detector two_back"):
        again.own_detectors[0].find(torch.ones(1, 5, dtype=torch.long))


def test_a_run_is_loaded_as_other_results(tmp_path):
    run = il.tracking.Trajectory.read(seals.DATA / "runs" / "phase-1l-seed-0")
    run.save(tmp_path / "trajectory.parquet")
    assert il.tracking.Trajectory.load(tmp_path).name == run.name


def test_other_programs_read_the_tables(found, saved):
    frame = pd.read_parquet(saved / "layer-head.parquet")
    values = found["ScoreTable"]["induction"].values
    for row in frame.itertuples(index=False):
        expected = values[row.layer, row.head].item()
        assert frame["scores.induction.values"][row.layer * 4 + row.head] == expected
    told = json.loads((saved / "result.json").read_text())
    assert told["format"] == 1
    assert told["kind"] == "ScoreTable"


def test_three_axes_lie_in_the_table_by_their_places(tmp_path):
    study = il.AblationStudy(
        **{
            **dict.fromkeys(("documents", "short_losses", "rank")),
            **dict.fromkeys(("clean", "ablated", "effect"), il.Estimate(math.nan, -math.inf, 0.1)),
            **{"heads": (il.Head(0, 1),), "method": "mean", "estimator": "paper"},
            **{"early": 1, "late": 2, "window": 0, "controls": (), "control_heads": ()},
            "clean_losses": torch.rand(3, 5),
            "ablated_losses": torch.rand(3, 5),
            "control_losses": torch.rand(2, 3, 5),
        }
    )
    study.save(tmp_path / "study")
    frame = pd.read_parquet(tmp_path / "study" / "control-batch-pos.parquet")
    for control, batch, pos, loss in frame.itertuples(index=False):
        assert study.control_losses[control, batch, pos].item() == np.float32(loss)
    again = il.AblationStudy.load(tmp_path / "study")
    assert again == study
    assert math.isnan(again.clean.value)
    assert again.clean.low == -math.inf


@pytest.mark.parametrize(
    "values",
    [
        torch.rand(3, 0),
        torch.tensor([1.5, math.nan, math.inf], dtype=torch.float64),
        torch.tensor([[True, False]]),
        torch.tensor(7, dtype=torch.int32),
        torch.rand(2, 3).bfloat16(),
        torch.rand(2, 3).half(),
        torch.tensor([2**62 + 1]),
    ],
    ids=lambda values: f"{values.dtype} {list(values.shape)}",
)
def test_every_kind_of_number_comes_back_as_it_is(values, tmp_path):
    class Held(results.Result):
        provenance = None

    held = dataclasses.make_dataclass(
        "Held", [("values", torch.Tensor)], bases=(Held,), frozen=True, eq=False
    )(values)
    held.save(tmp_path / "held")
    again = type(held).load(tmp_path / "held")
    assert again.values.dtype == values.dtype
    assert again.values.shape == values.shape
    assert again == held
    if values.numel():
        other = values.clone().flatten()
        other[-1] = ~other[-1] if values.dtype == torch.bool else other[-1] + 1
        if not values.isinf().any():
            assert type(held)(other.view(values.shape)) != held


def test_equality_is_of_all_that_was_measured(found):
    scores = found["HeadScores"]
    moved = scores.values.clone()
    moved[0, 0] = torch.nextafter(moved[0, 0], torch.tensor(9.0))
    assert dataclasses.replace(scores, values=scores.values.clone()) == scores
    assert dataclasses.replace(scores, values=moved) != scores
    assert dataclasses.replace(scores, sem=None) != scores
    assert dataclasses.replace(scores, name="other") != scores
    assert dataclasses.replace(scores, provenance=None) == scores
    assert scores != "scores"
    unknown = il.HeadScores("a", torch.full((1, 2), torch.nan))
    assert unknown == il.HeadScores("a", torch.full((1, 2), torch.nan))
    assert unknown != il.HeadScores("a", torch.tensor([[torch.nan, 0.0]]))
    assert il.ScoreTable({"a": unknown}) != il.ScoreTable({"b": unknown})


def test_lists_texts_and_keys_of_any_kind_come_back():
    tree = {"a": [1, (2, "x")], ("b", 1): {"c": None}, "d": np.float64(0.5), "e": True}
    packed = pack(tree)
    again = unpack(json.loads(json.dumps(packed.tree)), packed.tensors)
    assert same(again, tree)
    assert list(again) == list(tree)
    with pytest.raises(
        ValueError, match=r"expected a to be something that can be saved, got \{1, 2\}"
    ):
        pack({"a": {1, 2}})


@pytest.mark.parametrize("kind", KINDS)
def test_to_dict_is_json_that_people_read(found, kind):
    told = found[kind].to_dict()
    text = json.dumps(told, allow_nan=False)
    assert "clean_losses" not in text
    assert told["provenance"]["model"] == "toy-2l-narrow"
    assert found[kind].to_frame()["model"].unique().tolist() == ["toy-2l-narrow"]


def test_numbers_say_where_they_come_from(model, found, tokens):
    digest = hashlib.sha256()
    for name, weight in sorted(models.toy_weights(model).items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().numpy().tobytes())
    of = found["AblationStudy"].provenance
    read = hashlib.sha256(b"(4, 101)" + tokens[:4].numpy().tobytes())
    assert of.weights == digest.hexdigest()
    assert of.text == read.hexdigest()
    assert of.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert set(of.versions) == {"induction_lens", "torch", "transformer-lens", "transformers"}
    assert of.altered is None
    assert found["HeadScores"].provenance == of
    assert found["Report"].provenance.text != of.text
    assert found["ScoreTable"]["induction"].provenance == found["ScoreTable"].provenance


def test_padding_is_no_part_of_what_was_read(model, tokens):
    short = tokens[:2, :9]
    mask = torch.tensor([[1] * 9, [0] * 2 + [1] * 7])
    left = il.score_heads(model, tokens=short, mask=mask, detectors="induction")
    right = torch.cat([short[1:, 2:], torch.full((1, 2), 5)], 1)
    both = torch.cat([short[:1], right])
    mask = torch.tensor([[1] * 9, [1] * 7 + [0] * 2])
    again = il.score_heads(model, tokens=both, mask=mask, detectors="induction")
    assert left.provenance.text == again.provenance.text
    assert left == again
    whole = il.score_heads(model, tokens=both, mask=torch.ones_like(mask), detectors="induction")
    assert whole.provenance.text != left.provenance.text


def test_what_acts_beside_the_weights_is_told(model, tokens):
    with il.knocked_out(model, "0.1", method="zero"):
        scores = il.score_heads(model, tokens=tokens[:2], detectors="induction")
    assert scores.provenance.altered.startswith("there is a hook on blocks.0.attn.")
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    try:
        scores = il.score_heads(model, tokens=tokens[:2], detectors="induction")
    finally:
        model.reset_hooks()
    # bridges have another name for the same place
    assert scores.provenance.altered.startswith("there is a hook on blocks.0.hook_")


def test_weights_of_large_models_are_hashed_again_where_they_changed(model, monkeypatch):
    from induction_lens.models import provenance

    times = []
    monkeypatch.setattr(provenance, "_EXACT", 0)
    hashed = provenance.weights_hash
    monkeypatch.setattr(provenance, "weights_hash", lambda m: times.append(1) or hashed(m))
    first = known_weights_hash(model)
    assert known_weights_hash(model) == first == hashed(model)
    assert len(times) == 1
    weight = next(p for p in model.parameters() if p.ndim >= 2)
    rows = weight.data.view(-1, weight.shape[-1])[0]
    before = rows[:2].clone()
    rows[:2] = before.flip(0)  # by .data, which no counter of torch sees
    assert known_weights_hash(model) != first
    rows[:2] = before
    assert known_weights_hash(model) == first
    with torch.no_grad():
        weight.mul_(1)
    assert known_weights_hash(model) == first
    assert len(times) == 4


def test_weights_made_for_inference_are_hashed_too(monkeypatch):
    monkeypatch.setattr("induction_lens.models.provenance._EXACT", 0)
    config = ToyConfig(n_layers=1, d_model=24, n_heads=3, d_head=8, d_vocab=31, n_ctx=16)
    usual = build_toy(config, device="cpu")
    with torch.inference_mode():
        model = build_toy(config, device="cpu")
    assert known_weights_hash(model) == known_weights_hash(usual)
    assert il.score_heads(model, detectors=["copying_weights"]).provenance.weights is not None


def test_tables_of_others_in_its_folder_are_not_replaced(found, tmp_path):
    found["HeadScores"].save(tmp_path / "kept")
    (tmp_path / "kept" / "mine.parquet").write_text("mine")
    with pytest.raises(ValueError, match=r"a new folder or one of a saved result.*mine\.parquet"):
        found["HeadScores"].save(tmp_path / "kept")
    assert (tmp_path / "kept" / "mine.parquet").read_text() == "mine"


def test_only_a_saved_result_is_replaced(found, saved, tmp_path):
    scores = found["ScoreTable"]
    scores.save(saved)
    assert il.ScoreTable.load(saved) == scores
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"which holds thesis\.tex; name another folder, such as"):
        scores.save(mine)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (saved / "notes.txt").write_text("mine too")
    with pytest.raises(ValueError, match=r"which holds notes\.txt"):
        scores.save(saved)
    with pytest.raises(ValueError, match=r"so leave \.json out"):
        scores.save(tmp_path / "scores.json")
    with pytest.raises(ValueError, match="expected a folder to write to, got the file"):
        scores.save(mine / "thesis.tex")


def test_an_interrupted_save_leaves_the_old_result(found, saved, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    monkeypatch.setattr(results, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found["HeadScores"].save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [file.name for file in saved.parent.iterdir()] == ["scores"]


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _cut(file):
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (lambda at: _flip(at / "result.json"), "damaged or was edited"),
        (lambda at: _cut(at / "result.json"), "damaged or was edited"),
        (lambda at: _flip(at / "layer-head.parquet"), "the table layer-head.parquet was altered"),
        (lambda at: _cut(at / "layer-head.parquet"), "the table layer-head.parquet was altered"),
        (lambda at: (at / "layer-head.parquet").unlink(), "layer-head.parquet is missing"),
        (lambda at: (at / "result.json").unlink(), "without a result.json"),
        (lambda at: (at / "result.json").write_text('{"a": 1}'), "of another program"),
        (lambda at: (at / "result.json").write_text(""), "of another program"),
        (
            lambda at: resealed(at / "result.json", lambda told: told.update(format=2)),
            "got format 2, which a newer induction_lens wrote; upgrade",
        ),
        (
            lambda at: resealed(
                at / "result.json", lambda told: told["result"].update(type="Popen")
            ),
            "it names 'Popen', which is no kind of result",
        ),
        (
            lambda at: resealed(at / "result.json", lambda told: told.update(tables={})),
            "which is not there",
        ),
        (
            lambda at: resealed(at / "result.json", lambda told: told["result"]["fields"].clear()),
            "which is damaged",
        ),
        (lambda at: resealed(at / "result.json", dict.clear), "another JSON file"),
    ],
)
def test_what_was_touched_is_refused_in_one_line(saved, touch, said):
    touch(saved)
    with pytest.raises(ValueError, match="expected") as refused:
        il.ScoreTable.load(saved)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_other_kinds_and_other_places_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match=r"expected an AblationStudy in .*, got a ScoreTable"):
        il.AblationStudy.load(saved)
    with pytest.raises(ValueError, match="which does not exist; write one with save"):
        il.Report.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected path to be the path of a file or folder"):
        results.load("")


@pytest.mark.slow
def test_another_process_reads_it_and_runs_nothing(saved):
    script = f"import induction_lens as il; print(il.results.load({str(saved)!r}))"
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("ScoreTable\n")
    assert not list(saved.glob("*.pkl"))


def test_an_estimate_is_short_in_notebooks():
    class Printer:
        said = ""

        def text(self, said):
            self.said += said

    printer = Printer()
    il.Estimate(0.42, 0.31, 0.55, n=64)._repr_pretty_(printer, cycle=False)
    assert printer.said == "+0.420 [+0.310, +0.550] nats"
