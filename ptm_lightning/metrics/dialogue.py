"""What the replies of a whole evaluation are worth: F1 of words, BLEU, and how much they differ from each other.

References:
    - F1 of words: ConvAI2, 2019, https://arxiv.org/abs/1902.00098
    - distinct-1 and -2: Li et al., 2015, https://arxiv.org/abs/1510.03055
"""

from collections.abc import Sequence

from ptm_lightning.metrics.question_answering import characters, overlap, splitter


def dialogue_scores(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Metrics by name, in percent.

    Words are in lower case, without punctuation and articles; in Chinese and Japanese they are characters.

    Args:
        replies: (n,)
        references: (n,) one for each.
    """
    from sacrebleu.metrics.bleu import BLEU

    split = splitter("auto", references)
    bleu = BLEU(tokenize="char" if split is characters else None)
    words = [split(reply) for reply in replies]
    shared = [overlap(mine, split(reference)) for mine, reference in zip(words, references, strict=True)]
    return {
        "bleu": float(bleu.corpus_score(replies, [references]).score),
        "f1": 100 * sum(shared) / len(shared),
        "distinct1": distinct(words, 1),
        "distinct2": distinct(words, 2),
    }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams over all n-grams, in percent; 0 where there is none.

    Args:
        texts: Each a list of words.
        n: Words of an n-gram.
    """
    grams = [tuple(words[begin : begin + n]) for words in texts for begin in range(len(words) - n + 1)]
    return 100 * len(set(grams)) / len(grams) if grams else 0.0


def word_f1(reply: str, reference: str) -> float:
    """F1 of the words of one reply, in percent."""
    split = splitter("auto", [reference])
    return 100 * overlap(split(reply), split(reference))
