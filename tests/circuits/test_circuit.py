"""A whole circuit: on the hand-set one everything is known; its drawing, its page, its command."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import induction_lens as il
from induction_lens import cli
from induction_lens.circuits import Material
from induction_lens.circuits import circuit as find_circuit
from induction_lens.circuits.parts import estimated_seconds
from induction_lens.heads import Head
from induction_lens.reports.circuit import save_circuit, summary
from tests.reference_model import induction_circuit

pytestmark = pytest.mark.slow  # all share one circuit, which takes long to measure


@pytest.fixture(scope="module")
def found():
    model = induction_circuit()
    tokens = il.repeated_random_tokens(model, n_tokens=9, n_repeats=4, n_sequences=6)
    material = Material.of(model, tokens=tokens, n_texts=0)
    announced = []
    result = find_circuit(model, n_random=3, material=material, announce=announced.append)
    assert len(announced) == 1
    assert 0 < announced[0] < 600
    return result


def test_its_heads_are_found(found):
    assert found.parts.previous == (Head(0, 0),)
    assert found.parts.induction == (Head(1, 0),)


def test_its_key_edge_carries_all_and_others_nothing(found):
    shares = {str(one.edge): one.share().value for one in found.paths.edges}
    assert shares.pop("0.0 -> 1.0 (K)") == pytest.approx(1, abs=1e-4)
    assert list(shares.values()) == pytest.approx([0] * len(shares), abs=1e-4)


def test_its_patterns_are_perfect(found):
    assert [one.kind for one in found.ideal] == ["previous_token", "induction"]
    assert [one.explained.value for one in found.ideal] == pytest.approx([1, 1], abs=1e-4)


def test_it_is_enough_and_it_is_needed(found):
    assert found.alone.share().value == pytest.approx(0, abs=1e-4)
    assert found.without.share().value > 0.5
    for one in found.random_without:
        assert one.share().value == pytest.approx(0, abs=1e-4)
    for one in found.random_alone:  # without the circuit's heads, among others
        assert one.share().value == pytest.approx(found.without.share().value, abs=1e-4)


def test_the_weights_stand_beside_what_is_measured(found):
    frame = found.to_frame().set_index(["senders", "receivers", "input"])
    key, random = frame.loc[("0.0", "1.0", "k")], frame[frame["is_control"]]
    assert key["composition"] > 0.05
    assert (random["composition"].dropna() < key["composition"]).all()
    sets = found.sets_frame()
    assert sets["what"].tolist() == ["without"] * 4 + ["alone"] * 4
    assert "0.0 -> 1.0" in repr(found)


def test_the_drawing_shows_heads_and_the_edge(found):
    root = ET.fromstring(found.svg())
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"0.0", "1.0"} <= set(texts)
    titles = [element.text for element in root.iter(f"{space}title")]
    assert titles == ["0.0 -> 1.0 (K): 1.00"]
    line = next(root.iter(f"{space}line"))
    assert float(line.get("y1")) > float(line.get("y2"))  # layers go up


def test_the_page_and_its_tables(found, tmp_path):
    page = save_circuit(found, tmp_path / "out")
    text = page.read_text()
    assert "<svg" in text
    assert "0.0 -&gt; 1.0 (K)" in text
    edges = pd.read_csv(page.parent / "edges.csv")
    assert edges["prefix_share"].max() == pytest.approx(1, abs=1e-4)
    assert any("goes 100% [" in sentence for sentence in summary(found))


def test_a_report_shows_the_circuit_that_it_is_given(found, tmp_path):
    model = induction_circuit()
    text = il.repeated_random_tokens(model, n_tokens=9, n_repeats=4, n_sequences=4)
    options = dict(text=text, methods=["zero"], n_controls=0, early=5, late=30, progress=False)
    page = il.report(model, circuit=found, **options)
    html = page.to_html()
    assert "How they do it: 0.0 → 1.0" in html
    assert found.svg() in html
    assert '<th scope="row">0.0 -&gt; 1.0 (K)</th>' in html
    assert "circuit=True" in page.card["Command"]
    page.save(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "report.json").read_text())["circuit"]
    edges = pd.read_csv(tmp_path / "out" / "circuit_edges.csv")
    assert [row["prefix_share"] for row in kept["edges"]] == pytest.approx(
        edges["prefix_share"].tolist(), abs=1e-6
    )
    assert (tmp_path / "out" / "circuit.svg").read_text() == found.svg()
    with pytest.raises(ValueError, match="expected a circuit of "):
        il.report(model, circuit=dataclasses.replace(found, model="another"), **options)


def test_a_report_says_why_there_is_no_circuit():
    config = il.toys.ToyConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_vocab=61, n_ctx=101)
    model = il.toys.build_toy(config, device="cpu")
    text = il.repeated_random_tokens(model, n_sequences=2)
    options = dict(text=text, methods=["zero"], n_controls=0, progress=False)
    page = il.report(model, circuit=True, **options)
    assert page.circuit is None
    assert page.notes[-1].startswith("The induction circuit was not measured: expected a previous")
    assert "How they do it" not in page.to_html()
    assert not any("circuit" in note for note in il.report(model, **options).notes)


def test_a_model_without_one_is_refused():
    config = il.toys.ToyConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_vocab=61, n_ctx=101)
    model = il.toys.build_toy(config, device="cpu")
    material = Material.of(model, n_sequences=2, n_texts=0)
    with pytest.raises(ValueError, match="expected a previous-token head in a layer before"):
        find_circuit(model, material=material)
    named = find_circuit(model, previous="0.1", induction="1.0", n_random=1, material=material)
    assert named.parts.heads == (Head(0, 1), Head(1, 0))
    assert estimated_seconds(model, named.parts, material, n_random=1) > 0


@pytest.mark.slow
def test_the_command_prints_what_it_found(tmp_path):
    options = ["--sequences", "2", "--texts", "0", "--random", "1", "--quiet"]
    arguments = ["circuit", "toy-2l-narrow", "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "0.1 -> 1.1 (K)" in result.output
    assert (tmp_path / "out" / "index.html").is_file()
    told = CliRunner().invoke(cli.app, [*arguments, "--json"])
    edges = json.loads(told.stdout)["edges"]
    assert edges[0]["senders"] == "0.1"
    assert edges[0]["prefix_share"] > 0.9


def test_the_page_on_the_mechanism_has_the_numbers_that_were_measured():
    script = Path(__file__).parents[2] / "docs" / "scripts" / "write_arguments.py"
    spec = importlib.util.spec_from_file_location("write_arguments", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.plain_environment().get_template("mechanism.md").render()
    assert page == (module.PAGES / "mechanism.md").read_text(encoding="utf-8")
    edges = json.loads(module.MECHANISM.read_text())["toy-2l-narrow"]["edges"]
    [row] = [row for row in edges if (row["senders"], row["input"]) == ("0.1", "k")]
    assert f"0.1 → 1.1 (K) |  | {100 * row['prefix_share']:.0f}% [" in page


def test_a_large_model_runs_what_is_compared_in_bfloat16(monkeypatch):
    """What is measured of the circuit itself does not change, and a note says what does."""
    model = il.load("toy-2l-narrow", device="cpu")
    material = Material.of(model, n_sequences=8, n_texts=0)
    exact = find_circuit(model, n_random=1, material=material)
    module = importlib.import_module("induction_lens.circuits.circuit")
    monkeypatch.setattr(module, "compares_in_bfloat16", lambda model: True)
    rough = find_circuit(model, n_random=1, material=material)
    assert "bfloat16" in rough.notes[-1]
    assert not any("bfloat16" in note for note in exact.notes)
    assert [one.explained for one in rough.ideal] == [one.explained for one in exact.ideal]
    changes = [
        (one.without, one.alone, *one.random_without, *one.random_alone, *one.cuts.cuts)
        for one in (rough, exact)
    ]
    differences = {False: [], True: []}
    for ours, its in zip(*changes, strict=True):
        lost = [one.of["copying"].loss.value for one in (ours, its)]
        differences[ours.is_control].append(abs(lost[0] - lost[1]))
    assert max(differences[False]) == 0
    assert 0 < max(differences[True]) < 0.02
