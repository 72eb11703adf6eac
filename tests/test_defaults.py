"""Torch's default dtype and device change no number, and are left as the caller set them."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import induction_lens as il
from induction_lens.inputs import corpus
from induction_lens.models import toy_weights
from induction_lens.toys import snapshots
from tests.conftest import IMPLEMENTATIONS
from tests.hf_folders import write_folder

SOURCE = [
    f"def name_{i}(argument):\n    return argument + {i} * name_{i // 2}(argument)\n" * 2
    for i in range(90)
]
SIZES: dict[str, Any] = dict(n_layers=2, d_model=12, n_heads=2, d_vocab=300, n_ctx=67, seed=3)
POSITIONS = dict(early=6, late=30, window=2)
RUN = sorted(Path(il.__file__).parent.glob("data/runs/**/trajectory.parquet"))[0]
QUICK: dict[str, Any] = dict(n_sequences=4, n_controls=2, progress=False)
METHODS = ("zero", "mean", "resample", "pattern-preserving")


@pytest.fixture(params=[("bfloat16", "meta"), ("float64", "cpu")], ids="-".join)
def defaults(request):
    """Other defaults, put back afterwards; says whether they are still there."""
    before = torch.get_default_dtype()
    dtype, device = request.param
    torch.set_default_dtype(getattr(torch, dtype))
    torch.set_default_device(device if device == "meta" else None)
    ours = torch.get_default_dtype(), torch.get_default_device()
    yield lambda: (torch.get_default_dtype(), torch.get_default_device()) == ours
    torch.set_default_dtype(before)
    torch.set_default_device(None)


def _plain(result: Any) -> Any:
    """What a result holds, as plain values."""
    if isinstance(result, torch.Tensor):
        return str(result.dtype), result.device.type, result.tolist()
    if isinstance(result, pd.DataFrame):
        return result.to_dict("list")
    if is_dataclass(result):
        return {field.name: _plain(getattr(result, field.name)) for field in fields(result)}
    if hasattr(result, "items"):
        return {str(key): _plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [_plain(value) for value in result]
    return result


def _differing(found: Any, expected: Any, place: str = "") -> Iterator[str]:
    """Where two plain results differ by more than the order of sums does.

    The same call twice need not give the same bits: how a matrix product is summed depends on where
    in memory its operands lie, and weights that are read from a file can lie anywhere.
    """
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        for key in found:
            yield from _differing(found[key], expected[key], f"{place}.{key}")
    elif (
        isinstance(found, (list, tuple))
        and isinstance(expected, (list, tuple))
        and len(found) == len(expected)
    ):
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from _differing(*pair, f"{place}[{index}]")
    elif isinstance(found, float) and isinstance(expected, float):
        if found != pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True):
            yield f"{place}: {found}, not {expected}"
    elif repr(found) != repr(expected):
        yield f"{place}: {found!r}, not {expected!r}"


def _load(folder: Path, **options: Any) -> Any:
    return il.load(folder / "model", device="cpu", **options)


def _text(model: Any) -> torch.Tensor:
    return il.text_tokens(model, text=SOURCE, n_sequences=6, seq_len=41)


def _built(folder: Path, implementation: str) -> Any:
    positions = ("rotary", "standard")
    built = [
        il.toys.build_toy(
            il.toys.ToyConfig(
                **SIZES, positions=kind, smeared_keys=True, attn_only=kind == "rotary"
            ),
            device="cpu",
            implementation=implementation,
        )
        for kind in positions
    ]
    return [toy_weights(model) for model in built]


def _loaded(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    logits = model(torch.arange(1, 21, dtype=torch.long, device="cpu")[None])
    return toy_weights(model), logits, il.load("toy-1l", device="cpu").W_E[:3, :3]


def _pretrained(folder: Path, implementation: str) -> Any:
    tokens = torch.arange(1, 21, dtype=torch.long, device="cpu")[None]
    models = [il.load(folder / name, device="cpu") for name in ("gpt2", "llama")]
    return [il.per_token_loss(model, tokens, progress=False) for model in models]


def _tokens(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    text, packed = _text(model), corpus.pack(SOURCE, model.tokenizer, 20, n_sequences=2)
    dropped = il.text_tokens(model, text=SOURCE, n_sequences=2, seq_len=9, short_documents="drop")
    random = il.repeated_random_tokens(model, n_tokens=7)
    chosen = il.repeated_random_tokens(model, n_tokens=2, ids=[3, 4, 5])
    return (
        text,
        packed,
        dropped,
        random,
        chosen,
        il.inputs.shuffled(text),
        il.models.ordinary_ids(model),
    )


def _scores(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    streamed = [name for name in il.detectors.DETECTORS if name != "copying"]
    return (
        il.score_heads(model, progress=False),
        il.score_heads(model, text=_text(model), progress=False),
        il.score_heads(model, detectors=streamed, attention="streaming", progress=False),
        il.detectors.target_mask(_text(model), "induction"),
    )


def _losses(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    losses = il.per_token_loss(model, _text(model), progress=False)
    return losses, il.icl_score(losses, 6, 30, window=2)


def _knocked_out(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    text, found = _text(model), []
    for method in METHODS:
        with il.knocked_out(model, ["1.0", "0.1"], method=method, reference=text):
            found.append(model(text[:2]))
    return found


def _ablation(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    options: dict[str, Any] = dict(progress=False, **POSITIONS)
    return [
        (
            il.ablate(model, ["1.0"], _text(model), method=method, n_controls=2, **options),
            il.ablate_each_head(model, _text(model), method=method, **options),
        )
        for method in METHODS
    ]


def _ngrams(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    tables = il.tracking.count_ngrams(_text(model), d_vocab=300)
    options: dict[str, Any] = dict(n_tokens=9, n_repeats=3, progress=False)
    return il.tracking.ngram_control(model, ["1.0"], _text(model), tables, **options)


def _report(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    found = il.report(model, text=SOURCE, methods=["mean"], **QUICK)
    with tempfile.TemporaryDirectory() as out:
        found.save(out)
    return found.summary, found.scores, found.studies, found.windowed, found.notes


def _circuits(folder: Path, implementation: str) -> Any:
    model = _load(folder, implementation=implementation)
    material = il.circuits.Material.of(model, n_sequences=3, n_texts=0)
    return (
        il.circuits.composition(model).to_frame().to_dict("list"),
        il.circuits.qk_matching(model, _text(model)).to_frame().to_dict("list"),
        il.circuits.path_patch(model, "0.1", "1.0", inputs="kqv", n_controls=1, material=material)
        .to_frame()
        .to_dict("list"),
        il.circuits.term_importance(model, _text(model)),
    )


def _trained(folder: Path, implementation: str) -> Any:
    config = il.toys.ToyConfig(**SIZES)
    model = il.toys.build_toy(config, device="cpu", implementation=implementation)
    text = _text(_load(folder))
    options: dict[str, Any] = dict(n_steps=3, batch_size=3, warmup=1, progress=False)
    clamp = il.training.Clamp(heads=["0.1"], k_composition=True, end=2)
    run = il.train(model, text, clamp=clamp, **options)
    return run.losses, toy_weights(run.model)


def _tracked(folder: Path, implementation: str) -> Any:
    options: dict[str, Any] = dict(n_prompts=3, n_ablated=3, n_examples=20, **POSITIONS)
    options |= dict(text=_text(_load(folder)), methods=METHODS[2:], device="cpu", progress=False)
    with tempfile.TemporaryDirectory() as out:
        return il.track(folder / "run", out=out, **options)


def _dynamics(folder: Path, implementation: str) -> Any:
    trajectory = il.tracking.Trajectory.read(RUN)
    return (
        il.dynamics.phase_change(trajectory, n_resamples=20),
        il.dynamics.phase_change([trajectory], of="induction", n_resamples=20),
        il.dynamics.loss_derivative(trajectory),
        il.dynamics.loss_pca(trajectory),
        il.dynamics.co_occurrence(trajectory, n_resamples=20),
    )


FUNCTIONS = {
    function.__name__.strip("_"): function
    for function in (
        _built,
        _loaded,
        _pretrained,
        _tokens,
        _losses,
        _scores,
        _knocked_out,
        _ablation,
        _ngrams,
        _report,
        _circuits,
        _trained,
        _tracked,
        _dynamics,
    )
}
# Of one class only: the others run in both.
EITHER = (
    *("pretrained", "ablation", "report", "circuits", "trained"),
    *("tracked", "dynamics", "ngrams", "tokens"),
)
CASES = [
    (name, implementation)
    for name in FUNCTIONS
    for implementation in (IMPLEMENTATIONS[:1] if name in EITHER else IMPLEMENTATIONS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy with a tokenizer, and a run of one."""
    folder = tmp_path_factory.mktemp("defaults")
    tokenizer = corpus.train_tokenizer(SOURCE, vocab_size=300)
    model = il.toys.build_toy(il.toys.ToyConfig(**SIZES), device="cpu", tokenizer=tokenizer)
    snapshots.write_snapshot(model, folder / "model", step=0, tokens_seen=0)
    (folder / "model" / "tokenizer.json").write_text(corpus.tokenizer_json(tokenizer), "utf-8")
    options: dict[str, Any] = dict(n_steps=2, batch_size=3, warmup=1, progress=False)
    il.train(model, _text(model), out=folder / "run", snapshots=(0, 2), **options)
    for name in ("gpt2", "llama"):
        write_folder(name, folder / name, tokenizer=False)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """What the functions give under the usual defaults."""
    return {case: _plain(FUNCTIONS[case[0]](folder, case[1])) for case in CASES}


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_defaults_change_nothing_and_are_not_changed(
    expected, folder, defaults, name, implementation
):
    found = _plain(FUNCTIONS[name](folder, implementation))
    assert list(_differing(found, expected[name, implementation])) == []
    assert defaults()


def test_another_type_and_another_number_are_told_apart():
    """The comparison itself: bfloat16 keeps 8 bits, a difference of up to 1 in 256."""
    number = torch.tensor([1.2345])
    assert list(_differing(_plain(number), _plain(number.double())))
    assert list(_differing(_plain(number), _plain(number.bfloat16().float())))
    assert list(_differing(_plain(number), _plain(number * (1 + 1e-6)))) == []
    assert list(_differing({"a": [math.nan, 1]}, {"a": [math.nan, 1]})) == []
    assert list(_differing({"a": [math.nan, 1]}, {"a": [math.nan, 2]})) == [".a[1]: 1, not 2"]
