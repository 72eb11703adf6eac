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


def check(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with each page; and with the first page where it is opened as a file."""
    with browsing() as browser, _served(folder) as base:
        page = browser.open("about:blank")
        page.within = (base, "data:", "blob:", "about:")
        for path in sorted(folder.rglob("*.html")):
            name = path.relative_to(folder).as_posix()
            yield name, list(_faults(page, base + name))
        page.within = LOCAL
        yield "index.html, as a file", list(_faults(page, folder / "index.html"))


def main(folder: Path) -> int:
    """Check and print; 1 where something is wrong."""
    if chromium() is None:
        print("skipped: there is no Chromium to open the pages with")
        return 0
    n_pages, n_faults = 0, 0
    for name, wrong in check(folder):
        n_pages += 1
        n_faults += len(wrong)
        if wrong:
            print(name, *(f"  {line}" for line in wrong), sep="\n", flush=True)
    print(f"{n_pages} pages at {', '.join(map(str, WIDTHS))} px, light and dark: {n_faults} faults")
    return 1 if n_faults else 0


def _faults(page: Page, address: Path | str) -> Iterator[str]:
    """What is wrong with one page, in the colours that the reader's system has."""
    page.show(width=WIDTHS[0], theme=THEMES[-1])
    page.load(address)
    for theme in reversed(THEMES):
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
