"""Find the previous-token and induction heads of a model, and show what chance would score.

python examples/find_heads.py                 # toy-2l, which ships with the package
python examples/find_heads.py gpt2            # a name on the hub, or a local folder
python examples/find_heads.py --quick         # fewer sequences
"""

import sys

import induction_lens as il

QUICK = "--quick" in sys.argv
MODEL = next((word for word in sys.argv[1:] if not word.startswith("-")), "toy-2l")
N_SEQUENCES = 8 if QUICK else 32
THRESHOLD = 0.3

model = il.load(MODEL)

# BOS, then four copies of 25 random tokens: nothing but the repetition predicts them.
tokens = il.repeated_random_tokens(model, n_tokens=25, n_repeats=4, n_sequences=N_SEQUENCES, seed=0)
table = il.score_heads(model, tokens=tokens)

for name in ("previous_token", "induction"):
    scores = table[name]
    print(f"{name}: uniform attention would score {scores.uniform:.3f}")
    for head, score in scores.top(5):
        verdict = "yes" if head in scores.above(THRESHOLD) else "no"
        print(f"  {head}  {score:.4f}  above {THRESHOLD} and above chance: {verdict}")

# An induction head also has to copy: what it attends to, it makes more likely.
for head in table["induction"].above(THRESHOLD):
    print(
        f"induction head {head}: copying {table['copying'][head]:+.4f} by its activations, "
        f"{table['copying_weights'][head]:+.4f} by its weights"
    )

if not table["induction"].above(THRESHOLD):
    print(f"{MODEL} has no induction head")
