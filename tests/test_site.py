"""The check of the documentation's pages sees what is wrong, and lets good pages pass."""

import pytest

from tests import site
from tests.site_browser import chromium

GOOD = "<!doctype html><title>x</title><body style='background: #fff; color: #333'>{}"
BAD = {
    "wide": ("<div style='width: 900px'>wide</div>", "sideways"),
    "pale": ("<p style='color: #999'>pale</p>", "contrast"),
    "error": ("<p>x</p><script>throw new Error('no')</script>", "error"),
    "console": ("<p>x</p><script>console.error('no')</script>", "console"),
    "request": ("<p>x</p><img src='http://127.0.0.1:9/x.png' alt=''>", "request"),
}


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_each_fault_is_found_and_a_good_page_has_none(tmp_path):
    icon = "<link rel=icon href='data:,'>"
    (tmp_path / "index.html").write_text(GOOD.format(f"{icon}<p>as it should be</p>"))
    for name, (body, _) in BAD.items():
        (tmp_path / f"{name}.html").write_text(GOOD.format(icon + body))
    found = site.check(tmp_path)
    assert set(found) == {f"{name}.html" for name in BAD}
    for name, (_, kind) in BAD.items():
        assert any(kind in line for line in found[f"{name}.html"])
    pale = [line for line in found["pale.html"] if "contrast" in line]
    assert len(pale) == len(site.WIDTHS) * 2
    assert " 2.85: pale" in pale[0]  # of #999 on white, by WCAG's formula
    wide = [line for line in found["wide.html"] if "sideways" in line]
    assert {line.split(":")[0] for line in wide} == {
        f"{width} px, {scheme}" for width in (400, 800) for scheme in ("light", "dark")
    }


def test_without_a_browser_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site, "chromium", lambda: None)
    assert site.main(tmp_path) == 0
    assert capsys.readouterr().out.startswith("skipped")
