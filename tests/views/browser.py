"""A real browser without a screen: what a page says after its script and one of the test's."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
_PATIENCE = 180.0  # seconds: a machine with other work takes that long
_WATCH = """<script>
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
</script>"""
_ASK = """<script>
(async () => {
  const until = async (holds) => {
    for (let i = 0; i < 9000 && !holds(); i++) await new Promise((go) => setTimeout(go, 20));
  };
  await until(() => document.documentElement.dataset.ready || faults.length);
  let answer;
  try { answer = await (async () => { %s })(); } catch (error) { faults.push(String(error)); }
  const resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  const asked = resources.filter((name) => !name.startsWith("about:"));
  const overflow = document.documentElement.scrollWidth - innerWidth;
  const body = JSON.stringify({ answer, faults, asked, overflow });
  await fetch("/said", { method: "POST", body });
})();
</script>"""


def asked(page: str, script: str, folder: Path, *, width: int = 1200, dark: bool = False) -> Any:
    """Open a page, run a script in it (the body of an async function), and return what it returns.

    Errors of the page, requests to anything, and an overflow to the side fail the test.
    """
    content = page.replace("<style>", _WATCH + "<style>", 1) + _ASK % script
    heard: list[bytes] = []
    done = threading.Event()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(content.encode())

        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_: Any) -> None:
            """Nothing is said of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _open(f"http://127.0.0.1:{server.server_port}/", folder, done, width=width, dark=dark)
        server.shutdown()
    assert heard, "the page said nothing"
    said = json.loads(heard[0])
    assert said["faults"] == [], said["faults"]
    assert said["asked"] == [], said["asked"]
    assert said["overflow"] <= 0
    return said["answer"]


def _open(address: str, folder: Path, done: threading.Event, *, width: int, dark: bool) -> None:
    """Have a browser show an address until `done`."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--remote-debugging-port=0", f"--window-size={width},900", "--no-first-run"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    options += ["--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    silent = subprocess.DEVNULL
    browser = subprocess.Popen([CHROMIUM, *options, address], stdout=silent, stderr=silent)
    try:
        done.wait(_PATIENCE)
    finally:
        browser.terminate()
        browser.wait(30)
