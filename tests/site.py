"""Opens every page of the built documentation in a browser, and says what is wrong with it.

    mkdocs build --strict -f docs/mkdocs.yml -d site
    python -m tests.site site

Each page is looked at 400, 800 and 1600 pixels wide, light and dark, with all that folds unfolded:
nothing sticks out sideways, the contrast of text is 4.5 at least, Tab reaches every control, the
console is silent, and nothing is asked of a network. Without Chromium it says so, and ends well.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.browser import LOCAL, THEMES, WIDTHS, Page, browsing, chromium, faults

SCHEMES = {"light": "default", "dark": "slate"}
"""What the theme of the documentation calls a light page, and a dark one."""


def check(folder: Path) -> dict[str, list[str]]:
    """What is wrong, by page; and with the first page where it is opened as a file."""
    found: dict[str, list[str]] = {}
    with browsing() as browser, _served(folder) as base:
        page = browser.open("about:blank")
        page.within = (base, "data:", "blob:", "about:")
        for path in sorted(folder.rglob("*.html")):
            name = path.relative_to(folder).as_posix()
            found[name] = list(_faults(page, base + name))
        page.within = LOCAL
        found["index.html, as a file"] = list(_faults(page, folder / "index.html"))
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


def _faults(page: Page, address: Path | str) -> Iterator[str]:
    """What is wrong with one page, in the colours that the reader's system has."""
    page.show(width=WIDTHS[0])
    page.load(address)
    for theme in THEMES:
        page.show(width=WIDTHS[0], theme=theme)
        page.settle()
        scheme = page.evaluate("document.body.dataset.mdColorScheme || null")
        if scheme not in (None, SCHEMES[theme]):
            yield f"{theme}: the scheme is {scheme}"
    yield from faults(page)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
