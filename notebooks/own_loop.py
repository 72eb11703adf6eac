# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ablation inside your own loop
#
# You have your own evaluation: a loop, a prompt, a score that this package does not know.
# `il.knocked_out` removes heads from every forward pass inside a `with` block, and puts them back
# after it.

# %%
import torch

import induction_lens as il

model = il.load("toy-2l")
heads = il.score_heads(model)["induction"].above(0.3)
print(*heads)

# %% [markdown]
# ## In a loop
#
# The measure here is one of our own: how much better the model predicts a copy of random tokens
# than it predicted them the first time, in nats. Nothing but copying helps.

# %%
tokens = il.repeated_random_tokens(
    model, n_repeats=2, n_sequences=64
)  # BOS, 25 tokens, the same 25


def copying():
    """The mean loss of the first copy minus that of the second."""
    gains = []
    with torch.no_grad():
        for batch in tokens.split(16):
            predicted = model(batch)[:, :-1].log_softmax(-1)
            # loss[:, i] is of the token at i + 1; nothing tells the second copy's first token
            loss = -predicted.gather(-1, batch[:, 1:, None])[..., 0]
            gains.append(loss[:, :25].mean(1) - loss[:, 26:].mean(1))
    return torch.cat(gains).mean().item()


print(f"{copying():+.2f} nats with all heads")

# %%
with il.knocked_out(model, heads, method="zero"):
    print(f"{copying():+.2f} nats without the induction heads")
print(f"{copying():+.2f} nats after the block")

# %% [markdown]
# ## Which replacement?
#
# `zero` writes zeros. `mean` writes the head's usual output, and `resample` its output on other
# sequences: for these you say which sequences, as `reference`.

# %%
text = il.sample_text(model, n_sequences=32)
for method in ("zero", "mean", "resample"):
    with il.knocked_out(model, heads, method=method, reference=text):
        print(f"{method:9} {copying():+.2f}")

# %% [markdown]
# ## One head after the other
#
# Induction heads can stand in for each other, so each may seem to matter little by itself.

# %%
costs = {}
for head in [*heads, "0.2", "1.0"]:
    with il.knocked_out(model, head, method="mean", reference=text):
        costs[str(head)] = copying()
for head, value in costs.items():
    print(f"without {head}: {value:+.2f}")

# %% [markdown]
# Head 0.2 attends to the previous token. All induction heads depend on it, so without it copying is
# gone too.
#
# ## While generating
#
# The same block, and `generate` inside.

# %%
prompt = "red, green, blue\n" * 3 + "red,"


def written():
    """What the model goes on with."""
    told = model.generate(prompt, max_new_tokens=6, do_sample=False, verbose=False)
    return repr(told[len(prompt) :])


print(f"with all heads: {written()}")
with il.knocked_out(model, heads, method="zero"):
    print(f"without the induction heads: {written()}")

# %% [markdown]
# ## With your own hooks
#
# Your hooks run as usual, and see the model without the heads. What head 1.6 puts out is zero here:

# %%
seen = {}


def look(z, hook):
    seen["norm of z"] = z[:, :, 6].norm().item()


with il.knocked_out(model, "1.6", method="zero"):
    model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", look)])
seen

# %% [markdown]
# ## A replacement of your own
#
# A method is an object with a name and a `replacement`. This one lets the head write half of what
# it would.

# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Halve(il.ablation.AblationMethod):
    """Half of what the head puts out."""

    name = "halve"
    position_wise = True  # each position by itself

    def replacement(self, z, place):
        return z / 2


with il.knocked_out(model, heads, method=Halve()):
    print(f"{copying():+.2f} with half of their output")

# %% [markdown]
# ## What cannot be right is refused
#
# A head that does not exist, a reference that is missing, a block in which no forward pass ran:
# each is an error of one line that says what to do.

# %%
try:
    with il.knocked_out(model, heads, method="mean"):
        copying()
except ValueError as error:
    print(error)

# %% [markdown]
# ## What next
#
# - [How to choose](../choosing.md) among the methods, and [what is allowed inside the
#   block](../choosing.md#inside-your-own-loop)
# - [How heads do it](mechanism.md)
