# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The first hour
#
# You have a transformer. Does it have induction heads, and does its in-context learning depend on
# them? Here you find the heads of a small model, look at one of them, remove them, and measure what
# is lost. It takes a minute, and needs neither a GPU nor a network.

# %%
import induction_lens as il

model = il.load("toy-2l")  # ships with the package; "gpt2" or a folder work too

# %% [markdown]
# ## 1. Watch a head at work
#
# An **induction head** finds an earlier place where the current token stood, and predicts what came
# next there. The text below repeats a line that no file has, and stops in the middle.

# %%
prompt = """x = q.frobnicate(tumbler, whistle, 42)
x = q.frobnicate(tumbler, whistle, 42)
x = q.frob"""

_, cache = model.run_with_cache(prompt)
tokens = model.to_str_tokens(prompt)

# %% [markdown]
# Head 6 of layer 1 is written `1.6`; layers and heads count from 0. Where does it look from the
# last token?

# %%
attention = cache["pattern", 1][0, 6]  # layer 1; sequence 0, head 6: [query, key]
for place in attention[-1].argsort(descending=True)[:3].tolist():
    print(f"{attention[-1, place]:.2f} on {tokens[place]!r}, after {tokens[place - 1]!r}")

# %% [markdown]
# It looks at what followed `frob` in both lines above: that is induction. Its whole pattern, a row
# for each token:

# %%
il.plots.attention_map(attention, tokens)

# %% [markdown]
# To look at other heads and tokens, make a view: a page on which you choose both. It shows itself
# at the end of a cell; saved, it opens in any browser, without a network.

# %%
view = il.views.attention(model, prompt)
view.save("attention.html")
print(view)

# %% [markdown]
# ## 2. Find all of them
#
# One text proves little. `score_heads` uses copies of random tokens, which nothing but repetition
# predicts. The **induction score** is the share of its attention that a head pays to the tokens
# that followed earlier copies: 1 is perfect, and a head that rests on the first token has 0.

# %%
scores = il.score_heads(model)
for head, score in scores["induction"].top(4):
    print(f"{head}  {score:.2f}")

# %%
il.plots.head_map(scores["induction"], marked=scores["induction"].above(0.3))

# %% [markdown]
# `above(0.3)` names the heads whose score exceeds 0.3 *and* what chance explains: the same head on
# the same tokens, shuffled.

# %%
heads = scores["induction"].above(0.3)
print(*heads)

# %% [markdown]
# An induction head needs to know which token came before each key. A **previous-token head** of an
# earlier layer tells it.

# %%
for head, score in scores["previous_token"].top(2):
    print(f"{head}  {score:.2f}")

# %% [markdown]
# ## 3. Measure in-context learning
#
# A model that uses its context predicts late tokens better than early ones. The **ICL score** is
# the loss at the 500th token minus the loss at the 50th, in nats: negative means that the context
# helps. The text is Python source that the model was not trained on.

# %%
text = il.sample_text(model, n_sequences=64)
losses = il.per_token_loss(model, text)  # losses[:, t]: of predicting the token at position t
print(il.icl_score(losses, documents=text.documents, window=10))

# %% [markdown]
# ## 4. Remove the heads
#
# `ablate` replaces what the heads write by its mean, and measures again. It does the same to random
# heads of the same layer: those are the controls.

# %%
study = il.ablate(model, heads, text, window=10, n_controls=10)
print(study)

# %% [markdown]
# The **effect** is what the score loses. **Rank 1** says that no control loses more.

# %%
il.plots.icl_scores({"mean": study})

# %% [markdown]
# ## 5. Anything, without the heads
#
# Inside `knocked_out` the heads are gone, whatever you run. Here the model goes on with the prompt,
# with the heads and without:

# %%
print(model.generate(prompt, max_new_tokens=8, do_sample=False, verbose=False)[len(prompt) :])

# %%
with il.knocked_out(model, heads, method="zero"):
    print(model.generate(prompt, max_new_tokens=8, do_sample=False, verbose=False)[len(prompt) :])

# %% [markdown]
# ## 6. Keep what you found
#
# Every result has `save` and `load`. What is loaded is equal to what was saved, and knows which
# model it is of.

# %%
scores.save("scores")
study.save("study")
again = il.results.load("study")
print(again == study, again.provenance.model)

# %% [markdown]
# `to_frame()` gives a table for everything else, and `plot().write_html("scores.html")` a figure
# that opens in any browser.

# %%
scores.to_frame().nlargest(3, "induction")[["model", "layer", "head", "induction"]]

# %% [markdown]
# ## 7. Compare with another model
#
# `compare` measures models on the same text: one row a model. `toy-1l` has a single layer, so it
# has no induction heads, and next to no in-context learning.

# %%
found = il.compare([model, "toy-1l"], n_sequences=32, n_controls=4, progress=False)
print(found)

# %%
found.plot()

# %% [markdown]
# ## What next
#
# - [Your own model and text](own_model_and_text.md)
# - [Ablation inside your own loop](own_loop.md)
# - `il.report(model).save("my-report")` puts all of this on one page, with every method and many
#   more controls.
