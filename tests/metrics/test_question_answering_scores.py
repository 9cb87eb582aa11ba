"""Scores of answers against SQuAD's rules written out one by one, and thresholds against trying all of them."""

import random
import re
import string

import pytest

from ptm_lightning.metrics.question_answering import (
    Answered,
    answer_scores,
    best_threshold,
    characters,
    overlap,
    question_scores,
)

WORDS = [
    "the",
    "a",
    "cat",
    "Cat",
    "cat!",
    "dog",
    "",
    "-",
    "in",
    "an apple",
    "U.S.",
    "naïve",
    "北京",
    "北京大学",
    "1,000",
    "x",
]


def normalized(text: str) -> str:
    text = text.lower()
    text = "".join(c for c in text if c not in string.punctuation)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def f1_of(found: str, right: str) -> float:
    found_words, right_words = normalized(found).split(), normalized(right).split()
    if len(found_words) == 0 or len(right_words) == 0:
        return 1.0 if found_words == right_words else 0.0
    left = list(right_words)
    same = 0
    for word in found_words:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(found_words), same / len(right_words)
    return 2 * precision * recall / (precision + recall)


def f1_of_squad(found: str, right: str) -> float:
    """SQuAD's own: it asks for a common word first, so that two answers without words share nothing."""
    found_words, right_words = normalized(found).split(), normalized(right).split()
    same = 0
    for word in set(found_words):
        same += min(found_words.count(word), right_words.count(word))
    if same == 0:
        return 0.0
    precision, recall = 1.0 * same / len(found_words), 1.0 * same / len(right_words)
    return (2 * precision * recall) / (precision + recall)


def given(one: Answered, threshold: float | None) -> str:
    return one.text if threshold is None or not one.doubt > threshold else ""


def of_squad(answered: list[Answered], threshold: float | None) -> dict[str, float]:
    """SQuAD's script: the highest of all right answers, whatever they are; it knows no question without one."""
    exact = f1 = 0.0
    for one in answered:
        text = given(one, threshold)
        exact += max(normalized(text) == normalized(answer) for answer in one.right)
        f1 += max(f1_of_squad(text, answer) for answer in one.right)
    return {"exact_match": 100 * exact / len(answered), "f1": 100 * f1 / len(answered)}


def of_squad_2(answered: list[Answered], threshold: float | None) -> dict[str, float]:
    """SQuAD 2's script: right answers with words count, and if there are none of these the empty text."""
    exact, f1, has = [], [], []
    for one in answered:
        text = given(one, threshold)
        right = [answer for answer in one.right if normalized(answer)] or [""]
        exact.append(max(float(normalized(text) == normalized(answer)) for answer in right))
        f1.append(max(f1_of(text, answer) for answer in right))
        has.append(len(one.right) > 0)

    def mean(values: list[float], which: list[bool]) -> float:
        chosen = [value for value, is_there in zip(values, which, strict=True) if is_there]
        return 100 * sum(chosen) / len(chosen)

    everyone = [True] * len(has)
    scores = {"exact_match": mean(exact, everyone), "f1": mean(f1, everyone)}
    if not all(has):
        scores["no_answer_accuracy"] = mean(f1, [not one for one in has])
        if any(has):
            scores |= {"has_answer_exact_match": mean(exact, has), "has_answer_f1": mean(f1, has)}
    return scores


def drawn(rng: random.Random, *, unanswerable: float, ties: bool) -> list[Answered]:
    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))

    return [
        Answered(
            [] if rng.random() < unanswerable else [text() for _ in range(rng.randint(1, 3))],
            text() if rng.random() < 0.9 else "",
            float(rng.randint(-2, 2)) if ties else rng.gauss(0, 3),
        )
        for _ in range(rng.randint(1, 30))
    ]


