"""A real browser for tests: Chromium, driven by its own protocol, without a driver to install.

    with browsing() as browser:
        page = browser.open(path, width=400, theme="dark")
        assert page.evaluate("document.title") == "…"
        assert page.problems == []
        assert list(faults(page)) == []

Names resolve to nothing, so that a page that asks a network for something fails and is seen. Tests
take the fixture `browser`, and are skipped where there is no Chromium.

The protocol is Chromium's DevTools protocol, as JSON that ends with a zero byte
(`--remote-debugging-pipe` reads file descriptor 3 and writes 4).
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
from functools import cache
from pathlib import Path
from typing import Any, Literal

Theme = Literal["light", "dark"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--mute-audio", "--hide-scrollbars"),
    *("--disable-renderer-backgrounding", "--disable-background-timer-throttling"),
    "--disable-features=BackForwardCache",  # pages that were left would fill the memory
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
WIDTHS = (400, 800, 1600)
"""Of the windows that pages are looked at in, in CSS pixels."""
THEMES: tuple[Theme, ...] = ("light", "dark")
CONTRAST = 4.5
"""The least contrast of text to what is behind it."""
PATIENCE = 180.0
"""Seconds to wait for an answer."""
LOCAL = ("file:", "data:", "blob:", "about:")
_LOOK = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_AT_ONCE = 50  # keys that are pressed before the first answer is waited for


@cache
def chromium() -> str | None:
    """Where it is; None where there is none. It is started once: where a system only leads to a
    package that has it, the name is there and the browser is not."""
    for path in filter(None, map(shutil.which, NAMES)):
        command = [path, "--version"]
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if told.returncode == 0 and "Chrom" in told.stdout:
            return path
    return None


class Browser:
    """A running Chromium."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = os.pipe(), os.pipe()
        # bash, since other shells know file descriptors of one digit alone
        wired = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", wired, *command],
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
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def open(
        self,
        address: Path | str,
        *,
        width: int = 1200,
        height: int = 900,
        theme: Theme = "light",
        until: str = "true",
    ) -> Page:
        """Open a file or an address in a new tab, for readers who prefer a light or dark page.

        Args:
            address: What to open.
            width: Of the window, in CSS pixels.
            height: Of the window, in CSS pixels.
            theme: What the reader prefers.
            until: An expression of JavaScript that holds once the page is there.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        self._pages[session] = page
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call("Network.enable", maxTotalBufferSize=0)  # what was sent is not asked for again
        page.show(width=width, height=height, theme=theme)
        page.load(address, until=until)
        return page

    def call(self, method: str, *, session: str | None = None, **options: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer.

        Raises:
            RuntimeError: The browser refuses, or has ended.
            TimeoutError: It does not answer.
        """
        return self.answer(self.ask(method, session=session, **options))

    def ask(self, method: str, *, session: str | None = None, **options: Any) -> int:
        """Ask for something; the number by which its answer is known."""
        self._last += 1
        asked: dict[str, Any] = {"id": self._last, "method": method, "params": options}
        if session is not None:
            asked["sessionId"] = session
        message = json.dumps(asked).encode() + b"\0"
        while message:
            message = message[os.write(self._write, message) :]
        return self._last

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for an answer."""
        while number not in self._answers:
            self.receive()
        told = self._answers.pop(number)
        if "error" in told:
            raise RuntimeError(told["error"]["message"])
        return told["result"]

    def receive(self) -> None:
        """Wait for the next message, and keep it where it belongs."""
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer from the browser in {PATIENCE:.0f} s")
            read = os.read(self._read, 1 << 20)
            if not read:
                raise RuntimeError("the browser ended")
            self._left += read
        message, self._left = self._left.split(b"\0", 1)
        told = json.loads(message)
        if "id" in told:
            self._answers[told["id"]] = told
        elif (page := self._pages.get(told.get("sessionId", ""))) is not None:
            page.events.append(told)

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
        self._size: tuple[int, int] | None = None
        self._theme: Theme | None = None
        self.events: list[dict[str, Any]] = []
        """What happened since the page was opened."""
        self.seconds = 0.0
        """How long it took to load, with everything that is drawn then."""
        self.within: tuple[str, ...] = LOCAL
        """How addresses begin that a page may ask for."""

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Ask the tab for something."""
        return self._browser.call(method, session=self._session, **options)

    def load(self, address: Path | str, *, until: str = "true") -> None:
        """Open a file or an address in this tab, and wait until it is there and drawn."""
        self.events.clear()
        began = time.monotonic()
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        failed = self.call("Page.navigate", url=url).get("errorText")
        if failed:
            raise RuntimeError(f"{url}: {failed}")
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._browser.receive()
        self.wait(until)
        self.settle()
        self.seconds = time.monotonic() - began

    def wait(self, until: str) -> None:
        """Wait until an expression of JavaScript holds."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({until})"):
            if time.monotonic() > end or self.problems:
                raise TimeoutError(f"not so after {PATIENCE:.0f} s: {until}; {self.problems}")
            time.sleep(0.01)

    def settle(self) -> None:
        """Wait for two frames, in which what was resized is drawn again."""
        frame = "new Promise((next) => requestAnimationFrame(next))"
        self.evaluate(f"{frame}.then(() => {frame}).then(() => 0)")

    def show(self, *, width: int, height: int = 900, theme: Theme = "light") -> None:
        """Give the window another size, in CSS pixels, and the reader another preference."""
        size, self._size = self._size, (width, height)
        if size != self._size:
            shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **shape)
        preferred, self._theme = self._theme, theme
        if preferred != theme:
            feature = {"name": "prefers-color-scheme", "value": theme}
            self.call("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, script: str) -> Any:
        """What an expression of JavaScript is, awaited.

        Raises:
            RuntimeError: It raised an error.
        """
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"].get("exception", told)["description"])
        return told["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press and let go of a key, such as `Tab`, `Enter` or `ArrowRight`."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"Enter": "\r", " ": " "}.get(key)
        known = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        typed = known if text is None else {**known, "text": text}
        for start in range(0, times, _AT_ONCE):
            asked = []
            for _ in range(start, min(times, start + _AT_ONCE)):
                for kind, pressed in (("keyDown", typed), ("keyUp", known)):
                    options = {"session": self._session, "type": kind, **pressed}
                    asked.append(self._browser.ask("Input.dispatchKeyEvent", **options))
            for number in asked:
                self._browser.answer(number)

    @property
    def problems(self) -> list[str]:
        """Errors in the console, and what was asked of a network."""
        found = []
        for event in self.events:
            method, told = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                said = details.get("exception", {}).get("description", details["text"])
                found.append(f"error: {said}")
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
                found.append(f"console: {[one.get('value') for one in told['args']]}")
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(f"log: {told['entry']['text']} {told['entry'].get('url', '')}")
            elif method == "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith(self.within):
                    found.append(f"request: {url}")
        return found

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    @property
    def height(self) -> int:
        """The height of the whole page in pixels."""
        return self.evaluate("document.scrollingElement.scrollHeight")

    def contrasts(self, least: float = CONTRAST) -> list[tuple[float, str, str]]:
        """Texts with less contrast to what is behind them: the contrast, the text, its element."""
        return [tuple(one) for one in self._look(f"contrasts({least})")]

    def sideways(self) -> str:
        """What makes the page wider than the window; empty where nothing does."""
        return self._look("sideways()")

    def unreachable(self) -> list[str]:
        """Controls that are not reached by pressing Tab.

        A control that was reached since the page was opened counts as reached: what takes the focus
        once does so in windows of other widths too, as long as it is shown.
        """
        presses = self._look("begin()")
        if presses == 0:
            return []
        self.press("Tab", presses)
        left = self._look("left()")
        while left:  # boxes that scroll take the focus too, and are not asked for
            self.press("Tab", 20)
            still = self._look("left()")
            if len(still) == len(left):
                break
            left = still
        self.press("Escape")
        self.evaluate("document.activeElement?.blur()")
        return left

    def unfold(self) -> None:
        """Open all that is folded, and stop what moves, so that the whole page is looked at."""
        self._look("prepare()")
        self.settle()

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _look(self, what: str) -> Any:
        if not self.evaluate("Boolean(window.looked)"):
            self.evaluate(_LOOK)
        return self.evaluate(f"looked.{what}")


def faults(page: Page) -> Iterator[str]:
    """What is wrong with a page at every width, light and dark.

    Text has contrast, nothing sticks out sideways, each control is reached by Tab, the console is
    silent, and nothing is asked of a network. The page is left unfolded.
    """
    page.unfold()
    # a window is dear to resize, and which controls there are does not depend on the colours
    looks = [(width, THEMES[0]) for width in WIDTHS]
    looks += [(width, THEMES[1]) for width in reversed(WIDTHS)]
    for number, (width, theme) in enumerate(looks):
        where = f"{width} px, {theme}"
        page.show(width=width, theme=theme)
        page.settle()
        if wide := page.sideways():
            yield f"{where}: sideways, {wide}"
        for ratio, text, element in sorted(set(page.contrasts()))[:8]:
            yield f"{where}: contrast, {ratio:.2f} of {text!r} in {element}"
        if number >= len(WIDTHS):
            for control in page.unreachable():
                yield f"{where}: keyboard, {control}"
    yield from page.problems


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser, for as long as the block lasts.

    Raises:
        RuntimeError: There is no Chromium.
    """
    found = chromium()
    if found is None:
        raise RuntimeError(f"expected Chromium, got none of {', '.join(NAMES)}; install one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = Browser([found, *OPTIONS, f"--user-data-dir={profile}", "about:blank"])
        try:
            yield running
        finally:
            running.close()
