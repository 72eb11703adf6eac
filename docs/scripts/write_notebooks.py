"""Runs the notebooks, and writes the pages that show them.

    python docs/scripts/write_notebooks.py                # all
    python docs/scripts/write_notebooks.py first_hour     # some

A notebook is a script of the folder `notebooks`, in jupytext's percent format. From each come a
page in docs/pages/notebooks, the figures on it (docs/notebooks), and the notebook without outputs
(docs/pages/notebooks), which Colab opens. A page begins with the SHA-256 of its script, and a test
compares.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
SCRIPTS, PAGES, FIGURES = ROOT / "notebooks", DOCS / "pages" / "notebooks", DOCS / "notebooks"
ORDER = (
    *("first_hour", "own_model_and_text", "own_loop"),
    *("training_dynamics", "public_suites", "mechanism"),
)
"""The notebooks, as a reader would take them."""
PLOTLY = "application/vnd.plotly.v1+json"
_LINK = re.compile(r"\]\((?!https?:)([^)]+)\)")


def sha256(name: str) -> str:
    """Of a notebook's script."""
    return hashlib.sha256((SCRIPTS / f"{name}.py").read_bytes()).hexdigest()


def repository() -> str:
    """The address of the source, from pyproject.toml."""
    found = re.search(r'^Source = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def colab(name: str) -> str:
    """Where Colab opens a notebook."""
    at = repository().removeprefix("https://github.com/")
    path = (PAGES / f"{name}.ipynb").relative_to(ROOT).as_posix()
    return f"https://colab.research.google.com/github/{at}/blob/main/{path}"


def read(name: str) -> Any:
    """A notebook without outputs; equal scripts give equal notebooks."""
    import jupytext

    notebook = jupytext.read(SCRIPTS / f"{name}.py")
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def run(name: str) -> Any:
    """A notebook with its outputs, run in an empty folder and without a network.

    Raises:
        CellExecutionError: A cell raised an error.
    """
    from nbclient import NotebookClient

    notebook = read(name)
    settings = {
        **{"HF_HUB_OFFLINE": "1", "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONWARNINGS": "ignore"},
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        )
        return client.execute(env={**os.environ, **settings})


def page(name: str, notebook: Any) -> tuple[str, list[dict[str, Any]]]:
    """A run notebook as the text of a page, and its figures."""
    figures: list[dict[str, Any]] = []
    title, *cells = notebook.cells
    parts = [f"<!-- notebook: {sha256(name)} -->", *_title(name, title.source)]
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            outputs = _joined(cell.outputs)
            parts += [shown for output in outputs if (shown := _shown(output, name, figures))]
    return "\n\n".join(parts) + "\n", figures


def _title(name: str, source: str) -> list[str]:
    """The heading, where to open the notebook, and what it is about."""
    heading, _, about = source.partition("\n\n")
    where = (
        f"[Open in Colab]({colab(name)}){{ .md-button }} "
        f"[Download the notebook]({name}.ipynb){{ .md-button download }}"
    )
    return [heading, where, about]


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs, with lines that were printed one after the other in one: how they arrived is
    chance."""
    joined: list[Any] = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before is not None and _stream(before) and _stream(before) == _stream(output):
            before.text += output.text
        else:
            joined.append(output)
    return joined


def _stream(output: Any) -> str | None:
    """Where an output was printed to; None for one that was not printed."""
    return output.name if output.output_type == "stream" else None


def _shown(output: Any, name: str, figures: list[dict[str, Any]]) -> str:
    """One output; progress bars, on stderr, are left out."""
    if output.output_type == "stream":
        return _text(output.text) if output.name == "stdout" else ""
    data = output.data
    if PLOTLY in data:
        figures.append({"data": data[PLOTLY]["data"], "layout": _slim(data[PLOTLY]["layout"])})
        return f"<!-- notebook figure: {name} {len(figures) - 1} -->"
    if "text/html" in data:
        return _html(data["text/html"])
    return _text(data["text/plain"])


def _slim(layout: dict[str, Any]) -> dict[str, Any]:
    """A layout without plotly's default template, which is as large as most figures."""
    return {name: value for name, value in layout.items() if name != "template"}


def _rounded(thing: Any) -> Any:
    """The same with four digits of every number: more are not seen."""
    if isinstance(thing, float):
        return float(f"{thing:.4g}")
    if isinstance(thing, dict):
        return {name: _rounded(value) for name, value in thing.items()}
    return [_rounded(value) for value in thing] if isinstance(thing, list) else thing


def _text(text: str) -> str:
    return f'```text {{ .output title="output" }}\n{text.rstrip()}\n```'


def _html(source: str) -> str:
    """A table or drawing, without pandas' own style, on lines of its own and without blank ones."""
    source = re.sub(r"<style.*?</style>", "", source, flags=re.DOTALL)
    source = re.sub(r' (border="1"|class="dataframe")', "", source)
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    rows = "\n".join(lines).replace("</td>\n", "</td>").replace("</th>\n", "</th>")
    return f'<div class="output-html">\n{rows}\n</div>'


def as_ipynb(name: str) -> str:
    """The notebook for Colab: without outputs, and with the page's links and an installation."""
    import nbformat

    notebook = read(name)
    site = f"{repository()}/blob/main/docs/pages/notebooks/"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(lambda found: f"]({site}{found[1]})", cell.source)
    install = nbformat.v4.new_code_cell(
        "import sys\n\n"
        'if "google.colab" in sys.modules:\n'
        f'    %pip install -q "induction_lens @ git+{repository()}"',
        id="install",
    )
    notebook.cells.insert(1, install)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def write(name: str) -> None:
    """Run a notebook, and write what is shown of it."""
    text, figures = page(name, run(name))
    (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    (PAGES / f"{name}.ipynb").write_text(as_ipynb(name), encoding="utf-8")
    drawn = json.dumps(_rounded(figures), ensure_ascii=False, separators=(",", ":"))
    (FIGURES / f"{name}.json").write_text(drawn + "\n", encoding="utf-8")


if __name__ == "__main__":
    for one in sys.argv[1:] or ORDER:
        write(one)
        print(one)
