"""What a file of the corpus is read as: code, a page of documentation, or docstrings."""

from __future__ import annotations

import ast
import email
import warnings
from pathlib import Path

MIN_CHARACTERS = 200
"""Shorter documents are left out: there is too little in them to learn from."""

_DOCUMENTATION = (".rst", ".md", ".txt")
_DESCRIPTIONS = ("METADATA", "PKG-INFO")  # of packages: the body is the long description
_INFO = (".dist-info", ".egg-info")
_LICENCES = ("license", "licence", "copying", "notice", "authors")
_SHARE_OF_WORDS = 0.75


def is_python(path: Path) -> bool:
    """Whether a file holds Python source."""
    return path.name.endswith(".py")


def is_documentation(path: Path) -> bool:
    """Whether a file is documentation, or the description of an installed package."""
    if path.name.lower().startswith(_LICENCES):
        return False
    # What else is about an installed package is lists of its files and names.
    about = any(part.endswith(_INFO) for part in path.parts[:-1])
    return path.name in _DESCRIPTIONS if about else path.name.endswith(_DOCUMENTATION)


def read_text(path: Path) -> str | None:
    """The file's text, or None if it is not UTF-8 or too short to be worth learning from."""
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None
    return text if len(text) >= MIN_CHARACTERS else None


def read_page(path: Path) -> str | None:
    """The prose of a documentation file, or None where there is too little of it."""
    text = read_text(path)
    if text is not None and path.name in _DESCRIPTIONS:
        text = str(email.message_from_string(text).get_payload())
    if text is None or len(text) < MIN_CHARACTERS:
        return None
    of_words = sum(character.isalpha() or character.isspace() for character in text)
    return text if of_words >= _SHARE_OF_WORDS * len(text) else None


def read_docstrings(path: Path) -> str | None:
    """All docstrings of a Python file, in their order, or None where there is too little of them.

    They are dedented, with one blank line between them.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own doubtful escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # Python 2, say
        return None
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    docstrings = [ast.get_docstring(node) for node in nodes]
    joined = "\n\n".join(docstring for docstring in docstrings if docstring)
    return joined if len(joined) >= MIN_CHARACTERS else None
