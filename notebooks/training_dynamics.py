# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training dynamics of a toy
#
# Induction heads form during a short part of training, and in-context learning appears with them.
# Here you train two tiny models for seconds and see it, and then look at runs that ship with the
# package.
#
# ## A language in which only copying helps
#
# Each sequence is a block of 24 random letters, and then pieces of that block. What comes next in a
# piece, only the block tells.

# %%
import induction_lens as il

language = il.languages.Copies(n_letters=64, length=24)
held_out = language.sample(64, seq_len=64, seed=1)

# %% [markdown]
# ## Two models that differ in one thing
#
# One layer of attention cannot form an induction head: no earlier layer tells each key which token
# came before it. With **smeared keys** every key is a mixture of its own token and the one before,
# so that one layer is enough. That is the paper's test of the mechanism.

# %%
runs = {}
for name, smeared in (("plain", False), ("smeared", True)):
    config = il.toys.ToyConfig(
        n_layers=1,
        d_model=64,
        n_heads=4,
        d_vocab=language.d_vocab,
        n_ctx=64,
        smeared_keys=smeared,
        distance_bias=2.0,
        aligned_unembed=0.5,
    )
    run = il.train(
        il.toys.build_toy(config, device="cpu"),
        language.sample(4000, seq_len=64),
        n_steps=300,
        warmup=20,
        snapshots=[0, 5, 10, *range(20, 301, 20)],
        out=f"runs/{name}",
    )
    runs[name] = il.track(
        run,
        out=f"tracked/{name}",
        text=held_out,
        n_prompts=16,
        n_ablated=8,
        n_examples=500,
        early=26,
        late=60,
        window=2,
    )

# %% [markdown]
# `il.train` kept 18 snapshots of each, and `il.track` measured every one of them: losses, the score
# of every head, and what the model loses without it. Stopped at any moment, both go on where they
# were.

# %%
runs["smeared"].to_frame()[["step", "held_out_loss", "induction"]].iloc[::3].round(2)

# %% [markdown]
# ## When does it change?
#
# `phase_change` looks for an abrupt change of a curve, and compares it with every smooth
# description.

# %%
for name, run in runs.items():
    print(f"{name}: {il.dynamics.phase_change(run, of='induction', n_resamples=500)}")

# %%
il.plots.induction_over_training(
    runs["smeared"], il.dynamics.phase_change(runs["smeared"], of="induction", n_resamples=500)
)

# %% [markdown]
# Each line is a head. Only in the model with smeared keys do heads learn to look back.
#
# ## Runs of nine million tokens
#
# Nineteen runs on real text ship with the package, tracked alike. This one has two layers and plain
# keys.

# %%
shipped = {one.trajectory.name: one.trajectory for one in il.reports.training.shipped_runs()}
run = shipped["phase-2l-seed-0"]
change = il.dynamics.phase_change(run, n_resamples=200)
print(f"ICL score: {change}")
print(f"induction: {il.dynamics.phase_change(run, of='induction', n_resamples=200)}")

# %%
il.plots.icl_over_training({"2 layers": [run]}, {"2 layers": change})

# %% [markdown]
# How far apart are the two moments?

# %%
print(il.dynamics.co_occurrence(run, n_resamples=200))

# %% [markdown]
# And how is the loss spread over positions, from the first snapshot (grey) to the last (blue)?
# Early in training late tokens are hardly easier than early ones.

# %%
il.plots.loss_curves(run)

# %% [markdown]
# ## What next
#
# - `induction-lens reproduce` trains four models on the Python source of your machine, and writes a
#   page.
# - [Training dynamics](../dynamics.md), and [what the runs say](../arguments/co-occurrence.md)
#   about the paper's claims
# - [Checkpoints that others published](public_suites.md)
