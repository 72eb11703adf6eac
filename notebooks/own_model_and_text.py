# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model and text
#
# Everything in the first notebook works on a model of yours and on a text of yours. Here both are
# made on the spot, so that nothing is downloaded: a tiny GPT-2 with random weights stands for your
# model. It has learned nothing, so expect to find nothing.

# %% [markdown]
# ## A model
#
# `il.load` takes a folder that `save_pretrained` wrote, a name on the Hugging Face hub, or a
# `HookedTransformer` or `TransformerBridge` that you have already.

# %%
import torch
import transformers

torch.manual_seed(0)
shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 256, "vocab_size": 300}
theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0))
theirs.save_pretrained("my-model")

# %%
import induction_lens as il

mine = il.load("my-model")

# %% [markdown]
# While loading, your model runs once unchanged, and the hooked one must predict the same. A model
# without a tokenizer, like this one, works with token ids.

# %%
scores = il.score_heads(mine)
print(scores["induction"].above(0.3) or "no induction heads")
il.plots.head_map(scores["induction"])

# %% [markdown]
# `scores["induction"].chance(head)` is what chance allows. A score near it says nothing.

# %%
[(best, score)] = scores["induction"].top(1)
print(f"{best} scores {score:.3f}, and chance allows {scores['induction'].chance(best):.3f}")

# %% [markdown]
# ## A text
#
# Your documents can be strings, files, folders, a column of a data frame, or a `.jsonl` file with
# one document a row. From here on the model is the small one that ships, which has a tokenizer and
# heads to find.

# %%
import json
from pathlib import Path

model = il.load("toy-2l")
lines = [f"def function_{n}(value):\n    return value * {n} + offset_{n}\n" for n in range(400)]
documents = ["\n".join(lines[start : start + 40]) for start in range(0, 400, 10)]
with Path("mine.jsonl").open("w") as file:
    file.writelines(json.dumps({"body": document}) + "\n" for document in documents)

# %%
text = il.sample_text(model, source="mine.jsonl", column="body", n_sequences=40)
text.tokens.shape

# %% [markdown]
# The name of the column is `text` unless you say otherwise. Sequences are cut from documents, and
# each token remembers which one it is from: intervals are over documents.

# %%
losses = il.per_token_loss(model, text)
print(il.icl_score(losses, documents=text.documents, window=10))

# %% [markdown]
# Negative: late tokens are predicted better than early ones. In this text there is something to
# copy from the start, so that even the 50th token is easy, and the score is nearer to zero than on
# ordinary source code. And now without the three induction heads:

# %%
heads = il.score_heads(model)["induction"].above(0.3)
study = il.ablate(model, heads, text, window=10, n_controls=5)
print(study)

# %%
il.plots.cost_by_position(study.clean_losses, {"mean": study.ablated_losses}, early=50, late=500)

# %% [markdown]
# The curve is what the knock-out costs at each position, in nats.
#
# ## Tokens of your own
#
# Wherever a text is taken, a tensor of token ids is taken too, with the beginning-of-sequence token
# at position 0.

# %%
tokens = model.to_tokens(documents[:8])[:, :200]
scores = il.score_heads(model, tokens=tokens, detectors=["induction"])
for head, score in scores["induction"].top(3):
    print(f"{head}  {score:.2f} on this text")

# %% [markdown]
# ## A task of your own
#
# Pairs of a question and its answer make a task. The model gets four worked examples in each
# prompt, and then one question. Here it has to say whether letters alternate, as in `f k f k`.

# %%
import pandas as pd

items = {f"{a} {b} {a} {b}": "yes" for a in "cdfgk" for b in "mnprt"}
items |= {f"{a} {b} {b} {c}": "no" for a in "cdfgk" for b in "mnp" for c in "rt"}
frame = pd.DataFrame(items.items(), columns=["letters", "alternate"])
task = il.tasks.Task.from_frame("alternating", frame)
result = il.tasks.few_shot(model, task, shots=4, heads=heads, n_items=40)
print(result)

# %% [markdown]
# This small model cannot do it: its accuracy is not told from chance, which is what the best
# constant answer scores. With a model that can, `effect` says what it loses without the heads.
#
# ## What next
#
# - [Ablation inside your own loop](own_loop.md)
# - [Models that can be loaded](../models.md), and [texts](../choosing.md#the-text)
