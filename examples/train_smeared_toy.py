"""Train one-layer toys with and without smeared keys: smeared keys make induction possible.

    python examples/train_smeared_toy.py          # about ten million tokens each
    python examples/train_smeared_toy.py --quick  # a few steps, to see that it works

Snapshots go to runs/plain and runs/smeared. Start it again after an interruption, and it goes on.
"""

import random
import sys

import induction_lens as il
from induction_lens.inputs.corpus import documents, pack
from induction_lens.models import tokenizer_of

QUICK = "--quick" in sys.argv
CONTEXT = 128 if QUICK else 512
BATCH_SIZE = 4 if QUICK else 16
N_STEPS = 6 if QUICK else 1200

shipped = il.load("toy-2l")
tokenizer = tokenizer_of(shipped)

# Python source: to measure on, files held out from training; to train on, all others.
held_out = il.text_tokens(shipped, n_sequences=8 if QUICK else 128, seq_len=CONTEXT)
texts = documents("train", origin="stdlib" if QUICK else "all")
random.Random(0).shuffle(texts)  # the files of one package lie together: mix them
batches = pack(texts, tokenizer, CONTEXT, n_sequences=N_STEPS * BATCH_SIZE)

for name, smeared in (("plain", False), ("smeared", True)):
    config = il.toys.ToyConfig(
        n_layers=1, n_ctx=CONTEXT, d_vocab=len(tokenizer), smeared_keys=smeared, seed=0
    )
    model = il.toys.build_toy(config, tokenizer=tokenizer)
    folder = f"runs/{name}"
    run = il.train(model, batches, n_steps=N_STEPS, batch_size=BATCH_SIZE, out=folder)

    losses = il.per_token_loss(model, held_out)
    score = il.icl_score(losses, early=CONTEXT // 10, late=CONTEXT - 12, window=10)
    [(head, induction)] = il.score_heads(model, detectors=["induction"])["induction"].top(1)
    print(f"{name}: {run.tokens_seen} tokens")
    print(f"  held-out loss {losses[:, 1:].mean():.4f} nats, ICL score {score}")
    print(f"  strongest induction head {head}: {induction:.4f}")
