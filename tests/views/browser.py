"""A real browser without a screen: what a page says after its script and one of the test's."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (path := shutil.which(name)) is not None
    ),
    None,
)
_WATCH = """<script>
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
</script>"""
_ASK = """<script>
(async () => {
  const settled = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go, 0)));
  for (let i = 0; i < 500 && !document.documentElement.dataset.ready; i++) await settled();
  let answer;
  try { answer = await (async () => { %s })(); } catch (error) { faults.push(String(error)); }
  const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  const overflow = document.documentElement.scrollWidth - innerWidth;
  const said = { answer, faults, asked, overflow };
  const place = document.createElement("pre");
  place.id = "said-by-the-page";
  place.textContent = JSON.stringify(said);
  document.body.append(place);
})();
</script>"""


def asked(page: str, script: str, folder: Path, *, width: int = 1200, dark: bool = False) -> Any:
    """Open a page, run a script in it (the body of an async function), and return what it returns.

    Errors of the page, requests to anything, and an overflow to the side fail the test.
    """
    assert CHROMIUM is not None
    file = folder / "page.html"
    file.write_text(page.replace("<style>", _WATCH + "<style>", 1) + _ASK % script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    options += ["--virtual-time-budget=20000", f"--window-size={width},900"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    result = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="said-by-the-page">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found is not None, result.stderr[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert said["faults"] == []
    assert said["asked"] == []
    assert said["overflow"] <= 0
    return said["answer"]
