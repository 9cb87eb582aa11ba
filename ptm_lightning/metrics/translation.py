"""BLEU, chrF++ and TER over a whole evaluation, by the package sacrebleu.

References:
    - sacrebleu, 2018, https://arxiv.org/abs/1804.08771
    - chrF++, 2017, https://aclanthology.org/W17-4770
    - TER, 2006, https://aclanthology.org/2006.amta-papers.25
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ptm_lightning.metrics.references import Reference, references_of, streams

UNSPACED = {"zh": "zh", "zho": "zh", "yue": "zh", "ja": "char", "jpn": "char"}
"""How BLEU cuts languages that put no space between words; all others as mteval-v13a does."""


def _metrics(language: str) -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    cut = UNSPACED.get(language.replace("-", "_").partition("_")[0].lower())
    asian = cut is not None  # TER's own words for: every character of these scripts counts
    return {
        "bleu": BLEU(tokenize=cut),
        "chrf": CHRF(word_order=2),
        "ter": TER(normalized=asian, asian_support=asian),
    }


def translation_scores(predictions: Sequence[str], references: Sequence[Reference], language: str) -> dict[str, float]:
    """BLEU, chrF++ (`chrf`) and TER of a whole corpus, which are no means of sentences.

    Args:
        predictions: (n,)
        references: (n,) one for each, or several.
        language: The target language's code, such as de, zh_CN or zho_Hans.

    Returns:
        Metrics by name, in percent; the smaller TER, the better.
    """
    right = streams(references)
    found = {name: metric.corpus_score(predictions, right) for name, metric in _metrics(language).items()}
    return {name: float(score.score) for name, score in found.items()}


def signatures(language: str, references: Iterable[int] = (1,)) -> dict[str, str]:
    """What sacrebleu wants to be quoted with each score: versions, tokens, smoothing, the number of references.

    Args:
        language: The target language's code.
        references: How many an example has; several numbers if they differ.
    """
    metrics, right = _metrics(language), streams([["a"] * number for number in references])
    for metric in metrics.values():
        metric.corpus_score(["a"] * len(right[0]), right)  # before a first score it doesn't know their number
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def sentence_score(prediction: str, reference: Reference) -> float:
    """chrF++ of one sentence, for which BLEU is too coarse."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(word_order=2).sentence_score(prediction, references_of(reference)).score)
