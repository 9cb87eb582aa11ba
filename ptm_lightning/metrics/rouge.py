"""ROUGE over a whole evaluation, by the package rouge-score, and the lead sentences that summaries are compared with.

ROUGE: Lin, 2004, https://aclanthology.org/W04-1013
"""

import re
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

from ptm_lightning.data.sentences import spans
from ptm_lightning.metrics.references import Reference, references_of

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_IDEOGRAPH = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af])")


class WordsAndCharacters:
    """rouge-score's own words, stemmed; Chinese and Japanese, of which it sees nothing, by character."""

    def __init__(self, words: Any) -> None:
        self.words = words
        """rouge-score's tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens that are compared."""
        tokens: list[str] = []
        for number, part in enumerate(_IDEOGRAPH.split(text)):  # every second part is one character
            tokens += [part] if number % 2 else self.words.tokenize(part)
        return tokens


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]  # with nltk it takes seconds
    from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

    return RougeScorer(list(KINDS), tokenizer=WordsAndCharacters(DefaultTokenizer(use_stemmer=True)))


def rouge_scores(predictions: Sequence[str], references: Sequence[Reference]) -> dict[str, float]:
    """The mean F1 of words (rouge1), of pairs (rouge2), and of common subsequences (rougeL, by sentence rougeLsum).

    With several references, each kind takes the one that is nearest.

    Args:
        predictions: (n,)
        references: (n,) one for each, or several.

    Returns:
        Metrics by name, between 0 and 1.
    """
    right = ([by_sentence(text) for text in references_of(reference)] for reference in references)
    found = [_scorer().score_multi(*pair) for pair in zip(right, map(by_sentence, predictions), strict=True)]
    return {name: fmean(score[name].fmeasure for score in found) for name in KINDS}


def by_sentence(text: str) -> str:
    """The text with a sentence on each line, as rougeLsum wants it."""
    return "\n".join(" ".join(text[start:stop].split()) for start, stop in spans(text))


def lead(text: str, sentences: int = 3) -> str:
    """The first sentences of a text."""
    found = spans(text)[:sentences]
    return text[found[0][0] : found[-1][1]] if found else ""
