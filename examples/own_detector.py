"""Score heads with a detector of your own: heads that attend two tokens back.

python examples/own_detector.py               # toy-2l, and a page in two-back-report
python examples/own_detector.py --quick       # fewer sequences and knock-outs
"""

import sys

import torch
from torch import Tensor

import induction_lens as il

QUICK = "--quick" in sys.argv
MODEL = next((word for word in sys.argv[1:] if not word.startswith("-")), "toy-2l")


def two_back(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The key `q - 2` of every query `q >= 3`: rows, queries and keys. The key 0 is BOS."""
    batch, n = tokens.shape
    row, query = torch.cartesian_prod(torch.arange(batch), torch.arange(3, max(n, 3))).T
    return row, query, query - 2


detector = il.detectors.AttentionDetector(
    "two_back",
    two_back,
    title="Two tokens back",
    caption="Attention on the token before the previous one.",
    by_content=False,  # it asks where tokens stand, not which they are
)
model = il.load(MODEL)
scores = il.score_heads(model, detectors=[detector, "previous_token"])
for head, score in scores["two_back"].top(3):
    print(f"{head}  two back {score:.4f}  one back {scores['previous_token'][head]:.4f}")

n_sequences, n_controls = (16, 2) if QUICK else (256, 20)
report = il.report(model, detectors=[detector], n_sequences=n_sequences, n_controls=n_controls)
print(report.save("two-back-report"))
