"""Views of attention: their numbers against plain code, what the page holds, what is refused."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import induction_lens as il
from induction_lens.detectors import score_heads, target_mask
from induction_lens.heads import HeadScores
from induction_lens.models import load_pretrained
from induction_lens.views import attention, page
from induction_lens.views.view import MOST_CELLS, most_heads, n_cells
from tests.architectures.cases import CASES
from tests.architectures.tiny import write_folder as write_case
from tests.hf_folders import write_folder
from tests.reference_model import induction_circuit
from tests.views.plain import Page, plain_numbers

TEXT = "def function(argument): return function(argument) + argument\n\tdef function"
HALF_STEP = 1 / 510 + 1e-6


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def case(request, tmp_path_factory):
    """A tiny folder, its model here and in plain Hugging Face, a view of it and the page's data."""
    folder = tmp_path_factory.mktemp("model") / request.param
    write_folder(request.param, folder, tokenizer=True)
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    model = load_pretrained(str(folder), device="cpu")
    view = attention(model, TEXT)
    right = plain_numbers(hf_model, view.ids)
    return SimpleNamespace(model=model, view=view, right=right, page=Page(view.html))


def test_patterns_are_those_of_hugging_face(case):
    expected = case.right.pattern.flatten(0, 1)
    torch.testing.assert_close(case.view.pattern, expected, rtol=0, atol=2e-5)
    for index, pattern in enumerate(expected.numpy()):
        assert abs(case.page.pattern(index) - pattern).max() <= HALF_STEP + 2e-5


def test_value_weighted_is_attention_times_the_length_of_what_is_moved(case):
    expected = (case.right.pattern * case.right.norm[:, :, None, :]).flatten(0, 1)
    torch.testing.assert_close(case.view.value_weighted, expected, rtol=1e-3, atol=1e-4)
    norms = case.right.norm.flatten(0, 1)
    for index, weighted in enumerate(expected.numpy()):
        wrong = abs(case.page.weighted(index) - weighted)
        assert (wrong <= HALF_STEP * norms[index].numpy() + 1e-3).all()


def test_logit_attribution_is_that_of_a_loop_over_heads_queries_and_keys(case):
    expected = case.right.logits.flatten(0, 1)
    scale = float(expected.abs().max())
    ours = case.view.logit_attribution
    torch.testing.assert_close(ours[:, :-1], expected, rtol=1e-3, atol=1e-4 * scale)
    assert torch.isnan(ours[:, -1]).all()
    for index, table in enumerate(expected.numpy()):
        unit = abs(table).max()
        assert case.page.view["units"][index] == pytest.approx(unit, rel=1e-3)
        assert abs(case.page.logits(index) - table).max() <= unit / 254 + 2e-3 * unit


def test_logit_attribution_sums_to_what_the_whole_head_adds_directly(case):
    expected = case.right.direct.flatten(0, 1)
    scale = float(expected.abs().max())
    sums = case.view.logit_attribution[:, :-1].sum(-1)
    torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-4 * scale)
    for index, totals in enumerate(expected.numpy()):
        assert case.page.floats(f"totals-{index}") == pytest.approx(totals, abs=1e-3 * scale)


def test_heads_embedding_mlps_and_biases_add_up_to_the_logits(case):
    """Direct contributions of all heads, and of all else, are the model's own logits."""
    model, ids = case.model, case.view.ids
    with torch.no_grad():
        _, cache = model.run_with_cache(ids[None])
        logits = model(ids[None])[0]
    scale = cache["ln_final.hook_scale"][0].expand(len(ids), 1)
    W_U = il.models.unembedding(model).float()
    rest = cache["blocks.0.hook_resid_pre"][0]
    for layer, block in enumerate(model.blocks):
        bias = block.attn.b_O
        rest = rest + cache[f"blocks.{layer}.hook_mlp_out"][0] + (0 if bias is None else bias)
    read = W_U[:, ids[1:]] - W_U.mean(1, keepdim=True)
    of_rest = ((rest / scale)[:-1] * read.T).sum(-1)
    found = case.view.logit_attribution[:, :-1].sum(-1).sum(0) + of_rest
    right = (logits - logits.mean(-1, keepdim=True))[:-1].gather(1, ids[1:, None])[:, 0]
    left = right - found  # biases alone, so that it depends on the predicted token, not on where
    same = ids[1:, None] == ids[None, 1:]
    assert same.sum() > len(left)
    spread = ((left[:, None] - left[None]).abs() * same).max()
    assert spread <= 1e-3 * right.abs().max()


