# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Checkpoints that others published
#
# When do induction heads form in Pythia? Its checkpoints are on the Hugging Face hub. A **suite**
# is the checkpoints of one training run; `il.track` measures them one after the other, and gives
# the same trajectory as for a toy.
#
# ## What there is
#
# This asks the hub for its list of checkpoints, and downloads none of them. Without a network it
# says so, and the rest of this notebook works all the same.

# %%
import induction_lens as il

try:
    pythia = il.suites.suite("pythia-70m", progress=False)
    print(pythia)
    print(f"{len(pythia.left_out)} branches are left out: their weights are those of another")
except ValueError as error:
    pythia = None
    print(f"skipped: {error}")

# %% [markdown]
# Some published branches hold the weights of another one. So the hub's sums of all weight files are
# compared first, and what is not what it says is left out: `pythia.left_out` has the reasons.
#
# To measure Pythia you would now write
#
# ```python
# run = il.track(pythia, out="pythia-70m", checkpoints="log:40")
# ```
#
# which downloads one checkpoint at a time, measures it, and deletes it. That takes an hour. So here
# a folder on disk stands for the hub.
#
# ## Checkpoints of your own
#
# Any folder of folders will do, whose names end with a step. This is an ordinary training loop of
# transformers, and knows nothing of this package: a tiny GPT-2 learns to continue sequences that
# repeat.

# %%
from pathlib import Path

import torch
import transformers

language = il.languages.Copies(n_letters=64, length=24)
batches = language.sample(4800, seq_len=64).split(16)
shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 64, "vocab_size": 65}

torch.manual_seed(0)
theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0))
optimizer = torch.optim.AdamW(theirs.parameters(), lr=3e-3)
for step, batch in enumerate(batches):
    if step in (0, 10, 20, 40, 80, 120, 160, 200, 240, 280):
        theirs.save_pretrained(Path("mine", f"step{step}"))
    loss = theirs(batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# The folder is a suite like any other. Its names tell the step; how many tokens a step is, you say.

# %%
mine = il.suites.suite("mine", tokens_per_step=16 * 64)
mine

# %%
mine.to_frame()[["revision", "step", "tokens_seen"]].head(3)

# %% [markdown]
# ## Measure
#
# The text has to be token ids here, since this model has no tokenizer.

# %%
run = il.track(
    mine,
    out="tracked",
    text=language.sample(32, seq_len=64, seed=1),
    n_prompts=16,
    n_ablated=4,
    n_examples=500,
    early=26,
    late=60,
    window=2,
)
run.to_frame()[["step", "held_out_loss", "icl", "induction"]].round(3)

# %%
il.plots.induction_over_training(run)

# %% [markdown]
# In 280 steps this model learns which letters there are, and no head learns to look back. Trained
# for longer it would; the runs that ship with the package do.
#
# ## One checkpoint
#
# A suite also names single checkpoints, and refuses those that are not what they say.

# %%
model = il.load("mine/step280")
for head, score in il.score_heads(model)["induction"].top(2):
    print(f"{head}  {score:.3f}")

# %% [markdown]
# On the hub the same is `il.load("EleutherAI/pythia-70m", revision="step512")`.
#
# ## What next
#
# - [Suites and families](../suites.md): the suites that are known, what is checked, clusters
# - [Training dynamics of a toy](training_dynamics.md): what to do with a trajectory
