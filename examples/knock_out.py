"""Knock the induction heads of a model out, and see what is left of its in-context learning.

python examples/knock_out.py                  # toy-2l, which ships with the package
python examples/knock_out.py gpt2             # a name on the hub, or a local folder
python examples/knock_out.py --quick          # fewer sequences
"""

import sys

import induction_lens as il

QUICK = "--quick" in sys.argv
MODEL = next((word for word in sys.argv[1:] if not word.startswith("-")), "toy-2l")
N_SEQUENCES = 16 if QUICK else 256
WINDOW = 10  # average the losses of 21 positions around tokens 50 and 500: less noise
METHODS = ("mean", "zero") if QUICK else ("mean", "resample", "zero", "pattern-preserving")

model = il.load(MODEL)
heads = il.score_heads(model)["induction"].above(0.3)
if not heads:
    sys.exit(f"{MODEL} has no induction head to knock out")
print("induction heads:", *heads)

# Source files of the Python standard library that the toys were not trained on.
text = il.sample_text(model, n_sequences=N_SEQUENCES, seed=0)
losses = il.per_token_loss(model, text)
documents = text.documents  # the units of all intervals
print("ICL score, as in the paper:", il.icl_score(losses, documents=documents))
print("ICL score, windowed:       ", il.icl_score(losses, window=WINDOW, documents=documents))

for method in METHODS:
    # The controls are random sets with as many heads in each layer.
    study = il.ablate(model, heads, text, method=method, window=WINDOW, n_controls=20)
    print(f"{method}: {study.clean} becomes {study.ablated}")
    print(f"  effect {study.effect} nats", end="")
    print(f", rank {study.rank} among itself and {len(study.controls)} controls")

# The same by hand: a model with heads knocked out is a model like any other.
with il.knocked_out(model, heads, method="mean", reference=text):
    without = il.per_token_loss(model, text)
print(
    f"loss at the last position: {losses[:, -1].mean():.4f}, without: {without[:, -1].mean():.4f}"
)
