"""Keep layer 1 from building on layer 0 for a part of training, let go, and see what comes of it.

    python examples/hold_composition.py          # two runs of nine million tokens
    python examples/hold_composition.py --quick  # a few steps, to see that it works

Runs go to runs/free and runs/held. Start it again after an interruption, and it goes on.
"""

import random
import sys

import induction_lens as il
from induction_lens.inputs.corpus import documents, pack
from induction_lens.models import tokenizer_of

QUICK = "--quick" in sys.argv
CONTEXT = 128 if QUICK else 512
N_STEPS, BATCH_SIZE = (24, 2) if QUICK else (2200, 8)
RELEASED, EVERY = N_STEPS // 3, 2 if QUICK else 50

tokenizer = tokenizer_of(il.load("toy-2l"))
texts = documents("train", origin="stdlib" if QUICK else "all")
random.Random(0).shuffle(texts)  # the files of one package lie together: mix them
batches = pack(texts, tokenizer, CONTEXT, n_sequences=N_STEPS * BATCH_SIZE)
config = il.toys.ToyConfig(
    n_ctx=CONTEXT, d_vocab=len(tokenizer), distance_bias=2.0, aligned_unembed=0.5, seed=0
)

for name, clamp in (("free", None), ("held", il.training.Clamp(k_composition=True, end=RELEASED))):
    run = il.train(
        il.toys.build_toy(config, tokenizer=tokenizer),
        batches,
        n_steps=N_STEPS,
        batch_size=BATCH_SIZE,
        clamp=clamp,
        snapshots=range(0, N_STEPS + 1, EVERY),
        out=f"runs/{name}",
    )
    trajectory = il.track(
        run,
        out=f"runs/{name}/tracked",
        n_sequences=8 if QUICK else 128,
        n_ablated=4 if QUICK else 64,
        early=CONTEXT // 10,
        late=CONTEXT - 12,
    )
    head, last = trajectory.strongest(), trajectory.to_frame().iloc[-1]
    print(f"{name}: induction {il.dynamics.phase_change(trajectory, of='induction')}")
    print(f"  ICL score {last.icl:+.4f} nats; head {head} {last.induction:.4f}")
