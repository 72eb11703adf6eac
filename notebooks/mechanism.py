# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How the heads do it
#
# An induction head attends to the token *after* an earlier copy of the current one. To find it,
# each key must say which token came before it. A **previous-token head** of an earlier layer writes
# that; the induction head's keys read it. Here you follow that wire through a small model: first in
# its weights, then by cutting it.

# %%
import induction_lens as il

model = il.load("toy-2l-narrow")  # two layers of four heads
scores = il.score_heads(model, detectors=["previous_token", "induction"])
scores.plot()

# %% [markdown]
# Head 0.1 attends to the previous token, and 1.1 is the induction head.
#
# ## In the weights
#
# **Composition** asks how much of what an earlier head writes a later head reads, through its
# queries (Q), keys (K) or values (V). Zero is what random weights of the same size would give.

# %%
composition = il.circuits.composition(model)
print(composition)

# %%
composition.plot(kind="K")

# %% [markdown]
# The keys of 1.1 read what 0.1 writes, and no other pair comes near.
#
# ## Cut the wire
#
# Weights say what *could* be read. To see what *is* read, three things are done to the keys of 1.1
# while the model runs, and nothing else is touched:
#
# - **masked**: it does not see the tokens after earlier copies;
# - **zeroed**: its attention there is taken away after the softmax;
# - **composition cut**: its keys are computed as if 0.1 had written nothing.

# %%
material = il.circuits.Material.of(model, n_sequences=16, n_texts=16)
cuts = il.circuits.cut_edge(model, "1.1", senders=["0.1"], material=material)
cuts.plot()

# %% [markdown]
# Grey are the controls: as much attention on random other keys, and other senders. With the
# composition cut head 0.1 still writes for everybody else, and the copying is gone all the same.
#
# ## The other way round: bring one thing in
#
# **Path patching** leaves the model alone, and puts into the keys of 1.1 what 0.1 writes *in
# another run*, where the token before each is another one.

# %%
paths = il.circuits.path_patch(
    model, "0.1", "1.1", inputs=["k", "q", "v"], n_controls=2, material=material
)
paths.plot()

# %% [markdown]
# Through the keys nearly all of the prefix matching goes; through queries and values next to
# nothing.
#
# ## All at once
#
# `circuit` finds the heads, patches every path, makes every cut, and asks how far the two heads go
# by themselves.

# %%
circuit = il.circuits.circuit(model, n_random=1, material=material)
print(circuit)
circuit

# %% [markdown]
# Without the two heads all of the copying is lost: they are needed. Without all *other* heads it is
# lost too: they are not enough. The shares exceed 1 where the model does worse than without
# copying.
#
# ## What next
#
# - `induction-lens circuit MODEL` writes a page with all of this.
# - [Argument 5](../arguments/mechanism.md): the numbers, with every control, for both two-layer
#   models
# - [What the scores mean](../scores.md#composition-and-matching-from-the-weights)