def test_what_is_rounded_to_zero_is_kept_as_a_sum(case):
    for index, pattern in enumerate(case.view.pattern.numpy()):
        weak = (pattern * (pattern < 1 / 510)).sum(-1)
        assert case.page.rest(index) == pytest.approx(weak, abs=2 / 510)


def test_targets_and_scores_are_those_of_the_detector(case):
    model, view = case.model, case.view
    mask = target_mask(view.ids[None], "induction")[0]
    assert case.page.targets() == {tuple(pair) for pair in mask.nonzero().tolist()} != set()
    expected = score_heads(model, tokens=view.ids[None], detectors=["induction"], progress=False)
    right = expected["induction"].values.flatten()
    torch.testing.assert_close(view.on_targets, right, rtol=0, atol=1e-5)
    assert case.page.view["grid"] == pytest.approx(right.tolist(), abs=1e-4)


def test_tokens_on_the_page_are_those_of_the_text(case):
    shown = case.page.view["tokens"]
    assert "".join(shown[1:]) == TEXT.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
    assert case.page.view["ids"][0] == case.model.tokenizer.bos_token_id
    assert [shown[at] for at in case.page.view["breaks"]] == ["⏎"]


def test_padding_is_taken_off_and_tokens_are_taken_as_they_are(case):
    ids = case.view.ids
    pad = torch.zeros(5, dtype=torch.long)
    for given in (
        ids.tolist(),
        ids.int(),
        ids[None],
        {
            "input_ids": torch.cat([pad, ids])[None],
            "attention_mask": torch.cat([pad, torch.ones_like(ids)])[None],
        },
    ):
        again = attention(case.model, given, heads=["1.0"])
        assert again.ids.tolist() == ids.tolist()
        torch.testing.assert_close(again.pattern[0], case.view["1.0"].pattern)


def test_the_induction_head_of_the_circuit_raises_the_token_that_comes_next(circuit):
    """Four tokens three times over; no other head writes what is read."""
    view = attention(circuit, [0, *(3, 11, 7, 5) * 3])
    head = view["1.0"]
    with torch.no_grad():
        logits = circuit(view.ids[None])[0]
    for query in range(5, 12):
        [*earlier] = range(query - 3, 0, -4)
        top = head.logit_attribution[query].topk(len(earlier)).indices.tolist()
        assert sorted(top) == sorted(earlier)
        raised = logits[query, view.ids[query + 1]] - logits[query].mean()
        assert float(head.logit_attribution[query].sum()) == pytest.approx(float(raised), rel=1e-4)
    assert float(view.logit_attribution[view.heads.index(il.Head(1, 1)), :-1].abs().max()) == 0
    assert view.value_norm[view.heads.index(il.Head(1, 2))].abs().max() == 0
    assert view.on_targets[view.heads.index(il.Head(1, 0))] == pytest.approx(1, abs=1e-3)
    assert view.tokens[:3] == ("BOS", "3", "11")
    assert view.notes == ()


# --- the page --------------------------------------------------------------------------------


