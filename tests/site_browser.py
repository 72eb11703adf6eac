"""A headless Chromium that is spoken to over two pipes: no driver, no port, no library.

The protocol is Chromium's DevTools protocol, as JSON that ends with a zero byte
(`--remote-debugging-pipe` reads file descriptor 3 and writes 4).
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--mute-audio"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
PATIENCE = 60.0
"""Seconds to wait for an answer."""


def chromium() -> str | None:
    """Where it is; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A tab, and what happened in it."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        """Open a tab in the browser that reads `outgoing` and writes `incoming`."""
        self._incoming, self._outgoing = incoming, outgoing
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer.

        Raises:
            RuntimeError: The browser refuses, or does not answer.
        """
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._outgoing, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]

    def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        before = len(self.events)
        self.call("Page.navigate", url=url)
        while not any(one["method"] == "Page.loadEventFired" for one in self.events[before:]):
            self._next()

    def look(self, *, width: int, dark: bool) -> None:
        """Set the width of the window and the colours that the reader prefers."""
        shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **shape)
        prefers = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[prefers])

    def run(self, script: str) -> Any:
        """The value of an expression, awaited.

        Raises:
            RuntimeError: It raised an error.
        """
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"])[:2000])
        return told["result"].get("value")

    def _next(self) -> dict[str, Any]:
        """The next message; events are kept."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            if time.monotonic() > end:
                raise RuntimeError(f"the browser said nothing for {PATIENCE:.0f} seconds")
            read = os.read(self._incoming, 1 << 16)
            if not read:
                raise RuntimeError("the browser ended")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        told = json.loads(message)
        if "method" in told:
            self.events.append(told)
        return told


@contextmanager
def browsing() -> Iterator[Page]:
    """A tab of a browser that lives as long as the block.

    Raises:
        RuntimeError: There is no Chromium.
    """
    path = chromium()
    if path is None:
        raise RuntimeError("expected Chromium, got none; apt-get install chromium")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # bash, since other shells know file descriptors of one digit alone
        wired = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["bash", "-c", wired, path, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Page(ours_in, ours_out)
        finally:
            process.terminate()
            process.wait(timeout=20)
            os.close(ours_in)
            os.close(ours_out)
