"""A hook of mkdocs: API pages begin with what people call; the rest is folded away.

A page of docs/pages/api lists modules, `::: induction_lens.ablation.study`. Of each, what a package
makes public (`__all__`) comes first, by the name it is imported by. What else the modules hold, for
those who build on them, follows in a part that is closed until it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from types import ModuleType
from typing import Any

import induction_lens

_DIRECTIVE = re.compile(r"^::: (induction_lens[\w.]*)\n?", re.MULTILINE)
_BEHIND = '??? note "Behind these: for those who build on the package"'


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Arrange an API page."""
    if not page.file.src_uri.startswith("api/"):
        return markdown
    return arranged(markdown)


def arranged(markdown: str) -> str:
    """A page with what is public first."""
    asked = _DIRECTIVE.findall(markdown)
    text = _DIRECTIVE.sub("", markdown).rstrip()
    lead: list[str] = []
    behind: list[str] = []
    for path in asked:
        if not _is_module(path) or _is_package(path):
            lead.append(path)
            continue
        names = public_names(path)
        lead += [public_path(path, name) for name in names]
        behind.append(_folded(path, names))
    parts = [text, *(f"::: {path}" for path in lead)]
    if behind:
        parts += [_BEHIND, *behind]
    return "\n\n".join(parts) + "\n"


def public_names(module: str) -> list[str]:
    """What is defined in a module and public in a package, in the order of the source."""
    found = importlib.import_module(module)
    own = {
        name: thing
        for name, thing in vars(found).items()
        if name in _public()
        and getattr(thing, "__module__", None) == module
        and _public()[name][1] is thing
    }
    return sorted(own, key=lambda name: _line(own[name]))


def public_path(module: str, name: str) -> str:
    """The shortest name that something is imported by; its own where that is a module's too."""
    path = _public()[name][0]
    return f"{module}.{name}" if _is_module(path) else path


@cache
def _public() -> dict[str, tuple[str, Any]]:
    """What packages make public, by name: the path, and the thing."""
    packages = ["induction_lens"]
    for found in pkgutil.walk_packages(induction_lens.__path__, "induction_lens."):
        if found.ispkg and not found.name.startswith("induction_lens.cli"):
            packages.append(found.name)
    public: dict[str, tuple[str, Any]] = {}
    for package in sorted(packages, key=lambda name: name.count(".")):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not isinstance(thing, ModuleType):
                public.setdefault(name, (f"{package}.{name}", thing))
    return public


@cache
def _is_module(path: str) -> bool:
    try:
        importlib.import_module(path)
    except ImportError:
        return False
    return True


def _is_package(path: str) -> bool:
    return hasattr(importlib.import_module(path), "__path__")


def _line(thing: Any) -> int:
    try:
        return inspect.getsourcelines(inspect.unwrap(thing))[1]
    except (OSError, TypeError):
        return 0


def _folded(module: str, names: list[str]) -> str:
    """A module inside the closed part, without what comes before it."""
    lines = [f"::: {module}", "    options:", "      heading_level: 3"]
    if names:
        lines += ["      filters:", '        - "!^_"', f'        - "!^({"|".join(names)})$"']
    return "\n".join(f"    {line}" for line in lines)
