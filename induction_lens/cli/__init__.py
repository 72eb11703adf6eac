"""The command line: each command reads its options, calls one function, and prints the result.

Tables go to stdout, and with `--json` only JSON does; progress and errors go to stderr. Errors of
the user are one line, with exit code 2.
"""

from induction_lens.cli import circuits, common, comparing, models, suites, tasks, training, views
from induction_lens.cli.common import app

__all__ = [
    "app",
    "circuits",
    "common",
    "comparing",
    "models",
    "suites",
    "tasks",
    "training",
    "views",
]
