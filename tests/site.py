"""Opens every page of the built documentation in a browser, and says what is wrong with it.

    mkdocs build --strict -f docs/mkdocs.yml -d site
    python -m tests.site site

Each page is looked at 400, 800 and 1600 pixels wide, light and dark: nothing sticks out sideways,
the contrast of text is 4.5 at least (3 where it is large), the console is silent, and nothing is
asked of a network. Without Chromium it says so, and ends well.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.site_browser import Page, browsing, chromium

WIDTHS = (400, 800, 1600)
LOOK = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
"""What is wrong with the page as it is shown: expression of JavaScript."""


def faults(page: Page, url: str, *, base: str) -> Iterator[str]:
    """What is wrong with one page."""
    before = len(page.events)
    page.look(width=WIDTHS[0], dark=False)
    page.open(url)
    for dark in (False, True):
        for width in WIDTHS:
            page.look(width=width, dark=dark)
            found = page.run(LOOK)
            where = f"{width} px, {'dark' if dark else 'light'}"
            if found["scheme"] not in (None, "slate" if dark else "default"):
                yield f"{where}: the scheme is {found['scheme']}"
            if found["sideways"]:
                yield f"{where}: sideways, {found['sideways']}"
            for text in found["pale"]:
                yield f"{where}: contrast, {text}"
    yield from _heard(page.events[before:], base)


def _heard(events: list[dict], base: str) -> Iterator[str]:
    """Errors in the console, and requests that leave the site."""
    for event in events:
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            yield f"error: {told['exceptionDetails'].get('text')}"
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            yield f"console: {told['args'][:1]}"
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            yield f"log: {told['entry']['text']} {told['entry'].get('url', '')}"
        elif event["method"] == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith((base, "data:", "blob:")):
                yield f"request: {url}"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served, on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def check(folder: Path) -> dict[str, list[str]]:
    """What is wrong, by page; and with the first page where it is opened as a file."""
    found: dict[str, list[str]] = {}
    with browsing() as page, served(folder) as base:
        for path in sorted(folder.rglob("*.html")):
            name = path.relative_to(folder).as_posix()
            found[name] = list(faults(page, base + name, base=base))
        files = folder.resolve().as_uri()
        found["index.html, as a file"] = list(faults(page, f"{files}/index.html", base=files))
    return {name: wrong for name, wrong in found.items() if wrong}


def main(folder: Path) -> int:
    """Check and print; 1 where something is wrong."""
    if chromium() is None:
        print("skipped: there is no Chromium to open the pages with")
        return 0
    found = check(folder)
    for name, wrong in found.items():
        print(name)
        for line in wrong:
            print(f"  {line}")
    n_pages = len(list(folder.rglob("*.html")))
    print(f"{n_pages} pages at {', '.join(map(str, WIDTHS))} px, light and dark: ", end="")
    print(f"{sum(map(len, found.values()))} faults on {len(found)} of them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
