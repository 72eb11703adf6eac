"""What the source says of itself: names in docstrings are there, imports are at the top."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections import defaultdict
from pathlib import Path

import induction_lens

PACKAGE = Path(induction_lens.__file__).parent
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
REFERENCE = re.compile(r"`([A-Za-z]\w*(?:\.\w+)+)(?:\(\))?`")
FILES = (".csv", ".html", ".json", ".parquet", ".safetensors", ".svg")
FOREIGN = {"lm_eval", "pandas", "ray", "tests", "threading", "time", "torch"}
"""Libraries whose names docstrings mention."""
TENSORS = {"blocks", "embed", "pos_embed", "scores", "unembed"}
"""What names of weights, and of tensors in files, begin with."""
NEEDS_ANOTHER_LIBRARY = "induction_lens.harness"


def docstrings(tree):
    """Every string that stands as a statement: docstrings, and words about a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield text


def holders():
    """Modules and classes of the package, by the short names that docstrings know them by."""
    found = defaultdict(list)
    found["il"] = found["induction_lens"] = [induction_lens]
    for module in pkgutil.walk_packages(induction_lens.__path__, "induction_lens."):
        if module.name == NEEDS_ANOTHER_LIBRARY:
            continue
        imported = importlib.import_module(module.name)
        found[module.name.rpartition(".")[2]].append(imported)
        for name, thing in vars(imported).items():
            if isinstance(thing, type) and thing.__module__.startswith("induction_lens"):
                found[name].append(thing)
    return found


def members(holder, name):
    """What a module or class has by that name: a field without a default, or a module that a
    function of the same name hides, too."""
    module = sys.modules.get(f"{getattr(holder, '__name__', '')}.{name}")
    field = getattr(holder, "__annotations__", {}).get(name)
    found = (getattr(holder, name, None), module, field)
    return [one for one in found if one is not None]


def test_what_docstrings_refer_to_is_there():
    known = holders()
    broken = []
    for path, tree in SOURCES.items():
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        for text in docstrings(tree):
            for reference in REFERENCE.findall(text):
                first, *rest = reference.split(".")
                if first in arguments | FOREIGN | TENSORS or reference.endswith(FILES):
                    continue
                found = known[first]
                for name in rest:
                    found = [member for holder in found for member in members(holder, name)]
                if not found:
                    broken.append(f"{path.relative_to(PACKAGE)}: {reference}")
    assert broken == []


def test_own_modules_are_imported_at_the_top():
    inside = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in SOURCES.items()
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("induction_lens")
    ]
    assert inside == []