@pytest.mark.parametrize("unanswerable", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("ties", [True, False])
def test_scores_are_squads(unanswerable: float, ties: bool) -> None:
    rng = random.Random(0)
    for _ in range(200):
        answered = drawn(rng, unanswerable=unanswerable, ties=ties)
        for threshold in (None, 0.5, rng.choice(answered).doubt):
            scores = answer_scores(answered, threshold, "words")
            best = {name: scores.pop(name) for name in list(scores) if name.startswith("best_")}
            first = all(one.right for one in answered)
            assert scores == pytest.approx((of_squad if first else of_squad_2)(answered, threshold))
            assert set(best) == (set() if first else {"best_exact_match", "best_f1"})
            for name, values in question_scores(answered, threshold, "words").items():
                assert sum(values) / len(values) == pytest.approx(scores[name])


WITHOUT_WORDS = {
    "nothing, and nothing is right": (["the", "..."], "", (1, 0), (1, 1)),
    "an article for another": (["the"], "A!", (1, 0), (1, 1)),
    "an article, where it is one of the right answers": (["the", "cat"], "the", (1, 0), (0, 0)),
    "nothing, where words are right": (["cat"], "", (0, 0), (0, 0)),
    "words, where one without words is right": (["the"], "cat", (0, 0), (0, 0)),
}
"""The right answers, what is found, and its exact match and F1 by SQuAD's script and by SQuAD 2's."""


@pytest.mark.parametrize("case", WITHOUT_WORDS)
def test_answers_without_words_are_scored_by_the_script_of_the_data(case: str) -> None:
    right, text, first, second = WITHOUT_WORDS[case]
    answered = [Answered(right, text, 0.0)]
    expected = {name: 100.0 * value for name, value in zip(("exact_match", "f1"), first, strict=True)}
    assert answer_scores(answered, None) == of_squad(answered, None) == expected
    answered.append(Answered([], "cat", 0.0))  # worth nothing, as it is answered
    found = answer_scores(answered, None)
    assert (found["exact_match"], found["f1"]) == tuple(50.0 * value for value in second)
    assert found == found | of_squad_2(answered, None)


@pytest.mark.parametrize("ties", [True, False])
def test_best_threshold_is_the_best_of_all(ties: bool) -> None:
    rng = random.Random(1)
    for _ in range(200):
        answered = [*drawn(rng, unanswerable=0.4, ties=ties), Answered([], "cat", rng.gauss(0, 2))]
        doubts = sorted({one.doubt for one in answered})
        tried = {threshold: of_squad_2(answered, threshold) for threshold in (doubts[0] - 1, *doubts)}
        best = max(scores["f1"] for scores in tried.values())
        found = best_threshold(answered, "words")
        assert found is not None
        assert found == min(doubt for doubt, scores in tried.items() if scores["f1"] > best - 1e-9)
        scores = answer_scores(answered, 0.0, "words")
        assert scores["best_f1"] == pytest.approx(best)
        assert scores["best_exact_match"] == pytest.approx(max(scores["exact_match"] for scores in tried.values()))


def test_where_all_have_answers_all_are_answered() -> None:
    assert best_threshold([Answered(["cat"], "dog", 100.0)]) is None


def test_where_none_has_an_answer_none_is_answered() -> None:
    answered = [Answered([], "cat", -5.0), Answered([], "dog", 3.0)]
    threshold = best_threshold(answered)
    assert answer_scores(answered, threshold) == {
        "exact_match": 100.0,
        "f1": 100.0,
        "no_answer_accuracy": 100.0,
        "best_exact_match": 100.0,
        "best_f1": 100.0,
    }


def test_chinese_by_character() -> None:
    right, found = "北京大学", "北京、大学生"
    assert characters("在 iPhone 15 上、北京。") == ["在", "iphone", "15", "上", "北", "京"]
    expected = 2 * (4 / 5) * (4 / 4) / (4 / 5 + 4 / 4)
    assert overlap(characters(found), characters(right)) == pytest.approx(expected)
    assert answer_scores([Answered([right], found, 0.0)], None)["f1"] == pytest.approx(100 * expected)
    assert answer_scores([Answered([right], found, 0.0)], None, "words")["f1"] == 0.0


def test_a_chinese_name_among_english_answers_is_a_word() -> None:
    answered = [Answered(["the city of 北京"], "city of 北", 0.0)]
    assert answer_scores(answered, None) == answer_scores(answered, None, "words")
