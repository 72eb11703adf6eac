"""A task of your own from a DataFrame: few-shot accuracy with and without a head.

python examples/own_task.py                   # toy-2l
python examples/own_task.py gpt2
python examples/own_task.py --quick           # fewer items
"""

import sys

import pandas as pd

import induction_lens as il

QUICK = "--quick" in sys.argv
MODEL = next((word for word in sys.argv[1:] if not word.startswith("-")), "toy-2l")

words = ["red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "rose"]
frame = pd.DataFrame({"word": words, "again": words})  # two columns: what is asked, what is right

model = il.load(MODEL)
task = il.tasks.Task.from_frame("repeat", frame, template="{prompt} {answer}\n")
found = il.tasks.few_shot(model, task, shots=4, n_items=4 if QUICK else 10, heads="1.6")
print(f"accuracy {found.accuracy}, without 1.6 {found.without}, change {found.effect}")
print(f"chance {found.chance:.2f}")
