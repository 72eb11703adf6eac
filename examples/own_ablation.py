"""An ablation method of your own: heads that write half of what they would.

python examples/own_ablation.py toy-2l --heads 1.6
"""

import argparse
from dataclasses import dataclass

import induction_lens as il


@dataclass(frozen=True)
class Halve(il.ablation.AblationMethod):
    """Half of what the head puts out."""

    name = "halve"
    position_wise = True  # each position by itself: the fast road may be taken

    def replacement(self, z, place):
        return z / 2


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", nargs="?", default="toy-2l")
parser.add_argument("--heads", default="1.6")
parser.add_argument("--quick", action="store_true", help="fewer sequences and controls")
options = parser.parse_args()

model = il.load(options.model)
heads = options.heads.split(",")
text = il.text_tokens(model, n_sequences=16 if options.quick else 256)

study = il.ablate(model, heads, text, method=Halve(), window=10)
print(f"half of {options.heads} changes the ICL score by {study.effect} nats")

n_controls = 2 if options.quick else 20
report = il.report(model, text=text, heads=heads, methods=["zero", Halve()], n_controls=n_controls)
print(report.save("own-ablation-report"))
