"""BLEU, chrF++ and TER over a whole evaluation, by the package sacrebleu.

References:
    - sacrebleu, 2018, https://arxiv.org/abs/1804.08771
    - chrF++, 2017, https://aclanthology.org/W17-4770
    - TER, 2006, https://aclanthology.org/2006.amta-papers.25
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ptm_lightning.metrics.references import Reference, references_of, streams

CHINESE, JAPANESE, KOREAN = ("zh", "zho", "yue"), ("ja", "jpn"), ("ko", "kor")
SOUTH_EAST = ("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "shn", "bo", "bod", "dz", "dzo")
"""Thai, Lao, Khmer, Burmese, Shan, Tibetan and Dzongkha, which put no space between words, as Chinese and Japanese."""
BY_CHARACTER = (*JAPANESE, *KOREAN, *SOUTH_EAST)
"""What cuts these into words is a download or an extra of sacrebleu's, so that BLEU cuts them into characters."""
BETTER = {"ja": "ja-mecab", "jpn": "ja-mecab", "ko": "ko-mecab", "kor": "ko-mecab"}
"""What sacrebleu itself takes for BLEU, with an extra; for the others it has flores200."""
UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Characters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese."""


def _code(language: str) -> str:
    """The code without country and script."""
    return language.replace("-", "_").partition("_")[0].lower()


def _metrics(language: str) -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    code = _code(language)
    asian = code in (*CHINESE, *JAPANESE)  # TER's own words for: every character of these scripts counts
    cut = "zh" if code in CHINESE else "char" if code in BY_CHARACTER else None  # None: as mteval-v13a does
    metrics = {"bleu": BLEU(tokenize=cut), "chrf": CHRF(word_order=2)}
    if code not in SOUTH_EAST:  # TER would count a whole sentence as a word
        metrics["ter"] = TER(normalized=asian, asian_support=asian)
    return metrics


def how_it_is_cut(language: str) -> str:
    """What must be said of the scores of a language; nothing of most.

    Args:
        language: The target language's code.
    """
    code = _code(language)
    if code not in BY_CHARACTER:
        return ""
    other = BETTER.get(code, "flores200")
    extra = f" (pip install 'sacrebleu[{other[:2]}]')" if code in BETTER else ""
    missing = "; there is no TER, which would count a sentence as a word" if code in SOUTH_EAST else ""
    return (
        f"bleu: cuts {language} into characters (tok:char), and compares with scores of the same signature only; for "
        f"words, score what predict writes with sacrebleu --tokenize {other}{extra}{missing}"
    )


def is_misnamed(language: str, references: Iterable[Reference]) -> bool:
    """Whether references have no spaces between words, and yet BLEU cuts their language at spaces."""
    if _code(language) in (*CHINESE, *BY_CHARACTER):
        return False
    text = "".join(right for reference in references for right in references_of(reference))
    return 2 * len(UNSPACED.findall(text)) > len(re.findall(r"\w", text))


def translation_scores(predictions: Sequence[str], references: Sequence[Reference], language: str) -> dict[str, float]:
    """BLEU, chrF++ (`chrf`) and TER of a whole corpus, which are no means of sentences.

    Args:
        predictions: (n,)
        references: (n,) one for each, or several.
        language: The target language's code, such as de, zh_CN or zho_Hans.

    Returns:
        Metrics by name, in percent; the smaller TER, the better. It is left out where a sentence would be one word.
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