class _Tags(HTMLParser):
    """The elements of a page, and what is between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_asks_nothing_of_the_network(case):
    text = case.view.html
    tags = _Tags(text).tags
    assert not [attributes for _, attributes in tags if "src" in attributes]
    assert [a["href"] for _, a in tags if "href" in a] == ["data:,"]
    for forbidden in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttp", "import("):
        assert forbidden not in text


def test_controls_are_native_and_none_jumps_the_queue(case):
    tags = _Tags(case.view.html).tags
    assert not [a for _, a in tags if int(a.get("tabindex") or 0) > 0]
    assert {"input", "select", "summary"} <= {tag for tag, _ in tags}
    assert not [a for _, a in tags if any(name.startswith("on") for name in a)]


def test_text_from_a_model_is_escaped_everywhere(case):
    evil = "</script><script>alert(1)</script>"
    view = il.views.AttentionView(
        **{**vars(case.view), "model": evil, "tokens": (evil,) * len(case.view.tokens)},
    )
    assert evil not in view.html
    assert html.escape(evil) in view.html
    assert Page(view.html).view["tokens"][0] == evil
    assert evil not in view._repr_html_()


def test_a_notebook_shows_the_page_in_a_frame(case):
    frame = case.view._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert html.unescape(re.findall(r'srcdoc="(.*?)"', frame, re.DOTALL)[0]) == case.view.html


def test_saved_pages_are_whole_files(case, tmp_path):
    assert case.view.save(tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == case.view.html
    with pytest.raises(ValueError, match="expected a file to write, got the folder"):
        case.view.save(tmp_path)


def _luminance(colour: np.ndarray) -> float:
    """Relative luminance by WCAG 2.1."""
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(first: np.ndarray, second: np.ndarray) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_on_every_colour_it_may_lie_on(theme):
    colours = {
        name: np.array([int(value[i : i + 2], 16) for i in (1, 3, 5)])
        for name, value in page.PALETTE[theme].items()
    }
    pairs = [(name, under) for name in ("ink", "soft", "accent") for under in ("paper", "card")]
    pairs += [("paper", "ink")]  # what is chosen
    assert {p: c for p in pairs if (c := _contrast(*(colours[n] for n in p))) < 4.5} == {}
    for full in ("hot", "cold"):
        for share in np.linspace(0, 1, 33):
            mixed = colours["card"] + (colours[full] - colours["card"]) * share
            assert _contrast(colours["ink"], mixed) >= 4.5


def test_colours_of_a_token_are_those_of_the_palette():
    css = page._css()
    assert css.count("$") == 0
    for theme in page.PALETTE.values():
        for name, colour in theme.items():
            assert css.count(f"--{name}: {colour};") == 2  # by the system's wish, and by choice


@pytest.mark.parametrize("kind", ["trained", "random"])
def test_144_heads_on_128_tokens_are_less_than_3_megabytes(kind):
    """Of a trained model, all its heads nine times over; and of one that attends to all alike."""
    if kind == "trained":
        model = il.load("toy-2l")
        source = Path(page.__file__).read_text(encoding="utf-8")
        view = attention(model, attention(model, source[:900], heads="0.0").ids[:128])
        heads = tuple(il.Head(i // 12, i % 12) for i in range(144))
        tables = ("pattern", "value_norm", "logit_attribution")
        nine = {name: getattr(view, name).repeat_interleave(9, dim=0) for name in tables}
        fields = {**vars(view), **nine, "heads": heads, "n_layers": 12, "n_heads": 12}
        view = il.views.AttentionView(**fields)
    else:
        config = il.toys.ToyConfig(n_layers=6, n_heads=24, d_model=96, d_vocab=97, n_ctx=128)
        model = il.toys.build_toy(config, device="cpu")
        ids = il.repeated_random_tokens(model, n_tokens=60, n_sequences=1, seq_len=128)
        view = attention(model, ids)
    assert view.pattern.shape == (144, 128, 128)
    assert len(view.html.encode()) < 3_000_000


def test_what_a_page_cannot_hold_is_refused_with_what_it_can():
    config = il.toys.ToyConfig(n_layers=3, n_heads=4, d_model=8, d_vocab=97, n_ctx=2100)
    model = il.toys.build_toy(config, device="cpu")
    tokens = torch.randint(1, 97, (2100,), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"at most 7 heads on 2,048 tokens, got 12; name those"):
        attention(model, tokens[:2048])
    with pytest.raises(ValueError, match=r"at most 2,048 tokens, got 2,100; pass a part"):
        attention(model, tokens, heads=["0.0"])
    assert n_cells(most_heads(2048), 2048) <= MOST_CELLS < n_cells(most_heads(2048) + 1, 2048)


def test_one_head_on_2048_tokens():
    config = il.toys.ToyConfig(n_layers=1, n_heads=2, d_model=16, d_vocab=97, n_ctx=2048)
    model = il.toys.build_toy(config, device="cpu")
    tokens = il.repeated_random_tokens(model, n_tokens=60, n_sequences=1, seq_len=2048)
    view = attention(model, tokens, heads="0.1")
    shown = Page(view.html)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter="blocks.0.attn.hook_pattern")
    right = cache["blocks.0.attn.hook_pattern"][0, 1].numpy()
    assert abs(shown.pattern(0) - right).max() <= HALF_STEP
    assert shown.targets() == {tuple(pair) for pair in view.targets.tolist()}


# --- what is shown, and what is left out -------------------------------------------------------


def test_only_the_heads_that_are_named(case):
    view = attention(case.model, case.view.ids, heads=["1.1", (0, 2)])
    assert view.heads == (il.Head(0, 2), il.Head(1, 1))
    torch.testing.assert_close(view["1.1"].pattern, case.view["1.1"].pattern)
    torch.testing.assert_close(
        view["0.2"].logit_attribution, case.view["0.2"].logit_attribution, equal_nan=True
    )
    assert repr(view).endswith("0.2, 1.1 on 17 tokens)")
    with pytest.raises(ValueError, match=r"one of 0\.2, 1\.1, got 0\.0; name it in heads="):
        view["0.0"]


def test_the_frame_has_a_row_for_each_pair(case):
    view = case.view
    frame = view.to_frame()
    assert len(frame) == int((view.pattern > 0).sum())
    row = frame.iloc[len(frame) // 2]
    head = view[(int(row.layer), int(row["head"]))]
    assert row.pattern == pytest.approx(float(head.pattern[row["query"], row.key]))
    assert row.value_weighted == pytest.approx(float(head.value_weighted[row["query"], row.key]))
    assert (row.query_token, row.key_token) == (view.tokens[row["query"]], view.tokens[row.key])


def test_another_detector_none_and_scores_of_ones_own(case):
    model, ids = case.model, case.view.ids
    previous = attention(model, ids, detector="previous_token")
    assert {tuple(pair) for pair in previous.targets.tolist()} == {
        (query, query - 1) for query in range(2, len(ids))
    }
    none = attention(model, ids, detector=None)
    assert none.on_targets is None
    assert "nderlined" not in none.html.split("<main>")[1].split("</header>")[0]
    n_layers, n_heads = case.view.n_layers, case.view.n_heads
    values = torch.linspace(0, 1, n_layers * n_heads).view(n_layers, n_heads)
    scored = Page(attention(model, ids, scores=HeadScores("mine", values)).html).view
    assert scored["grid"] == pytest.approx(values.flatten().tolist(), abs=1e-4)
    assert scored["gridOf"] == "score mine"
    assert scored["shown"] == [n_layers * n_heads - 2, n_layers * n_heads - 1]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("gemma2", "normed or scaled before it is added"),  # a norm after attention
        ("granite", "normed or scaled before it is added"),  # a factor
        ("deepseek_v3", "does not show its values"),
    ],
)
def test_what_an_architecture_does_not_allow_is_left_out_and_said(tmp_path, name, note):
    write_case(CASES[name], tmp_path / name)
    model = load_pretrained(str(tmp_path / name), device="cpu", check=False)
    view = attention(model, [1, *range(9, 19), *range(9, 19)])
    assert view.value_weighted is None
    assert view["0.0"].value_weighted is view["0.0"].logit_attribution is None
    [said] = view.notes
    assert note in said
    assert html.escape(said) in view.html
    assert Page(view.html).view["units"] is None


@pytest.mark.parametrize("is_known", [True, False])
def test_logits_that_are_more_than_the_unembedding_are_not_attributed(monkeypatch, is_known):
    model = induction_circuit()
    prompt = [0, *(3, 11, 7) * 2]
    right = attention(model, prompt)
    model.unembed.register_forward_hook(lambda _, __, logits: 9 * torch.tanh(logits / 9))
    if not is_known:  # whoever changed it cannot be told, so that the numbers must show it
        monkeypatch.setattr("induction_lens.models.written.unfit_for_unembedding", lambda _: None)
    view = attention(model, prompt)
    assert view.logit_attribution is None
    torch.testing.assert_close(view.value_weighted, right.value_weighted)
    reason = "torch hook" if is_known else "not the unembedding of its normed residual"
    assert reason in view.notes[0]


def test_hooks_modes_and_gradients_are_left_as_they_were(circuit):
    circuit.train()
    attention(circuit, [0, 3, 11, 3, 11])
    assert circuit.training
    assert torch.is_grad_enabled()
    assert not [name for name, point in circuit.hook_dict.items() if point.fwd_hooks]
