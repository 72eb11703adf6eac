"""Tasks: what heads are good for beyond copying, and few-shot accuracy with and without them."""

from induction_lens.tasks.asking import Asking, Without
from induction_lens.tasks.attribution import LiteralAttributionHeads
from induction_lens.tasks.dissociate import EVALUATED, Extent, dissociate
from induction_lens.tasks.dissociation import Contrast, Dissociation, KnockedOut, Lost
from induction_lens.tasks.few_shot import (
    DoseResponse,
    FewShot,
    dose_response,
    few_shot,
    top_heads,
)
from induction_lens.tasks.function_vectors import FunctionVectorHeads, function_vector
from induction_lens.tasks.kinds import (
    KINDS,
    ConceptCopyingHeads,
    DiagonalHeads,
    LiteralHeads,
    PatternHeads,
    TranslationHeads,
    chosen_kinds,
)
from induction_lens.tasks.prompting import Prompts, few_shot_prompts
from induction_lens.tasks.ready import (
    READY,
    letter_pattern,
    pattern,
    ready,
    successors,
    translated_words,
    word_classes,
    word_pairs,
)
from induction_lens.tasks.same_heads import (
    RankCorrelation,
    SameHeads,
    rank_correlation,
    same_heads,
)
from induction_lens.tasks.scoring import F1, Choice, FirstToken, Probability, Scoring, f1
from induction_lens.tasks.task import AS_IT_IS, LABELLED, QUESTION, Item, Target, Task
from induction_lens.tasks.texts import literal_copying, translated_sentences
from induction_lens.tasks.words import AlignedSentence, aligned_sentences, pairs, words
from induction_lens.tasks.written import (
    WrittenTasks,
    labelled_letters,
    labelled_words,
    listed_pairs,
)

__all__ = [
    "AS_IT_IS",
    "EVALUATED",
    "F1",
    "KINDS",
    "LABELLED",
    "QUESTION",
    "READY",
    "AlignedSentence",
    "Asking",
    "Choice",
    "ConceptCopyingHeads",
    "Contrast",
    "DiagonalHeads",
    "Dissociation",
    "DoseResponse",
    "Extent",
    "FewShot",
    "FirstToken",
    "FunctionVectorHeads",
    "Item",
    "KnockedOut",
    "LiteralAttributionHeads",
    "LiteralHeads",
    "Lost",
    "PatternHeads",
    "Probability",
    "Prompts",
    "RankCorrelation",
    "SameHeads",
    "Scoring",
    "Target",
    "Task",
    "TranslationHeads",
    "Without",
    "WrittenTasks",
    "aligned_sentences",
    "chosen_kinds",
    "dissociate",
    "dose_response",
    "f1",
    "few_shot",
    "few_shot_prompts",
    "function_vector",
    "labelled_letters",
    "labelled_words",
    "letter_pattern",
    "listed_pairs",
    "literal_copying",
    "pairs",
    "pattern",
    "rank_correlation",
    "ready",
    "same_heads",
    "successors",
    "top_heads",
    "translated_sentences",
    "translated_words",
    "word_classes",
    "word_pairs",
    "words",
]
