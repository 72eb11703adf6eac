"""Languages to train toys on; of most the best loss is known, to compare a model's with."""

from induction_lens.languages.chains import InterleavedChains, MarkovChains
from induction_lens.languages.copies import Copies, TwoAlphabets
from induction_lens.languages.language import Language, Mixture, Packed, SolvedLanguage
from induction_lens.languages.pairs import RepeatedBigrams, WordClasses
from induction_lens.languages.text import Text

__all__ = [
    "Copies",
    "InterleavedChains",
    "Language",
    "MarkovChains",
    "Mixture",
    "Packed",
    "RepeatedBigrams",
    "SolvedLanguage",
    "Text",
    "TwoAlphabets",
    "WordClasses",
]
