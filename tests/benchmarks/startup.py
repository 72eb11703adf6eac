"""What starting costs: `import induction_lens`, and a whole report, each in a new process."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tests.benchmarks.harness import Row, Target, interleave

WITHOUT_US = "import transformer_lens"
WITH_US = "import transformer_lens, induction_lens"
COMMAND = "from induction_lens.cli import app; app()"


def importing(*, quick: bool) -> list[Row]:
    """Importing the package on top of TransformerLens."""
    baseline, ours = interleave(
        {WITHOUT_US: lambda: _python("-c", WITHOUT_US), WITH_US: lambda: _python("-c", WITH_US)},
        repeats=1 if quick else 3,
        memory=False,
    )
    note = f"{ours.median - baseline.median:+.2f} s"
    return [Row("import", baseline, ours, "ours / baseline", note=note)]


def report(*, quick: bool) -> list[Row]:
    """The whole report on toy-2l, against the import that it cannot do without."""

    def whole_report() -> None:
        with tempfile.TemporaryDirectory() as folder:
            _python("-c", COMMAND, "report", "toy-2l", "--out", folder)

    baseline, ours = interleave(
        {WITHOUT_US: lambda: _python("-c", WITHOUT_US), "induction-lens report": whole_report},
        repeats=1 if quick else 3,
        memory=False,
    )
    target = Target("seconds", "at most", 20.0)
    return [Row("report/toy-2l", baseline, ours, "ours / baseline", (target,))]


def _python(*arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", *arguments]
    subprocess.run(command, check=True, capture_output=True)


BENCHMARKS = {"import": importing, "report/toy-2l": report}
