"""Measures the models of the zoo on all held-out text, and writes that into their cards.

    python docs/scripts/write_cards.py

Takes a few minutes. `SHA256SUMS` is written again.
"""

from induction_lens.loading import ZOO, load, zoo_names
from induction_lens.seals import read_json, without_seal, write_json, write_sums
from induction_lens.training.cards import held_out
from induction_lens.training.mixtures import answered

if __name__ == "__main__":
    for name in zoo_names():
        path = ZOO / name / "card.json"
        card = without_seal(read_json(path, remedy="install induction_lens again"))
        model = load(name)
        answers = {"few_shot": answered(model)} if "few_shot" in card else {}
        write_json(path, card | held_out(model, n_sequences=None) | answers)
    write_sums()
