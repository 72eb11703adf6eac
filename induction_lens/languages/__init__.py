"""Languages with a known structure, to train toys on and to compare their losses with."""

from induction_lens.languages.chains import InterleavedChains, MarkovChains
from induction_lens.languages.copies import Copies, TwoAlphabets
from induction_lens.languages.language import Language, Mixture
from induction_lens.languages.pairs import RepeatedBigrams, WordClasses

__all__ = [
    "Copies",
    "InterleavedChains",
    "Language",
    "MarkovChains",
    "Mixture",
    "RepeatedBigrams",
    "TwoAlphabets",
    "WordClasses",
]
