"""F1 against ConvAI2's rules spelled out, BLEU against sacrebleu, distinct-n against a naive count."""

import random
import re
import string

import pytest
import sacrebleu

from ptm_lightning.metrics.dialogue import dialogue_scores, distinct, word_f1

WORDS = ("the", "A", "cat,", "cat", "dog!", "sees", "Dog", "an", "it's", "")


def convai_words(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def convai_f1(reply: str, reference: str) -> float:
    mine, right = convai_words(reply), convai_words(reference)
    left = list(right)
    hits = 0
    for word in mine:
        if word in left:
            left.remove(word)
            hits += 1
    if not mine or not right:
        return float(mine == right)
    precision, recall = hits / len(mine), hits / len(right)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def random_texts(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(7))) for _ in range(40)]


@pytest.mark.parametrize("seed", range(5))
def test_random_replies(seed: int):
    replies, references = random_texts(seed), random_texts(seed + 100)
    found = dialogue_scores(replies, references)
    f1 = [convai_f1(*pair) for pair in zip(replies, references, strict=True)]
    assert found["f1"] == pytest.approx(100 * sum(f1) / 40)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score)
    by_reply = [word_f1(*pair) for pair in zip(replies, references, strict=True)]
    assert by_reply == pytest.approx([100 * each for each in f1])
    for n in (1, 2):
        grams = []
        for reply in replies:
            words = convai_words(reply)
            while len(words) >= n:
                grams.append(" ".join(words[:n]))
                words.pop(0)
        assert found[f"distinct{n}"] == pytest.approx(100 * len(set(grams)) / len(grams))


def test_chinese_by_character():
    found = dialogue_scores(["我在家看书。", "你好"], ["他在家看书。", "你们好"])
    assert found["f1"] == pytest.approx(100 * (4 / 5 + 4 / 5) / 2)
    right = sacrebleu.corpus_bleu(["我在家看书。", "你好"], [["他在家看书。", "你们好"]], tokenize="char")
    assert found["bleu"] == pytest.approx(right.score) != 0.0
    assert found["distinct1"] == pytest.approx(100 * 7 / 7)


def test_of_nothing():
    assert dialogue_scores(["", ""], ["", "yes"]) == {"bleu": 0.0, "f1": 50.0, "distinct1": 0.0, "distinct2": 0.0}
    assert distinct([["one"]], 2) == 0.0
