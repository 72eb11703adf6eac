"""What is looked for in pages is seen where it is wrong, and good pages pass."""

import pytest

from tests import site
from tests.browser import WIDTHS, faults

GOOD = (
    "<!doctype html><title>x</title><link rel=icon href='data:,'>"
    "<body style='background: #fff; color: #333'>{}"
)
PALE = "<p style='color: #999'>pale</p>"
DRAWN = (
    "<svg width=90 height=20><rect width=90 height=20 fill='#333' />"
    "<text y=15 {}>drawn</text></svg>"
)
BAD = {
    "wide": ("<div style='width: 900px'>wide</div>", "sideways"),
    "pale": (PALE, "contrast"),
    "folded": (f"<details><summary>x</summary>{PALE}</details>", "contrast"),
    "drawn": (DRAWN, "contrast"),
    "error": ("<p>x</p><script>throw new Error('no')</script>", "error"),
    "console": ("<p>x</p><script>console.error('no')</script>", "console"),
    "request": ("<p>x</p><img src='http://example.org/x.png' alt=''>", "request"),
    "mouse": ("<a href='#x'>x</a> <span onclick='0'>click me</span>", "keyboard"),
    "label": ("<label for=x>x</label><input id=x type=checkbox style='display: none'>", "keyboard"),
}
FINE = {
    "plain": "<p>as it should be</p>",
    "drawing": DRAWN.format("fill='#fff'"),
    "controls": (
        "<a href='#x'>x</a><label for=y>y</label><input id=y><button disabled>no</button>"
        "<input type=radio name=a><input type=radio name=a checked><div tabindex=0>scrolls</div>"
    ),
}


@pytest.mark.slow
def test_each_fault_is_found_and_good_pages_have_none(tmp_path, browser):
    for name, body in {**FINE, **{name: body for name, (body, _) in BAD.items()}}.items():
        (tmp_path / f"{name}.html").write_text(GOOD.format(body))
    page = browser.open("about:blank")
    found = {}
    for path in tmp_path.iterdir():
        page.show(width=WIDTHS[0])
        page.load(path)
        found[path.stem] = list(faults(page))
    page.close()
    assert {name for name, wrong in found.items() if wrong} == set(BAD)
    for name, (_, kind) in BAD.items():
        assert any(kind in line for line in found[name]), found[name]
    assert len(found["pale"]) == len(found["folded"]) == len(WIDTHS) * 2
    # of #999 on white, and of black on #333, by WCAG's formula
    assert "2.85 of 'pale'" in found["pale"][0]
    assert "1.66 of 'drawn'" in found["drawn"][0]
    assert {line.split(":")[0] for line in found["wide"]} == {
        f"{width} px, {scheme}" for width in (400, 800) for scheme in ("light", "dark")
    }
    assert len(found["mouse"]) == len(found["label"]) == len(WIDTHS)


@pytest.mark.slow
def test_a_folder_of_pages_is_checked_as_it_is_served(tmp_path, browser, capsys):
    folder = tmp_path / "site"
    (folder / "deep").mkdir(parents=True)
    (folder / "index.html").write_text(GOOD.format("<img src='deep/x.svg' alt=''>"))
    (folder / "deep" / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' />")
    assert site.main(folder) == 0
    assert "2 pages at 400, 800, 1600 px, light and dark: 0 faults" in capsys.readouterr().out
    (folder / "deep" / "x.html").write_text(GOOD.format("<img src='none.svg' alt=''>"))
    assert site.main(folder) == 1
    assert "deep/x.html\n  log: Failed to load resource" in capsys.readouterr().out


def test_without_a_browser_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site, "chromium", lambda: None)
    assert site.main(tmp_path) == 0
    assert capsys.readouterr().out == "skipped: there is no Chromium to open the pages with\n"
