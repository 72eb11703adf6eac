"""The names that users import, what importing them costs, and that the README tells the truth."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import induction_lens as il
from induction_lens.models import HAS_HOOKED_TRANSFORMER

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "induction_lens"

# The contract: every public function, with the defaults that users rely on.
SIGNATURES = {
    "load": {"device": None, "dtype": None},
    "repeated_random_tokens": {
        "n_tokens": 25,
        "n_repeats": 4,
        "n_sequences": 32,
        "seed": 0,
        "ids": None,
        "seq_len": None,
    },
    "text_tokens": {"n_sequences": 256, "seq_len": 512, "seed": 0, "source": None},
    "score_heads": {"tokens": None, "text": None, "detectors": None},
    "per_token_loss": {},
    "icl_score": {"early": 50, "late": 500, "window": 0},
    "knocked_out": {"method": "mean", "reference": None},
    "ablate": {
        "method": "mean",
        "n_controls": 20,
        "seed": 0,
        "early": 50,
        "late": 500,
        "window": 0,
    },
    "ablate_each_head": {"method": "mean"},
    "train": {},
    "zoo": {},
    "report": {},
}
TYPES = ("Head", "HeadScores", "ScoreTable", "Estimate", "AblationStudy")


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_have_the_defaults_of_the_contract(name):
    parameters = inspect.signature(getattr(il, name)).parameters
    defaults = {option: parameters[option].default for option in SIGNATURES[name]}
    assert defaults == SIGNATURES[name]


def test_all_names_the_contract_and_everything_imported():
    assert {*SIGNATURES, *TYPES} <= set(il.__all__)
    imported = {
        alias.asname or alias.name
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported | {"__version__"} == set(il.__all__)


def test_options_are_keyword_only():
    positional = {
        name: [
            option
            for option in SIGNATURES[name]
            if inspect.signature(getattr(il, name)).parameters[option].kind
            is not inspect.Parameter.KEYWORD_ONLY
        ]
        for name in SIGNATURES
    }
    # icl_score(losses, 50, 500) reads as the paper writes it.
    assert {name: found for name, found in positional.items() if found} == {
        "icl_score": ["early", "late"]
    }


@pytest.mark.slow
def test_importing_waits_for_no_heavy_library():
    """Nor for TransformerLens, whose import takes longer than all the rest: help and completion of
    names need none of it."""
    script = """
import sys
import torch
before = set(sys.modules)
import induction_lens
added = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(added - set(sys.stdlib_module_names)))
from induction_lens.cli import app
print("transformer_lens" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    added, waited = result.stdout.splitlines()
    heavy = {"datasets", "jinja2", "pandas", "plotly", "pyarrow", "rich", "scipy", "sklearn"}
    heavy |= {"tokenizers", "transformer_lens", "transformers", "typer", "wandb"}
    assert "induction_lens" in added.split()
    assert set(added.split()) & heavy == set()
    assert waited == "False"


def test_whether_there_is_a_hooked_transformer_is_known_without_importing_it():
    there = importlib.util.find_spec("transformer_lens.HookedTransformer")
    assert (there is not None) == HAS_HOOKED_TRANSFORMER


def test_readme_lists_exactly_the_folders_there_are():
    readme = (ROOT / "README.md").read_text()
    tree = readme.split("## Files")[1].split("```")[1].removeprefix("text\n")
    listed = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/*")}
    assert listed == {f"{name}/" for name in folders - {"__pycache__"}}
