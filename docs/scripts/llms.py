"""A hook of mkdocs: writes llms.txt, a list of all pages for programs that read (llmstxt.org).

Each page stands there with its title, its address and its first sentence.
"""

import re
from pathlib import Path
from typing import Any

_PAGES: dict[str, str] = {}
"""The first sentence of each page, by its source."""
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_NO_PROSE = ("#", "|", "<", ":::", "-", "!!!", "???", "[", "    ")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keep a page's first sentence."""
    _PAGES[page.file.src_uri] = first_sentence(markdown)
    return markdown


def on_nav(nav: Any, config: Any, **_: Any) -> Any:
    """Keep the order of the pages."""
    config.extra["pages_in_order"] = list(nav.items)
    return nav


def on_post_build(config: Any, **_: Any) -> None:
    """Write the list into the site."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    lines += _listed(config.extra["pages_in_order"])
    text = "\n".join(lines).rstrip() + "\n"
    (Path(config.site_dir) / "llms.txt").write_text(text, encoding="utf-8")


def first_sentence(markdown: str) -> str:
    """The first sentence of the first paragraph of prose; empty where there is none."""
    for paragraph in re.split(r"\n\s*\n", _CODE.sub("", markdown)):
        if paragraph.strip() and not paragraph.lstrip("\n").startswith(_NO_PROSE):
            plain = _LINK.sub(r"\1", " ".join(paragraph.split()))
            plain = re.sub(r"^\*\*[^*]+\.\*\* ", "", plain).replace("*", "")
            return re.split(r"(?<=[.!?])\s(?=[A-Z`])", plain)[0].rstrip(":")
    return ""


def _listed(items: list[Any], depth: int = 2) -> list[str]:
    """Pages, and below them the sections, so that no page seems to be of the section before it."""
    lines: list[str] = []
    for item in sorted(items, key=lambda item: item.is_section):
        if item.is_section:
            lines += ["", f"{'#' * depth} {item.title}", "", *_listed(item.children, depth + 1)]
        elif item.is_page:
            about = _PAGES.get(item.file.src_uri, "")
            lines.append(f"- [{item.title}]({item.file.url})" + (f": {about}" if about else ""))
    return lines
