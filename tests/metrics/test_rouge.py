"""ROUGE as rouge-score has it, and by character where it sees nothing."""

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from ptm_lightning.metrics.rouge import KINDS, by_sentence, lead, rouge_scores

WORDS = [
    "The",
    "cats",
    "were",
    "running",
    "quickly.",
    "Dogs",
    "bark!",
    "In",
    "3.5",
    "days,",
    "they'll",
    "sleep?",
    "No-one",
    "knows",
    "naïve",
    "text",
    ".",
]


def text_of(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randrange(1, 30)))


def test_scores_equal_the_package():
    """With its stemmer, and for rougeLsum with a sentence on each line."""
    draw = random.Random(0)
    pairs = [(text_of(draw), text_of(draw)) for _ in range(40)] + [("one", "one"), ("", "two words"), ("cat", "dogs")]
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    theirs = [scorer.score(by_sentence(right), by_sentence(said)) for said, right in pairs]
    ours = rouge_scores([said for said, _ in pairs], [right for _, right in pairs])
    for name in KINDS:
        assert ours[name] == pytest.approx(sum(score[name].fmeasure for score in theirs) / len(pairs), abs=1e-12)
    assert 0 < ours["rouge2"] < ours["rougeL"] < ours["rougeLsum"] < ours["rouge1"] < 1


def test_words_are_stemmed():
    assert rouge_scores(["the cat runs"], ["the cats running"])["rouge1"] == 1


def test_chinese_is_compared_by_character():
    class Characters:
        def tokenize(self, text: str) -> list[str]:
            return [mark for mark in text if "一" <= mark <= "鿿"]

    said, right = "他们今天去公园散步。天气好", "今天天气很好。他们去公园"
    scorer = RougeScorer(list(KINDS), tokenizer=Characters())
    theirs = scorer.score(by_sentence(right), by_sentence(said))
    ours = rouge_scores([said], [right])
    assert ours == {name: pytest.approx(theirs[name].fmeasure) for name in KINDS}
    assert ours["rouge2"] > 0
    assert rouge_scores(["我爱BERT模型"], ["模型BERT"])["rouge1"] == pytest.approx(2 * 3 / (5 + 3))


@pytest.mark.parametrize(("said", "right"), [("", "a text"), ("...", "a text"), ("", "。"), ("a", "b")])
def test_nothing_in_common_is_zero(said: str, right: str):
    assert set(rouge_scores([said], [right]).values()) == {0.0}


@pytest.mark.parametrize("text", ["a text of words", "word", "文"])
def test_the_same_text_is_one(text: str):
    found = rouge_scores([text], [text])
    assert (found["rouge1"], found["rougeL"], found["rougeLsum"]) == (1, 1, 1)


def test_lead_is_the_first_sentences():
    assert (
        lead("One is here. Two, e.g. this one, too!\nThree. Four.") == "One is here. Two, e.g. this one, too!\nThree."
    )
    assert lead("今天很好。明天也好！后天呢？再见。") == "今天很好。明天也好！后天呢？"  # noqa: RUF001
    assert (lead("short"), lead("  ")) == ("short", "")


def test_of_several_references_the_nearest_counts_for_each_kind():
    said, right = "the cat sat on the mat", ["mat the on sat cat the", "the cat sat", " "]
    ours = rouge_scores([said], [right])
    alone = [rouge_scores([said], [one]) for one in right]
    assert ours == {kind: pytest.approx(max(each[kind] for each in alone)) for kind in KINDS}
    assert ours["rouge1"] == 1 > ours["rouge2"] > 0
    reference = RougeScorer(list(KINDS), use_stemmer=True).score_multi(right, said)
    assert ours == {kind: pytest.approx(reference[kind].fmeasure) for kind in KINDS}
