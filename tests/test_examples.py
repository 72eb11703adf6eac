"""The examples and the README's Python run, and print what the API says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import induction_lens as il
from induction_lens.detectors.scoring import prompts

ROOT = Path(__file__).parents[1]


def run_example(name, folder):
    """What `examples/NAME.py --quick` prints, run in a folder of its own."""
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", "--quick"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_examples_are_short():
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")
    }
    assert len(lengths) == 7
    assert {name: n for name, n in lengths.items() if n >= 60} == {}
    assert lengths["own_detector.py"] < 40


@pytest.mark.slow
def test_own_task_prints_what_the_api_gives(tmp_path):
    printed = run_example("own_task", tmp_path)
    words = ["red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "rose"]
    task = il.tasks.Task.from_pairs(
        "repeat", dict(zip(words, words, strict=True)), template="{prompt} {answer}\n"
    )
    found = il.tasks.few_shot(il.load("toy-2l"), task, shots=4, n_items=4, heads="1.6")
    assert f"accuracy {found.accuracy}, without 1.6 {found.without}" in printed
    assert f"chance {found.chance:.2f}" in printed


@pytest.mark.slow
def test_find_heads_prints_the_scores_of_the_api(tmp_path):
    printed = run_example("find_heads", tmp_path)
    model = il.load("toy-2l")
    table = il.score_heads(model, tokens=il.repeated_random_tokens(model, n_sequences=8))
    for name in ("previous_token", "induction"):
        section = printed.split(f"{name}: ")[1]
        lines = re.findall(r"^  (\d+\.\d+)  (-?\d\.\d+)  .*: (yes|no)$", section, re.MULTILINE)[:5]
        top = table[name].top(5)
        assert [head for head, _, _ in lines] == [str(head) for head, _ in top]
        assert [float(score) for _, score, _ in lines] == pytest.approx(
            [score for _, score in top], abs=2e-4
        )
        above = {str(head) for head in table[name].above(0.3)}
        assert {head for head, _, verdict in lines if verdict == "yes"} == above
    [strongest, *_] = table["induction"].above(0.3)
    [by_activations, by_weights] = re.findall(
        rf"head {strongest}: .* ([+-]\S+) by .* ([+-]\S+) by", printed
    )[0]
    assert float(by_activations) == pytest.approx(table["copying"][strongest], abs=2e-4)
    assert float(by_weights) == pytest.approx(table["copying_weights"][strongest], abs=2e-4)


def _late_losses_with_much_and_little_before(model, text):
    """The mean loss around position 500, and that of the same tokens with 50 before them."""
    short = torch.cat([text[:, :1], text[:, 451:511]], dim=1)  # position 500 is at 50 there
    long_losses, short_losses = (il.per_token_loss(model, tokens) for tokens in (text, short))
    return long_losses[:, 490:511].mean(), short_losses[:, 40:61].mean()


@pytest.mark.slow
def test_knock_out_prints_the_effect_that_plain_averages_give(tmp_path):
    printed = run_example("knock_out", tmp_path)
    model = il.load("toy-2l")
    heads = il.score_heads(model)["induction"].above(0.3)
    text = il.text_tokens(model, n_sequences=16)
    clean = _late_losses_with_much_and_little_before(model, text)
    for method in ("mean", "zero"):
        with il.knocked_out(model, heads, method=method, reference=text):
            without = _late_losses_with_much_and_little_before(model, text)
        effect = (without[0] - clean[0]) - (without[1] - clean[1])
        found = re.search(rf"^{method}: .*\n  effect ([+-]\d\.\d+) \[", printed, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == pytest.approx(float(effect), abs=2e-3)


@pytest.mark.slow
def test_own_ablation_halves_what_a_head_writes(tmp_path):
    printed = run_example("own_ablation", tmp_path)
    model = il.load("toy-2l")
    text = il.text_tokens(model, n_sequences=16)
    clean = _late_losses_with_much_and_little_before(model, text)

    def halve(z, hook):
        z[:, :, 6] /= 2

    model.add_hook("blocks.1.attn.hook_z", halve)
    halved = _late_losses_with_much_and_little_before(model, text)
    effect = (halved[0] - clean[0]) - (halved[1] - clean[1])
    found = re.search(r"changes the ICL score by ([+-]?\d\.\d+) \[", printed)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(effect), abs=2e-3)
    page = (tmp_path / "own-ablation-report" / "index.html").read_text()
    assert "halve" in page


@pytest.mark.slow
def test_own_detector_prints_the_attention_two_back_and_shows_it_on_the_page(tmp_path):
    printed = run_example("own_detector", tmp_path)
    model = il.load("toy-2l")
    tokens = prompts(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    back = {}  # by how many tokens: the attention, on average over queries, BOS left out
    for by in (1, 2):
        back[by] = {
            f"{layer}.{head}": cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
            .diagonal(-by, 1, 2)[:, 1:]
            .mean()
            .item()
            for layer in range(2)
            for head in range(8)
        }
    best = sorted(back[2], key=back[2].__getitem__, reverse=True)[:3]
    lines = re.findall(r"^(\S+)  two back (\S+)  one back (\S+)$", printed, re.MULTILINE)
    assert [head for head, _, _ in lines] == best
    for head, two, one in lines:
        assert float(two) == pytest.approx(back[2][head], abs=2e-4)
        assert float(one) == pytest.approx(back[1][head], abs=2e-4)
    assert printed.splitlines()[-1] == str(Path("two-back-report", "index.html"))
    page = (tmp_path / "two-back-report" / "index.html").read_text()
    assert "<h3>Two tokens back</h3>" in page
    assert "Attention on the token before the previous one." in page
    heads = (tmp_path / "two-back-report" / "heads.csv").read_text().splitlines()
    assert "two_back" in heads[0].split(",")


@pytest.mark.slow
def test_train_smeared_toy_prints_the_loss_of_the_snapshots_it_leaves(tmp_path):
    printed = run_example("train_smeared_toy", tmp_path)
    text = il.text_tokens(il.load("toy-2l"), n_sequences=8, seq_len=128)
    smears = {}
    for name in ("plain", "smeared"):
        folder = tmp_path / "runs" / name / "snapshots" / "step-00000006"
        model = il.load(folder)
        loss = il.per_token_loss(model, text)[:, 1:].mean()
        found = re.search(rf"^{name}: 3072 tokens\n  held-out loss (\d+\.\d+) nats", printed, re.M)
        assert found is not None
        assert float(found[1]) == pytest.approx(float(loss), abs=2e-4)
        smears[name] = [weight for key, weight in weights_of(model) if "smear" in key]
    # One smear parameter per head, which training has moved from its first value, 0.
    assert smears["plain"] == []
    [smear] = smears["smeared"]
    assert smear.shape == (4,)
    assert smear.abs().min() > 0


@pytest.mark.slow
def test_hold_composition_prints_what_its_last_snapshots_do(tmp_path):
    printed = run_example("hold_composition", tmp_path)
    text = il.text_tokens(il.load("toy-2l"), n_sequences=8, seq_len=128)
    for name, clamps in (("free", 0), ("held", 1)):
        trajectory = il.tracking.Trajectory.read(
            tmp_path / "runs" / name / "tracked" / "trajectory.parquet"
        )
        assert [len(trajectory.clamp), len(trajectory.steps)] == [clamps, 13]
        model = il.load(tmp_path / "runs" / name / "snapshots" / "step-00000024")
        losses = il.per_token_loss(model, text)
        score = (losses[:, 106:127].mean() - losses[:, 2:23].mean()).item()
        found = re.search(rf"^{name}: .*\n  ICL score ([+-]\d\.\d+) nats; head", printed, re.M)
        assert found is not None
        assert float(found[1]) == pytest.approx(score, abs=2e-4)
    # until they are let go, the two runs differ only in what the clamp does
    first = [tmp_path / "runs" / name / "snapshots" / "step-00000000" for name in ("free", "held")]
    free, held = (dict(weights_of(il.load(folder))) for folder in first)
    assert all(free[key].equal(held[key]) for key in free)


def weights_of(model):
    return [(name, weight.detach()) for name, weight in model.named_parameters()]


def test_the_readme_tour_gives_what_its_comments_say():
    readme = (ROOT / "README.md").read_text()
    [tour] = re.findall(r"```python\n(import induction_lens as il\n.*?)```", readme, re.DOTALL)
    few = tour.replace("n_sequences=256", "n_sequences=8")
    assert few != tour
    names: dict = {}
    exec(compile(few, "README.md", "exec"), names)
    heads = names["scores"]["induction"].above(0.3)
    assert f"# {heads}" in tour
    best, score = names["scores"]["induction"].top(1)[0]
    assert f"# [({best!r}, {score:.2f}" in tour
    assert names["study"].heads == tuple(sorted(heads))
