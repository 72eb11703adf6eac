"""The page of a view in a real browser: what it draws, says, and does at a key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import induction_lens as il
from induction_lens.views import attention
from induction_lens.views.page import PALETTE
from tests.browser import Browser, Theme

pytestmark = pytest.mark.slow
TEXT = "def add(first, second):\n    return first + second\n\ndef sub(first, second):\n\treturn"
HELPERS = """
const until = async (holds) => {
  while (!holds()) await new Promise((go) => setTimeout(go, 20));
};
const all = (selector) => [...document.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const options = { bubbles: true, cancelable: true };
const press = (element, key) => element.dispatchEvent(
  new KeyboardEvent("keydown", { key, ...options }));
const chosen = () => all(".headcard:first-child .chosen").map((span) => Number(span.dataset.at));
const colours = (card) => [...card.querySelectorAll(".strip span")].map(
  (span) => getComputedStyle(span).backgroundColor);
const titles = () => all(".headcard h3").map((title) => title.textContent);
const pick = (name, value) => {
  const input = one(`input[name=${name}][value=${value}]`);
  input.checked = true;
  input.dispatchEvent(new Event("change", options));
};
"""


READY = "document.documentElement.dataset.ready || !document.getElementById('trouble')?.hidden"


class Asked:
    """Opens pages, and says what they say."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser = browser
        self.folder = folder

    def __call__(
        self, page: str, script: str, *, width: int = 1200, theme: Theme = "light", at: str = ""
    ) -> Any:
        """What a script, the body of an async function, returns on a page that is in order."""
        path = self.folder / "page.html"
        path.write_text(page, encoding="utf-8")
        address = f"{path.resolve().as_uri()}{at}"
        opened = self.browser.open(address, width=width, theme=theme, until=READY)
        answer = opened.evaluate(f"(async () => {{ {script} }})()")
        assert opened.problems == []
        assert opened.overflow <= 0
        opened.close()
        return answer


@pytest.fixture
def asked(browser, tmp_path):
    return Asked(browser, tmp_path)


@pytest.fixture(scope="module")
def view():
    return attention(il.load("toy-2l"), TEXT)


def _rgb(text: str) -> list[float]:
    found = [float(x) for x in re.findall(r"[\d.]+", text)]
    return found if len(found) == 3 else [0, 0, 0, 0]


def _expected(shares: np.ndarray, theme: str) -> list[list[float]]:
    """The colours of shares of the largest, from none to the whole."""

    def channels(name: str) -> np.ndarray:
        return np.array([int(PALETTE[theme][name][i : i + 2], 16) for i in (1, 3, 5)])

    colours = []
    for share in shares:
        full = channels("hot" if share > 0 else "cold")
        mixed = channels("card") + (full - channels("card")) * np.sqrt(min(1, abs(share)))
        colours.append([0, 0, 0, 0] if share == 0 else mixed.round().tolist())
    return colours


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("measure", ["pattern", "weighted", "logits"])
def test_tokens_have_the_colours_of_the_numbers(view, asked, measure, theme):
    script = (
        HELPERS
        + f"""
    pick("measure", "{measure}");
    one(".strip span[data-at='31']").click();
    const from = all(".headcard").map(colours);
    pick("direction", "to");
    one(".strip span[data-at='12']").click();
    return {{ from, to: all(".headcard").map(colours), heads: titles() }};
    """
    )
    said = asked(view.html, script, theme=theme)
    assert said["heads"] == ["Head 1.4", "Head 1.6"] or len(said["heads"]) == 2
    for place, title in enumerate(said["heads"]):
        head = view[title.removeprefix("Head ")]
        tables = (head.pattern, head.value_weighted, head.logit_attribution)
        table = dict(zip(("pattern", "weighted", "logits"), tables, strict=True))[measure]
        table = table.nan_to_num(0).numpy()
        most = 1 if measure == "pattern" else abs(table).max()
        for shown, numbers in ((said["from"], table[31]), (said["to"], table[:, 12])):
            right = _expected(numbers / most, theme)
            for found, expected, share in zip(shown[place], right, numbers / most, strict=True):
                if abs(share) > 0.01:  # a step of 8 bits is much at the root's beginning
                    assert _rgb(found) == pytest.approx(expected, abs=6)


def test_every_control_is_reached_and_worked_by_keys(view, asked):
    script = (
        HELPERS
        + """
    const strip = one(".strip"), canvas = one("canvas");
    const before = chosen();
    press(strip, "Home"); const home = chosen();
    press(strip, "ArrowRight"); const right = chosen();
    press(strip, "ArrowDown"); const down = chosen();
    press(strip, "ArrowUp"); press(strip, "End"); const end = chosen();
    press(canvas, "ArrowUp"); const up = chosen();
    const zooms = ["+", "+", "ArrowRight", "-", "0"].map((key) => {
      press(canvas, key);
      return one(".tools span").textContent;
    });
    const stop = one(".grid [tabindex='0']");
    stop.focus(); press(stop, "ArrowDown");
    const focused = document.activeElement.getAttribute("aria-label");
    document.activeElement.click();
    await until(() => titles().length === 3);
    const heads = titles();
    const close = one(".headcard header button"); close.click();
    const native = "a[href], button, input, select, textarea, summary";
    return {
      before, home, right, down, end, up, zooms, focused, heads,
      left: titles(),
      positive: all("[tabindex]").filter((e) => e.tabIndex > 0).length,
      handled: all("[tabindex='0']").filter((e) => !e.matches(native)).map((e) => e.role),
      unnamed: all("button, canvas, select, [role=listbox]").filter(
        (e) => !(e.ariaLabel || e.closest("label") || e.textContent.trim())).length,
      stops: all(native).filter((e) => e.tabIndex >= 0 && !e.disabled).length,
    };
    """
    )
    said = asked(view.html, script)
    n = len(view.tokens)
    assert (said["home"], said["right"], said["end"], said["up"]) == ([0], [1], [n - 1], [n - 2])
    assert said["down"][0] > 1
    assert len(set(said["zooms"])) > 1
    assert said["focused"].startswith("Head 1.0")
    assert "Head 1.0" in said["heads"]
    assert said["heads"][0] not in said["left"]
    assert len(said["heads"]) == len(said["left"]) + 1 == 3
    assert (said["positive"], said["unnamed"]) == (0, 0)
    assert set(said["handled"]) == {"listbox", "application"}


def test_the_page_says_what_it_shows(view, asked):
    script = (
        HELPERS
        + """
    one(".strip span[data-at='31']").click();
    const said = [one(".readout").textContent];
    pick("measure", "logits"); said.push(one(".readout").textContent);
    one(".strip span:last-of-type").click(); said.push(one(".readout").textContent);
    pick("measure", "pattern"); pick("direction", "to"); one(".strip span[data-at='12']").click();
    said.push(one(".readout").textContent);
    return { said, head: one(".headcard h3").textContent.slice(5),
             targets: all(".headcard:first-child .target").map((span) => Number(span.dataset.at)) };
    """
    )
    found = asked(view.html, script)
    head = view[found["head"]]
    first, logits, last, to = found["said"]
    strongest = int(head.pattern[31].argmax())
    percent = 100 * float(head.pattern[31, strongest])
    assert first.startswith(f"From “{_marked(view, 31)}” (31): {percent:.0f}% to ")
    assert f"“{_marked(view, strongest)}” ({strongest})" in first
    total = float(head.logit_attribution[31].sum())
    shown = float(re.findall(r"(−?[\d.]+) in all", logits)[0].replace("−", "-"))
    assert shown == pytest.approx(total, rel=6e-3)
    assert f"“{_marked(view, 32)}” (32), which comes next" in logits
    assert "no token follows it here" in last
    assert to.startswith("To “")
    aimed = {int(query) for query, key in view.targets.tolist() if key == 12}
    assert set(found["targets"]) == aimed


@pytest.mark.parametrize(("zooms", "n_labels"), [(0, 8), (2, 10)])
def test_labels_of_the_map_are_those_of_its_cells(view, asked, zooms, n_labels):
    script = (
        HELPERS
        + f"""
    const card = one(".headcard"), canvas = card.querySelector("canvas");
    for (let i = 0; i < {zooms}; i++) press(canvas, "+");
    const labels = (axis) => [...card.querySelectorAll(`.${{axis}} span`)];
    const middle = (box) => [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const pointed = (clientX, clientY) => {{
      canvas.dispatchEvent(new PointerEvent("pointermove", {{ clientX, clientY, ...options }}));
      return card.querySelector(".tools span").textContent;
    }};
    const inner = middle(canvas.getBoundingClientRect());
    const said = (axis) => labels(axis).map((label) => {{
      const [x, y] = middle(label.getBoundingClientRect());
      return [label.textContent, axis === "rows" ? pointed(inner[0], y) : pointed(x, inner[1])];
    }});
    return {{ rows: said("rows"), columns: said("columns") }};
    """
    )
    said = asked(view.html, script)
    # a quarter of 39 tokens have room for their texts; of all, each fifth has for its position
    assert len(said["rows"]) == len(said["columns"]) == n_labels
    # a cell is told of as “query “a” (3), key “b” (1): …” or ““a” (3) comes before “b” (4) and …”
    for axis, place in (("rows", 0), ("columns", 1)):
        for label, told in said[axis]:
            named = re.findall(r"“([^”]*)” \((\d+)\)", told)[place]
            assert named[0] == _marked(view, int(named[1]))
            assert label == named[1 if zooms == 0 else 0]


def _marked(view, at: int) -> str:
    return view.tokens[at].replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


@pytest.mark.parametrize("width", [500, 800, 1600])
def test_nothing_sticks_out(view, asked, width):
    widths = asked(view.html, "return [innerWidth, document.fonts.size];", width=width)
    assert widths[0] == width


def test_heads_of_the_address_are_shown(view, asked):
    script = HELPERS + "return titles();"
    assert asked(view.html, script, at="#0.2,1.6") == ["Head 0.2", "Head 1.6"]


def test_a_browser_that_cannot_unpack_is_told(view, asked):
    gone = "<script>delete window.DecompressionStream</script><style>"
    script = "return document.getElementById('trouble').textContent;"
    said = asked(view.html.replace("<style>", gone, 1), script)
    assert "cannot unpack" in said


def test_a_notebook_frame_shows_it(view, asked):
    script = (
        HELPERS
        + """
    const frame = document.querySelector("iframe");
    await until(() => frame.contentDocument?.documentElement?.dataset.ready);
    return frame.contentDocument.querySelectorAll(".headcard").length;
    """
    )
    begin = "<!doctype html><html data-ready='1'><link rel='icon' href='data:,'><style></style>"
    page = f"{begin}{view._repr_html_()}</html>"
    assert asked(page, script) == 2


def test_2048_tokens_are_drawn(asked):
    model = il.toys.build_toy(
        il.toys.ToyConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=97, n_ctx=2048), device="cpu"
    )
    tokens = il.repeated_random_tokens(model, n_tokens=60, n_sequences=1, seq_len=2048)
    view = attention(model, tokens, heads=["0.1"])
    script = (
        HELPERS
        + """
    press(one(".strip"), "End");
    const labels = all(".rows span").map((label) => label.textContent);
    return { spans: all(".strip span").length, at: chosen(), labels };
    """
    )
    said = asked(view.html, script)
    assert said["spans"] == 2048
    assert said["at"] == [2047]
    assert said["labels"][0] == "0"
    positions = [int(label) for label in said["labels"]]
    assert len(positions) > 5
    assert set(np.diff(positions)) <= {100, 200, 500}
