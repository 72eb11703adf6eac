"""A real browser for tests: Chromium, driven by its own protocol, without a driver to install.

    with browser() as chromium:
        page = chromium.open(path, width=400, theme="dark")
        assert page.evaluate("document.title") == "…"
        assert page.problems == []

Names resolve to nothing, so that a page that asks a network for something fails and is seen. Tests
that use it are skipped where there is no Chromium.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ),
    *("--disable-extensions", "--disable-background-networking", "--disable-sync", "--mute-audio"),
    *("--hide-scrollbars", "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--disable-renderer-backgrounding", "--disable-background-timer-throttling"),
)
PATIENCE = 60.0
"""Seconds to wait for an answer."""
LOCAL = ("file:", "data:", "blob:", "about:")

# Every text that is shown, with its colour and what is behind it, blended; text in figures whose
# background is a heat map is left out, for its colours are chosen cell by cell and tested there.
_CONTRASTS = """
(() => {
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return parts.length === 3 ? [...parts, 1] : parts;
  };
  const mixed = (top, below) => (i) => top[i] * top[3] + below[i] * (1 - top[3]);
  const over = (top, below) => [0, 1, 2].map(mixed(top, below)).concat(1);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const canvas = dark ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reverse().reduce((below, top) => over(top, below), canvas);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
    if (element.closest("script, style, title, noscript, .textpoint")) continue;
    const style = getComputedStyle(element);
    const inPicture = element.closest("svg");
    const color = parse(inPicture ? style.fill : style.color);
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) {
      opacity *= Number(getComputedStyle(at).opacity);
    }
    color[3] *= opacity;
    const below = behind(inPicture ? inPicture.parentElement : element);
    const [a, b] = [light(over(color, below)), light(below)].sort((one, two) => two - one);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 40), element.localName]);
  }
  return found;
})()
"""
# What a user can act on: it has to be reached by Tab, unless it is hidden.
_CONTROLS = """
[...document.querySelectorAll(
  "a[href], button, input, select, textarea, summary, [tabindex], [onclick], [role=button]"
)]
  .filter((one) => one.checkVisibility() && one.getAttribute("tabindex") !== "-1" && !one.disabled)
"""


class Browser:
    """A running Chromium."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(ours[0], theirs[1]),
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        self._left = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def open(
        self, path: Path, *, width: int = 1200, height: int = 900, theme: str = "light"
    ) -> Page:
        """Open a file in a new tab, of this width, for readers who prefer a light or dark page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        preferred = {"name": "prefers-color-scheme", "value": theme}
        page.call("Emulation.setEmulatedMedia", features=[preferred])
        page.load(path)
        return page

    def call(self, method: str, *, session: str | None = None, **options: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._last += 1
        asked: dict[str, Any] = {"id": self._last, "method": method, "params": options}
        if session is not None:
            asked["sessionId"] = session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            told = self.receive()
            if told.get("id") == self._last:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]
            self.events.append(told)

    def receive(self) -> dict[str, Any]:
        """The next message."""
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer from the browser in {PATIENCE:.0f} s")
            read = os.read(self._read, 1 << 20)
            if not read:
                raise RuntimeError("the browser ended")
            self._left += read
        told, self._left = self._left.split(b"\0", 1)
        return json.loads(told)

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """A tab with a page in it."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.seconds = 0.0
        """How long it took to load, with everything that is drawn then."""

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Ask the tab for something."""
        return self._browser.call(method, session=self._session, **options)

    def load(self, path: Path) -> None:
        """Open a file, and wait until it is there and drawn."""
        began = time.monotonic()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events()):
            self._browser.events.append(self._browser.receive())
        self.settle()
        self.seconds = time.monotonic() - began

    def settle(self) -> None:
        """Wait for two frames, in which what was resized is drawn again."""
        frame = "new Promise((next) => requestAnimationFrame(next))"
        self.evaluate(f"{frame}.then(() => {frame}).then(() => 0)")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the tab another size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression is."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"].get("exception", told)["description"])
        return told["result"].get("value")

    def press(self, key: str) -> None:
        """Press and let go of a key, such as `Tab`, `Enter` or `ArrowRight`."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"Enter": "\r", " ": " "}.get(key)
        known = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        typed = known if text is None else {**known, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    @property
    def problems(self) -> list[str]:
        """Errors in the console, and what was asked of a network."""
        found = []
        for event in self._events():
            method, told = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
                found.append(str([one.get("value") for one in told["args"]]))
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(told["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith(LOCAL):
                    found.append(f"asked for {url}")
        return found

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    @property
    def height(self) -> int:
        """The height of the whole page in pixels."""
        return self.evaluate("document.scrollingElement.scrollHeight")

    def low_contrasts(self, least: float = 4.5) -> list[tuple[float, str, str]]:
        """Texts that are harder to read than they may be: contrast, text, element."""
        return [tuple(one) for one in self.evaluate(_CONTRASTS) if one[0] < least]

    def unreachable(self) -> list[str]:
        """Controls that are not reached by pressing Tab from the top of the page."""
        self.evaluate(f"window.controls = {_CONTROLS}; document.activeElement.blur(); 0")
        n = self.evaluate("window.controls.length")
        reached = set()
        for _ in range(n + 5):
            self.press("Tab")
            reached.add(self.evaluate("window.controls.indexOf(document.activeElement)"))
            if len(reached - {-1}) == n:
                return []
        left = [at for at in range(n) if at not in reached]
        return self.evaluate(f"{left}.map((at) => window.controls[at].outerHTML.slice(0, 80))")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _events(self) -> list[dict[str, Any]]:
        return [one for one in self._browser.events if one.get("sessionId") == self._session]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, for as long as the block lasts; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = Browser([found, *OPTIONS, f"--user-data-dir={profile}", "about:blank"])
        try:
            yield running
        finally:
            running.close()
